"""The network as it is stored and served: arrays and NumPy, so that evaluation and scoring need no PyTorch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin

CATEGORIES = ("carrier", "origin", "dest", "planes_engine")


class FlightNetwork(ClassifierMixin, BaseEstimator):
    """Rows as they are ingested in, the probability of being late out.

    Args:
        known: by category, the values with an embedding of their own; all others share the first.
        center: mean of each number, which also stands in for a missing one. scale: what its distance is divided by.
        weights: the network's arrays, by PyTorch's names.
    """

    def __init__(
        self,
        known: dict[str, list[str]],
        center: np.ndarray,
        scale: np.ndarray,
        weights: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.known = known
        self.center = center
        self.scale = scale
        self.weights = weights

    @classmethod
    def describe(cls, rows: pd.DataFrame) -> FlightNetwork:
        """How rows like these become numbers; the weights are still to be learnt."""
        known = {name: sorted(rows[name].dropna().unique()) for name in CATEGORIES}
        numbers = _numbers(rows)
        center, scale = np.nanmean(numbers, axis=0), np.nanstd(numbers, axis=0)
        return cls(known, center, np.where(scale > 0, scale, 1.0))

    def encode(self, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """N rows as the places of their embeddings, n x categories, and their numbers, n x numbers."""
        codes = [pd.Categorical(rows[name], categories=known).codes + 1 for name, known in self.known.items()]
        numbers = (_numbers(rows) - self.center) / self.scale
        return np.stack(codes, axis=1).astype(np.int64), np.nan_to_num(numbers).astype(np.float32)

    @property
    def classes_(self) -> np.ndarray:
        """On time, and late."""
        return np.array([0, 1])

    def predict_proba(self, rows: pd.DataFrame) -> np.ndarray:
        """N x 2 probabilities."""
        codes, values = self.encode(rows)
        embedded = [self.weights[f"embeddings.{n}.weight"][column] for n, column in enumerate(codes.T)]
        values = np.concatenate([*embedded, values], axis=1)
        for layer in (0, 2):
            values = np.maximum(self._linear(layer, values), 0)
        late = 1 / (1 + np.exp(-self._linear(4, values)))
        return np.concatenate([1 - late, late], axis=1)

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """N classes."""
        return (self.predict_proba(rows)[:, 1] >= 0.5).astype(int)

    def _linear(self, layer: int, values: np.ndarray) -> np.ndarray:
        return values @ self.weights[f"layers.{layer}.weight"].T + self.weights[f"layers.{layer}.bias"]


def _numbers(rows: pd.DataFrame) -> np.ndarray:
    """All columns that are no category; dates as days of the week, clock readings (``hhmm``) as minutes."""
    dates = pd.to_datetime(rows[["year", "month", "day"]].astype(int))
    clocks = rows[["sched_dep_time", "sched_arr_time"]]
    others = rows.drop(columns=["year", "month", "day", *clocks, *CATEGORIES])
    return others.assign(weekday=dates.dt.day_of_week, **(clocks // 100 * 60 + clocks % 100)).to_numpy(float)
