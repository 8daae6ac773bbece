"""Watermarks: so much earlier, in whatever a database has for them; never later than was asked for."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pyarrow")
from kaizen.adapters.watermarks import earlier, parse, text_of
from kaizen.errors import SpecError

HOUR = timedelta(hours=1)
NOON = datetime(2024, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "lag", "bound"),
    [
        (NOON, HOUR, NOON - HOUR),
        (NOON.replace(tzinfo=None), HOUR, NOON.replace(tzinfo=None) - HOUR),
        (date(2024, 3, 1), HOUR, date(2024, 2, 29)),
        (date(2024, 3, 1), timedelta(days=1), date(2024, 2, 29)),
        ("2024-03-01 12:30:15.250000", HOUR, "2024-03-01 11:30:15"),
        ("2024-03-01T00:30:15+01:00", HOUR, "2024-02-29T23:30:15"),
        ("2024-03-01", HOUR, "2024-02-29 23:00:00"),
        (7, 5.0, 2),
        (7, 0.5, 6),
        (7.5, 5.0, 2.5),
        (Decimal("7.25"), 0.5, Decimal("6.75")),
    ],
)
def test_a_bound_lies_so_much_earlier(value: Any, lag: Any, bound: Any) -> None:
    assert earlier(value, lag, "orders") == bound


@pytest.mark.parametrize(
    ("value", "lag"),
    [
        (7, HOUR),
        (NOON, 5.0),
        (date(2024, 3, 1), 5.0),
        ("2024-03-01", 5.0),
        ("20240301", HOUR),
        ("x7", HOUR),
        (True, 1.0),
    ],
)
def test_a_lag_of_another_kind_is_refused(value: Any, lag: Any) -> None:
    with pytest.raises(SpecError, match="KZ361") as refused:
        earlier(value, lag, "orders")
    assert refused.value.where == "data.tables.orders.lag"


MOMENTS = st.integers(0, 10**16).map(lambda n: datetime(1971, 1, 1, tzinfo=timezone(HOUR)) + timedelta(microseconds=n))
FORMS = st.sampled_from([(" ", "auto"), ("T", "auto"), ("T", "seconds"), (" ", "microseconds")])


@given(high=MOMENTS, lag=st.integers(1, 10**6), behind=st.floats(0, 0.999), form=FORMS)
def test_no_text_within_the_lag_lies_below_its_bound(
    high: datetime, lag: int, behind: float, form: tuple[str, str]
) -> None:
    row = high - timedelta(seconds=lag) * behind
    bound = earlier(high.isoformat(*form), timedelta(seconds=lag), "orders")
    assert row.isoformat(*form) > bound or (form[1] == "seconds" and row.isoformat(*form)[:19] == bound)


@pytest.mark.parametrize("value", [NOON, date(2024, 3, 1), 7, 7.5, Decimal("7.25"), "2024-03-01 12:00"])
def test_a_watermark_comes_back_from_its_text(value: Any) -> None:
    assert parse(text_of(value), value) == value
    assert parse("", value) is None
    assert text_of(None) == ""
