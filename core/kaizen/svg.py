"""The pictures of a backtest as SVG markup, and the few elements that they are drawn with.

Each picture is made of the backtest's summary (``kaizen.report`` tells its shape). Lengths are pixels of a picture
920 wide, which the page scales. Looks are left to the style sheet of ``kaizen.report``, so that one picture serves a
light and a dark page; whatever a colour says, a shape, a dash or a word says too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

Summary = Mapping[str, Any]
Month = Mapping[str, Any]

WIDTH = 920
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
PSI_CLASSES = (0.1, 0.2, 0.5, 1.0)
PSI_NAMES = ("below 0.1", "0.1 to 0.2", "0.2 to 0.5", "0.5 to 1", "1 and up")
"""Shades of the heat map: the lower edges of all but the lightest, and what the key says. Below 0.1 is quiet."""


class Markup(str):
    """Text that is markup already. Any other text is escaped before it goes into a document."""

    __slots__ = ()

    def __add__(self, other: str) -> Markup:
        return Markup(f"{self}{_inside(other)}")


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """The element ``name``; underscores of an attribute become hyphens, a trailing one is dropped."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"' for key, value in attributes.items()
    )
    inside = "".join(_inside(child) for child in children)
    return Markup(f"<{name}{shown}>{inside}</{name}>" if children else f"<{name}{shown} />")


def _inside(content: object) -> str:
    return content if isinstance(content, Markup) else escape(_plain(content), quote=False)


