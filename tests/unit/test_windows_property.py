"""Whatever comes, is corrected, is refused or is asked of a loop: no compared model has seen a row of the gate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.loops import SPEC, merged

from kaizen import windows
from kaizen.adapters.acceptance import write_members
from kaizen.adapters.place import _load
from kaizen.adapters.tables import read_parquet, write_parquet
from kaizen.bridge import InputFile
from kaizen.calendar import bounds
from kaizen.clock import VirtualClock
from kaizen.errors import DataRefused
from kaizen.evaluate import evaluate
from kaizen.ledger import open_ledger
from kaizen.loop import EVERYTHING, Loop
from kaizen.records import (
    AcceptanceSet,
    DataVersion,
    Environment,
    Input,
    Promotion,
    Source,
    TrainedModel,
    TrainingSet,
    ValidationReport,
    Window,
)
from kaizen.spec import AcceptanceSpec, parse_spec
from kaizen.store import Store, address, split_address
from kaizen.train import training_set
from kaizen.tune import selection
from kaizen.windows import acceptance_set, reaches_into, set_aside

ZONE = ZoneInfo("Europe/Paris")
# Both changes to and from daylight saving are in it.
MONTHS = [f"2024-{month:02d}" for month in range(1, 13)]
TABLES = ("schedules", "outcomes")
FEWER = settings(max_examples=settings.default.max_examples // 3)


@contextmanager
def a_loop(folder: Path, **changes: Any) -> Iterator[Loop]:
    """A loop that everything was delivered to long ago, as far as it was delivered."""
    with open_ledger(":memory:") as ledger:
        yield Loop(
            spec=parse_spec(merged(SPEC, {"train": {"window": "all", "min_partitions": 1}, **changes}), "test"),
            env="test",
            path=folder / "kaizen.yml",
            home=folder,
            ledger=ledger,
            store=Store(folder / "store"),
            data=None,  # type: ignore[arg-type]
            registry=None,  # type: ignore[arg-type]
            clock=VirtualClock(datetime(2026, 1, 1, tzinfo=UTC)),
            actor="test",
            caller=None,  # type: ignore[arg-type]
            studies="",
        )


def deliver(
    loop: Loop, table: str, partition: str, version: int = 0, *, place: str = "", refused: bool = False
) -> None:
    """A version of a partition, and its verdict."""
    place = place or address(f"{table}/{partition}", f"{version:064x}")
    labels = {"0.0": 9, "1.0": 9} if table == "outcomes" else {}
    made = DataVersion(table, partition, place, "", 1, 18, {}, Source("", f"{version:064x}"), "", labels)
    verdict = "refused" if refused else "passed"
    report = ValidationReport(
        table, partition, made.digest, "", verdict, 18, 18, 0, 0, (), None if refused else place, None
    )
    loop.append(f"data/{table}/{partition}", made, f"{table}/{partition}/{version}")
    loop.append(f"validation/{table}/{partition}", report, f"{table}/{partition}/{version}")


def promote(loop: Loop, chosen: TrainingSet) -> None:
    """A champion that was trained on ``chosen``."""
    number = len(list(loop.ledger.events(loop.name, subject="champion"))) + 1
    environment = Environment("3.11", "", "", dirty=False)
    model = TrainedModel(chosen.digest, "", {}, number, "callable", 0, environment, "", "")
    for record in (chosen, model):
        loop.append(f"candidate/{number}", record, f"{number}/{record.digest}", turn=str(number))
    replaces = number - 1 or None
    loop.append("champion", Promotion(number, str(number), model.digest, "", "", replaces, None), str(number))


def days_of(partition: str) -> set[datetime]:
    """The rows of a partition: one at noon of each day, and one in its first moment."""
    start, end = bounds(partition, ZONE)
    noons = {start + timedelta(days=n, hours=12) for n in range((end - start).days + 1)}
    return {moment.astimezone(UTC) for moment in {start, *noons} if moment < end}


def rows_in(inputs: tuple[Input, ...], window: Window) -> set[datetime]:
    start, end = (datetime.fromisoformat(m) if m else None for m in (window.start, window.end))
    found = {moment for i in inputs if i.table == "schedules" for moment in days_of(i.partition)}
    return {m for m in found if (start is None or m >= start) and (end is None or m < end)}


months = st.sampled_from(MONTHS)
steps = st.one_of(
    st.tuples(st.just("deliver"), months),
    st.tuples(st.just("deliver"), months),
    st.tuples(st.just("refuse"), months),
    st.tuples(st.just("gate"), st.integers(1, 70)),
    st.tuples(st.just("train"), st.sampled_from(["all", "last 1", "last 2"])),
    st.tuples(st.just("turn"), st.booleans()),
    st.tuples(st.just("turn"), st.booleans()),
)


@FEWER
@given(st.lists(steps, min_size=3, max_size=25))
def test_no_compared_model_has_seen_a_row_of_the_gate(tmp_path_factory, story):
    with a_loop(tmp_path_factory.getbasetemp()) as loop:
        champion: TrainingSet | None = None
        for version, (what, value) in enumerate(story):
            if what in ("deliver", "refuse"):
                for table in TABLES:
                    deliver(loop, table, value, version, refused=what == "refuse" and table == "schedules")
            elif what == "gate":
                loop.spec = replace(loop.spec, evaluate=replace(loop.spec.evaluate, window=timedelta(days=value)))
            elif what == "train":
                loop.spec = replace(loop.spec, train=replace(loop.spec.train, window=value))
            else:
                champion = turn(loop, champion, promoted=value)


def turn(loop: Loop, champion: TrainingSet | None, *, promoted: bool) -> TrainingSet | None:
    """Choose a training set and hold it against the champion's; the champion afterwards."""
    chosen, code = asked(loop)
    if chosen is None:
        # Only what a champion may have seen is refused.
        assert code == ("KZ429" if loop.labelled() and champion else "KZ423")
        return champion
    gate = rows_in(chosen.inputs, chosen.gate)
    seen = rows_in(chosen.inputs, chosen.window)
    trials, selected = selection(loop, chosen)
    for window in (chosen.gate, selected):
        # Whole days, also where one has 23 hours or 25.
        assert datetime.fromisoformat(window.start or "").astimezone(ZONE).time() == time()
    assert not seen & gate
    assert rows_in(chosen.inputs, trials) | rows_in(chosen.inputs, selected) == seen | rows_in(chosen.inputs, selected)
    assert not (rows_in(chosen.inputs, trials) | rows_in(chosen.inputs, selected)) & gate
    assert not rows_in(chosen.inputs, trials) & rows_in(chosen.inputs, selected)
    if champion:
        assert not rows_in(champion.inputs, champion.window) & gate
        assert not reaches_into(champion.window, chosen.gate)
    if promoted:
        promote(loop, chosen)
        return chosen
    return champion


