"""Rows and tables with times of their own: nothing is joined that was not known at the row's time, whatever comes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.loops import SPEC, merged

from kaizen.adapters.asof import newest_until
from kaizen.adapters.examples import assemble, label_rows
from kaizen.errors import DataRefused
from kaizen.spec import Spec, parse_spec

FEWER = settings(max_examples=settings.default.max_examples // 2)
START = datetime(2024, 3, 1, tzinfo=UTC)
HORIZON, DELAY = 48, 72


def spec(**tables: Any) -> Spec:
    """Customers who may leave: what they spend is known as of a time, that they left happens later."""
    values = {
        "problem": {
            "task": "classification", "target": "left", "label": "amount > 0", "entity": ["customer", "at"],
            "timestamp": "at", "label_delay": f"{DELAY}h", "features": None,
        },
        "data": {
            "tables": {
                "schedules": None, "stations": None, "outcomes": None,
                "asks": {"uri": "asks/*", "partition": "month"},
                "spending": {"uri": "spending/*", "join": ["customer"], "asof": "since", **tables.pop("spending", {})},
                "leavers": {
                    "uri": "leavers/*", "role": "labels", "join": ["customer"], "time": "happened", "known": "told",
                    "horizon": f"{HORIZON}h", **tables.pop("leavers", {}),
                },
                **tables,
            },
            "suite": None, "outcomes": [],
        },
    }  # fmt: skip
    return parse_spec(merged(SPEC, values), "test")


hours = st.integers(0, 24 * 12)
customers = st.sampled_from(["ada", "bob", None])


@st.composite
def tables(draw: st.DrawFn) -> dict[str, pd.DataFrame]:
    """Asks, what was known of customers as of a time, and outcomes: unsorted, with gaps, ties and strangers."""
    asks = draw(st.lists(st.tuples(customers, hours), min_size=1, max_size=15))
    spent = draw(st.lists(st.tuples(customers, hours), unique=True, max_size=15))
    left = draw(st.lists(st.tuples(customers, hours, st.integers(0, 120)), unique=True, max_size=15))
    return {
        "asks": frame(customer=[c for c, _ in asks], at=times([h for _, h in asks])),
        "spending": frame(
            customer=[c for c, _ in spent], since=times([h for _, h in spent]), seen=[float(h) for _, h in spent]
        ),
        "leavers": frame(
            customer=[c for c, _, _ in left],
            happened=times([h for _, h, _ in left]),
            told=times([h + later for _, h, later in left]),
            amount=[float((h + later) % 3) for _, h, later in left],
        ),
    }


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"customer": pd.Series(columns.pop("customer"), dtype="str"), **columns})


def times(found: list[int]) -> pd.Series:
    return pd.Series([START + timedelta(hours=h) for h in found], dtype="datetime64[us, UTC]")


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [r for r in table.to_dict("records") if not pd.isna(r["customer"])]


@FEWER
@given(tables(), st.none() | st.integers(1, 100))
def test_no_joined_value_is_later_than_its_rows_prediction_time(found, age):
    used = spec(spending={"max_age": f"{age}h"} if age else {})
    features = assemble(used, found, labels=False).features
    assert list(features.columns) == ["customer", "spending_seen"]
    for ask, seen in zip(found["asks"].to_dict("records"), features["spending_seen"], strict=True):
        known = [
            r
            for r in rows_of(found["spending"])
            if r["customer"] == ask["customer"]
            and r["since"] <= ask["at"]
            and (age is None or ask["at"] - r["since"] <= timedelta(hours=age))
        ]
        expected = max(known, key=lambda r: r["since"])["seen"] if known else np.nan
        np.testing.assert_equal(seen, expected)


@FEWER
@given(tables(), hours)
def test_what_comes_later_changes_no_feature_of_an_earlier_row(found, now):
    """Scoring at a time and training later see the same: rows after ``now`` may be there or not."""
    moment = START + timedelta(hours=now)
    cut = {**found, "spending": found["spending"][found["spending"]["since"] <= moment]}
    before = found["asks"]["at"] <= moment
    one, two = (assemble(spec(), each, labels=False).features[before.to_numpy()] for each in (found, cut))
    pd.testing.assert_frame_equal(one, two)


@FEWER
@given(tables())
def test_a_label_happened_within_the_horizon_and_was_known_within_the_delay(found):
    label = label_rows(spec(), found["asks"], found)
    for ask, value in zip(found["asks"].to_dict("records"), label, strict=True):
        outcomes = [
            r
            for r in rows_of(found["leavers"])
            if r["customer"] == ask["customer"]
            and ask["at"] <= r["happened"] <= ask["at"] + timedelta(hours=HORIZON)
            and r["told"] <= ask["at"] + timedelta(hours=DELAY)
        ]
        newest = max(outcomes, key=lambda r: (r["happened"], r["told"])) if outcomes else None
        np.testing.assert_equal(value, np.nan if newest is None else float(newest["amount"] > 0))


@FEWER
@given(tables(), st.randoms())
def test_the_order_of_rows_changes_nothing(found, random):
    shuffled = {}
    for name, table in found.items():
        order = list(range(len(table)))
        random.shuffle(order)
        shuffled[name] = table if name == "asks" else table.iloc[order]
    one, two = (assemble(spec(), each, labels=True) for each in (found, shuffled))
    pd.testing.assert_frame_equal(one.features, two.features)
    np.testing.assert_array_equal(one.label, two.label)


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-5, 5))), st.lists(st.tuples(st.integers(-1, 3), hours)))
def test_the_newest_until_is_the_one_that_a_loop_would_find(asks, table):
    keys, until = (np.array([a[i] for a in asks], dtype=np.int64) for i in (0, 1))
    table_keys, table_times = (np.array([t[i] for t in table], dtype=np.int64) for i in (0, 1))
    expected = []
    for key, end in asks:
        known = [(t, i) for i, (k, t) in enumerate(table) if k == key >= 0 and t <= end]
        expected.append(max(known)[1] if known else -1)
    np.testing.assert_array_equal(newest_until(keys, until, table_keys, table_times), expected)


# What is ambiguous, or cannot be joined.

ASKS = frame(customer=["ada", "bob"], at=times([10, 20]))


def leavers(**changes: Any) -> pd.DataFrame:
    found = {"customer": ["ada", "ada"], "happened": times([12, 14]), "told": times([20, 20]), "amount": [0.0, 1.0]}
    return frame(**{**found, **changes})


def test_a_later_outcome_outranks_an_earlier_one_and_a_later_word_of_the_same_outcome_an_earlier_word():
    assert label_rows(spec(), ASKS, {"leavers": leavers()})[0] == 1
    corrected = leavers(happened=times([12, 12]), told=times([30, 20]))
    assert label_rows(spec(), ASKS, {"leavers": corrected})[0] == 0


def test_an_outcome_that_is_taken_back_leaves_no_label():
    assert np.isnan(label_rows(spec(), ASKS, {"leavers": leavers(amount=[1.0, None])})[0])


def test_two_outcomes_of_one_moment_that_became_known_at_one_moment_are_refused():
    twice = leavers(happened=times([12, 12]))
    with pytest.raises(DataRefused, match="KZ411") as caught:
        label_rows(spec(), ASKS, {"leavers": twice})
    assert "2 times, rows 1, 2" in str(caught.value)


def test_an_outcome_known_before_it_happened_is_refused_with_its_row():
    with pytest.raises(DataRefused, match="KZ418") as caught:
        label_rows(spec(), ASKS, {"leavers": leavers(told=times([20, 13]))})
    assert caught.value.value == "1 rows, first 2"


def test_two_values_as_of_the_same_moment_are_refused():
    spending = frame(customer=["ada", "ada"], since=times([1, 1]), seen=[1.0, 2.0])
    with pytest.raises(DataRefused, match="KZ411"):
        assemble(spec(), {"asks": ASKS, "spending": spending}, labels=False)


def test_keys_of_different_types_are_refused():
    spending = pd.DataFrame({"customer": [1, 2], "since": times([1, 1]), "seen": [1.0, 2.0]})
    with pytest.raises(DataRefused, match="KZ417"):
        assemble(spec(), {"asks": ASKS, "spending": spending}, labels=False)


def test_so_are_those_of_plain_look_ups_and_labels():
    plain = {"stations": {"uri": "stations/*", "join": ["customer"]}}
    stations = pd.DataFrame({"customer": [1, 2], "platforms": [2, 4]})
    with pytest.raises(DataRefused, match="KZ417"):
        assemble(spec(**plain), {"asks": ASKS, "stations": stations}, labels=False)
    with pytest.raises(DataRefused, match="KZ417"):
        label_rows(two_sources(), ASKS, {"asked": ASKS.assign(customer=[1, 2], amount=1.0)})


def test_a_look_up_without_a_time_is_refused_with_its_row():
    spending = frame(customer=["ada", "ada"], since=[START.isoformat(), "soon"], seen=[1.0, 2.0])
    with pytest.raises(DataRefused, match="KZ405") as caught:
        assemble(spec(), {"asks": ASKS, "spending": spending}, labels=False)
    assert caught.value.where == "table spending: column since, row 2"


def test_times_may_be_text_that_lies_in_several_pieces():
    parts = [frame(customer=["ada"], since=["2024-03-01T01:00:00Z"], seen=[float(i)]) for i in (1, 2)]
    parts[1]["since"] = "2024-03-01T03:00:00+01:00"
    spending = pd.concat(parts, ignore_index=True).astype({"since": "str"})
    features = assemble(spec(), {"asks": ASKS, "spending": spending}, labels=False).features
    assert features["spending_seen"][0] == 2.0


def test_yes_and_no_stay_numbers_when_some_are_not_known():
    spending = frame(customer=["ada"], since=times([1]), vip=[True])
    features = assemble(spec(), {"asks": ASKS, "spending": spending}, labels=False).features
    np.testing.assert_array_equal(features["spending_vip"], [1.0, np.nan])


# Several sources.


def sources(amount: float) -> dict[str, pd.DataFrame]:
    one = ASKS.assign(amount=[1.0, np.nan])
    return {"asks": ASKS, "leavers": one, "asked": ASKS.assign(amount=[amount, 0.0])}


def two_sources() -> Spec:
    plain = {"join": None, "time": None, "known": None, "horizon": None}
    leavers = {k: v for k, v in {"uri": "leavers/*", "role": "labels", **plain}.items() if v is not None}
    values = spec(asked={"uri": "asked/*", "role": "labels"})
    from dataclasses import replace

    from kaizen.spec import TableSpec

    read = {**values.data.tables, "leavers": TableSpec(**leavers)}
    return replace(values, data=replace(values.data, tables=read))


def test_a_row_has_the_label_of_whichever_source_knows_it():
    found = sources(3.0)
    np.testing.assert_array_equal(label_rows(two_sources(), ASKS, found), [1.0, 0.0])


def test_sources_that_contradict_each_other_are_refused_and_both_named():
    with pytest.raises(DataRefused, match="KZ419") as caught:
        label_rows(two_sources(), ASKS, sources(0.0))
    assert caught.value.where == "tables leavers and asked"
    assert (
        caught.value.value == "1 rows; the first: customer=ada, at=2024-03-01 10:00:00+00:00: 1 in leavers, 0 in asked"
    )
