"""The data repository, read from outside by the real git and DVC."""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import dvc.api
import pytest
from dvc.repo import Repo
from tests.data_bench import FLIGHTS, WEATHER, tear

from kaizen.adapters.dvc_repository import DvcRepository
from kaizen.errors import DataRefused, IntegrityError, MissingDependency
from kaizen.ports import NewFile


def everything_below(*folders: Path) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for folder in folders for p in folder.rglob("*")}


def test_people_read_every_version_with_their_own_tools(bench, tmp_path):
    first = bench.commit(FLIGHTS, b"april", "flights 2013-04")
    bench.commit(WEATHER, b"rain", "weather 2013-04")
    second = bench.commit(FLIGHTS, b"april, corrected", "flights 2013-04 again")

    assert bench.subjects() == ["flights 2013-04", "weather 2013-04", "flights 2013-04 again"]
    assert bench.git("rev-parse", "HEAD") == second.commit
    assert json.loads(bench.dvc("diff", "--json", "HEAD~1"))["modified"][0]["path"] == FLIGHTS
    assert bench.dvc("status") == "Data and pipelines are up to date."
    assert bench.dvc("status", "--cloud") == "Cache and remote 'store' are in sync."
    for pointer, content in ((first, b"april"), (second, b"april, corrected")):
        with dvc.api.open(FLIGHTS, repo=str(bench.root), rev=pointer.commit, mode="rb") as stream:
            assert stream.read() == content
    bench.assert_sound()
    bench.assert_pulled(tmp_path / "clone", {FLIGHTS: b"april, corrected", WEATHER: b"rain"})


def test_pointer_files_are_what_dvc_writes(bench, tmp_path):
    names = {"röme/a [1]#2, b.csv": b"one", "röme/!two.csv": b"", "three": b"3", "röme/- x: ñ": b"4", "5": b"5"}
    for path, content in names.items():
        bench.commit(path, content)
    theirs = tmp_path / "theirs"
    bench.git("clone", "--quiet", str(bench.root), str(theirs))
    for path, content in names.items():
        (theirs / path).write_bytes(content)
    bench.dvc("add", *names, root=theirs)
    assert bench.git("status", "--porcelain", root=theirs) == ""
    bench.assert_sound()


def test_same_bytes_at_the_same_path_make_no_commit(bench):
    first = bench.commit(FLIGHTS, b"april")
    bench.commit(WEATHER, b"rain")
    assert bench.commit(FLIGHTS, b"april", "again") == first
    assert bench.subjects() == ["deliver", "deliver"]


def test_return_to_earlier_bytes_is_a_commit(bench):
    first = bench.commit(FLIGHTS, b"april")
    bench.commit(FLIGHTS, b"corrected")
    back = bench.commit(FLIGHTS, b"april", "back")
    assert (back.md5, back.commit) == (first.md5, bench.git("rev-parse", "HEAD"))
    assert back.commit != first.commit
    bench.assert_sound()


def test_cache_shares_the_stores_file_and_the_remote_does_not(bench):
    pointer = bench.commit(FLIGHTS, b"april")
    cached, remote = bench.objects(pointer)
    source = bench.source(b"april")
    assert cached.samefile(source)
    assert (bench.root / FLIGHTS).samefile(source)
    assert not remote.samefile(source)
    assert {p.stat().st_mode & 0o777 for p in (cached, remote)} == {0o444}


def test_dvc_of_the_repository_calls_nobody_and_stages_nothing(bench):
    bench.commit(FLIGHTS, b"april")
    with Repo(str(bench.root)) as repo:
        assert repo.config["core"].items() >= {"analytics": False, "check_update": False, "autostage": False}.items()


