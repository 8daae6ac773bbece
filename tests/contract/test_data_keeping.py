"""Verify, checkout, backup, restore and reconcile: drilled with what they are for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.data_bench import FLIGHTS, WEATHER, Bench, tear
from tests.services import s3_server

import kaizen
from kaizen.adapters.data_keeping import MANIFEST
from kaizen.adapters.data_places import open_place
from kaizen.adapters.dvc_repository import DvcRepository
from kaizen.errors import DataRefused, IntegrityError, UsageError
from kaizen.ports import NewFile
from kaizen.store import Store

NOW = datetime.now(UTC)
PERSON = ("-c", "user.name=p", "-c", "user.email=p@x")


@pytest.fixture
def told():
    return []


@pytest.fixture
def kept(bench):
    """Three versions of two files."""
    bench.april = bench.commit(FLIGHTS, b"april")
    bench.rain = bench.commit(WEATHER, b"rain")
    bench.corrected = bench.commit(FLIGHTS, b"april, corrected")
    return bench


def test_every_version_is_listed_with_what_was_said_of_it(bench):
    source = bench.source(b"april")
    meta = {"rows": 3, "columns": {"carrier": "string"}}
    pointer = bench.repository.commit([NewFile(FLIGHTS, source, "deliver", meta)])[FLIGHTS]
    (version,) = bench.repository.versions()
    assert (version.path, version.commit, version.md5, version.size) == (FLIGHTS, pointer.commit, pointer.md5, 5)
    assert version.meta == {"sha256": source.name, **meta}
    assert bench.dvc("status") == "Data and pipelines are up to date."


def test_many_versions_of_one_call_are_a_commit_each(bench):
    files = [NewFile(f"t/{n}.parquet", bench.source(f"{n % 7}".encode()), f"version {n}") for n in range(50)]
    before = bench.commit(FLIGHTS, b"april")
    pointers = bench.repository.commit(files)
    commits = bench.git("log", "--reverse", "--format=%H %s", f"{before.commit}..").splitlines()
    assert commits == [f"{pointers[f.path].commit} {f.message}" for f in files]
    assert bench.repository.commit([*files, NewFile(WEATHER, bench.source(b"rain"), "x")]).items() > pointers.items()
    assert len(bench.subjects()) == 52
    bench.assert_sound()


def test_all_of_a_call_or_nothing(bench):
    bench.commit(FLIGHTS, b"april")
    head = bench.git("rev-parse", "HEAD")
    files = [NewFile("new", bench.source(b"new"), "x"), NewFile(f"{FLIGHTS}/x", bench.source(b"x"), "x")]
    with pytest.raises(DataRefused) as refusal:
        bench.repository.commit(files)
    assert (refusal.value.code, refusal.value.value) == ("KZ445", f"{FLIGHTS}/x")
    assert bench.git("rev-parse", "HEAD") == head
    for names in (["a", "a/b"], ["a/b", "a"], ["flights"]):
        with pytest.raises(DataRefused) as refusal:
            bench.repository.commit([NewFile(name, bench.source(b"x"), "x") for name in names])
        assert refusal.value.code == "KZ445"
    bench.assert_sound()


def test_a_persons_commit_in_between_is_built_upon(bench, monkeypatch):
    """The branch moves between look and commit: it is compared, not overwritten."""
    bench.commit(FLIGHTS, b"april")
    plan, once = bench.repository._plan, []

    def overtaken(wanted, tip):
        found = plan(wanted, tip)
        if not once:
            once.append(bench.git(*PERSON, "commit", "--allow-empty", "-qm", "mine"))
        return found

    monkeypatch.setattr(bench.repository, "_plan", overtaken)
    bench.commit(WEATHER, b"rain", "weather")
    assert bench.subjects() == ["deliver", "mine", "weather"]
    bench.assert_sound()


def test_whoever_is_always_overtaken_gives_up(bench, monkeypatch):
    bench.commit(FLIGHTS, b"april")
    plan = bench.repository._plan

    def overtaken(wanted, tip):
        bench.git(*PERSON, "commit", "--allow-empty", "-qm", "mine")
        return plan(wanted, tip)

    monkeypatch.setattr(bench.repository, "_plan", overtaken)
    with pytest.raises(DataRefused) as refusal:
        bench.commit(WEATHER, b"rain")
    assert (refusal.value.code, refusal.value.may_pass) == ("KZ446", True)


def test_a_workspace_on_another_branch_is_left_alone(kept):
    kept.git("checkout", "-q", "-b", "mine", kept.april.commit)
    kept.commit(WEATHER, b"snow", "later")
    assert kept.git("log", "-1", "--format=%s") == "deliver"
    assert kept.git("log", "-1", "--format=%s", "main") == "later"
    kept.git("checkout", "-q", "main")
    kept.commit(FLIGHTS, b"may")
    kept.assert_sound()


@pytest.mark.parametrize("content", [None, b"", b"apr", b"apriL"], ids=["gone", "empty", "torn", "flipped"])
@pytest.mark.parametrize("place", ["store", "cache", "remote"])
def test_verify_tells_what_is_wrong_where_and_repairs_it(kept, told, place, content):
    path = kept.place(kept.april, place)
    path.unlink() if content is None else tear(path, content)
    (wrong,) = kept.repository.verify(told.append)
    assert (wrong.path, wrong.commit, wrong.md5) == (FLIGHTS, kept.april.commit, kept.april.md5)
    assert (wrong.place, wrong.repaired, wrong.found == "gone") == (place, False, content is None)
    assert told[-1] == "verified 3 of 3 objects"
    assert [(w.place, w.repaired) for w in kept.repository.verify(told.append, repair=True)] == [(place, True)]
    assert kept.repository.verify(told.append) == []
    kept.assert_sound()


def test_an_inode_torn_in_place_is_wrong_in_store_and_cache_and_the_remote_mends_both(kept, told):
    """Store, cache and workspace are one file: what tears it tears all three."""
    path = kept.place(kept.corrected, "cache")
    path.chmod(0o644)
    path.write_bytes(b"")
    path.chmod(0o444)
    assert [w.place for w in kept.repository.verify(told.append)] == ["store", "cache"]
    assert [w.repaired for w in kept.repository.verify(told.append, repair=True)] == [True, True]
    assert (kept.root / FLIGHTS).read_bytes() == b"april, corrected"
    assert kept.place(kept.corrected, "cache").samefile(kept.place(kept.corrected, "store"))
    kept.assert_sound()


def test_what_is_whole_nowhere_is_told_and_stays(kept, told):
    for place in ("store", "cache", "remote"):
        kept.place(kept.april, place).unlink()
    found = kept.repository.verify(told.append, repair=True)
    assert [(w.place, w.repaired) for w in found] == [("store", False), ("cache", False), ("remote", False)]
    with pytest.raises(IntegrityError) as refusal:
        kept.repository.checkout(kept.april.commit, kept.base / "out", told.append)
    assert (refusal.value.code, refusal.value.where) == ("KZ643", FLIGHTS)
    assert not (kept.base / "out").exists()


def test_a_flipped_bit_in_the_remote_fails_peoples_pull_too(kept):
    tear(kept.place(kept.rain, "remote"), b"raiN")
    kept.git("clone", "-q", str(kept.root), str(kept.base / "clone"))
    done = kept.run_dvc("pull", root=kept.base / "clone")
    assert done.returncode != 0
    assert WEATHER in done.stderr
    assert not (kept.base / "clone" / WEATHER).exists()


def read(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_checkout_gives_the_data_set_as_of_a_revision(kept, told):
    for rev, expected in (
        (kept.april.commit, {FLIGHTS: b"april"}),
        (kept.rain.commit[:12], {FLIGHTS: b"april", WEATHER: b"rain"}),
        ("main", {FLIGHTS: b"april, corrected", WEATHER: b"rain"}),
    ):
        folder = kept.base / f"out-{rev}"
        kept.repository.checkout(rev, folder, told.append)
        assert read(folder) == expected
    (kept.base / f"out-main/{FLIGHTS}").write_bytes(b"a person's own")
    assert kept.repository.verify(told.append) == []


def test_checkout_gives_the_data_set_as_of_a_time(kept, told):
    moments = {}
    for n, commit in enumerate(kept.git("rev-list", "--reverse", "main").splitlines()):
        date = f"2024-03-0{n + 1}T12:00:00Z"
        parent = ["-p", moments[n - 1]] if n else []
        tree = f"{commit}^{{tree}}"
        moments[n] = kept.git(*PERSON, "commit-tree", tree, *parent, "-m", "x", env={"GIT_COMMITTER_DATE": date})
    kept.git("update-ref", "refs/heads/main", moments[3])
    assert kept.repository.checkout("2024-03-02", kept.base / "a", told.append) == moments[0]
    assert kept.repository.checkout("2024-03-03T13:00", kept.base / "b", told.append) == moments[2]
    assert read(kept.base / "b") == {FLIGHTS: b"april", WEATHER: b"rain"}
    assert kept.repository.checkout(datetime(2025, 1, 1, tzinfo=UTC), kept.base / "c", told.append) == moments[3]
    with pytest.raises(UsageError) as refusal:
        kept.repository.checkout("2024-02-28", kept.base / "d", told.append)
    assert refusal.value.code == "KZ270"


@pytest.mark.parametrize("moment", ["nowhere", "--help", "", "main:flights", "2013-13-01"])
def test_a_version_that_there_is_not_is_refused(kept, told, moment):
    with pytest.raises(UsageError) as refusal:
        kept.repository.checkout(moment, kept.base / "out", told.append)
    assert (refusal.value.code, refusal.value.value) == ("KZ270", moment)
    assert not (kept.base / "out").exists()


def test_a_folder_in_use_is_not_checked_out_into(kept, told):
    (kept.base / "out").mkdir()
    kept.repository.checkout("main", kept.base / "out", told.append)
    with pytest.raises(UsageError) as refusal:
        kept.repository.checkout("main", kept.base / "out", told.append)
    assert refusal.value.code == "KZ271"


# Backup and restore.


@pytest.fixture(params=["folder", "bucket"])
def second(request, tmp_path, monkeypatch):
    """A second remote of each kind."""
    if request.param == "folder":
        yield str(tmp_path / "second")
        return
    with s3_server() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        # Servers of one process share what they hold.
        bucket = f"second-{uuid.uuid4().hex[:8]}"
        open_place("backup", f"s3://{bucket}/x")._s3.mkdir(bucket)
        yield f"s3://{bucket}/flights"


def drop(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder)


def test_a_backup_brings_everything_back_that_was_lost(kept, told, second, tmp_path):
    done = kept.repository.backup(second, told.append)
    assert (done.commit, done.versions, done.objects, done.copied) == (kept.corrected.commit, 3, 3, 3)
    drop(kept.root / ".dvc" / "cache", kept.store.root, kept.remote)
    assert {w.place for w in kept.repository.verify(told.append)} == {"store", "cache", "remote"}

    assert kept.repository.restore(second, told.append).copied == 3
    assert kept.repository.verify(told.append) == []
    assert [v.commit for v in kept.repository.versions()] == [p.commit for p in (kept.april, kept.rain, kept.corrected)]
    kept.assert_sound()
    kept.assert_pulled(tmp_path / "clone", {FLIGHTS: b"april, corrected", WEATHER: b"rain"})


def test_a_backup_fills_an_empty_home_with_another_remote(kept, told, second, tmp_path):
    kept.repository.backup(second, told.append)
    drop(kept.root, kept.store.root, kept.remote)
    home = Bench(tmp_path / "new")
    done = home.repository.restore(second, told.append)
    assert (done.commit, done.copied) == (kept.corrected.commit, 3)
    assert home.repository.verify(told.append) == []
    assert home.subjects()[-1] == "Name the remote"
    home.assert_sound()
    home.assert_pulled(tmp_path / "clone", {FLIGHTS: b"april, corrected", WEATHER: b"rain"})
    home.commit(FLIGHTS, b"may", "goes on")
    assert home.subjects()[-1] == "goes on"
    assert home.repository.restore(second, told.append).copied == 0
    assert home.subjects()[-1] == "goes on"
    home.assert_sound()


def test_only_what_is_new_is_backed_up_again(kept, told, second):
    kept.repository.backup(second, told.append)
    kept.commit("new", b"new")
    kept.commit("same", b"rain")
    done = kept.repository.backup(second, told.append)
    assert (done.versions, done.objects, done.copied) == (5, 4, 1)
    assert kept.repository.backup(second, told.append).copied == 0


def test_objects_that_a_backup_lost_are_copied_again(kept, told, tmp_path):
    kept.repository.backup(str(tmp_path / "second"), told.append)
    shutil.rmtree(tmp_path / "second" / "files")
    assert kept.repository.backup(str(tmp_path / "second"), told.append).copied == 3


@pytest.mark.parametrize("what", ["object", "bundle", "manifest"])
def test_a_damaged_backup_is_refused_and_nothing_counts(kept, told, tmp_path, what):
    second = tmp_path / "second"
    kept.repository.backup(str(second), told.append)
    (damaged,) = {
        "object": [open_place("x", second).path(v) for v in [content(kept.rain)]],
        "bundle": list(second.glob("*.bundle")),
        "manifest": [second / MANIFEST],
    }[what]
    tear(damaged, b"torn")
    home = Bench(tmp_path / "new")
    with pytest.raises(IntegrityError) as refusal:
        home.repository.restore(str(second), told.append)
    assert (refusal.value.code, damaged.name in str(refusal.value.value)) == ("KZ644", True)
    assert not home.root.exists()


def content(pointer):
    from kaizen.adapters.data_places import Content

    return Content(pointer.md5, pointer.size)


def test_what_is_no_backup_is_refused(kept, told, tmp_path):
    with pytest.raises(DataRefused) as refusal:
        kept.repository.restore(str(tmp_path / "nothing"), told.append)
    assert refusal.value.code == "KZ447"


def test_the_backup_of_another_data_set_is_neither_overwritten_nor_restored(kept, told, tmp_path):
    kept.repository.backup(str(tmp_path / "second"), told.append)
    other = Bench(tmp_path / "other")
    other.commit(FLIGHTS, b"another")
    for work in (other.repository.backup, other.repository.restore):
        with pytest.raises(DataRefused) as refusal:
            work(str(tmp_path / "second"), told.append)
        assert refusal.value.code == "KZ448"
    assert other.subjects() == ["deliver"]


def test_there_must_be_something_to_back_up_elsewhere(bench, told):
    for commit in (False, True):
        if commit:
            bench.commit(FLIGHTS, b"april")
        with pytest.raises(UsageError) as refusal:
            bench.repository.backup(str(bench.remote), told.append)
        assert refusal.value.code == "KZ272"


KEEP = """
import sys
from pathlib import Path
from kaizen.adapters.dvc_repository import DvcRepository
from kaizen.store import Store

