from __future__ import annotations

import pytest
from tests.loops import warm_processes


@pytest.fixture(scope="session")
def processes():
    """Real processes that start warm."""
    with warm_processes() as found:
        yield found
