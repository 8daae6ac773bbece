"""``kaizen data show|log|diff|report`` on a small real loop, as a person and as a script would use it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.loops import MONTHS, STATIONS, Project, make_loop, schedules, stations

from kaizen.adapters.memory_registry import MemoryRegistry
from kaizen.adapters.tables import read_parquet
from kaizen.cli import main
from kaizen.loop import Loop, open_loop
from kaizen.profiling import profile
from kaizen.records import DataProfile
from kaizen.stages import run_stage

ABOUT = {
    "meaning": "trains that leave",
    "owner": "ada",
    "licence": "CC0-1.0",
    "columns": {"distance": {"meaning": "to go", "unit": "km"}},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two months of trains, the second with a bad row; outcomes of the first; a look-up table in two versions."""
    project = make_loop(tmp_path_factory.mktemp("data") / "rail", {"data": {"tables": {"schedules": {"about": ABOUT}}}})
    project.land_month(MONTHS[0])
    project.land("schedules", f"{MONTHS[1]}.parquet", with_bad_row(MONTHS[1]))
    assert [main(["stage", stage, str(project.spec)]) for stage in ("ingest", "validate")] == [0, 0]
    project.land("stations", "later.parquet", stations().assign(platforms=[2, 4, 6, 80]))
    assert [main(["stage", stage, str(project.spec)]) for stage in ("ingest", "validate")] == [0, 0]
    return project


def with_bad_row(month: str) -> Any:
    rows = schedules(month)
    rows.loc[0, "rain"] = 99
    return rows


@pytest.fixture(autouse=True)
def in_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)


@pytest.fixture
def loop(project: Project) -> Iterator[Loop]:
    with open_loop(project.spec, registry=MemoryRegistry()) as found:
        yield found


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["data", *arguments]) == 0
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(told(capsys, *arguments, "--json"))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["data", *arguments]) == 2
    return capsys.readouterr().err.partition(":")[0]


def test_show_tells_every_table_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, "show").splitlines()
    assert lines[0] == "rail/delays"
    assert [line.split()[0] for line in lines[2:]] == ["TABLE", "schedules", "stations", "outcomes"]
    assert "2024-01 to 2024-02" in lines[3]
    assert "trains that leave" in lines[3]
    facts = as_json(capsys, "show")["tables"]
    assert [(t["table"], t["partitions"], t["versions"], t["quarantined"]) for t in facts] == [
        ("schedules", 2, 2, 1),
        ("stations", 1, 2, 0),
        ("outcomes", 1, 1, 0),
    ]


def test_show_of_a_table_has_its_partitions_and_columns(capsys: pytest.CaptureFixture[str], project: Project) -> None:
    text = told(capsys, "show", "schedules")
    assert text.startswith("rail/delays · schedules: trains that leave\nowner    ada\n")
    (february,) = [line for line in text.splitlines() if line.startswith("2024-02")]
    assert re.search(r"2024-02\s+348\s+█+\S*\s+\S+ kB\s+quarantined\s+1\s+20", february)
    assert re.search(r"^distance\s+\S+\s+km\s+to go$", text, re.MULTILINE)
    assert f"report: {project.home}" in text
    facts = as_json(capsys, "show", "schedules")
    assert next(iter(facts["columns"])) == "distance"
    assert [p["rows"] for p in facts["parts"]] == [372, 348]


def test_show_of_a_partition_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "show", "schedules/2024-02")
    facts = as_json(capsys, "show", "schedules/2024-02")
    assert text.startswith("rail/delays · schedules/2024-02: trains that leave\n")
    assert facts["digest"] in text
    assert f"sha256 {facts['sha256']}" in text
    assert "1 of 348 rows are bad" in text
    assert "classes" in told(capsys, "show", "outcomes/2024-01")


def test_log_tells_versions_newest_first(capsys: pytest.CaptureFixture[str]) -> None:
    entries = as_json(capsys, "log")
    assert [(e["table"], e["partition"], e["change"]) for e in entries[:2]] == [
        ("stations", "all", "replaced"),
        ("outcomes", "2024-01", "first"),
    ]
    newest, first = as_json(capsys, "log", "stations/all")
    assert newest["previous"] == first["digest"]
    assert (newest["more"], first["previous"]) == (0, "")
    text = told(capsys, "log", "stations")
    assert newest["digest"][:12] in text
    assert newest["commit"][:12] in text
    assert len(text.splitlines()) == 3


