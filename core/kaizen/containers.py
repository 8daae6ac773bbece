"""Rules of a container that works for a stage: whose it is, what it may do, what its end means, how its log reads.

Pure functions of plain values; ``adapters/docker_engine.py`` carries them out. A container is found again by its name,
which its owner, the owner's base and the work determine: creating it twice is refused by the engine itself. Who may
touch it is a lease in the ledger, because labels cannot change.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from kaizen.canonical import digest
from kaizen.causes import Cause
from kaizen.errors import StageFailed
from kaizen.secrets import LONGEST

if TYPE_CHECKING:
    from kaizen.clock import Clock
    from kaizen.ledger import Ledger
    from kaizen.spec import PlaceSpec

LABEL = "io.kaizen"
"""Every container and volume of ours carries it; its value is the version of these rules."""
RULES = "1"
MOUNT = "/kaizen"
"""Where the run's volume lies inside a container."""
SECRETS = "/run/kaizen"
"""Where secrets lie inside a container, in memory."""
NO_SPACE = 28
"""Exit code of a place that had no space for its result."""
MAX_LINE = 8_192
"""Characters of one line of a log; what is longer is cut, and says so."""

_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Interrupted(BaseException):
    """Raised where a container is followed, by a signal handler: whoever asked for it has been told to end."""


@dataclass(frozen=True)
class Owner:
    """For whom a container works.

    Attributes:
        name: the same for all attempts at one task: ``airflow:DAG/RUN/TASK/MAP``, or ``shell:LOOP``.
        base: grows when the task is to start over, not when it is tried again.
        attempt: grows with every attempt.
        supersedes: True if a later attempt only exists when the earlier one is given up. Else it waits for the lease.
        patience: how long a container outlives the last sign of life of its attempt, waiting for the next one.
    """

    name: str
    base: int = 0
    attempt: int = 1
    supersedes: bool = False
    patience: timedelta = timedelta(seconds=60)

    @property
    def holder(self) -> str:
        """The attempt, as leases name it."""
        return f"{self.name}#{self.base}.{self.attempt}"

    def is_of(self, holder: str) -> bool:
        """True if the lease of ``holder`` belongs to an attempt at the same task, before this one or after it."""
        return holder.rpartition("#")[0] == self.name

    def may_take_over(self, holder: str) -> bool:
        """True if the lease of ``holder`` belongs to an attempt at the same task that this one follows."""
        base, _, attempt = holder.rpartition("#")[2].partition(".")
        if not self.is_of(holder) or not self.supersedes or not (base.isdigit() and attempt.isdigit()):
            return False
        return (int(base), int(attempt)) <= (self.base, self.attempt)


class LogLine(NamedTuple):
    """One line of a container's log: the engine's time (RFC 3339, nanoseconds), the stream, the text made harmless."""

    at: str
    stderr: bool
    text: str


class Mark(NamedTuple):
    """Where reading a log stopped: so many lines with the time ``at`` were read, and all older ones."""

    at: str = ""
    lines: int = 0

    def after(self, line: LogLine) -> Mark:
        """The mark after one more line."""
        return Mark(line.at, self.lines + 1 if line.at == self.at else 1)


@dataclass(frozen=True)
class Log:
    """Where the log of containers goes.

    Attributes:
        tell: told a container's name and every line once and in order, with the mark that stands after it.
        resume: by a container's name, up to where an earlier attempt told its log.
        clean: makes a line of it harmless before it is told.
    """

    tell: Callable[[str, LogLine, Mark], None]
    resume: Callable[[str], Mark] = lambda _: Mark()
    clean: Callable[[str], str] = lambda text: clean_line(text)


def tell_stderr(name: str, line: LogLine, mark: Mark) -> None:
    """Show a line to a person at a shell."""
    print(f"  | {line.text}", file=sys.stderr, flush=True)  # noqa: T201 - a log's last stop


