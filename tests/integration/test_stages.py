"""``due``: which stage waits, read from the ledger after each; what a scheduler, a reconciler and the demo go by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.loops import MONTHS, Project, make_loop

from kaizen.cli import main
from kaizen.loop import open_loop
from kaizen.records import TriggerDecision
from kaizen.stages import due, run_stage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def own_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's own tracking store, as for a user who names none."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


def waiting(project: Project) -> tuple[str, ...]:
    with open_loop(project.spec) as loop:
        return due(loop)


def after(project: Project, *stages: str) -> tuple[str, ...]:
    """What waits when some stages have been run, one after the other."""
    for stage in stages:
        assert main(["stage", stage, str(project.spec)]) == 0
    return waiting(project)


def test_each_stage_leaves_work_for_the_next_until_nothing_waits(tmp_path: Path) -> None:
    project = make_loop(tmp_path / "project")
    assert after(project, "ingest", "validate") == ()
    for month in MONTHS[:2]:
        project.land_month(month)
    assert waiting(project) == ("ingest",)
    assert after(project, "ingest") == ("validate",)
    assert after(project, "validate") == ("trigger",)
    assert after(project, "trigger") == ("train",)
    assert after(project, "train", "evaluate", "promote", "deploy") == ("score",)
    assert after(project, "score") == ("monitor",)
    assert after(project, "monitor") == ()
    project.land_outcomes(MONTHS[2])
    project.land_schedules(MONTHS[2])
    assert after(project, "ingest", "validate", "score") == ("monitor",)
    assert after(project, "monitor") == ("trigger",)
    with open_loop(project.spec) as loop:
        assert due(loop, ("score", "monitor")) == ()


def test_a_refused_turn_leaves_nothing_that_waits(tmp_path: Path) -> None:
    project = make_loop(tmp_path / "project", {"gates": [{"metric": "roc_auc", "at_least": 0.999}]})
    for month in MONTHS[:2]:
        project.land_month(month)
    after(project, "ingest", "validate", "trigger")
    # Asked again, trigger would find another reason not to retrain; nobody needs to ask.
    assert after(project, "train", "evaluate", "promote", "deploy") == ()


def test_a_bell_before_the_first_look_at_a_new_champion_decides_nothing(tmp_path: Path) -> None:
    """Score and monitor have yet to look at the newest labelled partition: what was decided on it stands."""
    project = make_loop(tmp_path / "project")
    for month in MONTHS[:3]:
        project.land_month(month)
    after(project, "ingest", "validate", "trigger", "train", "evaluate", "promote", "deploy")
    with open_loop(project.spec) as loop:
        decided = loop.head(TriggerDecision, "trigger")
        assert decided
        for stage in ("trigger", "score", "trigger"):
            bell = run_stage(loop, stage)
            assert loop.head(TriggerDecision, "trigger") == decided
        assert bell.idle == "no retraining: what was decided last is done"
        run_stage(loop, "monitor")
        assert run_stage(loop, "trigger").idle == "no retraining: drift unknown: no reason to act"
        looked = loop.head(TriggerDecision, "trigger")
        assert looked
        assert looked.partition == decided.partition
        assert looked.health
