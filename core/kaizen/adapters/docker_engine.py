"""Containers on a Docker engine: made once, adopted, followed, read and removed. The rules are in ``containers.py``.

Every call to the engine is bounded in time, and one that finds no engine is repeated until PATIENCE has passed: an
engine that restarts or hangs loses nothing, because what is looked at afterwards is the container's own state.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import tarfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

import requests
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

import docker
from kaizen.causes import Cause
from kaizen.containers import LABEL, RULES, Caller, LogLine, Mark, clean_line, format_size
from kaizen.errors import LeaseHeld, LedgerError, StageFailed
from kaizen.ledger import Lease

CALL_TIMEOUT = 10.0
"""Seconds of one call."""
PATIENCE = 60.0
"""Seconds without an answer after which a stage gives up; its container stays under its lease."""
HEARTBEAT = 5.0
"""Seconds between two signs of life; also how long a silent log is waited for before the container is looked at."""
PULL_TIMEOUT = 300.0
"""Seconds without any progress of a pull."""
_TAIL = 5
_CHUNK = 1024 * 1024

log = logging.getLogger(__name__)
T = TypeVar("T")
Connect = Callable[[float], docker.APIClient]
"""Makes a client, given the seconds that one call may take."""


@dataclass(frozen=True)
class Wanted:
    """A container as it is to be made: its name, its labels, and the rest as the engine's API takes it."""

    name: str
    labels: dict[str, str]
    config: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """A container that has run.

    Attributes:
        state: the engine's ``State``. peak: bytes of memory seen at most. tail: its last lines.
        seconds: from start to end, by the engine's clock.
    """

    id: str
    name: str
    labels: Mapping[str, str]
    state: Mapping[str, Any]
    peak: int
    tail: tuple[str, ...]
    seconds: float


