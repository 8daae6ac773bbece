"""When and where: the loop on Apache Airflow. Nothing is imported before it is used: every component reads this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaizen_airflow.assets import champion_asset, data_asset, landing_asset, retrain_asset, scores_asset
    from kaizen_airflow.dags import IngestDag, LoopTaskGroup, MonitoringDag, ReconcileDag, ScoringDag, TrainingDag

__all__ = [
    "IngestDag",
    "LoopTaskGroup",
    "MonitoringDag",
    "ReconcileDag",
    "ScoringDag",
    "TrainingDag",
    "champion_asset",
    "data_asset",
    "landing_asset",
    "retrain_asset",
    "scores_asset",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{'assets' if name.endswith('_asset') else 'dags'}"), name)
