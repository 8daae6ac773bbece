"""The page of a loop's data: gathers what ``kaizen.data_page`` draws, for the command and for the stage's page."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from kaizen import data_page
from kaizen.data_page import TablePage
from kaizen.errors import UsageError
from kaizen.explore import History, Landed, find_version, history, previous, show
from kaizen.loop import Loop
from kaizen.profiling import drift, profile, target_profile, warnings
from kaizen.records import TargetProfile

PARTITIONS = 24
"""How many of the last partitions a page looks into."""


def data_report(loop: Loop, table: str = "", partition: str = "") -> tuple[str, list[str]]:
    """The page of all tables, of one, or of one partition; and the warnings that it shows.

    Raises:
        UsageError: KZ275, KZ278 for what there is not; KZ280 if nothing was taken yet.
    """
    names = [table] if table else [name for name in loop.spec.data.tables if history(loop, name)]
    if not names or not history(loop, names[0]):
        raise UsageError(
            "KZ280",
            "there is no data to look at yet",
            where=loop.name,
            limit="one partition that was taken",
            action="take data first: kaizen turn, or kaizen stage ingest",
        )
    pages = [table_page(loop, name, partition) for name in names]
    told = [f"{page.facts['table']}: {warning}" for page in pages for warning in page.warnings]
    return data_page.html(loop.name, pages), told


def page_path(loop: Loop, table: str = "") -> Path:
    """Where the page of all tables, or of one, lies by default: below the loop's home."""
    return loop.home / (f"data-{table}.html" if table else "data.html")


def table_page(loop: Loop, table: str, partition: str = "") -> TablePage:
    """What there is to see of a table, looked at from its newest version or from ``partition``."""
    versions, timed = history(loop, table), loop.spec.data.tables[table].timed
    chosen = find_version(loop, f"{table}/{partition}" if partition else table)
    before = previous(versions, chosen, timed=timed)
    found = profile(loop, chosen.version)
    target = _target(loop, table, chosen, named=bool(partition))
    last = _last(versions, chosen, timed=timed)
    profiles = {each.version.partition: profile(loop, each.version) for each in last}
    return TablePage(
        facts=show(loop, table),
        profile=found,
        against=_words(before, chosen) if before else "",
        before=profile(loop, before.version) if before else None,
        changes=drift(loop, before.version, chosen.version) if before else (),
        profiles=profiles,
        drifts={b.version.partition: drift(loop, a.version, b.version) for a, b in pairwise(last) if timed},
        target=target,
        warnings=warnings(found, target, list(profiles.values())),
    )


def _last(versions: History, chosen: Landed, *, timed: bool) -> list[Landed]:
    """The newest versions of the partitions up to the one looked at; of those that are no times, of any."""
    own = chosen.version.partition
    names = [name for name in versions if not timed or name <= own]
    names = names[-PARTITIONS:] if own in names[-PARTITIONS:] else [own, *names[1 - PARTITIONS :]]
    return [chosen if name == chosen.version.partition else versions[name][-1] for name in names]


def _words(before: Landed, chosen: Landed) -> str:
    if before.version.partition != chosen.version.partition:
        return before.version.partition
    return f"its version of {before.at.isoformat(timespec='minutes')} ({before.version.digest[:12]})"


def _target(loop: Loop, table: str, chosen: Landed, *, named: bool) -> TargetProfile | None:
    """Of the main table; unless a partition was named, of the last one whose outcomes have come."""
    spec = loop.spec
    if table != spec.main:
        return None
    validated = loop.validated(spec.labels) if spec.labels else loop.validated(spec.main)
    known = [p for p in loop.validated(spec.main) if p in validated]
    return target_profile(loop, chosen.version.partition if named or not known else known[-1])
