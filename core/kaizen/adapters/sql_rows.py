"""What a database gives, as Arrow batches: its engine, one snapshot of it, its rows."""

from __future__ import annotations

import datetime as dt
import decimal
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from kaizen.adapters.objects import out_of_reach
from kaizen.errors import MissingDependency
from kaizen.secrets import find_secrets
from kaizen.sources import Whence
from kaizen.spec import TableSpec

ROWS = 10_000
"""Rows of a batch."""


@contextmanager
def reading(engine: sa.Engine, where: str) -> Iterator[sa.Connection]:
    """One snapshot of a database. Raises ``DataRefused`` KZ467 if it cannot be reached, or refuses."""
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


def engine_of(table: TableSpec, whence: Whence) -> tuple[sa.Engine, str]:
    """The engine of a table's database, and its URL for people. Raises ``MissingDependency``: no driver."""
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


def source_of(select: str) -> str:
    """A table or a query, for the FROM of a statement."""
    text = select.strip().rstrip(";")
    return f"({text}) AS delivered" if " " in text else text


def stream(
    connection: sa.Connection, statement: sa.TextClause, values: Mapping[str, Any]
) -> tuple[list[str], Iterator[Sequence[Sequence[Any]]]]:
    """The names of a statement's columns, and its rows, ``ROWS`` at a time as the database sends them."""
    options = connection.execution_options(stream_results=True, max_row_buffer=ROWS)
    found = options.execute(statement, values)
    # Without a number they would come one by one.
    return list(found.keys()), found.partitions(ROWS)


def to_batch(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    """Rows of a database as a batch; each column in the type of its first value."""
    columns = list(zip(*rows, strict=True))
    return pa.RecordBatch.from_arrays([_column(values) for values in columns], names=list(names))


def no_rows(names: Sequence[str]) -> pa.RecordBatch:
    """A batch of these columns without rows."""
    empty = pa.schema([(name, pa.null()) for name in names])
    return pa.RecordBatch.from_arrays([pa.nulls(0)] * len(names), schema=empty)


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
