"""Rows on their way into partitions: cut batch by batch, spilled to disk, written as Parquet one partition at a time.

Memory holds ``BUDGET`` bytes of rows and one row group, whatever the size of the delivery or the number of partitions.
The same rows in the same order always give the same bytes, wherever the batches were cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq

from kaizen.adapters import row_hashes
from kaizen.adapters.detector import few_rows
from kaizen.adapters.readers import BATCH, BROKEN, batch_rows, choose, damaged
from kaizen.adapters.row_hashes import hash_rows, open_file
from kaizen.adapters.schemas import column_types, value_of, without_views
from kaizen.canonical import file_digests
from kaizen.errors import DataRefused
from kaizen.privacy import show
from kaizen.sources import Wanted, fold, stable_digests

BUDGET = 16 << 20
_BLOCK_ROWS = 8192
_GROUP_BYTES = 8 << 20
_GROUP_ROWS = 1 << 17
_MAX_KEYS = 10_000
_LOOKS = 32
"""Batches of a file that is kept as it is, about, that somebody looks at."""
_YEARS = (1900, 2200)
"""Between them lies what a loop can be about; others stand for a missing time, or for a damaged one."""

Cut = Callable[[pa.RecordBatch], Iterator[tuple[str, pa.RecordBatch]]]
"""Cuts a batch: partition and its rows, in their order."""


@dataclass(frozen=True)
class Draft:
    """A partition's rows as a finished file that nobody knows of yet.

    Attributes:
        columns: name to type. empty: columns without a value, NaN being none.
        sha256, md5: of its bytes. ascending: columns that were seen to count up, so that no value is there twice.
    """

    partition: str
    path: Path
    rows: int
    size: int
    sha256: str
    md5: str
    columns: dict[str, str]
    empty: tuple[str, ...] = ()
    ascending: tuple[str, ...] = ()


# How rows are cut.


def whole(partition: str) -> Cut:
    """Everything is one partition."""
    return lambda batch: iter([(partition, batch)])


def by_time(timestamp: str, partition: str, zone: str) -> Cut:
    """By day, month or year in ``zone``; ``timestamp`` is a column of UTC times."""

    def cut(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
        local = batch.column(timestamp).cast(pa.timestamp("us", zone))
        code = pc.year(local)
        for parts in (("month", pc.month), ("day", pc.day)):
            if partition in parts or partition == "day":
                code = pc.add(pc.multiply(code, 100), parts[1](local))
        for key, rows in _grouped(batch, code.to_numpy(zero_copy_only=False)):
            yield _time_key(int(key), partition), rows

    return cut


def _time_key(code: int, partition: str) -> str:
    if partition == "year":
        return f"{code:04d}"
    if partition == "month":
        return f"{code // 100:04d}-{code % 100:02d}"
    return f"{code // 10_000:04d}-{code // 100 % 100:02d}-{code % 100:02d}"


def by_column(column: str, where: str) -> Cut:
    """By the values of a column, as text that a file can be called by."""
    names: dict[str, str] = {}

    def cut(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
        values = batch.column(column)
        if values.null_count:
            raise _bad_key(column, "a missing value", "a value in every row", where)
        coded = values.cast(pa.string()).dictionary_encode()
        keys = [key_name(text) for text in coded.dictionary.to_pylist()]
        for key in keys:
            other = names.setdefault(fold(key), key)
            if other != key:
                raise _bad_key(
                    column, f"{show(other)!r} and {show(key)!r}", "values that differ in more than case", where
                )
        if len(names) > _MAX_KEYS:
            raise _bad_key(column, f"more than {_MAX_KEYS} values", f"at most {_MAX_KEYS} partitions", where)
        for code, rows in _grouped(batch, coded.indices.to_numpy()):
            yield keys[int(code)], rows

    return cut


def key_name(text: str) -> str:
    """A value as the name of a partition: what a file cannot be called by is percent-encoded."""
    plain = quote(text, safe=" =,+@()")
    plain = f"%2E{plain[1:]}" if plain.startswith(".") else plain
    plain = f"{plain[:-4]}%2Edvc" if plain.endswith(".dvc") else plain
    return plain if 0 < len(plain) <= 150 else f"{plain[:100]}~{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _bad_key(column: str, value: str, limit: str, where: str) -> DataRefused:
    return DataRefused(
        "KZ463",
        "rows cannot be cut by this column",
        where=f"{where}: column {column}",
        value=value,
        limit=limit,
        action="correct the rows at the source, or cut by another column",
    )


def _grouped(batch: pa.RecordBatch, codes: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Rows of equal code together, ascending, their order kept."""
    if len(codes) == 0:
        return
    if (codes == codes[0]).all():
        yield codes[0], batch
        return
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    moved = batch.take(pa.array(order))
    for start, end in zip(starts, [*starts[1:], len(codes)], strict=True):
        yield ordered[start], moved.slice(start, end - start)


