"""Rows of two versions: as a person would count them, in one part or in many."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizen.adapters import row_changes
from kaizen.adapters.row_changes import RowChanges, count_changes
from kaizen.adapters.row_hashes import MISSING, hash_rows, hash_values


def compare(before: Any, after: Any, keys: tuple[str, ...] = (), **options: Any) -> RowChanges:
    with TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("a.parquet", "b.parquet")]
        for rows, path in zip((before, after), paths, strict=True):
            table = rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows, preserve_index=False)
            pq.write_table(table, path)
        scratch = Path(folder, "scratch")
        scratch.mkdir()
        return count_changes(*paths, keys, scratch, **options)


BEFORE = pd.DataFrame({"id": range(6), "x": [1.0, 2, 3, 4, 5, 6], "word": list("aabbcc")})


def test_rows_are_recognised_by_their_keys() -> None:
    after = pd.DataFrame({"id": [2, 3, 4, 5, 6], "x": [3.0, 4, 50, 60, 7], "word": list("bbcxd")})
    assert compare(BEFORE, after, ("id",)) == RowChanges(2, 1, 2, 2, {"x": 2, "word": 1})


def test_without_keys_a_changed_row_is_removed_and_added() -> None:
    after = BEFORE.assign(x=[1.0, 2, 3, 4, 5, 60])
    assert compare(BEFORE, after) == RowChanges(5, 1, 1, 0)


def test_keys_that_a_file_lacks_are_not_used() -> None:
    assert compare(BEFORE, BEFORE.drop(columns="id"), ("id",)) == RowChanges(6, 0, 0, 0)


def test_equal_rows_count_as_often_as_they_are_there() -> None:
    twice = pd.concat([BEFORE, BEFORE])
    assert compare(BEFORE, twice) == RowChanges(6, 6, 0, 0)
    assert compare(twice, BEFORE, ("id",)) == RowChanges(6, 0, 6, 0)
    assert compare(twice, twice, ("id",)) == RowChanges(12, 0, 0, 0)


def test_the_order_of_rows_and_columns_is_nothing() -> None:
    after = BEFORE.iloc[::-1][["word", "x", "id"]]
    assert compare(BEFORE, after, ("id",)) == RowChanges(6, 0, 0, 0)


def test_new_and_gone_columns_change_no_row() -> None:
    assert compare(BEFORE, BEFORE.drop(columns="word").assign(new=1), ("id",)) == RowChanges(6, 0, 0, 0)


def test_an_empty_version_can_be_compared() -> None:
    assert compare(BEFORE, BEFORE.iloc[:0], ("id",)) == RowChanges(0, 0, 6, 0)
    assert compare(BEFORE.iloc[:0], BEFORE, ("id",)) == RowChanges(0, 6, 0, 0)


def test_many_parts_come_to_the_same() -> None:
    rng = np.random.default_rng(0)
    before = pd.DataFrame({"id": range(2000), "x": rng.integers(0, 9, 2000)})
    after = before.assign(x=before["x"] + (rng.random(2000) < 0.3)).iloc[100:]
    whole = compare(before, after, ("id",))
    assert whole.changed > 400
    assert compare(before, after, ("id",), at_once=100) == whole


def test_of_very_many_changed_rows_a_sample_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_changes, "LOOKED_INTO", 500)
    before = pd.DataFrame({"id": range(4000), "x": 0, "y": 0})
    after = before.assign(x=1, y=before["id"] % 2)
    found = compare(before, after, ("id",))
    assert (found.changed, found.columns["x"]) == (4000, 4000)
    assert found.columns["y"] == pytest.approx(2000, abs=300)


ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=12)


@given(ROWS, ROWS, st.sampled_from([100, 3]))
def test_counts_are_those_of_multisets(before: list[Any], after: list[Any], at_once: int) -> None:
    frames = [pd.DataFrame(rows, columns=["k", "v"], dtype="int64") for rows in (before, after)]
    lost, came = Counter(before) - Counter(after), Counter(after) - Counter(before)
    keys = [Counter[int]() for _ in range(2)]
    for rows, counted in zip((lost, came), keys, strict=True):
        for (key, _), n in rows.items():
            counted[key] += n
    changed = sum((keys[0] & keys[1]).values())
    found = compare(*frames, ("k",), at_once=at_once)
    assert (found.added, found.removed, found.changed) == (
        sum(came.values()) - changed,
        sum(lost.values()) - changed,
        changed,
    )
    assert found.same == len(before) - sum(lost.values())
    whole = compare(*frames, at_once=at_once)
    assert (whole.added, whole.removed, whole.changed) == (sum(came.values()), sum(lost.values()), 0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([1, 2, None]), pa.array([1.0, 2.0, None])),
        (pa.array([1, 2, None]), pa.array([1.0, 2.0, float("nan")])),
        (pa.array([1, 0, None], pa.int8()), pa.array([True, False, None])),
        (pa.array(["a", "ü", None]), pa.array(["a", "ü", None]).dictionary_encode()),
        (pa.array(["a", "ü", None]), pa.array(["a", "ü", None], pa.large_string())),
        (pa.array([0.0, 1.5]), pa.array([-0.0, 1.5], pa.float32())),
        (pa.array([1, None], pa.timestamp("s", "UTC")), pa.array([10**6, None], pa.timestamp("us", "Europe/Paris"))),
        (pa.array([1, None], pa.date32()), pa.array([86_400_000, None], pa.timestamp("ms"))),
    ],
    ids=lambda values: str(values.type),
)
def test_equal_values_have_equal_hashes_whatever_their_types(one: pa.Array, other: pa.Array) -> None:
    assert hash_values(one).tolist() == hash_values(other).tolist()
    assert hash_values(one)[one.is_null().to_numpy(zero_copy_only=False)].tolist() == [MISSING] * one.null_count


def test_large_whole_numbers_do_not_fall_together() -> None:
    near = pa.array([2**53, 2**53 + 1, -(2**62), -(2**62) - 1, 2**63 - 1])
    assert len(set(hash_values(near).tolist())) == 5
    assert len(set(hash_values(pa.array([2**63, 2**63 + 1, 2**64 - 1], pa.uint64())).tolist())) == 3


def test_rows_with_swapped_values_differ() -> None:
    batch = pa.RecordBatch.from_pydict({"a": [1, 2, None, 0], "b": [2, 1, 0, None]})
    assert len(set(hash_rows(batch, ("a", "b")).tolist())) == 4
