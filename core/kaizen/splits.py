"""Splits of a table into two sides: by time, by whole groups, by a stable hash of each entity.

For user code and runners: each function returns a list of n booleans, True where a row belongs to the smaller side::

    held = by_hash(examples, ["patient"], share=0.2, salt="clinic")
    fit(examples[~numpy.array(held)], validate_on=examples[held])

Nothing is random: the same rows are split the same way in every process, whatever their order.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from kaizen.canonical import canonical_json
from kaizen.codec import nearest
from kaizen.errors import DataRefused

if TYPE_CHECKING:
    import pandas as pd


def by_time(frame: pd.DataFrame, timestamp: str, *, share: float = 0.2, last: timedelta | None = None) -> list[bool]:
    """The newest rows: ``share`` of them, or those of the ``last`` so much time before the newest one.

    Rows of one moment stay together, and more than the share may be taken for it.
    """
    refuse_missing(frame, [timestamp])
    times = frame[timestamp].tolist()
    if not times:
        return []
    if last is not None:
        newest = max(times)
        return [moment > newest - last for moment in times]
    first = sorted(times)[-max(1, round(share * len(times)))]
    return [moment >= first for moment in times]


def by_group(frame: pd.DataFrame, columns: Sequence[str], *, share: float = 0.2, salt: str = "") -> list[bool]:
    """Whole groups, so many that they hold as nearly as may be ``share`` of the rows; at least one.

    Which ones depends on what other groups there are. For sides that never change take ``by_hash``.
    """
    keys = keys_of(frame, columns)
    sizes = Counter(keys)
    wanted, taken, chosen = share * len(keys), 0, set[str]()
    for key in sorted(sizes, key=lambda key: (hash_of(key, salt), key)):
        if abs(taken + sizes[key] - wanted) < abs(taken - wanted):
            chosen.add(key)
            taken += sizes[key]
    if not chosen and sizes:
        chosen.add(min(sizes, key=lambda key: (sizes[key], hash_of(key, salt), key)))
    return [key in chosen for key in keys]


def by_hash(frame: pd.DataFrame, columns: Sequence[str], *, share: float = 0.2, salt: str = "") -> list[bool]:
    """The entities whose hash lies below ``share``: an entity's side is the same in every table and for good.

    Another ``salt`` is another split, independent of the first.
    """
    keys = keys_of(frame, columns)
    held = {key: hash_of(key, salt) < share for key in set(keys)}
    return [held[key] for key in keys]


def hash_of(key: str, salt: str) -> float:
    """A number from 0 to below 1 that looks random and is the same everywhere: from sha256."""
    # 53 bits: what a float holds exactly, so that it stays below 1.
    return (int.from_bytes(hashlib.sha256(f"{salt}\0{key}".encode()).digest()[:8], "big") >> 11) / 2**53


def keys_of(frame: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The values of ``columns`` in each row as a text that does not depend on how a file stored them.

    Raises ``DataRefused`` (KZ493) if a column is not there.
    """
    refuse_missing(frame, columns)
    texts = [_texts(frame[name].tolist()) for name in columns]
    return [f"[{','.join(row)}]" for row in zip(*texts, strict=True)]


def _texts(values: list[Any]) -> list[str]:
    """Values as JSON texts; most come many times, and each is written once."""
    # Equal numbers are one key of a dict, whatever their types: 1 and 1.0 have the same text.
    known: dict[Any, str] = {}
    found = []
    for value in values:
        text = known.get(value)
        if text is None:
            text = known[value] = canonical_json(_plain(value))
        found.append(text)
    return found


def refuse_missing(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise ``DataRefused`` (KZ493) with the nearest name if one of ``columns`` is not there."""
    names = [str(name) for name in frame.columns]
    if missing := [name for name in columns if name not in names]:
        hint = nearest(missing[0], names)
        raise DataRefused(
            "KZ493",
            "column to split by is missing",
            where="split",
            value=", ".join(missing),
            limit="columns " + ", ".join(names),
            action=f"did you mean {hint!r}?" if hint else "correct the name, or deliver the column",
        )


def _plain(value: Any) -> Any:
    """A value as JSON: whole numbers without a point, moments in UTC, what is missing as None."""
    if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
        return None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat() if value.tzinfo else value.isoformat()
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        number = float(value)
        return int(number) if number.is_integer() else number
    return str(value)
