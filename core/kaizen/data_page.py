"""What there is to see of tables as a page for people: partitions, columns, gaps, the target, and what changed.

The page is one file without scripts, made of records and of what ``kaizen.explore`` tells, by the standard library
alone. Of private columns it has nothing but counts, as their profiles have no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kaizen import svg
from kaizen.data_pictures import categories, histogram, missing_map, rows_by_partition, short, sparkline, strengths
from kaizen.explore import Facts
from kaizen.records import CRAMER, EXACTLY, POINT_BISERIAL, ColumnProfile, DataProfile, FeatureDrift, TargetProfile
from kaizen.report import cells, grid, page, section
from kaizen.svg import Markup, number, tag

STYLE = """
h1 + p { margin-bottom: 4px; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 6px 0 0; font-size: 13px; }
.facts dt { color: var(--muted); display: inline; } .facts dd { display: inline; margin: 0; }
.column { display: grid; grid-template-columns: minmax(170px, 1fr) 300px minmax(210px, 1fr) 130px; gap: 8px 26px;
  border-top: 1px solid var(--line); padding: 14px 0; align-items: start; }
.column:first-of-type { border: 0; }
.column strong { font-size: 15px; overflow-wrap: anywhere; }
.column p { font-size: 13px; margin: 2px 0 0; }
section .column svg { min-width: 0; margin: 0; width: 100%; }
.column dl { display: grid; grid-auto-flow: column; grid-template-rows: repeat(7, auto); grid-auto-columns: 1fr;
  gap: 1px 22px; margin: 0; font-size: 13px; }
.column dl.long { grid-auto-flow: row; grid-template-rows: none; }
.column dl div { display: flex; justify-content: space-between; gap: 8px; }
.column dt { color: var(--muted); } .column dd { margin: 0; text-align: right; white-space: nowrap; }
.flag { border: 1px solid var(--static); color: var(--static); border-radius: 4px; font-size: 12px; padding: 0 5px; }
svg .bar { fill: var(--loop); fill-opacity: .75; } svg .bar.static { fill: var(--static); }
svg .spark { fill: none; stroke: var(--loop); stroke-width: 1.8; stroke-linejoin: round; }
table + p { margin-top: 20px; }
ul { margin: 6px 0 0; padding-left: 20px; }
h1.next { margin-top: 56px; }
@media (max-width: 860px) { .column { grid-template-columns: 1fr; } .column svg { max-width: 340px; } }
"""

_ROWS = 7
"""Of a column's list of numbers: as many as there are from the minimum to the maximum."""


@dataclass(frozen=True)
class TablePage:
    """What a table's part of the page is made of.

    Attributes:
        facts: as ``explore.show`` tells them of the table. profile: of the version that is looked at.
        against, before: name and profile of the version that it is compared with, if there is one.
        profiles: of the last partitions, by name; the one looked at is among them.
        drifts: of those partitions against the one before each, by name; ``changes`` is that of the version looked at.
        target: for the main table. warnings: what somebody should look at.
    """

    facts: Facts
    profile: DataProfile
    against: str = ""
    before: DataProfile | None = None
    changes: tuple[FeatureDrift, ...] = ()
    profiles: Mapping[str, DataProfile] = field(default_factory=dict)
    drifts: Mapping[str, tuple[FeatureDrift, ...]] = field(default_factory=dict)
    target: TargetProfile | None = None
    warnings: Sequence[str] = ()


def html(loop: str, tables: Sequence[TablePage]) -> str:
    """The whole page, self-contained and well-formed XML."""
    title = f"Data of {loop}" if len(tables) != 1 else f"{_name(tables[0])} of {loop}"
    return page(title, *(part for i, table in enumerate(tables) for part in _table(loop, table, i)), style=STYLE)


def _name(table: TablePage) -> str:
    return str(table.facts["table"])


def _table(loop: str, table: TablePage, index: int) -> list[Markup]:
    facts, found = table.facts, table.profile
    gaps = [c.column for c in found.columns if any(_missing(p, c.column) for p in table.profiles.values())]
    return [
        tag("h1", _name(table), class_="next" if index else ""),
        tag("p", facts.get("meaning") or f"A table of {loop}."),
        _about(facts),
        _numbers(facts, found),
        *([_warnings(table.warnings)] if table.warnings else []),
        section("Partitions", _partition_words(facts), rows_by_partition(facts["parts"])),
        _columns(table),
        *([_gaps(table, gaps)] if gaps else []),
        *([_target(table.target)] if table.target else []),
        _change(table),
    ]


def _about(facts: Facts) -> Markup:
    told = {
        "Owner": facts.get("owner"),
        "Source": facts.get("source"),
        "Licence": facts.get("licence"),
        "Kept for": kept_for(facts.get("retention", "")),
        "Lands at": facts.get("uri"),
        "Masked": ", ".join(f"{c} ({policy})" for c, policy in facts["private"].items()),
    }
    pairs = [tag("div", tag("dt", f"{name} "), tag("dd", words)) for name, words in told.items() if words]
    return tag("dl", *pairs, class_="facts")


