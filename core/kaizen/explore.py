"""Which versions of a loop's tables there are: what ``kaizen data show`` and ``log`` tell. Reads the ledger alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaizen.catalogue import describe, entry, plain_uri
from kaizen.errors import UsageError
from kaizen.loop import Loop
from kaizen.records import DataVersion, ValidationReport
from kaizen.store import split_address

_PREFIX = re.compile(r"[0-9a-f]{6,64}")

Facts = dict[str, Any]


@dataclass(frozen=True)
class Landed:
    """A version as the ledger has it. ``change``: ``first``, ``grew`` or ``replaced``."""

    version: DataVersion
    at: datetime
    actor: str
    position: int
    change: str

    @property
    def name(self) -> str:
        """``TABLE/PARTITION``."""
        return f"{self.version.table}/{self.version.partition}"

    @property
    def sha256(self) -> str:
        """Of its Parquet file."""
        return split_address(self.version.address)[1]


History = dict[str, list[Landed]]


def history(loop: Loop, table: str) -> History:
    """All versions of a table by partition, oldest first. Raises ``UsageError`` (KZ275) for a table nobody knows."""
    _check_table(loop, table)
    found: History = {}
    for event in loop.ledger.events(loop.name, kind="DataVersion"):
        if event.subject.startswith(f"data/{table}/"):
            version = DataVersion.from_json(event.payload)
            before = found.setdefault(version.partition, [])
            landed = Landed(version, event.at, event.actor, event.position, _change(version, before))
            before.append(landed)
    return dict(sorted(found.items()))


def _change(version: DataVersion, before: Sequence[Landed]) -> str:
    """What a version was to the one before it: the record's own word, or what its rows tell."""
    if version.change or not before:
        return version.change or "first"
    return "grew" if version.rows > before[-1].version.rows else "replaced"


def show(loop: Loop, table: str = "", partition: str = "") -> Facts:
    """Tables; one table with its partitions and columns; or one partition. JSON values.

    Raises:
        UsageError: KZ275 for a table, KZ278 for a partition that there is not.
    """
    if not table:
        return {"loop": loop.name, "tables": [table_facts(loop, name) for name in loop.spec.data.tables]}
    versions = history(loop, table)
    if partition and partition not in versions:
        raise _no_partition(table, partition, list(versions))
    parts = _parts(loop, table, versions)
    if partition:
        chain = versions[partition]
        return {
            "loop": loop.name,
            **_entry(loop, chain[-1]),
            **parts[list(versions).index(partition)],
            "versions": len(chain),
        }
    columns = _entry(loop, newest_of(versions))["columns"] if versions else describe(loop.spec, table).get("columns")
    return {**table_facts(loop, table), "loop": loop.name, "parts": parts, "columns": columns or {}}


def table_facts(loop: Loop, table: str) -> Facts:
    """What the spec says of a table, and what its newest versions come to.

    Partitions that are no times have no oldest one; the newest is the one that came last.
    """
    versions, timed = history(loop, table), loop.spec.data.tables[table].timed
    parts = _parts(loop, table, versions)
    about = describe(loop.spec, table)
    columns = {**about.get("columns", {}), **(_entry(loop, newest_of(versions))["columns"] if versions else {})}
    return {
        **about,
        "private": {name: facts["private"] for name, facts in columns.items() if "private" in facts},
        "partitions": len(parts),
        "bars": [p["rows"] for p in parts],
        "versions": sum(map(len, versions.values())),
        "timed": timed,
        "oldest": next(iter(versions), "") if timed else "",
        "newest": newest_of(versions, timed=timed).version.partition if versions else "",
        "rows": sum(p["rows"] for p in parts),
        "size": sum(p["size"] for p in parts),
        "quarantined": sum(p["quarantined"] for p in parts),
        "refused": [p["partition"] for p in parts if p["verdict"] == "refused"],
        "since": min((p["since"] for p in parts), default=""),
        "latest": max((p["since"] for p in parts), default=""),
    }


def _parts(loop: Loop, table: str, versions: History) -> list[Facts]:
    reports = loop.heads(ValidationReport, f"validation/{table}/")
    return [partition_facts(chain[-1], reports.get(name)) for name, chain in versions.items()]


def partition_facts(newest: Landed, report: ValidationReport | None) -> Facts:
    """The newest version of a partition, and the verdict on it: the newest one, unless that was on a version before."""
    version = newest.version
    judged = report if report and report.data == version.digest else None
    return {
        "partition": version.partition,
        "rows": version.rows,
        "size": version.size,
        "digest": version.digest,
        "sha256": newest.sha256,
        "commit": version.commit,
        "delivered": plain_uri(version.source.uri),
        "since": _time(newest.at),
        "by": newest.actor,
        "change": newest.change,
        "verdict": judged.verdict if judged else "waiting",
        "quarantined": judged.quarantined_rows if judged else 0,
        "reason": judged.reason if judged else "",
        "classes": dict(version.labels),
    }


def log(loop: Loop, table: str = "", partition: str = "") -> list[Facts]:
    """Versions, newest first: which, when, by whom, why and where from.

    Raises:
        UsageError: KZ275 for a table, KZ278 for a partition that there is not.
    """
    found = [history(loop, name) for name in ([table] if table else loop.spec.data.tables)]
    if partition and partition not in found[0]:
        raise _no_partition(table, partition, list(found[0]))
    chains = [chain for versions in found for name, chain in versions.items() if partition in ("", name)]
    told = [(landed, before) for chain in chains for landed, before in zip(chain, [None, *chain], strict=False)]
    return [_told(*pair) for pair in sorted(told, key=lambda pair: -pair[0].position)]


