"""Tables and queries of SQL databases, through SQLAlchemy: streamed, and from a watermark on if there is one."""

from __future__ import annotations

import datetime as dt
import decimal
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from kaizen.adapters.objects import out_of_reach
from kaizen.adapters.readers import choose
from kaizen.adapters.schemas import conform
from kaizen.canonical import digest
from kaizen.errors import MissingDependency
from kaizen.secrets import find_secrets
from kaizen.sources import Item, Wanted, Whence
from kaizen.spec import TableSpec

_ROWS = 10_000


@dataclass
class QueryItem:
    """What a table or a query gives from one watermark to the next, in one snapshot of the database."""

    engine: sa.Engine
    select: str
    column: str
    low: Any
    high: Any
    name: str
    where: str

    def stamp(self) -> str:
        return f"{_text(self.low)} to {_text(self.high)}" if self.column else ""

    def settled(self) -> bool:
        return True

    def identity(self, scratch: Path) -> str:
        # Without a watermark only the rows tell whether anything is new.
        return digest([self.name, self.select, _text(self.low), _text(self.high)]) if self.column else ""

    def batches(self, wanted: Wanted) -> Iterator[pa.RecordBatch]:
        with _reading(self.engine, self.where) as connection:
            found = connection.execution_options(yield_per=_ROWS).execute(*self._statement())
            names = list(found.keys())
            chosen, first = choose(names, wanted), 1
            for rows in found.partitions():
                batch = _to_batch(names, rows).select(chosen)
                yield conform(batch, wanted, first)
                first += batch.num_rows
            if first == 1:
                empty = pa.schema([(name, pa.null()) for name in chosen])
                yield pa.RecordBatch.from_arrays([pa.nulls(0)] * len(chosen), schema=empty)

    def refuse_changed(self, identity: str) -> None:
        """Nothing can: a query sees one snapshot."""

    def original(self) -> Path | None:
        return None

    def watermark(self) -> str:
        return _text(self.high) if self.column else ""

    def _statement(self) -> tuple[sa.TextClause, dict[str, Any]]:
        if not self.column:
            return sa.text(f"SELECT * FROM {_source(self.select)}"), {}  # noqa: S608 - the spec's own query
        name = self.engine.dialect.identifier_preparer.quote(self.column)
        low = f"{name} > :low AND " if self.low is not None else ""
        given = {"high": self.high} | ({"low": self.low} if self.low is not None else {})
        query = f"SELECT * FROM {_source(self.select)} WHERE {low}{name} <= :high ORDER BY {name}"  # noqa: S608
        return sa.text(query), given


def find_queries(table: TableSpec, whence: Whence) -> list[Item]:
    """One item: the rows beyond the watermark; none if there are none.

    Raises ``DataRefused`` KZ467: the database cannot be reached, or refuses. ``MissingDependency``: no driver.
    """
    engine, where = _engine(table, whence)
    if not table.watermark:
        return [QueryItem(engine, table.select, "", None, None, table.select, f"{where}: {table.select}")]
    name = engine.dialect.identifier_preparer.quote(table.watermark)
    with _reading(engine, where) as connection:
        # S608: both are the spec's own.
        high = connection.execute(sa.text(f"SELECT max({name}) FROM {_source(table.select)}")).scalar()  # noqa: S608
    low = _parse(whence.since, high)
    if high is None or (low is not None and high <= low):
        return []
    return [QueryItem(engine, table.select, table.watermark, low, high, table.select, f"{where}: {table.select}")]


@contextmanager
def _reading(engine: sa.Engine, where: str) -> Iterator[sa.Connection]:
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection
    except sa.exc.DBAPIError as error:
        # The first line only: the rest is the statement and its parameters. What is wrong with a value quotes it.
        told = f"{type(error.orig).__name__}: {error.orig}".splitlines()[0][:200]
        quotes = isinstance(error, sa.exc.DataError | sa.exc.IntegrityError)
        raise out_of_reach(where, type(error.orig).__name__ if quotes else told) from None


def _engine(table: TableSpec, whence: Whence) -> tuple[sa.Engine, str]:
    url = sa.make_url(table.uri)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and url.database:
        # A database that is not there would be made by looking at it.
        url = url.set(database=f"file:{(whence.base / url.database).resolve()}", query={"mode": "ro", "uri": "true"})
    if table.secret:
        key = f"data.tables.{whence.name}.secret"
        found = find_secrets([table.secret], whence.secrets, os.environ, where=key)
        url = url.set(password=found.values[table.secret])
    try:
        return sa.create_engine(url, poolclass=sa.NullPool), url.render_as_string(hide_password=True)
    except ModuleNotFoundError as error:
        raise MissingDependency(str(error.name), "postgres") from None


def _source(select: str) -> str:
    text = select.strip().rstrip(";")
    return f"({text}) AS delivered" if " " in text else text


def _to_batch(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True))
    return pa.RecordBatch.from_arrays([_column(values) for values in columns], names=list(names))


def _column(values: Sequence[Any]) -> pa.Array:
    first = next((v for v in values if v is not None), None)
    if isinstance(first, decimal.Decimal):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    if isinstance(first, dt.datetime):
        return pa.array(values, pa.timestamp("us", "UTC" if first.tzinfo else None))
    if isinstance(first, float):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    if isinstance(first, str | int | bool | bytes | dt.date | None):
        try:
            return pa.array(values)
        except pa.ArrowException:
            return pa.array([None if v is None else str(v) for v in values], pa.string())
    return pa.array([None if v is None else str(v) for v in values], pa.string())


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, dt.datetime | dt.date) else str(value)


def _parse(text: str, like: Any) -> Any:
    """A watermark as it was kept, in the type that the database has for it now."""
    if not text or like is None:
        return None
    if isinstance(like, dt.datetime):
        return dt.datetime.fromisoformat(text)
    if isinstance(like, dt.date):
        return dt.date.fromisoformat(text)
    return type(like)(text)
