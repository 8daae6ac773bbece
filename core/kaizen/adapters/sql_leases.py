"""Rows and events of leases in the SQL ledger; whoever calls holds the write lock."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from kaizen.adapters.sql_schema import LEASE
from kaizen.errors import LeaseHeld
from kaizen.ledger import Lease, NewEvent, stored_time

if TYPE_CHECKING:
    from collections.abc import Mapping


def find_lease(connection: sa.Connection, resource: str) -> Lease | None:
    """Who holds a resource, expired or not."""
    row = connection.execute(sa.select(LEASE).where(LEASE.c.resource == resource)).mappings().first()
    return _lease_of(row) if row else None


def find_leases(connection: sa.Connection, prefix: str) -> list[Lease]:
    """Who holds resources that begin with ``prefix``."""
    found = sa.select(LEASE).where(LEASE.c.resource.startswith(prefix, autoescape=True))
    # Sorted here: databases do not agree on the order of texts.
    return sorted((_lease_of(row) for row in connection.execute(found).mappings()), key=lambda lease: lease.resource)


def _lease_of(row: sa.RowMapping) -> Lease:
    return Lease(**{**row, "expires_at": datetime.fromisoformat(row["expires_at"])})


def store_lease(connection: sa.Connection, lease: Lease) -> None:
    """Let ``lease`` be the one that is held, whoever held the resource before."""
    delete_lease(connection, lease.resource)
    connection.execute(sa.insert(LEASE), {**asdict(lease), "expires_at": stored_time(lease.expires_at)})


def extend_lease(connection: sa.Connection, lease: Lease, until: datetime) -> Lease:
    """The held lease with a later end."""
    row = sa.update(LEASE).where(LEASE.c.resource == lease.resource).values(expires_at=stored_time(until))
    connection.execute(row)
    return replace(lease, expires_at=until)


def delete_lease(connection: sa.Connection, resource: str) -> None:
    """Let nobody hold a resource."""
    connection.execute(sa.delete(LEASE).where(LEASE.c.resource == resource))


def is_same_grant(held: Lease | None, lease: Lease) -> bool:
    """True if ``lease`` is what is held, extended or not."""
    return held is not None and (held.holder, held.epoch) == (lease.holder, lease.epoch)


def lease_subject(resource: str) -> str:
    """The chain that a resource's grants are events of."""
    return f"lease/{resource}"


def lease_event(kind: str, lease: Lease, now: datetime, lost: Lease | None = None) -> NewEvent:
    """The event of a grant or a loss; ``lost`` is the expired lease that it took over."""
    facts = {"expires_at": stored_time(lease.expires_at), "taken_from": lost.holder if lost else None}
    payload: Mapping[str, object] = {**asdict(lease), **facts}
    key = f"{lease.resource}@{lease.epoch}"
    return NewEvent(lease_subject(lease.resource), kind, key, payload, turn="", at=now, actor=lease.holder)


def held_by_another(held: Lease) -> LeaseHeld:
    """The refusal to grant what is held (KZ503)."""
    error = LeaseHeld(
        "KZ503",
        f"{held.holder} holds {held.resource}",
        where=held.resource,
        value=f"{held.holder}, epoch {held.epoch}",
        limit=f"free from {stored_time(held.expires_at)} unless it is renewed",
        action="wait until it is released or expires",
    )
    error.lease = held
    return error


def held_no_more(lease: Lease, held: Lease | None) -> LeaseHeld:
    """The refusal to renew what was lost (KZ504)."""
    error = LeaseHeld(
        "KZ504",
        f"{lease.holder} does not hold {lease.resource} any more",
        where=lease.resource,
        value=f"{held.holder}, epoch {held.epoch}" if held else "released",
        limit=f"{lease.holder}, epoch {lease.epoch}",
        action="stop the work that it covered; acquire it again to begin anew",
    )
    error.lease = held
    return error
