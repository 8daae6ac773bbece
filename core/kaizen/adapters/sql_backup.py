"""Backups of the SQL ledger: a header and every event as JSON lines, the same from either database."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from kaizen.adapters.sql_schema import EVENT, MIGRATIONS, PAGE
from kaizen.canonical import canonical_json
from kaizen.errors import LedgerError
from kaizen.ledger import Problem, Row, VerifyReport, check_chains
from kaizen.publish import publish_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import TextIO

_VERSION = 1


def check_events(connection: sa.Connection) -> VerifyReport:
    """Re-hash every stored event."""
    return check_chains(_stream(connection))


def write_backup(connection: sa.Connection, path: Path, where: str) -> VerifyReport:
    """Write the events that ``connection``'s snapshot sees. Raises ``LedgerError`` (KZ507) if they are damaged."""
    report = check_events(connection)
    if not report.ok:
        raise _damaged(where, report.problems[0])
    header = {
        "format": "kaizen-ledger",
        "version": _VERSION,
        "schema": len(MIGRATIONS),
        "count": report.events,
        "anchor": report.anchor,
    }
    publish_file(path, lambda temporary: _write_lines(temporary, header, _stream(connection)))
    return report


def open_backup(path: Path) -> TextIO:
    """The file, for ``read_backup``. Raises ``LedgerError`` (KZ507) if it cannot be opened."""
    try:
        return path.open(encoding="utf-8")
    except OSError as error:
        raise _unrestorable(path, str(error.strerror)) from error


def read_backup(connection: sa.Connection, path: Path, lines: Iterator[str], where: str) -> VerifyReport:
    """Insert the events of a backup into the empty ledger at ``where``, within the caller's transaction.

    Raises ``LedgerError``: the ledger is not empty (KZ508), the file is damaged or newer (KZ507).
    """
    if connection.scalar(sa.select(sa.func.max(EVENT.c.position))):
        raise LedgerError(
            "KZ508",
            "a backup can only be restored into an empty ledger",
            where=where,
            action="restore into a new file or database, then point the environment's ledger URL at it",
        )
    try:
        header = _read_header(path, next(lines, ""))
        report = check_chains(_insert_lines(connection, lines))
    except (ValueError, IntegrityError) as error:
        raise _unrestorable(path, f"{type(error).__name__}: {error}") from error
    if report.problems:
        raise _damaged(str(path), report.problems[0])
    if (report.events, report.anchor) != (header["count"], header["anchor"]):
        raise _unrestorable(path, f"{report.events} events, anchor {report.anchor}", header)
    return report


def _stream(connection: sa.Connection) -> Iterator[Row]:
    query = sa.select(EVENT).order_by(EVENT.c.position)
    for row in connection.execute(query, execution_options={"yield_per": PAGE}).mappings():
        yield dict(row)


def _write_lines(path: Path, header: Mapping[str, Any], rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as out:
        out.write(canonical_json(header) + "\n")
        out.writelines(canonical_json(row) + "\n" for row in rows)


def _read_header(path: Path, line: str) -> dict[str, Any]:
    header = json.loads(line)
    _check_shape(header, {"format": str, "version": int, "schema": int, "count": int, "anchor": str})
    known = {"format": "kaizen-ledger", "version": _VERSION, "schema": len(MIGRATIONS)}
    found = {name: header[name] for name in known}
    if found["format"] != known["format"] or found["version"] > _VERSION or found["schema"] > len(MIGRATIONS):
        raise _unrestorable(path, found, known)
    return dict(header)


def _check_shape(value: Any, shape: Mapping[str, type]) -> None:
    if not isinstance(value, dict) or {name: type(each) for name, each in value.items()} != shape:
        raise ValueError(f"not an object of {', '.join(shape)}")


def _insert_lines(connection: sa.Connection, lines: Iterator[str]) -> Iterator[Row]:
    columns = {column.name: column.type.python_type for column in EVENT.columns}
    while rows := [json.loads(line) for line in islice(lines, PAGE)]:
        for row in rows:
            _check_shape(row, columns)
        connection.execute(sa.insert(EVENT), rows)
        yield from rows


def _damaged(where: str, problem: Problem) -> LedgerError:
    return LedgerError(
        "KZ507",
        f"damaged event {problem.position}: {problem.what}",
        where=where,
        value=f"{problem.loop} {problem.subject}",
        limit="an unbroken chain of hashes",
        action="`kaizen ledger verify` lists all damage; restore the last good backup",
    )


def _unrestorable(path: Path, value: Any, limit: Any = None) -> LedgerError:
    return LedgerError(
        "KZ507",
        "not a whole backup that this release can restore",
        where=str(path),
        value=value,
        limit=limit or "a file of `kaizen ledger backup`",
        action="restore another backup, or use the release of Kaizen that wrote this one; nothing was changed",
    )
