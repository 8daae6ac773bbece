"""The rules of monitoring: an alarm needs an effect and more than chance; thin data are unknown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kaizen.monitor import Measured, alarm_level, judge_drift, judge_performance
from kaizen.records import Bin, Estimate, FeatureProfile, Profile
from kaizen.spec import DriftSpec, MonitorSpec, PerformanceSpec

SPEC = MonitorSpec(drift=DriftSpec(psi=0.2, min_rows=200), max_missing=0.5)


def feature(name: str, *counts: int, missing: int = 0) -> FeatureProfile:
    edges = [*[float(i) for i in range(len(counts) - 1)], None]
    return FeatureProfile(name, True, missing, tuple(Bin(e, n) for e, n in zip(edges, counts, strict=True)))


def profile(*features: FeatureProfile) -> Profile:
    return Profile(max((f.missing + sum(b.count for b in f.bins) for f in features), default=0), features)


QUIET = profile(feature("temp", 500, 500))
MOVED = profile(feature("temp", 250, 750))


# Drift


def test_the_same_distribution_is_no_drift() -> None:
    status, (drift,), incidents = judge_drift(QUIET, profile(feature("temp", 502, 498)), SPEC, 0.01)
    assert (status, drift.status, incidents) == ("ok", "ok", ())
    assert drift.psi is not None
    assert drift.psi < 0.001


def test_a_large_and_certain_shift_is_an_alarm() -> None:
    status, (drift,), _ = judge_drift(QUIET, MOVED, SPEC, 0.01)
    assert (status, drift.status) == ("alarm", "alarm")
    assert drift.psi == pytest.approx(0.2747, abs=0.001)
    assert drift.p_value is not None
    assert drift.p_value < 1e-20


def test_a_certain_shift_that_is_too_small_to_matter_is_none() -> None:
    small = profile(feature("temp", 400, 600))
    status, (drift,), _ = judge_drift(QUIET, small, SPEC, 0.01)
    assert drift.p_value is not None
    assert drift.p_value < 0.001
    assert status == "ok"


def test_a_large_shift_that_may_be_chance_is_none() -> None:
    spec = replace(SPEC, drift=DriftSpec(psi=0.2, min_rows=10))
    few, other = profile(feature("temp", 10, 10)), profile(feature("temp", 5, 15))
    status, (drift,), _ = judge_drift(few, other, spec, 0.01)
    assert drift.psi is not None
    assert drift.psi > 0.2
    assert (status, drift.status) == ("ok", "ok")


@pytest.mark.parametrize("thin", [profile(feature("temp", 0, 199)), profile(feature("temp", 0, 0))])
def test_thin_data_are_unknown_on_either_side(thin: Profile) -> None:
    for status, (drift,), incidents in (
        judge_drift(QUIET, thin, SPEC, 0.01),
        judge_drift(thin, MOVED, SPEC, 0.01),
    ):
        assert (status, drift.status, drift.psi, drift.p_value, incidents) == ("unknown", "unknown", None, None, ())


def test_no_rows_are_unknown_even_if_no_minimum_is_asked() -> None:
    spec = replace(SPEC, drift=DriftSpec(min_rows=0))
    assert judge_drift(QUIET, profile(feature("temp", 0, 0)), spec, 0.01)[0] == "unknown"


def test_a_feature_without_a_reference_is_unknown() -> None:
    status, drifts, incidents = judge_drift(QUIET, profile(feature("wind", 0, 0, missing=1000)), SPEC, 0.01)
    assert (status, drifts[0].status, incidents) == ("unknown", "unknown", ())


def test_nothing_watched_is_unknown() -> None:
    spec = replace(SPEC, drift=DriftSpec(ignore=("temp",)))
    assert judge_drift(QUIET, MOVED, spec, 0.01) == ("unknown", (), ())


def test_an_alarm_outweighs_unknown_and_unknown_outweighs_ok() -> None:
    reference = profile(feature("temp", 500, 500), feature("wind", 500, 500))
    new = feature("new", 500, 500)
    assert judge_drift(reference, profile(feature("temp", 250, 750), new), SPEC, 0.01)[0] == "alarm"
    assert judge_drift(reference, profile(feature("temp", 500, 500), new), SPEC, 0.01)[0] == "unknown"


def test_the_level_is_shared_out_over_features() -> None:
    counts = (150, 250)
    alone = judge_drift(
        profile(feature("f0", 200, 200)), profile(feature("f0", *counts)), replace(SPEC, drift=DriftSpec(psi=0.0)), 0.01
    )
    assert alone[0] == "alarm"
    reference = profile(*[feature(f"f{i}", 200, 200) for i in range(50)])
    crowd = profile(feature("f0", *counts), *[feature(f"f{i}", 200, 200) for i in range(1, 50)])
    assert judge_drift(reference, crowd, replace(SPEC, drift=DriftSpec(psi=0.0)), 0.01)[0] == "ok"


def test_a_null_rate_that_moves_is_drift() -> None:
    _, (drift,), incidents = judge_drift(QUIET, profile(feature("temp", 350, 350, missing=300)), SPEC, 0.01)
    assert (drift.status, drift.missing_current, incidents) == ("alarm", 0.3, ())


# Incidents


def test_a_flood_of_missing_values_is_an_incident() -> None:
    before = profile(feature("temp", 450, 450, missing=100))
    flood = judge_drift(before, profile(feature("temp", 150, 150, missing=700)), SPEC, 0.01)
    assert flood[2] == ("temp: 70% missing, 10% at training",)
    assert judge_drift(before, profile(feature("temp", 200, 200, missing=600)), SPEC, 0.01)[2] == ()


def test_what_was_always_missing_is_no_incident_in_a_small_partition() -> None:
    before = profile(feature("temp", 50, 50, missing=900))
    assert judge_drift(before, profile(feature("temp", 5, 5, missing=90)), SPEC, 0.01)[2] == ()


# The false-alarm budget


def test_the_level_of_one_look_is_its_share_of_the_year() -> None:
    assert alarm_level(0.5, 12.0) == pytest.approx(0.5 / 24)
    assert alarm_level(0.5, 365.0) == pytest.approx(0.5 / 730)
    assert alarm_level(100.0, 1.0) == 0.5


def test_quiet_features_raise_no_more_alarms_than_the_level_allows() -> None:
    """Without the effect size, chance alone: 20 features of one distribution, at a level of 0.2 per look."""
    random, looks, level = np.random.default_rng(11), 300, 0.2
    spec = replace(SPEC, drift=DriftSpec(psi=0.0, min_rows=1))
    shares, alarms = np.full(10, 0.1), 0
    reference = profile(*[feature(f"f{i}", *random.multinomial(20_000, shares).tolist()) for i in range(20)])
    for _ in range(looks):
        now = profile(*[feature(f"f{i}", *random.multinomial(2_000, shares).tolist()) for i in range(20)])
        alarms += judge_drift(reference, now, spec, level)[0] == "alarm"
    assert alarms / looks < level + 3 * (level * (1 - level) / looks) ** 0.5


# Decay

SEEN = Estimate(0.70, 0.69, 0.71)
RULE = PerformanceSpec(max_drop=0.02, min_labelled=0.5)


def measured(current: Estimate, *, labelled: int = 1000, rows: int = 1000, metric: str = "roc_auc") -> Measured:
    return Measured(metric, current, SEEN, 0.95, labelled, rows)


def test_no_labels_are_unknown() -> None:
    performance = judge_performance(None, RULE, 0.01, "roc_auc")
    assert (performance.status, performance.reason, performance.current) == ("unknown", "no labels yet", None)


@pytest.mark.parametrize(("labelled", "status"), [(499, "unknown"), (500, "alarm"), (0, "unknown")])
def test_too_few_labels_are_unknown(labelled: int, status: str) -> None:
    bad = measured(Estimate(0.5, 0.49, 0.51), labelled=labelled)
    performance = judge_performance(bad, RULE, 0.01, "roc_auc")
    assert (performance.status, performance.labelled, performance.rows) == (status, labelled / 1000, labelled)


def test_no_rows_are_unknown() -> None:
    nothing = measured(Estimate(0.5, 0.4, 0.6), labelled=0, rows=0)
    assert judge_performance(nothing, RULE, 0.01, "roc_auc").status == "unknown"


def test_too_few_days_for_an_interval_are_unknown_however_bad() -> None:
    performance = judge_performance(measured(Estimate(0.1)), RULE, 0.01, "roc_auc")
    assert (performance.status, performance.reason) == ("unknown", "too few days for an interval")


@pytest.mark.parametrize(
    ("value", "half", "status"),
    [
        (0.70, 0.01, "ok"),
        (0.90, 0.01, "ok"),
        (0.68, 0.001, "ok"),
        (0.66, 0.05, "ok"),
        (0.66, 0.001, "alarm"),
        (0.60, 0.01, "alarm"),
    ],
)
def test_decay_needs_a_drop_that_matters_beyond_chance(value: float, half: float, status: str) -> None:
    performance = judge_performance(measured(Estimate(value, value - half, value + half)), RULE, 0.01, "roc_auc")
    assert performance.status == status
    assert performance.reason.startswith(f"roc_auc {value:.4f}, 0.7000 at the gate (p ")


@pytest.mark.parametrize(("value", "status"), [(0.60, "ok"), (0.70, "ok"), (0.80, "alarm")])
def test_for_a_loss_higher_is_worse(value: float, status: str) -> None:
    found = measured(Estimate(value, value - 0.01, value + 0.01), metric="brier")
    assert judge_performance(found, RULE, 0.01, "brier").status == status


@pytest.mark.parametrize(("value", "status"), [(0.68, "ok"), (0.69, "ok"), (0.67, "alarm")])
def test_intervals_without_width_are_compared_as_they_are(value: float, status: str) -> None:
    sure = Measured("roc_auc", Estimate(value, value, value), Estimate(0.70, 0.70, 0.70), 0.95, 10, 10)
    rule = PerformanceSpec(max_drop=0.0201)
    assert judge_performance(sure, rule, 0.01, "roc_auc").status == status


def test_a_steady_champion_raises_no_more_alarms_than_the_level_allows() -> None:
    """Both estimates scatter by their standard error around the same truth, at the very limit of the rule."""
    random, level, looks, half = np.random.default_rng(3), 0.05, 4000, 1.96 * 0.01
    truth = 0.70 + 0.01 * random.standard_normal((looks, 2))
    alarms = 0
    for now, then in truth - [[RULE.max_drop, 0.0]]:
        m = Measured(
            "roc_auc", Estimate(now, now - half, now + half), Estimate(then, then - half, then + half), 0.95, 9, 9
        )
        alarms += judge_performance(m, RULE, level, "roc_auc").status == "alarm"
    assert abs(alarms / looks - level) < 4 * (level * (1 - level) / looks) ** 0.5
