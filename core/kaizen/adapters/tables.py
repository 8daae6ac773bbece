"""Tables as pandas frames: what the stages behind ingest work on, one partition at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kaizen.adapters.landing import Cut


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """``frame`` as Parquet; the same rows always give the same bytes."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(table, path, compression="zstd")


def read_parquet(path: Path) -> pd.DataFrame:
    """The rows of one of our own Parquet files."""
    return pq.read_table(path).to_pandas()


def read_columns(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Some columns of one of our own Parquet files; nothing else of it is read."""
    return pq.read_table(path, columns=list(columns)).to_pandas()


def cut_frames(batches: Iterator[pa.RecordBatch], cut: Cut) -> dict[str, pd.DataFrame]:
    """The rows of all batches by partition, sorted; their order is kept."""
    parts: dict[str, list[pa.RecordBatch]] = {}
    for batch in batches:
        for key, rows in cut(batch):
            parts.setdefault(key, []).append(rows)
    return {key: pa.Table.from_batches(rows).to_pandas() for key, rows in sorted(parts.items())}


def count_classes(values: Any) -> dict[str, int]:
    """Rows per class of a label column, nulls left out; keys as text."""
    counts = pd.Series(values).dropna().value_counts()
    return {str(key): int(n) for key, n in sorted(counts.items())}
