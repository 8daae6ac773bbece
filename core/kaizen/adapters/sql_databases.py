"""Where a ledger can be kept: what SQLite and PostgreSQL do each in their own way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.event import listen
from sqlalchemy.exc import ArgumentError

from kaizen.adapters.sql_ledger import SqlLedger
from kaizen.adapters.sql_schema import EVENT
from kaizen.errors import LedgerError, MissingDependency
from kaizen.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_WAIT_SECONDS = 30
# Settings of a PostgreSQL transaction, not of its session: those leak through a pooler. A writer that hangs while it
# holds the lock is thrown out before those who wait for it give up.
_BOUNDS = (
    f"set_config('lock_timeout', '{_WAIT_SECONDS}s', true), "
    f"set_config('idle_in_transaction_session_timeout', '{_WAIT_SECONDS - 10}s', true)"
)


def open_sql_ledger(url: str) -> Ledger:
    """See ``kaizen.ledger.open_ledger``."""
    parsed = _parse(url)
    return _DATABASES[parsed.get_backend_name()](parsed)


def _parse(url: str) -> sa.URL:
    if "://" not in url:
        return sa.URL.create("sqlite", database=url)
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() in _DATABASES:
            return parsed
    except (ArgumentError, ValueError):
        pass
    # Only the scheme is told: the rest may hold a password.
    raise LedgerError(
        "KZ510",
        "no ledger can be kept there",
        where="ledger URL",
        value=f"{url.partition('://')[0]}://...",
        limit="a path, sqlite:///path or postgresql://user@host/database",
        action="correct the URL",
    )


class SqliteLedger(SqlLedger):
    """One file (WAL, every commit on disk), or memory: then all threads share its one connection."""

    def _make_engine(self, url: sa.URL) -> sa.Engine:
        in_memory = url.database in (None, "", ":memory:")
        engine = sa.create_engine(
            url,
            poolclass=sa.QueuePool,
            connect_args={"timeout": _WAIT_SECONDS, "check_same_thread": False},
            hide_parameters=True,
            **({"pool_size": 1, "max_overflow": 0} if in_memory else {}),
        )
        listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=FULL").close())
        return engine

    def _apply_migrations(self) -> None:
        with self._connected() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        super()._apply_migrations()

    def _lock(self, connection: sa.Connection, loop: str) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def _lock_all(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def _hold_snapshot(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    def _positions(self, connection: sa.Connection, count: int) -> Iterable[int]:
        last = connection.scalar(sa.select(sa.func.max(EVENT.c.position))) or 0
        return range(last + 1, last + 1 + count)

    def _continue_positions(self, connection: sa.Connection) -> None:
        """They always go on after the greatest."""


class PostgresLedger(SqlLedger):
    """PostgreSQL through psycopg 3; loops do not wait for each other, and nobody waits for ever."""

    # A single look-up needs no BEGIN and no ROLLBACK around it.
    read_options: Mapping[str, Any] = {"isolation_level": "AUTOCOMMIT"}

    def _make_engine(self, url: sa.URL) -> sa.Engine:
        try:
            return sa.create_engine(
                url.set(drivername="postgresql+psycopg"),
                isolation_level="READ COMMITTED",
                connect_args={"connect_timeout": 10},
                pool_pre_ping=True,
                hide_parameters=True,
            )
        except ImportError as error:
            raise MissingDependency("psycopg", "postgres") from error

    def _lock(self, connection: sa.Connection, loop: str) -> None:
        lock = f"SELECT {_BOUNDS}, pg_advisory_xact_lock(hashtextextended(:loop, 0))"
        connection.execute(sa.text(lock), {"loop": loop})

    def _lock_all(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"SELECT {_BOUNDS}")
        connection.exec_driver_sql("LOCK TABLE event IN EXCLUSIVE MODE")

    def _hold_snapshot(self, connection: sa.Connection) -> None:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def _positions(self, connection: sa.Connection, count: int) -> Iterable[int]:
        query = sa.text("SELECT nextval('event_position') FROM generate_series(1, :count)")
        return sorted(connection.scalars(query, {"count": count}))

    def _continue_positions(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("SELECT setval('event_position', max(position)) FROM event HAVING count(*) > 0")


_DATABASES: dict[str, type[SqlLedger]] = {
    "sqlite": SqliteLedger,
    "postgresql": PostgresLedger,
    "postgres": PostgresLedger,
}
