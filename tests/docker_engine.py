"""A real Docker for tests: a private engine, images made of this machine's own packages, a registry; all of it goes.

The fixtures ``docker_engine`` and ``kaizen_image`` are for whoever imports them.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import requests
from docker.api.client import APIClient
from docker.client import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound
from tests.services import NotInstalledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "docker"

# The path of a Unix socket has at most 108 characters: not below a TMPDIR that may be long.
SHORT = Path("/tmp")
PREFIX = "kaizen-docker-"
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[DockerEngine]:
    """An engine for the whole session; without Docker the test is skipped."""
    try:
        find_dockerd()
    except NotInstalledError as reason:
        pytest.skip(str(reason))
    with DockerEngine() as engine:
        try:
            build_base_image(engine)
        except NotInstalledError as reason:
            pytest.skip(str(reason))
        yield engine


@pytest.fixture(scope="session")
def kaizen_image(docker_engine: DockerEngine) -> str:
    """The tag of an image in ``docker_engine`` where ``python3 -m kaizen.bridge`` starts."""
    try:
        return build_kaizen_image(docker_engine)
    except NotInstalledError as reason:
        pytest.skip(str(reason))


def find_dockerd() -> str:
    """The path of ``dockerd``. Raises ``NotInstalledError``, which says why no engine can be started here.

    KAIZEN_NO_ENGINE is such a reason, found by whoever tried before.
    """
    if reason := os.environ.get("KAIZEN_NO_ENGINE"):
        raise NotInstalledError(f"no Docker engine: {reason}")
    if os.geteuid() != 0:
        raise NotInstalledError(f"Docker's engine needs root, and this is user {os.geteuid()}; run the tests as root")
    found = [_find(program, "docker.io") for program in ("dockerd", "containerd", "runc")]
    mounts = _cgroup_mounts()
    if not mounts:
        raise NotInstalledError("Docker's engine needs cgroups, and none are mounted below /sys/fs/cgroup")
    for mount in mounts:
        probe = mount / f"kaizen-probe-{os.getpid()}"
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError as reason:
            raise NotInstalledError(f"Docker's engine needs cgroups, and {mount} is not writable: {reason}") from reason
    return found[0]


def _find(program: str, package: str) -> str:
    found = shutil.which(program, path=PATH)
    if not found:
        raise NotInstalledError(f"no {program} on PATH; install it (apt-get install {package})")
    return found


class DockerEngine:
    """A ``dockerd`` at ``host``, with a containerd, data and a cgroup of its own, as a context manager.

    A container has no network, unless it asks for the host's (``network_mode="host"``). With ``live_restore``
    containers outlive the engine. What an interrupted session left is cleared by the next engine that starts.
    ``runtimes`` are further names by which it knows runc.
    """

    def __init__(self, live_restore: bool = False, runtimes: Sequence[str] = ()) -> None:
        self.live_restore = live_restore
        self.runtimes = runtimes
        self._folder: Path | None = None
        self._owner = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._client: DockerClient | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def folder(self) -> Path:
        """Everything that this engine writes."""
        if self._folder is None:
            raise RuntimeError("the engine was not started, or was stopped")
        return self._folder

    @property
    def host(self) -> str:
        """What ``DOCKER_HOST`` is set to."""
        return f"unix://{self.folder}/docker.sock"

    @property
    def log(self) -> Path:
        """What the engine says, over all its starts."""
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """The process of ``dockerd``."""
        if self._process is None:
            raise RuntimeError("the engine does not run")
        return self._process.pid

    @property
    def client(self) -> DockerClient:
        """A client of this engine, closed with it."""
        if self._client is None:
            raise RuntimeError("the engine was not started, or was stopped")
        return self._client

    def start(self, timeout: float = 60) -> None:
        """Start, also after ``kill``, on the same data; returns when the engine answers."""
        if self._process is not None:
            return
        program = find_dockerd()
        try:
            if self._folder is None:
                _clear_abandoned()
                self._folder, self._owner = _own_folder()
            with self.log.open("ab") as log:
                # In a session of its own: Ctrl-C is for pytest, which then stops the engine.
                self._process = subprocess.Popen(
                    [program, *self._options()],
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "PATH": PATH},
                    start_new_session=True,
                )
            self._wait_for_answer(time.monotonic() + timeout)
            self._client = self._client or DockerClient(base_url=self.host)
        except BaseException:
            self.stop()
            raise

    def _options(self) -> list[str]:
        folder = self.folder
        # The machine's own /etc/docker/daemon.json is not read.
        runtimes = {name: {"path": _find("runc", "runc")} for name in self.runtimes}
        # Engines before 23.0 make their id of the machine's own key: two would have one id.
        old = re.search(r"version (1\d|20)\.", subprocess.check_output([find_dockerd(), "--version"], text=True))
        key = {"deprecated-key-path": f"{folder}/key.json"} if old else {}
        (folder / "daemon.json").write_text(
            json.dumps({"live-restore": self.live_restore, "runtimes": runtimes, **key})
        )
        return [
            f"--config-file={folder}/daemon.json",
            f"--host={self.host}",
            f"--data-root={folder}/data",
            f"--exec-root={folder}/exec",
            f"--pidfile={folder}/pid",
            f"--cgroup-parent=/{folder.name}",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            "--storage-driver=overlay2",
            "--bridge=none",
            "--iptables=false",
            "--ip-forward=false",
            "--ip-masq=false",
            "--userland-proxy=false",
            "--oom-score-adjust=0",
            "--log-level=warn",
        ]

    def _wait_for_answer(self, deadline: float) -> None:
        process = self._process
        assert process is not None
        while not _answers(self.host):
            if process.poll() is not None or time.monotonic() > deadline:
                what = "does not answer" if process.poll() is None else f"exits with {process.returncode}"
                raise RuntimeError(f"dockerd {what}: {_end_of(self.log)}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to the engine; its containerd ends with it, containers go on until ``start`` decides."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        _end_processes(lambda: _processes_of(self.folder, "containerd"))
        # Their process ids may be somebody else's by the next start.
        (self.folder / "pid").unlink(missing_ok=True)
        (self.folder / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def pause(self) -> None:
        """SIGSTOP: the engine accepts connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End the engine and every container, and remove all that they left. It may be started again, empty."""
        if self._folder is None:
            return
        try:
            # As nothing is kept, nobody is asked to end in good order: a stuck engine ends as well.
            self.kill()
            if self._client is not None:
                self._client.close()
        finally:
            _clear(self._folder)
            os.close(self._owner)
            self._folder = self._client = None


def _answers(host: str) -> bool:
    try:
        client = APIClient(base_url=host, version="1.40", timeout=2)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except (DockerException, requests.RequestException):
        return False


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:] if log.exists() else "no log"


def _own_folder() -> tuple[Path, int]:
    """A new folder, and the lock that shows that its owner lives; the folder has its name only once it is locked."""
    made = Path(tempfile.mkdtemp(prefix="kaizen-new-", dir=SHORT))
    owner = os.open(made / "owner", os.O_RDWR | os.O_CREAT)
    fcntl.flock(owner, fcntl.LOCK_EX)
    return made.rename(SHORT / made.name.replace("kaizen-new-", PREFIX)), owner


def _clear_abandoned() -> None:
    for folder in SHORT.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.lstat().st_uid != os.geteuid():
                continue
            owner = os.open(folder / "owner", os.O_RDWR)
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _clear(folder)
            finally:
                os.close(owner)


def _clear(folder: Path) -> None:
    """End what runs for the engine of ``folder``, and remove its mounts, its files and its cgroups."""
    _end_processes(lambda: _processes_of(folder, "dockerd", "containerd"))
    _end_processes(lambda: _processes_of(folder, "containerd-shim-runc-v2", "runc"))
    _end_processes(lambda: _processes_in_cgroup(folder.name))
    for socket in _sockets_of_shims(folder):
        socket.unlink(missing_ok=True)
    _unmount(folder)
    shutil.rmtree(folder, ignore_errors=True)
    _remove_cgroups(folder.name)


def _processes_of(folder: Path, *programs: str) -> list[int]:
    """The processes of these programs that were told to work in ``folder``."""
    return [
        pid
        for pid, arguments in _processes()
        if Path(arguments[0]).name in programs and any(f"{folder}/" in argument for argument in arguments[1:])
    ]


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if line := (entry / "cmdline").read_bytes():
                yield int(entry.name), line.decode(errors="replace").split("\0")


def _processes_in_cgroup(name: str) -> list[int]:
    found: set[int] = set()
    for cgroup in _cgroups(name):
        for listing in cgroup.rglob("cgroup.procs"):
            with suppress(OSError):
                # A frozen process dies only when it is thawed.
                (listing.parent / "freezer.state").write_text("THAWED")
            with suppress(OSError):
                found.update(int(pid) for pid in listing.read_text().split())
    return sorted(found)


def _end_processes(alive: Callable[[], list[int]], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while pids := alive():
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {pids} survive SIGKILL for {timeout} s")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _cgroup_mounts() -> list[Path]:
    """Version 1 has one tree for each controller, version 2 one for all; a machine may have both."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(place) for place, kind in mounts if kind in {"cgroup", "cgroup2"}]


