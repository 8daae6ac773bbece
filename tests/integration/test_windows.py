"""Windows and splits in a real loop: what user code gets, what is set aside, what is refused before it is kept."""

from __future__ import annotations

import json
import sys
from typing import Any

import pandas as pd
import pytest
from tests.loops import LOOP, MONTHS, make_loop, outcomes, schedules

from kaizen import codec
from kaizen.adapters import docker_place
from kaizen.adapters.tables import read_parquet
from kaizen.bridge import Request
from kaizen.canonical import file_digests
from kaizen.cli import main
from kaizen.errors import DataRefused
from kaizen.ledger import open_ledger
from kaizen.loop import open_loop
from kaizen.records import (
    AcceptanceSet,
    DataVersion,
    EvaluationReport,
    PromotionDecision,
    TrainedModel,
    TrainingSet,
    ValidationReport,
)
from kaizen.splits import by_hash
from kaizen.stages import Order, run_stage
from kaizen.train import refuse_unsound, training_set

CODE = '''
"""A training that validates, and keeps what it was given."""

from pathlib import Path

from rail.training import _fit
from sklearn.linear_model import LogisticRegression


def train(examples, *, target, seed, validation, strength=1.0):
    folder = Path(__file__).parent / "given"
    folder.mkdir(exist_ok=True)
    number = len(list(folder.iterdir())) // 2
    examples.to_parquet(folder / f"{number}-examples.parquet")
    validation.to_parquet(folder / f"{number}-validation.parquet")
    return _fit(LogisticRegression(C=strength, random_state=seed), examples, target)
'''
VALIDATING = {"function": "rail.validating:train", "window": "all", "min_partitions": 2}


@pytest.fixture(autouse=True)
def own_tracking(monkeypatch):
    """The loop's own tracking store, as for a user who names none."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


@pytest.fixture(autouse=True)
def own_code(monkeypatch):
    """The project's own package ``rail``, not that of another test's project in this process."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "rail"]:
        monkeypatch.delitem(sys.modules, name)


def project_of(folder, changes: dict[str, Any] | None = None):
    project = make_loop(folder / "project", changes)
    (project.folder / "src" / "rail" / "validating.py").write_text(CODE, encoding="utf-8")
    for month in MONTHS[:2]:
        project.land_month(month)
    return project


def records(project, kind):
    with open_ledger(f"sqlite:///{project.home / 'ledger.db'}") as ledger:
        return [kind.from_json(event.payload) for event in ledger.events(LOOP, kind=kind.__name__)]