@dataclass(frozen=True)
class Call:
    """What whoever runs a stage says of its containers.

    Attributes:
        ends: by what interrupts the caller, whether the container ends with it. Else it goes on under its lease, and
            the next attempt, or the reconciler, finds it.
        is_over: by an owner's name, whether its task has ended for good, as far as somebody can know.
        is_deferred: by an owner's name, whether its task waits for its container without a process of its own.
        secrets: values by name that outrank this process's variables.
    """

    owner: Owner
    log: Log
    ends: Callable[[BaseException], bool] = lambda interruption: isinstance(interruption, KeyboardInterrupt)
    is_over: Callable[[str], bool] = lambda _: False
    is_deferred: Callable[[str], bool] = lambda _: False
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Caller:
    """A call with the ledger that holds its leases.

    Attributes:
        clock: the wall's: leases count in its time, whatever the loop's clock is.
        finished: what removes containers whose results have been read; to be called when they have been kept.
    """

    call: Call
    ledger: Ledger
    clock: Clock
    loop: str
    finished: list[Callable[[], None]] = field(default_factory=list)

    @property
    def owner(self) -> Owner:
        """For whom."""
        return self.call.owner

    def settle(self) -> None:
        """What was read has been kept: remove the containers that left it."""
        while self.finished:
            self.finished.pop(0)()


def work_name(owner: Owner, work: str) -> str:
    """Name of the container (and of its volume) that does ``work``, a digest, for ``owner``."""
    return f"kaizen-{digest([owner.name, owner.base, work])[:24]}"


def lease_resource(engine: str, name: str) -> str:
    """What is leased: a container of one engine, by the engine's own id."""
    return f"container/{engine}/{name}"


def labels(owner: Owner, *, loop: str, stage: str, turn: str, work: str, image: str) -> dict[str, str]:
    """The labels of a container and of its volume; they never change."""
    return {
        LABEL: RULES,
        f"{LABEL}.loop": loop,
        f"{LABEL}.stage": stage,
        f"{LABEL}.turn": turn,
        f"{LABEL}.owner": owner.name,
        f"{LABEL}.base": str(owner.base),
        f"{LABEL}.work": work,
        f"{LABEL}.image": image,
    }