base, action, remote = sys.argv[1:]
repository = DvcRepository(Path(base, "data"), Path(base, "remote"), Store(Path(base, "store")))
getattr(repository, action)(remote, print)
"""


def keep(bench, action, remote, fault=""):
    """Back up or restore in a process of its own; its exit code."""
    env = {**os.environ, "PYTHONPATH": str(Path(kaizen.__file__).parents[1]), "KAIZEN_FAULT": fault}
    command = [sys.executable, "-c", KEEP, str(bench.base), action, str(remote)]
    return subprocess.run(command, env=env, check=False, capture_output=True).returncode


def test_whatever_kills_a_backup_or_a_restore_the_next_one_ends_it(kept, told, tmp_path):
    second, home = tmp_path / "second", Bench(tmp_path / "new")
    for bench, action in ((kept, "backup"), (home, "restore")):
        nth = 1
        # Each one gets a file further than the one before, and finds what that one had done.
        while (code := keep(bench, action, second, f"publish.file.before_rename:kill:{nth}")) != 0:
            assert code == -signal.SIGKILL
            nth += 1
        assert nth > 3
    assert home.repository.verify(told.append) == []
    assert [v.commit for v in home.repository.versions()] == [v.commit for v in kept.repository.versions()]
    home.assert_sound()


# Reconcile: what the history says is in the remote, and what else is there is named (F59).


def test_reconcile_pushes_what_the_remote_lost_and_names_what_nobody_points_at(kept):
    kept.place(kept.april, "remote").unlink()
    dangling = kept.remote / "files" / "md5" / "ab" / f"{'c' * 30}"
    dangling.parent.mkdir()
    dangling.write_bytes(b"committed never")
    assert list(kept.repository.reconcile(NOW)) == [f"pushed again: {FLIGHTS} of commit {kept.april.commit[:12]}"]
    later = list(kept.repository.reconcile(NOW + timedelta(days=2)))
    assert later == [f"object of no version: {kept.remote}/files/md5/ab/{'c' * 30}"]
    assert dangling.exists()
    assert list(kept.repository.reconcile(NOW)) == []
    kept.assert_sound()


def test_reconcile_looks_again_after_an_hour_or_a_commit(kept):
    assert list(kept.repository.reconcile(NOW)) == []
    kept.place(kept.april, "remote").unlink()
    assert list(kept.repository.reconcile(NOW + timedelta(minutes=59))) == []
    kept.commit(FLIGHTS, b"may")
    assert len(list(kept.repository.reconcile(NOW))) == 1
    kept.place(kept.april, "remote").unlink()
    assert len(list(kept.repository.reconcile(NOW + timedelta(minutes=61)))) == 1


def test_reconcile_packs_a_long_history(kept, monkeypatch):
    monkeypatch.setattr("kaizen.adapters.data_keeping._LOOSE", 5)
    assert int(kept.git("count-objects").split()[0]) > 5
    assert list(kept.repository.reconcile(NOW)) == []
    assert int(kept.git("count-objects").split()[0]) < 5
    kept.commit(FLIGHTS, b"may")
    kept.assert_sound()


def test_reconcile_says_what_it_cannot_push(kept):
    for place in ("store", "cache", "remote"):
        kept.place(kept.april, place).unlink()
    (line,) = kept.repository.reconcile(NOW)
    assert line == f"NOT in the remote, and no copy here is whole: {FLIGHTS} of commit {kept.april.commit[:12]}"


def test_reconcile_shows_the_tip_again(kept):
    (kept.root / FLIGHTS).unlink()
    (kept.root / f"{WEATHER}.dvc").write_text("")
    assert list(kept.repository.reconcile(NOW)) == []
    kept.assert_sound()


def test_what_dvc_left_half_written_stops_nobody_and_is_removed(kept):
    """A killed dvc's rwlock makes every other dvc fail; a running one's lock is none of ours."""
    tmp = kept.root / ".dvc" / "tmp"
    tmp.mkdir(exist_ok=True)
    (tmp / "rwlock").write_text("{")
    (tmp / "lock").write_text("1")
    kept.commit(FLIGHTS, b"may")
    assert "rwlock" in kept.run_dvc("add", FLIGHTS).stderr
    assert list(kept.repository.reconcile(NOW)) == ["removed DVC's rwlock, which a killed dvc had left half written"]
    assert kept.run_dvc("add", FLIGHTS).returncode == 0
    kept.assert_sound()


def test_nothing_is_verified_or_mended_where_nothing_was_committed(bench, told):
    assert bench.repository.verify(told.append, repair=True) == []
    assert list(bench.repository.reconcile(NOW)) == []
    assert not bench.root.exists()


def test_a_repository_of_an_earlier_release_goes_on(bench, told):
    """It named each file in an ignore file of its folder, and said nothing of sha256."""
    bench.commit(FLIGHTS, b"april")
    pointer = bench.root / f"{FLIGHTS}.dvc"
    pointer.write_text("".join(pointer.read_text().splitlines(keepends=True)[:5]))
    bench.git("rm", "-q", ".gitignore")
    (bench.root / "flights" / ".gitignore").write_text("/2013-04.parquet\n")
    bench.git("add", "-f", "flights/.gitignore", f"{FLIGHTS}.dvc")
    bench.git(*PERSON, "commit", "-qm", "as it was")
    assert bench.repository.versions()[-1].meta == {}
    bench.commit(FLIGHTS, b"april")
    bench.commit(WEATHER, b"rain")
    assert (bench.root / ".gitignore").exists()
    bench.place(bench.commit(FLIGHTS, b"april"), "remote").unlink()
    assert [(w.place, w.repaired) for w in bench.repository.verify(told.append, repair=True)] == [("remote", True)] * 2
    bench.assert_sound()


def test_store_of_another_file_system_is_copied_from(kept, told, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    kept.place(kept.april, "cache").unlink()
    assert [w.repaired for w in kept.repository.verify(told.append, repair=True)] == [True]
    assert DvcRepository(kept.root, kept.remote, Store(kept.store.root)).verify(told.append) == []
