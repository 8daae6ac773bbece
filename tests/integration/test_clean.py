"""Cleaning within validate: what stays, what the suite sees of it, and what the record tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.loops import MONTHS, SPEC, Project, make_loop, merged, outcomes, schedules, stations

from kaizen.adapters.memory_registry import MemoryRegistry
from kaizen.canonical import file_digests
from kaizen.clock import WallClock
from kaizen.errors import DataRefused
from kaizen.ingest import ingest
from kaizen.ledger import open_ledger
from kaizen.loop import Loop, open_loop
from kaizen.records import Cleaned, DataVersion, Finding, Source, ValidationReport
from kaizen.spec import parse_spec
from kaizen.store import Store
from kaizen.validate import validate, validate_version

JANUARY = MONTHS[0]
INF = float("inf")


def validated(project: Project, partition: str = f"schedules/{JANUARY}") -> tuple[ValidationReport, pd.DataFrame]:
    """The report on a partition, and the rows that later stages read."""
    with open_loop(project.spec, registry=MemoryRegistry()) as loop:
        ingest(loop)
        report = {f"{r.table}/{r.partition}": r for r in validate(loop)}[partition]
        return report, pd.read_parquet(loop.store.file(report.valid or ""))


def clean(**rules: Any) -> dict[str, Any]:
    return {"data": {"tables": {"schedules": {"clean": rules}}}}


def test_rules_come_before_the_suite_and_the_delivered_rows_stay(tmp_path: Path) -> None:
    """The suite wants rain from 0 to 50 and a train in every row: what is mended is not bad."""
    project = make_loop(
        tmp_path / "rail",
        clean(
            duplicates="keep_last",
            outliers={"rain": {"policy": "clip", "low": 0, "high": 50}},
            missing={"train": "drop_row", "distance": {"fill": 100}},
        ),
    )
    rows = schedules(JANUARY)
    rows.loc[[3, 4], "rain"] = [-1.0, 99.0]
    rows.loc[5, "train"] = None
    rows.loc[6, "distance"] = np.nan
    again = rows.iloc[[7]].assign(rain=1.0)
    project.land("schedules", "january.parquet", pd.concat([rows, again], ignore_index=True))
    report, left = validated(project)
    assert report.verdict == "passed"
    assert report.cleaned == (
        Cleaned("duplicates: keep_last", "departs, train", 1),
        Cleaned("outliers: clip", "rain", 2),
        Cleaned("missing: drop_row", "train", 1),
        Cleaned("missing: fill", "distance", 1),
    )
    assert (report.rows, report.valid_rows, report.dropped_rows) == (len(rows) + 1, len(rows) - 1, 2)
    assert left["rain"].between(0, 50).all()
    with open_loop(project.spec, registry=MemoryRegistry()) as loop:
        version = loop.versions("schedules")[JANUARY]
        assert len(pd.read_parquet(loop.store.file(version.address))) == version.rows == len(rows) + 1


def test_infinite_numbers_are_quarantined_with_count_and_first_rows_also_without_a_suite(tmp_path: Path) -> None:
    project = make_loop(tmp_path / "rail")
    delays = outcomes(JANUARY)
    delays.loc[[2, 8], "delay"] = [INF, -INF]
    project.land("outcomes", "january.parquet", delays)
    report, left = validated(project, f"outcomes/{JANUARY}")
    assert (report.verdict, report.quarantined_rows, len(left)) == ("quarantined", 2, len(delays) - 2)
    assert report.findings == (Finding("every number is finite", "delay", 2, first=(3, 9)),)
    assert report.reason.endswith("column delay: every number is finite (not in 2 rows, first 3, 9)")


def test_a_partition_of_which_cleaning_leaves_nothing_is_refused(tmp_path: Path) -> None:
    project = make_loop(tmp_path / "rail", clean(outliers={"rain": {"policy": "drop_row", "high": -1}}))
    project.land_schedules(JANUARY)
    with pytest.raises(DataRefused, match="KZ450") as caught:
        validated(project)
    assert caught.value.value == f"cleaning left none of {len(schedules(JANUARY))} rows"


def test_repeated_keys_are_refused_by_ingest_where_the_spec_says_so(tmp_path: Path) -> None:
    """The main table has a suite, so that without ``refuse`` it would be the suite's matter."""
    project = make_loop(tmp_path / "rail", clean(duplicates="refuse"))
    rows = schedules(JANUARY)
    project.land("schedules", "january.parquet", pd.concat([rows, rows.iloc[[0, 0, 9]]]))
    with pytest.raises(DataRefused, match="KZ411") as caught:
        validated(project)
    assert caught.value.value == (
        f"departs=2024-01-01 04:00:00+00:00, train=T0: 3 times, rows 1, {len(rows) + 1}, {len(rows) + 2}; 1 more keys"
    )


