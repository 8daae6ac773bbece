"""ingest: land each delivered file as immutable, content-addressed partitions, exactly once.

The same file again is no work; the same partition with the same content is no event; with other content it is
refused. Everything is checked before anything is written, so a refusal leaves no trace.
"""

from __future__ import annotations

import glob
import importlib.util
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kaizen.calendar import bounds
from kaizen.canonical import file_digests
from kaizen.errors import DataRefused, PartitionConflict, SpecError
from kaizen.faults import fault_point
from kaizen.loop import Loop
from kaizen.records import DataVersion, Delivery, Source, ValidationReport
from kaizen.store import split_address

if TYPE_CHECKING:
    import pandas as pd

WHOLE = "all"
"""The partition of a table that is not cut by time."""


def ingest(loop: Loop, *, until: datetime | None = None) -> list[DataVersion]:
    """Take every file that is new, of every table; return the versions that were added.

    ``until`` leaves partitions that end later for another time: a turn as it would have been on that day.

    Raises:
        DataRefused: the first file that cannot be taken; files before it stay taken, it leaves nothing.
    """
    return [
        version
        for name, table in loop.spec.data.tables.items()
        for path in find_files(table.uri, loop.path.parent)
        for version in ingest_file(loop, name, path, until=until)
    ]


def has_landed(loop: Loop) -> bool:
    """Whether ``ingest`` has work: a file that was not taken yet. One that cannot be read is for ingest to refuse."""
    try:
        return any(
            loop.find(Delivery, f"{name}/{_stable_digest(path)}/") is None
            for name, table in loop.spec.data.tables.items()
            for path in find_files(table.uri, loop.path.parent)
        )
    except DataRefused:
        return True


def find_files(uri: str, base: Path) -> list[Path]:
    """The files a table's ``uri`` names now, sorted; none yet is no error. Raises ``SpecError`` KZ311 for a package."""
    if uri.startswith("package:"):
        package, _, inside = uri.removeprefix("package:").partition("/")
        try:
            found = importlib.util.find_spec(package)
        except (ModuleNotFoundError, ValueError):
            found = None
        if found is None or not found.submodule_search_locations:
            raise SpecError(
                "KZ311",
                "package with data is not installed",
                where="data.tables",
                value=package,
                limit="an installed package",
                action=f"pip install {package}",
            )
        return [Path(next(iter(found.submodule_search_locations))) / inside]
    return sorted(Path(p) for p in glob.glob(str(base / uri)) if not Path(p).name.startswith("."))


def ingest_file(loop: Loop, name: str, path: Path, *, until: datetime | None = None) -> list[DataVersion]:
    """Land one file of table ``name``. See ``ingest``."""
    table = loop.spec.data.tables[name]
    source = Source(table.uri if table.uri.startswith("package:") else path.name, _stable_digest(path))
    key = f"{name}/{source.sha256}/{until.isoformat() if until else ''}"
    if loop.find(Delivery, key):
        return []
    parts = _read_partitions(loop, name, path, until)
    _refuse_changed(path, source.sha256)
    fault_point("ingest.after_read")
    addresses = {p: _publish(loop, name, p, parts[p]) for p in _new_partitions(loop, name, parts)}
    fault_point("ingest.after_publish")
    versions = [_version(loop, name, p, address, parts[p], source) for p, address in addresses.items()]
    fault_point("ingest.after_commit")
    delivery = Delivery(name, source, tuple(parts))
    events = [loop.new_event(f"data/{name}/{v.partition}", v, f"{name}/{v.partition}/{v.address}") for v in versions]
    loop.ledger.append_all(loop.name, [*events, loop.new_event(f"source/{name}", delivery, key)])
    fault_point("ingest.after_append")
    return versions


def _stable_digest(path: Path) -> str:
    """sha256 of a file that nobody is writing. Raises ``DataRefused`` KZ406 if it changes meanwhile."""
    try:
        before = path.stat()
        size, digests = file_digests(path)
        fault_point("ingest.while_reading")
        after = path.stat()
    except OSError as error:
        raise DataRefused(
            "KZ407",
            "file cannot be read",
            where=str(path),
            value=error.strerror,
            limit="a readable file",
            action="check the path and its permissions",
        ) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != after.st_size:
        raise _still_written(path, f"{before.st_size} bytes, then {after.st_size}")
    return digests["sha256"]


def _refuse_changed(path: Path, sha256: str) -> None:
    """The rows that were read must be those of the file that the record will name."""
    found = _stable_digest(path)
    if found != sha256:
        raise _still_written(path, f"sha256 {sha256}, then {found}")


def _still_written(path: Path, value: str) -> DataRefused:
    return DataRefused(
        "KZ406",
        "file is still being written",
        where=str(path),
        value=value,
        limit="a file that does not change",
        action="deliver under a name that begins with a dot and rename when complete; then retry",
    )


def _read_partitions(loop: Loop, name: str, path: Path, until: datetime | None) -> dict[str, pd.DataFrame]:
    """The file's rows by partition, each checked as far as the spec tells without a suite."""
    from kaizen.adapters import tables

    spec, table = loop.spec, loop.spec.data.tables[name]
    frame = tables.read_source(path, table.columns)
    needed = _needed_columns(loop, name)
    tables.check_columns(frame, needed, str(path))
    _check_rows(loop, name, frame, str(path))
    if table.partition is None:
        _refuse_all_null(frame, needed, f"{path}: {name}")
        _refuse_twice(loop, name, frame, str(path))
        return {WHOLE: frame}
    frame = tables.with_time(frame, spec.time_of(name), str(path))
    parts = tables.split(frame, spec.time_of(name), table.partition, spec.clock.timezone)
    parts = {p: rows for p, rows in parts.items() if until is None or bounds(p, spec.timezone)[1] <= until}
    for partition, rows in parts.items():
        _refuse_future(loop, partition, f"{path}: {name}/{partition}")
        _refuse_all_null(rows, needed, f"{path}: {name}/{partition}")
        _refuse_twice(loop, name, rows, f"{path}: {name}/{partition}")
    return parts


