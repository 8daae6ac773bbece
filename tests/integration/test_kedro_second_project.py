"""A second project from the same starter: a regression on other data. What differs is printed, and must stay little."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes
from tests.kedro_projects import call_warm, new_project, succeed
from tests.loops import WarmProcesses

from kaizen.ledger import Event, open_ledger

OWN = Path(__file__).parents[1] / "e2e" / "regression_project"
"""All that is not the starter's: two settings files and one training function. Data comes with scikit-learn."""
SETTINGS = ("kaizen.yml", "parameters.yml")
ELSEWHERE = f"place: {{mode: python, interpreter: {sys.executable}}}\n"


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


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the starter makes."""
    return new_project(tmp_path_factory.mktemp("starter"), "Clinic", repository="clinic", package="clinic")


def make_project(starter: Path, folder: Path, env: str = "local", changes: str = "") -> Path:
    """The starter's project with its own training, settings in ``env`` (and more lines there), and three months."""
    project = shutil.copytree(starter, folder / "clinic")
    shutil.copy(OWN / "nodes.py", project / "src/clinic/pipelines/training/nodes.py")
    settings = project / "conf" / env
    settings.mkdir(exist_ok=True)
    for name in SETTINGS:
        shutil.copy(OWN / name, settings / name)
    with (settings / "kaizen.yml").open("a") as file:
        file.write(changes)
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


