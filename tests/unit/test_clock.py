"""Clocks: the machine's, and the one that is moved by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kaizen.clock import VirtualClock, WallClock

START = datetime(2013, 3, 1, tzinfo=UTC)


def test_the_wall_clock_tells_utc_and_does_not_stand_still() -> None:
    before = datetime.now(UTC)
    now = WallClock().now()
    assert before <= now <= datetime.now(UTC)
    assert now.utcoffset() == timedelta(0)


def test_a_virtual_clock_stands_still_until_it_is_moved() -> None:
    clock = VirtualClock(START)
    assert clock.now() == clock.now() == START
    clock.move_to(START + timedelta(days=1))
    assert clock.now() == START + timedelta(days=1)
    clock.move_to(clock.now())
    assert clock.now() == START + timedelta(days=1)


def test_a_virtual_clock_does_not_go_back() -> None:
    clock = VirtualClock(START)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.move_to(START - timedelta(microseconds=1))
    assert clock.now() == START
