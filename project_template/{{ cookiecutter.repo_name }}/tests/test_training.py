"""The training on made-up rows: what it must do on any data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from {{ cookiecutter.python_package }}.features import Calendar
from {{ cookiecutter.python_package }}.pipelines.training.nodes import CATEGORIES, fit

ROWS = 400


@pytest.fixture
def examples() -> pd.DataFrame:
    """Flights that are late if they leave after five in the afternoon, and now and then otherwise."""
    random = np.random.default_rng(0)
    hour = random.integers(5, 23, ROWS)
    frame = pd.DataFrame({"year": 2013.0, "month": 6.0, "day": random.integers(1, 31, ROWS).astype(float)})
    frame = frame.assign(sched_dep_time=hour * 100.0 + 30, sched_arr_time=(hour + 1) * 100.0 + 45, distance=1000.0)
    for name in CATEGORIES:
        frame[name] = random.choice(["A", "B", None], ROWS)
    return frame.assign(late=((hour >= 17) | (random.random(ROWS) < 0.1)).astype(float))


def test_model_learns_that_evenings_are_late(examples: pd.DataFrame) -> None:
    model = fit(examples, {"max_iter": 20, "random_state": 0})
    chance = model.predict_proba(examples.drop(columns="late"))[:, list(model.classes_).index(1)]
    evening = examples["sched_dep_time"] >= 1700
    assert chance[evening].mean() > 0.8
    assert chance[~evening].mean() < 0.3


def test_model_takes_a_carrier_that_it_has_never_seen(examples: pd.DataFrame) -> None:
    model = fit(examples, {"max_iter": 5, "random_state": 0})
    strange = examples.drop(columns="late").head(3).assign(carrier="ZZ", planes_engine=None)
    assert np.isfinite(model.predict_proba(strange)).all()


def test_calendar_turns_clock_readings_into_minutes() -> None:
    rows = pd.DataFrame({"year": [2013.0], "month": [1.0], "day": [6.0], "sched_dep_time": [1730.0]})
    made = Calendar().fit(rows.assign(sched_arr_time=5.0)).transform(rows.assign(sched_arr_time=5.0)).iloc[0]
    assert made.to_dict() == {"sched_dep_time": 1050.0, "sched_arr_time": 5.0, "weekday": 6.0}
