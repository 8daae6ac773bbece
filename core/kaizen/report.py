"""What people see of a backtest, or of a run: a table in the terminal, a page in the browser, a picture in a README.

All three are made of the summary that the backtest also writes as ``summary.json``, by the standard library alone, and
are the same bytes for the same summary. The page is one file: no script, nothing loaded from elsewhere. The summary::

    loop, spec, seconds, metric, higher_is_better, confidence, retrains, promotions
    months      one entry per partition, in order: partition, rows, quarantined, labelled,
                champion (who served), value_loop and value_static (the metric of the loop and of the first champion),
                drift, drifted, features {name: {psi, status}}, performance,
                retrain, causes, suppressed, reason, gate (promoted, refused or null), gate_reasons,
                gain_seen, gain_seen_low, gain_realised (of the promotion decided in this entry), champion_after
    mean_auc_loop, mean_auc_static, difference, difference_interval, gain_seen, gain_realised

and, each only where there is such a thing::

    checks      [{name, passed, value, limit}]
    shuffled    {retrains, months, seconds} of the same rows dealt to partitions at random, or null
    data        [{table, partitions, oldest, newest, rows, quarantined, owner, meaning}], one entry per table
    dag_runs    {state: how many}: then it was no backtest, an orchestrator ran the loop
    time        {what: seconds}: where the time went

A number that is not known is ``null`` and reads "unknown".
"""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Any

from kaizen import svg
from kaizen.svg import WIDTH, Markup, Month, Summary, clip, join, metric_name, number, tag

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TERMINAL = 140
NONE = "-"
SHORT_DIGEST = 12
DECISIONS = ("drift", "trigger", "gate saw", "came true", "champion")

STYLE = """
:root { color-scheme: light dark; --page: #f5f6f8; --surface: #ffffff; --ink: #1b2026; --muted: #59636e;
  --line: #dfe3e8; --loop: #0b5fb0; --static: #b8500c; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --surface: #161b22; --ink: #e6edf3; --muted: #9aa5b1;
  --line: #30363d; --loop: #6cb6ff; --static: #f0a35e; } }
svg { font: 13px system-ui, -apple-system, "Segoe UI", Inter, sans-serif; font-variant-numeric: tabular-nums; }
svg text { fill: var(--ink); }
svg .muted { fill: var(--muted); font-size: 12px; }
svg .title { font-size: 19px; font-weight: 650; }
svg .subtitle { font-size: 14px; fill: var(--muted); }
svg .strong { font-weight: 650; }
svg .surface { fill: var(--surface); }
svg .grid { stroke: var(--line); }
svg .axis { stroke: var(--muted); }
svg .change { stroke: var(--muted); stroke-dasharray: 2 4; }
svg .hover { fill: transparent; }
svg .line { fill: none; stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round; }
svg .line.loop { stroke: var(--loop); }
svg .line.static { stroke: var(--static); stroke-dasharray: 7 5; stroke-width: 2; }
svg .dot.loop { fill: var(--loop); }
svg .dot.static, svg .seen { fill: var(--surface); stroke: var(--static); stroke-width: 2; }
svg .promoted { fill: var(--surface); stroke: var(--loop); stroke-width: 2; }
svg .bound { stroke: var(--static); stroke-width: 2.5; }
svg .area { fill: var(--loop); fill-opacity: .1; }
svg .fill-loop { fill: var(--loop); }
svg .fill-static { fill: var(--static); }
svg .cross { stroke: var(--static); stroke-width: 2.5; stroke-linecap: round; }
svg .alarm { fill: none; stroke: var(--ink); stroke-width: 1.5; }
svg .shade { fill: var(--loop); }
svg .on-shade { fill: var(--surface); }
svg .s0 { fill-opacity: .05; } svg .s1 { fill-opacity: .17; } svg .s2 { fill-opacity: .36; }
svg .s3 { fill-opacity: .8; } svg .s4 { fill-opacity: 1; }
svg .small { font-size: 12px; }
"""
PAGE_STYLE = """
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Inter, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; }
h2 { font-size: 18px; margin: 0 0 4px; }
p { margin: 0 0 12px; max-width: 120ch; }
p, .note, th, summary { color: var(--muted); }
section { background: var(--surface); border: 1px solid var(--line); border-radius: 10px; padding: 20px 24px;
  margin-top: 16px; overflow-x: auto; }
section svg { display: block; width: 100%; min-width: 640px; height: auto; margin-top: 12px; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 16px; margin-top: 20px; }
.numbers div { background: var(--surface); border: 1px solid var(--line); border-radius: 10px; padding: 14px 18px; }
.numbers strong { display: block; font-size: 28px; line-height: 1.25; }
.numbers span { display: block; }
.note { font-size: 13px; }
table { border-collapse: collapse; font-size: 13px; margin-top: 8px; min-width: 100%; }
th, td { padding: 6px 14px 6px 0; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
th { font-weight: 500; vertical-align: bottom; border: 0; }
td:first-child, td.n { white-space: nowrap; }
td.note { border: 0; padding-top: 0; }
.n { text-align: right; }
.bad { font-weight: 700; color: var(--static); }
"""