def test_a_look_up_with_repeated_keys_is_taken_where_the_spec_says_which_row_stays(tmp_path: Path) -> None:
    project = make_loop(tmp_path / "rail", {"data": {"tables": {"stations": {"clean": {"duplicates": "keep_last"}}}}})
    moved = stations().assign(platforms=9)
    project.land("stations", "stations.parquet", pd.concat([stations(), moved]))
    report, left = validated(project, "stations/all")
    assert (report.dropped_rows, left["platforms"].tolist()) == (4, [9, 9, 9, 9])


def test_a_rule_for_a_column_that_is_not_there_is_refused_and_leaves_no_verdict(tmp_path: Path) -> None:
    project = make_loop(tmp_path / "rail", clean(missing={"rian": "drop_row"}))
    project.land_schedules(JANUARY)
    with pytest.raises(DataRefused, match="KZ416"):
        validated(project)
    project.write_spec(clean(missing={"rain": "drop_row"}))
    assert validated(project)[0].verdict == "passed"


# Whatever comes: every row is accounted for. Infinite numbers are the bad rows here: no suite is needed.

numbers = st.none() | st.floats(-9, 9) | st.sampled_from([INF, -INF, float("nan")])


@settings(max_examples=settings.default.max_examples // 2)
@given(
    st.lists(st.tuples(st.integers(0, 5), numbers, numbers), min_size=1, max_size=12),
    st.sampled_from(["keep_first", "keep_last", None]),
    st.sampled_from(["clip", "missing", "drop_row"]),
    st.sampled_from(["drop_row", {"fill": 0}]),
    st.sampled_from(["quarantine", "refuse"]),
    st.floats(0, 1),
)
def test_rows_are_valid_or_quarantined_or_dropped(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], duplicates: Any, policy: str, missing: Any,
    on_invalid: str, most: float,
) -> None:  # fmt: skip
    rules = {
        "duplicates": duplicates,
        "outliers": {"rain": {"policy": policy, "high": 5}},
        "missing": {"rain": missing},
    }
    data = {"on_invalid": on_invalid, "max_quarantined": most, "suite": None}
    data |= {"tables": {"schedules": {"clean": {k: v for k, v in rules.items() if v is not None}}}}
    spec, folder = parse_spec(merged(SPEC, {"data": data}), "test"), tmp_path_factory.getbasetemp() / "clean"
    times = pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta([hour for hour, _, _ in rows], unit="h")
    frame = pd.DataFrame(
        {"departs": times, "train": "T1", "rain": [r for _, r, _ in rows], "distance": [d for *_, d in rows]}
    ).astype({"rain": float, "distance": float})
    with open_ledger(":memory:") as ledger:
        none: Any = None
        loop = Loop(
            spec, folder / "kaizen.yml", "test", folder, ledger, Store(folder), none, none, WallClock(), "", none, ""
        )
        address = loop.store.put_file("schedules/2024-01", lambda path: frame.to_parquet(path, index=False))
        size, digests = file_digests(loop.store.file(address), "md5")
        version = DataVersion("schedules", "2024-01", address, digests["md5"], size, len(frame), {}, Source("", ""), "")
        try:
            report = validate_version(loop, version, None)
        except DataRefused:
            report = loop.head(ValidationReport, "validation/schedules/2024-01")
        assert report is not None
        left = pd.read_parquet(loop.store.file(report.valid)) if report.valid else frame.head(0)
        bad = pd.read_parquet(loop.store.file(report.quarantine)) if report.quarantine else frame.head(0)
    assert (len(left), len(bad)) == (report.valid_rows, report.quarantined_rows)
    assert not np.isinf(left[["rain", "distance"]].to_numpy()).any()
    if report.verdict == "refused":
        assert (report.valid_rows, report.quarantined_rows, report.dropped_rows) == (0, 0, 0)
    else:
        assert report.rows == len(rows) == report.valid_rows + report.quarantined_rows + report.dropped_rows
