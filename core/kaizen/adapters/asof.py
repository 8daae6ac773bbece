"""Point in time: for each row the newest row of another table that it may know of.

Everything is done on arrays, in n log n: no row is looked at by itself. Times are whole microseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from kaizen.adapters.landing import with_time
from kaizen.errors import DataRefused
from kaizen.sources import Wanted


def moments(frame: pd.DataFrame, column: str, where: str) -> np.ndarray:
    """A time column as n whole numbers. Raises ``DataRefused`` KZ405 for the first row without a time."""
    values = pa.Table.from_pandas(frame[[column]], preserve_index=False).combine_chunks().column(0)
    whole = values.chunk(0) if values.num_chunks else pa.array([], values.type)
    times = with_time(pa.RecordBatch.from_arrays([whole], [column]), column, Wanted(where), 1).column(0)
    return np.asarray(times.cast(pa.int64()).to_numpy())


def refuse_other_types(rows: pd.DataFrame, table: pd.DataFrame, keys: Sequence[str], where: str) -> None:
    """Raise ``DataRefused`` (KZ417) for keys that are numbers on one side and text on the other: they never meet."""
    for key in keys:
        sides = rows[key], table[key]
        if len({_kind(side) for side in sides if side.notna().any()}) > 1:
            raise DataRefused(
                "KZ417",
                "keys of different types",
                where=f"{where}, column {key}",
                value=f"{sides[1].dtype}",
                limit=f"{sides[0].dtype}, as in the rows that look up",
                action="deliver both as the same type",
            )


def shared_codes(rows: pd.DataFrame, table: pd.DataFrame, keys: Sequence[str], where: str) -> tuple[np.ndarray, ...]:
    """The keys of n rows and of a table's m as whole numbers, equal where the keys are; -1 where a key is missing.

    Raises ``DataRefused`` KZ417; see ``refuse_other_types``.
    """
    refuse_other_types(rows, table, keys, where)
    code = np.zeros(len(rows) + len(table), dtype=np.int64)
    missing = np.zeros(len(code), dtype=bool)
    for key in keys:
        found, values = pd.factorize(pd.concat([rows[key], table[key]], ignore_index=True))
        missing |= found < 0
        code = code * (len(values) + 1) + found
        if len(keys) > 1:
            # Numbered anew each time: products of many keys would not fit.
            code = pd.factorize(code)[0]
    code = np.where(missing, -1, code)
    return code[: len(rows)], code[len(rows) :]


def _kind(values: pd.Series) -> str:
    if pd.api.types.is_datetime64_any_dtype(values):
        return "time"
    return "number" if pd.api.types.is_numeric_dtype(values) else "text"


def newest_until(keys: np.ndarray, until: np.ndarray, table_keys: np.ndarray, table_times: np.ndarray) -> np.ndarray:
    """For each of n rows the newest of m table rows that has its key and is not later than ``until``; -1 for none.

    Of table rows with the same key and time the last one counts as the newest. Missing keys (-1) meet nothing.
    """
    m = len(table_keys)
    ordered = np.sort(table_times)
    # A time as how many of the table's are earlier: key and time fit into one number, which is searched at once.
    order = np.lexsort((table_times, table_keys))
    held = table_keys[order] * (m + 1) + np.searchsorted(ordered, table_times[order], "left")
    before = np.searchsorted(held, keys * (m + 1) + np.searchsorted(ordered, until, "right"), "left") - 1
    found = np.append(order, -1)[before]
    known = (found >= 0) & (keys >= 0)
    known[known] = table_keys[found[known]] == keys[known]
    return np.where(known, found, -1)


def as_of(
    rows: pd.DataFrame, at: str, table: pd.DataFrame, keys: Sequence[str], time: str, max_age: int | None, where: str
) -> np.ndarray:
    """The positions in ``table`` of what n rows know at their time ``at``, -1 for nothing.

    That is the table's newest row with the same ``keys`` whose ``time`` is not later, nor more than ``max_age``
    microseconds earlier.
    """
    moment, times = moments(rows, at, "rows"), moments(table, time, where)
    own, others = shared_codes(rows, table, keys, where)
    found = newest_until(own, moment, others, times)
    if max_age is not None:
        known = found >= 0
        known[known] = moment[known] - times[found[known]] <= max_age
        found = np.where(known, found, -1)
    return found


def outcome_of(
    rows: pd.DataFrame,
    at: str,
    table: pd.DataFrame,
    keys: Sequence[str],
    time: str,
    known: str,
    horizon: int,
    delay: int,
    where: str,
) -> np.ndarray:
    """The positions in ``table`` of the outcomes that n rows have, -1 for none.

    Of the outcomes with the same ``keys`` that happened (``time``) from the row's own time on, until ``horizon``
    microseconds later, it is the newest; of those of one moment, the one that became known last. What became ``known``
    (a column, or "") later than ``delay`` microseconds after the row does not count: so a row has the same outcome
    whenever it is asked for.
    """
    moment, times = moments(rows, at, "rows"), moments(table, time, where)
    since = moments(table, known, where) if known else times
    _refuse_foreseen(times, since, f"{where}, columns {known} and {time}")
    own, others = shared_codes(rows, table, keys, where)
    order = np.lexsort((since, times, others))
    others, times, since = others[order], times[order], since[order]
    found = newest_until(own, moment + horizon, others, times)
    while True:
        late = found >= 0
        late[late] = since[found[late]] > moment[late] + delay
        if not late.any():
            break
        # One back: the next newest, if it is still of the same keys.
        earlier = found[late] - 1
        same = (earlier >= 0) & (others[np.maximum(earlier, 0)] == own[late])
        found[late] = np.where(same, earlier, -1)
    valid = found >= 0
    valid[valid] = times[found[valid]] >= moment[valid]
    return np.asarray(np.append(order, -1)[np.where(valid, found, -1)])


def _refuse_foreseen(times: np.ndarray, since: np.ndarray, where: str) -> None:
    foreseen = np.flatnonzero(since < times)
    if len(foreseen):
        raise DataRefused(
            "KZ418",
            "outcome known before it happened",
            where=where,
            value=f"{len(foreseen)} rows, first {', '.join(str(row + 1) for row in foreseen[:5])}",
            limit="known at its time or later",
            action="correct the columns' names, or the rows at the source",
        )
