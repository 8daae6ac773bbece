"""The pictures of ``kaizen.data_page`` as SVG markup. Looks are left to its style sheet, and ``kaizen.report``'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from kaizen.explore import Facts
from kaizen.records import Association, ColumnProfile
from kaizen.svg import (
    WIDTH,
    Columns,
    Markup,
    Scale,
    clip,
    join,
    line,
    number,
    path,
    picture,
    step_label,
    tag,
    text,
    ticks,
)

_MISSING_CLASSES = (0.01, 0.05, 0.2, 0.5)
_MISSING_NAMES = ("below 1%", "1 to 5%", "5 to 20%", "20 to 50%", "half and more")
_SMALL = 300
_SHOWN = 7


def short(value: float | str | None) -> str:
    """A number in four digits or so, a moment to the minute."""
    if value is None:
        return "unknown"
    if isinstance(value, str):
        return value[:16].replace("T", " ")
    if abs(value) >= 1e9 or (abs(value) < 1000 and value != int(value)):
        return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"
    # Most numbers of four digits are years, or times of the day.
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.0f}"


def rows_by_partition(parts: Sequence[Facts]) -> Markup:
    """A bar of rows per partition; what is quarantined stands on top, what is refused is hollow."""
    columns = Columns(parts, 84, WIDTH - 8)
    marks = ticks(0, max((p["rows"] for p in parts), default=1) or 1, 4)
    y = Scale(0, marks[-1], 190, 20)
    axis = [line(84, y(m), WIDTH - 8, y(m), "grid") + text(74, y(m) + 4, f"{m:,.0f}", "muted", "end") for m in marks]
    bars = [_rows_bar(part, columns, i, y) for i, part in enumerate(parts)]
    label = "; ".join(f"{p['partition']} {p['rows']:,} rows" for p in parts)
    return picture(234, label, *axis, *bars, columns.labels(208))


def _rows_bar(part: Facts, columns: Columns, index: int, y: Scale) -> Markup:
    width = min(columns.width * 0.72, 64)
    x, good = columns.centre(index) - width / 2, part["rows"] - part["quarantined"]
    told = f"{part['partition']}: {part['rows']:,} rows, {part['verdict']}, {part['quarantined']:,} quarantined"
    bar = "alarm" if part["verdict"] == "refused" else "bar"
    parts = [tag("title", told), tag("rect", x=x, y=y(good), width=width, height=190 - y(good), rx=2, class_=bar)]
    if part["quarantined"]:
        # Two rows of thirty thousand would be nothing to see.
        height = max(y(good) - y(part["rows"]), 3)
        parts.append(tag("rect", x=x, y=y(good) - height - 1, width=width, height=height, rx=1, class_="bar static"))
    return tag("g", *parts)


def histogram(column: ColumnProfile) -> Markup:
    """Bars of equal width; the outer ones take in the tails."""
    bins, most = column.bins, max(b.count for b in column.bins) or 1
    step = min(_SMALL / len(bins), 36)
    left = (_SMALL - step * len(bins)) / 2
    bars = []
    for i, each in enumerate(bins):
        height = max(64 * each.count / most, 1 if each.count else 0)
        told = tag("title", f"{'' if column.distinct <= len(bins) else 'up to '}{short(each.upper)}: {each.count:,}")
        size = {"x": left + i * step + step * 0.06, "y": 66 - height, "width": step * 0.88, "height": height}
        bars.append(tag("rect", told, class_="bar", **size))
    low, high = short(column.minimum), short(column.maximum)
    apart = [text(left, 82, low, "muted"), text(_SMALL - left, 82, high, "muted", "end")]
    ends = apart if low != high else [text(_SMALL / 2, 82, low, "muted", "middle")]
    return _small(88, f"distribution of {column.column}", line(0, 66.5, _SMALL, 66.5, "axis"), *bars, *ends)


def categories(column: ColumnProfile) -> Markup:
    """The most frequent categories with their shares, and what is left."""
    total = sum(b.count for b in column.bins) or 1
    named = sorted(column.bins[:-1], key=lambda b: (-b.count, str(b.upper)))
    shown = [(str(b.upper), b.count) for b in named[:_SHOWN] if b.count]
    rest = total - sum(n for _, n in shown)
    others = max(column.distinct - len(shown), 1)
    rows = [*shown, *([(f"{others:,} more" if others > 1 else "1 more", rest)] if rest > 0 and others else [])]
    most = max(n for _, n in rows)
    parts = []
    for i, (name, count) in enumerate(rows):
        y, width = 18 * i, max(150 * count / most, 1)
        more = i >= len(shown)
        parts.append(text(92, y + 12, clip(name, 14), "muted" if more else "small", "end"))
        parts.append(tag("rect", x=98, y=y + 2, width=width, height=12, rx=2, class_="shade s1" if more else "bar"))
        parts.append(text(104 + width, y + 12, f"{count / total:.1%}", "muted"))
    return _small(18 * len(rows) + 2, f"most frequent values of {column.column}", *parts)


def sparkline(values: Sequence[float | None], label: str, *, low: float | None = None) -> Markup:
    """A small line without an axis, with its first and last value; it breaks where nothing is known."""
    known = [v for v in values if v is not None]
    bottom, top = (min(known) if low is None else low), max(known)
    x = Scale(0, max(len(values) - 1, 1), 4, 126)
    y = Scale(bottom, top if top > bottom else bottom + 1, 30, 6)
    runs = [list(run) for there, run in groupby(range(len(values)), lambda i: values[i] is not None) if there]
    lines = [path([(x(i), y(v)) for i in run if (v := values[i]) is not None], "spark") for run in runs]
    share = low is not None
    ends = [f"{known[i]:.1%}" if share else short(known[i]) for i in (0, -1)]
    told = tag("title", f"{label}: {', '.join('unknown' if v is None else short(v) for v in values)}")
    words = [text(4, 46, ends[0], "muted"), text(126, 46, ends[1], "muted", "end")]
    return tag("svg", told, *lines, *words, viewBox="0 0 130 50", role="img", aria_label=label)


def missing_map(partitions: Sequence[str], shares: Mapping[str, Mapping[str, float | None]]) -> Markup:
    """The share of missing values by column and partition."""
    left = 24 + 7.2 * max(min(len(name), 28) for name in shares)
    columns = Columns([{"partition": p} for p in partitions], left, WIDTH - 8)
    rows = [
        text(left - 10, 50 + 26 * row, clip(name, 28), "", "end")
        + join(_gap(name, p, found.get(p), columns, i, 33 + 26 * row) for i, p in enumerate(partitions))
        for row, (name, found) in enumerate(shares.items())
    ]
    key = [
        tag("rect", x=left + 112 * i, y=5, width=16, height=14, rx=3, class_=f"shade s{i}")
        + text(left + 112 * i + 22, 16, name, "muted")
        for i, name in enumerate(_MISSING_NAMES)
    ]
    bottom = 33 + 26 * len(shares)
    return picture(bottom + 42, "Missing values by column and partition", *key, *rows, columns.labels(bottom + 18))


def _gap(column: str, partition: str, share: float | None, columns: Columns, index: int, y: float) -> Markup:
    shade = sum(edge <= share for edge in _MISSING_CLASSES) if share is not None else 0
    told = "not there" if share is None else f"{share:.2%} missing"
    size = {"x": columns.edge(index) + 1.5, "y": y + 1.5, "width": columns.width - 3, "height": 23, "rx": 3}
    parts = [tag("title", f"{column}, {partition}: {told}"), tag("rect", class_=f"shade s{shade}", **size)]
    shown = "?" if share is None else _percent(share)
    if shown and columns.width >= 40:
        tone = "small on-shade" if shade > 2 else "small" if shade else "muted"
        parts.append(text(columns.centre(index), y + 17, shown, tone, "middle"))
    return tag("g", *parts)


def _percent(share: float) -> str:
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{share:.1%}" if share else ""


def strengths(associations: Sequence[Association]) -> Markup:
    """A bar per feature, the strongest first; negative ones go to the left and have another colour."""
    known = [(a, a.value) for a in associations if a.value is not None]
    if not known:
        return Markup()
    ends = [0.0, *(value for _, value in known)]
    marks = ticks(min(ends), max(ends), 6)
    left = 40 + 7.2 * max(min(len(a.feature), 28) for a, _ in known)
    x = Scale(marks[0], marks[-1], left, WIDTH - 200)
    bottom = 16 + 24 * len(known)
    axis = [
        line(x(m), 8, x(m), bottom, "grid" if m else "axis")
        + text(x(m), bottom + 18, step_label(m, marks, sign=True), "muted", "middle")
        for m in marks
    ]
    rows = [_strength(a, value, x, 12 + 24 * i, left) for i, (a, value) in enumerate(known)]
    label = "; ".join(f"{a.feature} {number(value, 2, sign=True)}" for a, value in known)
    return picture(bottom + 28, label, *axis, *rows)


def _strength(association: Association, value: float, x: Scale, y: float, left: float) -> Markup:
    start, end = sorted((x(0), x(value)))
    told = f"{association.feature}: {association.measure} {value:+.3f} over {association.rows:,} rows"
    kind = "bar static" if value < 0 else "bar"
    return tag(
        "g",
        tag("title", told),
        text(left - 26, y + 13, clip(association.feature, 28), "", "end"),
        tag("rect", x=start, y=y + 2, width=max(end - start, 1), height=15, rx=2, class_=kind),
        text(WIDTH - 128, y + 13, number(value, 3, sign=True), "", "end"),
        text(WIDTH - 116, y + 13, association.measure, "muted"),
    )


def _small(tall: float, label: str, *parts: Markup) -> Markup:
    return tag("svg", *parts, viewBox=f"0 0 {_SMALL} {tall}", role="img", aria_label=label)