def test_source_on_another_file_system_is_copied(bench, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    pointer = bench.commit(FLIGHTS, b"april")
    cached, _ = bench.objects(pointer)
    assert not cached.samefile(bench.source(b"april"))
    bench.assert_sound()


@pytest.mark.parametrize("place", [0, 1], ids=["cache", "remote"])
def test_object_with_other_bytes_is_replaced(bench, place):
    pointer = bench.commit(FLIGHTS, b"april")
    damaged = bench.objects(pointer)[place]
    for content in (b"", b"apr", b"may!!"):
        tear(damaged, content)
        assert bench.commit(FLIGHTS, b"april") == pointer
        assert damaged.read_bytes() == b"april"
    bench.assert_sound()


def test_lost_workspace_and_objects_come_back(bench, tmp_path):
    pointer = bench.commit(FLIGHTS, b"april")
    for lost in (*bench.objects(pointer), bench.root / FLIGHTS, bench.root / f"{FLIGHTS}.dvc"):
        lost.unlink()
    assert bench.commit(FLIGHTS, b"april") == pointer
    bench.assert_sound()
    bench.assert_pulled(tmp_path / "clone", {FLIGHTS: b"april"})


def test_zero_length_object_is_whole(bench, tmp_path):
    pointer = bench.commit(FLIGHTS, b"")
    assert (pointer.md5, pointer.size) == ("d41d8cd98f00b204e9800998ecf8427e", 0)
    bench.assert_sound()
    bench.assert_pulled(tmp_path / "clone", {FLIGHTS: b""})


def heed_permissions() -> None:
    """Let root meet permission bits like anybody else: drop CAP_DAC_OVERRIDE (1) from what the next program may get."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


def test_read_only_remote_is_refused_and_nothing_changes(bench):
    bench.commit(FLIGHTS, b"april")
    bench.source(f"deliver {WEATHER}".encode())
    before = everything_below(bench.root, bench.remote, bench.store.root)
    (bench.remote / "files" / "md5").chmod(0o555)
    done = bench.spawn("deliver", WEATHER, preexec_fn=heed_permissions)
    _, refusal = done.communicate()
    (bench.remote / "files" / "md5").chmod(0o755)
    facts = json.loads(refusal)
    assert facts.pop("where").startswith(str(bench.remote / "files" / "md5"))
    assert facts == {
        "code": "KZ442",
        "what": "the data remote cannot be used",
        "value": "Permission denied",
        "limit": f"{bench.remote} is a folder that this process may write",
        "action": "mount it, free space or grant the right, then retry",
    }
    assert everything_below(bench.root, bench.remote, bench.store.root) == before


def test_remote_that_is_no_folder_is_refused_before_a_repository_is_made(bench):
    bench.remote.write_text("a disk image")
    with pytest.raises(DataRefused) as refusal:
        bench.commit(FLIGHTS, b"april")
    assert (refusal.value.code, refusal.value.value) == ("KZ442", "Not a directory")
    assert not bench.root.exists()


def test_remote_is_a_path_or_a_file_url(bench, tmp_path):
    for remote in (str(tmp_path / "a b"), f"file://{tmp_path}/a%20b"):
        assert DvcRepository(bench.root, remote, bench.store).remote.url == str(tmp_path / "a b")
    with pytest.raises(DataRefused) as refusal:
        DvcRepository(bench.root, "s3://name:secret@bucket/prefix", bench.store)
    assert refusal.value.code == "KZ449"
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "path",
    ["", "/etc/motd", "..", "../x", "a/../../x", "a//b", "a/", "./a", ".git/config", ".dvc/config", "a/.gitignore",
     "a\0b", "a\nb", "a.dvc", "a.dvc/b", "outside/x"],
)  # fmt: skip
def test_path_that_leaves_the_data_is_refused(bench, tmp_path, path):
    bench.root.mkdir()
    (bench.root / "outside").symlink_to(tmp_path)
    source = bench.source(b"may")
    before = everything_below(tmp_path)
    with pytest.raises(DataRefused) as refusal:
        bench.repository.commit([NewFile(path, source, "deliver")])
    assert refusal.value.to_json() == {
        "code": "KZ441",
        "what": "path does not name a file of the data repository",
        "where": str(bench.root),
        "value": ascii(path),
        "limit": "a relative path of printable names, none beginning with '.' or ending with '.dvc'",
        "action": "name the partition like flights/2013-04.parquet",
    }
    assert everything_below(tmp_path) == before


def test_source_that_is_not_a_whole_file_of_the_store_is_refused(bench, tmp_path):
    loose = tmp_path / "loose"
    loose.write_bytes(b"april")
    damaged = bench.source(b"may")
    tear(damaged, b"ma")
    for source in (loose, damaged, tmp_path / "gone"):
        with pytest.raises(IntegrityError) as refusal:
            bench.repository.commit([NewFile(FLIGHTS, source, "deliver")])
        assert (refusal.value.code, refusal.value.where) == ("KZ641", str(source))
    assert not bench.root.exists()
    assert not bench.remote.exists()


def test_copy_that_goes_wrong_is_never_visible(bench, monkeypatch):
    source = bench.source(b"april")
    monkeypatch.setattr("kaizen.canonical._send", lambda source, target: target.write(source.read()[:-1]))
    with pytest.raises(IntegrityError) as refusal:
        bench.repository.commit([NewFile(FLIGHTS, source, "deliver")])
    assert refusal.value.code == "KZ642"
    assert [p for p in bench.remote.rglob("*") if p.is_file()] == []
    assert not bench.root.exists()


def test_path_below_a_file_is_refused(bench):
    bench.commit("flights", b"april")
    head = bench.git("rev-parse", "HEAD")
    with pytest.raises(DataRefused) as refusal:
        bench.commit("flights/2013-04", b"april")
    assert (refusal.value.code, refusal.value.where) == ("KZ445", str(bench.root / "flights"))
    assert bench.git("rev-parse", "HEAD") == head
    bench.assert_sound()


def test_repository_of_something_else_is_refused(bench):
    bench.root.mkdir()
    bench.git("init", "--quiet")
    (bench.root / "code.py").write_text("1")
    with pytest.raises(DataRefused) as refusal:
        bench.commit(FLIGHTS, b"april")
    assert (refusal.value.code, refusal.value.value) == ("KZ443", "no DVC remote")
    assert sorted(p.name for p in bench.root.iterdir()) == [".git", "code.py"]


def test_folder_that_is_in_use_is_refused(bench):
    bench.root.mkdir()
    (bench.root / "notes").write_text("mine")
    with pytest.raises(DataRefused) as refusal:
        bench.commit(FLIGHTS, b"april")
    assert (refusal.value.code, refusal.value.value) == ("KZ443", "Directory not empty")
    assert [p.name for p in bench.root.iterdir()] == ["notes"]
    assert not list(bench.base.glob(".draft-*"))


def test_other_remote_than_the_repositorys_is_refused(bench, tmp_path):
    bench.commit(FLIGHTS, b"april")
    moved = DvcRepository(bench.root, tmp_path / "remote-2", bench.store)
    with pytest.raises(DataRefused) as refusal:
        moved.commit([NewFile(WEATHER, bench.source(b"rain"), "deliver")])
    assert refusal.value.to_json() == {
        "code": "KZ443",
        "what": "not the data repository of this remote",
        "where": str(bench.root / ".dvc" / "config"),
        "value": f"url = {bench.remote}",
        "limit": f"url = {tmp_path / 'remote-2'}",
        "action": "name another root, or the remote that this repository has",
    }


def test_git_that_fails_says_why(bench):
    bench.commit(FLIGHTS, b"april")
    (bench.root / ".git" / "HEAD").write_text("nowhere\n")
    with pytest.raises(DataRefused) as refusal:
        bench.commit(WEATHER, b"rain")
    assert refusal.value.code == "KZ444"
    assert "not a git repository" in refusal.value.value


def test_without_dvc_the_extra_is_named(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "dvc", None)
    with pytest.raises(MissingDependency) as refusal:
        bench.commit(FLIGHTS, b"april")
    assert refusal.value.action == "pip install 'kaizen-mlops[dvc]'"
    assert not bench.root.exists()
    assert not list(bench.base.glob(".draft-*"))


def test_persons_git_settings_and_environment_do_not_matter(bench, tmp_path, monkeypatch):
    theirs = tmp_path / "theirs"
    subprocess.run(["git", "init", "--quiet", str(theirs)], check=True)
    hook = tmp_path / "hooks" / "pre-commit"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    for folder, name, text in (
        (tmp_path / "home", ".gitconfig", f"[core]\nhooksPath = {hook.parent}\n[commit]\ngpgSign = true\n"),
        (tmp_path / "home" / ".config" / "git", "ignore", "*.dvc\n.dvc\n"),
    ):
        folder.mkdir(parents=True)
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GIT_CONFIG_GLOBAL")
        patch.delenv("XDG_CONFIG_HOME", raising=False)
        patch.setenv("HOME", str(tmp_path / "home"))
        patch.setenv("GIT_DIR", str(theirs / ".git"))
        patch.setenv("GIT_INDEX_FILE", str(theirs / "index"))
        patch.setenv("GIT_AUTHOR_NAME", "somebody")
        bench.commit(FLIGHTS, b"april")
        (bench.root / ".git" / "hooks").mkdir()
        shutil.copy(hook, bench.root / ".git" / "hooks")
        bench.commit(WEATHER, b"rain")
    assert bench.git("log", "-1", "--format=%an <%ae> %cn") == "kaizen <kaizen@localhost> kaizen"
    assert not (theirs / "index").exists()
    bench.assert_sound()


def test_many_writers_at_once_each_land_once_in_one_line(bench, tmp_path):
    """The repository does not exist yet: the writers also race to make it."""
    paths = {n: [f"table-{n % 3}/{n}-{p}.parquet" for p in range(5)] for n in range(8)}
    writers = [bench.spawn(f"writer-{n}", *paths[n]) for n in paths]
    commits = []
    for writer in writers:
        out, err = writer.communicate()
        assert writer.returncode == 0, err
        commits += out.split()
    expected = {path: f"writer-{n} {path}".encode() for n in paths for path in paths[n]}
    assert sorted(bench.subjects()) == sorted(content.decode() for content in expected.values())
    assert sorted(commits) == sorted(bench.git("log", "--format=%H").splitlines()[:-1])
    assert not list(bench.base.glob(".draft-*"))
    bench.assert_sound()
    bench.assert_pulled(tmp_path / "clone", expected)


def leave_locks(root: Path) -> None:
    """What a git that was killed in the middle of a commit leaves behind."""
    for name in ("index.lock", "next-index-1.lock", "HEAD.lock", "refs/heads/main.lock", "packed-refs.lock"):
        (root / ".git" / name).touch()


@pytest.mark.parametrize(
    "point",
    ["data.commit.before_remote", "data.commit.before_workspace", "data.commit.before_git", "data.commit.after_git",
     "publish.file.before_rename:2", "publish.link.before_sync"],
)  # fmt: skip
def test_killed_commit_ends_like_an_undisturbed_one(bench, point):
    bench.commit(FLIGHTS, b"april", f"deliver {FLIGHTS}")
    name, _, nth = point.partition(":")
    killed = bench.spawn("deliver", WEATHER, env={"KAIZEN_FAULT": f"{name}:kill:{nth or 1}"})
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    leave_locks(bench.root)

    content = f"deliver {WEATHER}".encode()
    bench.commit(WEATHER, content, f"deliver {WEATHER}")
    assert bench.subjects() == [f"deliver {FLIGHTS}", f"deliver {WEATHER}"]
    bench.commit("undisturbed/2013-04.parquet", content)
    assert bench.git("rev-parse", "HEAD:weather") == bench.git("rev-parse", "HEAD:undisturbed")
    assert not list((bench.root / ".git").rglob("*.lock"))
    bench.assert_sound()


def test_turn_lasts_while_a_git_outlives_its_killed_writer(bench, tmp_path):
    bench.commit(FLIGHTS, b"april")
    started, go = tmp_path / "started", tmp_path / "go"
    os.mkfifo(started)
    os.mkfifo(go)
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text(
        f'#!/bin/sh\ncase " $* " in *" fast-import "*) echo > {started}; read x < {go};; esac\n'
        f'exec {shutil.which("git")} "$@"\n'
    )
    slow.chmod(0o755)
    writer = bench.spawn("deliver", WEATHER, env={"PATH": f"{slow.parent}:{os.environ['PATH']}"})
    started.read_text()
    writer.kill()
    writer.wait()
    with (bench.root / ".git" / "kaizen-history").open("a") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        go.write_text("\n")
        fcntl.flock(lock, fcntl.LOCK_EX)
    bench.commit(WEATHER, f"deliver {WEATHER}".encode(), f"deliver {WEATHER}")
    assert bench.subjects() == ["deliver", f"deliver {WEATHER}"]
    bench.assert_sound()


def test_disk_that_fails_is_a_refusal_and_the_retry_lands(bench, monkeypatch):
    monkeypatch.setattr("kaizen.faults._seen", {})
    monkeypatch.setenv("KAIZEN_FAULT", "data.commit.before_git:raise")
    with pytest.raises(DataRefused, match="the data repository cannot be written"):
        bench.commit(FLIGHTS, b"april")
    bench.commit(FLIGHTS, b"april", "retry")
    assert bench.subjects() == ["retry"]
    bench.assert_sound()