def _cgroups(name: str) -> list[Path]:
    return [mount / name for mount in _cgroup_mounts() if (mount / name).is_dir()]


def _remove_cgroups(name: str, timeout: float = 5) -> None:
    deadline = time.monotonic() + timeout
    while cgroups := _cgroups(name):
        for inner in [inner for cgroup in cgroups for inner, _, _ in os.walk(cgroup, topdown=False)]:
            # One that was just left is still busy for a moment.
            with suppress(OSError):
                Path(inner).rmdir()
        if time.monotonic() > deadline:
            raise RuntimeError(f"the cgroups {cgroups} cannot be removed")
        time.sleep(0.01)


def _unmount(folder: Path) -> None:
    """Raises if anything stays mounted: behind it are a test's own files, and ``folder`` is going to be removed."""
    for mount in reversed(_mounts_below(folder)):
        # What happens to the copy must not happen to what it is a copy of.
        subprocess.run(["mount", "--make-private", mount], check=False, capture_output=True)
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    if remaining := _mounts_below(folder):
        raise RuntimeError(f"{remaining} cannot be unmounted; nothing in {folder} is removed")


def _mounts_below(folder: Path) -> list[str]:
    places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    # A space in a path is written as \040.
    plain = [re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), place) for place in places]
    return [place for place in plain if place.startswith(f"{folder}/")]