def _plain(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def join(parts: Iterable[Markup]) -> Markup:
    """``parts`` as one piece of markup."""
    return Markup("".join(parts))


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """``value`` for people, ``unknown`` if there is none."""
    if value is None:
        return "unknown"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def clip(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters, with an ellipsis where it was cut."""
    return text if len(text) <= width else text[: width - 1].rstrip(" ,;:") + "…"


def metric_name(summary: Summary) -> str:
    """How people call the metric."""
    metric = str(summary["metric"])
    return "AUC" if metric == "roc_auc" else metric.replace("_", " ")


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that enclose ``low`` and ``high``; ``about`` steps."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * about >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class Scale:
    """Straight from the numbers ``low..high`` to the pixels ``start..end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True)
class Columns:
    """One column of equal width per partition between the pixels ``left`` and ``right``."""

    months: Sequence[Month]
    left: float
    right: float

    @property
    def width(self) -> float:
        return (self.right - self.left) / max(len(self.months), 1)

    def edge(self, index: int) -> float:
        return self.left + index * self.width

    def centre(self, index: int) -> float:
        return self.edge(index) + self.width / 2

    def labels(self, y: float) -> Markup:
        """The partitions' names under an axis at ``y``; as many as there is room for."""
        names = [_month(str(month["partition"])) for month in self.months]
        room = 8 * max((len(name) for name, _ in names), default=1) + 6
        shown, years = [], [""]
        for i in range(0, len(names), math.ceil(room / self.width)):
            name, year = names[i]
            shown.append(text(self.centre(i), y, name, "muted", "middle"))
            shown.append(text(self.centre(i), y + 16, year if year != years[-1] else "", "muted", "middle"))
            years.append(year)
        return join(shown)


def text(x: float, y: float, content: object, class_: str = "", anchor: str = "start") -> Markup:
    """One line of text; ``anchor`` is start, middle or end."""
    return tag("text", content, x=x, y=y, class_=class_, text_anchor=anchor)


def picture(tall: float, label: str, *parts: Markup, **attributes: object) -> Markup:
    """An ``<svg>`` of 920 by ``tall``; ``label`` is what a screen reader says."""
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {_plain(tall)}", role="img", aria_label=label, **attributes)


def auc_plot(summary: Summary, top: float) -> Markup:
    """The metric of the loop and of the first champion, by partition, with who served; 340 high, below ``top``."""
    months = summary["months"]
    columns = Columns(months, 84, WIDTH - 140)
    loop, static = ([month[key] for month in months] for key in ("value_loop", "value_static"))
    known = [value for value in (*loop, *static) if value is not None]
    marks = ticks(min(known), max(known)) if known else [0.0, 1.0]
    y = Scale(marks[0], marks[-1], top + 290, top + 40)
    return join(
        [
            _value_axis(summary, marks, y, columns),
            columns.labels(top + 312),
            _changes(months, columns, top),
            _between(loop, static, columns, y),
            _series(static, columns, y, "static"),
            _series(loop, columns, y, "loop"),
            _end_labels(summary, loop, static, y),
            *(_hover(summary, month, columns, i, top) for i, month in enumerate(months)),
        ]
    )


def drift_map(months: Sequence[Month]) -> Markup:
    """PSI of the loud features by partition, alarms framed; nothing if no feature is loud."""
    features = loud_features(months)
    if not features:
        return Markup()
    left = 24 + 7.2 * max(min(len(name), 28) for name in features)
    columns = Columns(months, left, WIDTH - 8)
    rows = [
        text(left - 10, 50 + 26 * row, clip(name, 28), "", "end")
        + join(_cell(month, name, columns, i, 33 + 26 * row) for i, month in enumerate(months))
        for row, name in enumerate(features)
    ]
    bottom = 33 + 26 * len(features)
    return picture(bottom + 42, "Drift by feature and partition", _shades(left), *rows, columns.labels(bottom + 18))


def loud_features(months: Sequence[Month]) -> list[str]:
    """The features whose PSI reaches 0.1 in some partition or is never known, the loudest first."""
    peaks = {name: math.inf if peak is None else peak for name, peak in feature_peaks(months).items()}
    return sorted((name for name in peaks if peaks[name] >= PSI_CLASSES[0]), key=lambda name: (-peaks[name], name))


def feature_peaks(months: Sequence[Month]) -> dict[str, float | None]:
    """The largest PSI of every feature, ``None`` if it was never known."""
    seen: dict[str, list[float]] = {}
    for month in months:
        for name, drift in month["features"].items():
            seen.setdefault(name, []).extend([] if drift["psi"] is None else [drift["psi"]])
    return {name: max(values, default=None) for name, values in sorted(seen.items())}


def champion_timeline(summary: Summary) -> Markup:
    """Which champion served which partitions, and where a candidate was promoted or refused."""
    months = summary["months"]
    rows = {champion: row for row, champion in enumerate(sorted({month["champion"] for month in months}))}
    columns = Columns(months, 110, WIDTH - 8)
    bottom = 40 + 32 * len(rows)
    names = [text(100, 61 + 32 * row, f"champion {champion}", "", "end") for champion, row in rows.items()]
    marks = [_decision(month, columns.edge(i + 1), 57 + 32 * rows[month["champion"]]) for i, month in enumerate(months)]
    grid = [line(columns.edge(i), 36, columns.edge(i), bottom, "grid") for i in range(len(months) + 1)]
    parts = [_timeline_key(), *grid, *names, *_bars(months, columns, rows), *marks, columns.labels(bottom + 18)]
    return picture(bottom + 42, "Champions by partition", *parts)


def gains(summary: Summary) -> Markup:
    """For each candidate: the gain the gate saw, down to its lower bound, and the gain that came true."""
    turns = [month for month in summary["months"] if month["gain_seen"] is not None]
    known = [turn[key] for turn in turns for key in ("gain_seen", "gain_seen_low", "gain_realised")]
    values = [0.0, *(value for value in known if value is not None)]
    marks = ticks(min(values), max(values), 7)
    x = Scale(marks[0], marks[-1], 190, WIDTH - 120)
    bottom = 40 + 30 * len(turns)
    axis = [
        line(x(mark), 34, x(mark), bottom, "grid" if mark else "axis")
        + text(x(mark), bottom + 18, step_label(mark, marks, sign=True), "muted", "middle")
        for mark in marks
    ]
    rows = [_gain(turn, x, 56 + 30 * row) for row, turn in enumerate(turns)]
    unit = text(WIDTH - 8, bottom + 18, f"gain in {metric_name(summary)}", "muted", "end")
    return picture(bottom + 32, "Gain seen and gain that came true", _gain_key(), *axis, unit, *rows)


def _month(partition: str) -> tuple[str, str]:
    """A month's short name and its year; any other partition as it is, with no year."""
    year, _, month = partition.partition("-")
    if len(year) == 4 and len(month) == 2 and month.isdigit() and 1 <= int(month) <= 12:
        return MONTHS[int(month) - 1], year
    return partition, ""


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def dot(x: float, y: float, class_: str, radius: float = 4) -> Markup:
    """A filled circle."""
    return tag("circle", cx=x, cy=y, r=radius, class_=class_)


def path(points: Iterable[tuple[float, float]], class_: str) -> Markup:
    """Straight lines from point to point."""
    return tag("path", d="M" + "L".join(f"{_plain(x)} {_plain(y)}" for x, y in points), class_=class_)


def _runs(keys: Sequence[object]) -> list[list[int]]:
    """Indices of neighbours with the same key; those whose key is ``None`` are left out."""
    return [list(run) for key, run in groupby(range(len(keys)), key=keys.__getitem__) if key is not None]


def step_label(mark: float, marks: Sequence[float], *, sign: bool = False) -> str:
    """``mark`` with as many digits as the step between the marks needs."""
    digits = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9))
    return number(mark, digits, sign=sign and mark != 0)


