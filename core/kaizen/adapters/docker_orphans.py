"""Containers of ours on an engine: who owns each, and the removal of those that nobody owns.

An orphan is a container whose lease ran out, or whose task has ended for good. A deferred task comes back however long
its triggerer is away: what waits for it is none. What carries our label but was never leased by this ledger belongs to
another environment, or to a stranger, and is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from kaizen.adapters.docker_engine import Engine
from kaizen.adapters.docker_runs import is_kept
from kaizen.clock import Clock
from kaizen.containers import LABEL, gpus_of, lease_resource
from kaizen.errors import LeaseHeld
from kaizen.ledger import LEASES, Lease, Ledger

GRACE = timedelta(seconds=5)
"""Between SIGTERM and SIGKILL of an orphan: nobody waits for what it does."""
VOLUME_KEPT = timedelta(days=1)
"""How long a volume without a container waits for another attempt: it may hold checkpoints."""
_HOLD = timedelta(seconds=60)


@dataclass(frozen=True)
class Found:
    """One container of ours.

    Attributes:
        state: the engine's word. owner: the task it works for. age: since it was made. gpus: what it may use.
        lease: who holds it, None if nobody; ``known`` is False if this ledger never leased it.
        kept: it has ended, and stays for its owner to look at.
    """

    id: str
    name: str
    loop: str
    stage: str
    turn: str
    state: str
    owner: str
    age: timedelta
    gpus: tuple[str, ...]
    lease: Lease | None
    known: bool
    kept: bool

    @property
    def held_by(self) -> str:
        """Who holds it, in words."""
        if self.lease:
            return self.lease.holder
        return "kept for its owner" if self.kept else "nobody" if self.known else "another ledger"

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON values; ``age`` in seconds."""
        return {
            "name": self.name,
            "loop": self.loop,
            "stage": self.stage,
            "turn": self.turn,
            "state": self.state,
            "owner": self.owner,
            "age": round(self.age.total_seconds(), 1),
            "gpus": list(self.gpus),
            "held_by": self.held_by,
        }


def find_containers(engine: Engine, ledger: Ledger, now: datetime) -> Iterator[Found]:
    """All containers with our label, running or not."""
    for item in engine.ours():
        name, labels = item["Names"][0].lstrip("/"), item["Labels"]
        resource = lease_resource(engine.id, name)
        lease = ledger.lease(resource)
        yield Found(
            id=item["Id"],
            name=name,
            loop=labels.get(f"{LABEL}.loop", ""),
            stage=labels.get(f"{LABEL}.stage", ""),
            turn=labels.get(f"{LABEL}.turn", ""),
            state=item["State"],
            owner=labels.get(f"{LABEL}.owner", ""),
            age=now - datetime.fromtimestamp(item["Created"], UTC),
            gpus=gpus_of(labels),
            lease=lease if lease and lease.expires_at > now else None,
            known=lease is not None or ledger.head(LEASES, f"lease/{resource}") is not None,
            kept=is_kept(engine, item),
        )


def remove_orphans(
    engine: Engine,
    ledger: Ledger,
    clock: Clock,
    is_over: Callable[[str], bool],
    is_deferred: Callable[[str], bool] = lambda _: False,
) -> Iterator[str]:
    """End and remove what nobody owns; what was done, in words. The two questions are ``Call``'s."""
    for found in find_containers(engine, ledger, clock.now()):
        if not found.known or found.kept:
            continue
        if not is_over(found.owner) if found.lease else is_deferred(found.owner):
            continue
        why = f"its task {found.owner} is over" if found.lease else "its lease ran out"
        resource = lease_resource(engine.id, found.name)
        try:
            if found.lease:
                ledger.release(found.lease, clock.now())
            mine = ledger.acquire(resource, "reconcile", _HOLD, clock.now())
        except LeaseHeld:
            # Somebody came for it at this very moment.
            continue
        engine.stop(found.id, GRACE)
        engine.remove(found.id)
        ledger.release(mine, clock.now())
        yield f"removed container {found.name} of {found.loop} ({found.state}): {why}"
    yield from _remove_volumes(engine, ledger, clock.now())


def _remove_volumes(engine: Engine, ledger: Ledger, now: datetime) -> Iterator[str]:
    for name, made in engine.volumes():
        resource = lease_resource(engine.id, name)
        granted = ledger.head(LEASES, f"lease/{resource}")
        lease = ledger.lease(resource)
        if granted is None or (lease and lease.expires_at > now) or engine.find(name) is not None:
            continue
        if now - max(made, granted.at) >= VOLUME_KEPT:
            engine.remove_volume(name)
            yield f"removed volume {name}: no attempt came for a day"