@pytest.fixture(scope="module")
def first(processes: WarmProcesses, starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after its first ``kedro run``."""
    project = make_project(starter, tmp_path_factory.mktemp("kedro"))
    succeed(call_warm(processes, project, "kedro", "run"))
    return project


@pytest.fixture(scope="module")
def told(first: Path) -> Facts:
    """What the ledger says after that run."""
    return facts(first)


@pytest.fixture(scope="module")
def second(processes: WarmProcesses, first: Path, told: Facts) -> Path:
    """The project after another month has landed and ``kedro run`` has run again."""
    land(first, 4)
    succeed(call_warm(processes, first, "kedro", "run"))
    return first


def test_second_project_differs_by_few_lines() -> None:
    lines = [line for name in SETTINGS for line in (OWN / name).read_text().splitlines() if line.strip()]
    print("\n".join(lines))
    assert 0 < len(lines) <= 25


def test_first_run_is_one_turn_with_a_champion(told: Facts) -> None:
    kinds = [kind for _, kind, _ in told]
    turn = ["TriggerDecision", "TrainingSet", "TrainedModel", "EvaluationReport", "PromotionDecision", "Promotion"]
    after = ["Deployment", "TurnRecord", "ScoredBatch", "HealthReport"]
    assert kinds[kinds.index("TriggerDecision") :] == turn + after


# What lies in `prod` here lay in `local` in the first run. That the records are the same says that the training got all
# of it: with the starter's own parameters it fits another model.


# In another place `make test` compares the turn below, whose rows are split as well.
@pytest.mark.parametrize(
    "place", [pytest.param("", id="in_process"), pytest.param(ELSEWHERE, id="python", marks=pytest.mark.soak)]
)
def test_a_turn_from_the_shell_in_any_place_leaves_the_same_records(
    processes: WarmProcesses, told: Facts, starter: Path, tmp_path: Path, place: str
) -> None:
    project = make_project(starter, tmp_path, "prod", place)
    turn = ("turn", "conf/base/kaizen.yml", "--env", "prod", "--because", "kedro run")
    succeed(call_warm(processes, project, "kaizen.cli", *turn))
    assert facts(project) == told


DAGS = """
from kaizen_airflow import IngestDag, MonitoringDag, ScoringDag, TrainingDag

which = dict(spec={spec!r}, env="prod")
dags = [kind(**which, dag_id=name + {suffix!r}) for name, kind in (
    ("ingest", IngestDag), ("scoring", ScoringDag), ("monitoring", MonitoringDag), ("training", TrainingDag))]
"""


# In this process: `make test` does the same on a real Airflow, with the loop of tests/loops.py.
@pytest.mark.long
@pytest.mark.parametrize(
    "place", [pytest.param("", id="in_process"), pytest.param(ELSEWHERE, id="python", marks=pytest.mark.soak)]
)
def test_dag_runs_in_any_place_leave_the_same_records(
    told: Facts, starter: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("airflow", reason="apache-airflow is not installed: pip install 'kaizen-mlops[airflow]'")
    from tests.airflow_home import load_dags, make_database, run_dag

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    make_database()
    project, suffix = make_project(starter, tmp_path, "prod", place), "_elsewhere" if place else "_here"
    spec = str(project / "conf/base/kaizen.yml")
    dags = load_dags(f"clinic{suffix}", DAGS.format(spec=spec, suffix=suffix))
    assert [run_dag(dags[f"{kind}{suffix}"]).state for kind in ("ingest", "scoring")] == ["success", "success"]
    asked = run_dag(dags[f"monitoring{suffix}"], because="kedro run")
    assert asked.tasks == {"monitor": "success", "trigger": "success"}
    trained = run_dag(dags[f"training{suffix}"])
    assert set(trained.tasks.values()) == {"success"}
    assert run_dag(dags[f"scoring{suffix}"]).state == "success"
    # ``dag.test`` leaves the parameters of its run in the DAG that it ran.
    looked = run_dag(load_dags(f"clinic{suffix}", DAGS.format(spec=spec, suffix=suffix))[f"monitoring{suffix}"])
    assert looked.tasks == {"monitor": "success", "trigger": "skipped"}
    # A run of the monitoring DAG always asks the trigger; a turn from the shell does so once.
    found = facts(project)
    assert found[: len(told)] == told
    assert [(kind, payload["retrain"]) for _, kind, payload in found[len(told) :]] == [("TriggerDecision", False)]


@pytest.mark.long
def test_a_run_killed_after_training_keeps_its_candidate(
    processes: WarmProcesses, told: Facts, starter: Path, tmp_path: Path
) -> None:
    project = make_project(starter, tmp_path, "prod")
    killed = call_warm(processes, project, "kedro", "run", "--env=prod", KAIZEN_FAULT="evaluate.before_append:kill")
    assert killed.returncode == -9
    [before] = [e for e in events(project) if e.kind == "TrainedModel"]
    succeed(call_warm(processes, project, "kedro", "run", "--env=prod"))
    assert [e.hash for e in events(project) if e.kind == "TrainedModel"] == [before.hash]
    assert facts(project) == told


def test_next_month_is_another_turn(second: Path) -> None:
    turns = [e.payload for e in events(second) if e.kind == "TurnRecord"]
    scored = [(e.payload["partition"], e.payload["champion"]) for e in events(second) if e.kind == "ScoredBatch"]
    assert len(turns) == 2
    assert turns[1]["turn"].startswith("2024-04-")
    assert ("2024-04", 1) in scored


def test_single_nodes_run_again_on_the_records_of_the_last_turn(processes: WarmProcesses, second: Path) -> None:
    before = facts(second)
    succeed(call_warm(processes, second, "kedro", "run", "--from-nodes=promote"))
    assert facts(second) == before


def test_a_run_over_budget_is_refused_in_the_words_of_the_core(processes: WarmProcesses, second: Path) -> None:
    before = events(second)
    refused = call_warm(processes, second, "kedro", "run")
    assert refused.returncode != 0
    assert "KZ210" in refused.stdout
    assert events(second) == before


SPLITS = {
    "\ntrain: {": "\ntrain: {validation: {by: hash, share: 0.25}, ",
    "  label: null": "  label: null\n  group: [patient]",
    "  outcomes: null": "  outcomes: null\n  acceptance: {share: 0.1}",
    "gates:": "gates:\n  - {metric: rmse, rows: acceptance, at_most: 90}",
}


@pytest.mark.long
def test_validation_rows_and_rows_set_aside_are_the_same_by_kedro_and_in_another_place(
    processes: WarmProcesses, starter: Path, tmp_path: Path
) -> None:
    found = []
    for folder, place, command in (
        (tmp_path / "here", "", ("kedro", "run", "--env=prod")),
        (tmp_path / "there", ELSEWHERE, ("kaizen.cli", "turn", "conf/base/kaizen.yml", "--env=prod")),
    ):
        folder.mkdir()
        project = make_project(starter, folder, "prod", place)
        changed(project / "conf/prod/kaizen.yml", SPLITS)
        asks = {'inputs=["examples",': 'inputs=["examples", "validation",'}
        changed(project / "src/clinic/pipelines/training/pipeline.py", asks)
        checks = {
            "def fit(examples: pd.DataFrame,": "def fit(examples: pd.DataFrame, validation: pd.DataFrame,",
            "    features, label =": "    assert 40 < len(validation) < len(examples)\n    features, label =",
        }
        changed(project / "src/clinic/pipelines/training/nodes.py", checks)
        succeed(call_warm(processes, project, *command))
        found.append([(kind, p) for _, kind, p in facts(project) if kind not in ("TriggerDecision", "TurnRecord")])
    assert found[0] == found[1]
    kinds = dict(found[0])
    assert kinds["AcceptanceSet"]["columns"] == ["patient"]
    assert [c["rows"] for c in kinds["EvaluationReport"]["acceptance"]] == [kinds["AcceptanceSet"]["rows"]]
    assert kinds["TrainedModel"]["rows"] < 0.8 * 330


def changed(path: Path, changes: dict[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def test_a_bad_spec_is_refused_before_any_node(processes: WarmProcesses, starter: Path, tmp_path: Path) -> None:
    project = make_project(starter, tmp_path, changes="trian: {window: all}\n")
    refused = call_warm(processes, project, "kedro", "run")
    assert refused.returncode != 0
    assert "KZ303" in refused.stdout
    assert not (project / ".kaizen").exists()
