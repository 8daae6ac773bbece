"""Look-up tables that are cut by a column or by file, not by time: a loop on them, and what is told of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.loops import MONTHS, STATIONS, Project, make_loop, stations

from kaizen.cli import main
from kaizen.loop import Loop, open_loop
from kaizen.records import HealthReport, TrainingSet
from kaizen.turn import advance

COUNTRIES = ("XA", "AT", "DE")


def depots(country: str, shift: float = 0.0) -> pd.DataFrame:
    """The depots of a country: the real ones are those of the first, and no other's are like another's."""
    if country == COUNTRIES[0]:
        return stations().assign(country=country, platforms=lambda rows: rows["platforms"] + shift)
    rng = np.random.default_rng(COUNTRIES.index(country))
    platforms = rng.normal(50 * COUNTRIES.index(country) + shift, 1, 300).round(1)
    return pd.DataFrame({"origin": [f"{country}{i}" for i in range(300)], "platforms": platforms, "country": country})


@pytest.fixture(scope="module", params=["by country", pytest.param("file", marks=pytest.mark.soak)])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A champion of two months; then a third month, and one country's depots anew."""
    cut = {"data": {"tables": {"stations": {"partition": request.param, "on_change": "replace"}}}}
    project = make_loop(tmp_path_factory.mktemp("cut") / "rail", cut)
    (project.landing / "stations" / "stations.parquet").unlink()
    for country in COUNTRIES:
        project.land("stations", f"{country}.parquet", depots(country))
    for month in MONTHS[:2]:
        project.land_month(month)
    with open_loop(project.spec) as loop:
        assert advance(loop).turn is not None
        project.land("stations", "AT.parquet", depots("AT", shift=9.0))
        project.land_month(MONTHS[2])
        assert advance(loop).turn is not None
    return project


@pytest.fixture
def loop(project: Project) -> Iterator[Loop]:
    with open_loop(project.spec) as found:
        yield found


@pytest.fixture
def names(loop: Loop) -> tuple[str, ...]:
    """The partitions of the countries."""
    by_file = loop.spec.data.tables["stations"].partition == "file"
    return tuple(f"{country}.parquet" if by_file else country for country in COUNTRIES)


def told(capsys: pytest.CaptureFixture[str], project: Project, *arguments: str, code: int = 0) -> str:
    assert main(["data", *arguments, "--spec", str(project.spec)]) == code
    found = capsys.readouterr()
    return found.err if code else found.out


def as_json(capsys: pytest.CaptureFixture[str], project: Project, *arguments: str) -> Any:
    return json.loads(told(capsys, project, *arguments, "--json"))


def test_every_partition_serves_every_stage_and_drift_is_of_the_rows_that_look_up(
    loop: Loop, names: tuple[str, ...]
) -> None:
    events = [e for e in loop.ledger.events(loop.name) if e.kind == "TrainingSet"]
    trained = [TrainingSet.from_json(event.payload) for event in events]
    assert len(trained) == 2
    for found in trained:
        assert {i.partition for i in found.inputs if i.table == "stations"} == set(names)
    reports = loop.heads(HealthReport, "health/")
    features = {f.feature: f for f in reports[MONTHS[2]].features}
    # Nobody left from where the depots changed.
    assert features["stations_platforms"].status == "ok"
    assert features["stations_platforms"].missing_current == 0


def test_what_rows_look_up_in_another_version_is_drift(project: Project) -> None:
    project.save("before")
    try:
        project.land("stations", "XA.parquet", depots("XA", shift=40.0))
        project.land_schedules(MONTHS[3])
        with open_loop(project.spec) as loop:
            (report,) = advance(loop).health
    finally:
        project.restore("before")
    assert (report.partition, report.drift) == (MONTHS[3], "alarm")
    assert [f.feature for f in report.features if f.status == "alarm"] == ["stations_platforms"]


def test_a_partition_is_compared_with_its_own_version_before_and_with_no_other(
    capsys: pytest.CaptureFixture[str], project: Project, names: tuple[str, ...]
) -> None:
    at, de = names[1:]
    for which in ("stations", f"stations/{at}"):
        # What came last is the newest, not what is last by name.
        facts = as_json(capsys, project, "diff", which)
        assert (facts["before"]["partition"], facts["after"]["partition"]) == (at, at)
        assert facts["rows"]["changed"] == 300
    assert "KZ281: there is no version before this one" in told(capsys, project, "diff", f"stations/{de}", code=2)
    facts = as_json(capsys, project, "diff", f"stations/{at}", f"stations/{de}")
    moved = {c["column"]: c["status"] for c in facts["columns"]}
    assert moved["platforms"] == "alarm"
    if at == "AT":
        # The column that tells partitions apart says nothing of a change.
        assert moved["country"] == ""


def test_the_page_shows_no_course_over_partitions_that_are_no_times(
    capsys: pytest.CaptureFixture[str], project: Project, names: tuple[str, ...]
) -> None:
    at = names[1]
    page = project.folder / "page.html"
    told(capsys, project, "report", "stations", "--out", str(page))
    text = re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8"))
    text = re.sub(r"\s+", " ", text)
    assert f"{at} came last" in text
    assert f"Columns of {at}" in text
    assert f"{at} against its version of" in text
    assert "mean by partition" not in text
    assert "Each partition against the one before it" not in text
    told(capsys, project, "report", f"stations/{names[2]}", "--out", str(page))
    assert "There is no version before this one." in page.read_text(encoding="utf-8")


def test_people_are_told_which_partition_came_last(
    capsys: pytest.CaptureFixture[str], project: Project, names: tuple[str, ...]
) -> None:
    tables = {t["table"]: t for t in as_json(capsys, project, "show")["tables"]}
    assert (tables["stations"]["oldest"], tables["stations"]["newest"]) == ("", names[1])
    assert f"{names[1]} came last" in told(capsys, project, "show")
    assert main(["status", "--spec", str(project.spec)]) == 0
    out = capsys.readouterr().out
    assert "stations: 3 partitions, 604 rows" in out
    assert f"schedules: 3 partitions to {MONTHS[2]}," in out


def test_a_key_in_two_partitions_is_refused_where_it_is_looked_up(
    capsys: pytest.CaptureFixture[str], project: Project
) -> None:
    project.save("alone")
    try:
        twice = depots("DE").assign(origin=lambda rows: [STATIONS[0], *rows["origin"][1:]])
        project.land("stations", "DE.parquet", twice)
        project.land_schedules(MONTHS[3])
        assert main(["turn", str(project.spec)]) == 4
        assert "key appears twice" in capsys.readouterr().err
        # The source mends it.
        project.land("stations", "DE.parquet", depots("DE", shift=1.0))
        assert main(["turn", str(project.spec)]) == 0
    finally:
        project.restore("alone")
