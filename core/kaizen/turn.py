"""A turn of the loop: from a decision to a deployment or a refusal; and ``advance``, which does all that is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from kaizen.deliveries import Span
from kaizen.deploy import deploy
from kaizen.evaluate import evaluate
from kaizen.faults import fault_point
from kaizen.ingest import ingest
from kaizen.loop import Loop
from kaizen.monitor import monitor
from kaizen.promote import promote, registry_name
from kaizen.records import (
    DataVersion,
    Deployment,
    EvaluationReport,
    HealthReport,
    Promotion,
    PromotionDecision,
    ScoredBatch,
    TrainedModel,
    TrainingSet,
    TriggerDecision,
    TurnRecord,
    ValidationReport,
)
from kaizen.score import score
from kaizen.train import train, training_set
from kaizen.trigger import open_decision, trigger, turn_id
from kaizen.validate import read_suites, validate

Progress = Callable[[str], None]
"""Told the name of a stage when it begins."""


def _silent(_: str) -> None:
    """Tell nobody."""


def turn(loop: Loop, decision: TriggerDecision, *, progress: Progress = _silent) -> TurnRecord:
    """Carry out one decision to retrain."""
    name = turn_id(decision)
    examples = training_set(loop)
    progress("train")
    candidate = train(loop, examples, decision, name)
    progress("evaluate")
    evaluation = evaluate(loop, examples, candidate, name)
    progress("promote")
    verdict, promotion = promote(loop, evaluation, candidate, name)
    progress("deploy")
    deployment = deploy(loop, promotion, name) if promotion else None
    return close(loop, decision, examples, candidate, evaluation, verdict, promotion, deployment)


def close(
    loop: Loop,
    decision: TriggerDecision,
    examples: TrainingSet,
    candidate: TrainedModel,
    evaluation: EvaluationReport,
    verdict: PromotionDecision,
    promotion: Promotion | None,
    deployment: Deployment | None,
) -> TurnRecord:
    """Keep the record of a turn that came to its end."""
    name = turn_id(decision)
    record = TurnRecord(
        turn=name,
        spec=loop.spec.digest,
        decision=decision.digest,
        training_set=examples.digest,
        candidate=candidate.digest,
        evaluation=evaluation.digest,
        promotion_decision=verdict.digest,
        promotion=promotion.digest if promotion else None,
        deployment=deployment.digest if deployment else None,
        outcome="refused" if deployment is None else "deployed" if deployment.live else "rolled_back",
    )
    # The record comes last: while there is none, all of this is done again.
    loop.registry.close_turn(loop.name, name)
    fault_point("turn.before_append")
    loop.append("turn", record, name, turn=name)
    return record


@dataclass
class Advance:
    """What one call of ``advance`` did, stage by stage."""

    ingested: list[DataVersion] = field(default_factory=list)
    validated: list[ValidationReport] = field(default_factory=list)
    scored: list[ScoredBatch] = field(default_factory=list)
    health: list[HealthReport] = field(default_factory=list)
    decision: TriggerDecision | None = None
    turn: TurnRecord | None = None


def preflight(loop: Loop) -> None:
    """Find out what cannot work before anything is written: a suite that is none, a tracking server out of reach."""
    read_suites(loop)
    loop.registry.alias(registry_name(loop), "champion")


def advance(
    loop: Loop,
    *,
    until: datetime | None = None,
    wish: str = "",
    progress: Progress = _silent,
    tell: Progress = _silent,
) -> Advance:
    """Do all that is due: take what landed, look after the champion, retrain if there is reason, score and look again.

    Args:
        until: take only partitions that end by then: a turn as it would have been on that day.
        wish: why a person asks for a retraining, or "".
        progress: told the name of a stage when it begins. tell: told what is noteworthy of a delivery.
    """
    preflight(loop)
    done = Advance()
    progress("ingest")
    done.ingested = ingest(loop, span=Span(until=until), tell=tell)
    progress("validate")
    done.validated = validate(loop)
    _watch(loop, done, progress)
    progress("trigger")
    done.decision = trigger(loop, wish=wish)
    if open_decision(loop):
        done.turn = turn(loop, done.decision, progress=progress)
        _watch(loop, done, progress)
    return done


def _watch(loop: Loop, done: Advance, progress: Progress) -> None:
    progress("score")
    done.scored += score(loop)
    progress("monitor")
    done.health += monitor(loop)
