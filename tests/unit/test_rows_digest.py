"""The digest of rows: of the rows alone, not of how they were cut into batches."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizen.adapters.rows_digest import RowsDigest

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "a": st.none() | st.text(max_size=4),
            "b": st.none() | st.integers(-(2**40), 2**40),
            "c": st.none() | st.booleans(),
            "d": st.none() | st.lists(st.text(max_size=2), max_size=2),
            "e": st.none() | st.binary(max_size=3),
        }
    ),
    max_size=9,
)
SCHEMA = pa.schema({"a": pa.string(), "b": pa.int64(), "c": pa.bool_(), "d": pa.list_(pa.string()), "e": pa.binary()})


def of(rows: list[dict[str, Any]], size: int = 1000) -> str:
    found = RowsDigest()
    for batch in pa.Table.from_pylist(rows, SCHEMA).to_batches(max_chunksize=size):
        found.add(batch)
    return found.hexdigest() if rows else ""


@given(ROWS, st.integers(1, 4))
def test_where_batches_are_cut_changes_nothing(rows: list[dict[str, Any]], size: int) -> None:
    assert of(rows, size) == of(rows)


@given(ROWS, ROWS)
def test_other_rows_have_another_digest(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert (of(one) == of(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["a", None], [None, "a"]),
        ([""], [None]),
        ([1, 2], [2, 1]),
        ([1.5], [2.5]),
        ([date(2024, 1, 1)], [date(2024, 1, 2)]),
        ([Decimal("1.50")], [Decimal("1.51")]),
        ([b"a"], [b"b"]),
        ([["a", "b"]], [["ab"]]),
    ],
)
def test_what_differs_is_told_apart(one: list[Any], other: list[Any]) -> None:
    digests = []
    for values in (one, other):
        digests.append(RowsDigest())
        digests[-1].add(pa.record_batch({"x": values}))
    assert digests[0].hexdigest() != digests[1].hexdigest()


def test_a_column_that_has_a_type_from_its_second_batch_on_is_the_same_column() -> None:
    parts, whole = RowsDigest(), RowsDigest()
    parts.add(pa.record_batch({"x": pa.nulls(2)}))
    parts.add(pa.record_batch({"x": pa.array(["a", None])}))
    whole.add(pa.record_batch({"x": pa.array([None, None, "a", None])}))
    assert parts.hexdigest() == whole.hexdigest()
