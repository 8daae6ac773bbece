"""How closely a feature goes with the target: by the formulas that the page names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency, f_oneway, pearsonr, pointbiserialr

from kaizen.adapters.associations import associate, correlation_ratio, cramers_v, pearson
from kaizen.adapters.examples import Examples
from kaizen.records import CRAMER, PEARSON, POINT_BISERIAL, RATIO

RNG = np.random.default_rng(3)
X = RNG.normal(size=500)
LATE = (X + RNG.normal(size=500) > 0).astype(float)
CODES = RNG.integers(0, 4, 500)


def test_pearson_is_that_of_scipy_and_of_two_classes_the_point_biserial() -> None:
    y = 0.5 * X + RNG.normal(size=500)
    assert pearson(X, y) == pytest.approx(pearsonr(X, y).statistic)
    assert pearson(X, LATE) == pytest.approx(pointbiserialr(LATE, X).statistic)


def test_the_correlation_ratio_is_that_of_the_analysis_of_variance() -> None:
    y = X + CODES
    eta = correlation_ratio(CODES, y)
    assert eta is not None
    f = f_oneway(*(y[c == CODES] for c in range(4))).statistic
    assert eta**2 / 3 / ((1 - eta**2) / 496) == pytest.approx(f)


def test_cramers_v_is_corrected_for_its_bias() -> None:
    classes = (RNG.random(500) < 0.2 + 0.2 * CODES).astype(float)
    table = pd.crosstab(CODES, classes).to_numpy()
    phi = max(0, chi2_contingency(table, correction=False).statistic / 500 - 3 / 499)
    assert cramers_v(CODES, classes) == pytest.approx(np.sqrt(phi / (2 - 1 / 499 - 1)))
    # Uncorrected, 200 categories of 500 rows would be near 0.6.
    assert cramers_v(RNG.integers(0, 200, 500), LATE) < 0.25


@pytest.mark.parametrize("same", [np.zeros(9), np.zeros(0)], ids=["constant", "nothing"])
def test_a_side_that_is_constant_tells_nothing(same: np.ndarray) -> None:
    other = np.arange(len(same), dtype=float)
    assert pearson(same, other) is None
    assert pearson(other, same) is None
    assert correlation_ratio(np.zeros(len(same), dtype=int), same) is None
    assert cramers_v(np.zeros(len(same), dtype=int), other) is None
    assert cramers_v(np.arange(len(same)), same) is None


def test_a_copy_of_the_target_goes_with_it_wholly() -> None:
    assert pearson(LATE, LATE) == pytest.approx(1)
    assert cramers_v(LATE.astype(int), LATE) == pytest.approx(1, abs=0.01)
    assert correlation_ratio(CODES, CODES.astype(float)) == pytest.approx(1)


def test_features_are_told_the_strongest_first_over_the_rows_where_both_are_known() -> None:
    label = LATE.copy()
    label[:100] = np.nan
    words = pd.Series(np.where(LATE == 1, "a", "b"), dtype=object)
    words[490:] = None
    features = pd.DataFrame({"x": X, "words": words, "flat": 1.0})
    found = associate(Examples(pd.DataFrame(index=range(500)), features, label), 1)
    assert [(a.feature, a.measure, a.rows) for a in found] == [
        ("words", CRAMER, 390),
        ("x", POINT_BISERIAL, 400),
        ("flat", POINT_BISERIAL, 400),
    ]
    assert found[2].value is None
    flipped = associate(Examples(pd.DataFrame(index=range(500)), features, label), 0)
    assert flipped[1].value == pytest.approx(-(found[1].value or 0))
    numbers = associate(Examples(pd.DataFrame(index=range(500)), features, label), None)
    assert {a.measure for a in numbers} == {RATIO, PEARSON}
