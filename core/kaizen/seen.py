"""What was hashed before need not be hashed again while its stamp is the same. A cache: losing it costs time only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SCHEMA = "CREATE TABLE IF NOT EXISTS seen (item TEXT PRIMARY KEY, stamp TEXT NOT NULL, identity TEXT NOT NULL)"


class Seen:
    """Stamps and identities of a loop's items, in an SQLite file; several processes may use it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        found = connection.execute("SELECT item, stamp, identity FROM seen")
        self._known = {item: (stamp, identity) for item, stamp, identity in found}
        self._new: dict[str, tuple[str, str]] = {}

    def identity(self, item: str, stamp: str) -> str:
        """The identity that ``item`` had when it had this stamp, "" if that is not known."""
        known, identity = self._known.get(item, ("", ""))
        return identity if stamp and known == stamp else ""

    def keep(self, item: str, stamp: str, identity: str) -> None:
        """Remember an identity; written when the file is closed."""
        self._known[item] = self._new[item] = (stamp, identity)

    def flush(self) -> None:
        """Write what is new."""
        rows = [(item, *facts) for item, facts in self._new.items()]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", rows)
        self._new.clear()


@contextmanager
def open_seen(path: Path) -> Iterator[Seen]:
    """The cache at ``path``; a damaged or unreadable one is an empty one."""
    try:
        connection = sqlite3.connect(path, timeout=20)
        connection.execute(_SCHEMA)
        seen = Seen(connection)
    except sqlite3.DatabaseError:
        connection = sqlite3.connect(":memory:")
        connection.execute(_SCHEMA)
        seen = Seen(connection)
    try:
        yield seen
        if seen._new:
            # If not, then another time: everything is found again by reading.
            with suppress(sqlite3.DatabaseError):
                seen.flush()
    finally:
        connection.close()
