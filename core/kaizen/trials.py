"""Trials: how training code says how good it is so far, and hears that it need not go on.

Both pass through files in the trial's folder, which lies in the place: the caller looks at them from outside.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

REPORTS, STOP = "reports.jsonl", "stop"
"""Names of the two files: one line per report; there as soon as the trial is to stop."""
MAX_REPORTS = 1024**2
"""Bytes of all reports of a trial; what comes after them is not noted."""

Report = Callable[[int, float], None]
"""What training code calls: after ``step`` (0 or more, growing) the first gate's metric is ``value``."""


class TrialStopped(Exception):
    """Raised by ``report`` in training code: this configuration is not worth more time. Let it pass."""


def say_nothing(step: int, value: float) -> None:
    """``Report`` of a training that nobody compares with others."""


@dataclass(frozen=True)
class Reporter:
    """``Report`` of a trial whose folder is ``folder``."""

    folder: Path

    def __call__(self, step: int, value: float) -> None:
        """Note a value. Raises ``TrialStopped`` if the trial is to stop, ``ValueError`` for what is not finite."""
        if not math.isfinite(value):
            raise ValueError(f"report(step={step}, value={value}): the value must be finite")
        line = json.dumps([int(step), float(value)]) + "\n"
        with (self.folder / REPORTS).open("a", encoding="utf-8") as reports:
            if reports.tell() + len(line) <= MAX_REPORTS:
                reports.write(line)
        if (self.folder / STOP).exists():
            raise TrialStopped(f"stopped after step {step}")


def parse_reports(data: bytes) -> list[tuple[int, float]]:
    """Step and value of every whole line; what is being written, and what is no report, is left out."""
    found = []
    for line in data.split(b"\n")[:-1]:
        try:
            step, value = json.loads(line)
            found.append((int(step), float(value)))
        except (ValueError, TypeError, OverflowError):
            continue
    return [(step, value) for step, value in found if 0 <= step < 2**31 and math.isfinite(value)]


class Spool(Protocol):
    """A running trial, as its caller sees it."""

    def reports(self) -> bytes:
        """The reports so far."""
        ...

    def stop(self) -> None:
        """Ask it to stop at its next report."""
        ...

    def end(self) -> None:
        """End it, as far as its place can."""
        ...


Watch = Callable[[Spool], None]
"""Called every few seconds while a stage runs in its place."""


@dataclass(frozen=True)
class FolderSpool:
    """The spool of a trial on this machine; ``end`` sends its process SIGTERM, if it has one of its own."""

    folder: Path
    terminate: Callable[[], None] = lambda: None

    def reports(self) -> bytes:
        """The reports so far, none before the first."""
        try:
            with (self.folder / REPORTS).open("rb") as reports:
                return reports.read(MAX_REPORTS)
        except FileNotFoundError:
            return b""

    def stop(self) -> None:
        """Leave the stop file."""
        (self.folder / STOP).touch()

    def end(self) -> None:
        """Send SIGTERM, if it has a process of its own."""
        self.terminate()
