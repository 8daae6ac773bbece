"""Metrics from sums per day: the same numbers as scikit-learn's, whole and resampled, with intervals that hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from kaizen.adapters import estimates
from kaizen.records import Estimate

REFERENCES: dict[str, Any] = {
    "roc_auc": metrics.roc_auc_score,
    "brier": metrics.brier_score_loss,
    "log_loss": metrics.log_loss,
    "mae": metrics.mean_absolute_error,
    "rmse": metrics.root_mean_squared_error,
}


def rows(metric: str, count: int, days: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label, prediction and day of ``count`` rows; a coarse grid of predictions, so that there are ties."""
    random = np.random.default_rng(seed)
    day = random.integers(0, days, count)
    prediction = np.round(random.uniform(0.02, 0.98, count), 1)
    if metric in ("mae", "rmse"):
        return random.normal(size=count), prediction, day
    return (random.uniform(size=count) < 0.3 + 0.4 * prediction).astype(float), prediction, day


def sums(metric: str, label: np.ndarray, prediction: np.ndarray, day: np.ndarray) -> estimates.Sums:
    return estimates.block_sums(metric, label, prediction, np.unique(day, return_inverse=True)[1])


@pytest.mark.parametrize("metric", REFERENCES)
@pytest.mark.parametrize("days", [1, 2, 31])
def test_the_whole_is_scikit_learns(metric: str, days: int) -> None:
    label, prediction, day = rows(metric, 500, days)
    found = sums(metric, label, prediction, day)
    value = found.at(np.ones((1, len(found.left))))[0]
    assert value == pytest.approx(REFERENCES[metric](label, prediction), rel=1e-12)


@pytest.mark.parametrize("metric", REFERENCES)
def test_days_drawn_again_are_rows_weighted_again(metric: str) -> None:
    label, prediction, day = rows(metric, 400, 12)
    weights = estimates.draws(12)[:20]
    found = sums(metric, label, prediction, day).at(weights)
    expected = [REFERENCES[metric](label, prediction, sample_weight=w[day]) for w in weights]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=40))
