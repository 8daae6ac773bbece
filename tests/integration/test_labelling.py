"""The labelling queue in a real loop: rows out, labels in, and what happens when sources do not agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.loops import MONTHS, Project, make_loop, outcomes, schedules

from kaizen.adapters.examples import assemble
from kaizen.adapters.history import read_inputs
from kaizen.adapters.memory_registry import MemoryRegistry
from kaizen.cli import main
from kaizen.errors import DataRefused, HeadMoved, SpecError, UsageError
from kaizen.labelling import queue, requests, take, write_sheet
from kaizen.loop import Loop, open_loop
from kaizen.turn import advance

JANUARY, FEBRUARY, MARCH = MONTHS[:3]
KEYS = ["departs", "train"]
ASKED = {
    "data": {
        "tables": {
            "asked": {"uri": "landing/asked/*", "partition": "month", "role": "labels", "on_change": "append"},
        }
    }
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A loop with a champion that has scored March, of which nobody knows the outcomes."""
    project = make_loop(tmp_path_factory.mktemp("labelling") / "rail", ASKED)
    for month in (JANUARY, FEBRUARY):
        project.land_month(month)
    project.land_schedules(MARCH)
    with opened(project) as loop:
        advance(loop)
    project.save("scored")
    return project


@pytest.fixture
def project(saved: Project) -> Project:
    saved.restore("scored")
    return saved


@contextmanager
def opened(project: Project) -> Iterator[Loop]:
    with open_loop(project.spec, registry=MemoryRegistry()) as loop:
        yield loop


def ask(loop: Loop, path: Path, rows: int = 20, **kwargs: Any) -> pd.DataFrame:
    request = queue(loop, rows, **kwargs)
    assert request is not None
    write_sheet(loop, request.generation, path)
    return pd.read_csv(path)


def fill(path: Path, month: str = MARCH, **changes: Any) -> pd.DataFrame:
    """What came true, written into a sheet as a person would."""
    sheet = pd.read_csv(path)
    truth = outcomes(month).assign(departs=lambda rows: rows["departs"].astype(str))
    sheet["delay"] = sheet[KEYS].merge(truth, on=KEYS, how="left")["delay"]
    sheet = sheet.assign(**changes)
    sheet.to_csv(path, index=False)
    return sheet


def labelled(loop: Loop, month: str) -> pd.Series:
    """The known labels of a month, by the position of the row."""
    inputs = loop.inputs_for([month], labels=True)
    label = assemble(loop.spec, read_inputs(loop, inputs), labels=True).label
    return pd.Series(label).dropna()


def test_rows_go_out_and_come_back_as_labels(project: Project, tmp_path: Path) -> None:
    sheet = tmp_path / "labels.csv"
    with opened(project) as loop:
        asked = ask(loop, sheet)
        assert list(asked.columns) == ["departs", "train", "prediction", "reason", "delay"]
        assert (len(asked), asked["delay"].isna().all()) == (20, True)
        filled = fill(sheet, labelled_by="ada")
        taken = take(loop, sheet)
        assert (taken.table, taken.labels, taken.known, taken.empty) == ("asked", 20, 0, 0)
        assert pd.read_parquet(taken.path)["labelled_by"].unique().tolist() == ["ada"]
        done = advance(loop)
        assert [(v.table, v.partition, v.rows) for v in done.ingested] == [("asked", MARCH, 20)]
        label = labelled(loop, MARCH)
        assert label.tolist() == (filled["delay"] > 10).astype(float).tolist()
        # The same sheet again is known, and no file.
        again = take(loop, sheet)
        assert (again.path, again.labels, again.known) == (None, 0, 20)
        # The first source of labels says when a month is labelled.
        assert loop.labelled() == [JANUARY, FEBRUARY]


def test_the_outcomes_that_come_later_agree_or_are_refused_with_both_sources_named(
    project: Project, tmp_path: Path
) -> None:
    sheet = tmp_path / "labels.csv"
    with opened(project) as loop:
        ask(loop, sheet)
        fill(sheet)
        take(loop, sheet)
        project.land_outcomes(MARCH)
        done = advance(loop)
        assert [r.performance.status for r in done.health if r.partition == MARCH][-1] != "unknown"
        assert len(labelled(loop, MARCH)) == len(outcomes(MARCH))
    project.restore("scored")
    with opened(project) as loop:
        ask(loop, sheet)
        filled = fill(sheet)
        wrong = filled.assign(delay=filled["delay"].where(filled.index > 0, 99.0 if filled["delay"][0] <= 10 else 0.0))
        wrong.to_csv(sheet, index=False)
        take(loop, sheet)
        project.land_outcomes(MARCH)
        with pytest.raises(DataRefused, match="KZ419") as caught:
            advance(loop)
        assert caught.value.where == "tables outcomes and asked"
        assert str(caught.value.value).startswith(f"1 rows; the first: departs={filled['departs'][0]}")