def table(summary: Summary) -> str:
    """The backtest as plain text of at most 140 columns: a row per partition, then averages and checks."""
    name = clip(metric_name(summary), 12)
    head = [
        ["", "", "", name, f"{name} never", "", "", "gain the", "gain that", ""],
        [*("partition", "rows", "quarantined", "champion", "retrained"), *DECISIONS],
    ]
    means = ["mean", "", "", number(summary["mean_auc_loop"]), number(summary["mean_auc_static"]), "", ""]
    means += [number(summary["gain_seen"], sign=True), number(summary["gain_realised"], sign=True), ""]
    lines = _aligned([*head, *map(_row, summary["months"]), means], left={0, 5, 6, 9}, elastic=6)
    rule = "-" * max(map(len, lines))
    title = f"{_title(summary)}: {_about(summary)}"
    return "\n".join([title, "", *lines[:2], rule, *lines[2:-1], rule, lines[-1], "", *_closing(summary)]) + "\n"


def html(summary: Summary) -> str:
    """The backtest as one self-contained page, which is also well-formed XML."""
    months = summary["months"]
    name = f"{metric_name(summary)} by partition"
    heard = f"PSI of each partition against the rows the champion was trained on. {_quiet(months)}"
    body = [
        tag("h1", _title(summary)),
        tag("p", _about(summary)),
        _headline(summary),
        section(name, _difference(summary), svg.picture(350, name, svg.auc_plot(summary, top=10))),
        section("Drift", heard, svg.drift_map(months)),
        section(
            "Champions",
            "Who served which partition, and what became of each candidate.",
            svg.champion_timeline(summary),
        ),
        section("What the gate saw and what came true", _honesty(summary), svg.gains(summary)),
        section("Every partition", "What the loop saw, what it decided, and why.", _month_table(summary)),
        *_endings(summary),
    ]
    return page(_title(summary), *body)


def page(title: str, *body: Markup, style: str = "") -> str:
    """A self-contained page in the house's looks; ``style`` comes on top of them."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(STYLE + PAGE_STYLE + style)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', *body)), lang='en')}\n"


def plot_auc(summary: Summary) -> str:
    """The metric over time as an SVG file of its own, with title, background and style, for a README."""
    height = 426
    return svg.picture(
        height,
        f"{metric_name(summary)} by partition. {_difference(summary)}",
        tag("style", Markup(STYLE)),
        tag("rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=10, class_="surface grid"),
        svg.text(24, 38, f"{_title(summary)}: {_span(summary)}", "title"),
        svg.text(24, 62, _difference(summary), "subtitle"),
        svg.auc_plot(summary, top=84),
        xmlns="http://www.w3.org/2000/svg",
        width=WIDTH,
        height=height,
    )


def _title(summary: Summary) -> str:
    if "seconds" not in summary:
        return f"Loop {summary['loop']}"
    return f"{'Run' if 'dag_runs' in summary else 'Backtest'} of {summary['loop']}"


def _span(summary: Summary) -> str:
    partitions = [month["partition"] for month in summary["months"]]
    if not partitions:
        return "0 partitions"
    return f"{len(partitions)} partitions, {partitions[0]} to {partitions[-1]}"


def _about(summary: Summary) -> str:
    took = f"{summary['seconds']:.1f} s, " if "seconds" in summary else ""
    return f"{_span(summary)}, {took}spec {summary['spec'][:SHORT_DIGEST]}"


def _difference(summary: Summary) -> str:
    if "seconds" not in summary:  # a live loop, which nobody compares
        return f"Mean {metric_name(summary)} {number(summary['mean_auc_loop'])} with the loop"
    return (
        f"Mean {metric_name(summary)} {number(summary['mean_auc_loop'])} with the loop, "
        f"{number(summary['mean_auc_static'])} never retrained: {number(summary['difference'], sign=True)} "
        f"({_interval(summary)})"
    )


def _interval(summary: Summary) -> str:
    if summary["difference_interval"] is None:
        return "interval unknown"
    low, high = summary["difference_interval"]
    return f"{number(low, sign=True)} to {number(high, sign=True)} at {summary['confidence']:.0%} confidence"


def _honesty(summary: Summary) -> str:
    return (
        f"{summary['retrains']} retrains, {summary['promotions']} promotions; mean gain of a promotion: "
        f"{number(summary['gain_seen'], sign=True)} seen by the gate, "
        f"{number(summary['gain_realised'], sign=True)} came true in the next partition"
    )


def _drift(month: Month, names: int) -> str:
    """The verdict with the first ``names`` features that drifted and the count of the rest."""
    drifted = month["drifted"]
    more = f" +{len(drifted) - names}" if len(drifted) > names else ""
    return f"{month['drift']}: {', '.join(drifted[:names])}{more}" if drifted else str(month["drift"])


def _trigger(month: Month) -> str:
    if month["retrain"]:
        return f"retrain: {', '.join(month['causes'])}"
    return f"held back: {month['suppressed']}" if month["suppressed"] else f"no: {month['reason']}"


def _gain(month: Month, key: str) -> str:
    """A gain of the entry's candidate; only a promotion can come true."""
    expected = month["gate"] == "promoted" if key == "gain_realised" else month["gate"] is not None
    return number(month[key], sign=True) if expected else NONE


