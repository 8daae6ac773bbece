"""Profiles: counts per bin of every feature, made where the data is, compared anywhere (``kaizen.drift``)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kaizen.records import Bin, FeatureProfile, Profile

_NUMERIC_BINS = 10
_CATEGORIES = 50
OTHER = "(other)"
"""The bin of categories beyond the 50 most frequent of the reference, and of new ones."""


def make_profile(features: pd.DataFrame, reference: Profile | None = None) -> Profile:
    """Counts of ``features`` in the bins of ``reference``, or in bins of its own (deciles; top categories)."""
    known = {f.feature: f for f in reference.features} if reference else {}
    return Profile(
        rows=len(features),
        features=tuple(_profile_feature(str(n), features[n], known.get(str(n))) for n in features.columns),
    )


def _profile_feature(name: str, values: pd.Series, reference: FeatureProfile | None) -> FeatureProfile:
    numeric = reference.numeric if reference else pd.api.types.is_numeric_dtype(values)
    missing = int(values.isna().sum())
    present = values.dropna()
    if numeric:
        numbers = present.to_numpy(dtype=float)
        edges = [b.upper for b in reference.bins[:-1]] if reference else _deciles(numbers)
        counts = np.bincount(np.searchsorted(np.array(edges, dtype=float), numbers, "left"), minlength=len(edges) + 1)
        bins = tuple(Bin(upper, int(n)) for upper, n in zip([*edges, None], counts, strict=True))
        return FeatureProfile(name, True, missing, bins)
    counted = present.astype(str).value_counts()
    if reference:
        names = [str(b.upper) for b in reference.bins if b.upper != OTHER]
    else:
        names = sorted(counted.index[:_CATEGORIES])
    inside = [int(counted.get(n, 0)) for n in names]
    rest = len(present) - sum(inside)
    return FeatureProfile(
        name, False, missing, tuple(Bin(n, c) for n, c in zip([*names, OTHER], [*inside, rest], strict=True))
    )


def _deciles(numbers: np.ndarray) -> list[float]:
    """Distinct inner deciles; a constant feature has one edge, its value."""
    if len(numbers) == 0:
        return []
    inner = np.quantile(numbers, np.linspace(0, 1, _NUMERIC_BINS + 1)[1:-1], method="inverted_cdf")
    return [float(edge) for edge in np.unique(inner)]
