"""GPUs of an engine as leases: each is held by one container, in the order in which they were asked for.

A waiter holds a ticket, a lease of its own; the ledger's order of the tickets' grants is the order of the queue. Only
the first in it takes GPUs, and keeps those it has while it waits for the rest, so nobody waits in a circle. Whoever
dies stops to renew, and what it held is free when its lease has run out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from docker.errors import APIError

from kaizen.adapters.docker_engine import Engine
from kaizen.causes import Cause
from kaizen.containers import LABEL, RULES, Caller, GpuWish, gpus_of
from kaizen.errors import LeaseHeld
from kaizen.ledger import LEASES, Lease

QUERY = ["nvidia-smi", "--query-gpu=uuid,utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
"""What a container is asked for its GPUs: UUID, per cent, MiB."""
TICKET = timedelta(seconds=30)
POLL = 1.0
"""Seconds between two looks at the queue."""
_SAID_EVERY = 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpuSample:
    """How busy a container's GPUs are: mean utilisation, 0 to 1, and bytes of their memory in use."""

    use: float
    memory: int


def has_runtime(engine: Engine) -> bool:
    """True if the engine has NVIDIA's runtime, False if it can inject devices (CDI).

    Raises ``StageFailed`` KZ716 if it has neither: no container of it can see a GPU.
    """
    facts = engine.ask(engine.api.info)
    if "nvidia" in (facts.get("Runtimes") or {}):
        return True
    devices = [str(d.get("ID", "")) for d in facts.get("DiscoveredDevices") or []]
    if any(device.startswith("nvidia.com/gpu=") for device in devices):
        return False
    raise Cause.NO_GPU.error(
        what="the engine has no GPU to give",
        where=f"place.engine: {engine.url or 'the default engine'}",
        value="runtimes " + ", ".join(sorted(facts.get("Runtimes") or {})) + "; no NVIDIA device (CDI)",
        limit="the runtime nvidia, or devices nvidia.com/gpu",
        action="install the NVIDIA container toolkit on the engine's machine (nvidia-ctk runtime configure), "
        "or set place.gpus: 0, or place.fallback: cpu",
    )


def present_gpus(engine: Engine, image: str) -> list[str]:
    """UUIDs of the engine's GPUs in its own order, as a container of ``image`` sees them; it needs no Kaizen.

    Raises ``StageFailed`` KZ716 if it sees none, with what the engine or the driver said.
    """
    config = {
        "Image": image,
        "Labels": {LABEL: RULES},
        "Entrypoint": [],
        "Cmd": QUERY,
        "Env": ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=utility"],
        "HostConfig": {"Runtime": "nvidia", "NetworkMode": "none", "CapDrop": ["ALL"]}
        if has_runtime(engine)
        else {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}], "NetworkMode": "none"},
    }
    said = ""
    made = engine.ask(engine.api.create_container_from_config, config)["Id"]
    try:
        engine.ask(engine.api.start, made)
        code = engine.ask(engine.slow.wait, made)["StatusCode"]
        said = engine.ask(engine.api.logs, made).decode("utf-8", "replace").strip()
        found = [line.split(",")[0].strip() for line in said.splitlines()] if code == 0 else []
    except APIError as error:
        found, said = [], str(error.explanation or error)
    finally:
        engine.remove(made)
    if not found:
        raise Cause.NO_GPU.error(
            what="the engine's driver shows no GPU",
            where=f"place.engine: {engine.url or 'the default engine'}",
            value=said[-300:],
            limit="at least one GPU in nvidia-smi",
            action="run nvidia-smi on the engine's machine; compare the versions of driver and toolkit",
        )
    return found


def lease_gpus(engine: Engine, caller: Caller, wish: GpuWish, present: Sequence[str], name: str) -> list[Lease]:
    """Leases of as many GPUs as are wished for, held by the container ``name``; waits for its turn, and says for whom.

    Raises ``StageFailed`` KZ716 if the engine does not have what is wished for.
    """
    try:
        candidates, needed = wish.among(present)
    except ValueError as error:
        raise Cause.NO_GPU.error(
            where="place.gpus",
            value=str(error),
            limit=", ".join(f"{n}: {gpu}" for n, gpu in enumerate(present)),
            action="ask for fewer, or name others",
        ) from error
    ticket = caller.ledger.acquire(f"gpu-ticket/{engine.id}/{name}", name, TICKET, caller.clock.now())
    held: dict[str, Lease] = {}
    said = 0.0
    while True:
        ahead = _ahead(engine, caller, ticket)
        busy = "" if ahead else _take(engine, caller, candidates, needed, held, name)
        if len(held) == needed:
            caller.ledger.release(ticket, caller.clock.now())
            return list(held.values())
        if time.monotonic() - said >= _SAID_EVERY:
            said = time.monotonic()
            log.info("waiting for a GPU: %s", f"behind {ahead} in the queue" if ahead else f"{busy} works on it")
        time.sleep(POLL)
        ticket = caller.ledger.renew(ticket, TICKET, caller.clock.now())