def asked(loop: Loop) -> tuple[TrainingSet | None, str]:
    try:
        return training_set(loop), ""
    except DataRefused as refusal:
        return None, refusal.code


@pytest.mark.parametrize(
    ("end", "start"),
    [
        ("2024-04-01T00:00:00+02:00", "2024-03-25T00:00:00+01:00"),
        ("2024-11-01T00:00:00+01:00", "2024-10-25T00:00:00+02:00"),
        ("2024-02-29T23:00:00+00:00", "2024-02-23T00:00:00+01:00"),
    ],
)
def test_days_are_cut_off_at_midnight_across_daylight_saving(end, start):
    before, newest = Window("2024-01-01T00:00:00+01:00", end).cut(timedelta(days=7), ZONE)
    assert before == Window("2024-01-01T00:00:00+01:00", start)
    assert newest == Window(start, end)


def test_a_month_after_the_other_is_never_refused(tmp_path):
    with a_loop(tmp_path) as loop:
        for month in MONTHS:
            for table in TABLES:
                deliver(loop, table, month)
            chosen = training_set(loop)
            promote(loop, chosen)
            # A person's wish for the same rows again.
            assert training_set(loop) == chosen


def test_a_gate_that_grew_over_what_the_champion_was_trained_on_is_refused(tmp_path):
    with a_loop(tmp_path) as loop:
        for table in TABLES:
            deliver(loop, table, "2024-01")
        promote(loop, training_set(loop))
        loop.spec = replace(loop.spec, evaluate=replace(loop.spec.evaluate, window=timedelta(days=8)))
        with pytest.raises(DataRefused) as refusal:
            training_set(loop)
    assert refusal.value.code == "KZ429"
    assert refusal.value.where == "champion 1, trained in turn 1"
    assert refusal.value.value == (
        "trained on rows before 2024-01-25T00:00:00+01:00; the gate begins 2024-01-24T00:00:00+01:00"
    )


