"""Partitions as times, where days have 23, 24 and 25 hours."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizen.calendar import LOOKS_PER_YEAR, bounds, days_later

NEW_YORK = ZoneInfo("America/New_York")


def hours(key: str, zone: ZoneInfo = NEW_YORK) -> float:
    # Subtracting two times of one zone would compare the clocks on the wall.
    start, end = (moment.astimezone(UTC) for moment in bounds(key, zone))
    return (end - start) / timedelta(hours=1)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("2013-03-09", 24),
        ("2013-03-10", 23),
        ("2013-11-03", 25),
        ("2013-03", 31 * 24 - 1),
        ("2013-11", 30 * 24 + 1),
        ("2013-02", 28 * 24),
        ("2012-02", 29 * 24),
        ("2013-12", 31 * 24),
        ("2013", 365 * 24),
        ("2012", 366 * 24),
    ],
)
def test_a_partition_is_as_long_as_its_days_are(key: str, expected: float) -> None:
    assert hours(key) == expected


@pytest.mark.parametrize(
    ("key", "start", "end"),
    [
        ("2013", "2013-01-01T00:00:00-05:00", "2014-01-01T00:00:00-05:00"),
        ("2013-03", "2013-03-01T00:00:00-05:00", "2013-04-01T00:00:00-04:00"),
        ("2013-12", "2013-12-01T00:00:00-05:00", "2014-01-01T00:00:00-05:00"),
        ("2013-03-10", "2013-03-10T00:00:00-05:00", "2013-03-11T00:00:00-04:00"),
        ("2012-02-29", "2012-02-29T00:00:00-05:00", "2012-03-01T00:00:00-05:00"),
        ("2013-12-31", "2013-12-31T00:00:00-05:00", "2014-01-01T00:00:00-05:00"),
    ],
)
def test_a_partition_begins_and_ends_at_midnight_of_the_loops_zone(key: str, start: str, end: str) -> None:
    assert [moment.isoformat() for moment in bounds(key, NEW_YORK)] == [start, end]


@pytest.mark.parametrize("key", ["", "all", "2013-13", "2013-02-29", "2013-00", "2013-1-1-1x"])
def test_what_is_no_partition_of_time_is_an_error(key: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        bounds(key, NEW_YORK)


@given(st.dates(date(1970, 1, 1), date(2100, 12, 30)))
def test_days_follow_each_other_without_gap_or_overlap(day: date) -> None:
    following = day + timedelta(days=1)
    assert bounds(day.isoformat(), NEW_YORK)[1] == bounds(following.isoformat(), NEW_YORK)[0]


@pytest.mark.parametrize(
    ("moment", "days", "expected"),
    [
        ("2013-03-04T00:00:00", 7, "2013-03-11T00:00:00-04:00"),
        ("2013-03-11T00:00:00", -7, "2013-03-04T00:00:00-05:00"),
        ("2013-11-01T12:00:00", 3, "2013-11-04T12:00:00-05:00"),
        ("2013-04-01T00:00:00", 0.5, "2013-04-01T12:00:00-04:00"),
    ],
)
def test_days_later_it_is_the_same_time_on_the_wall(moment: str, days: float, expected: str) -> None:
    start = datetime.fromisoformat(moment).replace(tzinfo=NEW_YORK)
    assert days_later(start, days).isoformat() == expected


def test_looks_per_year() -> None:
    assert LOOKS_PER_YEAR == {"day": 365.0, "month": 12.0, "year": 1.0}