def with_time(batch: pa.RecordBatch, timestamp: str, wanted: Wanted, first_row: int) -> pa.RecordBatch:
    """``batch`` with its times in UTC and microseconds. Raises ``DataRefused`` KZ405 for the first bad row."""
    at = batch.schema.get_field_index(timestamp)
    column = batch.column(at)
    times = _as_utc(column)
    bad = times.is_null() if times.null_count else None
    if bad is None and len(times):
        years = pc.year(times)
        ends = pc.min_max(years).as_py()
        if ends["min"] < _YEARS[0] or ends["max"] > _YEARS[1]:
            bad = pc.or_(pc.less(years, _YEARS[0]), pc.greater(years, _YEARS[1]))
    if bad is not None:
        row = pc.index(bad, True).as_py()
        raise DataRefused(
            "KZ405",
            "not a time",
            where=f"{wanted.where}: column {timestamp}, row {first_row + row}",
            value=show(value_of(column, row), timestamp, wanted.private),
            limit=f"ISO 8601 in the years {_YEARS[0]} to {_YEARS[1]}, in every row",
            action="correct the row at the source",
        )
    return batch.set_column(at, timestamp, times)


def _as_utc(column: pa.Array) -> pa.Array:
    utc, kind = pa.timestamp("us", "UTC"), column.type
    if pa.types.is_timestamp(kind):
        # A time without a zone counts as UTC.
        return column.cast(pa.timestamp("us", kind.tz), safe=False).cast(utc)
    if pa.types.is_date(kind):
        return column.cast(pa.timestamp("us")).cast(utc)
    if pa.types.is_string(kind):
        try:
            return column.cast(utc)
        except pa.ArrowException:
            pass
    import pandas as pd

    found = pd.to_datetime(column.to_pandas(), utc=True, errors="coerce", format="ISO8601")
    return pa.array(found.astype("datetime64[us, UTC]"), type=utc, from_pandas=True)


# Where cut rows wait.


@dataclass
class _Waiting:
    """One partition's rows: those in memory, and before them those in spill files."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    size: int = 0
    spilled: list[Path] = field(default_factory=list)

    def all(self) -> Iterator[pa.RecordBatch]:
        for path in self.spilled:
            with pa.memory_map(str(path)) as file:
                yield from pyarrow.ipc.open_stream(file)
        yield from self.batches


class Rows(Protocol):
    """A delivery's rows, by partition."""

    rows: int

    def partitions(self) -> list[str]:
        """Those that have rows, by name."""
        ...

    def draft(self, partition: str, before: Path | None = None) -> Draft:
        """The partition's rows, behind those of the file ``before``, as a finished file."""
        ...


