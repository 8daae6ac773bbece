"""Tables as files: reading what lands, cutting it into partitions, writing Parquet.

pandas frames in memory; one partition at a time is what the loop needs.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kaizen.codec import nearest
from kaizen.errors import DataRefused

Partition = Literal["day", "month", "year"]

_FORMATS = {"day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}


def read_source(path: Path, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """The rows of a delivered file, by its suffix; ``columns`` selects and orders.

    Raises ``DataRefused``: KZ401 empty file, KZ402 not what its name says or damaged, KZ403 missing columns,
    KZ404 a column name twice.
    """
    if path.stat().st_size == 0:
        raise DataRefused(
            "KZ401",
            "file has 0 bytes",
            where=str(path),
            value="0 bytes",
            limit="a whole file",
            action="deliver the file again",
        )
    frame = _read_parquet_source(path) if path.suffix == ".parquet" else _read_csv_source(path)
    twice = sorted({str(c) for c in frame.columns[frame.columns.duplicated()]})
    if twice:
        raise DataRefused(
            "KZ404",
            "column name appears twice",
            where=str(path),
            value=", ".join(twice),
            limit="each name once",
            action="rename one of them at the source",
        )
    check_columns(frame, columns, str(path))
    return frame[list(columns)] if columns else frame


def check_columns(frame: pd.DataFrame, needed: tuple[str, ...], where: str) -> None:
    """Raise ``DataRefused`` (KZ403) naming all columns of ``needed`` that ``frame`` lacks, with the nearest names."""
    missing = [c for c in needed if c not in frame.columns]
    if not missing:
        return
    hints = [f"{c} (nearest: {near})" if (near := nearest(c, map(str, frame.columns))) else c for c in missing]
    raise DataRefused(
        "KZ403",
        "column is missing",
        where=where,
        value=", ".join(hints),
        limit="columns " + ", ".join(needed),
        action="deliver the column, or correct the name in kaizen.yml",
    )


def _read_parquet_source(path: Path) -> pd.DataFrame:
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"PAR1":
        raise _damaged(path, f"first bytes are {magic!r}", "Parquet, which begins with b'PAR1'")
    try:
        # Not read_table: it refuses a repeated name without saying so, and takes columns from the path.
        with pq.ParquetFile(path) as file:
            return file.read().to_pandas()
    except (pa.ArrowException, OSError) as error:
        size = path.stat().st_size
        raise _damaged(path, f"{size} bytes, no readable footer", "a whole Parquet file") from error


def _read_csv_source(path: Path) -> pd.DataFrame:
    try:
        header = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0]
        frame = pd.read_csv(path, engine="pyarrow", na_values=["NA"])
    except UnicodeDecodeError as error:
        raise _damaged(path, f"not UTF-8 at byte {error.start}", "UTF-8 text") from error
    except (ValueError, OSError, EOFError, zlib.error, BadZipFile, pa.ArrowException) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}".splitlines()[0][:120], "a whole CSV file") from error
    # Arrow hands out as bytes what is no text; only such columns are of objects.
    objects = [c for c in frame.columns if pd.api.types.is_object_dtype(frame[c])]
    binary = [c for c in objects if frame[c].map(type).eq(bytes).any()]
    if binary:
        raise _damaged(path, f"column {binary[0]} is not UTF-8", "UTF-8 text")
    # Pandas gives the second of two equal names a number.
    return frame.set_axis(list(header), axis="columns") if header.duplicated().any() else frame


def _damaged(path: Path, value: str, limit: str) -> DataRefused:
    return DataRefused(
        "KZ402",
        "file is not what its name says, or is cut",
        where=str(path),
        value=value,
        limit=limit,
        action="deliver the whole file again under a temporary name and rename it when it is complete",
    )


def with_time(frame: pd.DataFrame, timestamp: str, where: str) -> pd.DataFrame:
    """``frame`` with ``timestamp`` as UTC datetimes. Raises ``DataRefused`` (KZ405) naming the first bad row."""
    if isinstance(frame[timestamp].dtype, pd.DatetimeTZDtype):
        times = frame[timestamp].dt.tz_convert("UTC")
    else:
        times = pd.to_datetime(frame[timestamp], utc=True, errors="coerce", format="ISO8601")
    if times.isna().any():
        row = int(times.isna().to_numpy().argmax())
        raise DataRefused(
            "KZ405",
            "not a time",
            where=f"{where}: column {timestamp}, row {row + 1}",
            value=str(frame[timestamp].iloc[row])[:40],
            limit="ISO 8601 in every row",
            action="correct the row at the source",
        )
    return frame.assign(**{timestamp: times.astype("datetime64[us, UTC]")})


def split(frame: pd.DataFrame, timestamp: str, partition: Partition, zone: str) -> dict[str, pd.DataFrame]:
    """Rows by partition key (``2013-04`` for months), cut in the time zone ``zone``; keys sorted, row order kept."""
    keys = frame[timestamp].dt.tz_convert(zone).dt.strftime(_FORMATS[partition])
    return {str(key): rows.reset_index(drop=True) for key, rows in frame.groupby(keys, sort=True)}


def bounds(key: str, zone: str) -> tuple[pd.Timestamp, pd.Timestamp]:
    """First moment of a partition and first moment after it, in ``zone``."""
    period = pd.Period(key)
    start = pd.Timestamp(period.start_time).tz_localize(zone)
    return start, pd.Timestamp((period + 1).start_time).tz_localize(zone)


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """``frame`` as Parquet; the same rows always give the same bytes."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(table, path, compression="zstd")


def read_parquet(path: Path) -> pd.DataFrame:
    """The rows of one of our own Parquet files."""
    return pq.read_table(path).to_pandas()


def column_types(frame: pd.DataFrame) -> dict[str, str]:
    """Column name to pandas type name, in order."""
    return {str(name): str(dtype) for name, dtype in frame.dtypes.items()}


def count_classes(values: Any) -> dict[str, int]:
    """Rows per class of a label column, nulls left out; keys as text."""
    counts = pd.Series(values).dropna().value_counts()
    return {str(key): int(n) for key, n in sorted(counts.items())}