def _champion(month: Month) -> str:
    if month["gate"] == "refused":
        return f"{month['champion']} (refused)"
    after = month["champion_after"]
    return str(after) if after == month["champion"] else f"{month['champion']} → {after}"


def _row(month: Month) -> list[str]:
    return [
        str(month["partition"]),
        f"{month['rows']:,}",
        f"{month['quarantined']:,}",
        number(month["value_loop"]),
        number(month["value_static"]),
        clip(_drift(month, 1), 26),
        _trigger(month),
        _gain(month, "gain_seen"),
        _gain(month, "gain_realised"),
        _champion(month),
    ]


def _aligned(rows: Sequence[list[str]], left: set[int], elastic: int) -> list[str]:
    """``rows`` as lines: columns ``left`` to the left, others to the right, ``elastic`` cut so that lines fit."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = TERMINAL - sum(widths) + widths[elastic] - 2 * (len(widths) - 1)
    widths[elastic] = min(widths[elastic], max(room, 8))
    return [
        "  ".join(
            clip(cell, width).ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _closing(summary: Summary) -> list[str]:
    lines = [_difference(summary), _honesty(summary)]
    if "shuffled" in summary:
        replay = summary["shuffled"]
        told = f"{replay['retrains']} retrains, {replay['seconds']:.1f} s" if replay else "not run"
        lines.append(f"Shuffled replay: {told}")
    if "checks" in summary:
        checks = [["", "check", "value", "limit"], *map(_check, summary["checks"])]
        lines += ["", *_aligned(checks, left={0, 1}, elastic=1)]
    if ran := _how_it_ran(summary):
        lines += ["", *(part for line in ran for part in wrap(line, TERMINAL))]
    return lines


def _how_it_ran(summary: Summary) -> list[str]:
    """What an orchestrator made of it, and where the time went, longest first; nothing of what nobody counted."""
    runs, spent = summary.get("dag_runs"), summary.get("time")
    longest = sorted(spent.items(), key=lambda item: (-item[1], item[0])) if spent else []
    return [
        *([f"DAG runs: {', '.join(f'{count} {state}' for state, count in sorted(runs.items()))}"] if runs else []),
        *([f"Time: {', '.join(f'{name} {seconds:.1f} s' for name, seconds in longest)}"] if longest else []),
    ]


def _check(check: Month) -> list[str]:
    verdict = "ok" if check["passed"] else "FAILED"
    return [verdict, str(check["name"]), _amount(check["value"]), _amount(check["limit"])]


def _amount(value: Any) -> str:
    if value is None:
        return number(None)
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def section(title: str, words: str, *content: Markup) -> Markup:
    """A titled part of a page."""
    return tag("section", tag("h2", title), tag("p", words), *content)


def _endings(summary: Summary) -> list[Markup]:
    """The sections that not every summary has."""
    found = []
    if "checks" in summary:
        words = "What was found, and the limit it was held against."
        found.append(section("Checks", words, _check_table(summary)))
    if "shuffled" in summary:
        found.append(section("The shuffled replay", *_shuffled(summary)))
    if summary.get("data"):
        words = "The tables of the loop; `kaizen data report` shows more of them."
        found.append(section("Data", words, _data_table(summary)))
    if ran := _how_it_ran(summary):
        found.append(section("How it ran", ran[0], *(tag("p", line) for line in ran[1:])))
    return found


def _headline(summary: Summary) -> Markup:
    name, checks = metric_name(summary), summary.get("checks", [])
    failed = [f"FAILED: {check['name']}" for check in checks if not check["passed"]]
    static, seen = number(summary["mean_auc_static"]), number(summary["gain_seen"], sign=True)
    difference, realised = (number(summary[key], sign=True) for key in ("difference", "gain_realised"))
    compared = "seconds" in summary
    numbers = [
        *([(difference, f"mean {name} against never retraining", _interval(summary))] if compared else []),
        (
            number(summary["mean_auc_loop"]),
            f"mean {name} with the loop",
            f"{static} never retrained" if compared else "",
        ),
        (summary["promotions"], "promotions", f"of {summary['retrains']} retrains"),
        (realised, "gain of a promotion that came true", f"the gate saw {seen}"),
    ]
    if "checks" in summary:
        numbers.append((f"{len(checks) - len(failed)} of {len(checks)}", "checks passed", "; ".join(failed)))
    cards = [
        tag("div", tag("strong", value), tag("span", what), tag("span", note, class_="note"))
        for value, what, note in numbers
    ]
    return tag("div", *cards, class_="numbers")


def _quiet(months: Sequence[Month]) -> str:
    loud, peaks = svg.loud_features(months), svg.feature_peaks(months)
    quiet = [f"{name} ({number(peaks[name], 2)})" for name in peaks if name not in loud]
    return f"{len(quiet)} more never reach {svg.PSI_CLASSES[0]:g}: {', '.join(quiet)}." if quiet else ""


def _month_table(summary: Summary) -> Markup:
    name = metric_name(summary)
    head = ["partition", "rows", "quarantined", "labelled", name, f"{name} never retrained", "drift", "performance"]
    head += ["trigger", "gate", "gain seen", "at least", "came true", "champion"]
    numeric = {1, 2, 3, 4, 5, 10, 11, 12}
    rows = (cells(_month_cells(month), numeric) + _told(month, len(head)) for month in summary["months"])
    return grid(head, rows, numeric)


def _month_cells(month: Month) -> list[str]:
    partition, rows, quarantined, loop, static, _, _, seen, came_true, champion = _row(month)
    trigger = _trigger(month) if month["retrain"] or month["suppressed"] else "no"
    return [
        *(partition, rows, quarantined, f"{month['labelled']:,}", loop, static, month["drift"], month["performance"]),
        *(trigger, month["gate"] or NONE, seen, _gain(month, "gain_seen_low"), came_true),
        champion.removesuffix(" (refused)"),
    ]


def _told(month: Month, columns: int) -> Markup:
    """Under the numbers of an entry: its reasons in words."""
    drifted = [f"drifted: {', '.join(month['drifted'])}"] if month["drifted"] else []
    words = "; ".join([month["reason"], *drifted, *month["gate_reasons"]])
    return tag("tr", tag("td", class_="note"), tag("td", words, colspan=columns - 1, class_="note"))


def _check_table(summary: Summary) -> Markup:
    rows = (cells(_check(check), {2, 3}) for check in summary["checks"])
    return grid(["", "check", "value", "limit"], rows, {2, 3})


def _data_table(summary: Summary) -> Markup:
    head = ["table", "partitions", "newest", "rows", "quarantined", "owner", "meaning"]
    rows = (
        cells(
            [
                t["table"],
                f"{t['partitions']:,}",
                t["newest"],
                f"{t['rows']:,}",
                f"{t['quarantined']:,}",
                t.get("owner", ""),
                t.get("meaning", ""),
            ],
            {1, 3, 4},
        )
        for t in summary["data"]
    )
    return grid(head, rows, {1, 3, 4})


def _shuffled(summary: Summary) -> tuple[str, Markup]:
    """What the loop did when there was nothing to react to."""
    replay = summary["shuffled"]
    if replay is None:
        return "It was not run.", Markup()
    words = (
        "The same rows, dealt to partitions at random: nothing changes from one to the next, so nothing should be "
        f"retrained. The loop retrained {replay['retrains']} times ({replay['seconds']:.1f} s)."
    )
    head = ["partition", metric_name(summary), "drift", "largest PSI", "trigger"]
    rows = (cells(_shuffled_cells(month), {1, 3}) for month in replay["months"])
    return words, grid(head, rows, {1, 3})


def _shuffled_cells(month: Month) -> list[str]:
    peaks = [peak for peak in svg.feature_peaks([month]).values() if peak is not None]
    largest = number(max(peaks, default=None))
    return [month["partition"], number(month["value_loop"]), _drift(month, 3), largest, _trigger(month)]


def grid(head: Sequence[str], rows: Iterable[Markup], numeric: set[int]) -> Markup:
    """A table; ``numeric`` columns are set to the right."""
    return tag("table", tag("thead", cells(head, numeric, "th")), tag("tbody", join(rows)))


def cells(row: Sequence[str], numeric: set[int], kind: str = "td") -> Markup:
    """A row of a table."""
    return tag("tr", *(tag(kind, cell, class_=_cell_class(i in numeric, cell)) for i, cell in enumerate(row)))


def _cell_class(numeric: bool, cell: str) -> str:
    return "n" if numeric else "bad" if cell == "FAILED" else ""