def _value_axis(summary: Summary, marks: Sequence[float], y: Scale, columns: Columns) -> Markup:
    lines = (
        line(columns.left, y(mark), columns.right, y(mark), "grid")
        + text(columns.left - 10, y(mark) + 4, step_label(mark, marks), "muted", "end")
        for mark in marks
    )
    label = f"{metric_name(summary)}, {'higher' if summary['higher_is_better'] else 'lower'} is better"
    turned = f"translate(26 {_plain((y.start + y.end) / 2)}) rotate(-90)"
    return join(lines) + tag("g", text(0, 0, label, "muted", "middle"), transform=turned)


def _changes(months: Sequence[Month], columns: Columns, top: float) -> Markup:
    """Above the plot: who served; a dotted line where the champion changed."""
    parts = [text(columns.left - 10, top + 16, "champion", "muted", "end")]
    for run in _runs([month["champion"] for month in months]):
        start, end = columns.edge(run[0]), columns.edge(run[-1] + 1)
        parts.append(text((start + end) / 2, top + 16, months[run[0]]["champion"], "strong", "middle"))
        if run[0] > 0:
            parts.append(line(start, top, start, top + 290, "change"))
    return join(parts)


def _between(loop: Sequence[Any], static: Sequence[Any], columns: Columns, y: Scale) -> Markup:
    known = [None if None in pair else True for pair in zip(loop, static, strict=True)]
    return join(
        path([(columns.centre(i), y(v[i])) for v, ids in ((loop, run), (static, run[::-1])) for i in ids], "area")
        for run in _runs(known)
    )


def _series(values: Sequence[Any], columns: Columns, y: Scale, name: str) -> Markup:
    """A line that breaks where nothing is known."""
    points = {i: (columns.centre(i), y(value)) for i, value in enumerate(values) if value is not None}
    runs = _runs([None if value is None else True for value in values])
    lines = join(path([points[i] for i in run], f"line {name}") for run in runs)
    return lines + join(dot(*point, f"dot {name}") for point in points.values())


def _end_labels(summary: Summary, loop: Sequence[Any], static: Sequence[Any], y: Scale) -> Markup:
    """The lines' names at their right ends, 40 apart at least."""
    ends = [next((y(value) for value in reversed(values) if value is not None), None) for values in (loop, static)]
    if ends[0] is None or ends[1] is None:
        return text(WIDTH - 130, (y.start + y.end) / 2, "no labels yet", "muted")
    middle, apart = (ends[0] + ends[1]) / 2, max(abs(ends[0] - ends[1]), 40) / 2
    above = -1 if ends[0] <= ends[1] else 1
    middle = min(max(middle, y.end + apart), y.start - apart)
    words = (("with the loop", "loop", middle + above * apart), ("never retrained", "static", middle - above * apart))
    return join(
        text(WIDTH - 130, at, name, f"strong fill-{line}")
        + text(WIDTH - 130, at + 16, f"mean {number(summary[f'mean_auc_{line}'])}", "muted")
        for name, line, at in words
    )


def _hover(summary: Summary, month: Month, columns: Columns, index: int, top: float) -> Markup:
    told = f"{month['partition']}: {metric_name(summary)} {number(month['value_loop'])} by champion {month['champion']}"
    title = tag("title", f"{told}, {number(month['value_static'])} never retrained")
    return tag("rect", title, x=columns.edge(index), y=top, width=columns.width, height=290, class_="hover")