class Engine:
    """One Docker engine. ``url`` "" is DOCKER_HOST's, else the machine's own; ``connect`` makes other clients.

    Raises ``StageFailed`` KZ715 if it cannot be reached, here and wherever it stops to answer.
    """

    def __init__(
        self,
        url: str = "",
        *,
        patience: float | None = None,
        connect: Callable[[float], docker.APIClient] | None = None,
    ) -> None:
        self.url = url
        self.patience = PATIENCE if patience is None else patience
        self._connect = connect or self._by_url
        self.api = self.ask(self._connect, CALL_TIMEOUT)
        # Copying may keep the engine busy for longer than it takes to see that it hangs.
        self.slow = self.ask(self._connect, PULL_TIMEOUT)
        self.id = str(self.ask(self.api.info)["ID"])

    def _by_url(self, timeout: float) -> docker.APIClient:
        found = {"base_url": self.url} if self.url else docker.utils.kwargs_from_env()
        return docker.APIClient(version="auto", timeout=timeout, **found)

    def ask(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """The answer to one call; repeated while nobody answers, for ``patience`` seconds at most."""
        until = time.monotonic() + self.patience
        while True:
            try:
                return call(*arguments, **named)
            except (requests.exceptions.RequestException, DockerException) as error:
                if isinstance(error, APIError) or time.monotonic() >= until:
                    if not isinstance(error, APIError):
                        raise self._silent(error) from error
                    raise
                time.sleep(0.5)

    def _silent(self, error: Exception) -> StageFailed:
        return Cause.NO_ENGINE.error(
            where=f"place.engine: {self.url or 'the default engine'}",
            value=f"{type(error).__name__}: {error}"[:300],
            limit=f"an answer within {self.patience:g} s",
            action="start the engine, or correct the URL; what runs there is found again by the next attempt",
        )

    @property
    def version(self) -> str:
        """The engine's own version."""
        return str(self.ask(self.api.version)["Version"])

    # Images.

    def image(self, reference: str) -> str | None:
        """The id of an image that the engine has."""
        try:
            return str(self.ask(self.api.inspect_image, reference)["Id"])
        except ImageNotFound:
            return None

    def image_labels(self, image: str) -> dict[str, str]:
        """The labels of an image that is there."""
        return dict(self.ask(self.api.inspect_image, image)["Config"].get("Labels") or {})

    def pin(self, reference: str) -> str:
        """The id of an image, pulled if it is not there: what is run, whatever the reference names later.

        Raises ``StageFailed``: KZ713 it cannot be pulled, KZ714 there is no such image, KZ709 for another machine.
        """
        try:
            found = self.ask(self.api.inspect_image, reference)
        except ImageNotFound:
            self.pull(reference)
            try:
                found = self.ask(self.api.inspect_image, reference)
            except ImageNotFound as error:
                raise _no_image(reference, str(error.explanation)) from error
        machine = _ARCHITECTURES.get(host := self.ask(self.api.info)["Architecture"], host)
        if found["Architecture"] not in (machine, ""):
            raise Cause.OTHER_MACHINE.error(
                where=f"place.image: {reference}",
                value=found["Architecture"],
                limit=machine,
                action=f"build it for {machine}: docker build --platform linux/{machine}",
            )
        return str(found["Id"])

    def pull(self, reference: str) -> None:
        """Pull an image, telling how far it is. Raises ``StageFailed`` KZ713, KZ714."""
        name, tag = docker.utils.parse_repository_tag(reference)
        told = -1
        try:
            for item in self.slow.pull(name, tag or "latest", stream=True, decode=True):
                # An error in the stream ends it quietly otherwise, and the next call says "no such image".
                if "error" in item:
                    raise _not_pulled(reference, str(item["error"]))
                told = _tell_progress(reference, item, told)
        except NotFound as error:
            raise _no_image(reference, str(error.explanation)) from error
        except APIError as error:
            raise _not_pulled(reference, str(error.explanation or error)) from error
        except (requests.exceptions.RequestException, DockerException) as error:
            raise _not_pulled(reference, f"{type(error).__name__}: no progress for {PULL_TIMEOUT:g} s") from error

    # Volumes.

    def volume_labels(self, name: str, labels: Mapping[str, str]) -> dict[str, str]:
        """Make a volume unless it is there; the labels that it has: those of whoever made it first."""
        self.ask(self.api.create_volume, name, labels=dict(labels))
        return dict(self.ask(self.api.inspect_volume, name)["Labels"] or {})

    def volumes(self) -> list[tuple[str, datetime]]:
        """Names of volumes with our label, and when each was made."""
        found = self.ask(self.api.volumes, filters={"label": [f"{LABEL}={RULES}"]})["Volumes"] or []
        return [(v["Name"], datetime.fromisoformat(v["CreatedAt"])) for v in found]

    def rename(self, container: str, name: str) -> None:
        """Give a container another name, so that its own is free."""
        self.ask(self.api.rename, container, name)

    def remove_volume(self, name: str) -> None:
        """Remove a volume if it is there, and nobody uses it."""
        try:
            self.ask(self.api.remove_volume, name)
        except NotFound:
            pass
        except APIError as error:
            if error.status_code != 409:
                raise
            log.warning("volume %s is still in use", name)

    # Containers.

    def find(self, name: str) -> dict[str, Any] | None:
        """What the engine says of a container, by name or id."""
        try:
            found: dict[str, Any] = self.ask(self.api.inspect_container, name)
        except NotFound:
            return None
        return found

    def ours(self, **labels: str) -> list[dict[str, Any]]:
        """Containers with our label and these, running or not."""
        filters = [f"{LABEL}={RULES}", *(f"{LABEL}.{name}={value}" for name, value in labels.items())]
        return list(self.ask(self.api.containers, all=True, filters={"label": filters}))

    def create(self, wanted: Wanted) -> dict[str, Any]:
        """Make a container, or find the one that has its name: the engine makes a name once.

        Raises ``StageFailed`` KZ717 if a stranger's has the name.
        """
        until = time.monotonic() + CALL_TIMEOUT
        # The engine refuses a name before the container that has it can be seen.
        while not (made := self._make(wanted)) and self.find(wanted.name) is None and time.monotonic() < until:
            time.sleep(0.1)
        found = self.find(made or wanted.name)
        if found is None:
            raise Cause.ENDED_FROM_OUTSIDE.error(
                what="the container was removed from outside",
                where=f"container {wanted.name}",
                value="gone before it was started",
                limit="a container that is left alone",
                action="retry",
            )
        if found["Config"]["Labels"].get(f"{LABEL}.work") != wanted.labels[f"{LABEL}.work"]:
            raise Cause.STRANGERS_NAME.error(
                where=f"container {wanted.name}",
                value=f"labels {found['Config']['Labels']}",
                limit=f"label {LABEL}.work={wanted.labels[f'{LABEL}.work']}",
                action="rename or remove that container; Kaizen does not touch it",
            )
        return found

    def _make(self, wanted: Wanted) -> str:
        """The id of a new container, "" if its name is taken."""
        body = {**wanted.config, "Labels": wanted.labels}
        try:
            return str(self.ask(self.api.create_container_from_config, body, wanted.name)["Id"])
        except APIError as error:
            if error.status_code != 409:
                raise self._not_started(wanted, error) from error
            return ""

    def put(self, container: str, folder: str, files: Sequence[tuple[tarfile.TarInfo, Path | bytes]]) -> None:
        """Write files below ``folder`` of a container, running or not, streamed."""
        self.ask(lambda: self.slow.put_archive(container, folder, _tar_stream(files)))

    def start(self, wanted: Wanted, container: str) -> None:
        """Start it; starting a running one is nothing. Removes one that cannot start, and says why."""
        try:
            self.ask(self.api.start, container)
        except APIError as error:
            self.remove(container)
            raise self._not_started(wanted, error) from error

    def _not_started(self, wanted: Wanted, error: APIError) -> StageFailed:
        said = str(error.explanation or error)
        causes = {
            "could not select device driver": Cause.NO_GPU,
            "nvidia": Cause.NO_GPU,
            "no space left": Cause.NO_SPACE,
            "exec format error": Cause.OTHER_MACHINE,
        }
        cause = next((c for text, c in causes.items() if text in said.lower()), Cause.BAD_IMAGE)
        return cause.error(where=f"container {wanted.name}", value=said[:500])

    def signal(self, container: str, name: str) -> None:
        """Send a signal; to one that has ended it is nothing."""
        try:
            self.ask(self.api.kill, container, name)
        except APIError as error:
            if error.status_code not in (404, 409):
                raise

    def stop(self, container: str, grace: timedelta) -> None:
        """End it: SIGTERM, and SIGKILL after ``grace``. Returns when it has ended."""
        self.signal(container, "SIGTERM")
        until = time.monotonic() + grace.total_seconds()
        while self.runs(container) and time.monotonic() < until:
            time.sleep(0.1)
        self.signal(container, "SIGKILL")
        until = time.monotonic() + CALL_TIMEOUT
        while self.runs(container) and time.monotonic() < until:
            time.sleep(0.1)

    def runs(self, container: str) -> bool:
        """True if it is there and has not ended."""
        found = self.find(container)
        return bool(found and found["State"]["Running"])

    def remove(self, container: str) -> None:
        """Remove a container if it is there, ended or not."""
        try:
            self.ask(self.api.remove_container, container, force=True, v=False)
        except APIError as error:
            # 409: its removal is already under way.
            if error.status_code not in (404, 409):
                raise

    def run_inside(self, container: str, command: Sequence[str], data: bytes, *, cut_off: int) -> tuple[int, str]:
        """Run a command in a running container with ``data`` on its standard input: its exit code, and what it said.

        The command must know where its input ends: a connection over TLS is closed as a whole only. It is run again if
        its connection is lost, or if it ends with ``cut_off``, which says that its input was.
        """

        def run() -> tuple[int, str]:
            made = self.api.exec_create(container, list(command), stdin=True)["Id"]
            stream = self.api.exec_start(made, socket=True)
            try:
                said = _exchange(stream, data)
            except OSError as error:
                raise requests.exceptions.ConnectionError(f"the connection to a command was cut: {error}") from error
            code = self.api.exec_inspect(made)["ExitCode"]
            if code in (None, cut_off):
                raise requests.exceptions.ConnectionError("the connection to a command was cut")
            return int(code), said

        return self.ask(run)

    def read_file(self, container: str, path: str, limit: int) -> bytes | None:
        """One small regular file of a container, None if it is not there. ``ValueError`` beyond ``limit`` bytes."""

        def read() -> bytes | None:
            with closing(self._members(container, path, limit)) as members:
                return next((content.read() for _, content in members), None)

        return self.ask(read)

    def read_tree(self, container: str, path: str, target: Path, limit: int) -> set[str]:
        """The regular files below ``path`` of a container, into ``target``; their names there.

        ``ValueError`` for anything else in it.
        """

        def read() -> set[str]:
            names = set()
            with closing(self._members(container, path, limit)) as members:
                for name, content in members:
                    names.add(name)
                    file = target / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with file.open("wb") as copy:
                        shutil.copyfileobj(content, copy, _CHUNK)
            return names

        return self.ask(read)

    def _members(self, container: str, path: str, limit: int) -> Generator[tuple[str, IO[bytes]], None, None]:
        # The engine holds the container until the last byte is taken or the connection is closed.
        url = f"{self.slow.base_url}/v{self.slow.api_version}/containers/{container}/archive"
        given: dict[str, Any] = {"params": {"path": path}, "headers": {"Accept-Encoding": "identity"}, "stream": True}
        with self.slow.get(url, timeout=PULL_TIMEOUT, **given) as response:
            if response.status_code == 404:
                return
            response.raise_for_status()
            try:
                yield from _regular_files(response.raw, path, limit)
            except (tarfile.ReadError, urllib3.exceptions.HTTPError) as error:
                raise requests.exceptions.ConnectionError(f"the archive of {path} was cut: {error}") from error

    # Following one to its end.

    def follow(
        self,
        container: str,
        caller: Caller,
        lease: Lease,
        ttl: timedelta,
        deadline: timedelta | None,
        watch: Callable[[str, timedelta], None],
    ) -> Ended:
        """Tell the log of a running container, keep its lease, and return when it has ended and all is told.

        ``watch`` is called at every heartbeat while it runs, with its id and the lease's time.

        Raises:
            StageFailed: KZ704 it ran longer than ``deadline``; KZ707 it was removed from outside; KZ715 no engine.
            LeaseHeld: KZ504 a later attempt follows it: this one has nothing more to do with it.
        """
        found = self.find(container)
        if found is None:
            raise removed(container)
        name = found["Name"].lstrip("/")
        mark, tail, peak, beat = caller.call.log.resume(name), deque[str](maxlen=_TAIL), 0, 0.0
        while True:
            found = self.find(container)
            if found is None:
                raise removed(container)
            running = found["State"]["Running"]
            clean = caller.call.log.clean
            for line in self._log(container, mark, clean, follow=running, tty=found["Config"]["Tty"]):
                if line is not None:
                    mark = mark.after(line)
                    tail.append(line.text)
                    caller.call.log.tell(name, line, mark)
                if time.monotonic() - beat >= HEARTBEAT:
                    # At the first one it has used nothing yet, and to be asked costs a short one its time again.
                    peak = max(peak, self._peak(container) if running and beat else 0)
                    beat = time.monotonic()
                    lease = _renew(caller, lease, ttl)
                    self._refuse_overdue(container, found, deadline)
                    if running:
                        watch(container, ttl)
            if not running:
                seconds = (_moment(found["State"]["FinishedAt"]) - _moment(found["State"]["StartedAt"])).total_seconds()
                labels = found["Config"]["Labels"]
                return Ended(found["Id"], name, labels, found["State"], peak, tuple(tail), round(seconds, 1))

    def _log(
        self, container: str, mark: Mark, clean: Callable[[str], str], *, follow: bool, tty: bool
    ) -> Iterator[LogLine | None]:
        """Lines after ``mark``; None every now and then. Ends with the container, or when the engine goes silent."""
        url = f"{self.api.base_url}/v{self.api.api_version}/containers/{container}/logs"
        given = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow), "since": _since(mark.at)}
        skip = mark.lines
        try:
            with self.api.get(url, params=given, stream=True, timeout=(CALL_TIMEOUT, HEARTBEAT)) as response:
                if response.status_code != 200:
                    return
                yield None
                for line in (read_lines if tty else read_frames)(_arrived(response.raw), ended=not follow, clean=clean):
                    if line.at < mark.at:
                        continue
                    if line.at == mark.at and skip > 0:
                        skip -= 1
                        continue
                    yield line
        except (requests.exceptions.RequestException, OSError, urllib3.exceptions.HTTPError):
            # Silent, cut, or gone: the container's state decides, and the next look begins at the mark.
            yield None

    def _peak(self, container: str) -> int:
        try:
            stats = self.api.stats(container, stream=False, one_shot=True)
        except (requests.exceptions.RequestException, DockerException):
            return 0
        memory = stats.get("memory_stats") or {}
        return int(memory.get("max_usage") or memory.get("usage") or 0)

    def _refuse_overdue(self, container: str, found: Mapping[str, Any], deadline: timedelta | None) -> None:
        started = _moment(found["State"]["StartedAt"])
        if deadline and found["State"]["Running"] and datetime.now(UTC) - started > deadline:
            self.stop(container, timedelta(seconds=2))
            raise Cause.OUT_OF_TIME.error(
                where=f"container {found['Name'].lstrip('/')}",
                value=f"more than {deadline.total_seconds():g} s",
                limit=f"place.timeout: {deadline.total_seconds():g} s",
                action="raise place.timeout, or train on less",
            )


