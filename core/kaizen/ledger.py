"""The ledger: the loop's memory, append-only, and its only source of truth.

An *event* belongs to a loop and to a *subject*, a chain of its own (``champion``, ``data/flights``, ``trigger`` ...).
Whoever appends may say which head of the subject they saw: of two promoters one wins and the other learns what
changed, while a busy ingest on another subject disturbs nobody. ``key`` is the idempotency key: appending the same
thing again returns the event that is there. A *lease* is what is merely held; that it was granted is an event.

Here are the records, the port, and the rules of a chain as pure functions of stored rows; adapters have the SQL.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, Self

from kaizen.canonical import canonical_json, digest
from kaizen.errors import HeadMoved, KeyConflict, LedgerError

if TYPE_CHECKING:
    from pathlib import Path

LEASES = "kaizen/leases"
"""The loop that the grants of leases are events of: leases are held across loops."""

Row = Mapping[str, Any]
"""One event as it is stored: ``at`` and ``payload`` as text. A line of a backup has the same fields."""

_HASHED = ("loop", "subject", "subject_seq", "kind", "key", "turn", "at", "actor", "payload", "prev_hash")


@dataclass(frozen=True)
class Event:
    """One thing that happened, for good.

    Attributes:
        position: global order, growing; of one loop's events in the order of their commits, gaps allowed.
        loop: ``project/loop``.
        subject: the chain that the event extends.
        subject_seq: place in the chain, from 1.
        kind: name of the record in ``payload``, e.g. ``Promotion``.
        key: idempotency key, unique per loop and kind.
        turn: turn of the loop, "" outside any.
        at: when, in the loop's clock; UTC, microseconds.
        actor: who.
        payload: JSON values.
        prev_hash: hash of the event before it in the chain, "" for the first.
        hash: sha256 (hex) over the canonical JSON of the stored fields, all but ``position``.
    """

    position: int
    loop: str
    subject: str
    subject_seq: int
    kind: str
    key: str
    turn: str
    at: datetime
    actor: str
    payload: dict[str, Any]
    prev_hash: str
    hash: str


@dataclass(frozen=True)
class NewEvent:
    """What a caller gives to be appended; see ``Event`` for the fields.

    Attributes:
        at: with a time zone.
        expect: ``subject_seq`` of the head that the caller saw, 0 for an empty chain; None takes whatever is there.
    """

    subject: str
    kind: str
    key: str
    payload: Mapping[str, Any]
    _: KW_ONLY
    turn: str
    at: datetime
    actor: str
    expect: int | None = None


@dataclass(frozen=True)
class Lease:
    """Something held for a while. ``epoch`` grows by one at every grant: work of an older epoch is stale."""

    resource: str
    holder: str
    epoch: int
    expires_at: datetime


@dataclass(frozen=True)
class Problem:
    """One event whose stored bytes are not what was appended."""

    position: int
    loop: str
    subject: str
    what: str


@dataclass(frozen=True)
class VerifyReport:
    """What re-hashing the whole ledger found; ``anchor`` is the digest over the heads as they are stored."""

    events: int
    chains: int
    anchor: str
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


class Ledger(Protocol):
    """Events and leases. Every method raises ``LedgerError`` (KZ506) if the database cannot answer."""

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
        """Append one event and return it, durable; see ``append_all``."""
        ...

    def append_all(self, loop: str, events: Sequence[NewEvent]) -> list[Event]:
        """Append events of one loop in one transaction, all or nothing; returned in the order given.

        An event whose key was appended before, with the same subject and payload, is returned as it is stored, even
        if its ``expect`` is out of date: a retry is not a second event.

        Raises:
            HeadMoved: (KZ501) ``value`` is the head's ``subject_seq``, ``limit`` the expected one, ``head`` the event.
            KeyConflict: (KZ502) the key was used with another payload (``value`` and ``limit`` are the digests).
            LedgerError: (KZ505) a field cannot be stored.
        """
        ...

    def head(self, loop: str, subject: str) -> Event | None:
        """The newest event of a subject. Costs the same however long the history is."""
        ...

    def find(self, loop: str, kind: str, key: str) -> Event | None:
        """The event of an idempotency key."""
        ...

    def known_keys(self, loop: str, kind: str, keys: Collection[str]) -> set[str]:
        """Those of ``keys`` that have an event: one question for many."""
        ...

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
        """Events of a loop, subject or kind in global order, read in pages: the caller may append while it iterates.

        Args:
            loop, subject, kind: None for all; then the leases' events are included.
            since: earliest ``at``, inclusive.
            until: latest ``at``, inclusive: the state as of then.
            after: only greater positions. Within a loop the last position seen is a safe bookmark; across loops
                an event may commit later than one of a greater position.
            newest_first: from the newest to the oldest.
            limit: at most so many.
        """
        ...

    def heads(self, loop: str, *, prefix: str = "", as_of: datetime | None = None) -> dict[str, Event]:
        """The newest event (with ``at <= as_of``) of every subject that begins with ``prefix``, sorted by subject.

        Costs one look-up per subject, however long the history is.
        """
        ...

    def loops(self) -> list[str]:
        """The loops that have events, sorted, without ``LEASES``."""
        ...

    def acquire(self, resource: str, holder: str, ttl: timedelta, now: datetime) -> Lease:
        """Hold a resource until ``now + ttl``.

        An expired lease is taken over under the next epoch; the holder of an unexpired one gets it extended.
        Raises ``LeaseHeld`` (KZ503) naming holder and expiry; its ``lease`` is the one that is held.
        """
        ...

    def renew(self, lease: Lease, ttl: timedelta, now: datetime) -> Lease:
        """Hold it until ``now + ttl``. Raises ``LeaseHeld`` (KZ504) if it was taken over or released since."""
        ...

    def release(self, lease: Lease, now: datetime) -> None:
        """Give it back. A lease that was lost or released before is left alone."""
        ...

    def lease(self, resource: str) -> Lease | None:
        """Who holds a resource, or held it last and let it expire; None once released."""
        ...

    def leases(self, prefix: str) -> list[Lease]:
        """Who holds resources that begin with ``prefix``, expired or not, sorted by resource."""
        ...

    def verify(self) -> VerifyReport:
        """Re-hash every chain from its stored bytes."""
        ...

    def backup(self, path: Path) -> VerifyReport:
        """Write all events as JSON lines, visible only when complete; leases are not part of it.

        Raises ``LedgerError`` (KZ507) if the ledger is damaged: such a file could not be restored.
        """
        ...

    def restore(self, path: Path) -> VerifyReport:
        """Read a backup, from either database, into this empty ledger; verified before anything becomes visible.

        Raises ``LedgerError``: the file is damaged or newer (KZ507), or this ledger is not empty (KZ508).
        """
        ...

    def anchor(self) -> str:
        """One digest over the heads of all chains. Kept elsewhere, it proves later that nothing was rewritten."""
        ...

    def close(self) -> None:
        """Close the database's connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def open_ledger(url: str) -> Ledger:
    """The ledger at ``url``, created or migrated to this release's schema if needed.

    Args:
        url: a path or ``sqlite:///path``; ``:memory:`` (this object's, in this process); ``postgresql://host/database``.

    Raises:
        MissingDependency: the driver is not installed.
        LedgerError: unreachable (KZ506), of a newer schema (KZ509), or no database that Kaizen knows (KZ510).
    """
    from kaizen.adapters.sql_databases import open_sql_ledger

    return open_sql_ledger(url)


