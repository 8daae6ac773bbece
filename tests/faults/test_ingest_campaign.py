"""Eight processes ingest into one loop at once, and are killed at random, until nothing is left to take."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pandas as pd
import pytest
from tests.loops import MONTHS, Project, WarmProcesses, make_loop, schedules

from kaizen.adapters.memory_registry import MemoryRegistry
from kaizen.adapters.tables import read_parquet
from kaizen.ingest import ingest
from kaizen.loop import open_loop
from kaizen.records import DataVersion, Delivery, data_path

PROCESSES = 8
PARTS = 8
"""A month comes in so many files, which all grow the same partition."""


def land(project: Project, partitions: int) -> None:
    for n in range(partitions):
        project.land("stations", f"{n:03}.parquet", pd.DataFrame({"origin": [f"x{n}"], "platforms": [n]}))
    rows = schedules(MONTHS[0])
    for n in range(PARTS):
        project.land("schedules", f"{n}.parquet", rows.iloc[n::PARTS])


def take_and_die(processes: WarmProcesses, project: Project, kills: int, seed: int) -> int:
    """Ingest until nobody kills it any more; how often it was killed at work."""
    dice, killed = random.Random(seed), 0
    while True:
        running = processes.start("kaizen.cli:main", ["stage", "ingest", str(project.spec)])
        if kills:
            kills -= 1
            time.sleep(dice.uniform(0.05, 1.5))
            with suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGKILL)
        ended = running.wait()
        if ended.code == 0 and not kills:
            return killed
        assert ended.code in (0, -signal.SIGKILL), ended.err
        killed += ended.code != 0


def assert_all_there_once(project: Project, partitions: int) -> None:
    with open_loop(project.spec, home=project.home, registry=MemoryRegistry()) as loop:
        assert ingest(loop) == []
        assert loop.ledger.verify().ok
        names = {f"{n:03}.parquet" for n in range(partitions)} | {"all"}
        assert set(loop.versions("stations")) == names
        events = list(loop.ledger.events(loop.name))
        delivered = Counter(
            (d.table, d.source.uri) for e in events if e.kind == "Delivery" for d in [Delivery.from_json(e.payload)]
        )
        assert set(delivered.values()) == {1}
        assert len(delivered) == partitions + 1 + PARTS
        made = [DataVersion.from_json(e.payload) for e in events if e.kind == "DataVersion"]
        assert Counter(v.partition for v in made if v.table == "stations") == dict.fromkeys(names, 1)
        # Each file made the partition grow once.
        grown = [v for v in made if v.table == "schedules"]
        assert [bool(v.previous) for v in grown] == [False] + [True] * (PARTS - 1)
        found = read_parquet(loop.store.file(grown[-1].address))
        rows = schedules(MONTHS[0])
        assert sorted(found["train"]) == sorted(rows["train"])
        assert len(found) == len(rows)
        assert loop.data.verify(print) == []
        kept = Counter(v.path for v in loop.data.versions() if v.path.startswith("stations/"))
        assert kept == {data_path("stations", name): 1 for name in names}


def campaign(processes: WarmProcesses, project: Project, partitions: int, kills: int, seed: int) -> int:
    land(project, partitions)
    with ThreadPoolExecutor(PROCESSES) as pool:
        each = [pool.submit(take_and_die, processes, project, kills, seed * PROCESSES + n) for n in range(PROCESSES)]
        return sum(one.result() for one in each)


@pytest.fixture
def project(tmp_path, processes):
    stations = {"partition": "file", "on_change": "replace"}
    tables = {"stations": stations, "schedules": {"on_change": "append"}}
    made = make_loop(tmp_path / "project", {"data": {"suite": None}})
    assert processes.kaizen("stage", "ingest", made.spec).code == 0
    made.write_spec({"data": {"suite": None, "tables": tables}})
    return made


@pytest.mark.fault("F31", "8 processes ingest into one loop, killed at random", "I3 I11")
def test_every_partition_is_there_once_whoever_is_killed(processes, project):
    assert campaign(processes, project, 40, kills=2, seed=1) > 4
    assert_all_there_once(project, 40)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_two_hundred_partitions_and_many_kills(processes, project, seed):
    assert campaign(processes, project, 200, kills=8, seed=seed) > 20
    assert_all_there_once(project, 200)
