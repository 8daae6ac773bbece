"""The members of an acceptance set, taken out of a partition batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kaizen.records import Input
from kaizen.splits import by_hash
from kaizen.store import Store

_ROWS = 65_536
"""Rows in memory at a time."""


def keep_members(store: Store, item: Input, columns: Sequence[str], share: float, salt: str) -> tuple[str, int]:
    """Keep the rows of ``item`` whose key hashes into ``share``; address and number of rows.

    The same rows always give the same bytes, and so the same address.
    """
    rows = 0

    def write(path: Path) -> None:
        nonlocal rows
        with (
            pq.ParquetFile(store.file(item.address)) as source,
            pq.ParquetWriter(path, source.schema_arrow, compression="zstd") as target,
        ):
            for batch in source.iter_batches(_ROWS):
                held = by_hash(batch.to_pandas(), columns, share=share, salt=salt)
                kept = batch.filter(pa.array(held, pa.bool_()))
                rows += kept.num_rows
                target.write_batch(kept)

    return store.put_file(f"acceptance/{item.table}/{item.partition}", write), rows