def test_a_gate_that_went_back_because_its_partition_was_refused_is_refused(tmp_path):
    with a_loop(tmp_path) as loop:
        for month in MONTHS[:2]:
            for table in TABLES:
                deliver(loop, table, month)
        promote(loop, training_set(loop))
        deliver(loop, "schedules", "2024-02", 1, refused=True)
        with pytest.raises(DataRefused, match="KZ429"):
            training_set(loop)


def test_a_backfilled_older_partition_is_trained_on_and_moves_no_gate(tmp_path):
    with a_loop(tmp_path) as loop:
        for table in TABLES:
            deliver(loop, table, "2024-05")
        first = training_set(loop)
        promote(loop, first)
        for table in TABLES:
            deliver(loop, table, "2024-02")
        chosen = training_set(loop)
    assert chosen.gate == first.gate
    assert {i.partition for i in chosen.inputs} == {"2024-02", "2024-05"}


def test_a_champion_of_the_meantime_that_saw_the_gate_is_not_compared(tmp_path):
    """Between train and evaluate somebody else promoted a model that was trained on more."""
    with a_loop(tmp_path) as loop:
        for table in TABLES:
            deliver(loop, table, "2024-01")
        chosen = training_set(loop)
        for table in TABLES:
            deliver(loop, table, "2024-02")
        promote(loop, training_set(loop))
        environment = Environment("3.11", "", "", dirty=False)
        candidate = TrainedModel(chosen.digest, "", {}, 9, "callable", 0, environment, "", "")
        with pytest.raises(DataRefused, match="KZ429"):
            evaluate(loop, chosen, candidate, "turn")


# The acceptance set.

ONE_TABLE = {
    "problem": {"features": ["rain"], "label": None, "target": "late"},
    "data": {"tables": {"outcomes": None, "stations": None}},
}
trains = st.integers(0, 40)


def schedule(month: str, ids: list[int]) -> pd.DataFrame:
    start = pd.Timestamp(f"{month}-01 12:00", tz="Europe/Paris").tz_convert("UTC")
    times = pd.Series([start + pd.Timedelta(hours=n) for n in range(len(ids))], dtype="datetime64[us, UTC]")
    return pd.DataFrame({"departs": times, "train": [f"T{n}" for n in ids], "origin": "north", "rain": 1.0})


def keep(store: Store, month: str, rows: pd.DataFrame) -> InputFile:
    place = store.put_file(f"schedules/{month}", lambda path: write_parquet(rows, path))
    return InputFile("schedules", month, str(store.file(place)), split_address(place)[1])


@FEWER
@given(st.lists(trains, min_size=1, max_size=40), st.lists(trains, max_size=40), st.floats(0.05, 0.9))
def test_what_has_a_members_key_is_in_no_training_and_no_gate(tmp_path_factory, first, second, share):
    used = parse_spec(merged(SPEC, ONE_TABLE), "test")
    store = Store(tmp_path_factory.mktemp("store"))
    files = []
    for month, ids in (("2024-01", first), ("2024-02", second)):
        files.append(keep(store, month, schedule(month, ids).assign(late=1.0)))
    january, count = Path(files[0].path), 0

    def write(path: Path) -> None:
        nonlocal count
        count = write_members(january, path, ["train"], share, "salt")

    place = store.put_file("members", write)
    assert store.put_file("members", write) == place
    members = set(read_parquet(store.file(place))["train"])
    assert members <= {f"T{n}" for n in first}
    held = replace(files[0], path=str(store.file(place)), sha256=split_address(place)[1], acceptance=True)
    found = _load(used, [*files, held], EVERYTHING, ("train",), labels=True)
    # As often as it came, in whatever partition; and nothing else is missing.
    expected = [f"T{n}" for n in [*first, *second] if f"T{n}" not in members]
    assert found.rows["train"].tolist() == expected
    assert count == sum(f"T{n}" in members for n in first)


