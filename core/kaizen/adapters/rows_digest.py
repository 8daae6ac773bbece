"""A digest of rows as they stream by: the same for the same rows in the same order, wherever batches were cut."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kaizen.canonical import digest


class RowsDigest:
    """Of each column three hashes grow: of which rows have a value, of the values' lengths, and of their bytes."""

    def __init__(self) -> None:
        self._columns: dict[str, tuple[Any, Any, Any]] = {}
        self._rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the rows of a batch."""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name not in self._columns:
                self._columns[name] = (hashlib.sha256(), hashlib.sha256(), hashlib.sha256())
                # A column that comes later had no values before.
                self._columns[name][0].update(b"\0" * self._rows)
            present, lengths, values = self._columns[name]
            present.update(column.is_valid().cast(pa.uint8()).to_numpy().tobytes())
            _add(column.drop_null(), lengths, values)
        self._rows += batch.num_rows

    def hexdigest(self) -> str:
        """sha256 of all rows so far."""
        return digest({name: [part.hexdigest() for part in parts] for name, parts in self._columns.items()})


def _add(column: pa.Array, lengths: Any, values: Any) -> None:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        lengths.update(pc.binary_length(column).cast(pa.int64()).to_numpy().tobytes())
        values.update(b"".join(column.cast(pa.binary()).to_pylist()))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values.update(column.to_numpy(zero_copy_only=False).tobytes())
    elif pa.types.is_timestamp(kind) or pa.types.is_date64(kind):
        values.update(column.cast(pa.int64()).to_numpy().tobytes())
    else:
        for value in column.to_pylist():
            values.update(repr(value).encode() + b"\0")
