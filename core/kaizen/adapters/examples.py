"""Examples: rows of the main table with what they look up, as features; labels joined from outcomes.

Training, evaluation and scoring all see rows through this one module, so there is no skew between them. What a table
with ``asof`` gives to a row is never later than the row. Nothing from a labels table can reach a feature: labels are
joined last, as one column, and only where they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pandas as pd

from kaizen.adapters import asof
from kaizen.errors import DataRefused
from kaizen.privacy import show
from kaizen.records import Window
from kaizen.spec import Spec, parse_label
from kaizen.splits import refuse_missing

_SHOWN = 5
_TESTS = {
    ">": np.greater,
    ">=": np.greater_equal,
    "<": np.less,
    "<=": np.less_equal,
    "==": np.equal,
}


@dataclass(frozen=True)
class Examples:
    """Rows ready for a model.

    Attributes:
        rows: the entity columns, the timestamp, and what else was asked for, n rows.
        features: n rows of ``float64`` or text columns.
        label: n floats, NaN where the truth is not known; None if labels were not asked for.
    """

    rows: pd.DataFrame
    features: pd.DataFrame
    label: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.features)

    def where(self, mask: np.ndarray) -> Examples:
        """The rows that ``mask`` (n booleans) selects."""
        label = None if self.label is None else self.label[mask]
        pick = np.flatnonzero(mask)
        return Examples(
            self.rows.iloc[pick].reset_index(drop=True), self.features.iloc[pick].reset_index(drop=True), label
        )

    def labelled(self) -> Examples:
        """The rows whose label is known."""
        if self.label is None:
            raise ValueError("labels were not asked for")
        return self.where(~np.isnan(self.label))

    def in_window(self, timestamp: str, window: Window) -> Examples:
        """The rows whose time lies in ``[start, end)``."""
        times = self.rows[timestamp]
        mask = np.ones(len(self), dtype=bool)
        if window.start:
            mask &= (times >= pd.Timestamp(window.start)).to_numpy()
        if window.end:
            mask &= (times < pd.Timestamp(window.end)).to_numpy()
        return self if mask.all() else self.where(mask)

    def days(self, timestamp: str, zone: str) -> np.ndarray:
        """The day of each row in ``zone`` as n whole numbers from 0: the blocks that are resampled."""
        local = self.rows[timestamp].dt.tz_convert(zone).dt.tz_localize(None)
        return np.asarray(np.unique(local.to_numpy().astype("datetime64[D]"), return_inverse=True)[1])


def assemble(spec: Spec, tables: Mapping[str, pd.DataFrame], *, labels: bool, keep: Sequence[str] = ()) -> Examples:
    """Join ``tables`` (name to rows) into examples; ``labels`` says whether the labels table is to be joined.

    ``keep`` names columns that ``rows`` has besides entity and timestamp.

    Raises ``DataRefused``: KZ411 a key twice, KZ412 an outcome among the features, KZ413 a feature missing, KZ419
    labels that contradict each other, KZ493 a column of ``keep`` missing; KZ405, KZ417, KZ418 times and keys that rows
    cannot be joined by.
    """
    problem = spec.problem
    frame = _with_look_ups(spec, tables)
    label = label_rows(spec, frame, tables) if labels else None
    names = problem.features or default_features(spec, frame)
    refuse_outcomes(spec, names, "features")
    missing = [n for n in names if n not in frame.columns]
    if missing:
        raise DataRefused(
            "KZ413",
            "feature is in no table",
            where="problem.features",
            value=", ".join(missing),
            limit="columns " + ", ".join(map(str, frame.columns)),
            action="correct the name, or deliver the column",
        )
    keys = list(dict.fromkeys([*problem.entity, problem.timestamp, *keep]))
    refuse_missing(frame, keep)
    return Examples(frame[keys].reset_index(drop=True), _as_features(frame[list(names)]), label)


def assemble_wide(spec: Spec, tables: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows with their look-ups, and the outcome that belongs to each row, in the same order."""
    frame = _with_look_ups(spec, tables)
    if not spec.label_tables:
        return frame.drop(columns=spec.truth), frame[[spec.truth]]
    truth = pd.Series(np.nan, index=frame.index, dtype=object)
    for name in spec.label_tables:
        if name in tables:
            outcomes = tables[name].drop_duplicates(list(spec.keys_of(name))).reset_index(drop=True)
            found = outcomes[spec.truth].reindex(_outcomes_of(spec, frame, name, outcomes))
            truth = truth.where(truth.notna(), found.set_axis(frame.index))
    return frame, truth.infer_objects().to_frame(spec.truth)


