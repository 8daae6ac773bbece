"""Examples: rows of the main table with what they look up, as features; labels joined from outcomes.

Training, evaluation and scoring all see rows through this one module, so there is no skew between them. Nothing from
the labels table can reach a feature: labels are joined last, as one column, and only where they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kaizen.errors import DataRefused
from kaizen.privacy import show
from kaizen.records import Window
from kaizen.spec import Spec, parse_label
from kaizen.splits import refuse_missing

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

    Raises ``DataRefused``: KZ411 a look-up key twice, KZ412 an outcome among the features, KZ413 a feature missing,
    KZ493 a column of ``keep`` missing.
    """
    problem = spec.problem
    frame = _with_look_ups(spec, tables)
    label = _label(spec, frame, tables) if labels else None
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
    rule = parse_label(spec.problem.label)
    truth = rule.column if rule else spec.problem.target
    if spec.labels is None:
        return frame.drop(columns=truth), frame[[truth]]
    entity = list(spec.problem.entity)
    outcomes = tables[spec.labels].drop_duplicates(entity)[[*entity, truth]]
    return frame, frame[entity].merge(outcomes, on=entity, how="left", sort=False)[[truth]]


def refuse_outcomes(spec: Spec, names: tuple[str, ...] | list[str], where: str) -> None:
    """Raise ``DataRefused`` (KZ412) if one of ``names`` is known only after the prediction."""
    rule = parse_label(spec.problem.label)
    outcomes = {*spec.data.outcomes, spec.problem.target, *([rule.column] if rule else [])}
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
    repeated = table.duplicated(list(keys))
    if not repeated.any():
        return
    row = table[repeated].iloc[0]
    # Keys that are private have been hashed; what nobody declared may still be an identifier.
    raise DataRefused(
        "KZ411",
        "key appears twice",
        where=where,
        value=", ".join(f"{k}={show(row[k])}" for k in keys),
        limit="each key once",
        action="deduplicate it at the source, or add expect_compound_columns_to_be_unique to its suite",
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
            frame = _look_up(frame, name, tables[name], spec.data.tables[name].join)
    return frame


def _look_up(frame: pd.DataFrame, name: str, table: pd.DataFrame, keys: tuple[str, ...]) -> pd.DataFrame:
    """``frame`` with the columns of ``table`` as ``NAME_COLUMN``; rows and their order stay as they are."""
    refuse_twice(table, keys, f"table {name}")
    renamed = table.rename(columns={c: f"{name}_{c}" for c in table.columns if c not in keys})
    return frame.merge(renamed, on=list(keys), how="left", sort=False)


def _label(spec: Spec, frame: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> np.ndarray:
    if spec.labels is None:
        return make_label(spec, frame)
    if spec.labels not in tables:
        return np.full(len(frame), np.nan)
    return join_labels(spec, frame, tables[spec.labels])


def join_labels(spec: Spec, rows: pd.DataFrame, outcomes: pd.DataFrame) -> np.ndarray:
    """The label of each of n rows, looked up by entity; NaN where it is not known. Raises ``DataRefused`` KZ411."""
    entity = list(spec.problem.entity)
    refuse_twice(outcomes, entity, f"table {spec.labels}")
    labels = outcomes[entity].assign(_label=make_label(spec, outcomes))
    joined = rows[entity].merge(labels, on=entity, how="left", sort=False)
    return np.asarray(joined["_label"], dtype=float)


def default_features(spec: Spec, frame: pd.DataFrame) -> tuple[str, ...]:
    """Every column that is not an outcome, the target or the timestamp."""
    rule = parse_label(spec.problem.label)
    never = {*spec.data.outcomes, spec.problem.target, spec.problem.timestamp, *([rule.column] if rule else [])}
    return tuple(str(c) for c in frame.columns if c not in never)


def _as_features(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers as float64 (so that a missing value never changes a type), everything else as text or None."""
    columns = {}
    for name in frame.columns:
        values = frame[name]
        if pd.api.types.is_numeric_dtype(values):
            columns[str(name)] = values.astype(float)
        else:
            text = values if isinstance(values.dtype, pd.StringDtype) else values.astype("str")
            columns[str(name)] = text.astype(object).where(values.notna(), None)
    return pd.DataFrame(columns, index=frame.index).reset_index(drop=True)
