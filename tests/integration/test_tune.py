"""A search before a training, in a real loop: what it selects by, what becomes of it, what a kill changes."""

from __future__ import annotations

import json
import signal
import sys
from datetime import datetime, timedelta

import pytest
from mlflow import MlflowClient
from tests.loops import LOOP, MONTHS, make_loop

from kaizen.ledger import open_ledger
from kaizen.records import EvaluationReport, Search, TrainedModel, TrainingSet

CODE = '''
import time
from pathlib import Path

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent


def train(examples, *, target, seed, strength=1.0, scale=True):
    features = examples.drop(columns=target)
    model = make_pipeline(StandardScaler(with_std=scale), LogisticRegression(C=strength, random_state=seed))
    model.fit(features, examples[target])
    return model


def stubborn(examples, *, target, seed, step=0, report):
    """From the sixth trial on they are hopeless, and say so; some hear that they are to stop, and some do not."""
    calls = HERE / "calls"
    calls.mkdir(exist_ok=True)
    (calls / str(time.time_ns())).touch()
    if len(list(calls.iterdir())) == 6:
        report(0, 0.0)
        for n in range(1, 600):
            time.sleep(0.1)
            if not (HERE / "deaf").exists():
                report(n, 0.0)
    report(0, 1.0)
    return train(examples, target=target, seed=seed)


def breaks(examples, *, target, seed, step=0):
    if step:
        raise ZeroDivisionError("no rolling stock")
    return train(examples, target=target, seed=seed)
'''
PARAMETERS = {
    "strength": {"default": 0.001, "low": 1e-6, "high": 10.0, "log": True},
    "scale": {"default": True, "choices": [True, False]},
}


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path / "project")


def make_project(folder):
    project = make_loop(folder)
    (project.folder / "src" / "rail" / "tuned.py").write_text(CODE, encoding="utf-8")
    for month in MONTHS[:2]:
        project.land_month(month)
    return project


def search_by(project, function="train", **tune):
    tune = {"parameters": PARAMETERS, "trials": 4, **tune}
    project.write_spec({"train": {"function": f"rail.tuned:{function}"}, "tune": tune})


def records(project, kind):
    with open_ledger(f"sqlite:///{project.home / 'ledger.db'}") as ledger:
        return [kind.from_json(event.payload) for event in ledger.events(LOOP, kind=kind.__name__)]


def test_the_best_configuration_is_trained_on_all_rows_and_becomes_the_candidate(processes, project):
    search_by(project, trials=6)
    ended = processes.kaizen("turn", project.spec)
    assert ended.code == 0, ended.err
    (search,), (model,) = records(project, Search), records(project, TrainedModel)
    (examples,), (evaluation,) = records(project, TrainingSet), records(project, EvaluationReport)
    assert len(search.trials) == 6
    assert search.trials[0].parameters == {"strength": 0.001, "scale": True}
    assert search.ended_by == "trials"
    best = max(search.trials, key=lambda trial: trial.value)
    assert search.parameters == best.parameters
    assert {f"tune.{k}": str(v) for k, v in best.parameters.items()}.items() <= model.parameters.items()
    assert model.parameters["logisticregression.C"] == str(best.parameters["strength"])
    # Selected on a week that ends where the gate's begins: nothing is judged by what it was chosen by.
    assert search.training_set == examples.digest == model.training_set
    assert search.window.end == examples.gate.start == evaluation.window.start
    start, end = (datetime.fromisoformat(moment) for moment in (search.window.start, search.window.end))
    assert end - start == timedelta(days=7)
    assert examples.window.end == search.window.end


def test_trials_are_runs_within_the_trainings_and_the_page_is_among_its_artifacts(processes, project):
    search_by(project)
    assert processes.kaizen("turn", project.spec).code == 0
    runs = runs_of(project)
    (search,) = records(project, Search)
    training = runs["train"].info.run_id
    for trial in search.trials:
        run = runs[f"trial-{trial.number + 1:03}"]
        assert run.data.tags["mlflow.parentRunId"] == training
        assert run.data.metrics["roc_auc"] == trial.value
        assert run.data.params["strength"] == str(trial.parameters["strength"])
        assert run.info.status == "FINISHED"
    assert runs["train"].info.status == "FINISHED"
    (page,) = client_of(project).list_artifacts(runs["tune"].info.run_id)
    assert page.path == "tune.html"


def client_of(project):
    return MlflowClient(f"sqlite:///{project.home / 'mlflow.db'}")


def runs_of(project):
    client = client_of(project)
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == LOOP]
    return {run.info.run_name: run for run in client.search_runs([experiment])}


@pytest.mark.long
def test_another_turn_searches_anew_and_a_stage_that_is_repeated_does_not(processes, project):
    search_by(project, trials=2)
    assert processes.kaizen("turn", project.spec).code == 0
    project.land_month(MONTHS[2])
    assert processes.kaizen("turn", project.spec).code == 0
    first, second = records(project, Search)
    assert first.study != second.study
    assert processes.kaizen("turn", project.spec).code == 0
    assert len(records(project, Search)) == 2


