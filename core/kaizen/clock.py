"""Time is passed in: the core never asks the machine what time it is.

Cooldowns, label delays and partitions count in the loop's own clock (``data`` or ``wall``). Leases and timeouts are
the only users of wall time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Anything that tells the time."""

    def now(self) -> datetime:
        """The present moment, with a time zone."""
        ...


class WallClock:
    """The machine's clock, in UTC."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class VirtualClock:
    """A clock that stands still until it is moved; the backtest's, and the tests'."""

    def __init__(self, start: datetime) -> None:
        self.time = start

    def now(self) -> datetime:
        return self.time

    def move_to(self, moment: datetime) -> None:
        """Set the clock; moving back is a ``ValueError``."""
        if moment < self.time:
            raise ValueError(f"clock cannot go back from {self.time} to {moment}")
        self.time = moment
