"""Deliveries of a table: what its source gives now, which of that was taken before, and who is at it."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from kaizen.calendar import bounds
from kaizen.ledger import Event
from kaizen.loop import Loop
from kaizen.records import Delivery, ValidationReport
from kaizen.seen import Seen, open_seen
from kaizen.sources import FileItem, Item, Whence, Whole, find_items, format_of
from kaizen.spec import TableSpec

WHOLE = "all"
"""The partition of a table that is not cut."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Span:
    """Partitions by time that are taken: those that begin at ``since`` or later and end by ``until``."""

    since: datetime | None = None
    until: datetime | None = None

    @property
    def key(self) -> str:
        """What of a delivery was taken, as its key has it."""
        ends = [moment.isoformat() if moment else "" for moment in (self.since, self.until)]
        return "/".join(ends) if self.since else ends[1]

    def holds(self, begin: datetime, end: datetime) -> bool:
        """Whether a partition is among them."""
        return (self.since is None or begin >= self.since) and (self.until is None or end <= self.until)


EVER = Span()


@contextmanager
def open_deliveries(loop: Loop, span: Span, tell: Tell) -> Iterator[Deliveries]:
    """The deliveries of a loop's tables, for one call of ``ingest``."""
    with open_seen(loop.home / "seen.db") as seen, (loop.home / "ingest.lock").open("a+b") as lock:
        yield Deliveries(loop, span, tell, seen, lock.fileno())


@dataclass
class Deliveries:
    """What the sources of a loop deliver.

    Attributes:
        identities: by item and stamp, of those whose bytes this call has hashed.
        marks: by table, the position of the delivery whose watermark this call goes on from.
        whole: tables with a watermark that are asked for whole partitions.
    """

    loop: Loop
    span: Span
    tell: Tell
    seen: Seen
    lock: int
    identities: dict[tuple[str, str], str] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)

    def items(self, name: str) -> list[Item]:
        """What the table's source delivers now."""
        loop, table, since = self.loop, self.loop.spec.data.tables[name], ""
        self.whole.discard(name)
        if table.watermark:
            head = loop.ledger.head(loop.name, f"source/{name}")
            self.marks[name] = head.subject_seq if head else 0
            since = Delivery.from_json(head.payload).watermark if head else ""
            if self._comes_whole(name, head):
                self.whole.add(name)
        whole = self._whole(name) if name in self.whole else None
        return find_items(
            table, Whence(loop.path.parent, loop.env, name, since, loop.caller.call.secrets, whole), self.tell
        )

    def _comes_whole(self, name: str, head: Event | None) -> bool:
        """Whether a table with a watermark is asked for whole partitions: what was added to them does not do."""
        table = self.loop.spec.data.tables[name]
        if table.on_change != "append" or table.lag is not None or self.span != EVER:
            return True
        # A range that was taken ahead of the watermark: some of what lies beyond it is there.
        if head and head.key.split("/", 2)[2]:
            return True
        # What validation refused is replaced: by all of it.
        reports = self.loop.heads(ValidationReport, f"validation/{name}/")
        refused = {r.data for r in reports.values() if r.verdict == "refused"}
        return bool(refused) and any(v.digest in refused for v in self.loop.versions(name).values())

    def _whole(self, name: str) -> Whole:
        spec = self.loop.spec
        time = spec.time_of(name) if spec.data.tables[name].timed else ""

        def holds(partition: str) -> bool:
            return self.span.holds(*bounds(partition, spec.timezone))

        return Whole(time, spec.clock.timezone, spec.keys_of(name), holds, self.span.since, self.span.until)

    def new_items(self, name: str, items: Sequence[Item], *, reading: bool = True) -> list[Item]:
        """Those that were not taken yet, as far as their stamps tell; and their bytes, if these are to be read."""
        identities = [self.identity(name, item, None, reading=reading) for item in items]
        taken = self.taken(name, identities)
        return [item for item, identity in zip(items, identities, strict=True) if identity not in taken]

    def taken(self, name: str, identities: Sequence[str]) -> set[str]:
        """Those of which a delivery is on record."""
        keys = {self.key_of(name, identity): identity for identity in identities if identity}
        return {keys[key] for key in self.loop.ledger.known_keys(self.loop.name, "Delivery", keys)}

    def identity(self, name: str, item: Item, scratch: Path | None, *, reading: bool = True) -> str:
        """What tells an item's bytes from others, "" if only its rows do, or if finding out were ``reading``.

        Args:
            scratch: where an item that is elsewhere may be fetched to; None: it is not.
        """
        label, stamp = f"{name}/{item.where}", item.stamp()
        if found := self.identities.get((label, stamp), ""):
            return found
        if scratch is None and (known := self.seen.identity(label, stamp)):
            return known
        if not reading or (scratch is None and not isinstance(item, FileItem)):
            # What is elsewhere is not fetched to find out; taking it will.
            return ""
        found = item.identity(scratch or self.loop.home)
        if scratch is None:
            self.identities[label, stamp] = found
        self.keep_identity(name, item, stamp, found)
        return found

    def keep_identity(self, name: str, item: Item, stamp: str, identity: str) -> None:
        """Remember the identity of an item that had this stamp before it was read."""
        if identity and item.settled():
            self.seen.keep(f"{name}/{item.where}", stamp, identity)

    def key_of(self, name: str, identity: str) -> str:
        """The key that the delivery's record has, "" without an identity."""
        return f"{name}/{identity}/{self.span.key}" if identity else ""

    def claim(self, name: str, item: Item, *, wait: bool) -> bool:
        """Keep other processes of this machine from doing the same work; the ledger keeps it from counting twice."""
        try:
            fcntl.lockf(self.lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, _place_of(name, item))
        except OSError:
            return False
        return True

    def release(self, name: str, item: Item) -> None:
        """Let others have it again."""
        fcntl.lockf(self.lock, fcntl.LOCK_UN, 1, _place_of(name, item))


def single_partition(table: TableSpec, item: Item) -> str:
    """The partition that a delivery of this table is as a whole, "" if its rows are cut."""
    from kaizen.adapters.landing import key_name

    if table.partition is None:
        return WHOLE
    return key_name(Path(item.name).name) if table.partition == "file" else ""


def may_be_kept(table: TableSpec, item: Item) -> bool:
    """Whether the very bytes of an item can be those of a partition."""
    return bool(single_partition(table, item)) and format_of(item.where, table.format or "") == "parquet"


def _place_of(name: str, item: Item) -> int:
    """The byte of the lock file that stands for an item."""
    return int.from_bytes(hashlib.sha256(f"{name}/{item.where}".encode()).digest()[:7])
