"""The rules of a search: budgets, the best trial, what a failure means, the spec's limits, reports, the page."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from tests.loops import SPEC, merged

from kaizen.causes import Cause
from kaizen.clock import WallClock
from kaizen.errors import SpecError
from kaizen.ledger import open_ledger
from kaizen.loop import studies_url
from kaizen.records import ContainerRun, Search, Trial, Window, read_record
from kaizen.spec import ParameterSpec, TuneSpec, parse_spec
from kaizen.trials import MAX_REPORTS, REPORTS, FolderSpool, Reporter, TrialStopped, parse_reports
from kaizen.tune import SURVIVED, Spent, _gpu_seconds, best_trial, why_over
from kaizen.tune_page import best_so_far, html

DEPTH = ParameterSpec(default=3, low=1, high=9)


@pytest.mark.parametrize(
    ("spent", "over"),
    [
        (Spent(0, 9e9, 9e9), ""),
        (Spent(4, 0, 0), ""),
        (Spent(5, 0, 0), "trials"),
        (Spent(1, 59.9, 0), ""),
        (Spent(1, 60, 0), "time"),
        (Spent(1, 0, 1799), ""),
        (Spent(1, 0, 1800), "gpu_hours"),
    ],
)
def test_a_search_ends_with_the_budget_that_runs_out_first_and_never_before_the_default(spent, over):
    tune = TuneSpec({"depth": DEPTH}, trials=5, time=timedelta(minutes=1), gpu_hours=0.5)
    assert why_over(tune, spent) == over


def trials_of(*values):
    return [Trial(i, {"depth": i}, "failed" if v is None else "complete", v) for i, v in enumerate(values)]


def test_the_best_trial_is_the_first_of_the_best_values():
    assert best_trial(trials_of(0.6, 0.7, 0.7), higher_is_better=True).number == 1
    assert best_trial(trials_of(0.6, 0.7, 0.6), higher_is_better=False).number == 0
    assert best_trial(trials_of(None, 0.1), higher_is_better=True).number == 1
    assert best_trial(trials_of(None, None), higher_is_better=True) is None


def spec_with(**tune):
    return parse_spec(merged(SPEC, {"tune": tune}), "kaizen.yml")


def test_without_a_search_the_identity_of_a_spec_is_as_it_was_before_there_were_any():
    spec = parse_spec(SPEC, "kaizen.yml")
    assert spec.tune is None
    assert spec.digest == parse_spec(merged(SPEC, {"place": {"gpus": 1}}), "kaizen.yml").digest
    assert spec.digest != spec_with(parameters={"depth": {"default": 3, "low": 1, "high": 9}}).digest


@pytest.mark.parametrize(
    ("parameter", "limit"),
    [
        ({"default": 3}, "low, high and a number"),
        ({"default": "a", "low": 1, "high": 2}, "low, high and a number"),
        ({"default": True, "low": 0, "high": 1}, "low, high and a number"),
        ({"default": 3, "low": 4, "high": 9}, "low <= default"),
        ({"default": 3, "low": 3, "high": 3}, "low < high"),
        ({"default": 3, "low": 1, "high": 9.5}, "whole numbers"),
        ({"default": 0.5, "low": 0, "high": 1, "log": True}, "low above 0"),
        ({"default": 0.5, "low": 0.1, "high": 1, "log": True, "step": 0.1}, "no step"),
        ({"default": 0.5, "low": 0, "high": 1, "step": 2}, "at most high - low"),
        ({"default": 0.5, "low": 0, "high": 1, "step": 0.3}, "a number of steps"),
        ({"default": "c", "choices": ["a", "b"]}, "among the choices"),
        ({"default": "a", "choices": ["a", ["b"]]}, "choices of texts"),
        ({"default": 1, "choices": [1, 2], "low": 1}, "nothing besides"),
    ],
)
def test_a_parameter_that_cannot_be_searched_is_refused_with_its_name(parameter, limit):
    with pytest.raises(SpecError, match="KZ317") as refused:
        spec_with(parameters={"depth": parameter})
    assert limit in str(refused.value)
    assert "tune.parameters.depth" in str(refused.value)


@pytest.mark.parametrize("name", ["seed", "report", "two words", "a..b", ""])
def test_a_parameter_has_a_name_of_its_own(name):
    with pytest.raises(SpecError, match="KZ317"):
        spec_with(parameters={name: {"default": 3, "low": 1, "high": 9}})


@pytest.mark.parametrize("tune", [{"parameters": {}}, {"trials": 0}, {"time": "0s"}, {"gpu_hours": 0}])
def test_a_search_needs_parameters_and_a_budget(tune):
    with pytest.raises(SpecError, match="KZ304"):
        spec_with(**{"parameters": {"depth": {"default": 3, "low": 1, "high": 9}}, **tune})


def test_training_code_reports_until_it_is_stopped(tmp_path):
    report, spool = Reporter(tmp_path), FolderSpool(tmp_path)
    assert spool.reports() == b""
    report(0, 0.5)
    report(3, 0.6)
    spool.stop()
    with pytest.raises(TrialStopped):
        report(4, 0.7)
    assert parse_reports(spool.reports()) == [(0, 0.5), (3, 0.6), (4, 0.7)]
    with pytest.raises(ValueError, match="finite"):
        report(5, float("nan"))


def test_reports_have_a_limit_in_bytes(tmp_path):
    (tmp_path / REPORTS).write_bytes(b"[1, 0.5]\n" * (MAX_REPORTS // 9))
    Reporter(tmp_path)(2, 0.12345678)
    assert (tmp_path / REPORTS).stat().st_size <= MAX_REPORTS


def test_reports_of_a_place_are_not_trusted():
    lines = b'[0, 0.5]\nnonsense\n[1]\n{"a": 1}\n[-1, 0.5]\n[2, NaN]\n[99999999999, 1]\n[1e400, 1]\n[3, 0.7]\n[4, 0.'
    assert parse_reports(lines) == [(0, 0.5), (3, 0.7)]


@pytest.mark.parametrize(
    ("ledger", "studies"),
    [
        ("sqlite:////var/kaizen/ledger.db", "sqlite:////var/kaizen/studies.db"),
        ("/var/kaizen/ledger.db", "sqlite:////var/kaizen/studies.db"),
        ("postgresql://me@db/ledger", "postgresql://me@db/ledger"),
        (":memory:", "sqlite://"),
        ("sqlite://", "sqlite://"),
    ],
)
def test_studies_are_kept_where_the_ledger_is(ledger, studies):
    assert studies_url(ledger) == studies


def search_of(*values, importance=None):
    trials = trials_of(*values)
    best = best_trial(trials, higher_is_better=True)
    window = Window("2013-05-01", "2013-05-08")
    given = {"depth": best.parameters["depth"]}
    return Search("a/b", "0" * 64, "roc_auc", window, tuple(trials), best.number, given, importance or {}, "trials")


@pytest.mark.parametrize("values", [(0.6,), (0.5, 0.7, None, 0.65), (None, 0.4), tuple(i / 100 for i in range(60))])
def test_the_page_of_a_search_is_well_formed_and_tells_every_trial(values):
    page = html(search_of(*values, importance={"depth": 0.75, "<&>": 0.25}))
    tree = ElementTree.fromstring(page.partition("\n")[2])
    rows = tree.findall(".//tbody/tr")
    assert len(rows) == len(values)
    assert sum("best" in [cell.text for cell in row] for row in rows) == 1
    assert len(tree.findall(".//circle")) == len(values)


def test_the_best_so_far_follows_the_metrics_direction():
    assert best_so_far([None, 0.5, 0.4, 0.6], "roc_auc") == [None, 0.5, 0.5, 0.6]
    assert best_so_far([None, 0.5, 0.4, 0.6], "log_loss") == [None, 0.5, 0.4, 0.4]


def test_a_search_is_a_record_that_comes_back():
    search = search_of(0.5, None, 0.7)
    assert read_record(search.to_json()) == search


def test_causes_that_a_configuration_may_have_are_told_from_those_of_the_machine():
    assert Cause.OUT_OF_MEMORY.code in SURVIVED
    assert not {Cause.NO_ENGINE.code, Cause.NO_IMAGE.code, Cause.NO_SPACE.code, Cause.GPU_LOST.code} & set(SURVIVED)


def test_hours_of_gpus_are_those_of_the_turns_trials_also_of_failed_ones():
    runs = [
        ("turn-1", "trial", 2, ""),
        ("turn-1", "trial", 1, "KZ702"),
        ("turn-1", "train", 4, ""),
        ("turn-2", "trial", 4, ""),
    ]
    with open_ledger(":memory:") as ledger:
        for number, (turn, stage, gpus, cause) in enumerate(runs):
            ids = tuple(f"GPU-{n}" for n in range(gpus))
            run = ContainerRun(f"c{number}", stage, turn, "i", "sha256:0", (), 0, cause, 0, 100.0, gpus=ids)
            kept = {"turn": turn, "at": WallClock().now(), "actor": "t"}
            ledger.append("a/b", f"container/c{number}", "ContainerRun", str(number), run.to_json(), **kept)
        assert _gpu_seconds(SimpleNamespace(ledger=ledger, name="a/b"), "turn-1") == 300.0
