"""Files as streams of Arrow batches: Parquet, CSV, JSON lines, Arrow; packed or not; never whole in memory.

Text formats are read twice: once to find each column's type over *all* rows, once for the rows. So a column's type does
not depend on where a block ends.
"""

from __future__ import annotations

import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.ipc
import pyarrow.json as pjson
import pyarrow.parquet as pq

from kaizen.adapters.schemas import TYPES, conform, first_offender, widen
from kaizen.codec import nearest
from kaizen.errors import DataRefused
from kaizen.privacy import parser_message
from kaizen.sources import Wanted, format_of, unpacked_name

BATCH = 4 << 20
"""Bytes of a batch, about: what is in memory of a table at a time."""
_BLOCK = 4 << 20
_MAX_COLUMNS = 10_000
_SHOWN = 5
"""Of many, so many are named."""
_MISSING = ["", "NA", "N/A", "#N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>"]
_UNPACKING = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError)
BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What Arrow raises of a file that is none."""
_BAD_ROW = re.compile(r"(Row #(?P<row>\d+): )?Expected (?P<expected>\d+) columns, got (?P<found>\d+)")
_BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_file(path: Path, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """The rows of a delivered file in the columns and types that are ``wanted``.

    Raises ``DataRefused``: KZ401 empty file, KZ402 not what its name says or damaged, KZ403 missing columns,
    KZ404 a column name twice, KZ460 values of another type, KZ464 expands too far.
    """
    if path.stat().st_size == 0:
        raise DataRefused(
            "KZ401",
            "file has 0 bytes",
            where=wanted.where,
            value="0 bytes",
            limit="a whole file",
            action="deliver the file again",
        )
    yield from _READERS[format_of(wanted.where, wanted.format)](path, wanted)


# Parquet and Arrow: the file knows its types.


def _read_parquet(path: Path, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"PAR1":
        raise damaged(wanted, f"first bytes are {magic!r}", "Parquet, which begins with b'PAR1'")
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 18) as file:
            names = choose(file.schema_arrow.names, wanted)
            batches = file.iter_batches(batch_rows(file), columns=names, use_threads=False)
            yield from _conformed(batches, names, wanted)
    except BROKEN:
        size = path.stat().st_size
        raise damaged(wanted, f"{size} bytes, no readable footer or pages", "a whole Parquet file") from None


def batch_rows(file: pq.ParquetFile) -> int:
    """How many rows of a file make a batch."""
    facts = file.metadata
    size: int = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
    return max(1, min(1 << 16, BATCH * int(facts.num_rows) // max(1, size)))


def _read_arrow(path: Path, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    try:
        with pa.memory_map(str(path)) as file:
            head = bytes(file.read(6))
            file.seek(0)
            if head == b"ARROW1":
                reader = pyarrow.ipc.open_file(file)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                reader = pyarrow.ipc.open_stream(file)
                batches = iter(reader)
            yield from _conformed(batches, choose(reader.schema.names, wanted), wanted)
    except BROKEN:
        raise damaged(wanted, f"{path.stat().st_size} bytes, not readable to the end", "a whole Arrow file") from None


def _conformed(batches: Iterator[pa.RecordBatch], names: list[str], wanted: Wanted) -> Iterator[pa.RecordBatch]:
    first = 1
    for batch in batches:
        found = batch.select(names)
        # Offsets that lead nowhere and text that is none would be found by whoever reads the rows.
        found.validate(full=True)
        chosen = conform(found, wanted, first)
        first += batch.num_rows
        # A stranger's batches may be as large as their file.
        step = max(1, batch.num_rows * BATCH // max(1, batch.nbytes))
        yield from (chosen.slice(at, step) for at in range(0, chosen.num_rows, step))


def read_tables(tables: Iterator[Any], wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """Tables in memory (pandas, Polars, Arrow: whatever gives an Arrow stream), one after the other, as batches.

    Raises ``DataRefused`` KZ469 for anything else.
    """
    for table in tables:
        if not hasattr(table, "__arrow_c_stream__"):
            raise DataRefused(
                "KZ469",
                "not a table",
                where=wanted.where,
                value=type(table).__name__,
                limit="pandas, Polars, Arrow or another table that gives an Arrow stream",
                action="use a dataset that loads a table",
            )
        reader = pa.RecordBatchReader.from_stream(table)
        names = [name for name in choose(reader.schema.names, wanted) if name != "__index_level_0__"]
        yield from _conformed(reader, names, wanted)


# CSV and JSON lines: the types are found.


def _read_csv(path: Path, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    names = choose(_csv_names(path, wanted), wanted)
    types = _find_types(_csv_batches(path, wanted, dict.fromkeys(names, pa.string())), names, wanted)
    yield from _csv_batches(path, wanted, types)


def _csv_names(path: Path, wanted: Wanted) -> list[str]:
    with _unpacked(path, wanted) as stream:
        # Byte by byte it would be slow; a header of more than a block is none.
        head = stream.read(_BLOCK)
    bom = next((name for mark, name in _BOMS.items() if head.startswith(mark)), "")
    if bom and wanted.encoding == "utf-8":
        raise damaged(wanted, f"not UTF-8 at byte 0: the mark of {bom}", _encoding_limit(wanted))
    try:
        lines = head.decode(wanted.encoding, "replace").splitlines()
        header = lines[0].encode() if lines else b""
        names = pcsv.read_csv(io.BytesIO(header + b"\n"), pcsv.ReadOptions(block_size=_BLOCK)).schema.names
    except pa.ArrowException:
        raise damaged(wanted, "no header", "column names in the first line") from None
    if len(names) > _MAX_COLUMNS:
        raise damaged(wanted, f"{len(names)} columns", f"at most {_MAX_COLUMNS} columns")
    return list(names)


def _csv_batches(path: Path, wanted: Wanted, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    with _unpacked(path, wanted) as stream:
        try:
            reader = pcsv.open_csv(
                stream,
                pcsv.ReadOptions(use_threads=False, block_size=_BLOCK, encoding=wanted.encoding),
                pcsv.ParseOptions(newlines_in_values=True),
                pcsv.ConvertOptions(
                    column_types=dict(types),
                    include_columns=list(types),
                    null_values=_MISSING,
                    strings_can_be_null=True,
                ),
            )
            yield from reader
        except UnicodeDecodeError as error:
            raise damaged(wanted, f"not {wanted.encoding}: {error.reason}", _encoding_limit(wanted)) from None
        except (pa.ArrowException, *_UNPACKING) as error:
            # Not from the error: a traceback would show the row that it quotes.
            raise _bad_csv(path, wanted, error) from None


def _bad_csv(path: Path, wanted: Wanted, error: BaseException) -> DataRefused:
    """Why a CSV file cannot be read: never with the row, which may hold what is private."""
    if isinstance(error, DataRefused):
        return error
    if row := _BAD_ROW.search(str(error)):
        # The parser counts the header.
        found = f"a row of {row['found']} columns" + (f", row {int(row['row']) - 1}" if row["row"] else "")
        return damaged(wanted, found, f"{row['expected']} columns in each row")
    if "UTF8" in str(error) or "UTF-8" in str(error):
        return damaged(wanted, f"not UTF-8 at byte {_bad_byte(path, wanted)}", _encoding_limit(wanted))
    if isinstance(error, pa.ArrowException):
        return damaged(wanted, parser_message(error), "a whole CSV file")
    return damaged(wanted, _told(error), "a whole CSV file")


def _bad_byte(path: Path, wanted: Wanted) -> int:
    at = 0
    with _unpacked(path, wanted) as stream:
        rest = b""
        while block := stream.read(_BLOCK):
            data = rest + block
            try:
                data.decode()
                rest = b""
            except UnicodeDecodeError as error:
                # The end of a block may cut a character.
                if error.end < len(data) or len(data) - error.start > 3:
                    return at + error.start
                rest = data[error.start :]
            at += len(data) - len(rest)
    return at


def _read_json_lines(path: Path, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    names: dict[str, None] = {}
    found: dict[str, pa.DataType] = {}
    for table in _json_tables(path, wanted, None):
        names |= dict.fromkeys(table.column_names)
        for name in table.column_names:
            found[name] = widen(found.get(name), table.schema.field(name).type)
    chosen = choose(list(names), wanted)
    schema = pa.schema([(name, _json_type(found[name], TYPES.get(wanted.types.get(name, "")))) for name in chosen])
    batches = (b for t in _json_tables(path, wanted, schema) for b in t.select(chosen).combine_chunks().to_batches())
    yield from _conformed(batches, chosen, wanted)


def _json_type(found: pa.DataType, expected: pa.DataType | None) -> pa.DataType:
    """The type to read a field in: texts may look like times and be none."""
    return pa.string() if pa.types.is_temporal(found) and expected == pa.string() else found


def _json_tables(path: Path, wanted: Wanted, schema: pa.Schema | None) -> Iterator[pa.Table]:
    """Blocks of lines as tables; fields beyond ``schema`` are left out."""
    beyond = "ignore" if schema else "infer"
    options = pjson.ParseOptions(explicit_schema=schema, unexpected_field_behavior=beyond)
    first, at = 1, 0
    with _unpacked(path, wanted) as stream:
        for block in _line_blocks(stream, wanted):
            try:
                # The parser does not look.
                block.decode()
                table = pjson.read_json(
                    pa.BufferReader(block), pjson.ReadOptions(use_threads=False, block_size=len(block) + 1), options
                )
            except UnicodeDecodeError as error:
                raise damaged(wanted, f"not UTF-8 at byte {at + error.start}", "UTF-8 text") from None
            except pa.ArrowException as error:
                found = f"{parser_message(error)}, of the block from row {first} on"
                raise damaged(wanted, found, "one JSON object per line, each field of one type") from None
            first, at = first + table.num_rows, at + len(block)
            yield table


def _line_blocks(stream: Stream, wanted: Wanted) -> Iterator[bytes]:
    rest = b""
    try:
        while block := stream.read(_BLOCK):
            cut = block.rfind(b"\n") + 1
            if cut:
                yield rest + block[:cut]
            rest = block[cut:] if cut else rest + block
            if len(rest) > 16 * _BLOCK:
                raise damaged(wanted, f"a line of more than {len(rest)} bytes", "one JSON object per line")
    except _UNPACKING as error:
        raise damaged(wanted, _told(error), "a whole file") from error
    if rest.strip():
        yield rest


_READERS: dict[str, Callable[[Path, Wanted], Iterator[pa.RecordBatch]]] = {
    "parquet": _read_parquet,
    "arrow": _read_arrow,
    "csv": _read_csv,
    "jsonl": _read_json_lines,
}


# Types.

_GUESSES = (pa.int64(), pa.float64(), pa.bool_(), pa.date32(), pa.timestamp("us", "UTC"), pa.timestamp("us"))


def _find_types(batches: Iterator[pa.RecordBatch], names: list[str], wanted: Wanted) -> dict[str, pa.DataType]:
    """The type of each column: the expected one (or wider), else the first guess that all values fit, else text.

    Raises ``DataRefused`` KZ460 with the first value that is not of the expected type.
    """
    expected = {name: TYPES.get(wanted.types.get(name, "")) for name in names}
    open_ = {name: _first_guesses(expected[name]) for name in names}
    seen = dict.fromkeys(names, False)
    row = 1
    for batch in batches:
        for name in names:
            column = batch.column(name)
            seen[name] = seen[name] or column.null_count < len(column)
            kept = [kind for kind in open_[name] if _fits(column, kind)]
            if not kept and expected[name] is not None:
                raise first_offender(column, expected[name], name, row, wanted)
            open_[name] = kept
        row += batch.num_rows
    empty = {name for name in names if not seen[name] and expected[name] is None}
    return {n: pa.null() if n in empty else open_[n][0] if open_[n] else pa.string() for n in names}


def _first_guesses(expected: pa.DataType | None) -> list[pa.DataType]:
    if expected is None:
        return list(_GUESSES)
    # A column of whole numbers may turn out to have fractions.
    return [expected, pa.float64()] if expected == pa.int64() else [expected]


def _fits(column: pa.Array, kind: pa.DataType) -> bool:
    if pa.types.is_string(kind):
        return True
    try:
        pc.cast(pc.utf8_trim_whitespace(column), kind)
    except pa.ArrowException:
        return False
    return True


# Names, packing, refusals.


def choose(names: list[str], wanted: Wanted) -> list[str]:
    """Which of a file's columns are taken, in which order. Raises ``DataRefused`` KZ403, KZ404."""
    twice = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
    if twice:
        places = {n: [i + 1 for i, name in enumerate(names) if name == n][:_SHOWN] for n in twice[:_SHOWN]}
        at = "; ".join(f"{n[:40]} at {', '.join(map(str, found))}" for n, found in places.items())
        raise DataRefused(
            "KZ404",
            "column name appears twice",
            where=wanted.where,
            value=at,
            limit="each name once",
            action="rename one of them at the source",
        )
    check_columns(names, (*wanted.columns, *wanted.needed), wanted.where)
    if wanted.columns:
        return list(wanted.columns)
    # By name, not by place: in the order that the table had before.
    known = [n for n in wanted.order if n in names]
    return [*known, *(n for n in names if n not in wanted.order)]


