from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from docker.errors import APIError
from tests.docker.watch import watch
from tests.docker_engine import build_kaizen_image, docker_engine  # noqa: F401 - a fixture of this folder
from tests.fault_table import SEEN

from kaizen.ledger import open_ledger


@pytest.fixture
def api(docker_engine):  # noqa: F811
    """The engine itself, beside what is tested; empty before and after."""
    clear(docker_engine.client.api)
    yield docker_engine.client.api
    clear(docker_engine.client.api)


@pytest.fixture(autouse=True)
def watched(request):
    """I1 and the table's row for a test that injects a fault: by the engine's events, whatever the test looks at."""
    if not request.node.get_closest_marker("fault") or "api" not in request.fixturenames:
        yield None
        return
    with watch(request.getfixturevalue("api")) as found:
        yield found
    if found.made:
        request.node.stash[SEEN] |= {**found.facts, **request.node.stash[SEEN]}
    assert found.at_once <= 1


@pytest.fixture
def ledger(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened


def clear(api):
    """Remove every container and volume of an engine."""
    for found in api.containers(all=True):
        with suppress(APIError):  # Somebody is removing it at this moment.
            api.remove_container(found["Id"], force=True)
    for found in api.volumes()["Volumes"] or []:
        with suppress(APIError):
            api.remove_volume(found["Name"])


STAND_IN = Path(__file__).with_name("stand_in.py")


@pytest.fixture(scope="session")
def stage_image(docker_engine):  # noqa: F811
    """An image whose stages do what the request's spec says: see ``stand_in.py``."""
    return make_stage_image(docker_engine)


def make_stage_image(engine, instructions=()):
    target = "/usr/lib/python3/dist-packages/kaizen/adapters/place.py"
    return build_kaizen_image(engine, [write_file(target, STAND_IN.read_text()), *instructions])


def write_file(path, text):
    """The instruction of a Dockerfile that makes a file."""
    lines = text.replace("\\", "\\\\").replace("'", "'\"'\"'").splitlines()
    return "RUN printf '%b\\n' " + " ".join(f"'{line}'" for line in lines) + f" > {path}"