@pytest.mark.parametrize(("group", "left"), [([], ["T1", "T2", "T3"]), (["line"], ["T2"])])
def test_a_correction_brings_no_member_back(tmp_path, group, left):
    """T0 was set aside when it left from the north; it does not come back as a train from the south, nor its line."""
    used = parse_spec(merged(merged(SPEC, ONE_TABLE), {"problem": {"group": group}}), "test")
    store, rows = Store(tmp_path), schedule("2024-01", [0, 1, 2, 3]).assign(late=1.0)
    before = rows.assign(origin=["north", "south", "south", "south"], line=["red", "red", "blue", "red"])
    held = replace(keep(store, "2024-01", before.head(1)), acceptance=True)
    corrected = keep(store, "2024-01", before.assign(origin="south"))
    found = _load(used, [corrected, held], EVERYTHING, ("origin",), labels=True)
    assert found.rows["train"].tolist() == left
    unknown = keep(store, "2024-01", before.assign(origin="south", line=None))
    held = replace(keep(store, "2024-01", before.head(1).assign(line=None)), acceptance=True)
    found = _load(used, [unknown, held], EVERYTHING, ("origin",), labels=True)
    assert found.rows["train"].tolist() == ["T1", "T2", "T3"]


@FEWER
@given(st.permutations(MONTHS[:4]), st.integers(1, 3), st.sets(months))
def test_the_acceptance_set_is_of_the_first_partitions_with_outcomes_and_stays(
    tmp_path_factory, order, partitions, without
):
    folder = tmp_path_factory.mktemp("loop")
    with a_loop(folder, data={"acceptance": {"share": 0.5, "partitions": partitions}}) as loop:
        taken: AcceptanceSet | None = None
        for version, month in enumerate([*order, *order]):
            place = loop.store.put_file(
                f"schedules/{month}", lambda path, m=month, v=version: write_parquet(schedule(m, range(20 + v)), path)
            )
            deliver(loop, "schedules", month, version, place=place)
            if month not in without:
                deliver(loop, "outcomes", month, version)
            with_outcomes = sorted(set(loop.validated("schedules")) & set(loop.validated("outcomes")))
            found = set_aside(loop)
            assert (found is None) == (len(with_outcomes) < partitions)
            assert taken is None or found == taken
            if found and taken is None:
                own = [i.partition for i in found.inputs if i.table == "schedules"]
                assert own == with_outcomes[:partitions]
                assert {i.partition for i in found.inputs if i.table == "outcomes"} == set(own)
                assert 0 < found.rows < 20 * 4 + 28
            taken = found
            if taken:
                another = AcceptanceSpec(0.9, (), partitions)
                loop.spec = replace(loop.spec, data=replace(loop.spec.data, acceptance=another))


def test_no_training_before_rows_are_set_aside(tmp_path):
    with a_loop(tmp_path, data={"acceptance": {"share": 0.5}}) as loop:
        place = loop.store.put_file(
            "schedules/2024-01", lambda path: write_parquet(schedule("2024-01", range(9)), path)
        )
        deliver(loop, "schedules", "2024-01", place=place)
        deliver(loop, "outcomes", "2024-01")
        with pytest.raises(DataRefused, match="KZ491"):
            training_set(loop)
        taken = set_aside(loop)
        assert taken is not None
        assert acceptance_set(loop) == taken
        assert training_set(loop).gate


def test_the_first_of_two_takers_wins(tmp_path, monkeypatch):
    with a_loop(tmp_path, data={"acceptance": {"share": 0.5}}) as loop:
        place = loop.store.put_file(
            "schedules/2024-01", lambda path: write_parquet(schedule("2024-01", range(9)), path)
        )
        deliver(loop, "schedules", "2024-01", place=place)
        deliver(loop, "outcomes", "2024-01")
        first = []

        def take_second(*_: Any) -> AcceptanceSet:
            """While this one takes rows of another version, somebody else is done."""
            monkeypatch.undo()
            first.append(set_aside(loop))
            return replace(first[0], rows=1)

        monkeypatch.setattr(windows, "_take", take_second)
        assert set_aside(loop) == first[0] == loop.acceptance()


def test_an_acceptance_set_without_rows_is_refused(tmp_path):
    with a_loop(tmp_path, data={"acceptance": {"share": 1e-9}}) as loop:
        place = loop.store.put_file(
            "schedules/2024-01", lambda path: write_parquet(schedule("2024-01", range(9)), path)
        )
        deliver(loop, "schedules", "2024-01", place=place)
        deliver(loop, "outcomes", "2024-01")
        with pytest.raises(DataRefused, match="KZ490"):
            set_aside(loop)
        assert loop.acceptance() is None
