"""Partition keys as times: when a partition begins and ends in the loop's zone."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

LOOKS_PER_YEAR = {"day": 365.0, "month": 12.0, "year": 1.0}
"""How often a loop with such partitions is looked at: what the false-alarm budget is shared out over."""


def bounds(key: str, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """First moment of the partition ``2013``, ``2013-04`` or ``2013-04-30``, and the first moment after it."""
    parts = [int(part) for part in key.split("-")]
    year, month, day = (*parts, 1, 1)[:3]
    start = datetime(year, month, day, tzinfo=zone)
    if len(parts) == 1:
        return start, start.replace(year=start.year + 1)
    if len(parts) == 2:
        return start, start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return start, days_later(start, 1)


def days_later(moment: datetime, days: float) -> datetime:
    """The same wall-clock time so many calendar days later (or earlier), across daylight saving."""
    return (moment.replace(tzinfo=None) + timedelta(days=days)).replace(tzinfo=moment.tzinfo)