@settings(max_examples=200)
def test_auc_with_ties_is_scikit_learns(drawn: list[tuple[bool, int, int]]) -> None:
    label, score, day = (np.array(column) for column in zip(*drawn, strict=True))
    if len(set(label.tolist())) == 1:
        assert math.isnan(estimates.auc(label, score))
        return
    expected = metrics.roc_auc_score(label, score)
    assert estimates.auc(label, score) == pytest.approx(expected, abs=1e-12)
    found = sums("roc_auc", label.astype(float), score.astype(float), day)
    assert found.at(np.ones((1, len(found.left))))[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("one", [0.0, 1.0])
def test_log_loss_of_a_certain_mistake_is_finite(one: float) -> None:
    found = sums("log_loss", np.array([one]), np.array([1.0 - one]), np.zeros(1, dtype=int))
    assert found.at(np.ones((1, 1)))[0] == pytest.approx(-math.log(np.finfo(float).eps))


def test_auc_of_no_rows_is_not_defined() -> None:
    assert math.isnan(estimates.auc(np.zeros(0, dtype=bool), np.zeros(0)))


def test_draws_are_the_same_each_time_and_take_as_many_days_as_there_are() -> None:
    weights = estimates.draws(7)
    assert weights.shape == (2000, 7)
    assert (weights.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(weights, estimates.draws(7))
    assert (weights != estimates.draws(7, seed=1)).any()


def test_an_interval_is_central_and_tolerates_a_tenth_undefined() -> None:
    values = np.arange(2000.0)
    low, high = estimates.interval(values, 0.9)
    assert (low, high) == (pytest.approx(99.95), pytest.approx(1899.05))
    values[:200] = np.nan
    assert estimates.interval(values, 0.9)[0] is not None
    values[200] = np.inf
    assert estimates.interval(values, 0.9) == (None, None)


@pytest.mark.parametrize("metric", ["brier", "roc_auc"])
def test_intervals_cover_the_truth_as_often_as_they_say(metric: str) -> None:
    """Days differ: the rows of one share a shift of their outcome, which rows drawn one by one would not show."""
    covered, repeats, days, per_day = 0, 150, 40, 20
    truth = _measure(metric, np.random.default_rng(1), 20_000, per_day)[0].value
    random = np.random.default_rng(2)
    for _ in range(repeats):
        estimate = _measure(metric, random, days, per_day)[0]
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= truth <= estimate.high
    # 90 % are promised; few days cost a percentage bootstrap some of it.
    assert 0.82 <= covered / repeats <= 0.97


def _measure(metric: str, random: np.random.Generator, days: int, per_day: int) -> tuple[Estimate, float]:
    day = np.repeat(np.arange(days), per_day)
    prediction = random.uniform(0.1, 0.9, len(day))
    chance = np.clip(prediction + np.repeat(random.normal(0, 0.25, days), per_day), 0.02, 0.98)
    label = (random.uniform(size=len(day)) < chance).astype(float)
    if days > 1000:
        # As large as this, the value alone is asked for.
        return Estimate(float(REFERENCES[metric](label, prediction))), 0.0
    comparison = estimates.compare(metric, label, {"candidate": prediction}, day, 0.9)
    assert comparison is not None
    return comparison.candidate, 0.9


# Two models on the same rows


@pytest.mark.parametrize("metric", REFERENCES)
def test_candidate_and_champion_are_compared_on_the_same_rows(metric: str) -> None:
    label, champion, day = rows(metric, 600, 20)
    candidate = 0.5 * champion + 0.5 * np.clip(label, 0.05, 0.95)
    found = estimates.compare(metric, label, {"candidate": candidate, "champion": champion}, day, 0.95)
    assert found is not None
    assert found.champion is not None
    assert found.gain is not None
    assert found.candidate.value == pytest.approx(REFERENCES[metric](label, candidate))
    assert found.champion.value == pytest.approx(REFERENCES[metric](label, champion))
    sign = 1 if metric == "roc_auc" else -1
    assert found.gain.value == pytest.approx(sign * (found.candidate.value - found.champion.value))
    assert found.gain.low is not None
    assert found.gain.high is not None
    assert 0 < found.gain.low < found.gain.value < found.gain.high
    assert (found.metric, found.rows, found.slice) == (metric, 600, "")


def test_the_same_model_twice_gains_nothing_for_sure() -> None:
    label, prediction, day = rows("roc_auc", 600, 20)
    found = estimates.compare("roc_auc", label, {"candidate": prediction, "champion": prediction}, day, 0.95)
    assert found is not None
    assert found.gain == Estimate(0.0, 0.0, 0.0)


def test_a_gain_against_loss_is_as_sure_as_its_pairing() -> None:
    """Good and bad days hit both models alike: the interval of the gain is narrower than that of either."""
    label, champion, day = rows("brier", 2000, 20)
    found = estimates.compare("brier", label, {"candidate": champion * 0.98, "champion": champion}, day, 0.95)
    assert found is not None
    assert found.gain is not None
    widths = [(e.high or 0) - (e.low or 0) for e in (found.gain, found.candidate)]
    assert 0 < widths[0] < widths[1] / 5


@pytest.mark.parametrize(("days", "known"), [(4, False), (5, True)])
def test_fewer_than_five_days_have_no_interval(days: int, known: bool) -> None:
    label, prediction, _ = rows("roc_auc", 100, 1)
    day = np.arange(100) % days
    found = estimates.compare("roc_auc", label, {"candidate": prediction, "champion": prediction[::-1]}, day, 0.95)
    assert found is not None
    assert found.gain is not None
    assert [(e.low is not None) for e in (found.candidate, found.gain)] == [known, known]


@pytest.mark.parametrize("label", [np.zeros(0), np.zeros(10), np.ones(10)])
def test_where_a_metric_is_not_defined_nothing_is_said(label: np.ndarray) -> None:
    day = np.arange(len(label))
    assert estimates.compare("roc_auc", label, {"candidate": np.full(len(label), 0.5)}, day, 0.95) is None


def test_days_may_be_numbered_with_gaps() -> None:
    label, prediction, day = rows("roc_auc", 300, 10)
    plain = estimates.compare("roc_auc", label, {"candidate": prediction}, day, 0.95)
    assert estimates.compare("roc_auc", label, {"candidate": prediction}, day * 7 + 100, 0.95) == plain


def test_a_slice_keeps_its_name() -> None:
    label, prediction, day = rows("brier", 50, 10)
    found = estimates.compare("brier", label, {"candidate": prediction}, day, 0.95, slice_name="carrier=AA")
    assert found is not None
    assert (found.slice, found.champion, found.gain) == ("carrier=AA", None, None)


# The mean over parts


def test_the_mean_difference_is_that_of_the_parts() -> None:
    parts = []
    for seed in (1, 2, 3):
        label, prediction, day = rows("roc_auc", 400, 15, seed)
        parts.append((label, 0.7 * prediction + 0.3 * label, prediction, day + 100 * seed))
    found = estimates.mean_difference("roc_auc", parts, 0.95)
    single = [
        metrics.roc_auc_score(label, first) - metrics.roc_auc_score(label, second) for label, first, second, _ in parts
    ]
    assert found.value == pytest.approx(np.mean(single))
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < found.value < found.high


def test_more_parts_make_the_mean_surer() -> None:
    drawn = [rows("brier", 400, 15, seed) for seed in range(8)]
    parts = [(label, prediction * 0.9, prediction, day) for label, prediction, day in drawn]
    one, all_of_them = (estimates.mean_difference("brier", some, 0.95) for some in (parts[:1], parts))
    assert (all_of_them.high or 0) - (all_of_them.low or 0) < ((one.high or 0) - (one.low or 0)) / 2
