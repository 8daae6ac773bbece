"""Eight processes ingest into one data set at once and are killed at random; then people look at it from outside."""

from __future__ import annotations

import json
import random
import time
import uuid
from typing import TYPE_CHECKING

import dvc.api
import pytest
from tests.data_bench import Bench
from tests.services import s3_server

from kaizen.adapters.dvc_repository import DvcRepository

if TYPE_CHECKING:
    from pathlib import Path

WRITERS = 8


def paths_of(partitions: int) -> list[str]:
    return [f"table-{n % 3}/{n:03}.parquet" for n in range(partitions)]


def deliver(bench: Bench, partitions: int, kills: int, seed: int) -> int:
    """Let the writers write, kill and restart them at random; how many were killed at work."""
    dice = random.Random(seed)
    shares = [paths_of(partitions)[w::WRITERS] for w in range(WRITERS)]
    running = {w: bench.spawn("v", *share) for w, share in enumerate(shares)}
    killed = 0
    while running:
        time.sleep(dice.uniform(0.02, 0.2))
        writer = dice.choice(list(running))
        if kills:
            kills -= 1
            running[writer].kill()
        if running[writer].poll() is None and kills:
            running[writer].wait()
        code = running[writer].poll()
        if code is None:
            continue
        _, err = running[writer].communicate()
        if code == 0:
            del running[writer]
            continue
        assert code == -9, err
        killed += 1
        running[writer] = bench.spawn("v", *shares[writer])
    return killed


def assert_agreed(bench: Bench, clone: Path, partitions: int) -> None:
    """History, git and DVC from a fresh clone say the same as the sources."""
    paths = paths_of(partitions)
    expected = {path: f"v {path}".encode() for path in paths}
    assert sorted(bench.subjects()) == sorted(f"v {path}" for path in paths)
    assert bench.git("rev-list", "--min-parents=2", "HEAD") == ""
    kept = bench.repository.versions()
    assert sorted(v.path for v in kept) == sorted(paths)
    assert len({v.commit for v in kept}) == partitions
    assert {v.path: v.meta["sha256"] for v in kept} == {p: bench.source(c).name for p, c in expected.items()}
    assert bench.repository.verify(print) == []
    bench.assert_sound()

    bench.git("clone", "--quiet", str(bench.root), str(clone))
    assert bench.run_dvc("status", "--cloud", "--json", root=clone).returncode == 0
    bench.dvc("fetch", "--quiet", root=clone)
    assert bench.dvc("status", "--cloud", root=clone) == "Cache and remote 'store' are in sync."
    bench.dvc("pull", "--quiet", root=clone)
    assert {path: (clone / path).read_bytes() for path in paths} == expected
    assert bench.dvc("status", root=clone) == "Data and pipelines are up to date."
    middle = kept[len(kept) // 2]
    added = json.loads(bench.dvc("diff", "--json", middle.commit, kept[-1].commit, root=clone))["added"]
    later = [v.path for v in kept[len(kept) // 2 + 1 :]]
    assert sorted(entry["path"] for entry in added if not entry["path"].endswith("/")) == sorted(later)
    with dvc.api.open(middle.path, repo=str(clone), rev=middle.commit, mode="rb") as stream:
        assert stream.read() == expected[middle.path]


@pytest.mark.fault("F31", "8 processes into one data set, killed at random", "I3 I11")
def test_eight_writers_and_kills_leave_every_partition_once(bench, tmp_path):
    assert deliver(bench, 40, kills=10, seed=1) > 0
    assert_agreed(bench, tmp_path / "clone", 40)


@pytest.mark.drill
@pytest.mark.fault("F29", "8 processes into one bucket, killed at random", "I3 I11")
def test_eight_writers_into_a_bucket(bench, monkeypatch):
    bucket = f"lake-{uuid.uuid4().hex[:8]}"
    with s3_server() as url:
        for name, value in {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("BENCH_REMOTE", f"s3://{bucket}/rail")
        bench.repository = DvcRepository(bench.root, f"s3://{bucket}/rail", bench.store)
        bench.repository.remote._s3.mkdir(bucket)
        assert deliver(bench, 16, kills=4, seed=1) > 0
        assert sorted(v.path for v in bench.repository.versions()) == sorted(paths_of(16))
        assert bench.repository.verify(print) == []
        assert len(list(bench.repository.remote.objects())) == 16
    assert bench.git("status", "--porcelain") == ""


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_two_hundred_partitions_by_eight_writers(bench, tmp_path, seed):
    assert deliver(bench, 200, kills=60, seed=seed) > 20
    assert_agreed(bench, tmp_path / "clone", 200)
