"""Feature tables and outcomes with times of their own, in a real loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.loops import MONTHS, STATIONS, Project, make_loop, outcomes

from kaizen.adapters.examples import assemble
from kaizen.adapters.history import read_history, read_inputs
from kaizen.adapters.memory_registry import MemoryRegistry
from kaizen.backtest import replay
from kaizen.loop import Loop, open_loop
from kaizen.monitor import unjudged
from kaizen.records import HealthReport, ScoredBatch
from kaizen.spec import load_spec
from kaizen.train import training_set
from kaizen.turn import advance

GAUGES = {"uri": "landing/gauges/*", "partition": "month", "join": ["origin"], "asof": "measured", "max_age": "3d"}
SPEC: dict[str, Any] = {
    "problem": {"features": ["distance", "rain", "gauges_level"]},
    "data": {"tables": {"gauges": GAUGES, "outcomes": {"time": "arrives"}}},
    # A third of a month is few rows.
    "evaluate": {"max_auc_of_one_feature": 0.95},
}


def gauges(month: str) -> pd.DataFrame:
    """A measurement a day at each station, at noon, but for the last day of a month."""
    days = pd.date_range(f"{month}-01 12:00", periods=pd.Period(month).days_in_month - 1, tz="UTC")
    rng = np.random.default_rng(int(month.replace("-", "")) + 2)
    rows = [(day, station, rng.uniform(0, 5)) for day in days for station in STATIONS]
    return pd.DataFrame(rows, columns=["measured", "origin", "level"])


@contextmanager
def opened(project: Project) -> Iterator[Loop]:
    with open_loop(project.spec, registry=MemoryRegistry()) as loop:
        yield loop


def land(project: Project, month: str, *, labels: bool = True) -> None:
    project.land_schedules(month)
    project.land("gauges", f"{month}.parquet", gauges(month))
    if labels:
        project.land_outcomes(month)


def test_what_a_row_was_scored_with_is_what_it_is_trained_with(tmp_path: Path) -> None:
    project = make_loop(tmp_path / "rail", SPEC)
    # Measured in December: the first of January looks back.
    project.land("gauges", "2023-12.parquet", gauges("2023-12"))
    for month in MONTHS[:3]:
        land(project, month)
    with opened(project) as loop:
        advance(loop)
        assert loop.labelled() == list(MONTHS[:2])
        scored = loop.head(ScoredBatch, f"score/{MONTHS[2]}")
        assert scored is not None
        for month in MONTHS[3:5]:
            land(project, month)
        advance(loop)
        chosen = training_set(loop)
        assert {i.partition for i in chosen.inputs if i.table == "schedules"} == {MONTHS[3]}
        later = loop.inputs_for(MONTHS[:4], labels=True)
        features = {
            name: assemble(loop.spec, read_inputs(loop, inputs), labels=False)
            for name, inputs in (("scored", scored.inputs), ("trained", later))
        }
        start, end = (pd.Timestamp(f"{month}-01", tz="Europe/Paris") for month in MONTHS[2:4])
    then, now = (
        examples.rows.join(examples.features.drop(columns="rain"))
        .loc[lambda rows: (rows["departs"] >= start) & (rows["departs"] < end)]
        .reset_index(drop=True)
        for examples in features.values()
    )
    pd.testing.assert_frame_equal(then, now)
    assert then["gauges_level"].notna().all()


def test_look_ups_come_from_all_partitions_that_a_row_may_look_back_into_and_from_no_later_one(tmp_path: Path) -> None:
    project = make_loop(tmp_path / "rail", SPEC)
    for month in ("2023-11", "2023-12"):
        project.land("gauges", f"{month}.parquet", gauges(month))
    for month in MONTHS[:3]:
        land(project, month)
    with opened(project) as loop:
        advance(loop)
        for first, expected in (
            (MONTHS[0], ["2023-12", MONTHS[0]]),
            (MONTHS[1], [MONTHS[0], MONTHS[1]]),
        ):
            inputs = loop.inputs_for([first], labels=False)
            assert [i.partition for i in inputs if i.table == "gauges"] == expected
        (january,) = (r for r in loop.inputs_for([MONTHS[0]], labels=True) if r.table == "schedules")
        assert [i.partition for i in loop.labels_for(january.partition)] == [MONTHS[0], MONTHS[1]]


def test_what_was_measured_long_before_the_gate_is_looked_up_in_its_rows(tmp_path: Path) -> None:
    lasting = {key: value for key, value in GAUGES.items() if key != "max_age"}
    tables = {**SPEC["data"]["tables"], "gauges": lasting}
    project = make_loop(tmp_path / "rail", {**SPEC, "data": {"tables": tables}})
    project.land("gauges", "2023-12.parquet", gauges("2023-12"))
    for month in MONTHS[:3]:
        project.land_month(month)
    with opened(project) as loop:
        assert advance(loop).turn is not None


@pytest.mark.parametrize("growing", [{"partition": None}, {"on_change": "append"}], ids=["replaced", "added"])
@pytest.mark.parametrize("time", [{"time": "arrives"}, {}], ids=["by time", "by entity"])
def test_labels_that_come_late_make_monitor_look_again(
    tmp_path: Path, growing: dict[str, Any], time: dict[str, Any]
) -> None:
    """The outcomes are one file that each delivery replaces, or months that grow."""
    whole, growing = "partition" in growing, {**growing, **time}
    project = make_loop(tmp_path / "rail", {**SPEC, "data": {"tables": {"gauges": GAUGES, "outcomes": growing}}})
    for month in MONTHS[:4]:
        land(project, month, labels=False)
    known = pd.concat([outcomes(month) for month in MONTHS[: 4 if time else 3]], ignore_index=True)
    march = known["arrives"] >= pd.Timestamp(f"{MONTHS[2]}-01", tz="UTC")

    def deliver(name: str, rows: pd.DataFrame) -> HealthReport:
        project.land("outcomes", name, rows)
        advance(loop)
        assert list(unjudged(loop)) == []
        report = loop.head(HealthReport, f"health/{MONTHS[2]}")
        assert report is not None
        return report

    with opened(project) as loop:
        # A third of March has come, then all of it.
        before = deliver("1.parquet", known[~march | (known.index % 3 == 0)])
        assert before.performance.status == "unknown"
        assert {i.table for i in before.labels} == {"outcomes"}
        after = deliver("2.parquet", known if whole else known[march & (known.index % 3 != 0)])
        assert after.performance.rows > before.performance.rows
        assert after.performance.status != "unknown"
        assert after.labels != before.labels


@pytest.mark.long
def test_a_replay_lands_what_rows_look_back_into_before_them(tmp_path: Path) -> None:
    project = make_loop(tmp_path / "rail", SPEC)
    project.land("gauges", "2023-12.parquet", gauges("2023-12"))
    for month in MONTHS[:5]:
        land(project, month)
    spec = load_spec(project.spec)
    found = replay(spec, project.spec, read_history(spec, project.spec), tmp_path / "replay", lambda _: None)
    with open_loop(project.spec, home=tmp_path / "replay" / "home", registry=MemoryRegistry()) as loop:
        batches = loop.heads(ScoredBatch, "score/")
        assert {i.partition for b in batches.values() for i in b.inputs if i.table == "gauges"} >= {
            MONTHS[3],
            MONTHS[4],
        }
        assert "2023-12" in loop.validated("gauges")
    assert found.seconds > 0
