"""Metrics with intervals that respect days: a paired block bootstrap at the cost of matrix products.

Rows of one day share weather and operations, so days, not rows, are resampled (Künsch 1989 with fixed blocks). Every
metric here is a function of sums per day; ROC AUC is the ratio of two such forms, because concordant pairs split by
the day of the positive and the day of the negative (Hanley & McNeil 1982 for AUC as a U-statistic).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kaizen.measures import MEASURES
from kaizen.records import Comparison, Estimate

_DRAWS = 2000
_MIN_BLOCKS = 5


@dataclass(frozen=True)
class Sums:
    """One metric of one model as sums over D blocks.

    Attributes:
        pairs: (D, D) concordant pairs for ROC AUC, or (D,) sums of a loss.
        left, right: (D,) counts that ``pairs`` is divided by (``right`` only for ROC AUC).
        root: True if the square root of the mean is the metric (RMSE).
    """

    pairs: np.ndarray
    left: np.ndarray
    right: np.ndarray | None = None
    root: bool = False

    def at(self, weights: np.ndarray) -> np.ndarray:
        """The metric for each row of ``weights`` (n, D); NaN where it is not defined."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.right is not None:
                top = np.einsum("ni,ij,nj->n", weights, self.pairs, weights, optimize=True)
                return np.asarray(top / ((weights @ self.left) * (weights @ self.right)))
            mean = (weights @ self.pairs) / (weights @ self.left)
            return np.asarray(np.sqrt(mean) if self.root else mean)


def block_sums(metric: str, label: np.ndarray, prediction: np.ndarray, block: np.ndarray) -> Sums:
    """The sums of ``metric`` for n labels and predictions in blocks numbered from 0 to D-1."""
    size = int(block.max()) + 1 if len(block) else 0
    count = np.bincount(block, minlength=size).astype(float)
    if metric == "roc_auc":
        return _auc_sums(label == 1, prediction, block, size)
    loss = _LOSSES[metric](label, prediction)
    return Sums(np.bincount(block, weights=loss, minlength=size), count, root=metric == "rmse")


def _auc_sums(positive: np.ndarray, score: np.ndarray, block: np.ndarray, size: int) -> Sums:
    pairs = np.zeros((size, size))
    wins, winner_block = score[positive], block[positive]
    for day in range(size):
        losses = np.sort(score[~positive & (block == day)])
        # A tie counts half: the mean of both insertion points.
        below = (np.searchsorted(losses, wins, "left") + np.searchsorted(losses, wins, "right")) / 2
        pairs[:, day] = np.bincount(winner_block, weights=below, minlength=size)
    negatives = np.bincount(block[~positive], minlength=size).astype(float)
    return Sums(pairs, np.bincount(winner_block, minlength=size).astype(float), negatives)


_CLIP = float(np.finfo(float).eps)
_LOSSES = {
    "brier": lambda y, p: (p - y) ** 2,
    "log_loss": lambda y, p: -(y * np.log(np.clip(p, _CLIP, 1)) + (1 - y) * np.log(np.clip(1 - p, _CLIP, 1))),
    "mae": lambda y, p: np.abs(p - y),
    "rmse": lambda y, p: (p - y) ** 2,
}


def draws(blocks: int, seed: int = 0) -> np.ndarray:
    """Bootstrap weights (2000, D): how often each of D blocks was drawn."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=_DRAWS).astype(float)


def interval(values: np.ndarray, confidence: float) -> tuple[float, float] | tuple[None, None]:
    """The central interval of bootstrap values; (None, None) if more than a tenth of them is not defined."""
    values = values[np.isfinite(values)]
    if len(values) < 0.9 * _DRAWS:
        return None, None
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def compare(
    metric: str,
    label: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    block: np.ndarray,
    confidence: float,
    *,
    slice_name: str = "",
) -> Comparison | None:
    """Candidate, and champion if ``predictions`` has one, on the same rows.

    Returns None where the metric is not defined (no rows, one class). With fewer than 5 days the intervals are None.
    """
    if len(label) == 0:
        return None
    days, block = np.unique(block, return_inverse=True)
    sums = {name: block_sums(metric, label, p, block) for name, p in predictions.items()}
    whole = np.ones((1, len(days)))
    values = {name: float(s.at(whole)[0]) for name, s in sums.items()}
    if not all(np.isfinite(v) for v in values.values()):
        return None
    spread: dict[str, np.ndarray] = {}
    if len(days) >= _MIN_BLOCKS:
        weights = draws(len(days))
        spread = {name: s.at(weights) for name, s in sums.items()}
    estimates = {
        name: Estimate(value, *(interval(spread[name], confidence) if spread else (None, None)))
        for name, value in values.items()
    }
    gain = None
    if "champion" in values:
        measure = MEASURES[metric]
        sign = 1.0 if measure.higher_is_better else -1.0
        bounds = interval(sign * (spread["candidate"] - spread["champion"]), confidence) if spread else (None, None)
        gain = Estimate(measure.gain(values["candidate"], values["champion"]), *bounds)
    return Comparison(metric, estimates["candidate"], estimates.get("champion"), gain, len(label), slice_name)


def mean_difference(
    metric: str, parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], confidence: float
) -> Estimate:
    """The mean over ``parts`` of (first minus second model), days resampled within each part.

    Each part is (label, first prediction, second prediction, block), all of length n.
    """
    values, spread = [], np.zeros(_DRAWS)
    for i, (label, first, second, block) in enumerate(parts):
        days, block = np.unique(block, return_inverse=True)
        one, two = (block_sums(metric, label, p, block) for p in (first, second))
        whole, weights = np.ones((1, len(days))), draws(len(days), seed=i)
        values.append(float(one.at(whole)[0] - two.at(whole)[0]))
        spread += (one.at(weights) - two.at(weights)) / len(parts)
    return Estimate(float(np.mean(values)), *interval(spread, confidence))


def auc(positive: np.ndarray, score: np.ndarray) -> float:
    """ROC AUC of a score; NaN with one class."""
    block = np.zeros(len(score), dtype=int)
    return float(_auc_sums(positive, score, block, 1).at(np.ones((1, 1)))[0]) if len(score) else float("nan")
