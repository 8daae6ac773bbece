"""One run of a container through any number of attempts: leased, made or adopted, attended to its end, recorded.

A later attempt at the same task finds the container by its name. Running it is followed on; ended it is read, unless an
earlier attempt has told its failure already: then it is set aside and a new one made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from docker.errors import APIError

from kaizen.adapters.docker_engine import HEARTBEAT, Ended, Engine, Wanted, removed
from kaizen.causes import Cause
from kaizen.clock import Clock
from kaizen.containers import LABEL, Caller, Interrupted, lease_resource
from kaizen.errors import KaizenError, LeaseHeld, LedgerError, StageFailed
from kaizen.faults import fault_point
from kaizen.ledger import Lease, Ledger
from kaizen.records import ContainerRun

QUICK = timedelta(seconds=2)
"""Between SIGTERM and SIGKILL when the caller itself is about to be killed."""
_HOLD = timedelta(seconds=60)

log = logging.getLogger(__name__)


def lease_time(caller: Caller) -> timedelta:
    """For how long a lease is taken at a time: as long as the next attempt may take to come, and several heartbeats."""
    return max(caller.owner.patience, timedelta(seconds=4 * HEARTBEAT))


@contextmanager
def told_as_refusals() -> Iterator[None]:
    """What the engine answers with an error that nobody expected, as ``StageFailed`` KZ719."""
    try:
        yield
    except APIError as error:
        raise Cause.ENGINE_REFUSED.error(
            where=str(getattr(error.response, "url", "")),
            value=str(error.explanation or error)[:500],
            action="read its message and its log (journalctl -u docker); then retry",
        ) from error


def acquire(caller: Caller, engine: Engine, name: str, ttl: timedelta | None = None) -> Lease:
    """The lease of a container; taken over from an earlier attempt that is given up.

    Raises ``LeaseHeld`` KZ503 if somebody else, or a later attempt, has it; ``StageFailed`` KZ729 if another engine may
    have a container of this task.
    """
    lease = _acquire(caller, lease_resource(engine.id, name), ttl or lease_time(caller))
    # Looked for afterwards: of two attempts that come to two engines at once none makes a container unseen.
    if elsewhere := _held_elsewhere(caller, engine, name):
        caller.ledger.release(lease, caller.clock.now())
        raise _on_another_engine(elsewhere, engine)
    return lease


@contextmanager
def until_made(caller: Caller, engine: Engine, lease: Lease) -> Iterator[None]:
    """Within it a container is made: a refusal that leaves none gives its lease back."""
    try:
        yield
    except StageFailed as error:
        name = lease.resource.rpartition("/")[2]
        if not Cause.NO_ENGINE.of(error) and not _is_mine(caller, engine.find(name)):
            caller.ledger.release(lease, caller.clock.now())
        raise


def _acquire(caller: Caller, resource: str, ttl: timedelta) -> Lease:
    try:
        return caller.ledger.acquire(resource, caller.owner.holder, ttl, caller.clock.now())
    except LeaseHeld as held:
        if held.lease is None or not caller.owner.may_take_over(held.lease.holder):
            raise
        caller.ledger.release(held.lease, caller.clock.now())
        fault_point("containers.takeover")
        return caller.ledger.acquire(resource, caller.owner.holder, ttl, caller.clock.now())


def _held_elsewhere(caller: Caller, engine: Engine, name: str) -> Lease | None:
    """The lease of a container on another engine that works, or may work, for the same task."""
    for lease in caller.ledger.leases("container/"):
        other, _, held = lease.resource.removeprefix("container/").partition("/")
        if other == engine.id or lease.expires_at <= caller.clock.now() or not caller.owner.is_of(lease.holder):
            continue
        # Who does not supersede may do other work beside it.
        if caller.owner.supersedes or held == name:
            return lease
    return None


def _on_another_engine(elsewhere: Lease, engine: Engine) -> StageFailed:
    other, _, name = elsewhere.resource.removeprefix("container/").partition("/")
    return Cause.ON_ANOTHER_ENGINE.error(
        where=f"place.engine: {engine.url or 'the default engine'}, id {engine.id}",
        value=f"{elsewhere.holder} holds container {name} on the engine with id {other} (docker info)",
        limit="one container of a task on all engines",
        action=f"retry with that engine, where it is adopted, or after {elsewhere.expires_at:%F %T} UTC",
    )


def end_stale(engine: Engine, caller: Caller, name: str, grace: timedelta) -> None:
    """End what earlier attempts of this owner left that does other work, or belongs to a base before this one."""
    for found in engine.ours(owner=caller.owner.name, loop=caller.loop):
        other, labels = found["Names"][0].lstrip("/"), found["Labels"]
        if other == name or int(labels[f"{LABEL}.base"]) > caller.owner.base or is_kept(engine, found):
            continue
        try:
            lease = acquire(caller, engine, other, _HOLD)
        except KaizenError as error:
            log.warning("container %s is left alone: %s", other, error.what)
            continue
        log.info("ending container %s: its work is not wanted any more", other)
        engine.stop(found["Id"], grace)
        forget(engine, caller, lease, other)


def is_kept(engine: Engine, item: Mapping[str, Any]) -> bool:
    """True for a listed container that has ended and that its owner wants to look at."""
    keep = item["Labels"].get(f"{LABEL}.keep", "")
    if not keep or item["State"] in ("running", "paused"):
        return False
    found = engine.find(item["Id"]) if keep == "failed" else None
    return keep == "ended" or bool(found and found["State"]["ExitCode"])


def forget(engine: Engine, caller: Caller, lease: Lease, name: str) -> None:
    """Remove a container, its volume and its lease: what it left has been kept elsewhere, or is not wanted."""
    engine.remove(name)
    engine.remove_volume(name)
    caller.ledger.release(lease, caller.clock.now())


def find_adoptable(
    engine: Engine, caller: Caller, name: str, *, set_aside: Callable[[dict[str, Any]], None]
) -> dict[str, Any] | None:
    """The container of this name that an earlier attempt left, running or ended, if it is to be gone on with.

    ``set_aside`` frees the name of one whose failure was told before. One that was never started is made anew, and so
    is one of a base before this one: that its name is the same says nothing where somebody else gave it.
    """
    found = engine.find(name)
    if found is None or not _is_mine(caller, found):
        # A stranger's is left alone, and refused when the name is asked for.
        return None
    ended = found["State"]["Status"] in ("exited", "dead")
    stale = int(found["Config"]["Labels"][f"{LABEL}.base"]) < caller.owner.base
    if found["State"]["Status"] == "created" or (stale and not ended):
        engine.stop(found["Id"], QUICK)
        engine.remove(found["Id"])
        return None
    if ended and (stale or _was_told(caller, found["Id"])):
        set_aside(found)
        return None
    return found


def find_held(engine: Engine, caller: Caller) -> tuple[str, str]:
    """Id and name of the container whose lease this very attempt has.

    Raises ``StageFailed`` KZ707 if there is none any more.
    """
    for found in engine.ours(owner=caller.owner.name, base=str(caller.owner.base)):
        name = str(found["Names"][0].lstrip("/"))
        lease = caller.ledger.lease(lease_resource(engine.id, name))
        if lease and lease.holder == caller.owner.holder:
            return str(found["Id"]), name
    raise removed(f"of {caller.owner.name}")


def _is_mine(caller: Caller, found: dict[str, Any] | None) -> bool:
    return found is not None and found["Config"]["Labels"].get(f"{LABEL}.owner") == caller.owner.name


def start_or_adopt(
    engine: Engine, wanted: Wanted, found: dict[str, Any] | None, *, prepare: Callable[[dict[str, Any]], None]
) -> str:
    """The id of the container that does this work, running or ended; ``prepare`` fills a new one before its start."""
    if found is not None:
        state = found["State"]
        log.info("container %s is adopted: %s, started %s", wanted.name, state["Status"], state["StartedAt"])
        return str(found["Id"])
    fault_point("containers.before_create")
    made = engine.create(wanted)
    fault_point("containers.after_create")
    prepare(made)
    fault_point("containers.before_start")
    engine.start(wanted, made["Id"])
    fault_point("containers.after_start")
    log.info("container %s started, image %s", wanted.name, wanted.config["Image"])
    return str(made["Id"])


def _was_told(caller: Caller, container: str) -> bool:
    told = caller.ledger.find(caller.loop, ContainerRun.__name__, container)
    return told is not None and told.payload["cause"] != ""


def keep_run(caller: Caller, container: str, record: ContainerRun) -> None:
    """Keep in the ledger how a container ended, once."""
    if caller.ledger.find(caller.loop, ContainerRun.__name__, container) is not None:
        return
    caller.ledger.append(
        caller.loop,
        f"container/{record.container}",
        ContainerRun.__name__,
        container,
        record.to_json(),
        turn=record.turn,
        at=caller.clock.now(),
        actor=caller.owner.name,
    )


def attend(
    engine: Engine,
    container: str,
    caller: Caller,
    lease: Lease,
    deadline: timedelta | None,
    grace: timedelta,
    watch: Callable[[str, timedelta], None] = lambda container, ttl: None,
    ready: Callable[[], None] = lambda: None,
) -> Ended:
    """``Engine.follow``; if that is interrupted, end the container or leave it under its lease, as the caller says.

    ``ready`` does what a container waits for after its start; it is called by every attempt, and may be interrupted.

    Raises what ``follow`` raises, the interruption, and ``StageFailed`` KZ720 in place of ``Interrupted``.
    """
    ttl = lease_time(caller)
    try:
        ready()
        return engine.follow(container, caller, lease, ttl, deadline, watch)
    except KaizenError:
        raise
    except BaseException as interruption:
        told = "it goes on, and the next attempt finds it"
        if caller.call.ends(interruption) and end_held(engine, container, caller.ledger, lease, caller.clock, grace):
            told = "it was ended"
        log.info("interrupted while container %s ran: %s", container[:12], told)
        if isinstance(interruption, Interrupted):
            raise Cause.INTERRUPTED.error(
                what=f"interrupted while the container ran: {told}",
                where=f"container {container[:12]}",
                limit="a task that is left alone",
                action="retry" if told.startswith("it goes on") else "start the task again",
            ) from interruption
        raise


def end_held(engine: Engine, container: str, ledger: Ledger, lease: Lease, clock: Clock, grace: timedelta) -> bool:
    """End and remove a container that nobody wants any more; False if a later attempt has it, or nobody can say."""
    try:
        ledger.renew(lease, _HOLD, clock.now())
    except LedgerError:
        return False
    # Whoever interrupts a task does not wait for long.
    engine.patience = QUICK.total_seconds()
    engine.stop(container, min(grace, QUICK))
    engine.remove(container)
    ledger.release(lease, clock.now())
    return True
