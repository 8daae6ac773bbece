"""Faults of the data set's copies: each is made for real, and what it must not do is looked at from outside."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.data_bench import FLIGHTS, WEATHER, tear
from tests.services import s3_server

from kaizen.adapters.dvc_repository import DvcRepository
from kaizen.errors import DataRefused, UsageError
from kaizen.ports import NewFile

LARGE = os.urandom(3 << 20)


@pytest.fixture
def small(tmp_path):
    """A file system of 2 MiB; it is gone at the end."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def holder_of(file: Path) -> int | None:
    """The process that has the file's lock."""
    inode = str(file.stat().st_ino)
    rows = [row.split() for row in Path("/proc/locks").read_text().splitlines()]
    return next((int(row[4]) for row in rows if row[1] == "FLOCK" and row[5].rpartition(":")[2] == inode), None)


@pytest.mark.fault("F07", "cache object torn, empty or flipped, mode 0444", "I3")
@pytest.mark.parametrize("content", [b"", b"apr", b"apriL"], ids=["empty", "torn", "flipped"])
def test_a_read_only_cache_object_is_not_trusted(bench, content):
    pointer = bench.commit(FLIGHTS, b"april")
    cache, _ = bench.objects(pointer)
    tear(cache, content)
    bench.commit("again/2013-04.parquet", b"april")
    assert cache.read_bytes() == b"april"
    tear(cache, content)
    bench.repository.checkout("main", bench.base / "out", print)
    assert (bench.base / "out" / FLIGHTS).read_bytes() == b"april"
    (wrong,) = {(w.place, w.md5) for w in bench.repository.verify(print)}
    assert wrong == ("cache", pointer.md5)


@pytest.mark.fault("F29", "SIGKILL while an object is pushed", "I3 I11")
def test_a_push_that_is_killed_is_no_version(bench):
    bench.commit(FLIGHTS, b"april")
    killed = bench.spawn("deliver", WEATHER, env={"KAIZEN_FAULT": "publish.file.before_rename:kill:2"})
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert bench.subjects() == ["deliver"]
    assert bench.dvc("status", "--cloud") == "Cache and remote 'store' are in sync."
    bench.commit(WEATHER, f"deliver {WEATHER}".encode())
    bench.assert_sound()


@pytest.mark.fault("F31", "DVC's own locks are held by somebody who does not let go", "I11")
def test_dvcs_locks_stop_no_writer(bench):
    bench.commit(FLIGHTS, b"april")
    tmp = bench.root / ".dvc" / "tmp"
    tmp.mkdir(exist_ok=True)
    holder = subprocess.Popen(["flock", "--no-fork", str(tmp / "lock"), "sleep", "infinity"])
    try:
        (tmp / "rwlock").write_text(json.dumps({str(bench.root / FLIGHTS): {"write": {"pid": 1, "cmd": "dvc add"}}}))
        bench.commit(FLIGHTS, b"corrected")
    finally:
        holder.kill()
        holder.wait()
    (tmp / "rwlock").unlink()
    bench.assert_sound()


@pytest.mark.fault("F32", "a writer that hangs in its turn", "I12")
def test_whoever_holds_the_turn_for_ever_is_named(bench, monkeypatch):
    bench.commit(FLIGHTS, b"april")
    file = bench.root / ".git" / "kaizen-history"
    holder = subprocess.Popen(["flock", "--no-fork", str(file), "sleep", "infinity"])
    while holder_of(file) != holder.pid:
        time.sleep(0.01)
    file.write_text(str(holder.pid))
    try:
        monkeypatch.setattr("kaizen.adapters.data_history.PATIENCE", 0.2)
        with pytest.raises(DataRefused) as refusal:
            bench.commit(WEATHER, b"rain")
    finally:
        holder.kill()
        holder.wait()
    assert (refusal.value.code, refusal.value.may_pass) == ("KZ446", True)
    assert refusal.value.value == f"held by process {holder.pid}"
    bench.commit(WEATHER, b"rain")
    bench.assert_sound()


@pytest.mark.fault("F33", "a bit flips in the remote", "I3 I12")
def test_a_flipped_bit_in_the_remote_is_found_and_pulled_by_nobody(bench):
    bench.commit(FLIGHTS, b"april")
    _, remote = bench.objects(bench.commit(WEATHER, b"rain"))
    tear(remote, bytes([b"rain"[0] ^ 1]) + b"ain")
    (wrong,) = bench.repository.verify(print)
    assert (wrong.path, wrong.place) == (WEATHER, "remote")
    bench.git("clone", "-q", str(bench.root), str(bench.base / "clone"))
    assert bench.run_dvc("pull", root=bench.base / "clone").returncode != 0
    assert not (bench.base / "clone" / WEATHER).exists()
    assert (bench.base / "clone" / FLIGHTS).read_bytes() == b"april"


