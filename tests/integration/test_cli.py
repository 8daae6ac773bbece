"""The ``kaizen`` command on a small real loop, as a person and as a script would use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.loops import MONTHS, Project, make_loop

from kaizen.cli import main


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A loop after its first turn."""
    project = make_loop(tmp_path_factory.mktemp("cli") / "rail")
    for month in MONTHS[:2]:
        project.land_month(month)
    assert main(["turn", str(project.spec), "--json"]) == 0
    return project


@pytest.fixture(autouse=True)
def in_project(turned: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(turned.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    return code, capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out = run(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_a_turn_with_nothing_due_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "turn")
    before = as_json(capsys, "ledger", "anchor")
    code, out = run(capsys, "turn")
    assert code == 0
    assert "ingested 0 partitions, validated 0, scored 0" in out
    assert as_json(capsys, "ledger", "anchor") == before


def test_status_tells_who_is_champion_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    (state,) = as_json(capsys, "status")
    assert state["loop"] == "rail/delays"
    assert state["champion"]["champion"] == 1
    assert state["data"]["schedules"]["partitions"] == 2
    assert state["turn"]["outcome"] == "deployed"
    code, text = run(capsys, "status", "rail/delays")
    assert code == 0
    assert "champion  1 since" in text


def test_status_as_of_a_moment_before_anything_happened(capsys: pytest.CaptureFixture[str]) -> None:
    (state,) = as_json(capsys, "status", "--as-of", "2020-01-01")
    assert state["champion"] is None
    assert state["data"] == {}


def test_status_of_an_unknown_loop_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "rail/nothing"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("KZ204")
    assert "rail/delays" in error


def test_a_ledger_goes_through_backup_and_restore(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    anchor = as_json(capsys, "ledger", "anchor")["anchor"]
    assert main(["ledger", "backup", str(tmp_path / "events.jsonl")]) == 0
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert main(["ledger", "restore", str(tmp_path / "events.jsonl"), "--ledger", other]) == 0
    capsys.readouterr()
    assert as_json(capsys, "ledger", "anchor", "--ledger", other)["anchor"] == anchor
    assert as_json(capsys, "ledger", "verify", "--ledger", other)["problems"] == []


def test_ledger_show_prints_events_of_a_kind(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "ledger", "show", "--kind", "Promotion", "--json")
    assert code == 0
    (event,) = [json.loads(line) for line in out.splitlines()]
    assert event["subject"] == "champion"
    assert event["payload"]["champion"] == 1


def test_reconcile_heals_a_deleted_alias(capsys: pytest.CaptureFixture[str], turned: Project) -> None:
    from kaizen.adapters.mlflow_registry import MlflowRegistry

    registry = MlflowRegistry(f"sqlite:///{turned.home / 'mlflow.db'}", turned.home / "mlartifacts")
    registry.set_alias("rail.delays", "champion", None)
    assert as_json(capsys, "reconcile") == ["champion: None -> 1"]
    assert registry.alias("rail.delays", "champion") == 1
    assert as_json(capsys, "reconcile") == []


def test_doctor_names_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    findings = {f["name"]: f for f in as_json(capsys, "doctor")}
    assert findings["spec"]["found"].startswith("rail/delays")
    assert findings["tracking"]["status"] == "ok"
    assert findings["ledger"]["status"] == "ok"
    assert findings["mlflow"]["status"] == "ok"


def test_doctor_says_what_is_broken_and_the_fix(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    project = make_loop(tmp_path / "rail", {"place": {"mode": "python", "interpreter": "/nowhere/python"}})
    code, out = run(capsys, "doctor", str(project.spec))
    assert code == 1
    assert "broken  place" in out
    assert "fix: correct place.interpreter" in out


def test_no_spec_here_is_one_clear_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["turn"]) == 2
    assert capsys.readouterr().err.startswith("KZ202: no spec here")


def test_until_takes_only_data_that_ends_by_then(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    project = make_loop(tmp_path / "rail")
    for month in MONTHS[:3]:
        project.land_month(month)
    assert main(["turn", str(project.spec), "--until", "2024-03-01"]) == 0
    capsys.readouterr()
    (state,) = as_json(capsys, "status", "--spec", str(project.spec))
    assert state["data"]["schedules"]["newest"] == "2024-02"
    assert main(["turn", str(project.spec)]) == 0
    capsys.readouterr()
    (state,) = as_json(capsys, "status", "--spec", str(project.spec))
    assert state["data"]["schedules"]["newest"] == "2024-03"
