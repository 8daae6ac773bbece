"""The members of an acceptance set, taken out of a partition batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kaizen.splits import by_hash

_ROWS = 65_536
"""Rows in memory at a time."""


def write_members(source: Path, target: Path, columns: Sequence[str], share: float, salt: str) -> int:
    """Write the rows of ``source`` whose key hashes into ``share``; how many they are.

    The same rows always give the same bytes.
    """
    rows = 0
    with (
        pq.ParquetFile(source) as partition,
        pq.ParquetWriter(target, partition.schema_arrow, compression="zstd") as members,
    ):
        for batch in partition.iter_batches(_ROWS):
            held = by_hash(batch.to_pandas(), columns, share=share, salt=salt)
            kept = batch.filter(pa.array(held, pa.bool_()))
            rows += kept.num_rows
            members.write_batch(kept)
    return rows