def _numbers(facts: Facts, found: DataProfile) -> Markup:
    shown = [
        (f"{facts['rows']:,}", "rows", f"{facts['quarantined']:,} of them quarantined" if facts["quarantined"] else ""),
        (f"{facts['partitions']:,}", "partitions", reach(facts)),
        (f"{len(found.columns)}", "columns", f"{len(facts['private'])} of them masked" if facts["private"] else ""),
        (human_size(facts["size"]), "stored", f"{facts['versions']} versions since {facts['since'][:10]}"),
    ]
    cards = [
        tag("div", tag("strong", value), tag("span", what), tag("span", note, class_="note"))
        for value, what, note in shown
    ]
    return tag("div", *cards, class_="numbers")


def _warnings(warnings: Sequence[str]) -> Markup:
    return section("Worth a look", "What is rarely meant to be so.", tag("ul", *(tag("li", w) for w in warnings)))


def _partition_words(facts: Facts) -> str:
    bad = f" Refused: {', '.join(facts['refused'])}." if facts["refused"] else ""
    cut = f"by {facts['partition'].removeprefix('by ')}" if facts.get("partition") else "in one piece"
    return f"Rows {cut}; what was quarantined is set off.{bad}"


def _columns(table: TablePage) -> Markup:
    found = table.profile
    exact = "all rows" if found.sampled == found.rows else f"a sample of {found.sampled:,}"
    words = f"{found.rows:,} rows of {found.partition}; quantiles and distributions of {exact}."
    rows = [_column(table, column) for column in found.columns]
    return section(f"Columns of {found.partition}", words, *rows)


def _column(table: TablePage, column: ColumnProfile) -> Markup:
    facts = table.facts["columns"].get(column.column, {})
    kind = " · ".join([column.type, *([facts["unit"]] if facts.get("unit") else [])])
    flags = [tag("span", word, class_="flag") + Markup(" ") for word in _flags(table.profile, column)]
    left = tag("div", tag("strong", column.column), tag("p", kind), *_words(facts), tag("p", *flags) if flags else "")
    return tag(
        "div", left, tag("div", _drawn(column, facts)), _statistics(table.profile, column), _trend(table, column),
        class_="column",
    )  # fmt: skip


def _words(facts: Facts) -> list[Markup]:
    return [tag("p", facts["meaning"])] if facts.get("meaning") else []


def _flags(found: DataProfile, column: ColumnProfile) -> list[str]:
    flags = []
    if column.kind == "private":
        flags.append("private")
    if column.missing == found.rows:
        flags.append("empty")
    elif column.distinct == 1:
        flags.append("constant")
    elif column.distinct >= found.rows > 1:
        flags.append("unique")
    return flags


def _drawn(column: ColumnProfile, facts: Facts) -> Markup:
    if column.kind == "private":
        return tag("p", f"Masked at the door ({facts.get('private', 'private')}): no value is shown.")
    if not column.bins:
        return tag("p", "No distribution.")
    return categories(column) if column.kind == "category" else histogram(column)


def _statistics(found: DataProfile, column: ColumnProfile) -> Markup:
    missing = f"{column.missing / max(found.rows, 1):.1%}" if column.missing else "none"
    pairs = [("missing", missing), ("distinct", _distinct(column))]
    if column.mean is not None:
        pairs += [("mean", short(column.mean)), ("deviation", short(column.deviation))]
    if column.infinite:
        pairs.append(("infinite", f"{column.infinite:,}"))
    if column.kind == "number":
        # The rest begins a new column of the list.
        pairs += [("", "")] * (_ROWS - len(pairs))
    if column.minimum is not None:
        pairs.append(("min", short(column.minimum)))
        pairs += zip(("5%", "25%", "median", "75%", "95%"), map(short, column.quantiles), strict=False)
        pairs.append(("max", short(column.maximum)))
    shown = [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs]
    return tag("dl", *shown, class_="" if column.kind == "number" else "long")


def _distinct(column: ColumnProfile) -> str:
    return f"{column.distinct:,}" if column.distinct < EXACTLY else f"≈ {column.distinct:,}"


def _trend(table: TablePage, column: ColumnProfile) -> Markup:
    """How the column went over the last partitions: its mean, and its gaps if it has any. Only times have a course."""
    same = [_of(p, column.column) for p in table.profiles.values()]
    if len(same) < 2 or not table.facts["timed"]:
        return tag("div", "")
    parts = []
    if column.mean is not None:
        means = [c.mean if c else None for c in same]
        parts += [tag("p", "mean by partition"), sparkline(means, f"mean of {column.column} by partition")]
    gaps = [_missing(p, column.column) for p in table.profiles.values()]
    if any(gaps):
        parts += [tag("p", "missing by partition"), sparkline(gaps, f"missing {column.column} by partition", low=0.0)]
    return tag("div", *parts, "")