def refuse_outcomes(spec: Spec, names: tuple[str, ...] | list[str], where: str) -> None:
    """Raise ``DataRefused`` (KZ412) if one of ``names`` is known only after the prediction."""
    outcomes = {*spec.data.outcomes, spec.problem.target, spec.truth}
    found = [n for n in names if n in outcomes]
    if found:
        raise DataRefused(
            "KZ412",
            "an outcome among the features",
            where=where,
            value=", ".join(found),
            limit="only columns known before the prediction",
            action="deliver outcomes in the labels table, or select `columns:` of the table in kaizen.yml",
        )


def refuse_twice(table: pd.DataFrame, keys: Sequence[str], where: str) -> None:
    """Raise ``DataRefused`` (KZ411) if two rows have the same ``keys``: which one to join would be chance."""
    repeated = table.duplicated(list(keys), keep=False).to_numpy()
    if not repeated.any():
        return
    group = table[repeated].groupby(list(keys), sort=False, dropna=False).ngroup().to_numpy()
    same = np.flatnonzero(repeated)[group == 0]
    row, more = table.iloc[same[0]], int(group.max())
    shown = ", ".join(f"{k}={show(row[k])}" for k in keys)
    numbers = ", ".join(str(number + 1) for number in same[:_SHOWN])
    # Keys that are private have been hashed; what nobody declared may still be an identifier.
    raise DataRefused(
        "KZ411",
        "key appears twice",
        where=where,
        value=f"{shown}: {len(same)} times, rows {numbers}" + (f"; {more} more keys" if more else ""),
        limit="each key once",
        action="deduplicate it at the source, say `clean: {duplicates: keep_last}` (or keep_first) of the table, or add"
        " expect_compound_columns_to_be_unique to its suite",
    )