def stored_time(moment: datetime) -> str:
    """A moment as it is stored: UTC ISO 8601, always with microseconds, so that text order is time order."""
    if moment.tzinfo is None:
        raise LedgerError("KZ505", "a time without a time zone", value=moment.isoformat(), limit="an aware datetime")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def event_of(row: Row) -> Event:
    """The event of a stored row."""
    return Event(**{**row, "at": datetime.fromisoformat(row["at"]), "payload": json.loads(row["payload"])})


def row_hash(row: Row) -> str:
    """sha256 (hex) over the canonical JSON of a stored row's fields, all but ``position`` and ``hash``."""
    return digest({name: row[name] for name in _HASHED})


def check_names(loop: str, events: Sequence[NewEvent]) -> None:
    """Raises ``LedgerError`` (KZ505) if a name cannot be stored in every database, and looked up by."""
    for new in events:
        for name, value in (("loop", loop), ("subject", new.subject), ("kind", new.kind), ("key", new.key)):
            if not value or not value.isprintable():
                raise _unstorable(new, f"{name} {value!a}", "printable text that is not empty")
        if not (new.turn + new.actor).isprintable():
            raise _unstorable(new, f"turn {new.turn!a}, actor {new.actor!a}", "printable text")


def plan_append(
    loop: str, events: Sequence[NewEvent], found: Mapping[tuple[str, str], Row], heads: Mapping[str, Row]
) -> tuple[list[Row], list[dict[str, Any]]]:
    """What appending ``events`` means: the stored row of each, and those of them that are new (no position yet).

    ``found`` are the stored rows by (kind, key), ``heads`` the newest by subject, as far as they exist.
    Raises what ``Ledger.append_all`` raises.
    """
    known, newest = dict(found), dict(heads)
    rows: list[Row] = []
    fresh: list[dict[str, Any]] = []
    for new in events:
        payload = _stored_payload(new)
        row = known.get((new.kind, new.key))
        if row is None:
            head = newest.get(new.subject)
            _check_head(loop, new, head)
            row = _next_row(loop, new, payload, head)
            fresh.append(row)
            known[new.kind, new.key] = newest[new.subject] = row
        elif (row["subject"], row["payload"]) != (new.subject, payload):
            raise _key_conflict(row, new, payload)
        rows.append(row)
    return rows, fresh


