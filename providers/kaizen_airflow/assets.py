"""A loop's assets. Their events are doorbells: they say that somebody should look, never what there is to do.

Those that the loop itself listens to are plain events, not partitioned ones, on purpose. Airflow may merge, repeat,
delay or drop them; whoever is rung takes all that is due from the ledger, so that a merged bell loses nothing and a
repeated one finds nothing to do. ``ReconcileDag`` rings again for work that waits.
"""

from __future__ import annotations

from airflow.sdk import Asset, AssetWatcher

from kaizen_airflow.triggers.landing import LandingTrigger


def data_asset(loop: str) -> Asset:
    """Rung by validate: partitions have their verdict. ``loop`` is ``project/loop``, here as in all functions below."""
    return loop_asset(loop, "data")


PARTITIONS = "/partitions/"


def partitions_asset(loop: str, table: str) -> Asset:
    """Rung by validate, with partition keys: these partitions of a table have a verdict. For a team's own DAGs.

    ``PartitionedAssetTimetable(assets=...)`` starts one run for each.
    """
    return loop_asset(loop, f"data{PARTITIONS}{table}")


def delivery_asset(text: str) -> Asset:
    """Another team's asset that rings when a table's source has something, by its URI or its name."""
    return Asset(uri=text) if ":" in text else Asset(name=text)


def scores_asset(loop: str) -> Asset:
    """Rung by score: whatever could be scored is."""
    return loop_asset(loop, "scores")


def retrain_asset(loop: str) -> Asset:
    """Rung by trigger: a decision to retrain is open."""
    return loop_asset(loop, "retrain")


def champion_asset(loop: str) -> Asset:
    """Rung by deploy: another champion serves. What a team's own DAGs wait for."""
    return loop_asset(loop, "champion")


def landing_asset(loop: str, spec: str, env: str, poll: float) -> Asset:
    """Rung by the triggerer: files of the spec's tables have come or changed, and nobody writes to them any more.

    Args:
        spec, env: the loop's spec, and the overlay on it. poll: seconds between two looks.
    """
    trigger = LandingTrigger(spec=spec, env=env, poll=poll)
    return loop_asset(loop, "landing", [AssetWatcher(name=f"kaizen {loop} landing", trigger=trigger)])


def loop_asset(loop: str, what: str, watchers: list[AssetWatcher] | None = None) -> Asset:
    """The asset of a loop that the functions above name ``what``."""
    return Asset(name=f"kaizen/{loop}/{what}", uri=f"x-kaizen://{loop}/{what}", group="kaizen", watchers=watchers or [])