def parse_size(text: str) -> int:
    """``"512m"``, ``"8g"`` or plain bytes as bytes; ``ValueError`` for anything else, and for nothing at all."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)([bkmgt]?)", text)
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size <= 0:
        raise ValueError(text)
    return size


def format_size(size: int) -> str:
    """Bytes for people: ``511.5m``."""
    unit = next((u for u in ("t", "g", "m", "k") if size >= _UNITS[u]), "b")
    return f"{size / _UNITS[unit]:.4g}{unit}"


def user_ids(user: str) -> tuple[int, int]:
    """``"UID:GID"`` as numbers; ``ValueError`` for a name: only the image knows what that means."""
    uid, _, gid = user.partition(":")
    return int(uid), int(gid or uid)


@dataclass(frozen=True)
class GpuWish:
    """Which GPUs a container asks for: so many (None: all of them), or those that are named."""

    count: int | None
    named: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.count != 0 or bool(self.named)

    def among(self, present: Sequence[str]) -> tuple[tuple[str, ...], int]:
        """Which of ``present`` (UUIDs, in the engine's order) would do, and how many of them are needed.

        ``ValueError`` names what is not there: an id, or how many are missing.
        """
        if self.named:
            chosen = tuple(_gpu_named(name, present) for name in self.named)
            return chosen, len(chosen)
        needed = len(present) if self.count is None else self.count
        if needed > len(present) or not present:
            raise ValueError(f"{needed or 'all'} of {len(present)}")
        return tuple(present), needed


def _gpu_named(name: str, present: Sequence[str]) -> str:
    if name in present:
        return name
    if name.isdigit() and int(name) < len(present):
        return present[int(name)]
    raise ValueError(name)


def parse_gpus(wish: Any) -> GpuWish:
    """``place.gpus`` as a wish; ``ValueError`` for anything else."""
    if wish == "all":
        return GpuWish(None)
    if isinstance(wish, int) and not isinstance(wish, bool) and wish >= 0:
        return GpuWish(wish)
    if isinstance(wish, list | tuple) and wish:
        named = tuple(str(name) for name in wish)
        if len(set(named)) == len(named) and all(re.fullmatch(r"[0-9]{1,3}|(GPU|MIG)-[\w-]{4,64}", n) for n in named):
            return GpuWish(0, named)
    raise ValueError(wish)


def gpu_settings(gpus: Sequence[str], *, runtime: bool) -> tuple[dict[str, Any], list[str]]:
    """Host configuration and environment that give a container these GPUs (UUIDs) and no other.

    ``runtime``: the engine has NVIDIA's own runtime; else it has device injection (CDI).
    """
    if not gpus:
        # An image made for GPUs would take all that it can see.
        return {}, ["NVIDIA_VISIBLE_DEVICES=void"]
    if runtime:
        capabilities = "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        return {"Runtime": "nvidia"}, [f"NVIDIA_VISIBLE_DEVICES={','.join(gpus)}", capabilities]
    return {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={gpu}" for gpu in gpus]}]}, []


def gpus_of(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that a container was given, by its labels."""
    return tuple(gpu for gpu in labels.get(f"{LABEL}.gpus", "").split(",") if gpu)


def host_config(place: PlaceSpec, volume: str) -> dict[str, Any]:
    """The walls, as the engine's API takes them. What ``place.opened`` names is left as the engine has it."""
    walls: dict[str, dict[str, Any]] = {
        "capabilities": {"CapDrop": ["ALL"]},
        "privileges": {"SecurityOpt": ["no-new-privileges"]},
        "root": {"ReadonlyRootfs": True},
        "pids": {"PidsLimit": place.pids},
        # Without swap: a training that pages takes the machine with it.
        "memory": {"Memory": parse_size(place.memory), "MemorySwap": parse_size(place.memory)},
        "cpu": {"NanoCpus": int(place.cpus * 1e9)},
        "init": {"Init": True},
    }
    config: dict[str, Any] = {
        "NetworkMode": place.network,
        "IpcMode": "private",
        "ShmSize": parse_size(place.shm),
        "Tmpfs": {
            "/tmp": f"rw,nosuid,nodev,mode=1777,size={parse_size(place.tmp)}",  # noqa: S108 - in the container
            **_secrets_in_memory(place),
        },
        "Mounts": [{"Type": "volume", "Source": volume, "Target": MOUNT}],
        # The whole log must be there to be read again after the exit.
        "LogConfig": {"Type": "json-file", "Config": {}},
        "RestartPolicy": {"Name": "no"},
    }
    for wall, settings in walls.items():
        if wall not in place.opened:
            config |= settings
    return config


def _secrets_in_memory(place: PlaceSpec) -> dict[str, str]:
    """The folder of a container's secrets, which only its user can read; with room for one that is written anew."""
    if not place.secrets:
        return {}
    uid, gid = user_ids(place.user)
    size = (len(place.secrets) + 1) * 2 * LONGEST
    return {SECRETS: f"rw,noexec,nosuid,nodev,mode=0700,uid={uid},gid={gid},size={size}"}


def why_ended(
    state: Mapping[str, Any], memory: str, image: str, *, name: str, peak: int, tail: Collection[str]
) -> StageFailed:
    """What the end of a container without a result means.

    Args:
        state: the engine's ``State``. memory, image: as the container was asked for.
        peak: bytes of memory seen at most, 0 if unknown. tail: last lines of its log.
    """
    code, said = int(state.get("ExitCode", -1)), " | ".join(tail)[-500:]
    if state.get("OOMKilled"):
        seen = f", {format_size(peak)} seen at most" if peak else ""
        return Cause.OUT_OF_MEMORY.error(
            where=f"container {name}",
            value=f"limit {memory}{seen}; ended by the kernel",
            limit=f"memory: {memory}",
            action="raise the memory limit, or train on less",
        )
    if code in (137, 143):
        return Cause.ENDED_FROM_OUTSIDE.error(
            where=f"container {name}",
            value=f"signal {code - 128} ({'SIGKILL' if code == 137 else 'SIGTERM'}), not by its memory limit",
            limit="a stage that ends by itself",
            action="somebody stopped it, or the engine was restarted; a retry starts a new one",
        )
    if code in (126, 127):
        return Cause.BAD_IMAGE.error(
            where=f"image: {image}",
            value=f"exit code {code}: {state.get('Error') or said or 'the command was not found'}",
            limit="an image with a Python 3.11 or newer on PATH as `python`, and kaizen-mlops",
            action="build the image with `kaizen image build`",
        )
    if code == NO_SPACE:
        return Cause.NO_SPACE.error(
            what="no space left for the result",
            where=f"container {name}: {MOUNT}",
            value=said,
            action="free space on the engine's disk (docker system df); then retry",
        )
    return Cause.NO_RESULT.error(
        where=f"container {name}",
        value=f"exit code {code}" + (f"; its log ends: {said}" if said else ""),
        limit="a result file",
        action="read the end of the log, correct the image or the code, then retry",
    )


def clean_line(text: str) -> str:
    """A line as a log may show it: of a progress bar the last state, control characters escaped, not too long."""
    text = text.rstrip("\r\n").rpartition("\r")[2]
    cut = text[:MAX_LINE]
    escaped = _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), cut)
    return escaped if len(text) <= MAX_LINE else f"{escaped} ... ({len(text) - MAX_LINE} more characters)"
