"""A second project from the same starter: a regression on other data. What differs is printed, and must stay little."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.datasets import load_diabetes

from kaizen.ledger import Event, open_ledger

OWN = Path(__file__).parents[1] / "e2e" / "regression_project"
"""All that is not the starter's: two settings files and one training function. Data comes with scikit-learn."""


def call(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m COMMAND`` in ``folder``."""
    named = ("KAIZEN_", "KEDRO_ENV", "MLFLOW_TRACKING_URI")
    env = {k: v for k, v in os.environ.items() if not k.startswith(named)} | variables
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=env, text=True, capture_output=True, check=False
    )


def land(project: Path, *months: int) -> None:
    """Write some months of patients, 110 each, as they would be delivered."""
    rows = load_diabetes(as_frame=True).frame.rename(columns={"target": "progression"}).sample(frac=1, random_state=0)
    for month in months:
        some = rows.iloc[110 * (month - 1) : 110 * month].reset_index(drop=True)
        hours = pd.to_timedelta(np.arange(len(some)) * 6, unit="h")
        times = pd.Timestamp(2024, month, 1, 12, tz="UTC") + hours
        some = some.assign(patient=some.index + 1000 * month, measured_at=times)
        (project / "landing").mkdir(exist_ok=True)
        some.to_parquet(project / "landing" / f"2024-{month:02}.parquet", index=False)


def new(folder: Path, name: str) -> Path:
    """The starter as it comes."""
    answers = {"project_name": name.title(), "repo_name": name, "python_package": name, "output_dir": str(folder)}
    (folder / "answers.yml").write_text(yaml.safe_dump(answers))
    succeed(call(folder, "kedro", "new", "--starter=kaizen-flights", "--config", "answers.yml"))
    return folder / name


def make_project(folder: Path, overlay: dict[str, Any] | None = None) -> Path:
    """The starter with this project's own files laid over it, three months of data, and two retrainings to spend."""
    project = new(folder, "clinic")
    for name in ("kaizen.yml", "parameters.yml"):
        shutil.copy(OWN / name, project / "conf/base" / name)
    shutil.copy(OWN / "nodes.py", project / "src/clinic/pipelines/training/nodes.py")
    budget = {"retrain": {"budget": {"retrains": 2, "per": "365d"}}}
    (project / "conf/local/kaizen.yml").write_text(yaml.safe_dump(budget | (overlay or {})))
    land(project, 1, 2, 3)
    return project


def events(project: Path) -> list[Event]:
    with open_ledger(f"sqlite:///{project}/.kaizen/ledger.db") as ledger:
        return list(ledger.events("clinic/progression"))


Facts = list[tuple[str, str, dict[str, Any]]]


def facts(project: Path) -> Facts:
    """What the ledger says, without times and without the commit ids of the data repository, which hold times."""
    return [
        (e.subject, e.kind, {k: v for k, v in e.payload.items() if (e.kind, k) != ("DataVersion", "commit")})
        for e in events(project)
    ]


def succeed(ran: subprocess.CompletedProcess[str]) -> None:
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after its first ``kedro run``."""
    project = make_project(tmp_path_factory.mktemp("kedro"))
    succeed(call(project, "kedro", "run"))
    return project


@pytest.fixture(scope="module")
def told(first: Path) -> Facts:
    """What the ledger says after that run."""
    return facts(first)


@pytest.fixture(scope="module")
def second(first: Path, told: Facts) -> Path:
    """The project after another month has landed and ``kedro run`` has run again."""
    land(first, 4)
    succeed(call(first, "kedro", "run"))
    return first


def test_second_project_differs_by_few_lines(tmp_path: Path) -> None:
    starter, written = new(tmp_path, "flights") / "conf/base", []
    for name in ("kaizen.yml", "parameters.yml"):
        theirs, ours = (path.read_text().splitlines() for path in (starter / name, OWN / name))
        lines = list(difflib.unified_diff(theirs, ours, f"flights/{name}", f"clinic/{name}", n=0, lineterm=""))
        print("\n".join(lines))
        written += [line for line in lines[2:] if line.startswith("+")]
    assert 0 < len(written) <= 25


def test_first_run_is_one_turn_with_a_champion(told: Facts) -> None:
    kinds = [kind for _, kind, _ in told]
    turn = ["TriggerDecision", "TrainingSet", "TrainedModel", "EvaluationReport", "PromotionDecision", "Promotion"]
    after = ["Deployment", "TurnRecord", "ScoredBatch", "HealthReport"]
    assert kinds[kinds.index("TriggerDecision") :] == turn + after


def test_a_turn_from_the_shell_leaves_the_same_records(told: Facts, tmp_path: Path) -> None:
    project = make_project(tmp_path)
    succeed(call(project, "kaizen.cli", "turn", "conf/base/kaizen.yml", "--because", "kedro run"))
    assert facts(project) == told


def test_another_place_leaves_the_same_records(told: Facts, tmp_path: Path) -> None:
    project = make_project(tmp_path, {"place": {"mode": "python", "interpreter": sys.executable}})
    ran = call(project, "kedro", "run")
    succeed(ran)
    assert "train.open" not in ran.stdout
    assert facts(project) == told


def test_a_run_killed_after_training_keeps_its_candidate(told: Facts, tmp_path: Path) -> None:
    project = make_project(tmp_path)
    killed = call(project, "kedro", "run", KAIZEN_FAULT="evaluate.before_append:kill")
    assert killed.returncode == -9
    [before] = [e for e in events(project) if e.kind == "TrainedModel"]
    succeed(call(project, "kedro", "run"))
    assert [e.hash for e in events(project) if e.kind == "TrainedModel"] == [before.hash]
    assert facts(project) == told


def test_next_month_is_another_turn(second: Path) -> None:
    turns = [e.payload for e in events(second) if e.kind == "TurnRecord"]
    scored = [(e.payload["partition"], e.payload["champion"]) for e in events(second) if e.kind == "ScoredBatch"]
    assert len(turns) == 2
    assert turns[1]["turn"].startswith("2024-04-")
    assert ("2024-04", 1) in scored


def test_single_nodes_run_again_on_the_records_of_the_last_turn(second: Path) -> None:
    before = facts(second)
    succeed(call(second, "kedro", "run", "--from-nodes=promote"))
    assert facts(second) == before


def test_a_run_over_budget_is_refused_in_the_words_of_the_core(second: Path) -> None:
    before = events(second)
    refused = call(second, "kedro", "run")
    assert refused.returncode != 0
    assert "KZ210" in refused.stdout + refused.stderr
    assert events(second) == before


def test_a_bad_spec_is_refused_before_any_node(tmp_path: Path) -> None:
    project = make_project(tmp_path, {"train": {"windw": "all"}})
    refused = call(project, "kedro", "run")
    assert refused.returncode != 0
    assert "KZ303" in refused.stdout + refused.stderr
    assert not (project / ".kaizen").exists()
