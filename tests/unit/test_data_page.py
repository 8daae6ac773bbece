"""The page of a loop's data: well-formed, self-contained, says what profiles say, escapes it, and shows no secret."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from kaizen import data_page
from kaizen.data_page import TablePage, human_size, kept_for
from kaizen.data_pictures import short
from kaizen.data_text import bar, levels
from kaizen.profiling import warnings
from kaizen.records import (
    CRAMER,
    POINT_BISERIAL,
    Association,
    Bin,
    ColumnProfile,
    DataProfile,
    FeatureDrift,
    TargetProfile,
)

HOSTILE = "<script>alert('x')</script> & \"co\""
NUMBER = ColumnProfile(
    "distance", "double", "number", 5, 60, 0, 1.5, 2999.25, 155.123, 80.5,
    (10.0, 50.0, 150.0, 250.0, 290.0), tuple(Bin(10.0 * i, i) for i in range(24)), (Bin(150.0, 50), Bin(None, 45)),
)  # fmt: skip
WORDS = ColumnProfile("origin", "string", "category", 0, 3, bins=(Bin(HOSTILE, 60), Bin("b", 30), Bin("(other)", 10)))
PRIVATE = ColumnProfile("person", "string", "private", 1, 99)
TIME = ColumnProfile(
    "at", "timestamp[us, tz=UTC]", "time", 0, 2, 0, "2024-01-01T00:00:00+00:00", "2024-01-31T23:00:00+00:00",
    None, None, ("2024-01-16T00:00:00+00:00",) * 5, (Bin("2024-01-31T23:00:00+00:00", 100),),
)  # fmt: skip
COLUMNS = (NUMBER, WORDS, PRIVATE, TIME, ColumnProfile("blob", "binary", "other", 0, 9))


def profile(partition: str, *columns: ColumnProfile) -> DataProfile:
    return DataProfile("schedules", partition, "address", 100, 100, columns or COLUMNS)


def facts(**more: Any) -> dict[str, Any]:
    parts = [
        {"partition": p, "rows": 100, "quarantined": q, "verdict": v}
        for p, q, v in (("2024-01", 0, "passed"), ("2024-02", 2, "quarantined"), ("2024-03", 0, "refused"))
    ]
    return {
        "table": "schedules",
        "meaning": HOSTILE,
        "owner": "ada",
        "retention": "3650d",
        "partition": "month",
        "uri": "landing/*.parquet",
        "private": {"person": "hash"},
        "columns": {"distance": {"meaning": "to go", "unit": "km"}, "person": {"private": "hash"}},
        "parts": parts,
        "partitions": 3,
        "versions": 4,
        "timed": True,
        "oldest": "2024-01",
        "newest": "2024-03",
        "rows": 300,
        "size": 12_345,
        "quarantined": 2,
        "refused": ["2024-03"],
        "since": "2024-04-01T00:00:00",
        **more,
    }


DRIFT = (
    FeatureDrift("distance", "alarm", 0.512, 1e-9, 0.01, 0.05, 0.3),
    FeatureDrift("origin", "unknown", None, None, 0.0, 0.0),
)
TARGET = TargetProfile(
    "2024-02", "late", ("a",), 100, 90, 0.25,
    (Association("distance", POINT_BISERIAL, -0.97, 90), Association("origin", CRAMER, 0.1, 90),
     Association("flat", POINT_BISERIAL, None, 90)),
)  # fmt: skip


def full() -> TablePage:
    profiles = {p: profile(p) for p in ("2024-01", "2024-02", "2024-03")}
    return TablePage(
        facts=facts(),
        profile=profiles["2024-03"],
        against="2024-02",
        before=profiles["2024-02"],
        changes=DRIFT,
        profiles=profiles,
        drifts={"2024-02": DRIFT, "2024-03": DRIFT},
        target=TARGET,
        warnings=["origin is constant"],
    )


def read(*tables: TablePage) -> ElementTree.Element:
    return ElementTree.fromstring(data_page.html("rail/delays", tables))


def words(element: ElementTree.Element) -> str:
    return " ".join(element.itertext())


def section(table: TablePage, title: str) -> ElementTree.Element:
    (found,) = [s for s in read(table).iter("section") if (s.findtext("h2") or "").startswith(title)]
    return found


def test_the_page_is_one_file_without_scripts_or_anything_from_elsewhere() -> None:
    html = data_page.html("rail/delays", [full()])
    root = ElementTree.fromstring(html)
    assert not list(root.iter("script"))
    for element in root.iter():
        assert not {"src", "href", "onload"} & set(element.attrib), element.tag
    assert "http" not in html
    assert "@import" not in html
    assert "url(" not in html


def test_what_people_wrote_is_escaped() -> None:
    assert "<script>" not in data_page.html("rail/delays", [full()])
    assert HOSTILE in words(read(full()))


def test_no_element_that_html_leaves_open_closes_itself() -> None:
    html = data_page.html("rail/delays", [full(), replace(full(), profiles={"2024-03": profile("2024-03")})])
    assert "<div />" not in html
    assert "<p />" not in html


def test_a_private_column_shows_counts_and_its_policy() -> None:
    (row,) = [
        div
        for div in read(full()).iter("div")
        if div.get("class") == "column" and div.findtext("div/strong") == "person"
    ]
    assert "Masked at the door (hash): no value is shown." in words(row)
    assert "distinct 99" in " ".join(words(row).split())
    assert not list(row.iter("rect"))


def test_a_column_tells_unit_meaning_and_numbers() -> None:
    text = " ".join(words(section(full(), "Columns of 2024-03")).split())
    for expected in ("double · km", "to go", "missing 5.0%", "distinct 60", "median 150", "max 2999", "mean 155.1"):
        assert expected in text


def test_partitions_show_what_was_quarantined_and_refused() -> None:
    found = section(full(), "Partitions")
    assert "Refused: 2024-03." in words(found)
    titles = [t.text for t in found.iter("title")]
    assert titles[1] == "2024-02: 100 rows, quarantined, 2 quarantined"
    classes = [r.get("class") for r in found.iter("rect")]
    assert classes == ["bar", "bar", "bar static", "alarm"]


def test_the_target_tells_how_each_feature_goes_with_it() -> None:
    text = words(section(full(), "The target"))
    assert "90 of 100 rows of 2024-02 have an outcome; 25.0% of them are late" in text
    assert "-0.970" in text
    assert "flat" not in text
    unknown = replace(TARGET, associations=(), reason="no outcome has come")
    assert "unknown, no outcome has come" in words(section(replace(full(), target=unknown), "The target"))


def test_change_tells_the_schema_and_each_column() -> None:
    other = profile("2024-02", replace(NUMBER, type="int64"), PRIVATE, TIME, replace(WORDS, column="gone"))
    text = words(section(replace(full(), before=other), "Change"))
    assert "2024-03 against 2024-02" in text
    assert "New columns: origin, blob." in text
    assert "Gone: gone." in text
    assert "Of another type: distance (int64 → double)." in text
    assert "0.512" in text
    assert "moved" in text
    assert "unknown" in text


def test_a_first_version_has_nothing_to_be_compared_with() -> None:
    first = replace(full(), before=None, profiles={"2024-03": profile("2024-03")}, drifts={}, changes=())
    assert "There is no version before this one." in words(section(first, "Change"))


def test_quiet_partitions_are_said_to_be_quiet() -> None:
    quiet = (replace(DRIFT[0], psi=0.01, status="ok"),)
    table = replace(full(), changes=quiet, drifts={"2024-02": quiet, "2024-03": quiet})
    assert "No column's PSI reaches 0.1 from any partition to the next." in words(section(table, "Change"))


def test_many_tables_make_one_page() -> None:
    page = read(full(), replace(full(), facts=facts(table="stations")))
    assert [h.text for h in page.iter("h1")] == ["schedules", "stations"]
    assert page.findtext("head/title") == "Data of rail/delays"


CONSTANT = ColumnProfile("year", "int64", "number", 0, 1, 0, 2024.0, 2024.0, bins=(Bin(2024.0, 100),))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ((CONSTANT,), ["year is constant"]),
        ((replace(CONSTANT, missing=60),), ["year is constant, and is missing in 60.0% of the rows"]),
        ((replace(CONSTANT, missing=100, distinct=0),), ["year has no value at all"]),
        ((replace(NUMBER, missing=51),), ["distance is missing in 51% of the rows"]),
        ((replace(NUMBER, infinite=1200),), ["distance has 1,200 infinite values"]),
        ((replace(PRIVATE, distinct=1),), ["person is constant, and is missing in 1.0% of the rows"]),
        (COLUMNS, []),
    ],
    ids=str,
)
def test_what_is_rarely_meant_to_be_so_is_worth_a_look(columns: tuple[ColumnProfile, ...], said: list[str]) -> None:
    assert warnings(profile("2024-01", *columns), None) == said


def test_what_partitions_are_cut_by_is_not_constant() -> None:
    january, february = replace(CONSTANT, minimum=1.0, maximum=1.0), replace(CONSTANT, minimum=2.0, maximum=2.0)
    others = [profile("2024-01", january), profile("2024-02", february)]
    assert warnings(profile("2024-02", february), None, others) == []
    assert warnings(profile("2024-01", january), None, [others[0]] * 2) == ["year is constant"]


def test_a_feature_that_nearly_is_the_target_is_named() -> None:
    (said,) = warnings(profile("2024-02"), TARGET)
    assert said == "distance nearly is the target (point-biserial r -0.97): known before the prediction?"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        (2013.0, "2013"),
        (12345.6, "12,346"),
        (0.0123456, "0.0123"),
        (155.123, "155.1"),
        (1e12, "1e+12"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert short(value) == text


def test_sizes_and_durations_are_for_people() -> None:
    assert [human_size(n) for n in (999, 12_345, 3_430_000, 5 * 10**12)] == ["999 B", "12.3 kB", "3.43 MB", "5 TB"]
    assert [kept_for(t) for t in ("", "365d", "3650d", "30d", "2h")] == ["ever", "a year", "10 years", "30 days", "2h"]


def test_bars_are_drawn_to_an_eighth_of_a_character() -> None:
    assert bar(100, 100) == "█" * 24
    assert bar(1, 192) == "▏"
    assert bar(1, 10**6) == "▏"
    assert bar(0, 0) == ""
    assert levels([0, 50, 100]) == "▁▅█"
    assert len(levels(list(range(100)))) == 24
