"""64-bit hashes of values and rows, by batches: equal values have equal hashes in any file, whatever its types.

Numbers are hashed by their value (``3`` and ``3.0`` are equal), times by the moment, texts by their UTF-8,
anything else by what it prints as. Null and NaN are one value: missing. Nobody is kept from making collisions on
purpose; by chance n rows have one with a probability of about n * n / 2**65.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 1 << 16

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
MISSING = np.uint64(0x5851F42D4C957F2D)
"""The hash of a value that is not there."""


def hash_rows(batch: pa.RecordBatch, columns: Sequence[str]) -> np.ndarray:
    """A hash per row of n rows over ``columns``, in that order, as n ``uint64``."""
    found = np.full(batch.num_rows, len(columns), dtype=np.uint64)
    for name in columns:
        found = _mix(found * _GOLDEN + hash_values(batch.column(name)))
    return found


def hash_values(values: pa.Array) -> np.ndarray:
    """A hash per value of n values, as n ``uint64``; see the module."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.dictionary_decode(), kind.value_type
    if pa.types.is_boolean(kind):
        values, kind = values.cast(pa.uint8()), pa.uint8()
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        hashed = _hash_nanoseconds(values.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False))
        return np.where(_nulls(values), MISSING, hashed) if values.null_count else hashed
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zone = getattr(kind, "tz", None)
        values, kind = values.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64()), pa.int64()
    if pa.types.is_integer(kind):
        hashed = _hash_whole(values.fill_null(0).to_numpy(zero_copy_only=False))
    elif pa.types.is_floating(kind):
        return _hash_floats(values.cast(pa.float64()).to_numpy(zero_copy_only=False))
    else:
        hashed = _hash_texts(values)
    return np.where(_nulls(values), MISSING, hashed) if values.null_count else hashed


def open_file(path: Path) -> pq.ParquetFile:
    """A Parquet file to be read in batches."""
    # Buffered ahead, what was read is held until the file is closed.
    return pq.ParquetFile(path, pre_buffer=False)


def read_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of one of our own Parquet files, 65,536 at a time."""
    with open_file(path) as file:
        yield from file.iter_batches(BATCH, columns=None if columns is None else list(columns))


def _nulls(values: pa.Array) -> np.ndarray:
    return np.asarray(values.is_null().to_numpy(zero_copy_only=False))


def _mix(bits: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): a bijection that maps 0 to 0."""
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return np.asarray(bits ^ (bits >> np.uint64(31)))


def _hash_floats(numbers: np.ndarray) -> np.ndarray:
    # Minus zero equals zero.
    hashed = _mix((numbers + 0.0).view(np.uint64))
    return np.where(np.isnan(numbers), MISSING, hashed)


def _hash_whole(numbers: np.ndarray) -> np.ndarray:
    """As the float of the same value; beyond 2**53 what the float leaves out counts, too."""
    nearest = numbers.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        left_out = numbers.astype(np.uint64) - nearest.astype(numbers.dtype).astype(np.uint64)
    return _mix((nearest + 0.0).view(np.uint64) ^ _mix(left_out))


def _hash_nanoseconds(numbers: np.ndarray) -> np.ndarray:
    """As the microsecond of the same moment; what that leaves out counts, too."""
    micros, left_out = np.divmod(numbers, 1000)
    return np.asarray(_hash_whole(micros) ^ _mix(left_out.astype(np.uint64)))


def _hash_texts(values: pa.Array) -> np.ndarray:
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        values = pa.array([None if v is None else repr(v) for v in values.to_pylist()], pa.string())
    coded = values.dictionary_encode()
    known = np.array(coded.dictionary.to_pylist(), dtype=object)
    hashes = pd.util.hash_array(known, categorize=False) if len(known) else np.zeros(1, np.uint64)
    return np.asarray(hashes[coded.indices.fill_null(0).to_numpy(zero_copy_only=False)], dtype=np.uint64)
