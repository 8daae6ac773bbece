"""Rules of cleaning on rows in memory: what each does, to which rows, and that every row is accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizen import codec
from kaizen.adapters.cleaning import Rows, clean, find_infinite, may_be_infinite
from kaizen.errors import DataRefused
from kaizen.records import Cleaned, Finding
from kaizen.spec import CleanSpec

INF = float("inf")


def rows(**columns: Any) -> Rows:
    table = pa.table(columns)
    return Rows(table, np.arange(len(table)))


def cleaned(found: Rows, **rules: Any) -> tuple[dict[str, Any], tuple[Cleaned, ...]]:
    left, done = clean(found, codec.decode(CleanSpec, rules), ["id"], "data.tables.t")
    return left.table.to_pydict(), done


def test_without_rules_the_rows_are_the_same_object() -> None:
    found = rows(id=[1, 1, 2])
    assert clean(found, CleanSpec(), ["id"], "")[0] is found


@pytest.mark.parametrize(("policy", "kept"), [("keep_first", ["a", "c"]), ("keep_last", ["b", "c"])])
def test_of_rows_with_the_same_keys_one_is_kept(policy: str, kept: list[str]) -> None:
    left, done = cleaned(rows(id=[1, 1, 2], v=["a", "b", "c"]), duplicates=policy)
    assert left["v"] == kept
    assert done == (Cleaned(f"duplicates: {policy}", "id", 1),)


@pytest.mark.parametrize(
    ("policy", "expected", "count"),
    [("clip", [0, 5, 10, None], 2), ("missing", [None, 5, None, None], 2), ("drop_row", [5, None], 2)],
)
@pytest.mark.parametrize("kind", [pa.int64(), pa.int8(), pa.float64(), pa.float32()])
def test_numbers_outside_fixed_limits(kind: pa.DataType, policy: str, expected: list[Any], count: int) -> None:
    found = rows(v=pa.array([-3, 5, 99, None], kind))
    left, done = clean(
        found, codec.decode(CleanSpec, {"outliers": {"v": {"policy": policy, "low": 0, "high": 10}}}), [], ""
    )
    assert left.table["v"].to_pylist() == expected
    assert left.table["v"].type == kind
    assert done == (Cleaned(f"outliers: {policy}", "v", count),)


def test_a_fraction_as_limit_of_whole_numbers_is_the_next_whole_number_inside() -> None:
    left, _ = cleaned(rows(v=[0, 1, 9]), outliers={"v": {"policy": "clip", "low": 0.5, "high": 2.5}})
    assert left["v"] == [1, 1, 2]


def test_limits_take_infinite_numbers_in_too_and_leave_nan_to_the_missing() -> None:
    rules = {"outliers": {"v": {"policy": "missing", "high": 10.0}}, "missing": {"v": {"fill": 7}}}
    left, done = cleaned(rows(v=[1.0, INF, float("nan"), None]), **rules)
    assert left["v"] == [1.0, 7.0, 7.0, 7.0]
    assert done == (Cleaned("outliers: missing", "v", 1), Cleaned("missing: fill", "v", 3))


@pytest.mark.parametrize(
    ("values", "fill"),
    [(["a", None], "b"), ([1, None], 2), ([1.5, None], 2), ([True, None], False), ([None, None], "x")],
)
def test_a_missing_value_is_filled_with_one_of_the_same_type(values: list[Any], fill: Any) -> None:
    left, _ = cleaned(rows(v=values), missing={"v": {"fill": fill}})
    assert left["v"] == [fill if v is None else v for v in values]


def test_rows_with_a_missing_value_are_dropped_and_those_that_stay_know_where_they_stood() -> None:
    found = rows(v=[None, "a", None, "b"])
    left, done = clean(found, codec.decode(CleanSpec, {"missing": {"v": "drop_row"}}), [], "")
    assert left.positions.tolist() == [1, 3]
    assert done == (Cleaned("missing: drop_row", "v", 2),)


@pytest.mark.parametrize(
    ("rules", "where", "value"),
    [
        ({"missing": {"nmae": "drop_row"}}, "missing.nmae", "no column nmae (nearest: name)"),
        ({"missing": {"name": {"fill": 1}}}, "missing.name", "1"),
        ({"missing": {"v": {"fill": "1"}}}, "missing.v", "'1'"),
        ({"missing": {"v": {"fill": True}}}, "missing.v", "True"),
        ({"missing": {"v": {"fill": 1000}}}, "missing.v", "1000"),
        ({"missing": {"v": {"fill": 1.5}}}, "missing.v", "1.5"),
        ({"outliers": {"name": {"policy": "clip", "low": 0}}}, "outliers.name", "a column of string"),
        ({"outliers": {"v": {"policy": "clip", "low": 1000}}}, "outliers.v", "1000"),
    ],
)
def test_a_rule_that_does_not_fit_its_column_is_refused(rules: dict[str, Any], where: str, value: str) -> None:
    found = rows(name=["a", None], v=pa.array([1, None], pa.int8()))
    with pytest.raises(DataRefused, match="KZ416") as caught:
        cleaned(found, **rules)
    assert (caught.value.where, caught.value.value) == (f"data.tables.t.clean.{where}", value)


# Infinite numbers.


def test_infinite_numbers_are_found_with_count_and_first_rows() -> None:
    found = rows(v=[INF, 1.0, -INF, *[INF] * 9], w=[1.0] * 12, n=[1] * 12)
    findings, bad = find_infinite(found)
    assert findings == (Finding("every number is finite", "v", 11, first=(1, 3, 4, 5, 6)),)
    assert bad == [0, *range(2, 12)]


def test_rows_are_told_by_the_numbers_that_they_were_delivered_with() -> None:
    left, _ = clean(rows(v=[None, INF]), codec.decode(CleanSpec, {"missing": {"v": "drop_row"}}), [], "")
    findings, bad = find_infinite(left)
    assert (findings[0].first, bad) == ((2,), [0])


@pytest.mark.parametrize(
    ("values", "may"),
    [([1.0, None], False), ([1.0, INF], True), ([-INF], True), ([None, None], False), ([float("nan"), 1.0], False)],
)
def test_a_files_own_statistics_tell_whether_it_may_hold_infinite_numbers(
    tmp_path: Path, values: list[float], may: bool
) -> None:
    pq.write_table(pa.table({"v": pa.array(values, pa.float64()), "t": ["x"] * len(values)}), tmp_path / "f")
    assert may_be_infinite(tmp_path / "f") is may


# Whatever comes.

numbers = st.none() | st.floats() | st.integers(-3, 3).map(float)
rules = st.fixed_dictionaries(
    {},
    optional={
        "duplicates": st.sampled_from(["keep_first", "keep_last"]),
        "outliers": st.fixed_dictionaries(
            {
                "v": st.fixed_dictionaries(
                    {"policy": st.sampled_from(["clip", "missing", "drop_row"]), "low": st.just(-1)}
                )
            }
        ),
        "missing": st.fixed_dictionaries({"v": st.sampled_from(["drop_row", {"fill": 0}])}),
    },
)


@given(st.lists(st.tuples(st.integers(0, 5), numbers)), rules)
def test_every_row_is_left_or_was_counted_as_dropped(found: list[tuple[int, float]], chosen: dict[str, Any]) -> None:
    given_rows = rows(id=pa.array([i for i, _ in found], pa.int64()), v=pa.array([v for _, v in found], pa.float64()))
    left, done = clean(given_rows, codec.decode(CleanSpec, chosen), ["id"], "")
    dropping = {"duplicates: keep_first", "duplicates: keep_last", "outliers: drop_row", "missing: drop_row"}
    assert len(found) == len(left) + sum(c.rows for c in done if c.rule in dropping)
    assert all(left.table["id"][i].as_py() == found[p][0] for i, p in enumerate(left.positions))
    assert sorted(left.positions) == list(left.positions)


@given(st.lists(st.tuples(st.integers(0, 5), numbers)), rules)
def test_cleaning_what_is_clean_changes_nothing(found: list[tuple[int, float]], chosen: dict[str, Any]) -> None:
    given_rows = rows(id=pa.array([i for i, _ in found], pa.int64()), v=pa.array([v for _, v in found], pa.float64()))
    spec = codec.decode(CleanSpec, chosen)
    once, _ = clean(given_rows, spec, ["id"], "")
    # A number taken away is missing from then on, and stays so.
    twice, done = clean(once, spec, ["id"], "")
    assert repr(twice.table.to_pydict()) == repr(once.table.to_pydict())
    assert all(c.rows == 0 for c in done)
