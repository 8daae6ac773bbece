"""Whole partitions of a table or query with a watermark: those that new rows lie in, or those of a range.

The database is asked for a little more than that, since only here is known what a time of its means in the loop's zone;
which rows belong to a partition is decided as it is when they are cut.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import sqlalchemy as sa

from kaizen.adapters.landing import Cut, by_time, with_time
from kaizen.adapters.readers import choose
from kaizen.adapters.schemas import conform
from kaizen.adapters.sql_rows import names_of, no_rows, quote, reading, source_of, stream, to_batch
from kaizen.adapters.watermarks import parse, text_of
from kaizen.calendar import bounds
from kaizen.canonical import digest
from kaizen.sources import Wanted, Whence, Whole
from kaizen.spec import TableSpec

_MARGIN = dt.timedelta(days=2)
"""More than two zones can differ by, and a date from a time of it."""
_MANY = 500
"""Conditions of one statement; for more, all rows are read and sorted out here."""

Interval = tuple[dt.datetime | None, dt.datetime | None]


@dataclass
class PartitionsItem:
    """Whole partitions, in one snapshot of the database.

    Attributes:
        low: those with rows beyond it are taken; None: all. high: the watermark now. mark: a fingerprint of the rows
            within the table's lag, "" without one.
    """

    engine: sa.Engine
    table: TableSpec
    whence: Whence
    where: str
    low: Any
    high: Any
    mark: str = ""

    @property
    def name(self) -> str:
        return self.table.select

    @property
    def _whole(self) -> Whole:
        assert self.whence.whole
        return self.whence.whole

    def stamp(self) -> str:
        if self._whole.is_range:
            return ""
        return f"{self.mark} at {text_of(self.high)}" if self.mark else f"{text_of(self.low)} to {text_of(self.high)}"

    def settled(self) -> bool:
        return True

    def identity(self, scratch: Path) -> str:
        if self._whole.is_range:
            # Only the rows tell.
            return ""
        # With a lag the rows within it tell, and they are the same before and after the watermark has moved up.
        since = [self.mark] if self.mark else [text_of(self.low)]
        return digest([self.table.select, self.table.select, *since, text_of(self.high)])

    def refuse_changed(self, identity: str) -> None:
        """Nothing can: rows that came since are for the next time."""

    def original(self) -> Path | None:
        return None

    def watermark(self) -> str:
        """That of a range is the one before it: what else is new is still to come. It never goes back."""
        before = parse(self.whence.since, self.high)
        if self._whole.is_range or (before is not None and self.high < before):
            return self.whence.since
        return text_of(self.high)

    def batches(self, wanted: Wanted) -> Iterator[pa.RecordBatch]:
        with reading(self.engine, self.where) as connection:
            names = names_of(connection, self.table.select)
            chosen, first, given = choose(names, wanted), 1, False
            is_wanted, statement, values = self._statement(connection, names, chosen, wanted)
            for rows in stream(connection, statement, values):
                batch = conform(to_batch(chosen, rows), wanted, first)
                for part in self._parts(batch, wanted, first, is_wanted):
                    yield part
                    given = True
                first += batch.num_rows
            if not given:
                yield no_rows(chosen)

    def _parts(
        self, batch: pa.RecordBatch, wanted: Wanted, first: int, is_wanted: Callable[[str], bool] | None
    ) -> Iterator[pa.RecordBatch]:
        if is_wanted is None:
            yield batch
            return
        for partition, rows in self._cut(with_time(batch, self._whole.time, wanted, first)):
            if is_wanted(partition):
                yield rows

    @property
    def _cut(self) -> Cut:
        return by_time(self._whole.time, self.table.partition or "", self._whole.zone)

    @property
    def _source(self) -> str:
        return source_of(self.table.select)

    def _quote(self, name: str) -> str:
        return quote(self.engine, name)

    def _statement(
        self, connection: sa.Connection, names: Sequence[str], chosen: Sequence[str], wanted: Wanted
    ) -> tuple[Callable[[str], bool] | None, sa.TextClause, dict[str, Any]]:
        """Which partitions are wanted (None: all), and the statement that gives their rows and a few more."""
        is_wanted, conditions, values = self._reach(connection, wanted)
        if self.table.on_change == "append":
            # What is beyond is for the next delivery: were it here, it would be added twice.
            conditions = [*conditions, f"{self._quote(self.table.watermark)} <= :high"]
            values = {**values, "high": self.high}
        order = [n for n in dict.fromkeys([self.table.watermark, self._whole.time, *self._whole.keys]) if n in names]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        columns, order_by = (", ".join(map(self._quote, each)) for each in (chosen, order))
        query = f"SELECT {columns} FROM {self._source}{where} ORDER BY {order_by}"  # noqa: S608 - the spec's own query
        return is_wanted, sa.text(query), values

    def _reach(
        self, connection: sa.Connection, wanted: Wanted
    ) -> tuple[Callable[[str], bool] | None, list[str], dict[str, Any]]:
        whole = self._whole
        if whole.is_range and whole.time:
            return whole.holds, *self._near([(whole.since, whole.until)], self._sample(connection))
        if whole.is_range or self.low is None or not (whole.time or self.table.key_column):
            return None, [], {}
        if self.table.key_column:
            return None, *self._with_keys(connection)
        touched, sample = self._touched(connection, wanted)
        return touched.__contains__, *self._near(_intervals(touched, ZoneInfo(whole.zone)), sample)

    def _sample(self, connection: sa.Connection) -> Any:
        """A time as the database has it; None if it has none."""
        column: sa.ColumnClause[Any] = sa.column(self._whole.time)
        query = sa.select(column).select_from(sa.text(self._source)).where(column.is_not(None)).limit(1)
        return connection.execute(query).scalar()

    def _beyond(self, connection: sa.Connection, column: str) -> Iterator[Sequence[Sequence[Any]]]:
        """The values of a column in rows beyond the watermark."""
        name, watermark = self._quote(column), self._quote(self.table.watermark)
        query = sa.text(f"SELECT DISTINCT {name} FROM {self._source} WHERE {watermark} > :low")  # noqa: S608
        return stream(connection, query, {"low": self.low})

    def _touched(self, connection: sa.Connection, wanted: Wanted) -> tuple[set[str], Any]:
        """The partitions that rows beyond the watermark lie in, and one of their times."""
        touched: set[str] = set()
        sample, first = None, 1
        for rows in self._beyond(connection, self._whole.time):
            sample = next((time for (time,) in rows if time is not None), sample)
            times = with_time(to_batch([self._whole.time], rows), self._whole.time, wanted, first)
            touched.update(partition for partition, _ in self._cut(times))
            first += times.num_rows
        return touched, sample

    def _with_keys(self, connection: sa.Connection) -> tuple[list[str], dict[str, Any]]:
        """The condition for the partitions, of a table that is cut by a column."""
        found = [value for rows in self._beyond(connection, self.table.key_column) for (value,) in rows]
        if not found or len(found) > _MANY or None in found:
            return [], {}
        values = {f"key{number}": value for number, value in enumerate(found)}
        return [f"{self._quote(self.table.key_column)} IN ({', '.join(f':{name}' for name in values)})"], values

    def _near(self, intervals: Sequence[Interval], sample: Any) -> tuple[list[str], dict[str, Any]]:
        """A condition that holds for all rows with times in ``intervals``, in the type that the database has."""
        if not isinstance(sample, str | dt.date) or 2 * len(intervals) > _MANY:
            return [], {}
        name, values, parts = self._quote(self._whole.time), {}, []
        for number, (begin, end) in enumerate(intervals):
            ends = [("begin", ">=", begin, -_MARGIN), ("end", "<", end, _MARGIN)]
            limits = []
            for which, test, moment, margin in ends:
                # Python's years end soon.
                if moment is not None and dt.MINYEAR + 1 < moment.year < dt.MAXYEAR - 1:
                    limits.append(f"{name} {test} :{which}{number}")
                    values[f"{which}{number}"] = _like(sample, moment + margin)
            parts.append(f"({' AND '.join(limits) or '1 = 1'})")
        # A row without a time is for its reader to refuse.
        parts.append(f"{name} IS NULL")
        if isinstance(sample, str):
            # Other texts than ISO 8601 with dashes have another order.
            parts.append(f"{name} NOT LIKE :dated")
            values["dated"] = "____-__-__%"
        return [f"({' OR '.join(parts)})"], values


def _intervals(partitions: set[str], zone: ZoneInfo) -> list[Interval]:
    """The times of partitions; those that follow each other as one."""
    found: list[tuple[dt.datetime, dt.datetime]] = []
    for begin, end in sorted(bounds(partition, zone) for partition in partitions):
        if found and found[-1][1] == begin:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return list(found)


def _like(sample: str | dt.date, moment: dt.datetime) -> Any:
    utc = moment.astimezone(dt.UTC)
    if isinstance(sample, dt.datetime):
        # A time without a zone counts as UTC.
        return utc if sample.tzinfo else utc.replace(tzinfo=None)
    return utc.date() if isinstance(sample, dt.date) else utc.date().isoformat()