def keep_gpus(engine: Engine, caller: Caller, gpus: Sequence[str], name: str) -> list[Lease]:
    """The leases of a running container's GPUs, for the attempt that adopts it. Raises ``LeaseHeld`` KZ503."""
    now = caller.clock.now()
    return [caller.ledger.acquire(f"gpu/{engine.id}/{gpu}", name, caller.owner.patience, now) for gpu in gpus]


def _ahead(engine: Engine, caller: Caller, ticket: Lease) -> str:
    """Who is next before this ticket, or "" if nobody is."""
    now = caller.clock.now()
    waiting = [t for t in caller.ledger.leases(f"gpu-ticket/{engine.id}/") if t.expires_at > now]
    places = {t.holder: _place(caller, t) for t in waiting}
    # Also of a ticket that has run out, while its holder stood still: that is no way to the head of the queue.
    mine = _place(caller, ticket)
    before = [holder for holder, place in places.items() if place < mine]
    return min(before, key=places.__getitem__, default="")


def _place(caller: Caller, ticket: Lease) -> int:
    granted = caller.ledger.head(LEASES, f"lease/{ticket.resource}")
    return granted.position if granted else 0


def _take(
    engine: Engine, caller: Caller, candidates: Sequence[str], needed: int, held: dict[str, Lease], name: str
) -> str:
    """Take what is free of ``candidates`` into ``held``; the container that has one of the others."""
    working = {gpu: other for other, gpus in _at_work(engine, name) for gpu in gpus}
    busy = ""
    for gpu in candidates:
        if len(held) == needed and gpu not in held:
            continue
        if gpu in working:
            # Its lease may have run out: as long as it runs it has the GPU.
            busy = working[gpu]
            continue
        try:
            resource = f"gpu/{engine.id}/{gpu}"
            held[gpu] = caller.ledger.acquire(resource, name, caller.owner.patience, caller.clock.now())
        except LeaseHeld as other:
            held.pop(gpu, None)
            busy = other.lease.holder if other.lease else busy
    return busy


def _at_work(engine: Engine, name: str) -> list[tuple[str, tuple[str, ...]]]:
    found = [(item["Names"][0].lstrip("/"), item) for item in engine.ours()]
    return [
        (other, gpus_of(i["Labels"])) for other, i in found if other != name and i["State"] in ("running", "paused")
    ]


def sample_gpus(engine: Engine, container: str) -> GpuSample | None:
    """How busy the GPUs are that a container sees; None if it cannot tell.

    Raises ``StageFailed`` KZ712 if the driver says that one is lost.
    """
    try:
        asked = engine.api.exec_create(container, QUERY)["Id"]
        said = engine.api.exec_start(asked).decode("utf-8", "replace")
        code = engine.api.exec_inspect(asked)["ExitCode"]
    except APIError:
        return None
    if code and any(text in said for text in ("GPU is lost", "Unknown Error", "Failed to initialize NVML")):
        raise Cause.GPU_LOST.error(
            where=f"container {container[:12]}",
            value=said.strip()[-300:],
            action="look at it with nvidia-smi on the engine's machine; a retry starts a new container",
        )
    rows = [line.split(",") for line in said.splitlines() if line.count(",") == 2] if code == 0 else []
    try:
        used = [float(row[1]) / 100 for row in rows]
        return GpuSample(sum(used) / len(used), sum(int(row[2]) for row in rows) << 20) if rows else None
    except ValueError:
        return None


class HeldGpus:
    """The GPUs of one container while it runs: kept leased, and watched.

    Attributes:
        gpus: their UUIDs.
    """

    def __init__(self, engine: Engine, caller: Caller, leases: Sequence[Lease]) -> None:
        self._engine, self._caller, self._leases = engine, caller, list(leases)
        self._samples: list[GpuSample] = []
        self.gpus = tuple(lease.resource.rpartition("/")[2] for lease in leases)

    def beat(self, container: str, ttl: timedelta) -> None:
        """Renew the leases and look at the GPUs. Raises ``StageFailed`` KZ712 if one is lost."""
        if not self.gpus:
            return
        self._leases = [self._caller.ledger.renew(held, ttl, self._caller.clock.now()) for held in self._leases]
        if (sample := sample_gpus(self._engine, container)) is not None:
            self._samples.append(sample)

    def release(self) -> None:
        """Give them back: nothing works on them any more."""
        while self._leases:
            self._caller.ledger.release(self._leases.pop(), self._caller.clock.now())

    @property
    def use(self) -> float:
        """Mean utilisation over the samples, 0 to 1."""
        return sum(s.use for s in self._samples) / len(self._samples) if self._samples else 0.0

    @property
    def memory(self) -> int:
        """Bytes of their memory in use at most."""
        return max((s.memory for s in self._samples), default=0)