def _of(found: DataProfile, column: str) -> ColumnProfile | None:
    return next((c for c in found.columns if c.column == column), None)


def _missing(found: DataProfile, column: str) -> float | None:
    there = _of(found, column)
    return there.missing / max(found.rows, 1) if there else None


def _gaps(table: TablePage, columns: Sequence[str]) -> Markup:
    shares = {c: {p: _missing(found, c) for p, found in table.profiles.items()} for c in columns}
    words = "The share of rows in which a column has no value."
    return section("Missing values by partition", words, missing_map(list(table.profiles), shares))


def _target(target: TargetProfile) -> Markup:
    if target.reason:
        return section("The target", f"{target.target} of {target.partition}: unknown, {target.reason}.")
    known = f"{target.labelled:,} of {target.rows:,} rows of {target.partition} have an outcome"
    measures = ", ".join(dict.fromkeys(a.measure for a in target.associations))
    classes = any(a.measure in (POINT_BISERIAL, CRAMER) for a in target.associations)
    mean = f"{target.mean or 0:.1%} of them are {target.target}" if classes else f"their mean is {short(target.mean)}"
    words = f"{known}; {mean}. How each feature goes with {target.target}: {measures}."
    return section("The target", words, strengths(target.associations))


def _change(table: TablePage) -> Markup:
    if table.before is None:
        return section("Change", "There is no version before this one.")
    words = f"{table.profile.partition} against {table.against}. {_schema_words(table.before, table.profile)}"
    months = [
        {"partition": p, "features": {d.feature: {"psi": d.psi, "status": d.status} for d in drifts}}
        for p, drifts in table.drifts.items()
    ]
    loud = svg.loud_features(months)
    quiet = f"No column's PSI reaches {svg.PSI_CLASSES[0]:g} from any partition to the next."
    note = [tag("p", "Each partition against the one before it:" if loud else quiet)] if len(months) > 1 else []
    return section("Change", words, _change_table(table), *note, *([svg.drift_map(months)] if note and loud else []))


def _schema_words(before: DataProfile, now: DataProfile) -> str:
    then, found = ({c.column: c.type for c in p.columns} for p in (before, now))
    told = {
        "New columns": [c for c in found if c not in then],
        "Gone": [c for c in then if c not in found],
        "Of another type": [f"{c} ({then[c]} → {t})" for c, t in found.items() if c in then and then[c] != t],
    }
    words = [f"{what}: {', '.join(columns)}." for what, columns in told.items() if columns]
    return " ".join(words) or "The same columns, of the same types."


def _change_table(table: TablePage) -> Markup:
    head = [
        "column",
        "PSI",
        "Jensen-Shannon",
        "",
        "missing before",
        "now",
        "mean before",
        "now",
        "median before",
        "now",
    ]
    loud = sorted(table.changes, key=lambda d: (-(d.psi or 0.0), d.feature))
    rows = [cells(_change_cells(table, drift), set(range(1, len(head))) - {3}) for drift in loud]
    return grid(head, rows, set(range(1, len(head))) - {3}) if rows else Markup()


def _change_cells(table: TablePage, drift: FeatureDrift) -> list[str]:
    sides = [_of(p, drift.feature) for p in (table.before, table.profile) if p]
    means = [short(c.mean) if c and c.mean is not None else "" for c in sides]
    medians = [short(c.quantiles[2]) if c and c.quantiles else "" for c in sides]
    status = {"alarm": "moved", "unknown": "unknown", "ok": ""}[drift.status]
    return [
        drift.feature,
        number(drift.psi),
        number(drift.js),
        status,
        f"{drift.missing_reference:.1%}",
        f"{drift.missing_current:.1%}",
        *means,
        *medians,
    ]


def reach(facts: Facts) -> str:
    """From which partition to which a table goes; of those that are no times, which came last."""
    if facts["partitions"] < 2:
        return str(facts["newest"])
    return f"{facts['oldest']} to {facts['newest']}" if facts["timed"] else f"{facts['newest']} came last"


def kept_for(retention: str) -> str:
    """A duration of the spec for people; "" is no end."""
    days = int(retention[:-1]) if retention.endswith("d") else 0
    if days and days % 365 == 0:
        return f"{days // 365} years" if days > 365 else "a year"
    return f"{days} days" if days else retention or "ever"


def human_size(size: int) -> str:
    """Bytes for people, in steps of 1,000."""
    left, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while left >= 1000 and len(units) > 1:
        left, units = left / 1000, units[1:]
    return f"{left:.0f} {units[0]}" if units[0] == "B" else f"{left:.3g} {units[0]}"
