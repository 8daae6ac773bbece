"""What a delivery is held against before anything is kept of it: the spec, and what is there of its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NoReturn

from kaizen.calendar import bounds
from kaizen.errors import DataRefused, PartitionConflict
from kaizen.spec import Spec

if TYPE_CHECKING:
    from kaizen.adapters.landing import Draft


def refuse_columns(
    spec: Spec, name: str, where: str, names: Sequence[str], added: Sequence[str], known: Mapping[str, str]
) -> None:
    """Raise ``DataRefused`` for columns that table ``name`` may not have.

    KZ412: an outcome among the features. KZ468: one of those that are ``added`` to the ``known``.
    """
    from kaizen.adapters.examples import refuse_outcomes

    table = spec.data.tables[name]
    if table.role == "features" and spec.labels:
        refuse_outcomes(spec, list(names), f"{where}: table {name}")
    if added and table.new_columns == "refuse":
        raise DataRefused(
            "KZ468",
            "column that was not there before",
            where=where,
            value=", ".join(added),
            limit="columns " + ", ".join(known),
            action=f"say new_columns: accept for the table {name}, or select its columns",
        )


def refuse_few(spec: Spec, name: str, where: str, rows: int) -> None:
    """Raise ``DataRefused`` KZ408 for fewer rows than a delivery of table ``name`` has."""
    table = spec.data.tables[name]
    if rows < table.min_rows:
        raise DataRefused(
            "KZ408",
            "too few rows",
            where=where,
            value=f"{rows} rows",
            limit=f"at least {table.min_rows} (data.tables.{name}.min_rows)",
            action="deliver the file again, or lower min_rows",
        )


def refuse_rows(spec: Spec, name: str, where: str, draft: Draft, now: datetime) -> None:
    """Raise ``DataRefused`` for a partition of table ``name``.

    KZ409: a column without a value. KZ410: rows later than ``now``. KZ411: a key twice.
    """
    table = spec.data.tables[name]
    place = f"{where}: {name}/{draft.partition}" if table.partition else f"{where}: {name}"
    if table.timed:
        _refuse_future(spec, draft.partition, now, place)
    _refuse_all_null(draft.empty, needed_columns(spec, name), place)
    refuse_repeats(spec, name, place, draft)


def refuse_repeats(spec: Spec, name: str, where: str, draft: Draft, *, grown: bool = False) -> None:
    """Raise ``DataRefused`` KZ411 for repeated keys; see ``Spec.refuses_twice``."""
    from kaizen.adapters.landing import repeats_keys

    keys = spec.keys_of(name)
    if not spec.refuses_twice(name, grown=grown) or set(keys).intersection(draft.ascending):
        return
    if repeats_keys(draft.path, keys):
        from kaizen.adapters.examples import refuse_twice
        from kaizen.adapters.tables import read_columns

        refuse_twice(read_columns(draft.path, keys), keys, where)


def refuse_other_content(where: str, sha256: str, before: str) -> NoReturn:
    """Raise ``PartitionConflict`` KZ430 for a partition that came before with the digest ``before``."""
    raise PartitionConflict(
        "KZ430",
        "partition was delivered before with other content",
        where=where,
        value=f"sha256 {sha256}",
        limit=f"sha256 {before}",
        action="deliver corrections as another partition, or say on_change: append or replace for the table",
    )


def refuse_gone(gone: int, where: str) -> None:
    """Raise ``PartitionConflict`` KZ430 if rows of a partition that only grows are gone, or others."""
    if gone:
        raise PartitionConflict(
            "KZ430",
            "partition was delivered before with other content",
            where=where,
            value=f"{gone} rows that were there before are gone, or others now",
            limit="the rows before, and new ones (on_change: append)",
            action="correct the rows at the source; if they may change there, say on_change: replace for the table",
        )


def needed_columns(spec: Spec, name: str) -> tuple[str, ...]:
    """The columns of a table that the spec's other lines rest on."""
    table = spec.data.tables[name]
    time = (spec.time_of(name),) if table.timed else (table.key_column,) if table.key_column else ()
    truth = (spec.truth,)
    if table.role == "labels":
        return tuple(dict.fromkeys((*time, *spec.keys_of(name), *truth)))
    if table.join:
        prefix = f"{name}_"
        looked_up = tuple(f.removeprefix(prefix) for f in spec.problem.features if f.startswith(prefix))
        return tuple(dict.fromkeys((*time, *spec.keys_of(name), *looked_up)))
    prefixes = tuple(f"{joined}_" for joined in spec.joined)
    own = tuple(f for f in spec.problem.features if not f.startswith(prefixes or ("\0",)))
    keys = tuple(k for joined in spec.joined for k in spec.data.tables[joined].join)
    return tuple(dict.fromkeys((*time, *spec.problem.entity, *keys, *own, *(() if spec.labels else truth))))


def raw_types(spec: Spec, name: str, known: Mapping[str, str]) -> dict[str, str]:
    """The types that columns are read in: as before, or as the spec says. What is private has become another type."""
    table = spec.data.tables[name]
    read = {n: t for n, t in known.items() if n not in spec.data.private} | dict(table.types)
    # What dates a row is made a time of one type, whatever it came as.
    return {n: t for n, t in read.items() if not (table.timed and n == spec.time_of(name))}


def _refuse_all_null(empty: Sequence[str], needed: Sequence[str], where: str) -> None:
    found = [name for name in needed if name in empty]
    if found:
        raise DataRefused(
            "KZ409",
            "column holds no value at all",
            where=where,
            value=", ".join(found),
            limit="at least one value in each column that the spec names",
            action="mend the source; if the column is gone for good, remove it from kaizen.yml",
        )


def _refuse_future(spec: Spec, partition: str, now: datetime, where: str) -> None:
    begins = bounds(partition, spec.timezone)[0]
    if begins > now:
        raise DataRefused(
            "KZ410",
            "rows from the future",
            where=where,
            value=f"partition begins {begins.isoformat()}",
            limit=f"not after {now.astimezone(begins.tzinfo).isoformat(timespec='seconds')}",
            action="correct the timestamps or clock.timezone",
        )