def _cell(month: Month, feature: str, columns: Columns, index: int, y: float) -> Markup:
    """One PSI: a shade by its class, framed if it is an alarm, ``?`` if monitor could not tell."""
    drift = month["features"].get(feature, {"psi": None, "status": "unknown"})
    psi, alarm = drift["psi"], drift["status"] == "alarm"
    shade = sum(edge <= psi for edge in PSI_CLASSES) if psi is not None else 0
    told = tag("title", f"{feature}, {month['partition']}: PSI {number(psi)}, {drift['status']}")
    size = {"x": columns.edge(index) + 1.5, "y": y + 1.5, "width": columns.width - 3, "height": 23, "rx": 3}
    shown = "?" if drift["status"] == "unknown" else number(psi, 2)
    tone = "small on-shade" if shade > 2 else "small" if shade or shown == "?" else "muted"
    parts = [told, tag("rect", class_=f"shade s{shade}", **size)]
    if alarm:
        parts.append(tag("rect", class_="alarm", **size))
    if columns.width >= 34 or shown == "?":
        parts.append(text(columns.centre(index), y + 17, shown, tone + (" strong" if alarm else ""), "middle"))
    return tag("g", *parts)


def _shades(left: float) -> Markup:
    """The key of the heat map."""
    parts = [text(left - 10, 16, "PSI", "muted", "end")]
    for i, name in enumerate(PSI_NAMES):
        parts.append(tag("rect", x=left + 104 * i, y=5, width=16, height=14, rx=3, class_=f"shade s{i}"))
        parts.append(text(left + 104 * i + 22, 16, name, "muted"))
    parts.append(tag("rect", x=left + 530, y=5, width=16, height=14, rx=3, class_="alarm"))
    parts.append(text(left + 552, 16, "alarm", "muted"))
    return join(parts)


def _bars(months: Sequence[Month], columns: Columns, rows: Mapping[int, int]) -> list[Markup]:
    bars = []
    for run in _runs([month["champion"] for month in months]):
        champion, start = months[run[0]]["champion"], columns.edge(run[0])
        span = f"{months[run[0]]['partition']} to {months[run[-1]]['partition']}"
        told = tag("title", f"champion {champion} served {span}")
        size = {"x": start, "y": 48 + 32 * rows[champion], "width": columns.width * len(run), "height": 18, "rx": 4}
        bars.append(tag("rect", told, class_="shade s3", **size))
    return bars


def _decision(month: Month, x: float, y: float) -> Markup:
    """A mark at the end of the partition whose health led to a candidate."""
    if month["gate"] is None:
        return Markup()
    told = f"{month['partition']}: candidate {month['gate']}. {'; '.join(month['gate_reasons'])}"
    return tag("g", tag("title", told), _mark(month["gate"], x, y))


def _mark(kind: str, x: float, y: float) -> Markup:
    """``promoted`` and ``seen``: a ring; ``refused``: a cross; ``realised``: a square."""
    if kind == "refused":
        cross = line(x - 5, y - 5, x + 5, y + 5, "cross") + line(x - 5, y + 5, x + 5, y - 5, "cross")
        return dot(x, y, "surface", 9) + cross
    if kind == "realised":
        return tag("rect", x=x - 5, y=y - 5, width=10, height=10, class_="fill-loop")
    return dot(x, y, kind, 6)


def _key(*entries: tuple[str, str, float]) -> Markup:
    """Marks with their names above a picture, each at its place from the left."""
    return join(_mark(kind, x, 14) + text(x + 16, 18, name, "muted") for kind, name, x in entries)


def _timeline_key() -> Markup:
    bar = tag("rect", x=110, y=7, width=22, height=14, rx=4, class_="shade s3")
    marks = _key(("promoted", "candidate promoted", 230), ("refused", "candidate refused", 400))
    return bar + text(138, 18, "in service", "muted") + marks


def _gain_key() -> Markup:
    marks = _key(("seen", "gain the gate saw, with its lower bound", 214), ("realised", "gain that came true", 490))
    return line(190, 14, 214, 14, "bound") + marks


def _gain(turn: Month, x: Scale, y: float) -> Markup:
    seen, low, realised = turn["gain_seen"], turn["gain_seen_low"], turn["gain_realised"]
    promoted = turn["gate"] == "promoted"
    end = f"champion {turn['champion_after']}" if promoted else "refused"
    told = f"gate saw {number(seen, sign=True)}, came true {number(realised, sign=True)}"
    parts = [
        tag("title", f"{turn['partition']}: {told}"),
        text(176, y + 4, f"{turn['partition']}: {end}", "" if promoted else "muted", "end"),
    ]
    bound = line(x(low), y, x(seen), y, "bound") if low is not None else Markup()
    square = _mark("realised", x(realised), y) if realised is not None else Markup()
    return tag("g", *parts, bound, _mark("seen", x(seen), y), square)