@pytest.fixture(scope="module")
def undisturbed(processes, tmp_path_factory):
    """A project, saved as it is before a turn; and what nobody disturbed leaves."""
    project = make_project(tmp_path_factory.mktemp("undisturbed") / "project")
    search_by(project)
    project.save("before")
    assert processes.kaizen("turn", project.spec).code == 0
    (search,) = records(project, Search)
    return project, search


POINTS = (
    pytest.param("tune.after_ask:kill:1", marks=pytest.mark.soak),
    "tune.before_tell:kill:3",
    pytest.param("tune.after_trial:kill:2", marks=pytest.mark.soak),
    # The first trial has been told the study, and not shown yet.
    "registry.log_stage.before_finish:kill:1",
)


@pytest.mark.long
@pytest.mark.parametrize("point", POINTS)
def test_a_search_that_is_killed_goes_on_and_ends_where_an_undisturbed_one_does(processes, undisturbed, point):
    project, expected = undisturbed
    project.restore("before")
    ended = processes.kaizen("turn", project.spec, env={"KAIZEN_FAULT": point})
    assert ended.code == -signal.SIGKILL, ended.err
    assert processes.kaizen("turn", project.spec).code == 0
    (search,) = records(project, Search)
    assert without_seconds(search) == without_seconds(expected)
    shown = {f"trial-{trial.number + 1:03}" for trial in search.trials}
    assert {name: run.info.status for name, run in runs_of(project).items() if name in shown} == dict.fromkeys(
        shown, "FINISHED"
    )


def without_seconds(search):
    trials = [{**vars(trial), "seconds": 0} for trial in search.trials]
    return {**vars(search), "trials": trials}


def test_a_hopeless_trial_hears_that_it_is_to_stop(processes, project):
    search_by(project, "stubborn", trials=6, parameters={"step": {"default": 0, "low": 0, "high": 9}})
    ended = processes.kaizen("turn", project.spec)
    assert ended.code == 0, ended.err
    (search,) = records(project, Search)
    assert [trial.state for trial in search.trials] == ["complete"] * 5 + ["pruned"]
    assert search.trials[5].value is None
    assert search.best < 5


@pytest.mark.soak
def test_a_hopeless_trial_that_does_not_hear_is_ended(processes, project):
    search_by(project, "stubborn", trials=6, parameters={"step": {"default": 0, "low": 0, "high": 9}})
    (project.folder / "src" / "rail" / "deaf").touch()
    place = {"mode": "python", "interpreter": sys.executable, "stop_timeout": "1s"}
    project.write_spec({"place": place}, env="python")
    ended = processes.kaizen("turn", project.spec, "--env", "python")
    assert ended.code == 0, ended.err
    (search,) = records(project, Search)
    assert [trial.state for trial in search.trials] == ["complete"] * 5 + ["pruned"]
    assert search.trials[5].reason.startswith("KZ703")


def test_a_configuration_that_breaks_the_code_costs_its_trial_only(processes, project):
    search_by(project, "breaks", parameters={"step": {"default": 0, "low": 0, "high": 5}})
    ended = processes.kaizen("turn", project.spec)
    assert ended.code == 0, ended.err
    (search,) = records(project, Search)
    failed = [trial for trial in search.trials if trial.state == "failed"]
    assert failed
    assert all(trial.reason.startswith("KZ701") and trial.parameters["step"] for trial in failed)
    assert search.parameters == {"step": 0}


def test_a_default_that_breaks_the_code_fails_the_stage(processes, project):
    search_by(project, "breaks", parameters={"step": {"default": 1, "low": 0, "high": 5}})
    ended = processes.kaizen("turn", project.spec)
    assert ended.code == 7
    assert "no rolling stock" in ended.err
    assert records(project, Search) == []


def test_a_function_without_the_parameter_is_refused_with_the_nearest_name(processes, project):
    search_by(project, parameters={"strenght": {"default": 1.0, "low": 0.1, "high": 2.0}})
    ended = processes.kaizen("turn", project.spec)
    assert ended.code == 3, ended.err
    assert "KZ318" in ended.err
    assert "'strength'" in ended.err


def test_time_is_a_budget_of_all_trials_together(processes, project):
    search_by(project, trials=10_000, time="1s")
    ended = processes.kaizen("turn", project.spec)
    assert ended.code == 0, ended.err
    (search,) = records(project, Search)
    assert search.ended_by == "time"
    assert 1 <= len(search.trials) < 10_000
    assert sum(trial.seconds for trial in search.trials[:-1]) < 1


def test_without_optuna_it_is_refused_before_anything_is_decided(processes, project):
    search_by(project)
    ended = processes.start("tests.integration.test_tune:turn_without_optuna", str(project.spec)).wait()
    assert "kaizen-mlops[tune]" in ended.err
    assert records(project, TrainingSet) == []
    with open_ledger(f"sqlite:///{project.home / 'ledger.db'}") as ledger:
        decisions = [json.loads(json.dumps(e.payload)) for e in ledger.events(LOOP, kind="TriggerDecision")]
    assert not any(decision["retrain"] for decision in decisions)


def turn_without_optuna(spec):
    """A turn where Optuna is not installed."""
    import importlib.util

    from kaizen import tune
    from kaizen.cli import main

    found = importlib.util.find_spec
    tune.find_spec = lambda name: None if name == "optuna" else found(name)
    return main(["turn", spec])
