"""Nothing that is known only after a row's prediction reaches what the prediction is made from, whatever comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.loops import LOOP, SPEC, merged, stations

from kaizen import codec
from kaizen.adapters.examples import assemble
from kaizen.calendar import bounds
from kaizen.clock import VirtualClock
from kaizen.errors import DataRefused
from kaizen.ledger import open_ledger
from kaizen.loop import Loop
from kaizen.records import DataVersion, Environment, Promotion, Source, TrainedModel, ValidationReport, Window
from kaizen.score import unseen_from
from kaizen.spec import Spec, parse_spec
from kaizen.store import Store, address
from kaizen.train import training_set

# Both changes to and from daylight saving are in it.
FIRST, LAST = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 12, 31, 23, tzinfo=UTC)
ZONE = ZoneInfo("Europe/Paris")
MONTHS = [f"2024-{month:02d}" for month in range(1, 13)]


def spec(**changes: Any) -> Spec:
    """The tests' loop with all columns that may be features, unless ``changes`` names them."""
    return parse_spec(merged(SPEC, {"problem": {"features": None, **changes.pop("problem", {})}, **changes}), "test")


times = st.integers(0, 366 * 24 - 1).map(lambda hours: FIRST + timedelta(hours=hours))
trains = st.sampled_from(["T1", "T2"])
keys = st.lists(st.tuples(times, trains), min_size=1, max_size=12)
# A third of the profile's: each makes tables, or a ledger.
FEWER = settings(max_examples=settings.default.max_examples // 3)
# Names that an outcome may have, also those of columns that are features elsewhere.
names = st.sampled_from(["arrives", "note", "distance", "rain", "origin", "platforms", "stations_platforms"])


@st.composite
def tables(draw: st.DrawFn) -> dict[str, pd.DataFrame]:
    """Schedules with repeated entities, their look-up, and outcomes of some of them and of strangers."""
    rows = draw(keys)
    known = draw(st.lists(st.one_of(st.sampled_from(rows), st.tuples(times, trains)), unique=True, max_size=12))
    numbers = st.lists(st.floats(-60, 60), min_size=len(rows) + len(known), max_size=len(rows) + len(known))
    values = np.round(draw(numbers), 1)
    late = draw(st.lists(names, unique=True, max_size=3))
    outcomes = frame_of(known).assign(delay=values[len(rows) :])
    for name in late:
        outcomes[name] = outcomes["departs"] + pd.to_timedelta(60 + outcomes["delay"], unit="min")
    origin = draw(st.lists(st.sampled_from(["north", "moon"]), min_size=len(rows), max_size=len(rows)))
    schedules = frame_of(rows).assign(origin=origin, rain=values[: len(rows)])
    return {"schedules": schedules, "stations": stations(), "outcomes": outcomes}


def frame_of(entities: list[tuple[datetime, str]]) -> pd.DataFrame:
    departs = pd.Series([time for time, _ in entities], dtype="datetime64[us, UTC]")
    return pd.DataFrame({"departs": departs, "train": pd.Series([train for _, train in entities], dtype="str")})


@FEWER
@given(tables())
def test_no_column_of_the_outcomes_is_a_feature(found):
    examples = assemble(spec(), found, labels=True)
    assert list(examples.features.columns) == ["train", "origin", "rain", "stations_platforms"]
    assert list(examples.rows.columns) == ["departs", "train"]


@FEWER
@given(tables(), st.floats(-60, 60), st.integers(0, 12))
def test_outcomes_change_labels_and_nothing_else(found, shift, count):
    later = found["outcomes"].assign(delay=found["outcomes"]["delay"] + shift).head(count)
    one, two = (assemble(spec(), {**found, "outcomes": each}, labels=True) for each in (found["outcomes"], later))
    unlabelled = assemble(spec(), {k: v for k, v in found.items() if k != "outcomes"}, labels=False)
    assert unlabelled.label is None
    for examples in (two, unlabelled):
        pd.testing.assert_frame_equal(examples.features, one.features)
        pd.testing.assert_frame_equal(examples.rows, one.rows)


@FEWER
@given(tables())
def test_each_row_has_the_label_of_its_own_entity_or_none(found):
    examples = assemble(spec(), found, labels=True)
    delay = {(o.departs, o.train): o.delay for o in found["outcomes"].itertuples()}
    own = [delay.get((row.departs, row.train)) for row in found["schedules"].itertuples()]
    expected = [np.nan if value is None else float(value > 10) for value in own]
    np.testing.assert_array_equal(examples.label, expected)
    assert len(examples.labelled()) == sum(value is not None for value in own)


@FEWER
@given(tables())
def test_an_entity_with_two_outcomes_is_refused(found):
    assume(len(found["outcomes"]))
    twice = pd.concat([found["outcomes"], found["outcomes"].head(1).assign(delay=0.0)])
    with pytest.raises(DataRefused, match="KZ411"):
        assemble(spec(), {**found, "outcomes": twice}, labels=True)


@FEWER
@given(tables(), st.floats(-60, 60))
def test_outcomes_in_the_table_itself_change_labels_and_nothing_else(found, shift):
    """Without a labels table ``data.outcomes``, the label's column and the target keep themselves out."""
    loop = spec(data={"tables": {"outcomes": None}})
    rows = found["schedules"].assign(delay=found["schedules"]["rain"], arrives=found["schedules"]["departs"], late=1)
    later = rows.assign(delay=rows["delay"] + shift, arrives=rows["arrives"] + pd.Timedelta(hours=1), late=0)
    one, two = (assemble(loop, {**found, "schedules": each}, labels=True) for each in (rows, later))
    pd.testing.assert_frame_equal(one.features, two.features)
    assert not {"delay", "arrives", "late"} & set(one.features.columns)
    np.testing.assert_array_equal(two.label, (later["delay"] > 10).astype(float))


@FEWER
@given(tables(), st.sampled_from(["delay", "arrives", "late"]))
def test_an_outcome_by_name_is_refused_wherever_it_comes_from(found, name):
    rows = found["schedules"].assign(**{name: 0.0})
    # The spec itself would be refused: this is the second net.
    named = replace(spec(), problem=replace(spec().problem, features=("rain", name)))
    with pytest.raises(DataRefused, match="KZ412"):
        assemble(named, {**found, "schedules": rows}, labels=False)


# Windows, as the stages choose them.

months = st.sets(st.sampled_from(MONTHS))


@contextmanager
def loop_of(
    folder: Path, delivered: Mapping[str, set[str]], now: datetime, delay: str = "1d", of: str = "wall"
) -> Iterator[Loop]:
    """A loop whose ledger says that these partitions came and passed."""
    problem = {"label_delay": delay}
    used = spec(problem=problem, clock={"of": of}, train={"window": "all", "min_partitions": 1})
    with open_ledger(":memory:") as ledger:
        loop = Loop(
            spec=used,
            env="test",
            path=folder / "kaizen.yml",
            home=folder,
            ledger=ledger,
            store=Store(folder),
            data=None,  # type: ignore[arg-type]
            registry=None,  # type: ignore[arg-type]
            clock=VirtualClock(now),
            actor="test",
            caller=None,  # type: ignore[arg-type]
            studies="",
        )
        for table, partitions in delivered.items():
            for partition in sorted(partitions):
                keep_version(loop, table, partition)
        yield loop


def keep_version(loop: Loop, table: str, partition: str) -> None:
    place = address(f"{table}/{partition}", "0" * 64)
    labels = {"0.0": 9, "1.0": 9} if table == "outcomes" else {}
    version = DataVersion(table, partition, place, "", 1, 18, {}, Source("", ""), "", labels)
    report = ValidationReport(table, partition, version.digest, "", "passed", 18, 18, 0, 0, (), place, None)
    loop.append(f"data/{table}/{partition}", version, f"{table}/{partition}")
    loop.append(f"validation/{table}/{partition}", report, f"{table}/{partition}")


@FEWER
@given(months, months, times, st.integers(0, 90))
def test_partitions_without_old_enough_outcomes_are_not_labelled(tmp_path_factory, rows, outcomes, now, delay):
    delivered = {"schedules": rows, "outcomes": outcomes}
    with loop_of(tmp_path_factory.getbasetemp(), delivered, now, f"{delay}d") as loop:
        found = loop.labelled()
    wall = now.astimezone(ZONE).replace(tzinfo=None)
    ends = {p: bounds(p, ZONE)[1].replace(tzinfo=None) for p in rows & outcomes}
    assert found == sorted(p for p, end in ends.items() if end + timedelta(days=delay) <= wall)


@FEWER
@given(months, months, times, st.integers(1, 90), st.integers(0, 90))
def test_outcomes_that_happen_later_must_have_come_as_far_as_the_horizon(
    tmp_path_factory, rows, outcomes, now, delay, horizon
):
    horizon = min(delay, horizon)
    delivered, timed = {"schedules": rows, "outcomes": outcomes}, {"time": "arrives", "horizon": f"{horizon}d"}
    with loop_of(tmp_path_factory.getbasetemp(), delivered, now, f"{delay}d") as loop:
        loop.spec = parse_spec(merged(codec.encode(loop.spec), {"data": {"tables": {"outcomes": timed}}}), "test")
        found = loop.labelled()
        read = {p: {i.partition for i in loop.labels_for(p)} for p in found}
    for month in found:
        end = bounds(month, ZONE)[1].astimezone(UTC) + timedelta(days=horizon)
        assert end <= max(bounds(p, ZONE)[1] for p in outcomes)
        # Every outcome that a row of the month may have is in what is read.
        assert read[month] == {p for p in outcomes if month <= p and bounds(p, ZONE)[0] <= end}
    assert set(found) <= rows


@FEWER
@given(months, months, st.integers(0, 90))
def test_in_the_datas_own_time_only_outcomes_that_came_are_labels(tmp_path_factory, rows, outcomes, delay):
    delivered = {"schedules": rows, "outcomes": outcomes}
    with loop_of(tmp_path_factory.getbasetemp(), delivered, LAST, f"{delay}d", "data") as loop:
        assert set(loop.labelled()) <= rows & outcomes


@FEWER
@given(months, months, st.sampled_from(MONTHS), st.integers(0, 300), st.lists(times, min_size=1, max_size=40))
def test_gate_and_score_see_no_row_of_the_training(tmp_path_factory, schedules, outcomes, sure, days, departs):
    """``sure`` is labelled already, for as many ``days``."""
    delivered = {"schedules": schedules | {sure}, "outcomes": outcomes | {sure}, "stations": {"all"}}
    now = bounds(sure, ZONE)[1] + timedelta(days=1 + days)
    with loop_of(tmp_path_factory.getbasetemp(), delivered, now) as loop:
        labelled = loop.labelled()
        chosen = training_set(loop)
        promotion = promoted(loop, chosen)
        after = unseen_from(loop, promotion)
    assert {i.partition for i in chosen.inputs if i.table != "stations"} == set(labelled)
    found = {
        "schedules": frame_of([(t, "T1") for t in departs]).assign(origin="north", rain=1.0),
        "stations": stations(),
    }
    examples = assemble(loop.spec, found, labels=False)
    seen, gate, scored = (
        set(examples.in_window("departs", window).rows["departs"])
        for window in (chosen.window, chosen.gate, Window(after, None))
    )
    assert not seen & (gate | scored)
    assert gate <= scored
    assert seen | scored == set(examples.rows["departs"])
    assert all(earlier < later for earlier in seen for later in scored)
    assert all(time < bounds(labelled[-1], ZONE)[1] for time in gate)


def promoted(loop: Loop, chosen: Any) -> Promotion:
    """A champion that was trained on ``chosen``."""
    environment = Environment("3.11", "", "", dirty=False)
    model = TrainedModel(chosen.digest, "", {}, 1, "callable", 0, environment, "", "")
    for record in (chosen, model):
        loop.append("candidate/turn", record, record.digest, turn="turn")
    return Promotion(1, "turn", model.digest, "", "", None, None)


def test_the_loop_of_these_tests_is_the_one_of_the_others():
    assert spec().loop == LOOP
