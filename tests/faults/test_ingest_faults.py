"""What goes wrong between a source and a training: clocks, writers that do not end, bytes that change underway."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from tests.loops import MONTHS, make_loop, outcomes, schedules, stations

from kaizen.adapters.memory_registry import MemoryRegistry
from kaizen.errors import DataRefused, IntegrityError
from kaizen.ingest import ingest
from kaizen.loop import open_loop
from kaizen.store import split_address
from kaizen.train import training_set
from kaizen.validate import validate


class Clock:
    """A clock that somebody sets."""

    def __init__(self, now: datetime) -> None:
        self.moment = now

    def now(self) -> datetime:
        return self.moment


@pytest.fixture
def project(tmp_path):
    tables = {"schedules": {"on_change": "append"}}
    return make_loop(tmp_path / "project", {"clock": {"of": "wall"}, "data": {"suite": None, "tables": tables}})


def opened(project, clock=None):
    return open_loop(project.spec, home=project.home, registry=MemoryRegistry(), clock=clock)


@pytest.mark.fault("F30", "the clock jumps back by an hour between two versions", "I11")
def test_versions_are_in_the_order_in_which_they_came(project):
    rows, clock = schedules(MONTHS[0]), Clock(datetime(2026, 10, 25, 1, 30, tzinfo=UTC))
    with opened(project, clock) as loop:
        project.land("schedules", "a.parquet", rows.head(100))
        first = next(v for v in ingest(loop) if v.table == "schedules")
        clock.moment -= timedelta(hours=1)
        project.land("schedules", "b.parquet", rows.tail(50))
        (second,) = ingest(loop)
        assert (second.previous, second.rows) == (first.digest, 150)
        assert loop.versions("schedules")[MONTHS[0]] == second
        events = list(loop.ledger.events(loop.name, subject=f"data/schedules/{MONTHS[0]}"))
        assert [e.subject_seq for e in events] == [1, 2]
        assert events[1].at < events[0].at
        assert loop.ledger.verify().ok


@pytest.mark.fault("F34", "a writer that stops for a while in the middle of a file", "I3")
def test_half_a_file_is_not_taken_however_long_its_writer_thinks(project):
    path = project.landing / "schedules" / "slow.csv"
    path.parent.mkdir()
    text = schedules(MONTHS[0]).to_csv(index=False)
    half = text.index("\n", len(text) // 2) + 1
    code = (
        "import sys\nfile = open(sys.argv[1], 'w')\nfile.write(sys.stdin.read(int(sys.argv[2])))\nfile.flush()\n"
        "print('half', flush=True)\nfile.write(sys.stdin.read())\nfile.close()\n"
    )
    told: list[str] = []
    with (
        opened(project) as loop,
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(half)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as writer,
    ):
        writer.stdin.write(text[:half])
        writer.stdin.flush()
        assert writer.stdout.readline() == "half\n"
        assert path.stat().st_size == half
        assert [v.table for v in ingest(loop, tell=told.append)] == ["stations"]
        assert told == [f"{path}: not taken, somebody is writing it"]
        writer.communicate(text[half:])
        assert writer.returncode == 0
        assert [(v.partition, v.rows) for v in ingest(loop)] == [(MONTHS[0], len(schedules(MONTHS[0])))]


@pytest.mark.fault("F09", "a partition's bytes change between validation and training", "I3 I5")
def test_rows_that_are_not_those_of_the_verdict_are_not_trained_on(project):
    with opened(project) as loop:
        for month in MONTHS[:2]:
            project.land_month(month)
        ingest(loop)
        validate(loop)
        examples = training_set(loop)
        changed = next(i for i in examples.inputs if (i.table, i.partition) == ("schedules", MONTHS[1]))
        file = loop.store.file_path(split_address(changed.address)[1])
        file.chmod(0o644)
        schedules(MONTHS[0]).assign(rain=0.0).to_parquet(file)
        file.chmod(0o444)
        before = len(list(loop.ledger.events(loop.name)))
        with pytest.raises(IntegrityError, match="KZ612") as refused:
            loop.request("train", "turn", inputs=examples.inputs, window=examples.window)
        assert refused.value.where == str(file)
        assert split_address(changed.address)[1] in str(refused.value.limit)
        assert len(list(loop.ledger.events(loop.name))) == before


@pytest.mark.fault("F28", "a delivery of three partitions fails at its last", "I3 I11")
def test_a_delivery_is_taken_whole_or_not_at_all(project):
    project.write_spec({"data": {"suite": None}})
    with opened(project) as loop:
        project.land("schedules", "old.parquet", schedules(MONTHS[2]))
        ingest(loop)
        everything = pd.concat([*(schedules(month) for month in MONTHS[:2]), schedules(MONTHS[2]).assign(rain=0.0)])
        project.land("schedules", "three.parquet", everything)
        with pytest.raises(DataRefused, match="KZ430"):
            ingest(loop)
        assert list(loop.versions("schedules")) == [MONTHS[2]]


def test_a_table_that_is_not_cut_comes_back_to_what_it_was(project):
    with opened(project) as loop:
        ingest(loop)
        first = loop.versions("stations")["all"]
        project.land("stations", "b.parquet", stations().assign(platforms=1))
        (second,) = ingest(loop)
        stations().to_parquet(project.landing / "stations" / "c.parquet", index=False, compression="gzip")
        (third,) = ingest(loop)
        assert [v.change for v in (first, second, third)] == ["", "replaced", "replaced"]
        assert loop.versions("stations")["all"] == third
        pd.testing.assert_frame_equal(
            pd.read_parquet(loop.store.file(third.address)), pd.read_parquet(loop.store.file(first.address))
        )


def test_labels_that_come_late_make_their_partition_grow(project):
    project.write_spec({"data": {"suite": None, "tables": {"outcomes": {"on_change": "append"}}}})
    rows = outcomes(MONTHS[0])
    with opened(project) as loop:
        project.land_schedules(MONTHS[0])
        project.land("outcomes", "a.parquet", rows.head(200))
        ingest(loop)
        project.land("outcomes", "b.parquet", rows.tail(len(rows) - 200))
        (version,) = ingest(loop)
        assert (version.change, version.rows) == ("grew", len(rows))
        assert sum(version.labels.values()) == len(rows)
