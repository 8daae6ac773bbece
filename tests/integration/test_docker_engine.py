"""The Docker that other tests stand on: what its engine, images and registry do, and that nothing of it stays."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from docker.errors import APIError
from docker.models.containers import Container
from tests import docker_engine as docker_engines
from tests.docker_engine import (
    ROOT,
    AptSource,
    DockerEngine,
    Registry,
    apt_source,
    build_kaizen_image,
    docker_engine,
    find_dockerd,
    kaizen_image,
)
from tests.services import NotInstalledError

__all__ = ["docker_engine", "kaizen_image"]

# What other tests stand on shows in those when it breaks.
pytestmark = pytest.mark.soak

# A session that is interrupted while its container runs.
INTERRUPTED = """
import time
from tests.docker_engine import DockerEngine
from tests.integration.test_docker_engine import sleeper
with DockerEngine() as engine:
    container, pid = sleeper(engine)
    print(engine.folder, pid, flush=True)
    time.sleep(600)
"""


def left(folder: Path) -> list[str]:
    """What still shows that there was an engine in ``folder``."""
    found = [str(folder)] if folder.exists() else []
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{folder.name}")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode().replace("\0", " ")
        except OSError:
            continue
        found += [command] if str(folder) in command else []
    return found


def runs(pid: int) -> bool:
    """Whether the process is there and is not merely waiting for somebody to read its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def sleeper(engine: DockerEngine) -> tuple[Container, int]:
    """A container that runs until it is killed, and its process; its programs are this machine's own."""
    image, _ = engine.client.images.build(fileobj=io.BytesIO(b"FROM scratch\nLABEL kaizen=test"))
    container = engine.client.containers.run(
        image.id,
        ["/usr/bin/sleep", "600"],
        volumes=[f"{path}:{path}:ro" for path in ("/usr", "/lib", "/lib64") if Path(path).exists()],
        # The first process of a container ignores SIGTERM, for which an engine would wait for ten seconds.
        stop_signal="SIGKILL",
        detach=True,
    )
    container.reload()
    return container, container.attrs["State"]["Pid"]


def test_a_container_has_kaizen_and_no_network(docker_engine, kaizen_image):
    code = "import os, kaizen.bridge; print(kaizen.__file__, os.listdir('/sys/class/net'))"
    said = docker_engine.client.containers.run(kaizen_image, ["/bin/python", "-c", code], remove=True)
    assert said.decode().strip() == "/usr/lib/python3/dist-packages/kaizen/__init__.py ['lo']"


def test_the_bridge_leaves_its_result_in_a_mounted_folder(docker_engine, kaizen_image, tmp_path):
    (tmp_path / "request.json").write_text('{"protocol": 0}')
    container = docker_engine.client.containers.run(
        kaizen_image,
        ["python3", "-m", "kaizen.bridge", "/place"],
        volumes=[f"{tmp_path}:/place"],
        detach=True,
        init=True,
    )
    assert container.wait()["StatusCode"] != 0, container.logs()
    container.remove()
    assert "protocol" in json.dumps(json.loads((tmp_path / "result.json").read_text()))


def test_limits_hold(docker_engine, kaizen_image):
    container = docker_engine.client.containers.run(
        kaizen_image,
        ["python3", "-c", "bytearray(300_000_000)"],
        detach=True,
        mem_limit="100m",
        memswap_limit="100m",
    )
    container.wait()
    container.reload()
    assert container.attrs["State"]["OOMKilled"]
    container.remove()
    with pytest.raises(Exception, match="Resource temporarily unavailable"):
        docker_engine.client.containers.run(
            kaizen_image, ["python3", "-c", "import os\nfor _ in range(99): os.fork() or os.pause()"], pids_limit=20
        )


def test_an_init_is_the_first_process_on_request(docker_engine, kaizen_image):
    said = docker_engine.client.containers.run(kaizen_image, ["cat", "/proc/1/cmdline"], init=True, remove=True)
    assert said.startswith(b"/sbin/docker-init")


def test_the_same_files_have_the_same_image(docker_engine, kaizen_image):
    assert build_kaizen_image(docker_engine) == kaizen_image
    other = build_kaizen_image(docker_engine, ["LABEL season=winter"])
    assert other != kaizen_image
    assert docker_engine.client.images.get(other).labels == {"season": "winter"}


def test_a_build_runs_commands_without_a_network(docker_engine, kaizen_image):
    image = build_kaizen_image(docker_engine, ["RUN ls /sys/class/net > /net"])
    assert docker_engine.client.containers.run(image, ["cat", "/net"], remove=True) == b"lo\n"


@pytest.mark.parametrize("live_restore", [True, False])
def test_only_with_live_restore_does_a_container_outlive_the_engine(docker_engine, live_restore):
    with DockerEngine(live_restore=live_restore) as engine:
        folder = engine.folder
        container, pid = sleeper(engine)
        engine.kill()
        assert runs(pid)
        engine.start()
        container.reload()
        assert container.status == ("running" if live_restore else "exited")
        assert runs(pid) == live_restore
    assert not runs(pid)
    assert left(folder) == []


