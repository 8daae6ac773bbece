"""The formulas, against SciPy and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from kaizen.records import Estimate
from kaizen.statistics import (
    chi_square_tail,
    jensen_shannon,
    kolmogorov_smirnov,
    psi,
    psi_p_value,
    standard_error,
    upper_tail,
)

counts = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), min_size=2, max_size=30)


def test_psi_is_the_sum_over_bins_of_shares_half_a_row_added() -> None:
    p, q = (10.5 / 101, 90.5 / 101), (30.5 / 51, 20.5 / 51)
    expected = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert psi([10, 90], [30, 20]) == pytest.approx(expected, rel=1e-12)


@given(counts)
def test_psi_is_never_negative_and_finite_for_empty_bins(pairs: list[tuple[int, int]]) -> None:
    reference, current = zip(*pairs, strict=True)
    value = psi(reference, current)
    assert value >= -1e-12
    assert math.isfinite(value)


@given(counts)
def test_psi_does_not_depend_on_the_order_of_bins_or_on_which_is_first(pairs: list[tuple[int, int]]) -> None:
    reference, current = zip(*pairs, strict=True)
    assert psi(current, reference) == pytest.approx(psi(reference, current), abs=1e-9)
    assert psi(reference[::-1], current[::-1]) == pytest.approx(psi(reference, current), abs=1e-9)


def test_psi_of_the_same_counts_is_zero() -> None:
    assert psi([5, 0, 7], [5, 0, 7]) == 0


def test_psi_of_other_bins_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        psi([1, 2], [1, 2, 3])


@pytest.mark.parametrize("degrees", [1, 2, 3, 9, 10, 50, 51, 500])
@pytest.mark.parametrize("factor", [1e-6, 0.1, 0.5, 0.9, 1.0, 1.1, 2.0, 5.0, 50.0])
def test_the_chi_square_tail_is_scipys(degrees: int, factor: float) -> None:
    x = degrees * factor
    assert chi_square_tail(x, degrees) == pytest.approx(stats.chi2.sf(x, degrees), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("x", "tail"), [(0.0, 1.0), (-1.0, 1.0), (1e6, 0.0)])
def test_the_ends_of_the_chi_square_tail(x: float, tail: float) -> None:
    assert chi_square_tail(x, 3) == tail


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.integers(1, 60))
def test_the_chi_square_tail_falls_from_one_to_zero(one: float, other: float, degrees: int) -> None:
    low, high = sorted((one, other))
    assert 1 >= chi_square_tail(low, degrees) >= chi_square_tail(high, degrees) - 1e-12 >= -1e-12


@pytest.mark.parametrize(("bins", "n", "m"), [(10, 20_000, 2_000), (4, 5_000, 500), (20, 50_000, 50_000)])
def test_the_p_value_of_psi_is_as_rare_as_it_says(bins: int, n: int, m: int) -> None:
    """Pairs of samples from one distribution: a share of about 5 % (1 %) has a p-value below 0.05 (0.01)."""
    random, repeats = np.random.default_rng(7), 4000
    shares = np.linspace(1, 2, bins) / np.linspace(1, 2, bins).sum()
    samples = zip(random.multinomial(n, shares, repeats), random.multinomial(m, shares, repeats), strict=True)
    values = np.array([psi_p_value(psi(a.tolist(), b.tolist()), bins, n, m) for a, b in samples])
    for level in (0.05, 0.01):
        # Four standard deviations of a binomial share, and a tenth for the approximation.
        tolerance = 4 * math.sqrt(level * (1 - level) / repeats) + 0.1 * level
        assert abs(float(np.mean(values < level)) - level) < tolerance


@pytest.mark.parametrize(("bins", "n", "m"), [(1, 100, 100), (10, 0, 100), (10, 100, 0)])
def test_without_bins_or_rows_nothing_is_surprising(bins: int, n: int, m: int) -> None:
    assert psi_p_value(5.0, bins, n, m) == 1.0


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_standard_error_is_that_of_a_normal_interval(confidence: float) -> None:
    low, high = stats.norm.interval(confidence, loc=0.7, scale=0.01)
    assert standard_error(Estimate(0.7, low, high), confidence) == pytest.approx(0.01)


@pytest.mark.parametrize("estimate", [Estimate(0.7), Estimate(0.7, 0.6, None), Estimate(0.7, None, 0.8)])
def test_no_interval_no_standard_error(estimate: Estimate) -> None:
    assert standard_error(estimate, 0.95) is None


@pytest.mark.parametrize("z", [-5.0, -1.0, 0.0, 1.96, 5.0])
def test_the_upper_tail_is_scipys(z: float) -> None:
    assert upper_tail(z) == pytest.approx(stats.norm.sf(z), rel=1e-6)


@given(counts)
def test_jensen_shannon_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    reference, current = zip(*pairs, strict=True)
    if sum(reference) and sum(current):
        expected = jensenshannon(reference, current, base=2)
        assert jensen_shannon(reference, current) == pytest.approx(expected, abs=1e-6)
        assert 0 <= jensen_shannon(reference, current) <= 1 + 1e-12


def test_jensen_shannon_of_disjoint_counts_is_one() -> None:
    assert jensen_shannon([5, 0], [0, 9]) == 1


def test_kolmogorov_smirnov_over_single_values_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 20, 500), rng.integers(3, 22, 300)
    reference, current = (np.bincount(values, minlength=22).tolist() for values in (one, two))
    assert kolmogorov_smirnov(reference, current) == pytest.approx(stats.ks_2samp(one, two).statistic, abs=1e-12)


@pytest.mark.parametrize("distance", [jensen_shannon, kolmogorov_smirnov])
def test_a_distance_to_no_rows_is_the_largest(distance: object) -> None:
    assert distance([1, 2], [0, 0]) == 1  # type: ignore[operator]
    assert distance([0, 0], [0, 0]) == 0  # type: ignore[operator]
