"""Which rows are most worth a label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from tests.loops import SPEC, merged

from kaizen.adapters.examples import label_rows
from kaizen.adapters.label_sheets import rank
from kaizen.adapters.profiles import make_profile
from kaizen.spec import ProblemSpec, parse_spec

PROBLEM = ProblemSpec("classification", "late", ("train",), "departs")
AT_TRAINING = pd.DataFrame(
    {"distance": np.linspace(0, 100, 200), "rain": np.tile(np.arange(20.0), 10), "origin": ["north", "south"] * 100}
)
REFERENCE = make_profile(AT_TRAINING)


def ranked(features: pd.DataFrame, predictions: Any, task: str = "classification", **kwargs: Any) -> pd.DataFrame:
    rows = pd.DataFrame({"row": range(len(features)), "prediction": predictions, "open": True})
    problem = replace(PROBLEM, task=task)  # type: ignore[arg-type]
    return rank(rows.assign(**kwargs), features, REFERENCE, problem)


def test_without_drift_the_uncertain_come_first() -> None:
    predictions = np.linspace(0, 1, 200)
    found = ranked(AT_TRAINING, predictions)
    assert set(found["reason"]) == {"uncertain"}
    assert ((found["prediction"] - 0.5).abs().diff().dropna() >= -1e-12).all()


def test_drifted_rows_of_every_feature_and_uncertain_ones_take_turns() -> None:
    """40 rows are farther than any was, 40 come from a station nobody knew; neither kind takes all the places."""
    features = AT_TRAINING.copy()
    features.loc[:39, "distance"] = 500.0
    features.loc[100:139, "origin"] = "moon"
    head = ranked(features, np.linspace(0, 1, 200)).head(12)
    why = head["reason"].str.split(",").str[0].value_counts()
    assert set(why.index) == {"drifted: distance", "drifted: origin", "uncertain"}
    assert why.min() >= 2
    assert "times as frequent as at training" in head["reason"].iloc[0]


def test_values_that_are_missing_more_often_are_drift_too() -> None:
    features = AT_TRAINING.copy()
    features.loc[:60, "rain"] = np.nan
    head = ranked(features, np.full(200, 0.99)).head(10)
    assert head["reason"].str.startswith("drifted: rain").sum() >= 5


def test_ignored_features_do_not_drift() -> None:
    features = AT_TRAINING.assign(distance=500.0)
    rows = pd.DataFrame({"row": range(200), "prediction": 0.9, "open": True})
    assert set(rank(rows, features, REFERENCE, PROBLEM, ("distance",))["reason"]) == {"uncertain"}


def test_a_regression_knows_no_uncertain_rows_and_ranks_by_drift_alone() -> None:
    features = AT_TRAINING.copy()
    features.loc[10:29, "distance"] = 500.0
    found = ranked(features, np.arange(200.0), "regression")
    assert set(found.head(5)["row"]) & set(range(10, 30))
    assert found["reason"].str.startswith("drifted: ").all()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-200, 200), st.booleans()), min_size=1, max_size=40))
def test_every_open_row_is_ranked_once_and_no_other(rows: list[tuple[float, float, bool]]) -> None:
    features = pd.DataFrame(
        {"distance": [d for _, d, _ in rows], "rain": 3.0, "origin": pd.Series(["north"] * len(rows), dtype=object)}
    )
    found = ranked(features, [p for p, _, _ in rows], open=[free for *_, free in rows])
    assert sorted(found["row"]) == [i for i, (*_, free) in enumerate(rows) if free]
    assert found["reason"].notna().all()


def test_labels_that_the_main_table_holds_are_looked_up_by_entity() -> None:
    spec = parse_spec(merged(SPEC, {"data": {"tables": {"outcomes": None}}}), "test")
    main = pd.DataFrame({"departs": [1, 2, 3], "train": "T1", "delay": [99.0, 0.0, np.nan]})
    predicted = pd.DataFrame({"departs": [3, 2, 1], "train": "T1", "prediction": 0.5})
    np.testing.assert_array_equal(label_rows(spec, predicted, {"schedules": main}), [np.nan, 0.0, 1.0])
