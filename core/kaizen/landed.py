"""What is there of a table, and what has landed on its way there, in groups."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from kaizen.loop import Loop
from kaizen.ports import Pointer
from kaizen.records import DataVersion, Source, ValidationReport
from kaizen.sources import Item
from kaizen.store import split_address

if TYPE_CHECKING:
    from kaizen.adapters.landing import Draft

_TOGETHER = (256, 256 << 20)
"""Deliveries, and bytes of them, whose versions are committed together: a commit costs more than a small file."""


@dataclass
class Known:
    """What is there of a table: the newest version of each partition and its position, and what was refused.

    ``delivered`` is the position of the newest delivery. ``types`` and ``order`` of its columns are as if what waits
    were there already: together is as one by one. The order is that of ``newest``, the last partition by name.
    """

    versions: dict[str, DataVersion]
    positions: dict[str, int]
    refused: set[str]
    types: dict[str, str]
    order: tuple[str, ...]
    newest: str
    delivered: int

    def learn(self, partition: str, columns: Mapping[str, str], given: Mapping[str, str]) -> bool:
        """Hold the next delivery against this one; whether that changes the types. ``given``: those of the spec."""
        from kaizen.adapters.schemas import merge_types

        before, self.types = self.types, merge_types([self.types, columns]) | dict(given)
        if partition >= self.newest:
            self.newest, self.order = partition, tuple(columns)
        return self.types != before

    def added(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that are new; of a table's first delivery none is, later ones of a call have its order."""
        return [name for name in names if name not in self.types] if self.versions or self.order else []

    @property
    def expected(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Types and order of the columns of the next delivery."""
        return self.types, self.order


def look(loop: Loop, name: str) -> Known:
    """What is there of table ``name`` now."""
    from kaizen.adapters.landing import column_order
    from kaizen.adapters.schemas import merge_types

    # First of all: what comes later than this look, is later than this position.
    delivered = loop.ledger.head(loop.name, f"source/{name}")
    heads = loop.ledger.heads(loop.name, prefix=(prefix := f"data/{name}/"))
    versions = {subject.removeprefix(prefix): DataVersion.from_json(e.payload) for subject, e in heads.items()}
    newest = max(versions, default="")
    reports = loop.heads(ValidationReport, f"validation/{name}/")
    return Known(
        versions,
        {subject.removeprefix(prefix): event.subject_seq for subject, event in heads.items()},
        {r.data for r in reports.values() if r.verdict == "refused"},
        merge_types(v.columns for v in versions.values()) | dict(loop.spec.data.tables[name].types),
        column_order(loop.store.file_path(split_address(versions[newest].address)[1])) if newest else (),
        newest,
        delivered.subject_seq if delivered else 0,
    )


@dataclass(frozen=True)
class NewVersion:
    """One partition of a delivery that is to become a version. ``expect``: position of the version before, or 0."""

    draft: Draft
    address: str
    change: Literal["", "grew", "replaced"]
    previous: str
    expect: int
    added: tuple[str, ...]


@dataclass
class Landed:
    """A delivery on its way: its rows are in the store, nobody knows of them yet."""

    item: Item
    key: str
    source: Source
    partitions: tuple[str, ...]
    private: dict[str, str]
    versions: dict[str, NewVersion] = field(default_factory=dict)
    teaches: bool = False
    """Whether it has columns that nobody knew: who else brings such at the same moment, may know other types."""


@dataclass
class _Group:
    """Deliveries that are committed together, what they were held against last, and what they are made of."""

    landed: list[Landed] = field(default_factory=list)
    known: Known | None = None
    partitions: set[str] = field(default_factory=set)
    size: int = 0

    def add(self, landed: Landed, known: Known) -> None:
        self.landed.append(landed)
        self.known = known
        self.partitions |= landed.versions.keys()
        self.size += sum(version.draft.size for version in landed.versions.values())

    @property
    def is_full(self) -> bool:
        count, size = _TOGETHER
        return len(self.landed) >= count or self.size >= size


class Taker(Protocol):
    """Whoever takes deliveries, as ``Line`` needs it; see ``kaizen.ingest``."""

    def known_of(self, name: str) -> Known:
        """What was there of a table at the last look."""

    def learn(self, name: str, landed: Landed) -> bool:
        """Hold the next delivery against this one; whether it has columns that nobody knew."""

    def commit(self, name: str, landed: Sequence[Landed]) -> dict[str, Pointer]:
        """Commit what has landed to the data repository, and make it durable in the store."""

    def record(self, name: str, landed: Sequence[Landed], pointers: Mapping[str, Pointer]) -> list[DataVersion]:
        """Append the records of what was committed."""

    def take_again(self, name: str, landed: Sequence[Landed]) -> list[DataVersion]:
        """Take deliveries up again on what is there now."""


class Line:
    """What has landed of a table on its way into repository and ledger, in groups.

    While a group is committed ``beside``, the next one is read and lands. Its records are appended before the commit
    of the next one begins, so that a repository that is ahead of the ledger is so by one group at most.

    Attributes:
        versions: those that are there.
    """

    def __init__(self, taker: Taker, name: str, beside: ThreadPoolExecutor) -> None:
        self.versions: list[DataVersion] = []
        self._taker, self._name, self._beside = taker, name, beside
        self._waiting = _Group()
        self._under_way: tuple[_Group, Future[dict[str, Pointer]]] | None = None

    def add(self, landed: Landed) -> None:
        """Take one more; ``clear`` was called for its partitions."""
        known = self._taker.known_of(self._name)
        self._waiting.add(landed, known)
        if not known.versions:
            # A table's first delivery is recorded by itself: if somebody else was faster, it alone is taken again.
            self.finish()
        elif self._waiting.is_full:
            self._commit()

    def clear(self, partitions: Collection[str]) -> None:
        """Finish what there is, if it is of these partitions."""
        groups = [self._waiting, *(self._under_way or ())[:1]]
        if any(not group.partitions.isdisjoint(partitions) for group in groups):
            self.finish()

    def finish(self) -> None:
        """Have everything there. Raises what commit and record raise; then nothing is left on its way."""
        self._commit()
        self._record()

    def _commit(self) -> None:
        self._record()
        group, self._waiting = self._waiting, _Group()
        if group.landed:
            self._under_way = group, self._beside.submit(self._taker.commit, self._name, group.landed)

    def _record(self) -> None:
        if not self._under_way:
            return
        (group, pointers), self._under_way = self._under_way, None
        waiting, self._waiting = self._waiting, _Group()
        self.versions += self._taker.record(self._name, group.landed, pointers.result())
        if waiting.landed and waiting.known is not self._taker.known_of(self._name):
            # Somebody else has delivered meanwhile: what waits is held against that as well.
            if any(each.teaches for each in waiting.landed):
                self.versions += self._taker.take_again(self._name, waiting.landed)
                return
            for each in waiting.landed:
                self._taker.learn(self._name, each)
        self._waiting = waiting