def check_chains(rows: Iterable[Row]) -> VerifyReport:
    """Re-hash stored rows (in global order, all of them): every damaged event is a problem, every chain counted."""
    heads: dict[tuple[str, str], Row] = {}
    problems: list[Problem] = []
    events = 0
    for row in rows:
        chain = row["loop"], row["subject"]
        problems.extend(Problem(row["position"], *chain, what) for what in _row_problems(row, heads.get(chain)))
        heads[chain] = row
        events += 1
    return VerifyReport(events, len(heads), anchor_of(heads.values()), tuple(problems))


def anchor_of(heads: Iterable[Row]) -> str:
    """sha256 (hex) over all chains' heads: loop, subject, ``subject_seq`` and hash, sorted."""
    return digest(sorted([row["loop"], row["subject"], row["subject_seq"], row["hash"]] for row in heads))


def _stored_payload(new: NewEvent) -> str:
    try:
        payload = canonical_json(new.payload)
        payload.encode()
    except (TypeError, ValueError) as error:
        raise _unstorable(new, f"payload: {error}", "JSON values: text keys, finite numbers, UTF-8") from error
    return payload


def _unstorable(new: NewEvent, value: str, limit: str) -> LedgerError:
    return LedgerError(
        "KZ505", "an event cannot be stored", where=f"{new.kind} of {new.subject!a}", value=value, limit=limit
    )


def _check_head(loop: str, new: NewEvent, head: Row | None) -> None:
    found = head["subject_seq"] if head else 0
    if new.expect is None or new.expect == found:
        return
    what = "is empty" if head is None else f"is now {head['kind']} {head['key']} by {head['actor']} at {head['at']}"
    error = HeadMoved(
        "KZ501",
        f"somebody appended first: the head of {new.subject} {what}",
        where=f"{loop} {new.subject}",
        value=found,
        limit=new.expect,
        action="read the head again and decide anew",
    )
    error.head = event_of({"position": 0, **head}) if head else None
    raise error


def _key_conflict(row: Row, new: NewEvent, payload: str) -> KeyConflict:
    return KeyConflict(
        "KZ502",
        f"key {new.key} of {new.kind} was used before, for another payload or subject",
        where=f"{row['loop']} {row['subject']}, event {row.get('position', 'of the same call')}",
        value=f"{row['subject']} sha256 {digest(json.loads(row['payload']))}",
        limit=f"{new.subject} sha256 {digest(json.loads(payload))}",
        action="a deliberate repeat needs a new generation in its key",
    )


def _next_row(loop: str, new: NewEvent, payload: str, head: Row | None) -> dict[str, Any]:
    row = {
        "loop": loop,
        "subject": new.subject,
        "subject_seq": head["subject_seq"] + 1 if head else 1,
        "kind": new.kind,
        "key": new.key,
        "turn": new.turn,
        "at": stored_time(new.at),
        "actor": new.actor,
        "payload": payload,
        "prev_hash": head["hash"] if head else "",
    }
    return {**row, "hash": row_hash(row)}


def _row_problems(row: Row, head: Row | None) -> Iterator[str]:
    seq, prev_hash = (head["subject_seq"] + 1, head["hash"]) if head else (1, "")
    if row["subject_seq"] != seq:
        yield f"subject_seq is {row['subject_seq']}, {seq} comes next"
    if row["prev_hash"] != prev_hash:
        yield "prev_hash is not the hash of the event before it"
    if row_hash(row) != row["hash"]:
        yield "hash is not that of the stored bytes"