def test_a_paused_engine_answers_when_it_is_resumed(docker_engine):
    with DockerEngine() as engine:
        engine.pause()
        with pytest.raises(requests.Timeout):
            engine.client.api.get(f"{engine.client.api.base_url}/_ping", timeout=0.5)
        engine.resume()
        assert engine.client.ping()
        folder = engine.folder
        engine.pause()
    assert left(folder) == []


def test_an_image_goes_through_a_registry_by_its_digest(docker_engine, kaizen_image):
    with registry() as server:
        images, name = docker_engine.client.images, f"{server.address}/kaizen"
        images.get(kaizen_image).tag(name, "1")
        (digest,) = [
            line["aux"]["Digest"] for line in images.push(name, "1", stream=True, decode=True) if "aux" in line
        ]
        images.remove(f"{name}:1")
        server.kill()
        with pytest.raises(APIError):
            images.pull(f"{name}@{digest}")
        server.start()
        pulled = images.pull(f"{name}@{digest}")
        assert pulled.attrs["RepoDigests"] == [f"{name}@{digest}"]
        assert pulled.id == images.get(kaizen_image).id
        images.remove(f"{name}@{digest}")
        # The registry is asked itself: an engine remembers a manifest that it once had.
        manifest = f"http://{server.address}/v2/kaizen/manifests/{digest}"
        assert requests.delete(manifest, timeout=10).status_code == 202
        assert requests.get(manifest, timeout=10).status_code == 404


def registry() -> Registry:
    found = Registry()
    try:
        found.start()
    except NotInstalledError as reason:
        pytest.skip(str(reason))
    return found


def interrupted(how: signal.Signals) -> tuple[Path, int]:
    """The folder of an engine whose owner got a signal, and the process of its container."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as owner:
        folder, pid = owner.stdout.readline().split()
        assert runs(int(pid))
        owner.send_signal(how)
    return Path(folder.decode()), int(pid)


def test_ctrl_c_leaves_nothing(docker_engine):
    folder, pid = interrupted(signal.SIGINT)
    assert not runs(pid)
    assert left(folder) == []


def test_what_is_mounted_in_the_folder_of_an_engine_is_not_removed_with_it(docker_engine, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("a test's own")
    with DockerEngine() as engine:
        folder = engine.folder
        inner = folder / "data" / "with a space"
        inner.mkdir()
        subprocess.run(["mount", "--bind", str(tmp_path), str(inner)], check=True)
        assert (inner / "kept").exists()
    assert kept.exists()
    assert left(folder) == []


def test_the_next_engine_clears_what_a_killed_session_left(docker_engine):
    folder, pid = interrupted(signal.SIGKILL)
    assert runs(pid)
    with DockerEngine():
        assert not runs(pid)
        assert left(folder) == []
        assert docker_engine.client.ping()


def test_an_engine_that_does_not_start_says_why_and_leaves_nothing(docker_engine, monkeypatch):
    options, folders = DockerEngine._options, []

    def wrong(engine: DockerEngine) -> list[str]:
        folders.append(engine.folder)
        return [*options(engine), "--storage-driver=no-such-driver"]

    monkeypatch.setattr(DockerEngine, "_options", wrong)
    with pytest.raises(RuntimeError, match=r"(?s)dockerd exits with 1: .*no-such-driver"):
        DockerEngine().start()
    assert left(folders[0]) == []


def test_a_machine_without_docker_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotInstalledError, match="needs root"):
        find_dockerd()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(docker_engines, "PATH", "/nowhere")
    with pytest.raises(NotInstalledError, match=r"no dockerd on PATH; install it \(apt-get install docker.io\)"):
        find_dockerd()


def test_cgroups_that_cannot_be_written_are_a_reason(docker_engine, monkeypatch, tmp_path):
    monkeypatch.setattr(docker_engines, "_cgroup_mounts", lambda: [tmp_path / "missing"])
    with pytest.raises(NotInstalledError, match="missing is not writable"):
        find_dockerd()
    monkeypatch.setattr(docker_engines, "_cgroup_mounts", list)
    with pytest.raises(NotInstalledError, match="none are mounted"):
        find_dockerd()


ONE_LINE = """
# deb http://commented.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb http://security.example/debian bookworm-security main
deb http://other.example/debian bookworm contrib
deb [arch=amd64 signed-by=/keys/a.gpg] http://mirror.example/debian bookworm main contrib
"""
DEB822 = """
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb deb-src
# http://commented.example/debian
URIs: http://mirror.example/debian http://second.example/debian
Suites: bookworm-updates
 bookworm
Components: main
Signed-By: /keys/a.gpg
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [("sources.list", ONE_LINE), ("sources.list.d/x.list", ONE_LINE), ("sources.list.d/x.sources", DEB822)],
)
def test_the_mirror_is_the_one_of_the_machine(tmp_path, name, text):
    (tmp_path / "os-release").write_text('NAME="Debian"\nVERSION_CODENAME=bookworm\n')
    with pytest.raises(NotInstalledError, match="'bookworm'"):
        apt_source(tmp_path)
    path = tmp_path / "apt" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert apt_source(tmp_path) == AptSource("bookworm", "http://mirror.example/debian", "/keys/a.gpg")
