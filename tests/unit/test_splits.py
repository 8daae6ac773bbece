"""Splits: the share that was asked for, whole groups, the same side for good."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizen.errors import DataRefused
from kaizen.splits import by_group, by_hash, by_time, hash_of, keys_of

START = datetime(2024, 1, 1, tzinfo=UTC)
values = st.one_of(st.integers(-5, 5), st.text(max_size=3), st.none())
shares = st.floats(0.01, 0.99)


def frame_of(**columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in columns.items()})


def times(*hours: int) -> pd.DataFrame:
    return pd.DataFrame({"at": pd.Series([START + timedelta(hours=h) for h in hours], dtype="datetime64[us, UTC]")})


# By hash.


def test_hashes_never_change():
    """Sides are for good: across releases, machines and Python versions."""
    key = keys_of(frame_of(a=["T1"], b=[7]), ["a", "b"])
    assert key == ['["T1",7]']
    assert hash_of(key[0], "nyc/flights/acceptance") == pytest.approx(0.2757645405275958, abs=1e-15)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("salt", ["", "a", "nyc/flights/validation"])
def test_entities_have_the_share_that_was_asked_for(share, salt):
    n = 20_000
    held = by_hash(pd.DataFrame({"id": range(n)}), ["id"], share=share, salt=salt)
    # Four standard deviations of a binomial.
    assert abs(sum(held) - share * n) < 4 * math.sqrt(n * share * (1 - share))


def test_hashes_spread_evenly():
    found = np.histogram([hash_of(f"[{i}]", "spread") for i in range(20_000)], bins=20, range=(0, 1))[0]
    # Chi-square with 19 degrees of freedom: above 43.8 once in a thousand.
    assert ((found - 1000) ** 2 / 1000).sum() < 43.8


def test_another_salt_is_an_independent_split():
    frame = pd.DataFrame({"id": range(20_000)})
    one, two = (np.array(by_hash(frame, ["id"], share=0.2, salt=salt)) for salt in ("acceptance", "validation"))
    assert abs((one & two).sum() - 0.04 * len(frame)) < 4 * math.sqrt(len(frame) * 0.04 * 0.96)


@given(st.lists(st.tuples(values, values), max_size=30), st.lists(st.tuples(values, values), max_size=30), shares)
def test_a_side_depends_on_the_entity_alone(rows, more, share):
    def sides(found: list[tuple[Any, Any]]) -> dict[str, bool]:
        frame = frame_of(a=[a for a, _ in found], b=[b for _, b in found])
        return dict(zip(keys_of(frame, ["a", "b"]), by_hash(frame, ["a", "b"], share=share), strict=True))

    before, after = sides(rows), sides(random.Random(0).sample(more + rows, len(more) + len(rows)))
    assert before.items() <= after.items()


@given(st.lists(st.integers(0, 50), min_size=1), shares, shares)
def test_a_larger_share_holds_the_smaller_one(ids, one, other):
    frame = frame_of(id=ids)
    small, large = (by_hash(frame, ["id"], share=share) for share in sorted((one, other)))
    assert all(b or not a for a, b in zip(small, large, strict=True))


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1, 2, 30]),
        pd.Series([1.0, 2.0, 30.0]),
        pd.Series([1, 2, 30], dtype="Int64"),
        pd.Series([1, 2, 30], dtype="float32"),
        pd.Series([np.int8(1), np.int16(2), 30], dtype=object),
    ],
    ids=lambda c: str(c.dtype),
)
def test_a_number_is_one_key_however_it_is_stored(column):
    """A partition with a missing value has floats where the others have whole numbers."""
    assert keys_of(pd.DataFrame({"id": column}), ["id"]) == ["[1]", "[2]", "[30]"]


def test_a_moment_is_one_key_in_every_zone_and_unit():
    moment = pd.Series([START + timedelta(hours=5)])
    forms = [moment, moment.dt.tz_convert("Europe/Paris"), moment.astype("datetime64[us, UTC]")]
    assert {tuple(keys_of(pd.DataFrame({"at": form}), ["at"])) for form in forms} == {
        ('["2024-01-01T05:00:00+00:00"]',)
    }


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT], ids=str)
def test_what_is_missing_is_one_key(missing):
    assert keys_of(frame_of(id=[missing, "x"]), ["id"]) == ["[null]", '["x"]']


def test_numbers_without_end_are_keys_too():
    assert keys_of(frame_of(id=[float("inf"), 0.5, 2**60 + 1]), ["id"]) == ['["inf"]', "[0.5]", f"[{2**60 + 1}]"]


def test_a_missing_column_is_refused_with_the_nearest_name():
    with pytest.raises(DataRefused, match="KZ493") as refusal:
        by_hash(frame_of(patient=["x"]), ["pateint"])
    assert refusal.value.action == "did you mean 'patient'?"


# By group.


@given(st.lists(values, min_size=1, max_size=60), shares)
def test_groups_are_whole_and_in_any_order_the_same(groups, share):
    held = by_group(frame_of(group=groups), ["group"], share=share)
    sides: dict[Any, set[bool]] = {}
    for group, side in zip(groups, held, strict=True):
        sides.setdefault(group, set()).add(side)
    assert all(len(side) == 1 for side in sides.values())
    assert any(held)
    turned = by_group(frame_of(group=groups[::-1]), ["group"], share=share)
    assert turned == held[::-1]


def test_many_groups_come_close_to_the_share_of_rows():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"group": rng.zipf(1.5, 5_000).clip(max=500)})
    largest = frame["group"].value_counts().max() / len(frame)
    assert largest > 0.3
    assert sum(by_group(frame, ["group"], share=0.2)) / len(frame) == pytest.approx(0.2, abs=0.01)


def test_a_group_that_is_larger_than_the_share_may_have_to_do():
    assert by_group(frame_of(group=["a", "a", "a", "b", "b"]), ["group"], share=0.01) == [
        False,
        False,
        False,
        True,
        True,
    ]


# By time.


def test_the_newest_rows_are_held_out_whatever_their_order():
    assert by_time(times(3, 1, 2, 5, 4), "at", share=0.4) == [False, False, False, True, True]


def test_rows_of_one_moment_stay_together():
    assert by_time(times(1, 2, 2, 2), "at", share=0.25) == [False, True, True, True]


@pytest.mark.parametrize(("hours", "count"), [(1, 1), (2, 2), (100, 5)])
def test_a_duration_counts_back_from_the_newest_row(hours, count):
    assert sum(by_time(times(1, 2, 3, 4, 5), "at", last=timedelta(hours=hours))) == count


@given(st.lists(st.integers(0, 500), min_size=1, max_size=50), shares)
def test_no_held_row_is_earlier_than_one_that_is_not(hours, share):
    frame = times(*hours)
    held = np.array(by_time(frame, "at", share=share))
    assert held.any()
    if not held.all():
        assert frame["at"][~held].max() < frame["at"][held].min()
    # Never fewer than asked, and more only for the sake of one moment.
    later = sorted(set(hours))
    assert all(a < b for a, b in pairwise(later))
    assert sum(held) >= round(share * len(hours))
    assert sum(np.array(hours) > min(np.array(hours)[held])) <= max(1, round(share * len(hours)))


def test_no_rows_are_no_rows():
    empty = times()
    assert by_time(empty, "at") == by_group(empty, ["at"]) == by_hash(empty, ["at"]) == []
