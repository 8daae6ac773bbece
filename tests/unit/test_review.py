"""What is told of a loop afterwards: averages that leave out what says nothing, and two runs held side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.loops import SPEC

from kaizen import report
from kaizen.review import decisions, differences, summarise
from kaizen.spec import Spec, parse_spec

ROWS = 140
DAYS = np.arange(ROWS) // 14
LABEL = (np.arange(ROWS) % 2).astype(float)


def spec(metric: str = "roc_auc") -> Spec:
    gates = [{"metric": metric, "against": "champion", "margin": 0.0}]
    return parse_spec({**SPEC, "gates": gates}, "kaizen.yml")


def part(ours: float, static: float) -> tuple[np.ndarray, ...]:
    """Predictions that are right by a chance of ``ours`` and ``static``, on ten days of both classes."""
    rng = np.random.default_rng(0)
    right = [rng.random(ROWS) < chance for chance in (ours, static)]
    return (LABEL, *(np.where(r, LABEL, 1 - LABEL) * 0.8 + 0.1 for r in right), DAYS)


QUIET: dict[str, Any] = {
    "rows": ROWS,
    "quarantined": 0,
    "labelled": ROWS,
    "champion": 1,
    "champion_after": 1,
    "drift": "ok",
    "drifted": [],
    "features": {},
    "performance": "ok",
    "value_loop": 0.7,
    "value_static": 0.6,
    "retrain": False,
    "causes": [],
    "suppressed": "",
    "reason": "healthy",
    "gate": None,
    "gate_reasons": [],
    "gain_seen": None,
    "gain_seen_low": None,
    "gain_realised": None,
}


def month(partition: str, **changes: Any) -> dict[str, Any]:
    """A row of a partition on which nothing happened, but for ``changes``."""
    return {"partition": partition, **QUIET, **changes}


def promoted(partition: str, **changes: Any) -> dict[str, Any]:
    turned = {"retrain": True, "causes": ["drift"], "drift": "alarm", "gate": "promoted", "champion_after": 2}
    return month(partition, **{**turned, "gain_seen": 0.04, "gain_seen_low": 0.01, "gain_realised": 0.03, **changes})


def test_averages_leave_out_the_first_partition() -> None:
    months = [month("2024-03", value_loop=0.1, value_static=0.1), month("2024-04", value_loop=0.8), month("2024-05")]
    found = summarise(spec(), months, [part(0.5, 0.5), part(0.9, 0.6), part(0.9, 0.6)], 0)
    assert found["mean_auc_loop"] == pytest.approx(0.75)
    assert found["mean_auc_static"] == pytest.approx(0.6)
    low, high = found["difference_interval"]
    assert 0.1 < low < found["difference"] < high


def test_averages_leave_out_partitions_of_one_class() -> None:
    one_class = (np.ones(ROWS), LABEL, LABEL, DAYS)
    months = [month("2024-03"), month("2024-04", value_loop=None, value_static=None), month("2024-05")]
    parts = [part(0.5, 0.5), part(0.9, 0.6)]
    found = summarise(spec(), months, [parts[0], one_class, parts[1]], 0)
    without = summarise(spec(), [months[0], months[2]], parts, 0)
    assert {**found, "months": []} == {**without, "months": []}
    assert len(found["months"]) == 3


@pytest.mark.parametrize("days", [DAYS, np.zeros(ROWS, int)], ids=["ten days", "one day"])
def test_a_loss_that_is_lower_is_a_difference_above_zero(days: np.ndarray) -> None:
    label, ours, static, _ = part(0.9, 0.6)
    found = summarise(spec("log_loss"), [month("2024-03"), month("2024-04")], [(label, ours, static, days)] * 2, 0)
    assert not found["higher_is_better"]
    assert found["difference"] > 0.1
    if days is DAYS:
        low, high = found["difference_interval"]
        assert 0 < low < found["difference"] < high


def test_gains_are_those_of_promotions_that_could_come_true() -> None:
    months = [
        promoted("2024-03"),
        month("2024-04", retrain=True, causes=["decay"], gate="refused", gain_seen=-0.5),
        promoted("2024-05", gain_seen=0.06, gain_realised=0.05),
        promoted("2024-06", gain_seen=0.9, gain_realised=None),
    ]
    found = summarise(spec(), months, [part(0.9, 0.6)] * 4, 4)
    assert found["gain_seen"] == pytest.approx(0.05)
    assert found["gain_realised"] == pytest.approx(0.04)
    assert (found["promotions"], found["retrains"]) == (3, 4)


def test_a_loop_that_has_just_begun_has_unknown_numbers_and_a_report() -> None:
    for months, parts in (([], []), ([month("2024-03")], [part(0.9, 0.6)])):
        found = {**summarise(spec(), months, parts, 0), "seconds": 1.0}
        assert [found[key] for key in ("mean_auc_loop", "difference", "difference_interval", "gain_seen")] == [None] * 4
        assert "interval unknown" in report.table(found)
        assert "interval unknown" in report.html(found)


def test_decisions_are_what_was_decided_and_no_number() -> None:
    (found,) = decisions([promoted("2024-03")])
    assert found == {
        "partition": "2024-03",
        "retrain": True,
        "causes": ["drift"],
        "suppressed": "",
        "gate": "promoted",
        "champion": 1,
        "champion_after": 2,
        "drift": "alarm",
        "performance": "ok",
    }


def test_runs_that_decided_alike_do_not_differ_whatever_they_measured() -> None:
    ours = [promoted("2024-03"), month("2024-04")]
    theirs = [promoted("2024-03", value_loop=0.71, gain_seen=0.05, reason="other words"), month("2024-04", rows=7)]
    assert differences(ours, theirs) == []
    assert differences(ours, decisions(theirs)) == []


def test_every_difference_is_told_in_words_by_partition() -> None:
    ours = [month("2024-02"), month("2024-03"), promoted("2024-04", causes=["drift", "decay"])]
    theirs = [month("2024-03", suppressed="cooldown", performance="unknown"), month("2024-04", drift="alarm")]
    assert differences(ours, [*theirs, month("2024-05")]) == [
        "2024-02: only in ours",
        "2024-03: suppressed is none in ours, cooldown in theirs",
        "2024-03: performance is ok in ours, unknown in theirs",
        "2024-04: retrain is yes in ours, no in theirs",
        "2024-04: causes is drift, decay in ours, none in theirs",
        "2024-04: gate is promoted in ours, none in theirs",
        "2024-04: champion after is 2 in ours, 1 in theirs",
        "2024-05: only in theirs",
    ]