def test_a_second_sheet_of_a_month_adds_to_the_first(project: Project, tmp_path: Path) -> None:
    with opened(project) as loop:
        for name in ("one.csv", "two.csv"):
            ask(loop, tmp_path / name)
        for name, rows in (("one.csv", 20), ("two.csv", 40)):
            fill(tmp_path / name)
            take(loop, tmp_path / name)
            advance(loop)
            assert len(labelled(loop, MARCH)) == rows
        assert loop.versions("asked")[MARCH].change == "grew"


def test_a_label_that_contradicts_what_is_known_is_refused_by_its_row(project: Project, tmp_path: Path) -> None:
    sheet = tmp_path / "labels.csv"
    with opened(project) as loop:
        ask(loop, sheet)
        project.land("outcomes", f"{MARCH}.parquet", outcomes(MARCH).assign(delay=99.0))
        advance(loop)
        fill(sheet, delay=[0.0, 99.0] * 10)
        with pytest.raises(DataRefused, match="KZ486") as caught:
            take(loop, sheet)
        assert caught.value.value.startswith("10 rows: row 1 has another label in table outcomes; row 3 ")


def test_a_row_goes_out_once_until_its_request_expires(project: Project, tmp_path: Path) -> None:
    with opened(project) as loop:
        one, two = (ask(loop, tmp_path / "labels.csv", 50, lasts=timedelta(days=10)) for _ in range(2))
        assert len(pd.concat([one, two]).drop_duplicates(KEYS)) == 100
        assert [r.generation for r in requests(loop)] == [1, 2]
        # April comes, and with it the end of the month: the first rows may be asked about again.
        project.land_schedules("2024-04")
        advance(loop)
        third = ask(loop, tmp_path / "labels.csv", 1000)
    assert len(third) == len(schedules(MARCH)) + len(schedules("2024-04"))


def test_without_anything_to_ask_there_is_no_request(project: Project) -> None:
    with opened(project) as loop:
        assert queue(loop, 10_000) is not None
        assert queue(loop) is None
        assert len(list(requests(loop))) == 1


def test_a_loop_that_has_scored_nothing_asks_nothing(tmp_path: Path) -> None:
    with opened(make_loop(tmp_path / "rail", ASKED)) as loop:
        assert queue(loop) is None


def test_of_two_that_ask_at_once_one_is_told_to_ask_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(project) as loop, opened(project) as other:
        inner = loop.ledger.append_all

        def late(*arguments: Any) -> Any:
            monkeypatch.undo()
            queue(other, 5)
            return inner(*arguments)

        monkeypatch.setattr(loop.ledger, "append_all", late)
        with pytest.raises(HeadMoved, match="KZ501"):
            queue(loop, 5)
        assert len(list(requests(loop))) == 1


def test_drifted_rows_go_out_beside_uncertain_ones(project: Project, tmp_path: Path) -> None:
    """In April a tenth of the trains goes farther than any did at training."""
    rows = schedules("2024-04")
    far = rows.index % 10 == 0
    project.land("schedules", "april.parquet", rows.assign(distance=rows["distance"].where(~far, 2000.0)))
    with opened(project) as loop:
        advance(loop)
        sheet = ask(loop, tmp_path / "labels.csv", 40)
    why = sheet["reason"].str.split(",").str[0].value_counts()
    assert why["uncertain"] >= 10
    near = sheet[sheet["reason"] == "uncertain"]["prediction"]
    assert (near - 0.5).abs().max() < 0.1


# What cannot be taken.


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({"train": "T9"}, "3 rows: row 1 was not asked about; row 2 was not asked about; row 3 was not asked about"),
        (
            {"delay": ["12", "late", "inf"]},
            "2 rows: row 2 has a label that is no number; row 3 has a label that is no number",
        ),
    ],
    ids=["unknown rows", "no labels"],
)
def test_rows_with_something_wrong_are_refused_by_number_and_nothing_lands(
    project: Project, tmp_path: Path, change: dict[str, Any], value: str
) -> None:
    sheet = tmp_path / "labels.csv"
    with opened(project) as loop:
        ask(loop, sheet, 3)
        fill(sheet, **change)
        with pytest.raises(DataRefused, match="KZ486") as caught:
            take(loop, sheet)
    assert caught.value.value == value
    assert not (project.landing / "asked").exists()