def _needed_columns(loop: Loop, name: str) -> tuple[str, ...]:
    """The columns of a table that the spec's other lines rest on."""
    spec, table = loop.spec, loop.spec.data.tables[name]
    time = (spec.time_of(name),) if table.partition else ()
    truth = (spec.truth,)
    if table.role == "labels":
        return tuple(dict.fromkeys((*time, *spec.keys_of(name), *truth)))
    if table.join:
        prefix = f"{name}_"
        looked_up = tuple(f.removeprefix(prefix) for f in spec.problem.features if f.startswith(prefix))
        return tuple(dict.fromkeys((*time, *spec.keys_of(name), *looked_up)))
    prefixes = tuple(f"{joined}_" for joined in spec.joined)
    own = tuple(f for f in spec.problem.features if not f.startswith(prefixes or ("\0",)))
    keys = tuple(k for joined in spec.joined for k in spec.data.tables[joined].join)
    return tuple(dict.fromkeys((*time, *spec.problem.entity, *keys, *own, *(() if spec.labels else truth))))


def _check_rows(loop: Loop, name: str, frame: pd.DataFrame, where: str) -> None:
    from kaizen.adapters.examples import refuse_outcomes

    table = loop.spec.data.tables[name]
    if len(frame) < table.min_rows:
        raise DataRefused(
            "KZ408",
            "too few rows",
            where=where,
            value=f"{len(frame)} rows",
            limit=f"at least {table.min_rows} (data.tables.{name}.min_rows)",
            action="deliver the file again, or lower min_rows",
        )
    if table.role == "features" and loop.spec.labels:
        refuse_outcomes(loop.spec, [str(c) for c in frame.columns], f"{where}: table {name}")


def _refuse_all_null(rows: pd.DataFrame, needed: tuple[str, ...], where: str) -> None:
    empty = [c for c in needed if rows[c].isna().all()]
    if empty:
        raise DataRefused(
            "KZ409",
            "column holds no value at all",
            where=where,
            value=", ".join(empty),
            limit="at least one value in each column that the spec names",
            action="mend the source; if the column is gone for good, remove it from kaizen.yml",
        )


def _refuse_twice(loop: Loop, name: str, rows: pd.DataFrame, where: str) -> None:
    """Refuse repeated keys; see ``Spec.refuses_twice``."""
    from kaizen.adapters.examples import refuse_twice

    if loop.spec.refuses_twice(name):
        refuse_twice(rows, loop.spec.keys_of(name), where, hidden=tuple(getattr(loop.spec.data, "private", ())))


def _refuse_future(loop: Loop, partition: str, where: str) -> None:
    begins, now = bounds(partition, loop.spec.timezone)[0], loop.clock.now()
    if begins > now:
        raise DataRefused(
            "KZ410",
            "rows from the future",
            where=where,
            value=f"partition begins {begins.isoformat()}",
            limit=f"not after {now.astimezone(begins.tzinfo).isoformat(timespec='seconds')}",
            action="correct the timestamps or clock.timezone",
        )


def _new_partitions(loop: Loop, name: str, parts: Mapping[str, pd.DataFrame]) -> list[str]:
    """The partitions whose content is not there yet; nothing is kept.

    A partition that validation refused may come again with other content; it was used nowhere.

    Raises ``PartitionConflict`` (KZ430).
    """
    from kaizen.adapters.tables import write_parquet

    known, new = loop.versions(name), []
    reports = loop.heads(ValidationReport, f"validation/{name}/")
    refused = {r.data for r in reports.values() if r.verdict == "refused"}
    for partition, rows in parts.items():
        before = known[partition].address if partition in known else ""
        address = loop.store.address_of(f"{name}/{partition}", partial(write_parquet, rows)) if before else ""
        changed = before and address != before and loop.spec.data.tables[name].partition
        if changed and known[partition].digest not in refused:
            raise PartitionConflict(
                "KZ430",
                "partition was delivered before with other content",
                where=f"{name}/{partition}",
                value=f"sha256 {split_address(address)[1]}",
                limit=f"sha256 {split_address(before)[1]}",
                action="deliver corrections as another partition, or remove the file",
            )
        if not before or address != before:
            new.append(partition)
    return new


def _publish(loop: Loop, name: str, partition: str, rows: pd.DataFrame) -> str:
    from kaizen.adapters.tables import write_parquet

    return loop.store.put_file(f"{name}/{partition}", partial(write_parquet, rows))


def _version(loop: Loop, name: str, partition: str, address: str, rows: pd.DataFrame, source: Source) -> DataVersion:
    from kaizen.adapters.examples import make_label
    from kaizen.adapters.tables import column_types, count_classes

    spec = loop.spec
    file = loop.store.file_path(split_address(address)[1])
    pointer = loop.data.commit(f"{name}/{partition}.parquet", file, f"ingest {name}/{partition}")
    holds_labels = name in (spec.label_tables or (spec.main,)) and spec.problem.task == "classification"
    labels = count_classes(make_label(spec, rows)) if holds_labels else {}
    return DataVersion(
        name,
        partition,
        address,
        pointer.md5,
        pointer.size,
        len(rows),
        column_types(rows),
        source,
        pointer.commit,
        labels,
    )
