"""The rule of promotion: each gate's answer at its limit, and never a yes to what is not known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kaizen.promote import decide_promotion
from kaizen.records import Comparison, Estimate, EvaluationReport, GateResult, Window
from kaizen.spec import GateSpec

FLOOR = GateSpec("roc_auc", at_least=0.6)
CEILING = GateSpec("brier", at_most=0.2)
SET_ASIDE = GateSpec("roc_auc", at_least=0.6, rows="acceptance")
AGAINST = GateSpec("roc_auc", against="champion", margin=0.01)
SLICES = GateSpec("roc_auc", slices=("carrier",), max_drop=0.03)


def evaluation(
    *comparisons: Comparison, champion: int | None = 1, rows: int = 100, blocks: int = 7
) -> EvaluationReport:
    return EvaluationReport("c" * 64, champion, Window(None, None), (), rows, blocks, 0.95, comparisons)


def measured(
    value: float = 0.7, gain: tuple[float, float | None, float | None] | None = None, *, metric="roc_auc", slice_name=""
) -> Comparison:
    champion = Estimate(value - gain[0]) if gain else None
    return Comparison(metric, Estimate(value), champion, Estimate(*gain) if gain else None, 100, slice_name)


def judge(gate: GateSpec, *comparisons: Comparison, champion: int | None = 1, **facts: int) -> GateResult:
    decision = decide_promotion(evaluation(*comparisons, champion=champion, **facts), [gate])
    (result,) = decision.gates
    assert decision.promote == result.passed
    return result


# Floors and ceilings


@pytest.mark.parametrize(("value", "passed"), [(0.61, True), (0.6, True), (0.59999, False)])
def test_a_floor_is_reached_or_not(value: float, passed: bool) -> None:
    result = judge(FLOOR, measured(value))
    assert (result.gate, result.passed, result.value, result.limit) == ("roc_auc floor", passed, value, 0.6)


@pytest.mark.parametrize(("value", "passed"), [(0.6, True), (0.59, False), (None, False)])
def test_a_floor_on_rows_set_aside_looks_at_nothing_else(value: float | None, passed: bool) -> None:
    held = () if value is None else (measured(value),)
    report = replace(evaluation(measured(0.9 if not passed else 0.1)), acceptance=held)
    decision = decide_promotion(report, [SET_ASIDE])
    (result,) = decision.gates
    assert (result.gate, result.passed, result.value) == ("roc_auc floor on the acceptance set", passed, value)
    assert result.passed == decision.promote
    told = f"roc_auc {value:.4f} on 100 rows set aside" if value else "unknown: the acceptance set cannot be measured"
    assert result.reason.startswith(told)


@pytest.mark.parametrize(("value", "passed"), [(0.19, True), (0.2, True), (0.20001, False)])
def test_a_ceiling_is_kept_or_not(value: float, passed: bool) -> None:
    result = judge(CEILING, measured(value, metric="brier"))
    assert (result.passed, result.value, result.limit) == (passed, value, 0.2)


@pytest.mark.parametrize(
    ("gate", "value", "passed"),
    [(GateSpec("brier", at_most=0.0), 0.1, False), (GateSpec("roc_auc", at_least=0.0), 0.1, True)],
)
def test_a_limit_of_zero_is_a_limit(gate: GateSpec, value: float, passed: bool) -> None:
    result = judge(gate, measured(value, metric=gate.metric))
    assert (result.passed, result.limit) == (passed, 0.0)


def test_a_floor_does_not_need_a_champion() -> None:
    assert judge(FLOOR, measured(0.7), champion=None).reason == "roc_auc 0.7000, at least 0.6 asked"


@pytest.mark.parametrize("gate", [FLOOR, CEILING, AGAINST])
def test_a_metric_that_was_not_measured_is_unknown_and_not_passed(gate: GateSpec) -> None:
    result = judge(gate, measured(slice_name="carrier=AA", metric=gate.metric), rows=3)
    assert (result.passed, result.value) == (False, None)
    assert result.reason == "unknown: 3 labelled rows cannot be measured"


# Against the champion


@pytest.mark.parametrize(
    ("gain", "passed"),
    [((0.05, 0.02, 0.08), True), ((0.05, 0.01, 0.08), False), ((0.05, -0.01, 0.08), False), ((-0.1, -0.2, 0), False)],
)
def test_the_lower_end_of_the_gain_must_be_above_the_margin(gain: tuple[float, float, float], passed: bool) -> None:
    result = judge(AGAINST, measured(0.7, gain))
    assert (result.gate, result.passed, result.value) == ("roc_auc against champion", passed, gain[0])


@pytest.mark.parametrize("gain", [(0.2, None, None), (0.2, 0.19, None), (0.2, None, 0.3)])
def test_too_few_days_for_an_interval_are_unknown_and_not_passed(
    gain: tuple[float, float | None, float | None],
) -> None:
    result = judge(AGAINST, measured(0.9, gain), blocks=3)
    assert (result.passed, result.value, result.reason) == (False, 0.2, "unknown: 3 days are too few for an interval")


def test_a_champion_that_could_not_be_measured_is_unknown_and_not_passed() -> None:
    assert judge(AGAINST, measured(0.9)).passed is False


def test_the_first_candidate_has_nobody_to_beat() -> None:
    result = judge(AGAINST, measured(0.7), champion=None)
    assert (result.passed, result.reason) == (True, "no champion yet")


# Slices


def slices(**gains: tuple[float, float | None, float | None]) -> list[Comparison]:
    return [measured(0.7, gain, slice_name=f"carrier={name}") for name, gain in gains.items()]


def test_no_slice_may_be_worse_beyond_chance() -> None:
    found = slices(AA=(0.1, 0.0, 0.2), HA=(-0.05, -0.06, -0.04), UA=(-0.2, -0.3, -0.1))
    result = judge(SLICES, measured(), *found)
    assert (result.gate, result.passed, result.value, result.limit) == ("roc_auc by carrier", False, -0.2, 0.03)
    assert result.reason == "carrier=UA is worse by 0.2000, at most 0.03 asked"


@pytest.mark.parametrize("high", [-0.03, 0.0])
def test_a_slice_that_may_be_within_the_limit_passes(high: float) -> None:
    result = judge(SLICES, *slices(AA=(0.1, 0.0, 0.2), HA=(-0.2, -0.4, high)))
    assert (result.passed, result.value, result.reason) == (True, -0.2, "no slice of 2 is worse beyond chance")


def test_slices_too_small_for_an_interval_do_not_stop_a_promotion() -> None:
    result = judge(SLICES, *slices(AA=(0.1, 0.0, 0.2), HA=(-0.9, None, None)))
    assert (result.passed, result.reason) == (True, "no slice of 1 is worse beyond chance")


@pytest.mark.parametrize("found", [[], slices(AA=(0.1, None, None), HA=(-0.9, None, None)), [measured(0.7)]])
def test_slices_of_which_none_can_be_judged_are_unknown_and_not_passed(found: list[Comparison]) -> None:
    result = judge(SLICES, *found)
    assert result.passed is False
    assert result.reason.startswith("unknown: no slice of ")


def test_without_a_champion_slices_have_nothing_to_say() -> None:
    assert judge(SLICES, measured(slice_name="carrier=AA"), champion=None).passed is True


def test_slices_of_another_column_or_metric_are_not_looked_at() -> None:
    bad = (-0.2, -0.3, -0.1)
    others = [
        measured(0.7, bad, slice_name="carrier_group=x"),
        measured(0.2, bad, metric="brier", slice_name="carrier=A"),
    ]
    assert judge(SLICES, *slices(AA=(0.1, 0.0, 0.2)), *others).passed is True


def test_every_column_of_a_gate_has_its_own_answer() -> None:
    gate = GateSpec("roc_auc", slices=("carrier", "origin"), max_drop=0.03)
    found = [*slices(AA=(0.0, -0.1, 0.1)), measured(0.7, (-0.2, -0.3, -0.1), slice_name="origin=JFK")]
    decision = decide_promotion(evaluation(*found), [gate])
    assert [(r.gate, r.passed) for r in decision.gates] == [("roc_auc by carrier", True), ("roc_auc by origin", False)]
    assert decision.promote is False


# The whole


def test_all_gates_must_pass_and_all_answers_are_kept() -> None:
    report = evaluation(measured(0.7, (0.05, 0.02, 0.08)), measured(0.3, metric="brier"))
    decision = decide_promotion(report, [FLOOR, AGAINST, CEILING])
    assert [result.passed for result in decision.gates] == [True, True, False]
    assert decision.promote is False
    assert decide_promotion(report, [FLOOR, AGAINST]).promote is True


def test_the_decision_is_bound_to_what_it_was_made_from() -> None:
    report = evaluation(measured(), champion=4)
    decision = decide_promotion(report, [FLOOR])
    assert (decision.evaluation, decision.candidate, decision.champion) == (report.digest, report.candidate, 4)