class Cutter:
    """Takes batches, keeps them by partition, and writes each partition as one file."""

    def __init__(self, folder: Path, cut: Cut, budget: int = BUDGET) -> None:
        self.rows = 0
        self._folder, self._cut, self._budget = folder, cut, budget
        self._waiting: dict[str, _Waiting] = {}
        self._held = self._spills = self._drafts = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take a batch. Raises what the cut refuses."""
        self.rows += batch.num_rows
        for partition, rows in self._cut(batch):
            waiting = self._waiting.setdefault(partition, _Waiting())
            waiting.batches.append(rows)
            waiting.size += rows.nbytes
            self._held += rows.nbytes
        if self._held > self._budget:
            self._spill()

    def partitions(self) -> list[str]:
        return sorted(self._waiting)

    def draft(self, partition: str, before: Path | None = None) -> Draft:
        waiting, self._drafts = self._waiting[partition], self._drafts + 1
        path = self._folder / f"draft-{self._drafts}"
        return write_draft(partition, path, lambda: chain(read_batches(before) if before else (), waiting.all()))

    def _spill(self) -> None:
        """Put the largest half of what is held on disk."""
        for waiting in sorted(self._waiting.values(), key=lambda w: -w.size):
            if self._held <= self._budget // 2:
                break
            self._spill_one(waiting)
        # What Arrow keeps for another time would count as ours.
        pa.default_memory_pool().release_unused()

    def _spill_one(self, waiting: _Waiting) -> None:
        # A file has one schema; a change of it begins another.
        for schema, batches in _runs(waiting.batches):
            self._spills += 1
            path = self._folder / f"spill-{self._spills}"
            with pa.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            waiting.spilled.append(path)
        self._held -= waiting.size
        waiting.batches, waiting.size = [], 0


def _runs(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.Schema, list[pa.RecordBatch]]]:
    run: list[pa.RecordBatch] = []
    for batch in batches:
        if run and not run[0].schema.equals(batch.schema):
            yield run[0].schema, run
            run = []
        run.append(batch)
    if run:
        yield run[0].schema, run


# Files.


def write_draft(partition: str, path: Path, batches: Callable[[], Iterator[pa.RecordBatch]]) -> Draft:
    """Write batches as one Parquet file, in a schema that holds them all. ``batches`` is called twice."""
    schema = _common_schema(batch.schema for batch in batches())
    rows, valued = 0, dict.fromkeys(schema.names, False)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in _groups(_blocks(batches(), schema), schema):
            rows += table.num_rows
            for name in schema.names:
                valued[name] = valued[name] or _has_value(table.column(name))
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    size, digests = file_digests(path, "sha256", "md5")
    empty = tuple(name for name, found in valued.items() if not found)
    return Draft(partition, path, rows, size, digests["sha256"], digests["md5"], column_types(schema), empty)


@dataclass
class Original:
    """A copy of a delivered Parquet file that needs no change: read once to the end, not written anew.

    Attributes:
        md5: of a large file it comes while the file is read.
    """

    path: Path
    partition: str
    wanted: Wanted
    columns: dict[str, str]
    size: int
    sha256: str
    md5: Future[tuple[int, str]]
    rows: int = 0
    empty: tuple[str, ...] = ()
    ascending: tuple[str, ...] = ()
    ahead: Future[list[pa.RecordBatch]] | None = None
    """What ``read`` is to show, or to raise, if it was read before."""

    def read_ahead(self, keys: Sequence[str] = ()) -> None:
        """Read it before anybody asks, and keep a few rows of it; whatever is wrong with it, ``read`` says."""
        seen, ahead = [], Future[list[pa.RecordBatch]]()
        try:
            self._read(lambda batch: seen.append(few_rows(batch, len(seen))), keys)
            ahead.set_result(seen)
        except DataRefused as refusal:
            ahead.set_exception(refusal)
        self.ahead = ahead

    def read(self, look: Callable[[pa.RecordBatch], object], keys: Sequence[str] = ()) -> None:
        """Read it to the end; ``look`` is given some of its batches. Raises ``DataRefused`` KZ402.

        ``keys``: columns of which, if they hold whole numbers, it is seen whether they ascend.
        """
        if self.ahead is None:
            self._read(look, keys)
        else:
            for batch in self.ahead.result():
                look(batch)

    def _read(self, look: Callable[[pa.RecordBatch], object], keys: Sequence[str]) -> None:
        valued = dict.fromkeys(self.columns, False)
        ascents = {key: _Ascent() for key in keys if self.columns.get(key, "").startswith(("int", "uint"))}
        try:
            with open_file(self.path) as file:
                # A whole footer says nothing of the pages before it, and its statistics are not to be relied on.
                rows = batch_rows(file)
                step = -(-file.metadata.num_rows // rows // _LOOKS) or 1
                for number, batch in enumerate(file.iter_batches(rows, use_threads=self.size > BATCH)):
                    self.rows += batch.num_rows
                    for key, ascent in ascents.items():
                        ascent.see(batch.column(key))
                    for name in [name for name, found in valued.items() if not found]:
                        valued[name] = _has_value(batch.column(name))
                    if number % step == 0:
                        look(batch)
        except BROKEN:
            raise damaged(self.wanted, f"{self.size} bytes, with unreadable pages", "a whole Parquet file") from None
        self.empty = tuple(name for name, found in valued.items() if not found)
        self.ascending = tuple(key for key, ascent in ascents.items() if ascent.holds)

    def partitions(self) -> list[str]:
        return [self.partition] if self.rows else []

    def draft(self, partition: str, before: Path | None = None) -> Draft:
        if before:
            grown = self.path.with_name("grown")
            return write_draft(partition, grown, lambda: chain(read_batches(before), read_batches(self.path)))
        return Draft(
            partition,
            self.path,
            self.rows,
            self.size,
            self.sha256,
            self.md5.result()[1],
            self.columns,
            self.empty,
            self.ascending,
        )


def take_as_it_is(path: Path, partition: str, wanted: Wanted, folder: Path) -> Original | None:
    """A copy in ``folder`` of a Parquet file with just the columns and types that are wanted, not read yet.

    None if it is to be read and written, or if something is wrong with it: whoever reads it says what.

    Raises ``DataRefused``: KZ406 it changes meanwhile, KZ407 it cannot be read.
    """
    try:
        with open_file(path) as file:
            schema = file.schema_arrow
        names = choose(list(schema.names), wanted)
    except (*BROKEN, DataRefused):
        return None
    same = all(
        wanted.types.get(field.name, str(field.type)) == str(field.type) and without_views(field.type) == field.type
        for field in schema
    )
    if not same or names != schema.names or set(wanted.private).intersection(names):
        return None
    # What was fetched from elsewhere is a copy already.
    copy = None if path.parent == folder else folder / "original"
    digests = stable_digests(path, "sha256", "md5", copy=copy)
    size, sha256 = digests["sha256"].result()
    return Original(copy or path, partition, wanted, column_types(schema), size, sha256, digests["md5"])


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """One of our own Parquet files, a row group at most at a time."""
    with open_file(path) as file:
        yield from file.iter_batches(_BLOCK_ROWS, use_threads=False)


def column_order(path: Path) -> tuple[str, ...]:
    """The columns of one of our own files, in its order; nothing if it is not there: that is for its readers to say."""
    try:
        return tuple(pq.read_schema(path).names)
    except BROKEN:
        return ()


def repeats_keys(path: Path, keys: Sequence[str]) -> bool:
    """Whether two rows of a file have the same values in all of ``keys``."""
    with open_file(path) as file:
        kinds = [file.schema_arrow.field(key).type for key in keys]
        if len(keys) == 1 and pa.types.is_integer(kinds[0]):
            ascent, batches = _Ascent(), file.iter_batches(_BLOCK_ROWS, columns=list(keys), use_threads=False)
            if all(ascent.see(batch.column(0)) for batch in batches):
                return False
    if all(pa.types.is_primitive(kind) for kind in kinds):
        # Numbers are hashed in no time, and what has no two equal hashes has no two equal rows.
        batches = row_hashes.read_batches(path, keys)
        hashes = np.concatenate([np.zeros(0, np.uint64), *(hash_rows(batch, keys) for batch in batches)])
        hashes.sort()
        if not (hashes[1:] == hashes[:-1]).any():
            return False
    table = pq.read_table(path, columns=list(keys))
    return bool(table.group_by(list(keys), use_threads=False).aggregate([]).num_rows < table.num_rows)


class _Ascent:
    """Whether each value of a column of whole numbers is larger than that before it, as those that count rows are."""

    def __init__(self) -> None:
        self.holds, self._before = True, None

    def see(self, values: pa.Array) -> bool:
        """Take the next values; whether it still holds."""
        if not self.holds or not len(values):
            return self.holds
        larger = pc.less(values.slice(0, len(values) - 1), values.slice(1))
        first = self._before is None or pc.less(self._before, values[0]).as_py()
        self.holds = bool(first and not values.null_count and pc.all(larger).as_py())
        self._before = values[-1]
        return self.holds


def same_rows(one: Path, other: Path) -> bool:
    """Whether two files hold the same columns and rows in the same order; their bytes may differ by who wrote them."""
    return pq.read_metadata(one).num_rows == pq.read_metadata(other).num_rows and begins_with(one, other)


def begins_with(path: Path, before: Path) -> bool:
    """Whether a file has the columns of another, and its rows at the beginning."""
    schema, rest = pq.read_schema(before), pq.read_metadata(before).num_rows
    if not pq.read_schema(path).equals(schema) or pq.read_metadata(path).num_rows < rest:
        return False
    for new, old in zip(_blocks(read_batches(path), schema), _blocks(read_batches(before), schema), strict=False):
        if not new.slice(0, old.num_rows).equals(old):
            return False
    return True


def _common_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    different: list[pa.Schema] = []
    for schema in schemas:
        if not any(schema.equals(other) for other in different):
            different.append(schema.remove_metadata())
    return pa.unify_schemas(different, promote_options="permissive")


def _blocks(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows in blocks of a fixed number of rows, in ``schema``."""
    held: list[pa.Table] = []
    count = 0
    for batch in batches:
        table = _cast_table(pa.Table.from_batches([batch]), schema)
        while table.num_rows:
            part = table.slice(0, _BLOCK_ROWS - count)
            held.append(part)
            count += part.num_rows
            table = table.slice(part.num_rows)
            if count == _BLOCK_ROWS:
                yield pa.concat_tables(held).combine_chunks()
                held, count = [], 0
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _cast_table(table: pa.Table, schema: pa.Schema) -> pa.Table:
    if table.schema.equals(schema):
        return table
    columns = [
        table.column(f.name).cast(f.type) if f.name in table.column_names else pa.nulls(table.num_rows, f.type)
        for f in schema
    ]
    return pa.Table.from_arrays([pa.chunked_array(c) if isinstance(c, pa.Array) else c for c in columns], schema=schema)


def _groups(blocks: Iterator[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Blocks as row groups. Where one ends depends on the rows alone, so that the bytes do."""
    held: list[pa.Table] = []
    size = rows = 0
    for block in blocks:
        held.append(block)
        size, rows = size + _plain_size(block), rows + block.num_rows
        if size >= _GROUP_BYTES or rows >= _GROUP_ROWS:
            yield pa.concat_tables(held)
            held, size, rows = [], 0, 0
    # A file without rows has its columns all the same.
    yield pa.concat_tables(held) if held else schema.empty_table()


def _plain_size(block: pa.Table) -> int:
    """Bytes of the values, however Arrow happens to keep them."""
    size = 0
    for column in block.columns:
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            size += pc.sum(pc.binary_length(column)).as_py() or 0
        size += block.num_rows * (kind.bit_width // 8 if pa.types.is_primitive(kind) else 8)
    return size


def _has_value(column: pa.Array | pa.ChunkedArray) -> bool:
    if column.null_count == len(column):
        return False
    if pa.types.is_floating(column.type):
        first = column[0].as_py()
        if first is not None and first == first:
            return True
        return bool(pc.any(pc.invert(pc.is_nan(column)), skip_nulls=True).as_py())
    return True
