"""One stage of a loop by its word, for whoever schedules stages one by one: an orchestrator's task, a timer, a shell.

What there is to do is always a fold of the ledger. A stage that is called too often finds nothing, one that is called
late finds more; a retried one finds its own records. Nothing but the words needs to pass between two calls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from kaizen import codec, report
from kaizen.bridge import call
from kaizen.calendar import bounds
from kaizen.data_report import data_report, page_path
from kaizen.deliveries import Span
from kaizen.deploy import deploy
from kaizen.errors import SpecError, UsageError
from kaizen.evaluate import evaluate
from kaizen.explore import show
from kaizen.ingest import has_landed, ingest
from kaizen.loop import Loop
from kaizen.monitor import monitor, unjudged
from kaizen.promote import promote
from kaizen.publish import publish_text
from kaizen.reconcile import reconcile
from kaizen.records import (
    EvaluationReport,
    Promotion,
    PromotionDecision,
    Record,
    TrainedModel,
    TrainingSet,
)
from kaizen.review import brief
from kaizen.score import score, unscored
from kaizen.train import train, training_set
from kaizen.trigger import open_decision, trigger, turn_id, undecided
from kaizen.turn import close
from kaizen.validate import unvalidated, validate

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Reference:
    """A record in the ledger: what passes between tasks instead of the record itself."""

    kind: str
    subject: str
    digest: str


@dataclass(frozen=True)
class StageResult:
    """What one call of a stage came to.

    Attributes:
        loop: whose. spec: digest of the spec it went by. turn: the turn it belongs to, "" outside any.
        records: what it left or found again. idle: why there was nothing to do, or to hand on; "" if there was.
        notes: what it did besides, in words.
        due: stages whose work is waiting (reconcile only): a bell that was lost is rung again.
        run: the turn's page on the tracking server, "" if it has none. report: the file of the loop's report that was
            written anew, or "".
    """

    loop: str
    stage: str
    spec: str
    turn: str = ""
    records: tuple[Reference, ...] = ()
    idle: str = ""
    notes: tuple[str, ...] = ()
    due: tuple[str, ...] = ()
    run: str = ""
    report: str = ""


@dataclass(frozen=True)
class Order:
    """What a caller may say besides the stage's word.

    Attributes:
        because: for trigger: why a person wants a retraining, or "". since, until: for ingest: only partitions that
            begin and end within, in the loop's zone if they name none; a range to backfill. partition: only this one.
        began_with: digest of the spec that the caller's run began with, "" for a run that begins here.
    """

    because: str = ""
    until: datetime | None = None
    began_with: str = ""
    since: datetime | None = None
    partition: str = ""


def run_stage(loop: Loop, stage: str, order: Order | None = None) -> StageResult:
    """Do what is due of one stage, or of ``reconcile``.

    Raises:
        SpecError: KZ313 the spec is not the one that the caller's run began with.
        UsageError: KZ231 an earlier stage of the turn has not ended.
        KaizenError: what the stage refuses.
    """
    order = order or Order()
    digest = loop.spec.digest
    if order.began_with not in ("", digest):
        raise SpecError(
            "KZ313",
            "the spec changed since this run began",
            where=str(loop.path),
            value=f"digest {digest}",
            limit=f"digest {order.began_with}",
            action="start a new run, or clear this one from its first task",
        )
    return STAGES[stage](loop, order)


def run_stage_elsewhere(
    interpreter: str, path: Path, env: str, stage: str, order: Order, folder: Path, variables: Mapping[str, str]
) -> StageResult:
    """``run_stage`` in a process of another Python environment, which has the stage's libraries.

    Args:
        interpreter: its Python. path, env: the spec, and the overlay on it. folder: an empty one, for the result.
        variables: the process's whole environment; it names the ledger, which no variable of a place does.

    Raises:
        KaizenError: what the stage refuses; ``StageFailed`` KZ703 (died without a result), KZ706 (cannot be started).
    """
    command = [interpreter, "-m", "kaizen.cli", "stage", stage, str(path), "--env", env, "--result", str(folder)]
    command += ["--because", order.because] if order.because else []
    command += ["--began-with", order.began_with] if order.began_with else []
    command += ["--since", order.since.isoformat()] if order.since else []
    command += ["--partition", order.partition] if order.partition else []
    command += ["--until", order.until.isoformat()] if order.until else []
    outputs = call(command, folder, variables, log=None)
    result: StageResult = codec.decode(StageResult, outputs)
    return result


def _ingest(loop: Loop, order: Order) -> StageResult:
    notes: list[str] = []
    versions = ingest(loop, span=_span(loop, order), tell=notes.append)
    result = _result(loop, "ingest", {f"data/{v.table}/{v.partition}": v for v in versions})
    return replace(result, notes=tuple(notes))


def _span(loop: Loop, order: Order) -> Span:
    zone = loop.spec.timezone
    if order.partition:
        try:
            return Span(*bounds(order.partition, zone))
        except ValueError:
            raise UsageError(
                "KZ233",
                "not a partition by time",
                where="ingest",
                value=order.partition[:40],
                limit="2013, 2013-04 or 2013-04-30",
                action="name a partition of the loop, or a range by since and until",
            ) from None
    ends = [
        moment if moment is None or moment.tzinfo else moment.replace(tzinfo=zone)
        for moment in (order.since, order.until)
    ]
    return Span(*ends)


def _validate(loop: Loop, order: Order) -> StageResult:
    result = _result(loop, "validate", {f"validation/{r.table}/{r.partition}": r for r in validate(loop)})
    if not result.records:
        return result
    page = publish_text(page_path(loop), data_report(loop)[0])
    return replace(result, report=str(page))


def _score(loop: Loop, order: Order) -> StageResult:
    return _result(loop, "score", {f"score/{b.partition}": b for b in score(loop)})


def _monitor(loop: Loop, order: Order) -> StageResult:
    reports = monitor(loop)
    page = loop.home / "report.html"
    publish_text(page, report.html({**brief(loop), "data": show(loop)["tables"]}))
    result = _result(loop, "monitor", {f"health/{r.partition}": r for r in reports})
    return replace(result, report=str(page))


def _trigger(loop: Loop, order: Order) -> StageResult:
    decision = trigger(loop, wish=order.because)
    why = "what was decided last is done" if decision.retrain else decision.reason
    idle = "" if open_decision(loop) else f"no retraining: {why}"
    return _result(loop, "trigger", {"trigger": decision}, turn_id(decision) if not idle else "", idle)


def _train(loop: Loop, order: Order) -> StageResult:
    decision = open_decision(loop)
    if decision is None:
        return _no_turn(loop, "train")
    turn = turn_id(decision)
    model = train(loop, training_set(loop), decision, turn)
    return _result(loop, "train", {f"candidate/{turn}": model}, turn)


def _evaluate(loop: Loop, order: Order) -> StageResult:
    decision = open_decision(loop)
    if decision is None:
        return _no_turn(loop, "evaluate")
    turn = turn_id(decision)
    examples, model = _candidate(loop, turn)
    return _result(loop, "evaluate", {f"candidate/{turn}": evaluate(loop, examples, model, turn)}, turn)


def _promote(loop: Loop, order: Order) -> StageResult:
    decision = open_decision(loop)
    if decision is None:
        return _no_turn(loop, "promote")
    turn = turn_id(decision)
    verdict, promotion = promote(
        loop, _newest(loop, turn, EvaluationReport, "evaluate"), _candidate(loop, turn)[1], turn
    )
    records: dict[str, Record] = {f"candidate/{turn}": verdict, **({"champion": promotion} if promotion else {})}
    return _result(loop, "promote", records, turn)


def _deploy(loop: Loop, order: Order) -> StageResult:
    """Bring a promotion into service and close the turn; without one, close it all the same."""
    decision = open_decision(loop)
    if decision is None:
        return _no_turn(loop, "deploy")
    turn = turn_id(decision)
    verdict = _newest(loop, turn, PromotionDecision, "promote")
    promotion = _promotion(loop, turn) if verdict.promote else None
    deployment = deploy(loop, promotion, turn) if promotion else None
    examples, model = _candidate(loop, turn)
    evaluation = _newest(loop, turn, EvaluationReport, "evaluate")
    record = close(loop, decision, examples, model, evaluation, verdict, promotion, deployment)
    refused = "; ".join(f"{g.gate}: {g.reason}" for g in verdict.gates if not g.passed)
    records: dict[str, Record] = {"turn": record, **({"deployment": deployment} if deployment else {})}
    return _result(loop, "deploy", records, turn, f"refused: {refused}" if refused else "")


def _reconcile(loop: Loop, order: Order) -> StageResult:
    return StageResult(loop.name, "reconcile", loop.spec.digest, notes=tuple(reconcile(loop)), due=due(loop))


STAGES: dict[str, Callable[[Loop, Order], StageResult]] = {
    "ingest": _ingest,
    "validate": _validate,
    "train": _train,
    "evaluate": _evaluate,
    "promote": _promote,
    "deploy": _deploy,
    "score": _score,
    "monitor": _monitor,
    "trigger": _trigger,
    "reconcile": _reconcile,
}
"""The nine stages, and reconcile, which looks after what killed processes and lost messages left."""


_WAITING: dict[str, Callable[[Loop], bool]] = {
    "ingest": has_landed,
    "validate": lambda loop: any(True for _ in unvalidated(loop)),
    "score": lambda loop: bool(unscored(loop)),
    "monitor": lambda loop: any(True for _ in unjudged(loop)),
    "trigger": undecided,
    "train": lambda loop: open_decision(loop) is not None,
}


def due(loop: Loop, stages: Collection[str] = tuple(_WAITING)) -> tuple[str, ...]:
    """Those of ``stages`` whose work is waiting: as the ledger, the clock and the files that have landed tell.

    The files cost most: ``ingest`` reads them all.
    """
    return tuple(stage for stage, waits in _WAITING.items() if stage in stages and waits(loop))


def _candidate(loop: Loop, turn: str) -> tuple[TrainingSet, TrainedModel]:
    """What train left last in this turn. The training set is the model's own: new labels may have come since."""
    model = _newest(loop, turn, TrainedModel, "train")
    return loop.by_digest(TrainingSet, f"candidate/{turn}", model.training_set), model


