"""promote: yes or no, with reasons; the champion moves. The rules are in ``kaizen.promote``."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from kaizen.promote import promote
from kaizen.records import EvaluationReport, PromotionDecision, TrainedModel, TriggerDecision
from kaizen.trigger import turn_id
from kedro_kaizen.project import ProjectLoop


def run(
    loop: ProjectLoop, decision: TriggerDecision, candidate: TrainedModel, evaluation: EvaluationReport
) -> PromotionDecision:
    """Judge the candidate and, if the answer is yes, make it champion."""
    with loop.open() as opened:
        return promote(opened, evaluation, candidate, turn_id(decision))[0]


def create_pipeline() -> Pipeline:
    """``kaizen_evaluation`` to ``kaizen_verdict``."""
    takes = ["kaizen_loop", "kaizen_decision", "kaizen_candidate", "kaizen_evaluation"]
    return Pipeline([node(run, takes, "kaizen_verdict", name="promote")])