def make_label(spec: Spec, outcomes: pd.DataFrame) -> np.ndarray:
    """The label of each row of an outcomes table as floats, NaN where it is not known."""
    rule = parse_label(spec.problem.label)
    column = rule.column if rule else spec.problem.target
    values: np.ndarray = pd.to_numeric(outcomes[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    if rule is None:
        return values
    return np.where(np.isnan(values), np.nan, _TESTS[rule.test](values, rule.number).astype(float))


def _with_look_ups(spec: Spec, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    frame = tables[spec.main]
    for name in spec.joined:
        if name in tables:
            frame = _look_up(spec, frame, name, tables[name])
    return frame


def _look_up(spec: Spec, frame: pd.DataFrame, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with the columns of ``table`` as ``NAME_COLUMN``; rows and their order stay as they are."""
    found, where = spec.data.tables[name], f"table {name}"
    keys = spec.keys_of(name)
    refuse_twice(table, keys, where)
    renamed = table.rename(columns={c: f"{name}_{c}" for c in table.columns if c not in keys})
    if not found.asof:
        asof.refuse_other_types(frame, table, keys, where)
        return frame.merge(renamed, on=list(keys), how="left", sort=False)
    max_age = None if found.max_age is None else _microseconds(found.max_age)
    positions = asof.as_of(frame, spec.problem.timestamp, table, found.join, found.asof, max_age, where)
    looked_up = renamed.drop(columns=list(keys)).reset_index(drop=True).reindex(positions)
    return pd.concat([frame, looked_up.set_axis(frame.index)], axis="columns")


def _microseconds(time: timedelta) -> int:
    return time // timedelta(microseconds=1)


def label_rows(spec: Spec, rows: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> np.ndarray:
    """The label of each of n rows from all sources in ``tables``, NaN where none knows it.

    Without a labels table the rows bring it along, or it is looked up in the main table.

    Raises ``DataRefused``: KZ411 a source that names a row twice, KZ419 two sources that contradict each other.
    """
    if not spec.label_tables and spec.truth in rows.columns:
        return make_label(spec, rows)
    label = np.full(len(rows), np.nan)
    source = np.full(len(rows), -1)
    for number, name in enumerate(spec.label_tables or (spec.main,)):
        if name not in tables:
            continue
        outcomes = tables[name].reset_index(drop=True)
        refuse_twice(outcomes, spec.keys_of(name), f"table {name}")
        positions = _outcomes_of(spec, rows, name, outcomes)
        found = np.append(make_label(spec, outcomes), np.nan)[positions]
        _refuse_contradiction(spec, rows, label, source, found, name)
        source = np.where(np.isnan(label) & ~np.isnan(found), number, source)
        label = np.where(np.isnan(label), found, label)
    return label


def _outcomes_of(spec: Spec, rows: pd.DataFrame, name: str, outcomes: pd.DataFrame) -> np.ndarray:
    """The position of each row's outcome in a labels table, -1 for none: by entity, or by keys and time."""
    table, problem = spec.data.tables[name], spec.problem
    if not table.time:
        entity = list(problem.entity)
        asof.refuse_other_types(rows, outcomes, entity, f"table {name}")
        numbered = outcomes[entity].assign(_position=np.arange(len(outcomes)))
        found = rows[entity].merge(numbered, on=entity, how="left", sort=False)["_position"]
        return np.asarray(found.fillna(-1), dtype=int)
    horizon, delay = _microseconds(spec.horizon_of(name)), _microseconds(problem.label_delay)
    keys = table.join or problem.entity
    times = (table.time, table.known)
    return asof.outcome_of(rows, problem.timestamp, outcomes, keys, *times, horizon, delay, f"table {name}")


def _refuse_contradiction(
    spec: Spec, rows: pd.DataFrame, label: np.ndarray, source: np.ndarray, found: np.ndarray, name: str
) -> None:
    differs = ~np.isnan(label) & ~np.isnan(found) & (label != found)
    if not differs.any():
        return
    first = int(differs.argmax())
    other = spec.label_tables[source[first]]
    row = rows.iloc[first]
    shown = ", ".join(f"{k}={show(row[k])}" for k in spec.problem.entity)
    raise DataRefused(
        "KZ419",
        "sources of labels contradict each other",
        where=f"tables {other} and {name}",
        value=f"{int(differs.sum())} rows; the first: {shown}: {label[first]:g} in {other}, {found[first]:g} in {name}",
        limit="the same label wherever a row has one",
        action="correct one of them at its source and deliver it again",
    )


def default_features(spec: Spec, frame: pd.DataFrame) -> tuple[str, ...]:
    """Every column that is not an outcome, the target or the timestamp."""
    never = {*spec.data.outcomes, spec.problem.target, spec.problem.timestamp, spec.truth}
    return tuple(str(c) for c in frame.columns if c not in never)


def _as_features(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers as float64 (so that a missing value never changes a type), everything else as text or None."""
    columns = {}
    for name in frame.columns:
        values = frame[name]
        # True and false with a missing value in between are objects to pandas.
        if pd.api.types.is_numeric_dtype(values) or pd.api.types.infer_dtype(values, skipna=True) == "boolean":
            columns[str(name)] = values.astype(float)
        else:
            text = values if isinstance(values.dtype, pd.StringDtype) else values.astype("str")
            columns[str(name)] = text.astype(object).where(values.notna(), None)
    return pd.DataFrame(columns, index=frame.index).reset_index(drop=True)
