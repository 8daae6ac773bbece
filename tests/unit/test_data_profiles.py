"""Profiles of a version's file: what pandas says of the whole frame, made in batches; private ones only counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kaizen.adapters import data_profiles
from kaizen.adapters.data_profiles import count_in, matching_rows, profile_file, reference_profile, sample_rows
from kaizen.adapters.profiles import make_profile
from kaizen.canonical import canonical_json
from kaizen.records import ColumnProfile, DataProfile
from kaizen.statistics import psi

ROWS = 100_000


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    numbers = rng.normal(50, 10, ROWS)
    numbers[::10] = np.nan
    return pd.DataFrame(
        {
            "number": numbers,
            "whole": rng.integers(0, 5, ROWS),
            "wide": rng.integers(0, 10**9, ROWS),
            "word": rng.choice(["north", "east", "south"], ROWS, p=[0.6, 0.3, 0.1]),
            "name": [f"person {i}" for i in range(ROWS)],
            "flag": rng.random(ROWS) < 0.25,
            "at": pd.Timestamp("2024-01-01", tz="Europe/Paris") + pd.to_timedelta(np.arange(ROWS), unit="min"),
            "constant": 1,
            "empty": pd.array([None] * ROWS, dtype="Float64"),
        }
    )


@pytest.fixture(scope="module")
def file(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(frame, tmp_path_factory.mktemp("profile") / "rows.parquet")


def write(rows: Any, path: Path) -> Path:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows, preserve_index=False)
    pq.write_table(table, path)
    return path


def profiled(path: Path, private: tuple[str, ...] = ()) -> dict[str, ColumnProfile]:
    return {c.column: c for c in profile_file(path, "t", "p", "address", private).columns}


def test_numbers_are_those_of_the_whole_frame(frame: pd.DataFrame, file: Path) -> None:
    column, truth = profiled(file)["number"], frame["number"]
    assert column.kind == "number"
    assert column.missing == ROWS // 10
    assert (column.minimum, column.maximum) == (truth.min(), truth.max())
    assert column.mean == pytest.approx(truth.mean(), rel=1e-12)
    assert column.deviation == pytest.approx(truth.std(), rel=1e-12)
    expected = truth.dropna().quantile([0.05, 0.25, 0.5, 0.75, 0.95], interpolation="lower")
    assert column.quantiles == pytest.approx(expected.to_list(), abs=0.01)
    assert sum(b.count for b in column.bins) == sum(b.count for b in column.deciles) == truth.notna().sum()


def test_few_values_have_a_bar_each(frame: pd.DataFrame, file: Path) -> None:
    counts = frame["whole"].value_counts()
    assert {b.upper: b.count for b in profiled(file)["whole"].bins} == counts.to_dict()


def test_each_bar_of_whole_numbers_takes_in_as_many_of_them(tmp_path: Path) -> None:
    days = np.repeat(np.arange(1, 32), 10)
    bins = profiled(write(pd.DataFrame({"day": days}), tmp_path / "days.parquet"))["day"].bins
    assert [b.count for b in bins] == [20] * 15 + [10]


def test_tails_do_not_squeeze_a_distribution(tmp_path: Path) -> None:
    numbers = np.append(np.random.default_rng(0).normal(size=9999), 1e6)
    column = profiled(write(pd.DataFrame({"x": numbers}), tmp_path / "tail.parquet"))["x"]
    assert column.maximum == 1e6
    assert sum(b.count > 100 for b in column.bins) > 10
    assert sum(b.count for b in column.bins) == 10_000


def test_categories_are_counted_by_name(frame: pd.DataFrame, file: Path) -> None:
    column = profiled(file)["word"]
    assert column.kind == "category"
    assert column.distinct == 3
    counts = {str(b.upper): b.count for b in column.bins}
    assert counts == {**frame["word"].value_counts().to_dict(), "(other)": 0}
    assert {str(b.upper) for b in profiled(file)["flag"].bins} == {"false", "true", "(other)"}


def test_distinct_values_are_exact_while_few_and_estimated_beyond(file: Path) -> None:
    found = profiled(file)
    assert (found["whole"].distinct, found["constant"].distinct, found["empty"].distinct) == (5, 1, 0)
    for name in ("name", "wide"):
        # Three standard errors.
        assert found[name].distinct == pytest.approx(ROWS, rel=0.048)


def test_times_are_told_as_moments(file: Path) -> None:
    column = profiled(file)["at"]
    assert column.kind == "time"
    assert pd.Timestamp(str(column.minimum)) == pd.Timestamp("2024-01-01", tz="Europe/Paris")
    assert pd.Timestamp(str(column.quantiles[2])) == pd.Timestamp("2024-02-04 17:19", tz="Europe/Paris")
    assert len(column.bins) == 24


def test_a_column_without_values_has_a_profile(file: Path) -> None:
    column = profiled(file)["empty"]
    assert (column.missing, column.mean, column.minimum, column.bins) == (ROWS, None, None, ())


def test_infinities_are_counted_and_left_out(tmp_path: Path) -> None:
    column = profiled(write(pd.DataFrame({"x": [1.0, 2.0, 3.0, np.inf, -np.inf]}), tmp_path / "inf.parquet"))["x"]
    assert (column.infinite, column.mean, column.maximum, column.missing) == (2, 2.0, 3.0, 0)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[1], [2, 3], None]),
        pa.array([b"a", b"b", None]),
        pa.array([{"a": 1}, {"a": 2}, None]),
        pa.array([None, None, None]),
        pa.array(["a", "b", None]).dictionary_encode(),
        pa.array(["a", "b", None], pa.large_string()),
        pa.array([1, 2, None], pa.decimal128(10, 2)),
        pa.array([1, 2, None], pa.date32()),
        pa.array([1, 2, None], pa.timestamp("ns")),
        pa.array([2**64 - 1, 2**63, None], pa.uint64()),
        pa.array([1, 2, None], pa.duration("s")),
        pa.array([], pa.float64()),
    ],
    ids=lambda values: str(values.type),
)
def test_any_type_can_be_looked_at(values: pa.Array, tmp_path: Path) -> None:
    path = write(pa.table({"x": values}), tmp_path / "x.parquet")
    found = profile_file(path, "t", "p", "address", ())
    (column,) = found.columns
    assert column.missing == values.null_count
    assert column.distinct == len(values) - values.null_count
    assert DataProfile.from_json(found.to_json()) == found
    canonical_json(found.to_json())
    count_in(path, reference_profile(found))


def test_no_value_of_a_private_column_is_in_a_profile(frame: pd.DataFrame, file: Path) -> None:
    private = ("name", "number", "word", "at")
    found = profile_file(file, "t", "p", "address", private)
    columns = {c.column: c for c in found.columns}
    for name in private:
        column = columns[name]
        assert column == ColumnProfile(name, column.type, "private", column.missing, column.distinct)
    assert {f.feature for f in reference_profile(found).features}.isdisjoint(private)
    text = canonical_json(found.to_json())
    assert not [word for word in ("person", "north", "2024-") if word in text]


def test_a_large_file_is_sampled_the_same_rows_for_all_columns(
    frame: pd.DataFrame, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_profiles, "SAMPLE", 10_000)
    found = profile_file(file, "t", "p", "address", ())
    assert (found.rows, found.sampled) == (ROWS, 10_000)
    column = next(c for c in found.columns if c.column == "number")
    assert column.mean == pytest.approx(frame["number"].mean(), rel=1e-12)
    assert column.quantiles[2] == pytest.approx(50, abs=0.6)
    rows = sample_rows(file)
    assert len(rows) == 10_000
    assert sum(b.count for b in column.deciles) == rows["number"].notna().sum()
    assert rows["name"].tolist() == frame.set_index("name").loc[rows["name"]].index.tolist()


def test_another_version_is_counted_in_the_bins_of_the_reference(
    frame: pd.DataFrame, file: Path, tmp_path: Path
) -> None:
    moved = frame.assign(number=frame["number"] + 10, word="north").drop(columns="wide").astype({"whole": str})
    path = write(moved, tmp_path / "moved.parquet")
    reference = reference_profile(profile_file(file, "t", "p", "address", ()))
    same = count_in(file, reference)
    assert same == reference
    found = {f.feature: f for f in count_in(path, reference).features}
    # `wide` is gone, and `whole` is of another kind now.
    assert set(found) == {"number", "word", "name", "flag", "constant", "empty"}
    expected = make_profile(moved[["number"]], reference).features[0]
    assert found["number"] == expected
    then = next(f for f in reference.features if f.feature == "number")
    assert psi([b.count for b in then.bins], [b.count for b in found["number"].bins]) > 0.5


def test_rows_are_found_by_their_keys_whatever_their_types(frame: pd.DataFrame, file: Path) -> None:
    wanted = pd.DataFrame({"name": ["person 5", "person 70000", "nobody"], "constant": [1.0, 1.0, 1.0]})
    found = matching_rows(file, ("name", "constant"), wanted)
    assert found["name"].tolist() == ["person 5", "person 70000"]
    pd.testing.assert_series_equal(found["number"], frame["number"].iloc[[5, 70000]].reset_index(drop=True))
    assert matching_rows(file, ("name",), wanted.iloc[2:]).empty
