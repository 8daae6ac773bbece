"""monitor: is the champion still fit for the rows that come? The rules are in ``kaizen.monitor``."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from kaizen.monitor import monitor
from kaizen.records import HealthReport
from kedro_kaizen.project import ProjectLoop


def run(loop: ProjectLoop, after: object) -> list[HealthReport]:
    """Report on every scored partition whose picture is new; the reports that were added. ``after`` only orders."""
    with loop.open() as opened:
        return monitor(opened)


def create_pipeline(after: str = "kaizen_scored", leaves: str = "kaizen_health", name: str = "monitor") -> Pipeline:
    """Dataset ``after`` to dataset ``leaves``: a turn monitors twice, the champion before and after it."""
    return Pipeline([node(run, ["kaizen_loop", after], leaves, name=name)])
