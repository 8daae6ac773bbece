"""Leaks: the truth in disguise among the features, rows of the other side, rows of another time.

All of them are looked for before user code runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kaizen.adapters import estimates
from kaizen.adapters.examples import Examples
from kaizen.bridge import InputFile
from kaizen.calendar import LOOKS_PER_YEAR, bounds
from kaizen.errors import DataRefused
from kaizen.spec import Spec

_POWER_ROWS = 20_000
_COPY_ROWS = 20
"""With fewer rows ranks may agree by chance."""


def refuse_outcomes_in_disguise(spec: Spec, rows: Examples) -> None:
    """Raise ``DataRefused`` if a single column tells the label: KZ422 (classification), KZ428 (regression)."""
    step = max(1, len(rows) // _POWER_ROWS)
    sample = rows.where(np.arange(len(rows)) % step == 0)
    label = np.zeros(0) if sample.label is None else sample.label
    if spec.problem.task == "regression":
        _refuse_copies(spec, sample.features, label)
    else:
        _refuse_too_powerful(spec, sample.features, label == spec.problem.positive)


def _refuse_too_powerful(spec: Spec, features: pd.DataFrame, label: np.ndarray) -> None:
    """The second net for outcomes among the features: no single column may tell the label apart almost alone."""
    limit = spec.evaluate.max_auc_of_one_feature
    for name in features.columns:
        power = _power(features[name], label)
        if power >= limit:
            raise DataRefused(
                "KZ422",
                "one feature tells the label almost alone",
                where=f"feature {name}",
                value=f"ROC AUC {power:.3f}",
                limit=f"below {limit} (evaluate.max_auc_of_one_feature)",
                action="if it is an outcome, name it in data.outcomes; if it is known in advance, raise the limit",
            )


def _power(values: pd.Series, label: np.ndarray) -> float:
    """ROC AUC of one column alone, whichever way it points; categories by their label rate on the other half."""
    numbers = _as_numbers(values)
    by_rank = _auc(label, numbers.fillna(numbers.min() - 1 if numbers.notna().any() else 0)) if len(numbers) else 0.5
    if pd.api.types.is_numeric_dtype(values):
        return by_rank
    half = np.arange(len(values)) % 2 == 0
    rates = pd.Series(label[half], dtype=float).groupby(values[half].to_numpy()).mean()
    return max(by_rank, _auc(label[~half], values[~half].map(rates).fillna(label.mean())))


def _auc(label: np.ndarray, score: pd.Series) -> float:
    found = estimates.auc(label, score.to_numpy(dtype=float))
    return max(found, 1 - found) if np.isfinite(found) else 0.5


def _refuse_copies(spec: Spec, features: pd.DataFrame, label: np.ndarray) -> None:
    """A copy may be shifted, scaled, turned around or bent: its ranks are the target's."""
    limit, target = spec.evaluate.max_correlation_of_one_feature, pd.Series(label)
    for name in features.columns:
        numbers = _as_numbers(features[name])
        known = numbers.notna().to_numpy() if len(numbers) else np.zeros(0, dtype=bool)
        if known.sum() < _COPY_ROWS or numbers[known].nunique() < 2 or target[known].nunique() < 2:
            continue
        found = abs(float(numbers[known].rank().corr(target[known].rank())))
        # Rounding takes a copy's correlation just below 1.
        if found >= limit or np.isclose(found, 1.0, rtol=0, atol=1e-9):
            raise DataRefused(
                "KZ428",
                "a feature is a copy of the target",
                where=f"feature {name}",
                value=f"rank correlation {found:.4f} in {int(known.sum())} rows",
                limit=f"below {limit} (evaluate.max_correlation_of_one_feature)",
                action="if it is an outcome, name it in data.outcomes; if it is known in advance, raise the limit",
            )


def _as_numbers(values: pd.Series) -> pd.Series:
    """A column as numbers, also if they are written as text; an empty one if it holds something else."""
    if pd.api.types.is_numeric_dtype(values):
        return values.astype(float)
    numbers = pd.to_numeric(values, errors="coerce")
    return (
        numbers.astype(float)
        if numbers.notna().sum() >= 0.99 * max(1, values.notna().sum())
        else pd.Series(dtype=float)
    )


def refuse_shared(spec: Spec, one: Examples, other: Examples, sides: str) -> None:
    """Raise ``DataRefused`` if ``sides`` have an entity (KZ425) or a group (KZ426) in common; missing ones are none."""
    if count := _shared(one, other, spec.problem.entity):
        raise DataRefused(
            "KZ425",
            "the same entity on both sides",
            where=sides,
            value=f"{count} rows by {', '.join(spec.problem.entity)}",
            limit="each entity on one side: what a model has learnt by heart says nothing about it",
            action="deliver each row once; add to problem.entity what tells rows apart",
        )
    if spec.problem.group and (count := _shared(one, other, spec.problem.group)):
        raise DataRefused(
            "KZ426",
            "the same group on both sides",
            where=sides,
            value=f"{count} rows by {', '.join(spec.problem.group)}",
            limit="each group on one side (problem.group)",
            action="split by these columns, train on fewer partitions (train.window), or remove problem.group",
        )


def _shared(one: Examples, other: Examples, columns: Sequence[str]) -> int:
    """How many rows of ``other`` have a key that is also in ``one``."""
    keys = list(columns)
    known = one.rows[keys].dropna().drop_duplicates()
    return len(other.rows[keys].dropna().merge(known, on=keys, how="inner"))


def refuse_outside(spec: Spec, item: InputFile, frame: pd.DataFrame) -> None:
    """Raise ``DataRefused`` (KZ427) if a row lies outside its partition: before it, or past the labels' cut-off."""
    column, partition = spec.problem.timestamp, spec.data.tables[item.table].partition
    if partition not in LOOKS_PER_YEAR or column not in frame.columns or not len(frame):
        return
    start, end = (pd.Timestamp(moment) for moment in bounds(item.partition, spec.timezone))
    late, early = frame[column] >= end, frame[column] < start
    if not (late | early).any():
        return
    far = (frame[column].max() - end) if late.any() else (start - frame[column].min())
    told = f"{column} > label cut-off by {_words(far)}" if late.any() else f"{column} < partition by {_words(far)}"
    raise DataRefused(
        "KZ427",
        "rows of another time",
        where=f"{item.table}/{item.partition}",
        value=f"{told} in {int((late | early).sum())} rows",
        limit=f"from {start.isoformat()} to before {end.isoformat()}",
        action="deliver each row in the partition of its time",
    )


def _words(length: pd.Timedelta) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if length.total_seconds() >= unit:
            return f"{length.total_seconds() / unit:.3g} {name}"
    return f"{length.total_seconds():.3g} s"


def oddities(features: pd.DataFrame) -> list[str]:
    """What is odd about features and no reason to refuse them: those that say nothing. No value is shown."""
    found = []
    for name in features.columns:
        values = features[name].dropna()
        if values.empty and len(features):
            found.append(f"feature {name} has no value")
        elif len(features) > 1 and len(values) == len(features) and (values == values.iloc[0]).all():
            found.append(f"feature {name} has one value only")
    return found