def _renew(caller: Caller, lease: Lease, ttl: timedelta) -> Lease:
    try:
        return caller.ledger.renew(lease, ttl, caller.clock.now())
    except LeaseHeld:
        raise
    except LedgerError as error:
        # The lease lasts longer than a heartbeat: the ledger has until then to come back.
        log.warning("the lease of %s was not renewed: %s", lease.resource, error.what)
        return lease


def read_frames(pieces: Iterable[bytes], *, ended: bool, clean: Callable[[str], str] = clean_line) -> Iterator[LogLine]:
    """The lines in the pieces of the engine's multiplexed log, whose frames name their stream.

    A frame without a newline at its end is a part of a long line: its rest follows with a time of its own. Only when
    the process has ``ended`` may the last line lack it; before, a part is not told.
    """
    parts: dict[int, list[str]] = {1: [], 2: []}
    size: dict[int, int] = {1: 0, 2: 0}
    for kind, frame in _frames(pieces):
        at, _, text = frame.decode("utf-8", "replace").partition(" ")
        kept = parts.setdefault(kind, [])
        # Of an endless line only so much is kept; the rest is counted.
        if size.setdefault(kind, 0) < 4 * _CHUNK:
            kept.append(text)
        size[kind] += len(text)
        if text.endswith("\n"):
            yield LogLine(at, kind == 2, clean("".join(kept)))
            parts[kind], size[kind] = [], 0
    for kind, kept in parts.items():
        if kept and ended:
            yield LogLine(at, kind == 2, clean("".join(kept)))


