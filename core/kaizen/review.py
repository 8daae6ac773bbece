"""review: what a loop did, partition by partition, read from its ledger afterwards, whoever ran it.

A row tells one partition as it was seen when its outcomes came: who served it, what the monitor said, what was decided
on that, what became of it. What happened later (the trigger asked again, another promotion, another look) does not
change the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kaizen.ledger import Event
from kaizen.loop import Loop
from kaizen.measures import MEASURES
from kaizen.records import (
    Estimate,
    EvaluationReport,
    HealthReport,
    Promotion,
    PromotionDecision,
    ScoredBatch,
    TriggerDecision,
    TurnRecord,
    ValidationReport,
)
from kaizen.spec import Spec
from kaizen.trigger import turn_id

if TYPE_CHECKING:
    from kaizen.adapters.history import Part

CONFIDENCE = 0.95
DECIDED = ("partition", "retrain", "causes", "suppressed", "gate", "champion", "champion_after", "drift", "performance")
"""The fields of a row that two runs over the same rows are compared by."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Review:
    """What a loop did.

    Attributes:
        months: a row per partition that was scored by a champion trained before it, and whose outcomes have come; in
            order, with the fields that ``kaizen.report`` lists.
        parts: the predictions of loop and never-retrained model on the same labels, one for each row.
        retrains: decisions to retrain, all but those of a first training.
    """

    months: list[Row]
    parts: list[Part]
    retrains: int


@dataclass(frozen=True)
class _Story:
    """One partition: its scoring, the report and decision that its outcomes led to, and the turn, if that ended.

    ``decided_at`` is the ledger's position by which the decision had been carried out, None if nothing was decided.
    """

    batch: ScoredBatch
    scored_at: int
    health: HealthReport | None
    decision: TriggerDecision | None
    turn: TurnRecord | None
    decided_at: int | None


def review(loop: Loop) -> Review:
    """Read from the ledger of ``loop`` what it did; nothing is added to it."""
    from kaizen.adapters.history import paired_predictions

    found = _told(loop)
    parts = [paired_predictions(loop, story.batch) for story in found.stories]
    months = [{**row, **_values(loop.spec.metric, part)} for row, part in zip(found.rows, parts, strict=True)]
    return Review(months, parts, found.retrains)


@dataclass(frozen=True)
class _Told:
    """The stories of a loop, their rows but for the metric's values, and how often it was retrained."""

    stories: list[_Story]
    rows: list[Row]
    retrains: int


def _told(loop: Loop) -> _Told:
    decided = [(e, TriggerDecision.from_json(e.payload)) for e in _events(loop, "trigger", "TriggerDecision")]
    promoted = [(e.position, Promotion.from_json(e.payload).champion) for e in _events(loop, "champion", "Promotion")]
    stories = [_story(loop, batch, at, decided) for batch, at in _served(loop, [d for _, d in decided])]
    rows = [_row(loop, *pair, promoted) for pair in zip(stories, [*stories[1:], None], strict=False)]
    return _Told(stories, rows, sum(d.retrain and "first" not in d.causes for _, d in decided))


def _events(loop: Loop, subject: str, kind: str) -> Iterator[Event]:
    return loop.ledger.events(loop.name, subject=subject, kind=kind)


def _served(loop: Loop, decisions: Sequence[TriggerDecision]) -> Iterator[tuple[ScoredBatch, int]]:
    """The scorings that a row is told of, by partition, with their positions in the ledger."""
    labelled, trained = set(loop.labelled()), {turn_id(d): d.partition for d in decisions}
    for event in loop.ledger.heads(loop.name, prefix="score/").values():
        batch = ScoredBatch.from_json(event.payload)
        # A first champion also scores the partition that its gate looked at: that is no look ahead.
        if batch.partition in labelled and batch.partition > trained[loop.promotion(batch.champion).turn]:
            yield batch, event.position


