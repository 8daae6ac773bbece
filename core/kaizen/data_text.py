"""What ``kaizen data show``, ``log`` and ``diff`` tell, as text for a terminal; pure functions of their JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kaizen.data_page import human_size, kept_for, reach
from kaizen.data_pictures import short
from kaizen.svg import clip, number

Facts = dict[str, Any]

DIGEST = 12
_WIDE = 24
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"


def tables(facts: Facts) -> str:
    """All tables of a loop, one line each, with a bar per partition."""
    head = ["TABLE", "ROWS", "PARTITIONS", "", "SIZE", "QUARANTINED", "OWNER", "MEANING"]
    rows = [
        [
            t["table"],
            f"{t['rows']:,}",
            reach(t) or "none yet",
            levels(t["bars"]),
            human_size(t["size"]),
            f"{t['quarantined']:,}",
            clip(t.get("owner", ""), 24),
            clip(t.get("meaning", ""), 56),
        ]
        for t in facts["tables"]
    ]
    return f"{facts['loop']}\n\n" + aligned([head, *rows], right={1, 4, 5})


def table(facts: Facts) -> str:
    """One table: what it is, its partitions with bars of rows, its columns."""
    most = max((p["rows"] for p in facts["parts"]), default=0)
    head = ["PARTITION", "ROWS", "", "SIZE", "VERDICT", "QUARANTINED", "SINCE", "VERSION", "FROM"]
    rows = [
        [
            p["partition"],
            f"{p['rows']:,}",
            bar(p["rows"], most),
            human_size(p["size"]),
            p["verdict"],
            f"{p['quarantined']:,}" if p["quarantined"] else "",
            p["since"][:16].replace("T", " "),
            p["digest"][:DIGEST],
            clip(p["delivered"], 40),
        ]
        for p in facts["parts"]
    ]
    lines = [*_about(facts), "", aligned([head, *rows], right={1, 3, 5}) if rows else "no partition yet"]
    refused = [f"refused {p['partition']}: {p['reason']}" for p in facts["parts"] if p["verdict"] == "refused"]
    return "\n".join([*lines, *refused, "", *_columns(facts), *_report(facts)])


def version(facts: Facts) -> str:
    """One partition: its newest version."""
    found = [
        ("rows", f"{facts['rows']:,}"),
        ("size", human_size(facts["size"])),
        ("verdict", f"{facts['verdict']}{': ' + facts['reason'] if facts['reason'] else ''}"),
        ("version", f"{facts['digest']}, {facts['change']}, {facts['versions']} in all"),
        ("file", f"sha256 {facts['sha256']}"),
        ("commit", facts["commit"]),
        ("since", f"{facts['since']} by {facts['by']}"),
        ("from", facts["delivered"]),
        ("classes", ", ".join(f"{name}: {count:,}" for name, count in facts["classes"].items())),
    ]
    facts = {**facts, "table": f"{facts['table']}/{facts['partition']}", "partition": ""}
    return "\n".join([*_about(facts), "", *_pairs(found), "", *_columns(facts), *_report(facts)])


def log(entries: Sequence[Facts]) -> str:
    """Versions, one line each."""
    head = ["VERSION", "PARTITION", "CHANGE", "ROWS", "", "WHEN", "BY", "FROM", "COMMIT"]
    rows = [
        [
            e["digest"][:DIGEST],
            f"{e['table']}/{e['partition']}",
            e["change"],
            f"{e['rows']:,}",
            f"({e['more']:+,})" if e["previous"] else "",
            e["at"][:19].replace("T", " "),
            clip(e["by"], 24),
            clip(e["delivered"], 40),
            e["commit"][:DIGEST],
        ]
        for e in entries
    ]
    return aligned([head, *rows], right={3, 4}) if rows else "no version yet"


def diff(facts: Facts) -> str:
    """Rows, schema and distributions of two versions."""
    before, after, rows = facts["before"], facts["after"], facts["rows"]
    lines = [f"{facts['table']}: {_side(before)} → {_side(after)}", "", _row_words(rows)]
    if rows["columns"]:
        lines.append("in   " + ", ".join(f"{name} ({count:,})" for name, count in rows["columns"].items()))
    schema = facts["schema"]
    lines += [f"new column  {name}: {kind}" for name, kind in schema["added"].items()]
    lines += [f"column gone {name}: {kind}" for name, kind in schema["removed"].items()]
    lines += [f"other type  {name}: {old} → {new}" for name, (old, new) in schema["changed"].items()]
    if not any(schema.values()):
        lines.append("the same columns, of the same types")
    head = ["COLUMN", "PSI", "JS", "", "MISSING", "", "DISTINCT", "", "MEAN", "", "MEDIAN", ""]
    loud = sorted(facts["columns"], key=lambda c: (-(c["psi"] or 0.0), c["column"]))
    return "\n".join([*lines, "", aligned([head, *map(_diff_row, loud)], right=set(range(1, 12)) - {3})])


def _row_words(rows: Facts) -> str:
    by = f", rows recognised by {', '.join(rows['keys'])}" if rows["keys"] else ", rows compared as a whole"
    return (
        f"rows {rows['added']:+,} added, -{rows['removed']:,} removed, {rows['changed']:,} changed, "
        f"{rows['same']:,} the same{by}"
    )


def _diff_row(column: Facts) -> list[str]:
    moved = {"alarm": "moved", "unknown": "unknown"}.get(column["status"], "")
    medians = [q[2] if q else None for q in column["quantiles"]]
    return [
        column["column"],
        number(column["psi"]) if column["psi"] is not None else "",
        number(column["js"]) if column["js"] is not None else "",
        "private" if column["private"] else moved,
        *(f"{share:.1%}" for share in column["missing"]),
        *(f"{count:,}" for count in column["distinct"]),
        *(short(m) if m is not None else "" for m in column["mean"]),
        *(short(m) if m is not None else "" for m in medians),
    ]


def _side(side: Facts) -> str:
    return f"{side['partition']} {side['digest'][:DIGEST]} ({side['rows']:,} rows, {side['at'][:16].replace('T', ' ')})"


def bar(value: int, most: int) -> str:
    """A bar of at most 24 characters, to an eighth of one."""
    eighths = round(8 * _WIDE * value / most) if most else 0
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).strip() or ("▏" if value else "")


def levels(values: Sequence[int]) -> str:
    """A character per value, at most 24 of the last ones."""
    most = max(values, default=0) or 1
    return "".join(_LEVELS[round(7 * value / most)] for value in values[-_WIDE:])


def aligned(rows: Sequence[Sequence[str]], right: set[int]) -> str:
    """Rows as lines; columns ``right`` to the right, the others to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _about(facts: Facts) -> list[str]:
    private = {n: c["private"] for n, c in facts["columns"].items() if "private" in c}
    told = [
        ("owner", facts.get("owner", "")),
        ("source", facts.get("source", "")),
        ("licence", facts.get("licence", "")),
        ("lands at", facts.get("uri", "")),
        ("cut by", facts.get("partition", "").removeprefix("by ")),
        ("kept for", kept_for(facts.get("retention", ""))),
        ("masked", ", ".join(f"{name} ({policy})" for name, policy in private.items())),
    ]
    title = f"{facts['loop']} · {facts['table']}"
    return [f"{title}: {facts['meaning']}" if facts.get("meaning") else title, *_pairs(told)]


def _pairs(found: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{name:<9}{value}" for name, value in found if value]


def _columns(facts: Facts) -> list[str]:
    head = ["COLUMN", "TYPE", "UNIT", "MEANING"]
    rows = [
        [
            name,
            c.get("type", ""),
            c.get("unit", ""),
            c.get("meaning", "") + (f" [masked: {c['private']}]" if "private" in c else ""),
        ]
        for name, c in facts["columns"].items()
    ]
    return [aligned([head, *rows], right=set())] if rows else []


def _report(facts: Facts) -> list[str]:
    return ["", f"report: {facts['report']}" if facts["report"] else f"report: kaizen data report {facts['table']}"]
