"""The ledger in SQL: SQLite for one machine, PostgreSQL for more.

One writer at a time: SQLite's write lock, or PostgreSQL's advisory lock of the loop, is taken before anything is
read. So a writer sees the newest head, positions grow in commit order, and the unique constraints only ever stop a
writer that did not ask for the lock. An append may be repeated: its keys tell what the first try left behind.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from kaizen.adapters.sql_backup import check_events, open_backup, read_backup, write_backup
from kaizen.adapters.sql_leases import (
    delete_lease,
    extend_lease,
    find_lease,
    find_leases,
    held_by_another,
    held_no_more,
    is_same_grant,
    lease_event,
    lease_subject,
    store_lease,
)
from kaizen.adapters.sql_schema import EVENT, MIGRATIONS, PAGE, apply_migrations, schema_number
from kaizen.errors import LedgerError
from kaizen.faults import fault_point
from kaizen.ledger import (
    LEASES,
    Event,
    Lease,
    NewEvent,
    Row,
    VerifyReport,
    anchor_of,
    check_names,
    event_of,
    plan_append,
    stored_time,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

# Engines of a parent process: a child must neither use nor close its connections, so it keeps them alive.
_inherited: list[sa.Engine] = []


class SqlLedger(ABC):
    """What both databases share; ``where`` is the URL without password."""

    read_options: Mapping[str, Any] = {}

    def __init__(self, url: sa.URL) -> None:
        self.where = url.set(query={}).render_as_string(hide_password=True)
        self._url, self._own_engine, self._pid = url, self._make_engine(url), os.getpid()
        self._migrate()

    def append(
        self,
        loop: str,
        subject: str,
        kind: str,
        key: str,
        payload: Mapping[str, Any],
        *,
        turn: str,
        at: datetime,
        actor: str,
        expect: int | None = None,
    ) -> Event:
        new = NewEvent(subject, kind, key, payload, turn=turn, at=at, actor=actor, expect=expect)
        return self.append_all(loop, [new])[0]

    def append_all(self, loop: str, events: Sequence[NewEvent]) -> list[Event]:
        check_names(loop, events)
        try:
            return self._append_once(loop, events)
        except LedgerError as error:
            if not _may_have_happened(error.__cause__):
                raise
        return self._append_once(loop, events)

    def head(self, loop: str, subject: str) -> Event | None:
        return self._one(_HEAD, loop=loop, subject=subject)

    def find(self, loop: str, kind: str, key: str) -> Event | None:
        return self._one(_BY_KEY, loop=loop, kind=kind, key=key)

    def known_keys(self, loop: str, kind: str, keys: Collection[str]) -> set[str]:
        found: set[str] = set()
        rest = list(keys)
        with self._engine.connect() as connection:
            while rest:
                some, rest = rest[:PAGE], rest[PAGE:]
                query = sa.select(EVENT.c.key).where(EVENT.c.loop == loop, EVENT.c.kind == kind, EVENT.c.key.in_(some))
                found.update(connection.execute(query).scalars())
        return found

    def events(
        self,
        loop: str | None = None,
        *,
        subject: str | None = None,
        kind: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int = 0,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> Iterator[Event]:
        given = {"loop": loop, "subject": subject, "kind": kind}
        query = sa.select(EVENT).where(EVENT.c.position > after)
        query = query.where(*(EVENT.c[name] == value for name, value in given.items() if value is not None))
        if since is not None:
            query = query.where(EVENT.c.at >= stored_time(since))
        if until is not None:
            query = query.where(EVENT.c.at <= stored_time(until))
        # One chain is in the same order by either; its own index leads straight to it.
        order = EVENT.c.position if loop is None or subject is None else EVENT.c.subject_seq
        return self._pages(query, order, newest_first, limit)

    def heads(self, loop: str, *, prefix: str = "", as_of: datetime | None = None) -> dict[str, Event]:
        of_loop = EVENT.c.loop == loop, EVENT.c.subject >= prefix, EVENT.c.subject < prefix + "\U0010ffff"
        subjects = _distinct(EVENT.c.subject, *of_loop)
        newest = _newest(loop, subjects.c.name).with_only_columns(EVENT.c.position)
        if as_of is not None:
            newest = newest.where(EVENT.c.at <= stored_time(as_of))
        positions = sa.select(newest.correlate(subjects).scalar_subquery()).select_from(subjects)
        rows = self._rows(sa.select(EVENT).where(EVENT.c.position.in_(positions)))
        return {row["subject"]: event_of(row) for row in sorted(rows, key=lambda row: str(row["subject"]))}

    def loops(self) -> list[str]:
        names = _distinct(EVENT.c.loop)
        rows = self._rows(sa.select(names).where(names.c.name != LEASES))
        return sorted(row["name"] for row in rows)

    def acquire(self, resource: str, holder: str, ttl: timedelta, now: datetime) -> Lease:
        with self._writing(LEASES) as connection:
            held = find_lease(connection, resource)
            if held is None or held.expires_at <= now:
                return self._grant(connection, Lease(resource, holder, 0, now + ttl), held, now)
            if held.holder != holder:
                raise held_by_another(held)
            return extend_lease(connection, held, now + ttl)

    def renew(self, lease: Lease, ttl: timedelta, now: datetime) -> Lease:
        with self._writing(LEASES) as connection:
            held = find_lease(connection, lease.resource)
            if not is_same_grant(held, lease):
                raise held_no_more(lease, held)
            return extend_lease(connection, lease, now + ttl)

    def release(self, lease: Lease, now: datetime) -> None:
        with self._writing(LEASES) as connection:
            if is_same_grant(find_lease(connection, lease.resource), lease):
                delete_lease(connection, lease.resource)
                self._append(connection, LEASES, [lease_event("LeaseReleased", lease, now)])

    def lease(self, resource: str) -> Lease | None:
        with self._reading() as connection:
            return find_lease(connection, resource)

    def leases(self, prefix: str) -> list[Lease]:
        with self._reading() as connection:
            return find_leases(connection, prefix)

    def verify(self) -> VerifyReport:
        with self._snapshot() as connection:
            return check_events(connection)

    def backup(self, path: Path) -> VerifyReport:
        with self._snapshot() as connection:
            return write_backup(connection, path, self.where)

    def restore(self, path: Path) -> VerifyReport:
        with open_backup(path) as lines, self._writing_all() as connection:
            report = read_backup(connection, path, lines, self.where)
            self._continue_positions(connection)
        return report

    def anchor(self) -> str:
        last = sa.select(EVENT.c.loop, EVENT.c.subject, sa.func.max(EVENT.c.subject_seq).label("subject_seq"))
        heads = last.group_by(EVENT.c.loop, EVENT.c.subject).subquery()
        same = [EVENT.c[name] == heads.c[name] for name in ("loop", "subject", "subject_seq")]
        return anchor_of(self._rows(sa.select(EVENT).join(heads, sa.and_(*same))))

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abstractmethod
    def _make_engine(self, url: sa.URL) -> sa.Engine:
        """An engine with no connection yet."""

    @abstractmethod
    def _lock(self, connection: sa.Connection, loop: str) -> None:
        """Begin a write: nobody else appends to the loop until the transaction ends."""

    @abstractmethod
    def _lock_all(self, connection: sa.Connection) -> None:
        """Begin a write: nobody else appends anything."""

    @abstractmethod
    def _hold_snapshot(self, connection: sa.Connection) -> None:
        """Begin a read in which nothing moves."""

    @abstractmethod
    def _positions(self, connection: sa.Connection, count: int) -> Iterable[int]:
        """The next positions, in order."""

    @abstractmethod
    def _continue_positions(self, connection: sa.Connection) -> None:
        """Let positions go on after the greatest that was restored."""

    @property
    def _engine(self) -> sa.Engine:
        if self._pid != os.getpid():
            _inherited.append(self._own_engine)
            self._own_engine, self._pid = self._make_engine(self._url), os.getpid()
        return self._own_engine

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _unanswered(self.where, error) from error

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._connected() as connection:
            yield connection.execution_options(**self.read_options)

    @contextmanager
    def _snapshot(self) -> Iterator[sa.Connection]:
        with self._connected() as connection:
            self._hold_snapshot(connection)
            yield connection

    @contextmanager
    def _writing(self, loop: str) -> Iterator[sa.Connection]:
        with self._connected() as connection:
            self._lock(connection, loop)
            yield connection
            connection.commit()

    @contextmanager
    def _writing_all(self) -> Iterator[sa.Connection]:
        with self._connected() as connection:
            self._lock_all(connection)
            yield connection
            connection.commit()

    def _rows(self, query: sa.Select[Any], **given: str) -> Sequence[Row]:
        with self._reading() as connection:
            return _rows(connection, query, **given)

    def _one(self, query: sa.Select[Any], **given: str) -> Event | None:
        rows = self._rows(query, **given)
        return event_of(rows[0]) if rows else None

    def _pages(
        self, query: sa.Select[Any], order: sa.Column[Any], newest_first: bool, limit: int | None
    ) -> Iterator[Event]:
        ordered, left = query.order_by(order.desc() if newest_first else order), limit
        page = ordered
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            rows = self._rows(page.limit(size))
            yield from map(event_of, rows)
            if len(rows) < size:
                return
            left = None if left is None else left - size
            last = rows[-1][order.name]
            page = ordered.where(order < last if newest_first else order > last)

    def _append_once(self, loop: str, events: Sequence[NewEvent]) -> list[Event]:
        with self._writing(loop) as connection:
            appended = self._append(connection, loop, events)
            fault_point("ledger.append.before_commit")
        fault_point("ledger.append.after_commit")
        return appended

    def _append(self, connection: sa.Connection, loop: str, events: Sequence[NewEvent]) -> list[Event]:
        subjects = dict.fromkeys(new.subject for new in events)
        heads = {subject: _rows(connection, _HEAD, loop=loop, subject=subject) for subject in subjects}
        newest = {subject: rows[0] for subject, rows in heads.items() if rows}
        rows, fresh = plan_append(loop, events, _found(connection, loop, events), newest)
        if fresh:
            for row, position in zip(fresh, self._positions(connection, len(fresh)), strict=True):
                row["position"] = position
            connection.execute(sa.insert(EVENT), fresh)
        return [event_of(row) for row in rows]

    def _grant(self, connection: sa.Connection, wanted: Lease, held: Lease | None, now: datetime) -> Lease:
        # The epoch goes on from the events, which survive a release and a restore.
        last = _rows(connection, _HEAD, loop=LEASES, subject=lease_subject(wanted.resource))
        granted = replace(wanted, epoch=event_of(last[0]).payload["epoch"] + 1 if last else 1)
        new = lease_event("LeaseTaken" if held else "LeaseGranted", granted, now, held)
        check_names(LEASES, [new])
        self._append(connection, LEASES, [new])
        store_lease(connection, granted)
        return granted

    def _migrate(self) -> None:
        with self._connected() as connection:
            found = schema_number(connection, self.where)
        if found < len(MIGRATIONS):
            self._apply_migrations()

    def _apply_migrations(self) -> None:
        with self._writing("kaizen/schema") as connection:
            # Asked again under the lock: somebody else may have been first.
            apply_migrations(connection, schema_number(connection, self.where))


def _newest(loop: str | sa.BindParameter[str], subject: sa.ColumnElement[Any]) -> sa.Select[Any]:
    chain = sa.select(EVENT).where(EVENT.c.loop == loop, EVENT.c.subject == subject)
    return chain.order_by(EVENT.c.subject_seq.desc()).limit(1)


# Made once: to make a statement costs more than to have it answered.
_HEAD = _newest(sa.bindparam("loop"), sa.bindparam("subject"))
_BY_KEY = sa.select(EVENT).where(*(EVENT.c[name] == sa.bindparam(name) for name in ("loop", "kind", "key")))


def _distinct(column: sa.Column[Any], *conditions: sa.ColumnElement[bool]) -> sa.CTE:
    # DISTINCT and GROUP BY read all of the history; this jumps from one name to the next in the index.
    names = sa.select(sa.func.min(column).label("name")).where(*conditions).cte("names", recursive=True)
    later = sa.select(sa.func.min(column)).where(column > names.c.name, *conditions).correlate(names).scalar_subquery()
    return names.union_all(sa.select(later).select_from(names).where(names.c.name.is_not(None)))


def _rows(connection: sa.Connection, query: sa.Select[Any], **given: str) -> Sequence[Row]:
    found = connection.execute(query, given)
    names = tuple(found.keys())
    # A mapping of each row would look its names up anew.
    return [dict(zip(names, row, strict=True)) for row in found]


def _found(connection: sa.Connection, loop: str, events: Sequence[NewEvent]) -> dict[tuple[str, str], Row]:
    keys: dict[str, list[str]] = {}
    for new in events:
        keys.setdefault(new.kind, []).append(new.key)
    found: dict[tuple[str, str], Row] = {}
    for kind, asked in keys.items():
        of_kind = sa.select(EVENT).where(EVENT.c.loop == loop, EVENT.c.kind == kind)
        for start in range(0, len(asked), PAGE):
            page = _rows(connection, of_kind.where(EVENT.c.key.in_(asked[start : start + PAGE])))
            found.update({(kind, row["key"]): row for row in page})
    return found


def _may_have_happened(cause: BaseException | None) -> bool:
    # Lost in the commit, or a row that appeared from a writer without the lock: the keys will tell.
    return isinstance(cause, IntegrityError) or (isinstance(cause, DBAPIError) and cause.connection_invalidated)


def _unanswered(where: str, error: SQLAlchemyError) -> LedgerError:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return LedgerError(
        "KZ506",
        "the ledger's database does not answer as it should",
        where=where,
        value=" ".join(f"{type(cause).__name__}: {cause}".split()),
        limit="a database that answers and may be written",
        action="check that it runs and is reachable, that the path and the rights are right, then retry",
    )