def _story(loop: Loop, batch: ScoredBatch, scored_at: int, decided: Sequence[tuple[Event, TriggerDecision]]) -> _Story:
    reports = [HealthReport.from_json(e.payload) for e in _events(loop, f"health/{batch.partition}", "HealthReport")]
    by_digest = {r.digest: r for r in reports}
    # The first: the trigger may be asked again after the turn, or when the next rows land.
    first = next(((e, d) for e, d in decided if d.partition == batch.partition and d.health in by_digest), None)
    if first is None:
        return _Story(batch, scored_at, reports[-1] if reports else None, None, None, None)
    event, decision = first
    ended = loop.ledger.find(loop.name, "TurnRecord", turn_id(decision)) if decision.retrain else None
    turn = TurnRecord.from_json(ended.payload) if ended else None
    health = by_digest[decision.health or ""]
    return _Story(batch, scored_at, health, decision, turn, (ended or event).position)


def _row(loop: Loop, story: _Story, following: _Story | None, promoted: Sequence[tuple[int, int]]) -> Row:
    batch = story.batch
    reports = [loop.head(ValidationReport, f"validation/{table}/{batch.partition}") for table in loop.spec.data.tables]
    row = {
        "partition": batch.partition,
        "rows": batch.rows,
        "quarantined": sum(r.quarantined_rows for r in reports if r),
        "champion": batch.champion,
        "champion_after": _champion_after(story, following, promoted),
        **_of_health(story.health),
        **_of_decision(story.decision),
        **_of_gate(loop, story.turn),
    }
    # A promotion's gain comes true in the next partition; it belongs beside what the gate saw.
    came_true = following.health if following and row["gate"] == "promoted" else None
    return {**row, "gain_realised": came_true.gain_realised if came_true else None}


def _champion_after(story: _Story, following: _Story | None, promoted: Sequence[tuple[int, int]]) -> int | None:
    """Who was champion when the decision had been carried out, a roll back included; else when more was scored.

    ``promoted`` has position and champion of every promotion, oldest first.
    """
    until = story.decided_at or (following.scored_at if following else None)
    return next((champion for at, champion in reversed(promoted) if until is None or at < until), None)


def _of_health(health: HealthReport | None) -> Row:
    if health is None:
        return {"labelled": 0, "drift": "unknown", "drifted": [], "features": {}, "performance": "unknown"}
    return {
        "labelled": health.performance.rows,
        "drift": health.drift,
        "drifted": [f.feature for f in health.features if f.status == "alarm"],
        "features": {f.feature: {"psi": f.psi, "status": f.status} for f in health.features},
        "performance": health.performance.status,
    }


def _of_decision(decision: TriggerDecision | None) -> Row:
    if decision is None:
        return {"retrain": False, "causes": [], "suppressed": "", "reason": ""}
    return {
        "retrain": decision.retrain,
        "causes": list(decision.causes),
        "suppressed": decision.suppressed,
        "reason": decision.reason,
    }


def _of_gate(loop: Loop, turn: TurnRecord | None) -> Row:
    """What the gates said of a turn's candidate, and the gain that they saw."""
    if turn is None:
        return {"gate": None, "gate_reasons": [], "gain_seen": None, "gain_seen_low": None}
    subject, metric = f"candidate/{turn.turn}", loop.spec.metric
    verdict = loop.by_digest(PromotionDecision, subject, turn.promotion_decision)
    evaluation = loop.by_digest(EvaluationReport, subject, verdict.evaluation)
    gain = next((c.gain for c in evaluation.comparisons if c.metric == metric and not c.slice and c.gain), None)
    return {
        "gate": "promoted" if verdict.promote else "refused",
        "gate_reasons": [g.reason for g in verdict.gates],
        "gain_seen": gain.value if gain else None,
        "gain_seen_low": gain.low if gain else None,
    }


def _values(metric: str, part: Part) -> dict[str, float | None]:
    """The metric of the loop's champion and of the never-retrained model on the same rows."""
    from kaizen.adapters.estimates import compare

    label, ours, static, day = part
    found = {
        n: compare(metric, label, {"candidate": p}, day, CONFIDENCE) for n, p in (("loop", ours), ("static", static))
    }
    return {f"value_{name}": c.candidate.value if c else None for name, c in found.items()}