def _sockets_of_shims(folder: Path) -> list[Path]:
    """Shims listen outside of the engine's folder; a shim that was killed leaves its socket."""
    addresses = folder.glob("exec/containerd/daemon/io.containerd.runtime.v2.task/*/*/address")
    return [Path(address.read_text().removeprefix("unix://")) for address in addresses]


@dataclass(frozen=True)
class AptSource:
    """Where this machine takes its packages from."""

    suite: str
    mirror: str
    keyring: str | None


def apt_source(etc: Path = Path("/etc")) -> AptSource:
    """The first source of the machine's own release, in either format. Raises ``NotInstalledError``."""
    release = dict(line.partition("=")[::2] for line in (etc / "os-release").read_text().splitlines())
    suite = release.get("VERSION_CODENAME", "").strip('"')
    lists = [etc / "apt/sources.list", *sorted((etc / "apt/sources.list.d").glob("*"))]
    for path in lists:
        parse = {".list": _one_line_sources, ".sources": _deb822_sources}.get(path.suffix)
        for found in parse(path.read_text()) if parse and path.is_file() else ():
            if found.suite == suite:
                return found
    raise NotInstalledError(f"no apt source of this machine has the suite {suite!r} and its component main")


def _one_line_sources(text: str) -> Iterator[AptSource]:
    for line in text.splitlines():
        found = re.match(r"deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line.strip())
        if found and "main" in found[4].split():
            signed = re.search(r"signed-by=(\S+)", found[1] or "")
            yield AptSource(found[3], found[2], _keyring(signed[1] if signed else ""))


def _deb822_sources(text: str) -> Iterator[AptSource]:
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", text):
        lines = re.sub(r"\n[ \t]+", " ", stanza.strip()).splitlines()
        fields = {name.strip().lower(): value.split() for name, _, value in (line.partition(":") for line in lines)}
        kinds, parts, enabled = (fields.get(name, []) for name in ("types", "components", "enabled"))
        if "deb" in kinds and "main" in parts and enabled != ["no"] and fields.get("uris"):
            for suite in fields.get("suites", []):
                yield AptSource(suite, fields["uris"][0], _keyring(" ".join(fields.get("signed-by", []))))


def _keyring(value: str) -> str | None:
    return value if value.startswith("/") else None


PACKAGES = ("python3",)
# What no test reads.
STRIPPED = (
    "usr/bin/perl*",
    "usr/lib/*/gconv",
    "usr/lib/*/perl-base",
    "usr/lib/python3*/pydoc_data",
    "usr/share/bash-completion",
    "usr/share/doc/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/man/*",
    "usr/share/perl5",
    "usr/share/zoneinfo/posix",
    "usr/share/zoneinfo/right",
    "var/cache/apt/*",
    "var/cache/debconf/*",
    "var/lib/apt/lists/*",
    "var/lib/dpkg/info/*",
    "var/log/*",
)
CHANGES = ("ENV LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 'CMD ["python3"]')


def build_base_image(engine: DockerEngine) -> str:
    """The tag of a minimal system of this machine's release with ``python3``, also named ``python``.

    Its files are made once per recipe and kept in ``build/docker``. Raises ``NotInstalledError``.
    """
    source = apt_source()
    recipe = [source.suite, source.mirror, os.uname().machine, PACKAGES, STRIPPED, CHANGES]
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    tag = f"kaizen-test/base:{key}"
    if not _has_image(engine, tag):
        tarball = base_tarball(tag)
        CACHE.mkdir(parents=True, exist_ok=True)
        with _locked(CACHE / f"base-{key}.lock"):
            if not tarball.exists():
                _make_tarball(source, tarball)
        name, _, version = tag.partition(":")
        engine.client.api.import_image_from_file(str(tarball), name, version, changes=list(CHANGES))
    return tag


def base_tarball(tag: str) -> Path:
    """The files of a base image, by its tag."""
    return CACHE / f"base-{tag.rpartition(':')[2]}.tar"


def _has_image(engine: DockerEngine, tag: str) -> bool:
    try:
        return bool(engine.client.images.get(tag))
    except ImageNotFound:
        return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_tarball(source: AptSource, tarball: Path) -> None:
    program = _find("debootstrap", "debootstrap")
    folder = Path(tempfile.mkdtemp(prefix="kaizen-base-", dir=tarball.parent))
    system, partial = folder / "system", folder / "tar"
    try:
        options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
        options += [f"--keyring={source.keyring}"] if source.keyring else []
        # What it mounts, it mounts in a namespace that ends with it.
        try:
            _run("unshare", "--mount", program, *options, source.suite, str(system), source.mirror)
        except RuntimeError as reason:
            raise NotInstalledError(f"no base image without a package mirror: {reason}") from reason
        for pattern in STRIPPED:
            for path in system.glob(pattern):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (system / "usr/bin/python").symlink_to("python3")
        outside = [f"--exclude=./{name}/*" for name in ("dev", "proc", "sys")]
        _run("tar", "--create", "--numeric-owner", *outside, f"--directory={system}", f"--file={partial}", ".")
        partial.rename(tarball)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PATH": PATH})
    if done.returncode:
        raise RuntimeError(f"{command} exits with {done.returncode}: {done.stdout.decode(errors='replace')[-2000:]}")


def build_kaizen_image(engine: DockerEngine, instructions: Sequence[str] = ()) -> str:
    """The tag of the base image plus ``core/kaizen``, and what further ``instructions`` of a Dockerfile say.

    The same files and instructions have the same tag. Instructions have no network and no other files.
    """
    base = engine.client.images.get(build_base_image(engine)).id
    dockerfile = [f"FROM {base}", "COPY kaizen /usr/lib/python3/dist-packages/kaizen", *instructions]
    files = sorted(path for path in (ROOT / "core/kaizen").rglob("*") if path.is_file() and path.suffix != ".pyc")
    content = hashlib.sha256("\n".join(dockerfile).encode())
    for path in files:
        content.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    tag = f"kaizen-test/python:{content.hexdigest()[:12]}"
    if not _has_image(engine, tag):
        context = _context(dockerfile, files)
        engine.client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True, network_mode="none")
    return tag


def _context(dockerfile: list[str], files: list[Path]) -> io.BytesIO:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        text = "\n".join(dockerfile).encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
        for path in files:
            tar.add(path, path.relative_to(ROOT / "core"), filter=_readable)
    context.seek(0)
    return context


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.mode = 0o644
    return entry


class Registry:
    """Debian's ``docker-registry`` at ``address``, as a context manager: no TLS, no users, deletion allowed."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # Any free one at first; afterwards the same.
        self._port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """What the name of an image begins with."""
        return f"127.0.0.1:{self._port}"

    def start(self, timeout: float = 30) -> None:
        """Start, also after ``kill``, at the same address with the same images. Raises ``NotInstalledError``."""
        if self._process is not None:
            return
        program = _find("docker-registry", "docker-registry")
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="kaizen-registry-"))
        try:
            config, log = self._folder / "config.yml", self._folder / "log"
            config.write_text(json.dumps(self._config()))
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [program, "serve", str(config)], stdout=output, stderr=output, start_new_session=True
                )
            self._wait_for_port(log, time.monotonic() + timeout)
        except BaseException:
            self.stop()
            raise

    def _config(self) -> dict[str, Any]:
        return {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": f"{self._folder}/data"}, "delete": {"enabled": True}},
            "http": {"addr": self.address},
        }

    def _wait_for_port(self, log: Path, deadline: float) -> None:
        process = self._process
        assert process is not None
        while not (found := re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"docker-registry does not start: {_end_of(log)}")
            time.sleep(0.02)
        self._port = int(found[1])

    def kill(self) -> None:
        """SIGKILL; the images stay until ``stop``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it and remove its images."""
        self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def main() -> None:
    """Start an engine and a container of nothing, and make a base image: whether all can be here. Raises if not."""
    nothing = io.BytesIO()
    with tarfile.open(fileobj=nothing, mode="w"):
        pass
    with DockerEngine() as engine:
        api = engine.client.api
        # The tests find it in build/docker.
        build_base_image(engine)
        api.import_image_from_data(nothing.getvalue(), "kaizen-test/nothing", "1")
        made = api.create_container("kaizen-test/nothing:1", ["true"])
        try:
            api.start(made)
        except APIError as error:
            # All that a container is made of was made; only the program is missing.
            if "executable file not found" not in str(error.explanation):
                raise
    print("a Docker engine starts here, and containers do")


if __name__ == "__main__":
    main()
