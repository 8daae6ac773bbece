"""The metrics that gates may name: for which task, and which direction is better.

Each can be computed from sums per block (day), so that a block bootstrap costs matrix products instead of refits:
see ``kaizen.adapters.estimates``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """One metric."""

    task: Literal["classification", "regression"]
    higher_is_better: bool

    def gain(self, candidate: float, champion: float) -> float:
        """How much better the candidate is; positive is better whatever the direction."""
        return candidate - champion if self.higher_is_better else champion - candidate


MEASURES: dict[str, Measure] = {
    "roc_auc": Measure("classification", higher_is_better=True),
    "brier": Measure("classification", higher_is_better=False),
    "log_loss": Measure("classification", higher_is_better=False),
    "mae": Measure("regression", higher_is_better=False),
    "rmse": Measure("regression", higher_is_better=False),
}
