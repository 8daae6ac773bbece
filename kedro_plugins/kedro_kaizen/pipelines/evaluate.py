"""evaluate: candidate and champion on the same unseen rows. The rules are in ``kaizen.evaluate``."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from kaizen.evaluate import evaluate
from kaizen.records import EvaluationReport, TrainedModel, TrainingSet, TriggerDecision
from kaizen.trigger import turn_id
from kedro_kaizen.project import ProjectLoop


def run(
    loop: ProjectLoop, decision: TriggerDecision, examples: TrainingSet, candidate: TrainedModel
) -> EvaluationReport:
    """Measure both on the newest labelled window."""
    with loop.open() as opened:
        return evaluate(opened, examples, candidate, turn_id(decision))


def create_pipeline() -> Pipeline:
    """``kaizen_candidate`` to ``kaizen_evaluation``."""
    takes = ["kaizen_loop", "kaizen_decision", "kaizen_training_set", "kaizen_candidate"]
    return Pipeline([node(run, takes, "kaizen_evaluation", name="evaluate")])
