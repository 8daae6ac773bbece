"""Tables and queries of SQL databases, through SQLAlchemy: streamed, and from a watermark on if there is one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from kaizen.adapters.readers import choose
from kaizen.adapters.schemas import conform
from kaizen.adapters.sql_rows import engine_of, names_of, no_rows, quote, reading, source_of, stream, to_batch
from kaizen.adapters.watermarks import earlier, parse, text_of
from kaizen.adapters.whole_queries import PartitionsItem
from kaizen.canonical import digest
from kaizen.sources import Item, Wanted, Whence
from kaizen.spec import TableSpec


@dataclass
class QueryItem:
    """What a table or a query gives from one watermark to the next, in one snapshot of the database.

    ``mark``: a fingerprint of the rows within the table's lag, for whoever only looks; "" without one.
    """

    engine: sa.Engine
    select: str
    column: str
    low: Any
    high: Any
    name: str
    where: str
    mark: str = ""

    def stamp(self) -> str:
        return f"{text_of(self.low)} to {text_of(self.high)}{self.mark}" if self.column else ""

    def settled(self) -> bool:
        return True

    def identity(self, scratch: Path) -> str:
        # Without a watermark only the rows tell whether anything is new.
        return digest([self.name, self.select, text_of(self.low), text_of(self.high)]) if self.column else ""

    def batches(self, wanted: Wanted) -> Iterator[pa.RecordBatch]:
        with reading(self.engine, self.where) as connection:
            chosen, first = choose(names_of(connection, self.select), wanted), 1
            for rows in stream(connection, *self._statement(chosen)):
                batch = to_batch(chosen, rows)
                yield conform(batch, wanted, first)
                first += batch.num_rows
            if first == 1:
                yield no_rows(chosen)

    def refuse_changed(self, identity: str) -> None:
        """Nothing can: a query sees one snapshot."""

    def original(self) -> Path | None:
        return None

    def watermark(self) -> str:
        return text_of(self.high) if self.column else ""

    def _statement(self, columns: Sequence[str]) -> tuple[sa.TextClause, dict[str, Any]]:
        chosen = _chosen(self.engine, self.select, columns)
        if not self.column:
            return sa.text(chosen), {}
        name = quote(self.engine, self.column)
        low = f"{name} > :low AND " if self.low is not None else ""
        given = {"high": self.high} | ({"low": self.low} if self.low is not None else {})
        return sa.text(f"{chosen} WHERE {low}{name} <= :high ORDER BY {name}"), given


def _chosen(engine: sa.Engine, select: str, columns: Sequence[str]) -> str:
    """The statement that gives these columns of a table or a query."""
    names = ", ".join(quote(engine, column) for column in columns)
    return f"SELECT {names} FROM {source_of(select)}"  # noqa: S608 - the spec's own query


def find_queries(table: TableSpec, whence: Whence) -> list[Item]:
    """One item: the rows beyond the watermark, or the partitions that hold them; none if there are none.

    Raises:
        DataRefused: KZ467 the database cannot be reached, or refuses; KZ465 a value that cannot be read.
        SpecError: KZ361 the lag does not fit the watermark.
        MissingDependency: no driver.
    """
    engine, url = engine_of(table, whence)
    where = f"{url}: {table.select}"
    if not table.watermark:
        return [QueryItem(engine, table.select, "", None, None, table.select, where)]
    column = quote(engine, table.watermark)
    with reading(engine, url) as connection:
        # S608: both are the spec's own.
        high = connection.execute(sa.text(f"SELECT max({column}) FROM {source_of(table.select)}")).scalar()  # noqa: S608
        low = parse(whence.since, high)
        if high is None:
            return []
        if whence.whole and whence.whole.is_range:
            return [PartitionsItem(engine, table, whence, where, low, high)]
        mark = ""
        if table.lag is not None:
            low = None if low is None else earlier(low, table.lag, whence.name)
            mark = _fingerprint(connection, table, column, earlier(high, table.lag, whence.name))
    if low is not None and high <= low:
        return []
    if whence.whole:
        return [PartitionsItem(engine, table, whence, where, low, high, mark)]
    return [QueryItem(engine, table.select, table.watermark, low, high, table.select, where, mark)]


def _fingerprint(connection: sa.Connection, table: TableSpec, column: str, beyond: Any) -> str:
    """Of the rows whose watermark is later: the same for the same rows in any order, and for no others.

    Of columns that are not wanted it holds the watermark only.
    """
    names = names_of(connection, table.select)
    wanted = [name for name in names if not table.columns or name in (*table.columns, table.watermark)]
    chosen = _chosen(connection.engine, table.select, wanted)
    query = sa.text(f"{chosen} WHERE {column} > :beyond")
    total = 0
    for row in chain.from_iterable(stream(connection, query, {"beyond": beyond})):
        # A sum of hashes: equal rows do not cancel each other out, as they would in an exclusive or.
        total += int.from_bytes(hashlib.sha256(repr(tuple(row)).encode()).digest())
    return f"{total % (1 << 256):064x}"
