"""ingest: land each delivery as immutable, content-addressed partitions, exactly once.

The same delivery again is no work; the same partition with the same rows is no event. What else may come for a
partition that is there, ``on_change`` says: nothing, more rows, or other rows, as a new version of it. Everything is
checked before anything is written, so a refusal leaves no trace. Rows stream: memory does not grow with a delivery.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kaizen.calendar import bounds
from kaizen.canonical import digest
from kaizen.catalogue import entry
from kaizen.containers import parse_size
from kaizen.deliveries import EVER, Deliveries, Span, Tell, may_be_kept, open_deliveries, single_partition
from kaizen.errors import DataRefused, HeadMoved, KeyConflict, MissingDependency
from kaizen.faults import fault_point
from kaizen.ingest_checks import (
    needed_columns,
    raw_types,
    refuse_columns,
    refuse_few,
    refuse_gone,
    refuse_other_content,
    refuse_repeats,
    refuse_rows,
)
from kaizen.landed import Known, Landed, Line, NewVersion, look
from kaizen.ledger import NewEvent
from kaizen.loop import Loop
from kaizen.ports import NewFile, Pointer
from kaizen.privacy import refuse_other_key
from kaizen.records import DataVersion, Delivery, Source, data_path
from kaizen.sources import FileItem, Item, Wanted
from kaizen.store import split_address

if TYPE_CHECKING:
    from kaizen.adapters.door import Door, Earlier
    from kaizen.adapters.landing import Cut, Draft, Original, Rows
    from kaizen.adapters.masking import Mask

_SMALL, _AHEAD, _READERS = 8 << 20, 16, 2
"""Bytes of a file that is brought ahead; how many are, and how many of them at once: hashing needs no interpreter."""
_MANY_ROWS = 2_000_000
"""So many rows are worth a word on the way."""
_PATIENCE = 20
"""How often a delivery is taken up again because somebody else changed its partition meanwhile."""


def _say_nothing(_: str) -> None:
    """Tell nobody."""


def _nothing_waits(_: Collection[str]) -> None:
    """There is nothing to finish."""


def ingest(loop: Loop, *, span: Span = EVER, tell: Tell = _say_nothing) -> list[DataVersion]:
    """Take every delivery that is new, of every table; return the versions that were added.

    Args:
        span: leave other partitions for another time: a turn as it would have been on a day, or a range to backfill.
        tell: told what takes long, and what is noteworthy.

    Raises:
        DataRefused: the first delivery that cannot be taken; those before it stay taken, it leaves nothing.
    """
    with _taking(loop, span, tell) as taking:
        return [version for name in loop.spec.data.tables for version in taking.take_all(name)]


def ingest_file(loop: Loop, name: str, path: Path) -> list[DataVersion]:
    """Land one file of table ``name``. See ``ingest``."""
    with _taking(loop, EVER, _say_nothing) as taking:
        return taking.take(name, [FileItem(path, path.name)])


def has_landed(loop: Loop) -> bool:
    """Whether ``ingest`` has work: a delivery that was not taken yet. One that is refused is for ingest to refuse."""
    try:
        with open_deliveries(loop, EVER, _say_nothing) as deliveries:
            return any(deliveries.new_items(name, deliveries.items(name)) for name in loop.spec.data.tables)
    except DataRefused:
        return True


@dataclass
class _Brought:
    """A delivery with its identity, "" if only its rows tell, in a folder of its own.

    Attributes:
        original: its copy, if it is kept as it is. read: None if it was taken before, or not read yet.
    """

    item: Item
    folder: Path
    identity: str
    original: Original | None
    read: tuple[Rows, Door] | None = None


@dataclass(frozen=True)
class _Coming:
    """A delivery that is being copied, and what was expected of its columns when that began."""

    item: Item
    folder: Path
    expected: tuple[dict[str, str], tuple[str, ...]]
    brought: Future[_Brought]


@contextmanager
def _taking(loop: Loop, span: Span, tell: Tell) -> Iterator[_Taking]:
    with open_deliveries(loop, span, tell) as deliveries:
        yield _Taking(loop, tell, deliveries)


@dataclass
class _Taking:
    """One call of ``ingest``."""

    loop: Loop
    tell: Tell
    deliveries: Deliveries
    known: dict[str, Known] = field(default_factory=dict)
    """By table: what was there when this call last looked. Whoever was faster since makes the append refuse."""
    earlier: dict[str, Earlier] = field(default_factory=dict)
    """By table: what this call has seen of it."""
    landed: set[str] = field(default_factory=set)
    """Keys of the deliveries that this call has landed."""

    def known_of(self, name: str) -> Known:
        """What was there of a table at the last look."""
        if name not in self.known:
            self.known[name] = look(self.loop, name)
        return self.known[name]

    # Taking it.

    def take_all(self, name: str) -> list[DataVersion]:
        """Take what is new of one table."""
        return self.take(name, self.deliveries.new_items(name, self.deliveries.items(name), reading=False))

    def take(self, name: str, items: Sequence[Item]) -> list[DataVersion]:
        """Take these items, several together; those that another process is at come last."""
        postponed: list[Item] = []
        if not items:
            return []
        # A remote that cannot be written is found out before anything is kept.
        self.loop.data.probe()
        with ThreadPoolExecutor(1) as beside:
            line = Line(self, name, beside)
            try:
                with closing(self._bring_all(name, items, postponed)) as all_brought:
                    for number, brought in enumerate(all_brought):
                        if number and number % 100 == 0:
                            self.tell(f"{name}: {number} of {len(items)} deliveries")
                        if landed := self._land(name, brought, line.clear):
                            line.add(landed)
                        else:
                            self.deliveries.release(name, brought.item)
            finally:
                # Also before a refusal goes up: what came before it stays taken.
                line.finish()
        versions = line.versions
        for item in postponed:
            self.deliveries.claim(name, item, wait=True)
            versions += self._take_one(name, item)
            self.deliveries.release(name, item)
        return versions

    def _bring_all(self, name: str, items: Sequence[Item], postponed: list[Item]) -> Generator[_Brought, None, None]:
        """Those that nobody else is at, read; small files are brought while those before them land."""
        with self.loop.store.scratch() as scratch, ThreadPoolExecutor(_READERS) as beside:
            folders = _Folders(scratch)
            for brought in self._read_all(name, items, postponed, folders, beside):
                yield brought
                folders.give_back(brought.folder)

    def _read_all(
        self, name: str, items: Sequence[Item], postponed: list[Item], folders: _Folders, beside: ThreadPoolExecutor
    ) -> Iterator[_Brought]:
        coming: list[_Coming] = []
        for item in items:
            if not self.deliveries.claim(name, item, wait=False):
                postponed.append(item)
                continue
            folder = folders.take()
            if self._holds_nothing(name, item):
                expected, copied = self.known_of(name).expected, beside.submit(self._bring_small, name, item, folder)
                coming.append(_Coming(item, folder, expected, copied))
                yield from self._read_coming(name, coming, 2 * _AHEAD - 1)
            else:
                yield from self._read_coming(name, coming, 0)
                brought = self._bring(name, item, folder)
                yield self._read_new(name, brought, self.deliveries.taken(name, [brought.identity]))
        yield from self._read_coming(name, coming, 0)

    def _read_coming(self, name: str, coming: list[_Coming], most: int) -> Iterator[_Brought]:
        """Read what was copied, some at once, if more than ``most`` wait for it."""
        while len(coming) > most:
            some, coming[:_AHEAD] = coming[:_AHEAD], []
            wait([each.brought for each in some])
            copied = [each.brought.result() for each in some if not each.brought.exception()]
            taken = self.deliveries.taken(name, [brought.identity for brought in copied])
            for each in some:
                brought = each.brought.result()
                if each.expected != self.known_of(name).expected:
                    # What has landed meanwhile has changed it.
                    brought = self._bring(name, each.item, each.folder)
                yield self._read_new(name, brought, taken)

    def _holds_nothing(self, name: str, item: Item) -> bool:
        """Whether an item is a small file that is probably kept as it is: rows that are cut wait in memory."""
        table = self.loop.spec.data.tables[name]
        try:
            small = isinstance(item, FileItem) and item.path.stat().st_size <= _SMALL
        except OSError:
            # Whoever reads it says so.
            small = False
        return small and may_be_kept(table, item)

    def _take_one(self, name: str, item: Item, attempt: int = 1) -> list[DataVersion]:
        """Take an item by itself."""
        with self.loop.store.scratch() as scratch:
            brought = self._bring(name, item, scratch)
            landed = self._land(name, self._read_new(name, brought, self.deliveries.taken(name, [brought.identity])))
        return self.record(name, [landed], self.commit(name, [landed]), attempt) if landed else []

    def _bring(self, name: str, item: Item, folder: Path) -> _Brought:
        """Hash a delivery, and copy it if it is kept as it is."""
        identity, original = self._take_bytes(name, item, folder)
        return _Brought(item, folder, identity, original)

    def _bring_small(self, name: str, item: Item, folder: Path) -> _Brought:
        """The same beside others, for which its pages are read at once: Arrow needs no interpreter for most of it."""
        brought = self._bring(name, item, folder)
        if brought.original:
            brought.original.read_ahead(self.loop.spec.keys_of(name))
        return brought

    def _read_new(self, name: str, brought: _Brought, taken: Collection[str]) -> _Brought:
        """Read a delivery, unless its identity is among those that were ``taken`` before."""
        from kaizen.adapters.door import nothing_quoted

        item, identity = brought.item, brought.identity
        if identity in taken:
            return brought
        may_change = identity and not brought.original
        try:
            with nothing_quoted(self.loop.spec, item.where):
                brought.read = self._read(name, brought)
        except DataRefused:
            if may_change:
                # Of a file that somebody is writing, rows are refused for anything.
                item.refuse_changed(identity)
            raise
        if may_change:
            item.refuse_changed(identity)
        fault_point("ingest.after_read")
        return brought

    def _land(
        self, name: str, brought: _Brought, clear: Callable[[Collection[str]], object] = _nothing_waits
    ) -> Landed | None:
        """Check and store one delivery; None if it was taken before. ``clear``: have nothing wait in its partitions."""
        if not brought.read:
            return None
        from kaizen.adapters.door import nothing_quoted

        item, identity, (rows, door) = brought.item, brought.identity, brought.read
        with nothing_quoted(self.loop.spec, item.where):
            door.close()
        clear(rows.partitions())
        drafts = {partition: rows.draft(partition) for partition in self._within(name, rows.partitions())}
        self._check(name, item.where, rows, drafts)
        if not identity:
            identity = door.identity or digest({partition: d.sha256 for partition, d in drafts.items()})
            if self.loop.find(Delivery, self.deliveries.key_of(name, identity)):
                return None
        key = self.deliveries.key_of(name, identity)
        if key in self.landed:
            return None
        landed = Landed(item, key, Source(item.name, identity), tuple(drafts), door.said)
        try:
            landed.versions |= self._new_versions(name, landed, rows, drafts, self.known_of(name))
        except DataRefused:
            if self.loop.find(Delivery, landed.key):
                # Another machine took it meanwhile: what is there already are these very rows.
                return None
            raise
        self.landed.add(key)
        landed.teaches = self.learn(name, landed)
        fault_point("ingest.after_publish")
        return landed

    def learn(self, name: str, landed: Landed) -> bool:
        """Hold the next delivery against this one; whether it has columns that nobody knew."""
        known, given = self.known_of(name), self.loop.spec.data.tables[name].types
        taught = [known.learn(partition, new.draft.columns, given) for partition, new in landed.versions.items()]
        return any(taught)

    @cached_property
    def _mask(self) -> Mask:
        from kaizen.adapters.door import mask_of

        return mask_of(self.loop)

    def _take_bytes(self, name: str, item: Item, folder: Path) -> tuple[str, Original | None]:
        """A delivery's identity, "" if only its rows tell; and its copy in ``folder``, if it is kept as it is."""
        from kaizen.adapters.landing import take_as_it_is

        here, wanted = isinstance(item, FileItem), self._wanted(name, item)
        # What is elsewhere is fetched, and hashed on the way; what is here, when it is copied, if it is.
        identity = "" if here else self.deliveries.identity(name, item, folder)
        table, stamp = self.loop.spec.data.tables[name], item.stamp()
        path = item.original() if may_be_kept(table, item) else None
        original = take_as_it_is(path, single_partition(table, item), wanted, folder) if path else None
        if here and original:
            self.deliveries.keep_identity(name, item, stamp, original.sha256)
            return original.sha256, original
        return (self.deliveries.identity(name, item, None) if here else identity), original

    def _wanted(self, name: str, item: Item) -> Wanted:
        spec, table, known = self.loop.spec, self.loop.spec.data.tables[name], self.known_of(name)
        return Wanted(
            item.where,
            table.columns,
            needed_columns(spec, name),
            raw_types(spec, name, known.types),
            order=known.order,
            private=spec.data.private,
            format=table.format or "",
            encoding=table.encoding,
            max_expanded=parse_size(table.max_expanded),
        )

    def _read(self, name: str, brought: _Brought) -> tuple[Rows, Door]:
        """The delivery's rows by partition, in the columns and types that the table has; the door they came through.

        Nothing but the reader and the door sees rows as they came.
        """
        from kaizen.adapters.door import Door, Earlier
        from kaizen.adapters.landing import Cutter, with_time

        spec, item, known = self.loop.spec, brought.item, self.known_of(name)
        earlier = self.earlier.setdefault(name, Earlier())
        door = Door(spec, self._mask, item.where, self.tell, digest=not brought.identity, earlier=earlier)
        if original := brought.original:
            names = door.names(list(original.columns))
            refuse_columns(spec, name, item.where, names, known.added(names), known.types)
            original.read(door.look, spec.keys_of(name))
            return original, door
        table, wanted = spec.data.tables[name], self._wanted(name, item)
        cutter, first = Cutter(brought.folder, _cut(self.loop, name, item)), 1
        for batch in item.batches(wanted):
            if first == 1:
                names = door.names(batch.schema.names)
                refuse_columns(spec, name, item.where, names, known.added(names), known.types)
            timed = with_time(batch, spec.time_of(name), wanted, first) if table.timed else batch
            cutter.add(door.take(timed))
            if first // _MANY_ROWS < (first + batch.num_rows) // _MANY_ROWS:
                self.tell(f"{item.where}: {first + batch.num_rows - 1:,} rows read")
            first += batch.num_rows
        return cutter, door

    def _within(self, name: str, partitions: Sequence[str]) -> list[str]:
        """Those in the span."""
        zone = self.loop.spec.timezone
        timed = self.loop.spec.data.tables[name].timed
        return [p for p in partitions if not timed or self.deliveries.span.holds(*bounds(p, zone))]

    def _check(self, name: str, where: str, rows: Rows, drafts: Mapping[str, Draft]) -> None:
        spec, columns = self.loop.spec, {column: None for draft in drafts.values() for column in draft.columns}
        if added := self.known_of(name).added(list(columns)):
            self.tell(f"{where}: new column {', '.join(added)}")
        if name not in self.deliveries.whole or self.deliveries.span == EVER:
            # How many rows a range has, somebody else decided.
            refuse_few(spec, name, where, rows.rows)
        for draft in drafts.values():
            refuse_rows(spec, name, where, draft, self.loop.clock.now())

    # Keeping it.

    def _new_versions(
        self, name: str, landed: Landed, rows: Rows, drafts: Mapping[str, Draft], known: Known
    ) -> dict[str, NewVersion]:
        """What the partitions of a delivery are to become, those that it changes."""
        found: dict[str, NewVersion] = {}
        for partition, draft in drafts.items():
            before = known.versions.get(partition)
            if before and before.source.sha256 == landed.source.sha256:
                # These bytes made it, whatever would be made of them now: in another span, with another key.
                continue
            if version := self._new_version(name, landed.item, rows, draft, known, landed.private):
                found[partition] = version
        return found

    def _new_version(
        self, name: str, item: Item, rows: Rows, draft: Draft, known: Known, private: dict[str, str]
    ) -> NewVersion | None:
        """The version that a partition of a delivery is to become; None if those rows are there.

        A partition that validation refused may come again with other content; it was used nowhere.

        Raises ``PartitionConflict`` (KZ430); ``DataRefused`` KZ482 for rows that were hashed with another key.
        """
        from kaizen.adapters.landing import begins_with, same_rows

        store, spec, partition = self.loop.store, self.loop.spec, draft.partition
        table = spec.data.tables[name]
        before = known.versions.get(partition)
        added = tuple(known.added(list(draft.columns)))
        if before is None:
            return NewVersion(draft, store.adopt(f"{name}/{partition}", draft.path, draft.sha256), "", "", 0, added)
        if draft.sha256 == split_address(before.address)[1] or same_rows(old := store.file(before.address), draft.path):
            return None
        policy = "replace" if table.partition is None or before.digest in known.refused else table.on_change
        if policy == "refuse":
            refuse_other_content(f"{name}/{partition}", draft.sha256, split_address(before.address)[1])
        change: Literal["grew", "replaced"] = "grew"
        if name in self.deliveries.whole:
            if policy == "append":
                refuse_other_key(before.private, before.columns, private, f"{item.where}: {name}/{partition}")
            gone, more = self._differing(before, old, draft)
            if not gone and not more and draft.columns == before.columns:
                return None
            if policy == "append":
                refuse_gone(gone, f"{item.where}: {name}/{partition}")
                refuse_repeats(spec, name, f"{item.where}: {name}/{partition}", draft, grown=True)
            change = "replaced" if gone else "grew"
        elif policy == "append":
            refuse_other_key(before.private, before.columns, private, f"{item.where}: {name}/{partition}")
            draft = rows.draft(partition, before=old)
            refuse_repeats(spec, name, f"{item.where}: {name}/{partition} with the rows before", draft, grown=True)
        elif not begins_with(draft.path, old):
            change = "replaced"
        self.tell(f"{name}/{partition} {change}: {before.rows} rows, now {draft.rows}")
        address = store.adopt(f"{name}/{partition}", draft.path, draft.sha256)
        return NewVersion(draft, address, change, before.digest, known.positions[partition], added)

    def _differing(self, before: DataVersion, old: Path, draft: Draft) -> tuple[int, int]:
        """How many rows of the version before the draft has not, and how many more it has; a query has no order."""
        from kaizen.adapters.row_changes import count_changes

        if before.columns.keys() - draft.columns.keys():
            return before.rows, draft.rows
        with self.loop.store.scratch() as folder:
            found = count_changes(old, draft.path, (), folder)
        return found.removed, found.added

    def commit(self, name: str, landed: Sequence[Landed]) -> dict[str, Pointer]:
        """Commit what has landed to the data repository, and make it durable in the store. Raises ``DataRefused``."""
        files = [
            self._new_file(name, partition, new, each) for each in landed for partition, new in each.versions.items()
        ]
        with ThreadPoolExecutor(1) as beside:
            kept = beside.submit(self.loop.store.sync, [v.address for each in landed for v in each.versions.values()])
            pointers = self.loop.data.commit(files) if files else {}
            kept.result()
        return pointers

    def record(
        self, name: str, landed: Sequence[Landed], pointers: Mapping[str, Pointer], attempt: int = 1
    ) -> list[DataVersion]:
        """Append the records of what was committed: then it is there, all of it."""
        made = [
            [self._version(name, p, v, each, pointers[data_path(name, p)]) for p, v in each.versions.items()]
            for each in landed
        ]
        fault_point("ingest.after_commit")
        try:
            appended = self.loop.ledger.append_all(self.loop.name, self._events(name, landed, made))
        except (HeadMoved, KeyConflict):
            if attempt == _PATIENCE:
                raise
            self.known[name] = look(self.loop, name)
            return self.take_again(name, landed, attempt + 1)
        fault_point("ingest.after_append")
        self._remember(name, made, {event.subject: event.subject_seq for event in appended})
        for each in landed:
            self.deliveries.release(name, each.item)
        return list(chain.from_iterable(made))

    def take_again(self, name: str, landed: Sequence[Landed], attempt: int = 1) -> list[DataVersion]:
        """Take deliveries up again on what is there now, because somebody else came first."""
        self.landed -= {each.key for each in landed}
        if name in self.deliveries.marks:
            # They went on from the same watermark: what is new begins elsewhere now.
            return self.take_all(name)
        return [version for each in landed for version in self._take_one(name, each.item, attempt)]

    def _events(self, name: str, landed: Sequence[Landed], made: Sequence[Sequence[DataVersion]]) -> list[NewEvent]:
        """What is to be recorded of deliveries: the versions of each, then itself."""
        expect = self.deliveries.marks.get(name)
        if expect is None and any(each.teaches for each in landed):
            expect = self.known_of(name).delivered
        events = []
        for each, versions in zip(landed, made, strict=True):
            for version, new in zip(versions, each.versions.values(), strict=True):
                part = f"{name}/{version.partition}"
                key = "/".join([part, version.address, *([new.previous] if new.previous else [])])
                events.append(self.loop.new_event(f"data/{part}", version, key, expect=new.expect))
            delivery = Delivery(name, each.source, each.partitions, each.item.watermark())
            events.append(self.loop.new_event(f"source/{name}", delivery, each.key, expect=expect))
            expect = None
        return events

    def _remember(self, name: str, made: Sequence[Sequence[DataVersion]], positions: Mapping[str, int]) -> None:
        """What is there now, by the positions of what was recorded."""
        known, delivered = self.known_of(name), positions[f"source/{name}"]
        for version in chain.from_iterable(made):
            known.versions[version.partition] = version
            known.positions[version.partition] = positions[f"data/{name}/{version.partition}"]
        if delivered != known.delivered + len(made):
            # Somebody else delivered meanwhile: what comes next is held against that as well.
            self.known[name] = look(self.loop, name)
        known.delivered = delivered

    def _new_file(self, name: str, partition: str, new: NewVersion, landed: Landed) -> NewFile:
        draft = new.draft
        facts = entry(
            self.loop.spec,
            name,
            partition,
            draft.columns,
            rows=draft.rows,
            size=draft.size,
            sha256=draft.sha256,
            delivered=landed.source.uri,
        )
        source = self.loop.store.file_path(draft.sha256)
        return NewFile(data_path(name, partition), source, f"ingest {name}/{partition}", facts, draft.md5)

    def _version(self, name: str, partition: str, new: NewVersion, landed: Landed, pointer: Pointer) -> DataVersion:
        from kaizen.adapters.examples import make_label
        from kaizen.adapters.tables import count_classes, read_columns

        loop, spec, draft = self.loop, self.loop.spec, new.draft
        file = loop.store.file_path(draft.sha256)
        labels = {}
        if name in (spec.label_tables or (spec.main,)) and spec.problem.task == "classification":
            labels = count_classes(make_label(spec, read_columns(file, [spec.truth])))
        return DataVersion(
            table=name,
            partition=partition,
            address=new.address,
            md5=pointer.md5,
            size=pointer.size,
            rows=draft.rows,
            columns=draft.columns,
            source=landed.source,
            commit=pointer.commit,
            labels=labels,
            change=new.change,
            previous=new.previous,
            added=new.added,
            private=landed.private,
        )


class _Folders:
    """Folders below ``scratch``, one for each delivery; one that is empty again serves another."""

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._made, self._empty = scratch, 0, list[Path]()

    def take(self) -> Path:
        """An empty one."""
        if self._empty:
            return self._empty.pop()
        self._made += 1
        folder = self._scratch / str(self._made)
        folder.mkdir()
        return folder

    def give_back(self, folder: Path) -> None:
        """Use it for another one, if nothing is left in it."""
        if any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            self._empty.append(folder)


def _cut(loop: Loop, name: str, item: Item) -> Cut:
    try:
        from kaizen.adapters import landing
    except ImportError:
        raise MissingDependency("pyarrow", "data") from None
    spec, table = loop.spec, loop.spec.data.tables[name]
    if single := single_partition(table, item):
        return landing.whole(single)
    if table.key_column:
        return landing.by_column(table.key_column, item.where)
    return landing.by_time(spec.time_of(name), table.partition or "", spec.clock.timezone)
