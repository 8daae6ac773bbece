"""Statistics of versions, and what changed between two: made once for each content, then read.

They are kept below the loop's home (``profiles/``) under a digest of what they were made from, and can be thrown away.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from kaizen import codec
from kaizen.calendar import LOOKS_PER_YEAR
from kaizen.canonical import digest
from kaizen.catalogue import private_columns
from kaizen.errors import DataRefused, IntegrityError, UsageError
from kaizen.explore import Facts, Landed
from kaizen.loop import Loop
from kaizen.monitor import alarm_level, judge_drift
from kaizen.publish import publish_json
from kaizen.records import ColumnProfile, DataProfile, DataVersion, FeatureDrift, Input, Profile, Record, TargetProfile

R = TypeVar("R", bound=Record)

_METHOD = 1
"""Grows whenever the statistics of the same rows become others."""
_MOSTLY_MISSING, _NEARLY = 0.5, 0.95


def profile(loop: Loop, version: DataVersion) -> DataProfile:
    """The profile of a version."""
    from kaizen.adapters.data_profiles import profile_file

    private = _private(loop, version)

    def make() -> DataProfile:
        path = loop.store.file(version.address)
        return profile_file(path, version.table, version.partition, version.address, private)

    return _kept(loop, DataProfile, [version.address, private], make)


def drift(loop: Loop, before: DataVersion, after: DataVersion) -> tuple[FeatureDrift, ...]:
    """How far each column of ``after`` moved from ``before``, by the loop's own measure of drift.

    Private columns and times are left out, what ``monitor.drift.ignore`` names, and the column that tells partitions
    apart: it is another one in another partition.
    """
    from kaizen.adapters.data_profiles import count_in, reference_profile

    reference = reference_profile(profile(loop, before))
    private, table = _private(loop, before) | _private(loop, after), loop.spec.data.tables[after.table]
    shown = tuple(f for f in reference.features if f.feature not in private and f.feature != table.key_column)

    def make() -> Profile:
        return count_in(loop.store.file(after.address), replace(reference, features=shown))

    current = _kept(loop, Profile, [before.address, after.address, private, table.key_column], make)
    spec = loop.spec.monitor
    level = alarm_level(spec.false_alarms_per_year, LOOKS_PER_YEAR.get(table.partition or "", 12.0))
    return judge_drift(reference, current, spec, level)[1]


def target_profile(loop: Loop, partition: str) -> TargetProfile:
    """The features of a partition of the main table beside its outcomes; its ``reason`` says why nothing is known."""
    spec, inputs = loop.spec, loop.inputs_for([partition], labels=True)
    missing = {spec.main, *([spec.labels] if spec.labels else [])} - {i.table for i in inputs}
    if missing:
        reason = f"no validated rows of {', '.join(sorted(missing))} yet"
        return TargetProfile(partition, spec.problem.target, (), 0, 0, None, (), reason)
    problem = codec.encode(spec.problem)
    what = [[i.address for i in inputs], problem, list(spec.data.outcomes)]
    return _kept(loop, TargetProfile, what, lambda: _target_profile(loop, partition, inputs))


def _target_profile(loop: Loop, partition: str, inputs: Sequence[Input]) -> TargetProfile:
    from kaizen.adapters.associations import associate
    from kaizen.adapters.data_profiles import matching_rows, sample_rows
    from kaizen.adapters.examples import assemble

    spec, problem = loop.spec, loop.spec.problem
    paths = {i.table: loop.store.file(i.address) for i in inputs}
    tables = {spec.main: sample_rows(paths.pop(spec.main))}
    addresses = tuple(i.address for i in inputs)
    try:
        for table, path in paths.items():
            keys = spec.data.tables[table].join or problem.entity
            tables[table] = matching_rows(path, keys, tables[spec.main])
        examples = assemble(spec, tables, labels=True)
    except DataRefused as refusal:
        # A picture for people must not stop anybody; the stage that needs these rows will refuse them in full.
        rows = len(tables[spec.main])
        return TargetProfile(partition, problem.target, addresses, rows, 0, None, (), refusal.what)
    positive = problem.positive if problem.task == "classification" else None
    known = examples.labelled()
    if known.label is None or not len(known):
        return TargetProfile(partition, problem.target, addresses, len(examples), 0, None, (), "no outcome has come")
    mean = float((known.label if positive is None else known.label == positive).mean())
    found = associate(known, positive)
    return TargetProfile(partition, problem.target, addresses, len(examples), len(known), mean, found)


def warnings(found: DataProfile, target: TargetProfile | None, others: Sequence[DataProfile] = ()) -> list[str]:
    """What somebody should look at, in words; a pure function of profiles. ``others`` are of other partitions."""
    told = [words for column in found.columns for words in _column_warnings(found, column, others)]
    for a in target.associations if target else ():
        if a.value is not None and abs(a.value) > _NEARLY:
            told.append(f"{a.feature} nearly is the target ({a.measure} {a.value:+.2f}): known before the prediction?")
    return told


def _column_warnings(found: DataProfile, c: ColumnProfile, others: Sequence[DataProfile]) -> list[str]:
    told = [f"{c.column} has {c.infinite:,} infinite values"] if c.infinite else []
    if c.missing == found.rows:
        return [f"{c.column} has no value at all", *told]
    if c.distinct == 1 and all(_same_value(c, other) for other in others):
        gaps = f", and is missing in {c.missing / found.rows:.1%} of the rows" if c.missing else ""
        return [f"{c.column} is constant{gaps}", *told]
    if c.missing / max(found.rows, 1) > _MOSTLY_MISSING:
        return [f"{c.column} is missing in {c.missing / found.rows:.0%} of the rows", *told]
    return told


def _same_value(column: ColumnProfile, other: DataProfile) -> bool:
    """Whether another partition has the one value, too: what partitions are cut by is constant within each."""
    there = next((c for c in other.columns if c.column == column.column), None)
    value = [(c.minimum, [b.upper for b in c.bins if b.count]) for c in (column, there) if c]
    return there is not None and there.distinct == 1 and value[0] == value[-1]


def diff(loop: Loop, before: Landed, after: Landed) -> Facts:
    """What changed from one version of a table to another: rows, schema, distributions. JSON values.

    Raises ``UsageError`` (KZ279) for versions of two tables.
    """
    old, new = before.version, after.version
    if old.table != new.table:
        raise UsageError(
            "KZ279",
            "two tables cannot be compared",
            where="command line",
            value=f"{before.name}, {after.name}",
            limit="two versions of one table",
            action="name partitions or versions of the same table",
        )
    return {
        "table": new.table,
        "before": _side(before),
        "after": _side(after),
        "rows": _row_changes(loop, old, new),
        "schema": _schema_changes(old.columns, new.columns),
        "columns": _column_changes(loop, old, new),
    }


def table_keys(loop: Loop, table: str) -> tuple[str, ...]:
    """The columns that identify a row of a table."""
    return loop.spec.data.tables[table].join or loop.spec.problem.entity


def _side(landed: Landed) -> Facts:
    version = landed.version
    return {
        "partition": version.partition,
        "digest": version.digest,
        "sha256": landed.sha256,
        "commit": version.commit,
        "at": landed.at.isoformat(timespec="seconds"),
        "rows": version.rows,
        "size": version.size,
    }


def _row_changes(loop: Loop, old: DataVersion, new: DataVersion) -> Facts:
    from kaizen.adapters.row_changes import count_changes

    keys = table_keys(loop, new.table)
    with loop.store.scratch() as folder:
        found = count_changes(loop.store.file(old.address), loop.store.file(new.address), keys, folder)
    used = [k for k in keys if k in old.columns and k in new.columns]
    return {"keys": used if len(used) == len(keys) else [], **codec.encode(found)}


def _schema_changes(before: dict[str, str], after: dict[str, str]) -> Facts:
    # How long a text may be at most is no difference.
    old, new = ({name: kind.removeprefix("large_") for name, kind in side.items()} for side in (before, after))
    return {
        "added": {name: kind for name, kind in new.items() if name not in old},
        "removed": {name: kind for name, kind in old.items() if name not in new},
        "changed": {name: [old[name], kind] for name, kind in new.items() if name in old and old[name] != kind},
    }


def _column_changes(loop: Loop, old: DataVersion, new: DataVersion) -> list[Facts]:
    profiles = [profile(loop, version) for version in (old, new)]
    drifts = {d.feature: d for d in drift(loop, old, new)}
    before, after = ({c.column: c for c in p.columns} for p in profiles)
    found = []
    for name, now in after.items():
        if name not in before:
            continue
        then, moved = before[name], drifts.get(name)
        found.append(
            {
                "column": name,
                "private": now.kind == "private",
                "status": moved.status if moved else "",
                "psi": moved.psi if moved else None,
                "js": moved.js if moved else None,
                "missing": [c.missing / max(p.rows, 1) for c, p in zip((then, now), profiles, strict=True)],
                "distinct": [then.distinct, now.distinct],
                "mean": [then.mean, now.mean],
                "quantiles": [list(then.quantiles), list(now.quantiles)],
            }
        )
    return found


def _private(loop: Loop, version: DataVersion) -> dict[str, str]:
    """What the spec says, and what was masked when the version came, whatever the spec says now."""
    return {**dict.fromkeys(version.private, "masked"), **private_columns(loop.spec, version.columns)}


def _kept(loop: Loop, kind: type[R], made_from: Any, make: Callable[[], R]) -> R:
    """What ``make`` makes of ``made_from``: read if it was made before, and is whole."""
    path = loop.home / "profiles" / f"{digest([kind.__name__, kind.version, _METHOD, made_from])}.json"
    try:
        return kind.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, AttributeError, IntegrityError):
        made = make()
        publish_json(path, made.to_json())
        return made
