"""deploy: the new champion proves that it opens; the turn ends. The rules are in ``kaizen.deploy``."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from kaizen.deploy import deploy
from kaizen.records import (
    EvaluationReport,
    PromotionDecision,
    TrainedModel,
    TrainingSet,
    TriggerDecision,
    TurnRecord,
)
from kaizen.trigger import turn_id
from kaizen.turn import close
from kedro_kaizen.project import ProjectLoop


def run(
    loop: ProjectLoop,
    decision: TriggerDecision,
    examples: TrainingSet,
    candidate: TrainedModel,
    evaluation: EvaluationReport,
    verdict: PromotionDecision,
) -> TurnRecord:
    """Bring a promoted candidate into service, and keep the record of the turn either way."""
    with loop.open() as opened:
        turn = turn_id(decision)
        promotion = opened.promotion_in(turn) if verdict.promote else None
        deployment = deploy(opened, promotion, turn) if promotion else None
        return close(opened, decision, examples, candidate, evaluation, verdict, promotion, deployment)


def create_pipeline() -> Pipeline:
    """``kaizen_verdict`` to ``kaizen_turn``."""
    records = ["decision", "training_set", "candidate", "evaluation", "verdict"]
    takes = ["kaizen_loop", *(f"kaizen_{record}" for record in records)]
    return Pipeline([node(run, takes, "kaizen_turn", name="deploy")])
