"""Masking: what each policy makes of each type, that keys still meet, and that a batch never shows what it had."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizen.adapters.masking import LENGTH, KeyedHash, Mask, masked_schema
from kaizen.errors import DataRefused
from kaizen.privacy import parse_policies

KEY = b"a key of the tests, long enough"
HASH = KeyedHash(KEY)


def masked(values: pa.Array, policy: Any, *, zone: str = "UTC") -> pa.Array:
    """One column through a mask, which keeps its promise about the schema."""
    batch = pa.record_batch({"other": pa.nulls(len(values)), "c": values})
    mask = Mask(parse_policies({"c": policy}), KEY, zone)
    found = mask.apply(batch, "here")
    assert found.schema == masked_schema(batch.schema, mask.policies)
    found.validate(full=True)
    assert len(found) == len(values)
    return found["c"]


def refused(values: pa.Array, policy: Any) -> DataRefused:
    with pytest.raises(DataRefused) as thrown:
        masked(values, policy)
    return thrown.value


# Hashes.


@given(st.binary(min_size=1, max_size=200), st.text())
def test_a_hash_is_hmac_sha256_cut_to_its_length(key: bytes, text: str) -> None:
    expected = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:LENGTH]
    assert KeyedHash(key).value(text) == expected


def test_nulls_stay_null_and_equal_values_stay_equal() -> None:
    found = masked(pa.array(["anna", None, "omar", "anna", ""]), "hash").to_pylist()
    assert found == [HASH.value("anna"), None, HASH.value("omar"), HASH.value("anna"), HASH.value("")]
    assert len(set(found)) == 4


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (
            "5",
            [pa.array([5]), pa.array([5], pa.int8()), pa.array([5], pa.uint64()), pa.array([5.0]),
             pa.array([Decimal("5.00")]), pa.array([b"5"]), pa.array(["5"], pa.large_string()),
             pa.array(["5"], pa.string_view()), pa.array(["5"]).dictionary_encode()],
        ),
        ("0.5", [pa.array([0.5]), pa.array([Decimal("0.50")])]),
        ("0", [pa.array([-0.0])]),
        ("10000000000000000000000", [pa.array([1e22]), pa.array([Decimal(10) ** 22])]),
        ("true", [pa.array([True])]),
        ("inf", [pa.array([float("inf")])]),
        ("2013-01-05", [pa.array([date(2013, 1, 5)])]),
        ("2013-01-05T10:00:00", [pa.array([datetime(2013, 1, 5, 10)])]),  # noqa: DTZ001
        (
            "2013-01-05T10:00:00+00:00",
            [pa.array([datetime(2013, 1, 5, 10, tzinfo=UTC)]),
             pa.array([datetime(2013, 1, 5, 10, tzinfo=UTC)], pa.timestamp("ns", "America/New_York")),
             pa.array([datetime(2013, 1, 5, 10, tzinfo=UTC)], pa.timestamp("s", "UTC"))],
        ),
    ],
)  # fmt: skip
def test_a_key_is_hashed_alike_whatever_its_type_in_a_table(text: str, same: list[pa.Array]) -> None:
    for values in same:
        assert masked(values, "hash").to_pylist() == [HASH.value(text)], values.type


def test_text_is_hashed_as_it_is() -> None:
    assert len({HASH.value(text) for text in ("5", "05", "5.0", " 5", "A", "a")}) == 6


def test_a_float_that_is_no_number_is_missing() -> None:
    assert masked(pa.array([1.0, float("nan")]), "hash").to_pylist() == [HASH.value(1), None]


@given(st.lists(st.one_of(st.none(), st.text(max_size=5))), st.integers(1, 7))
def test_the_size_of_batches_and_dictionaries_change_nothing(rows: list[str | None], size: int) -> None:
    whole = masked(pa.array(rows, pa.string()), "hash").to_pylist()
    table = pa.table({"c": pa.chunked_array([pa.array(rows, pa.string())])})
    parts = [masked(batch["c"], "hash").to_pylist() for batch in table.to_batches(max_chunksize=size)]
    assert [value for part in parts for value in part] == whole
    assert masked(pa.array(rows, pa.string()).dictionary_encode(), "hash").to_pylist() == whole
    assert masked(pa.array(["x", *rows], pa.string())[1:], "hash").to_pylist() == whole
    assert all((hashed is None) == (row is None) for hashed, row in zip(whole, rows, strict=True))


def test_another_key_hashes_otherwise() -> None:
    assert KeyedHash(b"another key").value("anna") != HASH.value("anna")


def test_a_hash_needs_a_key() -> None:
    with pytest.raises(ValueError, match="no key"):
        Mask(parse_policies({"c": "hash"}))
    Mask(parse_policies({"c": "drop"}))


# The other policies.


def test_a_dropped_column_is_gone_and_so_is_its_name() -> None:
    batch = pa.record_batch({"a": [1, 2], "email": ["x", "y"]})
    found = Mask(parse_policies({"email": "drop"})).apply(batch)
    assert found.to_pydict() == {"a": [1, 2]}


def test_of_a_batch_that_is_all_dropped_the_rows_remain() -> None:
    found = Mask(parse_policies({"email": "drop"})).apply(pa.record_batch({"email": ["x", "y"]}))
    assert (found.num_columns, found.schema.names) == (0, [])


@pytest.mark.parametrize(
    ("values", "policy", "expected"),
    [
        (pa.array(["SW1A 1AA", "é12345", "ab", None, ""]), {"truncate": 3}, ["SW1", "é12", "ab", None, ""]),
        (pa.array(["SW1A", None], pa.large_string()), {"truncate": 3}, ["SW1", None]),
        (pa.array(["SW1A", None], pa.string_view()), {"truncate": 3}, ["SW1", None]),
        (pa.array(["SW1A", None]).dictionary_encode(), {"truncate": 3}, ["SW1", None]),
        (pa.array([date(1980, 5, 17), None]), {"truncate": "year"}, [date(1980, 1, 1), None]),
        (pa.array([date(1980, 5, 17)], pa.date64()), {"truncate": "month"}, [date(1980, 5, 1)]),
        (pa.array([datetime(1980, 5, 17, 9)]), {"truncate": "day"}, [datetime(1980, 5, 17)]),  # noqa: DTZ001
        (pa.array(["1980-05-17", None, "1980-06-01T10:00"]), {"truncate": "month"}, ["1980-05", None, "1980-06"]),
        (pa.array([17, 18, 64, 65, -1, None]), {"generalise": 10}, [10, 10, 60, 60, -10, None]),
        (pa.array([17], pa.uint8()), {"generalise": 10}, [10]),
        (pa.array([1.7, -0.2, None, 3.0]), {"generalise": 0.5}, [1.5, -0.5, None, 3.0]),
        (pa.array([17]), {"generalise": 2.5}, [15.0]),
        (pa.array([Decimal("17.30")]), {"generalise": 5}, [15.0]),
        (pa.array([-1, 0, 17, 18, 99, None]), {"generalise": [0, 18, 65]}, [None, 0, 0, 18, 65, None]),
        (pa.array([0.5, 2.5]), {"generalise": [0, 1, 2]}, [0.0, 2.0]),
        (pa.array([2**63], pa.uint64()), {"generalise": 10}, [float(2**63 // 10 * 10)]),
        (pa.nulls(2), {"generalise": 10}, [None, None]),
        (pa.nulls(2), {"truncate": 3}, [None, None]),
        (pa.nulls(2), "hash", [None, None]),
        (pa.array([], pa.timestamp("us", "UTC")), {"truncate": "day"}, []),
    ],
)
def test_what_a_policy_makes_of_values(values: pa.Array, policy: Any, expected: list[Any]) -> None:
    assert masked(values, policy).to_pylist() == expected


def test_what_is_no_number_is_not_generalised() -> None:
    first, second = masked(pa.array([float("nan"), 7.0]), {"generalise": [0, 5]}).to_pylist()
    assert first != first
    assert second == 5


def test_a_day_begins_in_the_zone_of_the_loop_and_stays_in_its_partition() -> None:
    # One in the morning of 1 May in UTC is the evening of 30 April in New York.
    times = pa.array([datetime(2013, 5, 1, 1, tzinfo=UTC), datetime(2013, 5, 1, 12, tzinfo=UTC)])
    found = masked(times, {"truncate": "day"}, zone="America/New_York").to_pylist()
    assert found == [datetime(2013, 4, 30, 4, tzinfo=UTC), datetime(2013, 5, 1, 4, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("values", "policy"),
    [
        (pa.array([["a"]]), "hash"),
        (pa.array([{"a": 1}]), "hash"),
        (pa.array([17]), {"truncate": 2}),
        (pa.array([17]), {"truncate": "day"}),
        (pa.array([True]), {"generalise": 2}),
        (pa.array(["17"]), {"generalise": 2}),
        (pa.array([datetime(2013, 1, 1)]), {"truncate": 4}),  # noqa: DTZ001
    ],
)
def test_a_policy_that_does_not_fit_the_type_is_refused(values: pa.Array, policy: Any) -> None:
    error = refused(values, policy)
    assert (error.code, error.where) == ("KZ480", "here: column c")
    assert str(error.value).endswith(f"of {values.type}")


@pytest.mark.parametrize(
    ("values", "policy"),
    [
        (pa.array(["1980-05-17", "17 May 1980"]), {"truncate": "year"}),
        (pa.array(["1980-05-17", "1980-05-17-anna"]), {"truncate": "year"}),
        (pa.array([0, -(2**63)]), {"generalise": 10}),
    ],
)
def test_a_value_that_cannot_be_masked_is_refused_and_not_shown(values: pa.Array, policy: Any) -> None:
    error = refused(values, policy)
    assert (error.code, error.where, error.value) == ("KZ481", "here: column c, row 2", "not shown")
    assert str(values[1].as_py()) not in str(error)
    later = Mask(parse_policies({"c": policy}), KEY)
    with pytest.raises(DataRefused, match="row 1002"):
        later.apply(pa.record_batch({"c": values}), "here", 1001)
    assert error.__cause__ is error.__context__ is None


def test_a_record_says_what_became_of_columns_and_which_key_hashed_them() -> None:
    mask = Mask(parse_policies({"a": "hash", "b": {"truncate": 3}, "c": {"generalise": [0, 18]}, "d": "drop"}), KEY)
    assert mask.said(["a", "b", "c", "x"]) == {
        "a": f"hash {hmac.new(KEY, b'kaizen private key', hashlib.sha256).hexdigest()[:8]}",
        "b": "truncate 3",
        "c": "generalise (0, 18)",
    }
