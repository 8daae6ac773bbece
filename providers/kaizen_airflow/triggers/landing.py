"""landing: something has come for a loop's tables. It looks at names and stamps only; what they hold is ingest's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from kaizen import codec
from kaizen.errors import KaizenError
from kaizen.snapshot import read_snapshot
from kaizen.sources import Whence, find_items
from kaizen.spec import TableSpec
from kaizen_airflow.settings import spec_path

Stamps = frozenset[tuple[str, str]]
"""Name and stamp of each item; a file that somebody has open for writing is not among them."""


class LandingTrigger(BaseEventTrigger):
    """Rings when what a table's source delivers has changed, and then stayed the same from one look to the next.

    A triggerer that starts anew rings once for what is there: one bell too many finds nothing to do.

    Args:
        spec: the loop's spec, as the DAG builders take it. env: overlay. poll: seconds between two looks.
    """

    def __init__(self, spec: str, env: str, poll: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.spec, self.env, self.poll = spec, env, poll

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where the triggerer finds this class, and its arguments."""
        arguments = {"spec": self.spec, "env": self.env, "poll": self.poll}
        return ("kaizen_airflow.triggers.landing.LandingTrigger", arguments)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event per change that has come to rest."""
        told: Stamps = frozenset()
        seen: Stamps = frozenset()
        while True:
            found = await asyncio.to_thread(self.look)
            if found == seen and found != told:
                told = found
                yield TriggerEvent({"items": len(found)})  # type: ignore[no-untyped-call]
            seen = found
            await asyncio.sleep(self.poll)

    def look(self) -> Stamps:
        """What is there now; none while the spec cannot be read, which is ingest's to refuse."""
        path = spec_path(self.spec)
        try:
            tables = read_snapshot(path, self.env).tables
            found = [
                (n, i)
                for n, t in tables.items()
                for i in find_items(codec.decode(TableSpec, t), Whence(path.parent, self.env, n))
            ]
            return frozenset((f"{name}/{item.where}", item.stamp()) for name, item in found)
        except (KaizenError, OSError) as error:
            self.log.warning("kaizen cannot look at the sources: %s", error)
            return frozenset()
