"""A search as a page for people: how its trials went, what mattered, every trial with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from kaizen.measures import MEASURES
from kaizen.publish import publish_text
from kaizen.records import Search, Trial
from kaizen.report import cells, grid, page, section
from kaizen.svg import WIDTH, Markup, Scale, clip, dot, join, line, number, path, picture, step_label, tag, text, ticks

_LEFT, _RIGHT, _TOP, _HIGH = 84, WIDTH - 24, 20, 250


def write_page(search: Search, path: Path) -> None:
    """Publish ``html(search)``."""
    publish_text(path, html(search))


def html(search: Search) -> str:
    """The whole page, self-contained and well-formed XML."""
    best = search.trials[_index(search, search.best)]
    default = search.trials[0]
    against = f"the default reached {number(default.value, 4)}" if default.value is not None else "the default failed"
    words = f"Best is trial {best.number + 1} with {search.metric} {number(best.value, 4)}; {against}."
    start, end = ((moment or "").partition("T")[0] for moment in (search.window.start, search.window.end))
    rows = f"rows from {start} to {end}, older than the gate's"
    return page(
        f"Search of {search.study}",
        tag("h1", f"Search of {search.study}"),
        tag("p", f"{len(search.trials)} trials, measured on {rows}. The budget of {search.ended_by} is used up."),
        section("History", words, picture(_HIGH + 60, f"{search.metric} by trial. {words}", history(search))),
        _importance(search),
        section("Every trial", "A trial that was pruned or failed has no value.", _trials(search)),
    )


def _index(search: Search, number: int) -> int:
    return next(i for i, trial in enumerate(search.trials) if trial.number == number)


def history(search: Search) -> Markup:
    """A dot per trial, and a line of the best so far; trials without a value stand on the axis, hollow."""
    values = [trial.value for trial in search.trials]
    known = [value for value in values if value is not None]
    marks = ticks(min(known), max(known))
    x = Scale(0, max(len(values) - 1, 1), _LEFT + 20, _RIGHT - 20)
    y = Scale(marks[0], marks[-1], _HIGH, _TOP)
    dots = [
        _dot(trial, x(i), y(marks[0] if trial.value is None else trial.value)) for i, trial in enumerate(search.trials)
    ]
    best = [(x(i), y(value)) for i, value in enumerate(best_so_far(values, search.metric)) if value is not None]
    steps = [point for a, b in pairwise(best) for point in (a, (b[0], a[1]))] + best[-1:]
    every = -(-len(values) // 20)
    return join(
        [
            *(line(_LEFT, y(mark), _RIGHT, y(mark), "grid") for mark in marks),
            *(text(_LEFT - 10, y(mark) + 4, step_label(mark, marks), "muted", "end") for mark in marks),
            *(text(x(i), _HIGH + 22, str(i + 1), "muted", "middle") for i in range(0, len(values), every)),
            text((_LEFT + _RIGHT) / 2, _HIGH + 44, "trial; the line is the best so far", "muted", "middle"),
            path(steps, "line loop"),
            *dots,
        ]
    )


def best_so_far(values: Sequence[float | None], metric: str) -> list[float | None]:
    """After each trial the best value that was seen; None before the first."""
    better = max if MEASURES[metric].higher_is_better else min
    found: list[float | None] = []
    for i in range(len(values)):
        known = [value for value in values[: i + 1] if value is not None]
        found.append(better(known) if known else None)
    return found


def _dot(trial: Trial, x: float, y: float) -> Markup:
    return tag("g", tag("title", _told(trial)), dot(x, y, "dot static" if trial.value is None else "dot loop"))


def _told(trial: Trial) -> str:
    value = trial.state if trial.value is None else number(trial.value, 4)
    return f"trial {trial.number + 1}: {value}; {_words(trial.parameters)}"


def _words(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in parameters.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _importance(search: Search) -> Markup:
    if not search.importance:
        return section("Importance", "Too few trials came to their end to tell which parameter mattered.")
    words = "The share of each parameter in the differences between the trials (fANOVA)."
    rows = sorted(search.importance.items(), key=lambda item: -item[1])
    width = Scale(0, 1, 0, _RIGHT - 300)
    bars = [
        text(230, 24 + 30 * i, clip(name, 28), "", "end")
        + tag("rect", x=240, y=10 + 30 * i, width=max(width(share), 1), height=20, rx=3, class_="fill-loop")
        + text(250 + width(share), 24 + 30 * i, number(share, 2), "muted")
        for i, (name, share) in enumerate(rows)
    ]
    label = "; ".join(f"{name} {number(share, 2)}" for name, share in rows)
    return section("Importance", words, picture(30 * len(rows) + 16, label, *bars))


def _trials(search: Search) -> Markup:
    names = list(search.parameters)
    head = ["trial", search.metric, *names, "seconds", "state", "why"]
    rows = [
        cells(
            [
                str(trial.number + 1),
                "" if trial.value is None else number(trial.value, 4),
                *(_short(trial.parameters[name]) for name in names),
                number(trial.seconds, 1),
                "best" if trial.number == search.best else trial.state,
                trial.reason,
            ],
            set(range(len(names) + 3)),
        )
        for trial in search.trials
    ]
    return grid(head, rows, set(range(len(names) + 3)))