def _frames(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Stream and content of each whole frame: 8 bytes of header (stream, length) and that many bytes."""
    data = b""
    for piece in pieces:
        data, start = data + piece, 0
        while (begin := start + 8) <= len(data):
            end = begin + int.from_bytes(data[start + 4 : begin], "big")
            if end > len(data):
                break
            yield data[start], data[begin:end]
            start = end
        data = data[start:]


def read_lines(pieces: Iterable[bytes], *, ended: bool, clean: Callable[[str], str] = clean_line) -> Iterator[LogLine]:
    """The lines of a container with a terminal: its log has no frames and one stream."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            at, _, text = line.decode("utf-8", "replace").partition(" ")
            yield LogLine(at, False, clean(text))
        # Of an endless line only so much is kept.
        rest = rest[: 4 * _CHUNK]
    if rest and ended:
        at, _, text = rest.decode("utf-8", "replace").partition(" ")
        yield LogLine(at, False, clean(text))


def _exchange(stream: Any, data: bytes) -> str:
    """Send ``data`` over the connection of a command, and read what comes until the command ends."""
    # What docker-py returns depends on the engine's URL: a socket, or a file around one, which neither sends all nor
    # closes it.
    connection, said = getattr(stream, "_sock", stream), b""
    with closing(connection), closing(stream):
        connection.settimeout(CALL_TIMEOUT)
        connection.sendall(data)
        while more := connection.recv(_CHUNK):
            said = (said + more)[-_CHUNK:]
    return said.decode("utf-8", "replace")


def _arrived(raw: Any) -> Iterator[bytes]:
    """What an answer brings, as soon as it is here: the engine sends each line as a chunk of its own."""
    return raw.stream(_CHUNK) if raw.chunked else iter(lambda: raw.read1(_CHUNK), b"")


def _since(at: str) -> str:
    """The engine's ``since``: seconds with nanoseconds of a mark, "0" for all."""
    if not at:
        return "0"
    whole, _, rest = at.rstrip("Z").partition(".")
    return f"{int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())}.{(rest or '0').ljust(9, '0')}"


def _moment(text: str) -> datetime:
    """The engine's time with nanoseconds, as one with microseconds."""
    whole, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{rest[:6].ljust(6, '0')}").replace(tzinfo=UTC)


def _regular_files(stream: Any, path: str, limit: int) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents in a tar stream of ``path``; ``ValueError`` for links and devices, and beyond ``limit``."""
    left = limit
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if member.isdir():
                continue
            left -= member.size
            if not member.isreg() or left < 0:
                what = f"more than {format_size(limit)}" if member.isreg() else "a link or a device"
                raise ValueError(f"{path}: {member.name!a} is {what}")
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts:
                raise ValueError(f"{path}: {member.name!a} leads out of it")
            content = archive.extractfile(member)
            if content is not None:
                yield member.name, content


def _tar_stream(files: Sequence[tuple[tarfile.TarInfo, Path | bytes]]) -> Iterator[bytes]:
    """A tar archive of ``files``, in pieces."""
    for info, content in files:
        yield info.tobuf(tarfile.PAX_FORMAT)
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
            while chunk := source.read(_CHUNK):
                yield chunk
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _tell_progress(reference: str, item: Mapping[str, Any], told: int) -> int:
    """Say how far a pull is, in steps of a tenth."""
    detail = item.get("progressDetail") or {}
    if not detail.get("total"):
        return told
    tenth = int(10 * detail.get("current", 0) / detail["total"])
    if tenth != told:
        log.info("pulling %s: layer %s %d %%", reference, item.get("id", ""), 10 * tenth)
    return tenth


def _not_pulled(reference: str, said: str) -> StageFailed:
    return Cause.NOT_PULLED.error(
        where=f"place.image: {reference}",
        value=said[:500],
        limit="an image that the engine has, or can pull",
        action="free space, log in or correct the registry, as the message says; then retry",
    )


def _no_image(reference: str, said: str) -> StageFailed:
    return Cause.NO_IMAGE.error(
        where=f"place.image: {reference}",
        value=said[:500],
        limit="an image that the engine has, or can pull",
        action="build it with `kaizen image build`, or correct the name",
    )


def removed(container: str) -> StageFailed:
    """What it means that a container is not there any more."""
    return Cause.ENDED_FROM_OUTSIDE.error(
        what="the container was removed from outside",
        where=f"container {container}",
        value="gone",
        limit="a container that is left alone until its result is read",
        action="a retry starts a new one",
    )


def parse_result(data: bytes) -> dict[str, Any]:
    """A result file's JSON; ``ValueError`` for what is none, NaN and infinities included."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    found = json.loads(data, parse_constant=refuse)
    if not isinstance(found, dict):
        raise ValueError(f"{type(found).__name__}, not an object")
    return found


_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
