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
from kaizen.errors import DataRefused, MissingDependency
from kaizen.secrets import find_secrets
from kaizen.sources import Whence
from kaizen.spec import TableSpec

ROWS = 10_000
"""Rows of a batch."""


@contextmanager
def reading(engine: sa.Engine, where: str) -> Iterator[sa.Connection]:
    """One snapshot of a database.

    Raises ``DataRefused``: KZ467 it cannot be reached, or refuses; KZ465 a value that cannot be computed or read.
    """
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection
    except (sa.exc.DataError, sa.exc.IntegrityError) as error:
        # What is wrong with a value quotes it.
        raise DataRefused(
            "KZ465",
            "the database has a value that cannot be computed or read",
            where=where,
            value=type(error.orig).__name__,
            limit="values that the query allows and the driver knows: times, for one, of the years 1 to 9999",
            action="cast the column in `select`, or leave it out; nullif(COLUMN, 'infinity') is for infinite dates",
        ) from None
    except sa.exc.DBAPIError as error:
        # The first line only: the rest is the statement and its parameters.
        raise out_of_reach(where, f"{type(error.orig).__name__}: {error.orig}".splitlines()[0][:200]) from None


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
    return _plain(f"({text}) AS delivered" if " " in text else text)


def _plain(text: str) -> str:
    # A colon would begin the name of a value.
    return text.replace(":", "\\:")


def quote(engine: sa.Engine, name: str) -> str:
    """The name of a column, for the text of a statement."""
    # Some dialects double a percent sign here, and each text is doubled besides.
    return _plain(engine.dialect.identifier_preparer.quote(name.replace("%", "\0")).replace("\0", "%"))


def names_of(connection: sa.Connection, select: str) -> list[str]:
    """The columns of a table or a query."""
    statement = sa.text(f"SELECT * FROM {source_of(select)} WHERE 1 = 0")  # noqa: S608 - the spec's own query
    # SQLAlchemy cuts SQLite's names at a dot.
    return list(connection.execute(statement, execution_options={"sqlite_raw_colnames": True}).keys())


def stream(
    connection: sa.Connection, statement: sa.TextClause, values: Mapping[str, Any]
) -> Iterator[Sequence[Sequence[Any]]]:
    """The rows of a statement, ``ROWS`` at a time as the database sends them."""
    options = connection.execution_options(stream_results=True, max_row_buffer=ROWS)
    # Without a number they would come one by one.
    return options.execute(statement, values).partitions(ROWS)


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