def check_columns(names: list[str], needed: tuple[str, ...], where: str) -> None:
    """Raise ``DataRefused`` (KZ403) naming all columns of ``needed`` that are not there, with the nearest names."""
    missing = list(dict.fromkeys(c for c in needed if c not in names))
    if not missing:
        return
    hints = [f"{c} (nearest: {near})" if (near := nearest(c, names)) else c for c in missing]
    raise DataRefused(
        "KZ403",
        "column is missing",
        where=where,
        value=", ".join(hints),
        limit="columns " + ", ".join(dict.fromkeys(needed)),
        action="deliver the column, or correct the name in kaizen.yml",
    )


@contextmanager
def _unpacked(path: Path, wanted: Wanted) -> Iterator[Stream]:
    """The bytes of a file as its format has them; a bomb goes off against a limit."""
    packing = unpacked_name(wanted.where)[1]
    with ExitStack() as opened:
        try:
            if packing == "zip":
                yield _Bounded(opened.enter_context(_zip_member(path, wanted)), wanted)
            elif packing == "gz":
                yield _Bounded(opened.enter_context(gzip.open(path)), wanted)
            elif packing == "zst":
                raw = opened.enter_context(pa.OSFile(str(path)))
                yield _Bounded(opened.enter_context(pa.CompressedInputStream(raw, "zstd")), wanted)
            else:
                yield opened.enter_context(path.open("rb"))
        except _UNPACKING as error:
            raise damaged(wanted, _told(error), "a whole packed file") from error


