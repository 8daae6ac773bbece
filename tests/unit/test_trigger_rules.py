"""The rule of triggering: what is a cause, what holds it back, and that unknown is neither."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from kaizen.records import FeatureDrift, HealthReport, Performance, TriggerDecision
from kaizen.spec import BudgetSpec, RetrainSpec
from kaizen.trigger import Situation, decide, turn_id

NEW_YORK = ZoneInfo("America/New_York")
NOW = datetime(2013, 6, 1, tzinfo=NEW_YORK)
DAY = timedelta(days=1)
ALL = RetrainSpec(
    cooldown=7 * DAY,
    budget=BudgetSpec(2, 30 * DAY),
    reasons=("drift", "decay", "data", "schedule", "person"),
    every=60 * DAY,
)


def health(drift: Any = "ok", performance: Any = "ok", incidents: tuple[str, ...] = ()) -> HealthReport:
    feature = FeatureDrift("temp", drift, 0.31 if drift != "unknown" else None, None, 0.0, 0.0)
    judged = Performance(performance, "roc_auc", None, 0.7, 1.0, 100, "roc_auc 0.6500, 0.7000 at the gate (p 0.001)")
    return HealthReport("2013-05", 1, drift, (feature,), judged, incidents, None)


def situation(report: HealthReport | None = None, **facts: Any) -> Situation:
    settled: dict[str, Any] = {
        "moment": NOW,
        "partition": "2013-05",
        "has_champion": True,
        "enough": True,
        "health": report,
        "past": [NOW - 40 * DAY],
        "new_labels": True,
    }
    return Situation(**{**settled, **facts})


def only(*reasons: Any, **changes: Any) -> RetrainSpec:
    return replace(ALL, reasons=reasons, **changes)


# Causes


@pytest.mark.parametrize(
    ("found", "causes"),
    [
        (situation(health("alarm")), ("drift",)),
        (situation(health(performance="alarm")), ("decay",)),
        (situation(health("alarm", "alarm")), ("drift", "decay")),
        (situation(health(), wish="new feature"), ("person",)),
        (situation(health(), past=[NOW - 60 * DAY]), ("schedule",)),
        (situation(health(), past=[NOW - 60 * DAY + timedelta(seconds=1)]), ()),
        (situation(health(), past=[]), ()),
        (situation(None), ()),
    ],
)
def test_causes(found: Situation, causes: tuple[str, ...]) -> None:
    decision = decide(found, only("drift", "decay", "schedule", "person"))
    assert (decision.causes, decision.retrain) == (causes, bool(causes))


def test_new_labels_are_a_cause_where_they_are_named_as_one() -> None:
    assert decide(situation(health()), ALL).causes == ("data",)
    assert decide(situation(health(), new_labels=False), ALL).causes == ()


@pytest.mark.parametrize("reason", ["drift", "decay", "data", "schedule"])
def test_a_cause_that_the_spec_does_not_name_is_none(reason: str) -> None:
    others = [r for r in ALL.reasons if r != reason]
    found = situation(health("alarm", "alarm"), past=[NOW - 60 * DAY])
    decision = decide(found, only(*others))
    assert decision.retrain
    assert reason not in decision.causes
    assert decide(found, only()).retrain is False


def test_the_first_training_needs_no_reason_but_enough_labels() -> None:
    nobody = situation(None, has_champion=False, past=[])
    first = decide(nobody, only())
    assert (first.retrain, first.causes, first.reason, first.generation) == (True, ("first",), "no champion yet", 1)
    waiting = decide(replace(nobody, enough=False), ALL)
    assert (waiting.retrain, waiting.causes) == (False, ())
    assert waiting.reason == "no champion yet, and too few labelled partitions to train one"


# Unknown and healthy


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (None, "nothing scored has been labelled yet"),
        (health("unknown", "ok"), "drift unknown: no reason to act"),
        (health("ok", "unknown"), "performance unknown: no reason to act"),
        (health("unknown", "unknown"), "drift and performance unknown: no reason to act"),
        (health(), "healthy"),
    ],
)
def test_unknown_triggers_nothing_and_is_not_called_healthy(report: HealthReport | None, reason: str) -> None:
    decision = decide(situation(report), only("drift", "decay", "person"))
    assert (decision.retrain, decision.causes, decision.suppressed, decision.reason) == (False, (), "", reason)


def test_what_is_known_triggers_beside_what_is_not() -> None:
    assert decide(situation(health("unknown", "alarm")), ALL).causes == ("decay", "data")


# What holds back


def test_an_incident_blocks_every_cause_but_a_person() -> None:
    broken = situation(health("alarm", "alarm", ("temp: 90% missing, 1% at training",)))
    decision = decide(broken, ALL)
    assert (decision.retrain, decision.suppressed) == (False, "incident")
    assert decision.causes == ("drift", "decay", "data")
    assert decision.reason == "data is broken, not different: temp: 90% missing, 1% at training"
    assert decide(replace(broken, wish="I know"), ALL).retrain is True


def test_without_new_labels_there_is_nothing_to_learn() -> None:
    drifted = situation(health("alarm"), new_labels=False)
    assert (decide(drifted, ALL).retrain, decide(drifted, ALL).suppressed) == (False, "labels")
    assert decide(replace(drifted, past=[]), ALL).retrain is True
    assert decide(replace(drifted, wish="again"), ALL).retrain is True


@pytest.mark.parametrize(("ago", "retrain"), [(7 * DAY, True), (7 * DAY - timedelta(seconds=1), False)])
def test_the_cooldown_ends_when_it_is_over(ago: timedelta, retrain: bool) -> None:
    cooling = situation(health("alarm"), past=[NOW - 100 * DAY, NOW - ago])
    decision = decide(cooling, ALL)
    assert (decision.retrain, decision.suppressed) == (retrain, "" if retrain else "cooldown")
    if not retrain:
        assert decision.reason == "last retraining 2013-05-25, cooldown 7d"
        assert decide(replace(cooling, wish="now"), ALL).retrain is True


def test_a_cooldown_counts_days_of_the_loop_across_daylight_saving() -> None:
    # A stored moment has the offset of its day, not the zone.
    before, after = datetime.fromisoformat("2013-03-04T00:00:00-05:00"), datetime(2013, 3, 11, tzinfo=NEW_YORK)
    assert after - before < 7 * DAY
    assert decide(situation(health("alarm"), moment=after, past=[before]), ALL).retrain is True


def test_the_budget_holds_back_even_a_person() -> None:
    spent = situation(health("alarm"), past=[NOW - 29 * DAY, NOW - 10 * DAY])
    assert (decide(spent, ALL).retrain, decide(spent, ALL).suppressed) == (False, "budget")
    assert decide(spent, ALL).reason == "2 retrainings in 30d, budget 2"
    assert decide(replace(spent, wish="now"), ALL).suppressed == "budget"


def test_the_budget_is_free_again_when_the_oldest_is_a_period_ago() -> None:
    assert decide(situation(health("alarm"), past=[NOW - 30 * DAY, NOW - 10 * DAY]), ALL).retrain is True


def test_a_budget_of_nothing_trains_nothing() -> None:
    never = only("drift", "person", budget=BudgetSpec(0, 30 * DAY))
    assert decide(situation(health("alarm"), past=[], wish="please"), never).suppressed == "budget"


@pytest.mark.parametrize("alarms", range(1, 40, 6))
def test_retraining_is_bounded_by_the_budget_however_many_alarms_come(alarms: int) -> None:
    past: list[datetime] = []
    for day in range(0, 30, max(1, 30 // alarms)):
        moment = NOW + day * DAY
        if decide(situation(health("alarm", "alarm"), moment=moment, past=list(past)), ALL).retrain:
            past.append(moment)
    assert 1 <= len(past) <= 2


def test_the_longest_periods_that_a_spec_can_say_are_counted() -> None:
    long = only("drift", cooldown=999_999 * DAY, budget=BudgetSpec(1, 999_999 * DAY))
    assert decide(situation(health("alarm")), long).suppressed == "cooldown"


# What is kept


def test_the_decision_names_what_it_was_made_from() -> None:
    report = health("alarm", "alarm")
    decision = decide(situation(report, past=[NOW - 50 * DAY, NOW - 40 * DAY]), ALL)
    assert decision == TriggerDecision(
        moment="2013-06-01T00:00:00-04:00",
        partition="2013-05",
        retrain=True,
        causes=("drift", "decay", "data"),
        suppressed="",
        reason="drift in 1 features: temp (PSI 0.31); decay: roc_auc 0.6500, 0.7000 at the gate (p 0.001); new labels",
        health=report.digest,
        generation=3,
    )


def test_a_deliberate_repeat_is_another_turn() -> None:
    one = decide(situation(health("alarm"), past=[]), ALL)
    two = decide(situation(health("alarm"), past=[NOW - 40 * DAY]), ALL)
    assert turn_id(one) != turn_id(two)
    assert turn_id(one) == f"2013-05-{one.digest[:10]}"