def given(project, number: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = project.folder / "src" / "rail" / "given"
    examples, validation = (pd.read_parquet(folder / f"{number}-{what}.parquet") for what in ("examples", "validation"))
    return examples, validation


def before_the_gate(*months: str) -> pd.DataFrame:
    rows = pd.concat([schedules(month) for month in months], ignore_index=True)
    gate = pd.Timestamp("2024-03-01", tz="Europe/Paris") - pd.Timedelta(days=7)
    return rows[rows["departs"] < gate].reset_index(drop=True)


# What a training set names.


def test_an_evaluation_is_walked_back_to_the_files_that_were_delivered(tmp_path):
    project = project_of(tmp_path)
    assert main(["turn", str(project.spec)]) == 0
    (decision,), (evaluation,) = records(project, PromotionDecision), records(project, EvaluationReport)
    (model,), (examples,) = records(project, TrainedModel), records(project, TrainingSet)
    assert decision.evaluation == evaluation.digest
    assert evaluation.candidate == decision.candidate == model.digest
    assert model.training_set == examples.digest
    assert evaluation.window == examples.gate
    # The gate's rows are February's alone; the training set also names where it looked for them.
    assert {(i.table, i.partition) for i in evaluation.inputs} == {
        ("schedules", "2024-02"),
        ("outcomes", "2024-02"),
        ("stations", "all"),
    }
    delivered = {file_digests(path)[1]["sha256"]: path.parent.name for path in project.landing.rglob("*.parquet")}
    with open_loop(project.spec) as loop:
        for found in {*evaluation.inputs, *examples.inputs}:
            version = loop.by_digest(DataVersion, f"data/{found.table}/{found.partition}", found.data)
            verdict = loop.by_digest(ValidationReport, f"validation/{found.table}/{found.partition}", found.verdict)
            assert (verdict.data, verdict.valid) == (found.data, found.address)
            assert delivered[version.source.sha256] == found.table
            assert loop.store.file(found.address).is_file()


# Splits inside training.


# The rows are cut by the same code in either place: one way of it in another process, both in `make soak`.
@pytest.mark.parametrize(
    ("by", "mode"),
    [
        ("time", "in_process"),
        ("hash", "in_process"),
        pytest.param("time", "python", marks=pytest.mark.long),
        pytest.param("hash", "python", marks=pytest.mark.soak),
    ],
)
def test_user_code_gets_rows_to_validate_on_that_are_not_among_its_examples(tmp_path, by, mode):
    place = {"mode": mode, **({"interpreter": sys.executable} if mode == "python" else {})}
    train = {**VALIDATING, "validation": {"by": by, "share": 0.25}}
    project = project_of(tmp_path, {"train": train, "place": place})
    assert main(["turn", str(project.spec)]) == 0
    examples, validation = given(project)
    rows = before_the_gate(*MONTHS[:2])
    if by == "time":
        held = rows["departs"] >= rows["departs"].sort_values().iloc[-round(0.25 * len(rows))]
    else:
        held = pd.Series(by_hash(rows, ["departs", "train"], share=0.25, salt=f"{LOOP}/validation"))
    assert 0.2 < held.mean() < 0.3
    assert list(validation.columns) == list(examples.columns) == ["distance", "rain", "stations_platforms", "late"]
    for got, wanted in ((examples, rows[~held]), (validation, rows[held])):
        assert got["rain"].tolist() == wanted["rain"].tolist()
    (model,) = records(project, TrainedModel)
    assert model.rows == len(examples)


def test_trials_validate_too_and_neither_side_reaches_into_what_they_are_selected_by(tmp_path):
    tune = {"parameters": {"strength": {"default": 1.0, "low": 0.01, "high": 10.0, "log": True}}, "trials": 2}
    train = {**VALIDATING, "validation": {"by": "time", "last": "5d"}}
    project = project_of(tmp_path, {"train": train, "tune": tune})
    assert main(["turn", str(project.spec)]) == 0
    rows = before_the_gate(*MONTHS[:2])
    selection = rows["departs"].max().normalize() - pd.Timedelta(days=6, hours=1)
    trial, last = given(project, 0), given(project, 2)
    assert set(pd.concat(trial)["rain"]) <= set(rows[rows["departs"] < selection]["rain"])
    assert len(pd.concat(trial)) == (rows["departs"] < selection).sum()
    assert len(pd.concat(last)) == len(rows)
    assert len(last[1]) == 5 * 12


def test_a_group_is_on_one_side_of_the_split(tmp_path):
    train = {**VALIDATING, "validation": {"by": "group", "columns": ["origin"], "share": 0.3}}
    project = project_of(tmp_path, {"train": train, "problem": {"features": ["distance", "rain", "origin"]}})
    text = project.folder / "src" / "rail" / "validating.py"
    text.write_text(CODE.replace("examples, target)", 'examples.drop(columns="origin"), target)'), encoding="utf-8")
    # The model of this test takes no text: it is refused after it was given its rows, which is what is looked at.
    main(["turn", str(project.spec)])
    examples, validation = given(project)
    assert not set(examples["origin"]) & set(validation["origin"])
    assert len(set(validation["origin"])) == 1


# The acceptance set.

SET_ASIDE = {
    "data": {"acceptance": {"share": 0.2}},
    "train": {"window": "all"},
    "gates": [
        {"metric": "roc_auc", "at_least": 0.55},
        {"metric": "roc_auc", "rows": "acceptance", "at_least": 0.6},
        {"metric": "roc_auc", "against": "champion"},
    ],
}


def test_rows_are_set_aside_for_good_and_are_a_floor(tmp_path, capsys):
    project = project_of(tmp_path, SET_ASIDE)
    assert main(["turn", str(project.spec)]) == 0
    (taken,), (model,), (evaluation,) = (
        records(project, kind) for kind in (AcceptanceSet, TrainedModel, EvaluationReport)
    )
    january = schedules("2024-01")
    held = january[by_hash(january, ["departs", "train"], share=0.2, salt=f"{LOOP}/acceptance")]
    assert taken.rows == len(held) > 50
    assert [(i.table, i.partition) for i in taken.inputs] == [
        ("schedules", "2024-01"),
        ("stations", "all"),
        ("outcomes", "2024-01"),
    ]
    with open_loop(project.spec) as loop:
        members = read_parquet(loop.store.file(taken.members[0]))
    assert members["rain"].tolist() == held["rain"].tolist()
    # Not trained on, not in the gate's week of February; and measured.
    assert model.rows == len(before_the_gate(*MONTHS[:2])) - taken.rows
    assert evaluation.rows == 7 * 12
    assert evaluation.acceptance_set == taken.digest
    (measured,) = evaluation.acceptance
    assert (measured.rows, measured.champion) == (taken.rows, None)
    (decision,) = records(project, PromotionDecision)
    floor = decision.gates[1]
    assert (floor.gate, floor.passed) == ("roc_auc floor on the acceptance set", True)
    assert floor.reason == f"roc_auc {measured.candidate.value:.4f} on {taken.rows} rows set aside, at least 0.6 asked"
    assert floor.reason in capsys.readouterr().out
    assert main(["status", "--spec", str(project.spec)]) == 0
    assert f"set aside {taken.rows} rows of 2024-01 by departs, train: a floor only" in capsys.readouterr().out
    assert main(["status", "--spec", str(project.spec), "--json"]) == 0
    (state,) = json.loads(capsys.readouterr().out)
    assert state["acceptance"] == {"rows": taken.rows, "columns": ["departs", "train"], "partitions": ["2024-01"]}
    # A month later, and by another share, it is the same set; the new month is trained on.
    project.write_spec({**SET_ASIDE, "data": {"acceptance": {"share": 0.5, "columns": ["train"]}}})
    project.land_month(MONTHS[2])
    assert main(["turn", str(project.spec)]) == 0
    assert records(project, AcceptanceSet) == [taken]
    again = records(project, EvaluationReport)[-1]
    assert again.acceptance_set == taken.digest
    assert again.acceptance[0].rows == taken.rows


def test_a_candidate_below_the_floor_is_refused_whatever_the_newest_rows_say(tmp_path):
    gates = [{"metric": "roc_auc", "at_least": 0.1}, {"metric": "roc_auc", "rows": "acceptance", "at_least": 0.999}]
    project = project_of(tmp_path, {**SET_ASIDE, "gates": gates})
    assert main(["turn", str(project.spec)]) == 0
    (decision,) = records(project, PromotionDecision)
    assert [g.passed for g in decision.gates] == [True, False]
    assert not decision.promote


def test_by_another_key_rows_are_kept_out_of_every_partition(tmp_path):
    """Trains T0 to T4 come every month: what is set aside of them in January is not learnt in February either."""
    project = project_of(tmp_path, {**SET_ASIDE, "data": {"acceptance": {"share": 0.3, "columns": ["train"]}}})
    assert main(["turn", str(project.spec)]) == 0
    (taken,), (model,), (evaluation,) = (
        records(project, kind) for kind in (AcceptanceSet, TrainedModel, EvaluationReport)
    )
    both = before_the_gate(*MONTHS[:2])
    held = pd.Series(by_hash(both, ["train"], share=0.3, salt=f"{LOOP}/acceptance"))
    assert 0 < held.sum() < len(both)
    assert model.rows == (~held).sum()
    assert evaluation.rows < 7 * 12
    assert taken.rows == sum(by_hash(schedules("2024-01"), ["train"], share=0.3, salt=f"{LOOP}/acceptance"))


# Leaks, and what is odd.


def test_a_refusal_of_the_trigger_keeps_nothing(tmp_path):
    project = project_of(tmp_path, {"problem": {"group": ["train"]}})
    with open_loop(project.spec) as loop:
        for stage in ("ingest", "validate"):
            run_stage(loop, stage)
        before = loop.ledger.verify().anchor
        with pytest.raises(DataRefused) as refusal:
            run_stage(loop, "trigger", Order())
        assert refusal.value.code == "KZ426"
        assert refusal.value.where == "training rows and the gate's"
        assert loop.ledger.verify().anchor == before


@pytest.mark.parametrize("trials", [0, 1])
def test_trials_do_not_share_groups_with_the_rows_they_are_selected_by(tmp_path, trials):
    """What is one crew's before the gate and another's from then on is no leak, unless there are trials before."""
    parameters = {"strength": {"default": 1.0, "low": 0.1, "high": 10.0}}
    tune = {"tune": {"parameters": parameters, "trials": trials}} if trials else {}
    project = make_loop(tmp_path / "project", {"problem": {"group": ["crew"]}, **tune})
    for month in MONTHS[:2]:
        rows = schedules(month)
        crew = rows["departs"] >= pd.Timestamp("2024-02-23", tz="Europe/Paris")
        project.land("schedules", f"{month}.parquet", rows.assign(crew=crew.astype(int)))
        project.land_outcomes(month)
    with open_loop(project.spec) as loop:
        run_stage(loop, "ingest")
        run_stage(loop, "validate")
        if not trials:
            assert refuse_unsound(loop, "look") is None
            return
        with pytest.raises(DataRefused, match="KZ426") as refusal:
            refuse_unsound(loop, "look")
        assert refusal.value.where == "rows of trials and of their selection"


def test_features_of_one_value_are_recorded_and_shown(tmp_path, capsys):
    project = make_loop(tmp_path / "project", {"data": {"suite": None}})
    for month in MONTHS[:2]:
        project.land("schedules", f"{month}.parquet", schedules(month).assign(rain=1.5))
        project.land("outcomes", f"{month}.parquet", outcomes(month))
    assert main(["turn", str(project.spec)]) == 0
    assert "  warning  feature rain has one value only" in capsys.readouterr().out
    (model,) = records(project, TrainedModel)
    assert model.warnings == ("feature rain has one value only",)
    assert main(["status", "--spec", str(project.spec)]) == 0
    assert "          warning: feature rain has one value only" in capsys.readouterr().out


def test_what_is_set_aside_travels_into_a_container_as_such(tmp_path):
    project = project_of(tmp_path, SET_ASIDE)
    with open_loop(project.spec) as loop:
        run_stage(loop, "ingest")
        run_stage(loop, "validate")
        examples = training_set(loop)
        request = loop.request("train", "turn", inputs=examples.inputs, window=examples.window)
        scoring = loop.request("score", "turn", inputs=examples.inputs)
    assert (scoring.held_by, any(i.acceptance for i in scoring.inputs)) == ((), False)
    inside, copies = docker_place._inside(request, "work")
    again = codec.decode(Request, json.loads(json.dumps(codec.encode(inside))))
    assert again.held_by == ("departs", "train")
    assert [(i.table, i.sha256, i.acceptance) for i in again.inputs] == [
        (i.table, i.sha256, i.acceptance) for i in request.inputs
    ]
    assert sum(i.acceptance for i in again.inputs) == 3
    assert {f"/kaizen/{target}" for _, target in copies} >= {i.path for i in again.inputs}
    # A release that knows nothing of it is asked in its own words, unless rows are set aside.
    assert "held_by" not in codec.encode(scoring)
    assert "acceptance" not in codec.encode(scoring)["inputs"][0]
