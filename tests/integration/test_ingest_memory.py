"""Memory of ingest: it grows neither with a delivery nor with the number of deliveries."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from tests.loops import make_loop

ROOM = 200 << 20
"""Bytes: where a process is limited to 256 MiB, pages of the files that it reads want a place as well."""
ROWS = 70_000

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory of another process: /proc")


def some_rows(number: int) -> pa.Table:
    """About 16 MiB as CSV and 7 MiB as Parquet, over a year."""
    rng = np.random.default_rng(number)
    seconds = np.sort(rng.integers(0, 365 * 86_400, ROWS)).astype("timedelta64[s]")
    trains = np.arange(ROWS) + number * ROWS
    facts = {name: rng.random(ROWS) for name in ("distance", "rain", *(f"x{n}" for n in range(10)))}
    return pa.table(
        {
            "departs": np.datetime64("2023-01-01") + seconds,
            "train": trains,
            "origin": [f"s{n}" for n in trains],
            **facts,
        }
    )


@pytest.mark.parametrize(
    ("name", "suffix", "count", "how"),
    [
        ("schedules", "csv", 6, {"on_change": "append"}),
        ("stations", "parquet", 24, {"partition": "file", "new_columns": "accept"}),
    ],
    ids=["rows that are cut", "files that are kept"],
)
def test_many_files_need_no_more_memory_than_one(tmp_path, name, suffix, count, how):
    project = make_loop(tmp_path / "project", {"data": {"suite": None, "tables": {name: how}}})
    (project.landing / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rows, path = some_rows(number), project.landing / name / f"{number:02}.{suffix}"
        if suffix == "csv":
            pyarrow.csv.write_csv(rows, path)
        else:
            pq.write_table(rows.append_column("platforms", rows["train"]).drop_columns("departs"), path)
    command = [sys.executable, "-m", "kaizen.cli", "stage", "ingest", str(project.spec)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = peak_of(process)
    assert process.returncode == 0
    assert peak < ROOM, f"{peak >> 20} MiB"


def peak_of(process: subprocess.Popen[bytes]) -> int:
    """The most bytes of its own that a process had while it ran: the system may not drop those."""
    peak = 0
    while process.poll() is None:
        peak = max([peak, *_own_bytes(process.pid)])
        time.sleep(0.02)
    return peak


def _own_bytes(pid: int) -> Iterator[int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    yield from (int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))