def test_a_partition_that_grew_says_so_and_by_which_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = make_loop(tmp_path / "rail", {"data": {"tables": {"schedules": {"on_change": "append"}}}})
    spec, rows = str(other.spec), schedules(MONTHS[0])
    for name, some in (("early", rows.iloc[:300]), ("late", rows.iloc[300:])):
        other.land("schedules", f"{name}.parquet", some)
        assert main(["stage", "ingest", spec]) == 0
    grown, first = as_json(capsys, "log", "schedules/2024-01", "--spec", spec)
    assert [(e["change"], e["rows"], e["more"]) for e in (grown, first)] == [("grew", 372, 72), ("first", 300, 300)]
    assert "(+72)" in told(capsys, "log", "schedules", "--spec", spec)
    facts = as_json(capsys, "diff", "schedules/2024-01", "--spec", spec)["rows"]
    assert (facts["same"], facts["added"], facts["removed"], facts["changed"]) == (300, 72, 0, 0)
    page = tmp_path / "page.html"
    told(capsys, "report", "schedules", "--out", str(page), "--spec", spec)
    assert f"2024-01 against its version of {first['at'][:16]}" in page.read_text(encoding="utf-8")


def test_diff_of_a_partition_is_with_its_version_before(capsys: pytest.CaptureFixture[str]) -> None:
    facts = as_json(capsys, "diff", "stations")
    rows = {"keys": ["origin"], "same": 3, "added": 0, "removed": 0, "changed": 1, "columns": {"platforms": 1}}
    assert facts["rows"] == rows
    text = told(capsys, "diff", "stations/all")
    assert "+0 added, -0 removed, 1 changed, 3 the same, rows recognised by origin" in text
    assert "in   platforms (1)" in text


def test_diff_takes_partitions_digests_files_and_commits(capsys: pytest.CaptureFixture[str]) -> None:
    newest, first = as_json(capsys, "log", "stations/all")
    for known in ("digest", "sha256", "commit"):
        facts = as_json(capsys, "diff", first[known][:12], newest[known][:12])
        assert (facts["before"]["digest"], facts["after"]["digest"]) == (first["digest"], newest["digest"])
    facts = as_json(capsys, "diff", "schedules/2024-01", "2024-02")
    assert (facts["rows"]["added"], facts["rows"]["removed"]) == (348, 372)
    assert as_json(capsys, "diff", "schedules/2024-02")["before"]["partition"] == "2024-01"
    columns = {c["column"]: c for c in facts["columns"]}
    assert columns["rain"]["status"] == "ok"
    assert columns["departs"]["psi"] is None


