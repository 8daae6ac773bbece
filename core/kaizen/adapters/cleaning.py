"""Cleaning: what a table's rules mend in the rows as they were delivered, counted by rule and column.

Arrow in, Arrow out: types stay as they are. A rule looks at one row (outliers, missing values) or at the rows of one
partition with the same keys (duplicates): whatever came before or comes after changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kaizen.codec import nearest
from kaizen.errors import DataRefused
from kaizen.records import Cleaned, Finding
from kaizen.spec import CleanSpec, FillSpec, LimitsSpec

FINITE = "every number is finite"
_SHOWN = 5


@dataclass(frozen=True)
class Rows:
    """Rows of a partition, and where each stood in it when it was delivered (from 0)."""

    table: pa.Table
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.table)

    def where(self, mask: np.ndarray) -> Rows:
        """The rows that ``mask`` selects; the same object if it selects all."""
        return self if mask.all() else Rows(self.table.filter(pa.array(mask)), self.positions[mask])

    def only(self, rows: Sequence[int]) -> Rows:
        """The rows with these numbers, from 0."""
        return self.where(np.isin(np.arange(len(self)), rows))

    def without(self, rows: Sequence[int]) -> Rows:
        """The rows without those with these numbers; the same object if there are none."""
        return self.where(~np.isin(np.arange(len(self)), rows))

    def write(self, path: Path) -> None:
        """As Parquet; the same rows always give the same bytes."""
        pq.write_table(self.table.replace_schema_metadata(None), path, compression="zstd")


def read_rows(path: Path) -> Rows:
    """One of our own Parquet files."""
    table = pq.read_table(path)
    return Rows(table, np.arange(len(table)))


def clean(rows: Rows, spec: CleanSpec, keys: Sequence[str], where: str) -> tuple[Rows, tuple[Cleaned, ...]]:
    """``rows`` without what the rules take out or mend; a rule that found nothing is counted too, with 0.

    Raises ``DataRefused`` KZ416: a rule's column is not there, or holds something else than the rule is about.
    """
    done: list[Cleaned] = []
    if spec.duplicates in ("keep_first", "keep_last"):
        before, rows = rows, _without_repeats(rows, keys, "first" if spec.duplicates == "keep_first" else "last")
        done.append(Cleaned(f"duplicates: {spec.duplicates}", ", ".join(keys), len(before) - len(rows)))
    for column, limits in spec.outliers.items():
        rows, count = _limit(rows, column, limits, f"{where}.clean.outliers.{column}")
        done.append(Cleaned(f"outliers: {limits.policy}", column, count))
    for column, rule in spec.missing.items():
        rows, count = _mend(rows, column, rule, f"{where}.clean.missing.{column}")
        done.append(Cleaned(f"missing: {'fill' if isinstance(rule, FillSpec) else rule}", column, count))
    return rows, tuple(done)


def may_be_infinite(path: Path) -> bool:
    """Whether a Parquet file may hold infinite numbers, by its own statistics: no row is read."""
    with pq.ParquetFile(path) as file:
        floats = {f.name for f in file.schema_arrow if pa.types.is_floating(f.type)}
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    return any(not _is_finite(column) for column in columns if column.path_in_schema in floats)


def _is_finite(column: Any) -> bool:
    found = column.statistics
    if found is None or not found.has_min_max:
        return found is not None and found.null_count == column.num_values
    # The ends of half floats are bytes.
    return all(isinstance(end, float) and math.isfinite(end) for end in (found.min, found.max))


def find_infinite(rows: Rows) -> tuple[tuple[Finding, ...], list[int]]:
    """A finding for each column with infinite numbers, and the rows that have one (from 0 in ``rows``, sorted)."""
    findings: list[Finding] = []
    bad: set[int] = set()
    for field in rows.table.schema:
        if not pa.types.is_floating(field.type):
            continue
        found = np.flatnonzero(_mask(pc.is_inf(rows.table[field.name])))
        if len(found):
            first = tuple(int(row) + 1 for row in rows.positions[found[:_SHOWN]])
            findings.append(Finding(FINITE, field.name, len(found), first=first))
            bad.update(map(int, found))
    return tuple(findings), sorted(bad)


def _without_repeats(rows: Rows, keys: Sequence[str], keep: str) -> Rows:
    return rows.where(~rows.table.select(list(keys)).to_pandas().duplicated(keep=keep).to_numpy())


def _limit(rows: Rows, column: str, limits: LimitsSpec, where: str) -> tuple[Rows, int]:
    values = _values(rows, column, where)
    whole = pa.types.is_integer(values.type)
    if not (whole or pa.types.is_floating(values.type)):
        raise _refuse(where, f"a column of {values.type}", "a column of numbers")
    below, above = (
        np.zeros(len(rows), dtype=bool) if limit is None else _mask(test(values, pa.scalar(limit, pa.float64())))
        for test, limit in ((pc.less, limits.low), (pc.greater, limits.high))
    )
    count = int((below | above).sum())
    if limits.policy == "drop_row":
        return rows.where(~(below | above)), count
    if limits.policy == "missing":
        return _put(rows, column, below | above, pa.scalar(None, values.type)), count
    for mask, limit, inwards in ((below, limits.low, math.ceil), (above, limits.high, math.floor)):
        if limit is not None and mask.any():
            rows = _put(rows, column, mask, _as_type(inwards(limit) if whole else limit, values.type, where))
    return rows, count


def _mend(rows: Rows, column: str, rule: str | FillSpec, where: str) -> tuple[Rows, int]:
    """NaN is missing, as it is for a model."""
    values = _values(rows, column, where)
    missing = _mask(pc.is_null(values, nan_is_null=True))
    if isinstance(rule, FillSpec):
        return _put(rows, column, missing, _as_type(rule.fill, values.type, where)), int(missing.sum())
    return rows.where(~missing), int(missing.sum())


def _put(rows: Rows, column: str, mask: np.ndarray, value: pa.Scalar) -> Rows:
    if not mask.any():
        return rows
    position = rows.table.schema.get_field_index(column)
    values = rows.table[column]
    # A column without any value has no type yet.
    mended = pc.if_else(pa.array(mask), value, values.cast(value.type))
    return Rows(rows.table.set_column(position, column, mended), rows.positions)


def _mask(found: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(found, False).to_numpy(), dtype=bool)


def _values(rows: Rows, column: str, where: str) -> pa.ChunkedArray:
    if column in rows.table.column_names:
        return rows.table[column]
    near = nearest(column, rows.table.column_names)
    raise _refuse(where, f"no column {column}" + (f" (nearest: {near})" if near else ""), "a column of the table")


def _as_type(value: Any, kind: pa.DataType, where: str) -> pa.Scalar:
    """``value`` as a scalar of a column's type, if it is one: no text for a number, no number for a text."""
    if pa.types.is_null(kind):
        return pa.scalar(value)
    fits = {
        bool: pa.types.is_boolean(kind),
        int: pa.types.is_integer(kind) or pa.types.is_floating(kind),
        float: pa.types.is_floating(kind),
        str: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    }
    try:
        if fits[type(value)]:
            return pa.scalar(value, kind)
    except (pa.ArrowInvalid, OverflowError):
        # Told below: the number is none of the column's.
        pass
    raise _refuse(where, f"{value!r:.40}", f"a value of the column's type, {kind}")


def _refuse(where: str, value: str, limit: str) -> DataRefused:
    return DataRefused(
        "KZ416",
        "a rule of cleaning does not fit its column",
        where=where,
        value=value,
        limit=limit,
        action="correct the rule in kaizen.yml",
    )