def test_a_row_twice_is_refused_and_one_left_empty_is_not_an_answer(project: Project, tmp_path: Path) -> None:
    sheet = tmp_path / "labels.csv"
    with opened(project) as loop:
        ask(loop, sheet, 3)
        filled = fill(sheet)
        pd.concat([filled, filled.tail(1)]).to_csv(sheet, index=False)
        with pytest.raises(DataRefused, match="KZ486") as caught:
            take(loop, sheet)
        assert caught.value.value == "1 rows: row 4 is there twice"
        filled.assign(delay=["", 5, ""]).to_csv(sheet, index=False)
        taken = take(loop, sheet)
    assert (taken.labels, taken.empty) == (1, 2)


def test_times_may_be_written_in_another_way(project: Project, tmp_path: Path) -> None:
    """Spreadsheets do that when they save."""
    sheet = tmp_path / "labels.csv"
    with opened(project) as loop:
        ask(loop, sheet, 3)
        filled = fill(sheet)
        times = pd.to_datetime(filled["departs"], utc=True).dt.strftime("%Y-%m-%d %H:%M")
        filled.assign(departs=times).to_csv(sheet, index=False, encoding="utf-8-sig")
        assert take(loop, sheet).labels == 3


def test_another_file_is_no_sheet(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with opened(project) as loop:
        with pytest.raises(DataRefused, match="KZ485") as caught:
            take(loop, path)
        assert caught.value.value == "no column departs, train, delay"
        with pytest.raises(DataRefused, match="KZ485"):
            take(loop, tmp_path / "gone.csv")


def test_a_request_that_there_was_not_has_no_sheet(project: Project, tmp_path: Path) -> None:
    with opened(project) as loop, pytest.raises(UsageError, match="KZ296"):
        write_sheet(loop, 1, tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("table", "uri", "code"),
    [
        ("aksed", "landing/asked/*", "KZ357"),
        ("asked", "package:rail/x.csv", "KZ358"),
        ("asked", "landing/asked.csv", "KZ358"),
        ("asked", "landing/*/asked-*.csv", "KZ358"),
        ("asked", "landing/asked/*.jsonl", "KZ358"),
    ],
)
def test_a_table_that_takes_no_answers_is_refused(project: Project, table: str, uri: str, code: str) -> None:
    project.write_spec({"data": {"tables": {"asked": {**ASKED["data"]["tables"]["asked"], "uri": uri}}}})
    with opened(project) as loop, pytest.raises(SpecError, match=code):
        take(loop, project.folder / "labels.csv", table)


# The command.


def test_the_commands_do_the_round(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "labels.csv"
    spec = str(project.spec)
    assert main(["label", "queue", spec, "--rows", "7", "--out", str(sheet), "--days", "5"]) == 0
    assert capsys.readouterr().out == f"request 1: 7 rows in {sheet}, waited for until 2024-04-06\n"
    before = sheet.read_text()
    sheet.unlink()
    assert main(["label", "queue", spec, "--again", "1", "--out", str(sheet), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["generation"] == 1
    assert sheet.read_text() == before
    fill(sheet)
    assert main(["label", "import", spec, "--sheet", str(sheet), "--table", "asked"]) == 0
    assert capsys.readouterr().out.startswith("7 new labels for asked, in ")
    assert main(["label", "import", spec, "--sheet", str(sheet), "--table", "asked", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == 7
    assert main(["label", "queue", spec, "--rows", "10000", "--out", str(sheet)]) == 0
    assert main(["label", "queue", spec, "--out", str(sheet)]) == 0
    assert capsys.readouterr().out.endswith("nothing to ask: every row that was scored has its label, or went out\n")


def test_where_people_are_the_only_source_their_labels_are_checked_against_the_classes(tmp_path: Path) -> None:
    project = make_loop(
        tmp_path / "rail", {"problem": {"label": None}, "data": {"outcomes": ["arrives"], "suite": None}}
    )
    for month in (JANUARY, FEBRUARY, MARCH):
        project.land_schedules(month)
        if month != MARCH:
            truth = outcomes(month).assign(late=lambda rows: (rows["delay"] > 10).astype(int))
            project.land("outcomes", f"{month}.parquet", truth.drop(columns="delay"))
    sheet = tmp_path / "labels.csv"
    with opened(project) as loop:
        advance(loop)
        filled = ask(loop, sheet, 3)
        assert list(filled.columns) == ["departs", "train", "prediction", "reason", "late"]
        filled.assign(late=[1, 2, ""]).to_csv(sheet, index=False)
        with pytest.raises(DataRefused, match="KZ486") as caught:
            take(loop, sheet)
        assert caught.value.value == "1 rows: row 2 has the label 2, which is none of 0, 1"
        filled.assign(late=[1, 0, ""]).to_csv(sheet, index=False)
        taken = take(loop, sheet)
        assert taken.path is not None
        assert (taken.path.parent, taken.labels, taken.empty) == (project.landing / "outcomes", 2, 1)
        advance(loop)
        assert labelled(loop, MARCH).sort_values().tolist() == [0.0, 1.0]
