"""Cleaning up, idempotent, by whoever calls it: views of the ledger that differ, and what killed processes left behind.

Never done in callbacks: they do not run when a process is killed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from kaizen.errors import MissingDependency
from kaizen.loop import Loop
from kaizen.promote import heal_aliases

if TYPE_CHECKING:
    from kaizen.adapters.docker_engine import Engine

LEFT_ALONE = timedelta(days=1)
"""Younger leftovers may belong to somebody who is at work."""

_DRAFTS = (".scratch-*", ".publish-*", ".draft-*", ".damaged-*", ".save-*")


def reconcile(loop: Loop) -> list[str]:
    """Heal the registry's aliases and the data's remote, remove what killed processes left; told in words."""
    now = loop.clock.now()
    return [*heal_aliases(loop), *loop.data.reconcile(now), *sweep(loop.home, now), *remove_containers(loop)]


def remove_containers(loop: Loop) -> Iterator[str]:
    """Remove what nobody owns from the engine of the loop's place, whichever loop of this ledger it worked for."""
    engine = open_engine(loop)
    if engine is not None:
        from kaizen.adapters.docker_orphans import remove_orphans

        call = loop.caller.call
        yield from remove_orphans(engine, loop.ledger, loop.caller.clock, call.is_over, call.is_deferred)


def open_engine(loop: Loop) -> Engine | None:
    """The engine of a loop whose place is ``docker``. Raises ``StageFailed`` KZ715 if it does not answer."""
    if loop.spec.place.mode != "docker":
        return None
    try:
        from kaizen.adapters.docker_engine import Engine
    except ImportError:
        raise MissingDependency("docker", "docker") from None
    return Engine(loop.spec.place.engine, patience=10)


def sweep(home: Path, now: datetime) -> Iterator[str]:
    """Remove drafts and run folders below ``home`` that nobody has touched for a day; nothing reads them."""
    drafts = [path for pattern in _DRAFTS for path in home.rglob(pattern)]
    runs = home / "runs"
    for path in [*drafts, *runs.glob("*/*"), *runs.glob("*")]:
        try:
            touched = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except FileNotFoundError:
            # It lay in a leftover that is gone already.
            continue
        if now - touched < LEFT_ALONE:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        yield f"removed leftover {path.relative_to(home)}"
