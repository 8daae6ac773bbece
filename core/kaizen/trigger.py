"""trigger: retrain or not, once, within cooldown and budget, and why.

``decide`` is the whole rule. Unknown never triggers anything; an incident blocks instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kaizen.calendar import days_later
from kaizen.canonical import digest
from kaizen.codec import format_duration
from kaizen.errors import UsageError
from kaizen.faults import fault_point
from kaizen.loop import Loop
from kaizen.monitor import judgement
from kaizen.records import HealthReport, ScoredBatch, TriggerDecision, TurnRecord
from kaizen.score import unscored
from kaizen.spec import RetrainSpec
from kaizen.train import refuse_unsound


@dataclass(frozen=True)
class Situation:
    """All that the rule looks at.

    Attributes:
        moment: the present in the loop's clock and zone. partition: the newest labelled partition, or "".
        has_champion: False before the first promotion. enough: there are ``train.min_partitions`` labelled ones.
        health: the newest report on labelled rows. past: moments of earlier decisions to retrain, oldest first.
        new_labels: labels came since the last training. wish: why a person wants it, or "".
    """

    moment: datetime
    partition: str
    has_champion: bool
    enough: bool
    health: HealthReport | None
    past: Sequence[datetime]
    new_labels: bool
    wish: str = ""


def decide(situation: Situation, spec: RetrainSpec) -> TriggerDecision:
    """What to do, with every cause found and what, if anything, holds it back."""
    causes = tuple(c for c in _causes(situation, spec) if c in (*spec.reasons, "first"))
    suppressed, why = _suppression(situation, spec, causes) if causes else ("", "")
    reason = why or "; ".join(_explain(cause, situation) for cause in causes) or _why_not(situation)
    return TriggerDecision(
        moment=situation.moment.isoformat(),
        partition=situation.partition,
        retrain=bool(causes) and not suppressed,
        causes=causes,
        suppressed=suppressed,
        reason=reason,
        health=situation.health.digest if situation.health else None,
        generation=len(situation.past) + 1,
    )


def _causes(s: Situation, spec: RetrainSpec) -> list[str]:
    if not s.has_champion:
        return ["first"] if s.enough else []
    causes = []
    if s.health and s.health.drift == "alarm":
        causes.append("drift")
    if s.health and s.health.performance.status == "alarm":
        causes.append("decay")
    if s.new_labels:
        causes.append("data")
    if spec.every and s.past and _after(s, s.past[-1], spec.every) <= s.moment:
        causes.append("schedule")
    if s.wish:
        causes.append("person")
    return causes


def _suppression(s: Situation, spec: RetrainSpec, causes: Sequence[str]) -> tuple[str, str]:
    """What holds a retraining back, in one word and in a sentence."""
    if s.health and s.health.incidents and "person" not in causes:
        return "incident", "data is broken, not different: " + "; ".join(s.health.incidents[:3])
    if s.past and "person" not in causes and not s.new_labels:
        return "labels", "no labels that the last training did not have"
    if s.past and "person" not in causes and _after(s, s.past[-1], spec.cooldown) > s.moment:
        return "cooldown", f"last retraining {s.past[-1].date()}, cooldown {format_duration(spec.cooldown)}"
    spent = sum(_after(s, moment, spec.budget.per) > s.moment for moment in s.past)
    if spent >= spec.budget.retrains:
        return "budget", f"{spent} retrainings in {format_duration(spec.budget.per)}, budget {spec.budget.retrains}"
    return "", ""


def _after(s: Situation, moment: datetime, wait: timedelta) -> datetime:
    """When ``wait`` is over, in days of the loop's own clock: a week across daylight saving is a week."""
    return days_later(moment.astimezone(s.moment.tzinfo), wait.total_seconds() / 86400)


def _explain(cause: str, s: Situation) -> str:
    if cause == "drift" and s.health:
        moved = sorted((f for f in s.health.features if f.status == "alarm"), key=lambda f: -(f.psi or 0))
        shown = ", ".join(f"{f.feature} (PSI {f.psi:.2f})" for f in moved[:3])
        return f"drift in {len(moved)} features: {shown}"
    if cause == "decay" and s.health:
        return f"decay: {s.health.performance.reason}"
    texts = {
        "first": "no champion yet",
        "data": "new labels",
        "schedule": "it is time",
        "person": f"asked for: {s.wish}",
    }
    return texts[cause]


