"""The tables of the SQL ledger, and the numbered migrations that make them in each database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from kaizen.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = 1000
"""Rows that are held in memory at once."""

_tables = sa.MetaData()
# The queries' view of the tables; what is in the database is made by the migrations.
EVENT = sa.Table(
    "event",
    _tables,
    sa.Column("position", sa.BigInteger, primary_key=True),
    sa.Column("loop", sa.Text),
    sa.Column("subject", sa.Text),
    sa.Column("subject_seq", sa.BigInteger),
    sa.Column("kind", sa.Text),
    sa.Column("key", sa.Text),
    sa.Column("turn", sa.Text),
    sa.Column("at", sa.Text),
    sa.Column("actor", sa.Text),
    sa.Column("payload", sa.Text),
    sa.Column("prev_hash", sa.Text),
    sa.Column("hash", sa.Text),
)
LEASE = sa.Table(
    "lease",
    _tables,
    sa.Column("resource", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text),
    sa.Column("epoch", sa.BigInteger),
    sa.Column("expires_at", sa.Text),
)
SCHEMA = sa.Table("kaizen_schema", _tables, sa.Column("number", sa.BigInteger, primary_key=True))


def _first_tables(integer: str, name: str) -> tuple[str, ...]:
    return (
        f"CREATE TABLE kaizen_schema (number {integer} PRIMARY KEY)",
        f"""CREATE TABLE event (
            position {integer} PRIMARY KEY, loop {name} NOT NULL, subject {name} NOT NULL,
            subject_seq {integer} NOT NULL, kind {name} NOT NULL, key {name} NOT NULL, turn {name} NOT NULL,
            at {name} NOT NULL, actor {name} NOT NULL, payload {name} NOT NULL, prev_hash {name} NOT NULL,
            hash {name} NOT NULL, UNIQUE (loop, subject, subject_seq), UNIQUE (loop, kind, key))""",
        "CREATE INDEX event_in_order ON event (loop, position)",
        f"""CREATE TABLE lease (
            resource {name} PRIMARY KEY, holder {name} NOT NULL, epoch {integer} NOT NULL,
            expires_at {name} NOT NULL)""",
    )


# Numbered from 1; a released migration is never changed, the next one is added.
MIGRATIONS: tuple[Mapping[str, tuple[str, ...]], ...] = (
    {
        "sqlite": (
            *_first_tables("INTEGER", "TEXT"),
            """CREATE TRIGGER event_no_update BEFORE UPDATE ON event
                BEGIN SELECT RAISE(ABORT, 'event is append-only'); END""",
            """CREATE TRIGGER event_no_delete BEFORE DELETE ON event
                BEGIN SELECT RAISE(ABORT, 'event is append-only'); END""",
            # INSERT OR REPLACE deletes without asking the trigger above.
            """CREATE TRIGGER event_no_replace BEFORE INSERT ON event WHEN EXISTS (
                SELECT 1 FROM event WHERE position = NEW.position
                UNION ALL SELECT 1 FROM event
                    WHERE loop = NEW.loop AND subject = NEW.subject AND subject_seq = NEW.subject_seq
                UNION ALL SELECT 1 FROM event WHERE loop = NEW.loop AND kind = NEW.kind AND key = NEW.key
            ) BEGIN SELECT RAISE(ABORT, 'event is append-only'); END""",
        ),
        "postgresql": (
            # Bytewise, as in SQLite: the order of names must not depend on the database's language.
            *_first_tables("BIGINT", 'TEXT COLLATE "C"'),
            "CREATE SEQUENCE event_position",
            """CREATE FUNCTION event_refuse_change() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'event is append-only'; END $$""",
            """CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event
                FOR EACH STATEMENT EXECUTE FUNCTION event_refuse_change()""",
        ),
    },
)


def schema_number(connection: sa.Connection, where: str) -> int:
    """How many migrations the database at ``where`` has seen. Raises ``LedgerError`` (KZ509) if more than are known."""
    if not sa.inspect(connection).has_table(SCHEMA.name):
        return 0
    found = int(connection.scalar(sa.select(sa.func.max(SCHEMA.c.number))) or 0)
    if found > len(MIGRATIONS):
        raise LedgerError(
            "KZ509",
            "this ledger was written by a newer release of Kaizen",
            where=where,
            value=f"schema {found}",
            limit=f"schema {len(MIGRATIONS)}",
            action="install the release that migrated it, or a newer one: pip install -U kaizen-mlops",
        )
    return found


def apply_migrations(connection: sa.Connection, found: int) -> None:
    """Apply the migrations after number ``found``, within the caller's transaction."""
    for number in range(found, len(MIGRATIONS)):
        for statement in MIGRATIONS[number][connection.dialect.name]:
            connection.exec_driver_sql(statement)
        connection.execute(sa.insert(SCHEMA), {"number": number + 1})