@pytest.mark.fault("F48", "no space left in the remote", "I3 I12")
def test_a_full_remote_takes_nothing_and_the_space_is_named(bench, small):
    repository = DvcRepository(bench.root, small / "remote", bench.store)
    files = [NewFile(f"t/{n}", bench.source(bytes([n]) * (1 << 19)), "x") for n in range(8)]
    with pytest.raises(DataRefused) as refusal:
        repository.commit(files)
    assert refusal.value.code == "KZ442"
    assert str(refusal.value.value).startswith("No space left on device: ")
    assert str(refusal.value.value).endswith(" bytes free, 4,194,304 bytes to be written")
    assert refusal.value.where.startswith(str(small))
    assert not bench.root.exists()
    assert [p for p in small.rglob("*") if p.is_file()] == []
    repository.commit(files[:2])
    assert repository.verify(print) == []


@pytest.mark.fault("F48", "no space left where the repository is", "I3 I12")
def test_a_full_disk_commits_nothing(bench, small):
    repository = DvcRepository(small / "data", bench.remote, bench.store)
    repository.commit([NewFile(FLIGHTS, bench.source(b"april"), "x")])
    head = bench.git("rev-parse", "HEAD", root=small / "data")
    with pytest.raises(DataRefused) as refusal:
        repository.commit([NewFile(WEATHER, bench.source(LARGE), "x")])
    assert (refusal.value.code, "bytes free" in str(refusal.value.value)) == ("KZ443", True)
    assert bench.git("rev-parse", "HEAD", root=small / "data") == head
    assert bench.git("status", "--porcelain", root=small / "data") == ""
    repository.commit([NewFile(WEATHER, bench.source(b"rain"), "x")])
    assert repository.verify(print) == []


@pytest.mark.fault("F48", "no space left where a person checks out", "I3 I12")
def test_a_checkout_that_does_not_fit_leaves_nothing(bench, small):
    bench.commit(FLIGHTS, LARGE)
    with pytest.raises(UsageError) as refusal:
        bench.repository.checkout("main", small / "out", print)
    assert (refusal.value.code, refusal.value.value) == ("KZ273", "No space left on device")
    assert list(small.iterdir()) == []


@pytest.mark.fault("F48", "a file may not grow any more", "I3 I12")
def test_a_limit_of_file_size_is_told(bench):
    bench.commit(FLIGHTS, b"april")
    source = bench.source(LARGE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(DataRefused) as refusal:
            bench.repository.commit([NewFile(WEATHER, source, "x")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (refusal.value.code, str(refusal.value.value).startswith("File too large: ")) == ("KZ442", True)
    bench.assert_sound()


@pytest.mark.fault("F59", "killed between push and commit, and a commit without its object", "I3 I11")
def test_push_and_commit_are_reconciled_either_way(bench):
    first = bench.commit(FLIGHTS, b"april")
    killed = bench.spawn("deliver", WEATHER, env={"KAIZEN_FAULT": "data.commit.before_git:kill"})
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    bench.objects(first)[1].unlink()
    told = list(bench.repository.reconcile(datetime.now(UTC) + timedelta(days=2)))
    assert told[0] == f"pushed again: {FLIGHTS} of commit {first.commit[:12]}"
    assert told[1].startswith(f"object of no version: {bench.remote}/files/md5/")
    assert len(told) == 2
    bench.commit(WEATHER, f"deliver {WEATHER}".encode())
    assert list(bench.repository.reconcile(datetime.now(UTC) + timedelta(days=2))) == []
    bench.assert_sound()


@pytest.mark.fault("B56", "the remote cannot be written: no right, no bucket", "I3 I12")
def test_a_remote_without_write_right_is_refused_before_anything_is_done(bench, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    with s3_server() as url:
        for name, value in {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "canary"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        for remote in (tmp_path / "file", "s3://bucket-that-is-not-there/x", Path("/proc/nowhere")):
            with pytest.raises(DataRefused) as refusal:
                DvcRepository(bench.root, remote, bench.store).probe()
            assert refusal.value.code == "KZ442"
            assert "canary" not in str(refusal.value)
    assert not bench.root.exists()
