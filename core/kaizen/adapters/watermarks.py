"""Watermarks: as text that records keep, as values that databases compare, and so much earlier."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from typing import Any

from kaizen.codec import encode
from kaizen.errors import SpecError

Lag = float | dt.timedelta


def text_of(value: Any) -> str:
    """A watermark as records keep it, "" for none."""
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, dt.datetime | dt.date) else str(value)


def parse(text: str, like: Any) -> Any:
    """A watermark as it was kept, in the type that the database has for it now; None for ""."""
    if not text or like is None:
        return None
    if isinstance(like, dt.datetime):
        return dt.datetime.fromisoformat(text)
    if isinstance(like, dt.date):
        return dt.date.fromisoformat(text)
    return type(like)(text)


def earlier(value: Any, lag: Lag, table: str) -> Any:
    """A bound that every watermark more than ``value - lag`` lies above; never a later one.

    Raises ``SpecError`` KZ361: a lag that is no time for a watermark of times, or no number for one of numbers.
    """
    if isinstance(lag, dt.timedelta):
        if isinstance(value, dt.datetime):
            return value - lag
        if isinstance(value, dt.date):
            return (dt.datetime.combine(value, dt.time()) - lag).date()
        if isinstance(value, str) and (time := _time_in(value)):
            # Whole seconds are the beginning of the text of every fraction of them.
            return f"{(time - lag).replace(tzinfo=None):%Y-%m-%d{value[10:11] or ' '}%H:%M:%S}"
    elif isinstance(value, int | decimal.Decimal) and not isinstance(value, bool):
        return value - (math.ceil(lag) if isinstance(value, int) else decimal.Decimal(lag))
    elif isinstance(value, float):
        return value - lag
    kind = "times" if isinstance(lag, dt.timedelta) else "numbers"
    raise SpecError(
        "KZ361",
        "the lag does not fit the watermark",
        where=f"data.tables.{table}.lag",
        value=f"{encode(lag)}, and the column holds {type(value).__name__}",
        limit=f"a watermark of {kind} for a lag of that kind",
        action='say a duration such as "1h" for times, a number for numbers',
    )


def _time_in(text: str) -> dt.datetime | None:
    """The time of a text whose order is that of time, YYYY-MM-DD first; None for another."""
    if text[4:5] != "-":
        return None
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        return None
