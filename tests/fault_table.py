"""The table of the fault campaign: each test that is marked with a fault adds to a row of what was injected and seen.

A plugin of pytest. ``@pytest.mark.fault("F01", "what is injected", "I1 I2")`` names a row and the invariants that the
test asserts; the fixture ``saw`` says what came of it. ``--faults FILE`` prints the table and writes it as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

import pytest

WIDTHS = {"fault": 9, "injected": 44, "cases": 5, "seen": 86, "invariants": 14, "verdict": 7, "seconds": 7}
HOLDS, BROKEN, NOT_RUN = "holds", "BROKEN", "not run"
FIRST = ("made", "started", "at once", "left")
MOST = ("at once",)
"""What is seen at most, and not in all."""
SEEN = pytest.StashKey[dict[str, Any]]()


@dataclass
class Row:
    """What one fault did in all tests that inject it."""

    fault: str
    injected: str
    invariants: str
    cases: int = 0
    seen: dict[str, Any] = field(default_factory=dict)
    verdict: str = NOT_RUN
    seconds: float = 0.0

    def add(self, report: pytest.TestReport, seen: Mapping[str, Any]) -> None:
        """One phase of a test: numbers add up, a failure stays."""
        self.seconds = round(self.seconds + report.duration, 1)
        if report.failed:
            self.verdict = BROKEN
        elif report.when == "call" and report.passed and self.verdict != BROKEN:
            self.verdict = HOLDS
        if report.when != "teardown":
            return
        self.cases += 1
        for name, value in seen.items():
            self.seen[name] = _together(name, self.seen[name], value) if name in self.seen else value

    def cells(self) -> dict[str, str]:
        """The row as texts."""
        names = sorted(self.seen, key=lambda name: name not in FIRST)
        seen = ", ".join(f"{name} {self.seen[name]}" for name in names)
        return {name: str(value) for name, value in {**asdict(self), "seen": seen}.items()}


def _together(name: str, before: Any, value: Any) -> Any:
    if not isinstance(value, int):
        return value
    return max(before, value) if name in MOST else before + value


def rows_of(reports: list[pytest.TestReport]) -> list[Row]:
    """Rows in the order of the faults' numbers."""
    rows: dict[tuple[str, str], Row] = {}
    for report in reports:
        for mark, seen in [value for name, value in report.user_properties if name == "fault"]:
            rows.setdefault((mark[0], mark[1]), Row(*mark)).add(report, seen)
    return sorted(rows.values(), key=lambda row: row.fault)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", metavar="FILE", help="print the table of faults, and write it as JSON")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A marked test has a row, whatever it says, also if it is skipped."""
    item.stash[SEEN] = {}
    for mark in item.iter_markers("fault"):
        item.user_properties.append(("fault", (mark.args, item.stash[SEEN])))


@pytest.fixture
def saw(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Says what a test saw of its fault, under names: numbers of all cases of a row add up."""
    seen: dict[str, Any] = request.node.stash[SEEN]
    return lambda **facts: seen.update(facts)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not (target := config.getoption("--faults")):
        return
    found = [r for reports in terminalreporter.stats.values() for r in reports if isinstance(r, pytest.TestReport)]
    rows = rows_of(found)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    terminalreporter.section("faults")
    for cells in ({name: name for name in WIDTHS}, *(row.cells() for row in rows)):
        terminalreporter.write_line(
            "  ".join(shorten(cells[n], w, placeholder="…").ljust(w) for n, w in WIDTHS.items())
        )
