"""How closely single features go with the target: one number each, by the formula that fits their kinds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kaizen.adapters.examples import Examples
from kaizen.records import CRAMER, PEARSON, POINT_BISERIAL, RATIO, Association


def associate(examples: Examples, positive: int | None) -> tuple[Association, ...]:
    """Every feature beside the known labels, the strongest first.

    Args:
        examples: n rows with labels. positive: the class that is predicted; None for a regression.
    """
    if examples.label is None:
        raise ValueError("labels were not asked for")
    label = np.where(np.isnan(examples.label), np.nan, examples.label == positive) if positive is not None else None
    target = examples.label if label is None else label
    found = [_associate(str(n), examples.features[n], target, label is not None) for n in examples.features.columns]
    return tuple(sorted(found, key=lambda a: (-abs(a.value or 0.0), a.feature)))


def _associate(name: str, values: pd.Series, target: np.ndarray, classes: bool) -> Association:
    known = ~np.isnan(target) & values.notna().to_numpy()
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(dtype=float)
        known &= np.isfinite(numbers)
        return Association(
            name, POINT_BISERIAL if classes else PEARSON, pearson(numbers[known], target[known]), int(known.sum())
        )
    codes = pd.factorize(values[known])[0]
    measure = cramers_v if classes else correlation_ratio
    return Association(name, CRAMER if classes else RATIO, measure(codes, target[known]), int(known.sum()))


def pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's correlation of n pairs; None if one side is constant.

    With a target of 0 and 1 it is the point-biserial correlation (Tate 1954).
    """
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return None
    x, y = x - x.mean(), y - y.mean()
    spread = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float(np.clip((x * y).sum() / spread, -1, 1)) if spread > 0 else None


def correlation_ratio(codes: np.ndarray, y: np.ndarray) -> float | None:
    """Eta of n numbers in groups 0, 1, ...: the root of the share of their variance that lies between the groups.

    Fisher, Statistical Methods for Research Workers (1925); None if the numbers are constant.
    """
    if len(y) < 2 or y.min() == y.max():
        return None
    counts = np.bincount(codes)
    means = np.bincount(codes, weights=y) / np.maximum(counts, 1)
    between = float((counts * (means - y.mean()) ** 2).sum())
    return float(np.sqrt(min(1.0, between / float(((y - y.mean()) ** 2).sum()))))


def cramers_v(codes: np.ndarray, classes: np.ndarray) -> float | None:
    """Cramér's V of n pairs of categories, corrected for the bias of many categories (Bergsma 2013).

    None if one side has a single category.
    """
    (groups, row), (kinds, column) = (np.unique(side, return_inverse=True) for side in (codes, classes))
    n, rows, columns = len(codes), len(groups), len(kinds)
    if rows < 2 or columns < 2:
        return None
    table = np.bincount(row * columns + column, minlength=rows * columns).reshape(rows, columns)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / n
    phi = float(((table - expected) ** 2 / expected).sum()) / n
    phi = max(0.0, phi - (rows - 1) * (columns - 1) / (n - 1))
    sides = [side - (side - 1) ** 2 / (n - 1) for side in (rows, columns)]
    return float(np.sqrt(min(1.0, phi / max(min(sides) - 1, 1e-12))))
