"""Leaks are found before user code runs: copies of the target, shared entities and groups, rows of another time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.loops import SPEC, merged

from kaizen.adapters.examples import Examples
from kaizen.adapters.leaks import oddities, refuse_outcomes_in_disguise, refuse_outside, refuse_shared
from kaizen.bridge import InputFile
from kaizen.errors import DataRefused
from kaizen.spec import Spec, parse_spec

REGRESSION = {
    "problem": {"task": "regression", "label": None, "target": "delay", "features": None},
    "gates": [{"metric": "rmse", "at_most": 50}],
}


def spec(**changes: Any) -> Spec:
    return parse_spec(merged(SPEC, changes), "test")


def rows(features: dict[str, Any], label: np.ndarray | None = None, **keys: list[Any]) -> Examples:
    found = pd.DataFrame(features)
    return Examples(pd.DataFrame(keys, index=found.index), found, label)


# Copies of the target.

COPIES = {
    "the target": lambda y: y,
    "scaled and shifted": lambda y: 3 * y - 7,
    "turned around": lambda y: -y,
    "bent": lambda y: np.exp(y / 20),
    "rounded": lambda y: y.round(1),
    "as text": lambda y: np.array([f"{value:.3f}" for value in y], dtype=object),
    "with a tiny error": lambda y: y + np.random.default_rng(1).normal(0, 0.01, len(y)),
}
HONEST = {
    "noise": lambda y: np.random.default_rng(1).normal(0, 1, len(y)),
    "a strong feature": lambda y: y + np.random.default_rng(1).normal(0, 2, len(y)),
    "one value": lambda y: np.ones(len(y)),
    "no value": lambda y: np.full(len(y), np.nan),
    "text": lambda y: np.array(["north", "9E", "1"] * len(y), dtype=object)[: len(y)],
    "a copy of so few rows that it may be chance": lambda y: np.where(np.arange(len(y)) < 15, y, np.nan),
}


def target() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 10, 400)


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_the_target_is_refused(name):
    y = target()
    with pytest.raises(DataRefused) as refusal:
        refuse_outcomes_in_disguise(spec(**REGRESSION), rows({"rain": HONEST["noise"](y), "x": COPIES[name](y)}, y))
    assert (refusal.value.code, refusal.value.where) == ("KZ428", "feature x")
    assert "in 400 rows" in refusal.value.value


@pytest.mark.parametrize("name", HONEST)
def test_what_is_no_copy_is_not_refused(name):
    y = target()
    refuse_outcomes_in_disguise(spec(**REGRESSION), rows({"x": HONEST[name](y)}, y))


def test_the_limit_is_the_specs():
    y = target()
    strong = rows({"x": HONEST["a strong feature"](y)}, y)
    with pytest.raises(DataRefused, match="KZ428"):
        refuse_outcomes_in_disguise(spec(**REGRESSION, evaluate={"max_correlation_of_one_feature": 0.9}), strong)
    # A limit of 1 allows all but an exact copy.
    loose = spec(**REGRESSION, evaluate={"max_correlation_of_one_feature": 1.0})
    refuse_outcomes_in_disguise(loose, rows({"x": COPIES["with a tiny error"](y)}, y))
    with pytest.raises(DataRefused, match="KZ428"):
        refuse_outcomes_in_disguise(loose, rows({"x": COPIES["bent"](y)}, y))


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_the_outcome_that_makes_a_label_is_refused_too(name):
    y = target()
    with pytest.raises(DataRefused, match="KZ422"):
        refuse_outcomes_in_disguise(spec(), rows({"x": COPIES[name](y)}, (y > 10).astype(float)))


@pytest.mark.parametrize("name", HONEST)
def test_honest_features_of_a_classifier_are_not_refused(name):
    y = target()
    label = (HONEST["a strong feature"](y) + np.random.default_rng(2).normal(0, 30, len(y)) > 10).astype(float)
    refuse_outcomes_in_disguise(spec(), rows({"x": HONEST[name](y)}, label))


# Both sides.

keys = st.lists(st.sampled_from(["T1", "T2", "T3", "T4", None]), max_size=8)


@given(keys, keys)
def test_an_entity_on_both_sides_is_refused_and_nothing_else(one, other):
    used = replace(spec(), problem=replace(spec().problem, entity=("train",)))
    sides = [rows({"x": [0.0] * len(k)}, train=pd.Series(k, dtype=object)) for k in (one, other)]
    shared = [k for k in other if k is not None and k in one]
    if not shared:
        refuse_shared(used, *sides, "a and b")
        return
    with pytest.raises(DataRefused) as refusal:
        refuse_shared(used, *sides, "a and b")
    assert (refusal.value.code, refusal.value.where) == ("KZ425", "a and b")
    assert refusal.value.value == f"{len(shared)} rows by train"


@pytest.mark.parametrize(("group", "code"), [([], None), (["line"], "KZ426"), (["line", "train"], None)])
def test_groups_may_not_be_shared_if_the_spec_says_so(group, code):
    used = spec(problem={"entity": ["train"], "group": group})
    one, other = (rows({"x": [0.0]}, train=[train], line=["red"]) for train in ("T1", "T2"))
    if code is None:
        refuse_shared(used, one, other, "a and b")
        return
    with pytest.raises(DataRefused, match=code):
        refuse_shared(used, one, other, "a and b")


# Another time.

JANUARY = InputFile("schedules", "2024-01", "", "")


def at(*moments: str) -> pd.DataFrame:
    found = pd.Series([pd.Timestamp(m, tz="Europe/Paris") for m in moments], dtype="datetime64[us, UTC]")
    return pd.DataFrame({"departs": found})


@pytest.mark.parametrize(
    ("moments", "told"),
    [
        (["2024-02-03 00:00"], "departs > label cut-off by 2 d in 1 rows"),
        (["2024-02-04 00:00", "2024-02-02 00:00", "2024-01-31 00:00"], "departs > label cut-off by 3 d in 2 rows"),
        (["2024-02-01 00:00"], "departs > label cut-off by 0 s in 1 rows"),
        (["2023-12-31 21:30"], "departs < partition by 2.5 h in 1 rows"),
        (["2023-12-31 23:59"], "departs < partition by 1 min in 1 rows"),
    ],
)
def test_rows_of_another_time_are_refused_with_the_distance(moments, told):
    with pytest.raises(DataRefused) as refusal:
        refuse_outside(spec(), JANUARY, at(*moments))
    assert (refusal.value.code, refusal.value.value) == ("KZ427", told)
    assert refusal.value.limit == "from 2024-01-01T00:00:00+01:00 to before 2024-02-01T00:00:00+01:00"


def test_rows_of_the_partition_are_not_refused():
    refuse_outside(spec(), JANUARY, at("2024-01-01 00:00", "2024-01-31 23:59:59"))
    refuse_outside(spec(), JANUARY, at())
    refuse_outside(spec(), InputFile("stations", "all", "", ""), at("1999-01-01"))
    refuse_outside(spec(), JANUARY, pd.DataFrame({"train": ["T1"]}))


# Oddities.


def test_features_that_say_nothing_are_told_without_their_values():
    found = oddities(
        pd.DataFrame(
            {
                "year": [2013.0, 2013.0],
                "name": ["secret", "secret"],
                "none": pd.Series([None, None], dtype=object),
                "sometimes": [1.0, np.nan],
                "plain": [1.0, 2.0],
            }
        )
    )
    assert found == ["feature year has one value only", "feature name has one value only", "feature none has no value"]


def test_one_row_is_not_odd():
    assert oddities(pd.DataFrame({"x": [1.0]})) == oddities(pd.DataFrame({"x": pd.Series(dtype=float)})) == []
