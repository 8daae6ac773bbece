from __future__ import annotations

from pathlib import Path

import pytest
from tests.docker_engine import build_kaizen_image, docker_engine  # noqa: F401 - a fixture of this folder

STAND_IN = Path(__file__).with_name("stand_in.py")


@pytest.fixture(scope="session")
def stage_image(docker_engine):  # noqa: F811
    """An image whose stages do what the request's spec says: see ``stand_in.py``."""
    lines = STAND_IN.read_text().replace("\\", "\\\\").replace("'", "'\"'\"'").splitlines()
    written = " ".join(f"'{line}'" for line in lines)
    target = "/usr/lib/python3/dist-packages/kaizen/adapters/place.py"
    return build_kaizen_image(docker_engine, [f"RUN printf '%b\\n' {written} > {target}"])
