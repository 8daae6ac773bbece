"""``kaizen data`` on a small real loop whose remote is named in its environment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.loops import LOOP, MONTHS, Project, make_loop

from kaizen.cli import main
from kaizen.loop import data_remote, open_loop
from kaizen.records import DataVersion
from kaizen.spec import load_spec


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A loop that has two months, kept in a folder ``lake`` beside the spec."""
    project = make_loop(tmp_path_factory.mktemp("data") / "rail", {"environment": {"remote": "lake"}})
    for month in MONTHS[:2]:
        project.land_month(month)
    assert main(["stage", "ingest", str(project.spec)]) == 0
    return project


@pytest.fixture(autouse=True)
def in_project(ingested: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ingested.folder)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["data", *arguments])
    return code, capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    found, out = run(capsys, *arguments, "--json")
    assert found == code
    return json.loads(out)


def objects(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("files/md5/*/*") if p.is_file())


def test_the_remote_is_where_the_environment_names_it(ingested: Project) -> None:
    assert len(objects(ingested.folder / "lake" / LOOP)) == 5
    assert not (ingested.home / "loops" / LOOP / "data-remote").exists()


def test_what_names_a_remote_outranks_what_comes_after(ingested: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec(ingested.spec, "local")
    assert data_remote(spec, ingested.spec) == str(ingested.folder / "lake" / LOOP)
    monkeypatch.setenv("KAIZEN_DATA_REMOTE", "s3://bucket/data/")
    assert data_remote(spec, ingested.spec) == f"s3://bucket/data/{LOOP}"
    # A replay keeps everything in a home of its own.
    assert data_remote(spec, ingested.spec, ingested.folder / "scratch") == ""


def test_verify_repairs_and_its_exit_code_tells(capsys: pytest.CaptureFixture[str], ingested: Project) -> None:
    assert as_json(capsys, "verify") == []
    damaged = objects(ingested.folder / "lake")[0]
    damaged.chmod(0o644)
    damaged.write_bytes(b"")
    (wrong,) = as_json(capsys, "verify", code=6)
    assert (wrong["place"], wrong["path"].endswith(".parquet"), wrong["repaired"]) == ("remote", True, False)
    code, out = run(capsys, "verify")
    assert (code, out.startswith(f"WRONG {wrong['path']} of commit {wrong['commit'][:12]} in the remote: ")) == (
        6,
        True,
    )
    assert [w["repaired"] for w in as_json(capsys, "verify", "--repair")] == [True]
    assert run(capsys, "verify") == (0, "5 versions, every copy as committed\n")


def test_a_version_of_the_ledger_without_a_commit_is_wrong(
    capsys: pytest.CaptureFixture[str], ingested: Project, tmp_path: Path
) -> None:
    copy = Project(shutil.copytree(ingested.folder, tmp_path / "copy", symlinks=True))
    with open_loop(copy.spec) as loop:
        version = next(iter(loop.versions("schedules").values()))
        loop.append("data/schedules/2030-01", DataVersion.from_json({**version.to_json(), "commit": "0" * 40}), "x")
    assert main(["data", "verify", "--spec", str(copy.spec), "--json"]) == 6
    found = json.loads(capsys.readouterr().out)
    assert [(w["place"], w["found"]) for w in found] == [("ledger", "no such commit in the history")]


def test_checkout_gives_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    facts = as_json(capsys, "checkout", "main", str(tmp_path / "out"))
    assert facts["folder"] == str(tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.parquet"))) == 5
    assert main(["data", "checkout", "main", str(tmp_path / "out")]) == 2
    assert "KZ271: the folder to check out into is in use" in capsys.readouterr().err


def test_a_lost_loop_is_restored_from_a_backup(
    capsys: pytest.CaptureFixture[str], ingested: Project, tmp_path: Path
) -> None:
    done = as_json(capsys, "backup", str(tmp_path / "second"))
    assert (done["versions"], done["objects"], done["copied"]) == (5, 5, 5)
    assert as_json(capsys, "backup", str(tmp_path / "second"))["copied"] == 0
    home = ingested.home / "loops" / LOOP
    shutil.rmtree(home / "data")
    shutil.rmtree(home / "store")
    shutil.rmtree(ingested.folder / "lake")
    code, out = run(capsys, "restore", str(tmp_path / "second"))
    assert (code, "5 of them copied now" in out) == (0, True)
    assert as_json(capsys, "verify") == []


def test_progress_is_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", "--json"]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err.splitlines()[-1]) == ("[]\n", "  verified 5 of 5 objects")
