from __future__ import annotations

import os

import pytest
from tests.data_bench import Bench
from tests.loops import warm_processes


@pytest.fixture(scope="session")
def processes():
    """Real processes that start warm."""
    with warm_processes() as found:
        yield found


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A data repository of one's own."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    return Bench(tmp_path)