def _why_not(s: Situation) -> str:
    if not s.has_champion:
        return "no champion yet, and too few labelled partitions to train one"
    if s.health is None:
        return "nothing scored has been labelled yet"
    states = {"drift": s.health.drift, "performance": s.health.performance.status}
    unknown = [name for name, status in states.items() if status == "unknown"]
    return f"{' and '.join(unknown)} unknown: no reason to act" if unknown else "healthy"


def trigger(loop: Loop, *, wish: str = "") -> TriggerDecision:
    """Decide now and keep the decision; one that was not carried out yet is taken up again instead.

    The newest decision stands while score and monitor have yet to look at the labels that it was about, for a new
    champion or because labels were corrected.

    Raises:
        UsageError: KZ210: a person's wish is held back, or there is nothing to train on.
        DataRefused: what cannot be trained on; see ``train.refuse_unsound``. Then no decision is kept.
    """
    pending = open_decision(loop)
    if pending:
        return pending
    decision = decide(situation(loop, wish), loop.spec.retrain)
    # The same answer to the same facts is not decided again, whenever it is asked for.
    key = digest([decision.partition, decision.health, decision.causes, decision.suppressed, decision.generation, wish])
    if found := loop.find(TriggerDecision, key):
        return found
    if wish and not decision.retrain:
        raise UsageError(
            "KZ210",
            "no retraining now",
            where=loop.name,
            value=decision.reason,
            limit="retrain.budget and train.min_partitions of the spec",
            action="wait, or change the spec",
        )
    if decision.retrain:
        # Before the decision is kept: it would stay open for good.
        refuse_unsound(loop, turn_id(decision))
    elif (newest := loop.head(TriggerDecision, "trigger")) and decision.partition < newest.partition:
        return newest
    fault_point("trigger.before_append")
    loop.append("trigger", decision, key)
    return decision


def undecided(loop: Loop) -> bool:
    """Whether ``trigger`` has something to say: about a later partition than it has decided on, or to retrain now.

    Another reason not to retrain is told to whoever asks; nobody needs to.
    """
    if open_decision(loop):
        return False
    decision = decide(situation(loop), loop.spec.retrain)
    return decision.retrain or decision.partition > max((d.partition for d in _decisions(loop)), default="")


def open_decision(loop: Loop) -> TriggerDecision | None:
    """The newest decision, if it is to retrain and its turn has not ended."""
    newest = loop.head(TriggerDecision, "trigger")
    if newest is None or not newest.retrain or loop.find(TurnRecord, turn_id(newest)):
        return None
    return newest


def turn_id(decision: TriggerDecision) -> str:
    """The turn that a decision opens."""
    return f"{decision.partition}-{decision.digest[:10]}"


def _looked_at(loop: Loop) -> list[str]:
    """Labelled partitions, without those that score or monitor has yet to look at: half a picture decides nothing."""
    scored, due = loop.heads(ScoredBatch, "score/"), unscored(loop)
    return [
        p for p in loop.labelled() if p not in due and (p not in scored or judgement(loop, scored[p], labelled=True))
    ]


def _decisions(loop: Loop) -> list[TriggerDecision]:
    """All that was decided, oldest first."""
    events = loop.ledger.events(loop.name, subject="trigger", kind="TriggerDecision")
    return [TriggerDecision.from_json(event.payload) for event in events]


def situation(loop: Loop, wish: str = "") -> Situation:
    """The facts for ``decide``, folded from the ledger."""
    labelled = _looked_at(loop)
    reports = [r for r in loop.heads(HealthReport, "health/").values() if r.partition in labelled]
    retrains = [d for d in _decisions(loop) if d.retrain]
    newest = labelled[-1] if labelled else ""
    champion = loop.champion()
    return Situation(
        moment=loop.moment(),
        partition=newest,
        has_champion=champion is not None,
        enough=len(labelled) >= loop.spec.train.min_partitions,
        health=reports[-1] if reports and champion and reports[-1].champion == champion[0].champion else None,
        past=[datetime.fromisoformat(d.moment) for d in retrains],
        new_labels=bool(retrains) and newest > retrains[-1].partition,
        wish=wish,
    )
