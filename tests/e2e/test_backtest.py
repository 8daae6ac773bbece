"""`kaizen backtest` on a small history in which the world turns over in March: the whole replay, through real tools."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.loops import MONTHS, Project, make_loop

from kaizen.cli import main
from kaizen.ledger import open_ledger
from kaizen.loop import open_loop
from kaizen.monitor import monitor
from kaizen.review import differences, review
from kaizen.spec import load_spec
from kaizen.trigger import trigger, turn_id

CHANGES = {"monitor": {"false_alarms_per_year": 0.5}, "retrain": {"reasons": ["drift", "decay"]}}


@dataclass(frozen=True)
class Replayed:
    """A backtest that ran once for all tests."""

    project: Project
    out: Path
    code: int
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    folder = tmp_path_factory.mktemp("backtest")
    project = make_loop(folder / "rail", CHANGES)
    for month in MONTHS[:7]:
        project.land_month(month)
    out = folder / "out"
    code = main(["backtest", str(project.spec), "--out", str(out)])
    return Replayed(project, out, code, json.loads((out / "summary.json").read_text()))


def test_a_champion_that_decays_is_replaced_and_the_loop_gains(replayed: Replayed) -> None:
    rows = {row["partition"]: row for row in replayed.summary["months"]}
    assert list(rows) == ["2024-03", "2024-04", "2024-05", "2024-06", "2024-07"]
    turned = rows["2024-03"]
    assert turned["performance"] == "alarm"
    assert turned["causes"] == ["decay"]
    assert (turned["champion"], turned["champion_after"], turned["gate"]) == (1, 2, "promoted")
    assert turned["value_loop"] == turned["value_static"]
    assert rows["2024-04"]["value_loop"] > rows["2024-04"]["value_static"] + 0.2
    assert replayed.summary["difference_interval"][0] > 0.2


def test_what_the_gate_saw_is_held_against_what_came_true(replayed: Replayed) -> None:
    turned = replayed.summary["months"][0]
    assert turned["gain_seen"] > 0.2
    assert turned["gain_realised"] == pytest.approx(turned["gain_seen"], abs=0.15)
    april = replayed.summary["months"][1]
    assert turned["gain_realised"] == pytest.approx(april["value_loop"] - april["value_static"], abs=1e-9)


def test_exit_code_is_that_of_the_checks(replayed: Replayed) -> None:
    checks = replayed.summary["checks"]
    assert len(checks) == 4
    assert replayed.code == (0 if all(check["passed"] for check in checks) else 1)
    assert checks[0]["passed"]
    assert checks[2]["value"] >= 1


def test_shuffled_rows_are_stationary(replayed: Replayed) -> None:
    shuffled = replayed.summary["shuffled"]
    assert [row["drift"] for row in shuffled["months"]] == ["ok"] * 5
    values = [row["value_loop"] for row in shuffled["months"]]
    assert max(values) - min(values) < 0.2
    assert shuffled["retrains"] <= 1


def test_summary_holds_what_the_report_shows(replayed: Replayed) -> None:
    names = ("months", "mean_auc_loop", "mean_auc_static", "difference_interval", "retrains", "promotions", "gain_seen")
    assert all(replayed.summary[name] is not None for name in (*names, "gain_realised", "seconds"))
    page = (replayed.out / "report.html").read_text(encoding="utf-8")
    assert all(row["partition"] in page for row in replayed.summary["months"])


def test_backtest_writes_to_scratch_only(replayed: Replayed) -> None:
    assert not replayed.project.home.exists()
    with open_ledger(f"sqlite:///{replayed.out / 'replay' / 'home' / 'ledger.db'}") as ledger:
        assert ledger.verify().ok
        assert ledger.loops() == ["rail/delays"]


def test_events_carry_the_virtual_clock(replayed: Replayed) -> None:
    with open_ledger(f"sqlite:///{replayed.out / 'replay' / 'home' / 'ledger.db'}") as ledger:
        times = [event.at for event in ledger.events("rail/delays")]
    assert times == sorted(times)
    assert times[0] == datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Paris"))
    assert times[-1] == datetime(2024, 8, 2, tzinfo=ZoneInfo("Europe/Paris"))


def test_the_ledger_tells_the_same_afterwards(replayed: Replayed) -> None:
    with open_loop(replayed.project.spec, home=replayed.out / "replay" / "home") as loop:
        before = loop.ledger.verify().anchor
        found = review(loop)
        assert loop.ledger.verify().anchor == before
    assert json.loads(json.dumps(found.months)) == replayed.summary["months"]
    assert found.retrains == replayed.summary["retrains"]
    assert differences(found.months, replayed.summary["months"]) == []


def test_what_comes_later_changes_nothing_that_is_told_of_a_month(replayed: Replayed, tmp_path: Path) -> None:
    shutil.copytree(replayed.out / "replay" / "home", tmp_path / "home")
    spec = load_spec(replayed.project.spec, "local")
    blind = replace(spec.monitor, drift=replace(spec.monitor.drift, min_rows=10**9))
    changed = replace(spec, monitor=blind, retrain=replace(spec.retrain, reasons=("person",)))
    with open_loop(replayed.project.spec, spec=changed, home=tmp_path / "home") as loop:
        assert {look.drift for look in monitor(loop)} == {"unknown"}
        wished = trigger(loop, wish="to see")
        assert (wished.partition, wished.retrain) == ("2024-07", True)
        champion = loop.champion()
        assert champion
        number = champion[0].champion
        another = replace(champion[0], champion=number + 1, replaces=number)
        loop.append("champion", another, "another", turn=turn_id(wished))
        found = review(loop)
    assert json.loads(json.dumps(found.months)) == replayed.summary["months"]
    assert found.retrains == replayed.summary["retrains"] + 1


def test_too_little_history_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = make_loop(tmp_path / "rail")
    project.land_month(MONTHS[0])
    assert main(["backtest", str(project.spec), "--out", "out"]) == 2
    assert capsys.readouterr().err.startswith("KZ220: too little history to replay")
    assert not (tmp_path / "out").exists()