def test_diff_tells_changes_of_the_schema(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = make_loop(tmp_path / "rail")
    assert main(["stage", "ingest", str(other.spec)]) == 0
    rows = stations().drop(columns="platforms").assign(height=1.5, origin=list("abcd"))
    other.land("stations", "later.parquet", rows.assign(platforms=["2", "4", "6", "8"]))
    other.write_spec({"data": {"tables": {"stations": {"types": {"platforms": "text"}}}}})
    assert main(["stage", "ingest", str(other.spec)]) == 0
    facts = as_json(capsys, "diff", "stations", "--spec", str(other.spec))
    assert set(facts["schema"]["added"]) == {"height"}
    assert set(facts["schema"]["changed"]) == {"platforms"}
    text = told(capsys, "diff", "stations", "--spec", str(other.spec))
    assert "new column  height: double" in text
    assert "other type  platforms: int64 → string" in text


def test_what_there_is_not_is_refused_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert refusal(capsys, "show", "scheduls") == "KZ275"
    assert refusal(capsys, "show", "schedules/2024-03") == "KZ278"
    assert refusal(capsys, "log", "schedules/2024-03") == "KZ278"
    assert refusal(capsys, "diff", "schedules/2024-03") == "KZ278"
    assert refusal(capsys, "diff", "123456789abc") == "KZ276"
    assert refusal(capsys, "diff", "2024") == "KZ276"
    assert refusal(capsys, "diff", "2024-01") == "KZ277"
    assert refusal(capsys, "diff", "schedules/2024-01", "stations") == "KZ279"
    assert refusal(capsys, "diff", "schedules/2024-01") == "KZ281"
    assert refusal(capsys, "report", "--spec", str(make_loop(tmp_path / "rail").spec)) == "KZ280"


def test_a_loop_without_data_shows_that_it_has_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = str(make_loop(tmp_path / "rail").spec)
    assert "none yet" in told(capsys, "show", "--spec", spec)
    assert "no partition yet" in told(capsys, "show", "schedules", "--spec", spec)
    assert told(capsys, "log", "--spec", spec) == "no version yet\n"


def test_report_writes_a_page_and_prints_what_is_worth_a_look(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, loop: Loop
) -> None:
    page = tmp_path / "page.html"
    printed = as_json(capsys, "report", "schedules", "--out", str(page))
    assert printed == {"report": str(page), "warnings": []}
    text = " ".join(ElementTree.fromstring(page.read_text(encoding="utf-8")).itertext())
    assert "372 of 372 rows of 2024-01 have an outcome" in text
    assert "stations_platforms" in text
    assert "2024-02 against 2024-01" in text
    assert told(capsys, "report", "schedules").startswith(f"report: {loop.home / 'data-schedules.html'}")
    # The outcomes of the partition that was named have not come.
    told(capsys, "report", "schedules/2024-02", "--out", str(page))
    assert "late of 2024-02: unknown, no validated rows of outcomes yet" in page.read_text(encoding="utf-8")


def test_no_value_of_a_private_column_is_shown_anywhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    private = {"origin": "hash", "distance": {"generalise": 10}}
    other = make_loop(tmp_path / "rail", {"data": {"private": private}})
    spec = str(other.spec)
    for month in MONTHS[:2]:
        other.land_month(month)
        assert [main(["stage", stage, spec]) for stage in ("ingest", "validate")] == [0, 0]
    shown = told(capsys, "show", "schedules", "--spec", spec)
    assert "masked   distance (generalise), origin (hash)" in shown
    page = tmp_path / "page.html"
    printed = [
        shown,
        told(capsys, "diff", "schedules", "--spec", spec),
        told(capsys, "diff", "schedules", "--json", "--spec", spec),
    ]
    told(capsys, "report", "--out", str(page), "--spec", spec)
    texts = [*printed, page.read_text(encoding="utf-8")]
    with open_loop(other.spec, registry=MemoryRegistry()) as found:
        versions = found.versions("schedules")
        texts += [kept.read_text() for kept in (found.home / "profiles").iterdir()]
        values = {v for version in versions.values() for v in read_parquet(found.store.file(version.address))["origin"]}
        columns = {c.column: c for c in profile(found, versions["2024-01"]).columns}
    assert len(values) == 4
    assert not [value for value in (*values, *STATIONS) for text in texts if value in text]
    assert {n: (c.kind, c.distinct, c.bins, c.mean) for n, c in columns.items() if n in private} == {
        "origin": ("private", 4, (), None),
        "distance": ("private", 29, (), None),
    }


def test_a_profile_is_made_once_for_each_version(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    version = loop.versions("schedules")["2024-01"]
    found = profile(loop, version)

    def refuse(*_: object) -> DataProfile:
        raise AssertionError("made again")

    with monkeypatch.context() as patch:
        patch.setattr("kaizen.adapters.data_profiles.profile_file", refuse)
        assert profile(loop, version) == found
    for kept in (loop.home / "profiles").iterdir():
        kept.write_text("{torn")
    assert profile(loop, version) == found


def test_looking_at_data_adds_nothing_to_the_ledger(capsys: pytest.CaptureFixture[str], loop: Loop) -> None:
    before = loop.ledger.anchor()
    for arguments in (["show"], ["log"], ["diff", "stations"], ["report"]):
        told(capsys, *arguments)
    assert loop.ledger.anchor() == before


def test_validate_writes_the_page_of_all_tables(
    loop: Loop, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    page = loop.home / "data.html"
    assert [h.text for h in ElementTree.fromstring(page.read_text()).iter("h1")] == [
        "schedules",
        "stations",
        "outcomes",
    ]
    assert run_stage(loop, "validate").report == ""
    assert main(["stage", "monitor", str(project.spec)]) == 0
    text = (loop.home / "report.html").read_text()
    assert "trains that leave" in text