def _newest(loop: Loop, turn: str, kind: type[R], stage: str) -> R:
    events = loop.ledger.events(loop.name, subject=f"candidate/{turn}", kind=kind.__name__, newest_first=True, limit=1)
    event = next(iter(events), None)
    if event is None:
        raise UsageError(
            "KZ231",
            "an earlier stage of the turn has not ended",
            where=f"turn {turn}",
            value=f"no {kind.__name__}",
            limit=f"{stage} has left one",
            action=f"run {stage} first: kaizen stage {stage}",
        )
    return kind.from_json(event.payload)


def _promotion(loop: Loop, turn: str) -> Promotion:
    promotion = loop.promotion_in(turn)
    if promotion is None:
        raise UsageError(
            "KZ231",
            "an earlier stage of the turn has not ended",
            where=f"turn {turn}",
            value="promote said yes and did not move the champion",
            limit="promote has left a Promotion",
            action="run promote again: kaizen stage promote",
        )
    return promotion


def _no_turn(loop: Loop, stage: str) -> StageResult:
    return StageResult(loop.name, stage, loop.spec.digest, idle="no decision to retrain is open")


def _result(loop: Loop, stage: str, records: Mapping[str, Record], turn: str = "", idle: str = "") -> StageResult:
    found = tuple(Reference(type(r).__name__, subject, r.digest) for subject, r in records.items())
    page = loop.registry.page(loop.name, turn) if turn and stage != "trigger" else ""
    return StageResult(loop.name, stage, loop.spec.digest, turn, found, idle, run=page)


def encode(result: StageResult) -> dict[str, Any]:
    """A result as JSON values."""
    values: dict[str, Any] = codec.encode(result)
    return values
