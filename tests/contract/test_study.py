"""A study in each database that it is kept in: what is drawn, kept, resumed and told."""

from __future__ import annotations

import os
import signal
import warnings

import pytest
import sqlalchemy as sa

from kaizen.adapters.optuna_study import open_study
from kaizen.errors import LedgerError
from kaizen.spec import ParameterSpec, TuneSpec

TUNE = TuneSpec(
    {
        "depth": ParameterSpec(default=3, low=1, high=9),
        "rate": ParameterSpec(default=0.1, low=0.01, high=1.0, log=True),
        "share": ParameterSpec(default=0.5, low=0.0, high=1.0, step=0.25),
        "kind": ParameterSpec(default="flat", choices=("flat", "steep", True)),
    },
    trials=20,
)


@pytest.fixture(autouse=True)
def strict():
    """A warning of Optuna's would be of a draw that is not what the spec says."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="optuna")
        yield


def opened(url, name="rail/delays-1", **changes):
    return open_study(url, name, TUNE, **{"higher_is_better": True, "seed": 7, **changes})


def worth(parameters):
    return parameters["depth"] / 10 - abs(parameters["rate"] - 0.3)


def run(study, count):
    found = []
    for _ in range(count):
        trial = study.unfinished() or study.ask()
        study.tell(trial.number, "complete", 1.5, value=worth(trial.parameters))
        found.append(trial.parameters)
    return found


def test_the_first_trial_is_the_default_and_the_others_keep_to_the_spec(shared_url):
    with opened(shared_url) as study:
        first, *others = run(study, 15)
        trials = study.trials()
    assert first == TUNE.defaults
    assert [trial.number for trial in trials] == list(range(15))
    assert {trial.state for trial in trials} == {"complete"}
    assert trials[0].seconds == 1.5
    assert trials[0].value == worth(first)
    for drawn in others:
        assert isinstance(drawn["depth"], int)
        assert 1 <= drawn["depth"] <= 9
        assert 0.01 <= drawn["rate"] <= 1
        assert drawn["share"] in (0, 0.25, 0.5, 0.75, 1)
        assert drawn["kind"] in ("flat", "steep", True)


def test_a_search_that_was_interrupted_draws_as_one_that_was_not(shared_url):
    with opened(shared_url, "whole") as study:
        whole = run(study, 8)
    for _ in range(4):
        with opened(shared_url, "parts") as study:
            run(study, 1)
            # Asked for and never told: the next one that opens it takes it up.
            left = study.unfinished() or study.ask()
        with opened(shared_url, "parts") as study:
            assert study.unfinished() == left
            run(study, 1)
    with opened(shared_url, "parts") as study:
        assert [trial.parameters for trial in study.trials()] == whole
    with opened(shared_url, "other", seed=8) as study:
        assert run(study, 3)[1:] != whole[1:3]


def test_a_trial_ends_once(shared_url):
    with opened(shared_url) as study:
        for state, reason in (("complete", ""), ("pruned", "KZ707"), ("failed", "KZ702: out of memory")):
            trial = study.ask()
            study.tell(trial.number, state, 2.0, value=0.5 if state == "complete" else None, reason=reason)
            study.tell(trial.number, "complete", 3.0, value=0.9)
            kept = study.trials()[-1]
            assert (kept.state, kept.seconds, kept.reason) == (state, 2.0, reason)
            assert kept.value == (0.5 if state == "complete" else None)
            assert not study.report(trial.number, [(1, 0.5)])


def test_reports_are_kept_once_and_a_trial_that_lags_is_not_worth_more_time(shared_url):
    with opened(shared_url) as study:
        for value in (0.6, 0.7, 0.8, 0.7, 0.6):
            trial = study.ask()
            assert not study.report(trial.number, [(0, value), (1, value)])
            study.tell(trial.number, "complete", 1.0, value=value)
        trial = study.ask()
        assert not study.report(trial.number, [(0, 0.9)])
        assert not study.report(trial.number, [(0, 0.9)])
        assert study.report(trial.number, [(0, 0.9), (1, 0.1)]) == study.report(trial.number, [(0, 0.9), (1, 0.1)])
        assert study.reports(trial.number) == [(0, 0.9), (1, 0.1)]
        lagging = study.ask()
        assert study.report(lagging.number, [(0, 0.1)])


def test_where_lower_is_better_the_higher_lags(shared_url):
    with opened(shared_url, higher_is_better=False) as study:
        for value in (0.6, 0.7, 0.8, 0.7, 0.6):
            trial = study.ask()
            study.report(trial.number, [(0, value)])
            study.tell(trial.number, "complete", 1.0, value=value)
        lagging = study.ask()
        assert study.report(lagging.number, [(0, 0.9)])


def test_importance_is_told_when_something_made_a_difference(shared_url):
    with opened(shared_url) as study:
        run(study, 1)
        assert study.importance() == {}
        run(study, 13)
        shares = study.importance()
    assert set(shares) == set(TUNE.parameters)
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=shares.get) in ("depth", "rate")


def die_while_drawing(url):
    with opened(url) as study:
        run(study, 1)
        storage, calls = study._storage, []
        keep = storage.set_trial_param

        def last_words(*arguments):
            keep(*arguments)
            calls.append(arguments)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        storage.set_trial_param = last_words
        study._study._storage.set_trial_param = last_words
        study.ask()


def test_a_trial_that_was_torn_while_it_was_drawn_is_no_trial(processes, shared_url):
    ended = processes.start("tests.contract.test_study:die_while_drawing", shared_url).wait()
    assert ended.code == -signal.SIGKILL, ended.err
    with opened(shared_url) as study:
        assert study.unfinished() is None
        run(study, 2)
        trials = study.trials()
    assert len(trials) == 3
    assert len({trial.number for trial in trials}) == 3
    assert {trial.state for trial in trials} == {"complete"}


def test_another_study_knows_nothing_of_it(shared_url):
    with opened(shared_url) as study:
        run(study, 3)
    with opened(shared_url, "rail/delays-2") as study:
        assert study.trials() == []
        assert study.ask().parameters == TUNE.defaults


def test_in_postgresql_it_keeps_to_a_schema_of_its_own(postgres_url):
    engine = sa.create_engine(sa.make_url(postgres_url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num text); ")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('of somebody else')")
    with opened(postgres_url) as study:
        run(study, 2)
    with opened(postgres_url) as study:
        assert len(study.trials()) == 2
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names("public") == ["alembic_version"]
        assert connection.exec_driver_sql("SELECT * FROM alembic_version").all() == [("of somebody else",)]
    engine.dispose()


@pytest.mark.parametrize("url", ["sqlite:////no/such/folder/studies.db", "postgresql://u:canary@127.0.0.1:1/none"])
def test_a_database_that_is_not_there_is_told_without_its_password(url):
    with pytest.raises(LedgerError, match="KZ511") as refused, opened(url):
        pass
    assert "canary" not in str(refused.value)