def brief(loop: Loop) -> dict[str, Any]:
    """The facts of a live loop for its report, from records alone: no prediction is read again, no model opened.

    What only predictions can tell is None: how the never-retrained model would have done. The metric is the monitor's.
    """
    found = _told(loop)
    months = [{**row, **_values_of_health(story.health)} for row, story in zip(found.rows, found.stories, strict=True)]
    facts = summarise(loop.spec, [], [], found.retrains)
    known = [m["value_loop"] for m in months if m["value_loop"] is not None]
    both = [m for m in months if m["gain_seen"] is not None and m["gain_realised"] is not None]
    return {
        **facts,
        "months": months,
        "mean_auc_loop": _mean(known),
        "promotions": sum(m["gate"] == "promoted" for m in months),
        "gain_seen": _mean([m["gain_seen"] for m in both]),
        "gain_realised": _mean([m["gain_realised"] for m in both]),
    }


def _values_of_health(health: HealthReport | None) -> Row:
    current = health.performance.current if health else None
    return {"value_loop": current.value if current else None, "value_static": None}


def summarise(spec: Spec, months: Sequence[Row], parts: Sequence[Part], retrains: int) -> dict[str, Any]:
    """The facts of a review as ``kaizen.report`` describes them, without seconds and checks.

    Averages leave out the first scored partition, as there the loop's model is the never-retrained one, and partitions
    on which the metric is not defined (one class only). A number that nothing is known of is None.

    Args:
        spec: for the loop's name and metric. months, parts, retrains: of a ``Review``.
    """
    later = list(zip(months, parts, strict=True))[1:]
    known = [(m, p) for m, p in later if None not in (m["value_loop"], m["value_static"])]
    both = [m for m in months if m["gain_seen"] is not None and m["gain_realised"] is not None]
    difference = _difference(spec.metric, [p for _, p in known])
    return {
        "loop": spec.loop,
        "spec": spec.digest,
        "metric": spec.metric,
        "higher_is_better": MEASURES[spec.metric].higher_is_better,
        "months": list(months),
        "mean_auc_loop": _mean([m["value_loop"] for m, _ in known]),
        "mean_auc_static": _mean([m["value_static"] for m, _ in known]),
        "difference": difference.value if difference else None,
        "difference_interval": [difference.low, difference.high] if difference else None,
        "confidence": CONFIDENCE,
        "retrains": retrains,
        "promotions": sum(m["gate"] == "promoted" for m in months),
        "gain_seen": _mean([m["gain_seen"] for m in both]),
        "gain_realised": _mean([m["gain_realised"] for m in both]),
    }


def _difference(metric: str, parts: list[Part]) -> Estimate | None:
    """How much better the loop's model is than the never-retrained one, on average."""
    from kaizen.adapters.estimates import mean_difference

    if not parts:
        return None
    found = mean_difference(metric, parts, CONFIDENCE)
    if MEASURES[metric].higher_is_better:
        return found
    low, high = (None if bound is None else -bound for bound in (found.high, found.low))
    return Estimate(-found.value, low, high)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def decisions(months: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Of every row only what was decided, and on what: the fields ``DECIDED``."""
    return [{name: month[name] for name in DECIDED} for month in months]


def differences(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where two runs decided otherwise, partition by partition, in words; empty if nowhere.

    Args:
        ours, theirs: rows, or ``decisions`` of them.
    """
    left, right = ({str(m["partition"]): m for m in decisions(months)} for months in (ours, theirs))
    return [line for p in sorted({*left, *right}) for line in _differences(p, left.get(p), right.get(p))]


def _differences(partition: str, ours: Row | None, theirs: Row | None) -> list[str]:
    if ours is None or theirs is None:
        return [f"{partition}: only in {'theirs' if ours is None else 'ours'}"]
    return [
        f"{partition}: {name.replace('_', ' ')} is {_word(ours[name])} in ours, {_word(theirs[name])} in theirs"
        for name in DECIDED
        if ours[name] != theirs[name]
    ]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (", ".join(value) if isinstance(value, list) else str(value or "")) or "none"
