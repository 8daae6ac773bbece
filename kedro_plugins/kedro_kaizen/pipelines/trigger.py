"""trigger: a run of the turn's pipeline is a person's wish to retrain. The rules are in ``kaizen.trigger``."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from kaizen.records import TriggerDecision
from kaizen.trigger import trigger
from kedro_kaizen.project import ProjectLoop


def run(loop: ProjectLoop, after: object) -> TriggerDecision:
    """Decide to retrain, or refuse (KZ210). A decision that was not carried out yet is taken up again."""
    with loop.open() as opened:
        return trigger(opened, wish="kedro run")


def create_pipeline(after: str = "kaizen_health") -> Pipeline:
    """Dataset ``after`` to ``kaizen_decision``."""
    return Pipeline([node(run, ["kaizen_loop", after], "kaizen_decision", name="trigger")])
