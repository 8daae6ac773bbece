"""reconcile: heal what only shows the ledger, sweep leftovers, and ring again for work that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaizen_airflow.assets import loop_asset
from kaizen_airflow.operators.stage import StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

BELLS = {
    "ingest": "landing",
    "validate": "landing",
    "score": "data",
    "monitor": "scores",
    "trigger": "scores",
    "train": "retrain",
}
"""Stages whose work may wait, and the asset that wakes them."""


class ReconcileOperator(StageOperator):
    """Make every view show the ledger; ring for work whose event Airflow lost, or had while a DAG was paused.

    Its outlet is an alias: only the assets that are added to it have an event.
    """

    stage = "reconcile"

    def ring(self, context: Context, value: dict[str, Any]) -> None:
        """Add the assets of the stages that have work waiting."""
        due = self.result.due if self.result else ()
        for alias in self.outlets:
            loop = alias.name.removeprefix("kaizen/").removesuffix("/reconcile")
            for what in dict.fromkeys(BELLS[stage] for stage in due):
                context["outlet_events"][alias].add(loop_asset(loop, what), extra=value)
