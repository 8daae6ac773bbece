"""landing: files of a loop's tables have come. It looks at names, sizes and times only; what they hold is ingest's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from kaizen.errors import KaizenError
from kaizen.ingest import find_files
from kaizen.snapshot import read_snapshot
from kaizen_airflow.settings import spec_path

Files = frozenset[tuple[str, int, int]]
"""Path, size in bytes and modification time in nanoseconds of each file."""


class LandingTrigger(BaseEventTrigger):
    """Rings when a table's files have changed and then stayed the same from one look to the next.

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
        told: Files = frozenset()
        seen: Files = frozenset()
        while True:
            found = await asyncio.to_thread(self.look)
            if found == seen and found != told:
                told = found
                yield TriggerEvent({"files": len(found)})  # type: ignore[no-untyped-call]
            seen = found
            await asyncio.sleep(self.poll)

    def look(self) -> Files:
        """The files that are there now; none while the spec cannot be read, which is ingest's to refuse."""
        path = spec_path(self.spec)
        try:
            uris = read_snapshot(path, self.env).uris
            files = [file for uri in uris.values() for file in find_files(uri, path.parent)]
            return frozenset((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
        except (KaizenError, OSError) as error:
            self.log.warning("kaizen cannot look for files: %s", error)
            return frozenset()