@contextmanager
def _zip_member(path: Path, wanted: Wanted) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir()]
        if len(members) != 1:
            raise damaged(wanted, f"{len(members)} files in the archive", "one file in an archive")
        # The directory says how large it will be; a directory that lies meets the limit while it is read.
        if members[0].file_size > wanted.max_expanded:
            raise expands(wanted, f"{members[0].file_size} bytes by its directory")
        with archive.open(members[0]) as stream:
            yield stream


Stream = IO[bytes] | io.RawIOBase


class _Bounded(io.RawIOBase):
    """A stream that refuses to give more bytes than a packed file may become."""

    def __init__(self, stream: Any, wanted: Wanted) -> None:
        super().__init__()
        self._stream, self._wanted, self._given = stream, wanted, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        data: bytes = self._stream.read(size if size is not None and size >= 0 else _BLOCK)
        self._given += len(data)
        if self._given > self._wanted.max_expanded:
            raise expands(self._wanted, f"more than {self._wanted.max_expanded} bytes")
        return data


def expands(wanted: Wanted, value: str) -> DataRefused:
    """The refusal of a packed file that becomes too large."""
    return DataRefused(
        "KZ464",
        "packed file expands too far",
        where=wanted.where,
        value=value,
        limit=f"{wanted.max_expanded} bytes (max_expanded of the table)",
        action="if the file is what it should be, raise max_expanded",
    )


def damaged(wanted: Wanted, value: str, limit: str) -> DataRefused:
    """The refusal of a file that is not what its name says."""
    return DataRefused(
        "KZ402",
        "file is not what its name says, or is cut",
        where=wanted.where,
        value=value,
        limit=limit,
        action="deliver the whole file again under a temporary name and rename it when it is complete",
    )


def _encoding_limit(wanted: Wanted) -> str:
    return f"{wanted.encoding} text; another is named by encoding of the table"


def _told(error: BaseException) -> str:
    """An error of unpacking in one line: these speak of the packing, never of what is packed."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]