def _told(landed: Landed, before: Landed | None) -> Facts:
    version = landed.version
    return {
        "table": version.table,
        "partition": version.partition,
        "digest": version.digest,
        "sha256": landed.sha256,
        "change": landed.change,
        "previous": before.version.digest if before else "",
        "rows": version.rows,
        "more": version.rows - before.version.rows if before else version.rows,
        "size": version.size,
        "at": _time(landed.at),
        "by": landed.actor,
        "delivered": plain_uri(version.source.uri),
        "commit": version.commit,
    }


def find_version(loop: Loop, text: str, table: str = "") -> Landed:
    """The version that a person means.

    Args:
        text: ``TABLE/PARTITION`` or ``TABLE`` (its newest version); a partition; or six digits or more of the digest of
            a version, its file or its commit. table: where a bare partition is looked for first.

    Raises:
        UsageError: KZ275, KZ276, KZ278 for what there is not; KZ277 if it may be several.
    """
    first, slash, rest = text.partition("/")
    if slash or first in loop.spec.data.tables:
        versions = history(loop, first)
        if rest and rest not in versions:
            raise _no_partition(first, rest, list(versions))
        return versions[rest][-1] if rest else newest_of(versions, first, timed=loop.spec.data.tables[first].timed)
    everything = {name: history(loop, name) for name in loop.spec.data.tables}
    if table and text in everything[table]:
        return everything[table][text][-1]
    named = [versions[text][-1] for versions in everything.values() if text in versions]
    return _only(text, named or _by_digest(everything, text))


def find_pair(loop: Loop, first: str, second: str | None) -> tuple[Landed, Landed]:
    """The two versions that a person means, see ``find_version``; without a ``second`` the one before, and ``first``.

    Raises ``UsageError`` as ``find_version`` does, and KZ281 if there is none before ``first``.
    """
    one = find_version(loop, first)
    if second:
        return one, find_version(loop, second, one.version.table)
    table = one.version.table
    before = previous(history(loop, table), one, timed=loop.spec.data.tables[table].timed)
    if before is None:
        raise UsageError(
            "KZ281",
            "there is no version before this one",
            where=one.name,
            value=one.version.digest[:12],
            limit="two versions, or two partitions",
            action="name the other one: kaizen data diff A B",
        )
    return before, one


def previous(versions: History, landed: Landed, *, timed: bool) -> Landed | None:
    """What a version is compared with: the one before it of its partition, else the partition before it in time.

    Of partitions that are no times none comes before another: two countries, or two files, differ without a change.
    """
    chain = versions[landed.version.partition]
    at = next(i for i, each in enumerate(chain) if each.position == landed.position)
    if at:
        return chain[at - 1]
    earlier = [name for name in versions if timed and name < landed.version.partition]
    return versions[earlier[-1]][-1] if earlier else None


def newest_of(versions: History, table: str = "", *, timed: bool = True) -> Landed:
    """The newest version of the last partition, or, of those that are no times, the one that came last.

    Raises ``UsageError`` (KZ278) if there is none.
    """
    if not versions:
        raise _no_partition(table, "", [])
    newest = [chain[-1] for chain in versions.values()]
    return newest[-1] if timed else max(newest, key=lambda landed: landed.position)


def _by_digest(everything: dict[str, History], text: str) -> list[Landed]:
    if not _PREFIX.fullmatch(text):
        return []
    chains = [chain for versions in everything.values() for chain in versions.values()]
    return [
        each
        for chain in chains
        for each in chain
        if any(known.startswith(text) for known in (each.version.digest, each.sha256, each.version.commit))
    ]


def _only(text: str, found: Sequence[Landed]) -> Landed:
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            "KZ276",
            "no such version",
            where="command line",
            value=text,
            limit="TABLE/PARTITION, or six digits or more of a digest or commit",
            action="`kaizen data log` lists all versions",
        )
    raise UsageError(
        "KZ277",
        "more than one version is meant",
        where="command line",
        value=text,
        limit=", ".join(f"{each.name} {each.version.digest[:12]}" for each in found[:5]),
        action="name one of them",
    )


def _entry(loop: Loop, landed: Landed) -> Facts:
    version = landed.version
    return entry(
        loop.spec,
        version.table,
        version.partition,
        version.columns,
        rows=version.rows,
        size=version.size,
        sha256=landed.sha256,
        delivered=version.source.uri,
    )


def _check_table(loop: Loop, table: str) -> None:
    if table not in loop.spec.data.tables:
        raise UsageError(
            "KZ275",
            "no such table",
            where="command line",
            value=table,
            limit=", ".join(loop.spec.data.tables),
            action="correct the name",
        )


def _no_partition(table: str, partition: str, known: Sequence[str]) -> UsageError:
    limit = f"{known[0]} to {known[-1]}" if known else "none yet"
    return UsageError(
        "KZ278",
        "no such partition",
        where=f"table {table}",
        value=partition or None,
        limit=limit,
        action=f"`kaizen data show {table}` lists all" if known else "take data first: kaizen turn",
    )


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
