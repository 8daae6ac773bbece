"""How many rows two versions' files differ by, in memory that does not grow with them.

Each file is read once. The hashes of its rows (``row_hashes``), 16 bytes a row, are cut by their keys into parts that
lie in a scratch folder; then part after part is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kaizen.adapters.row_hashes import hash_rows, hash_values, read_batches

AT_ONCE = 1 << 21
"""Rows of both files whose hashes are compared at a time, about."""
LOOKED_INTO = 1 << 17
"""Changed rows that are looked into column by column."""


@dataclass(frozen=True)
class RowChanges:
    """What became of rows. Without keys nothing can be recognised again: what changed is removed and added.

    Attributes:
        columns: in how many of the changed rows each column is another, most first; estimated from 131,072 of them if
            there are more.
    """

    same: int
    added: int
    removed: int
    changed: int
    columns: dict[str, int] = field(default_factory=dict)


def count_changes(
    before: Path, after: Path, keys: Sequence[str], scratch: Path, *, at_once: int = AT_ONCE
) -> RowChanges:
    """Compare the rows of two files over the columns that both have.

    Args:
        keys: columns that identify a row; they are used if both files have all of them. Rows that share their keys are
            compared as a multiset.
        scratch: an empty folder.
    """
    names = [set(pq.read_schema(path).names) for path in (before, after)]
    columns = sorted(names[0] & names[1])
    keys = tuple(keys) if keys and set(keys) <= set(columns) else tuple(columns)
    rows = [pq.read_metadata(path).num_rows for path in (before, after)]
    parts = max(1, -(-sum(rows) // at_once))
    for name, path in (("before", before), ("after", after)):
        _spill(path, keys, columns, scratch / name, parts)
    removed = added = changed = 0
    touched: list[np.ndarray] = []
    for part in range(parts):
        old, new = (np.fromfile(scratch / f"{name}.{part}", np.uint64).reshape(-1, 2) for name in ("before", "after"))
        lost, came = _surplus(old, new), _surplus(new, old)
        both = _shared(lost, came)
        removed, added, changed = (
            removed + len(lost) - len(both),
            added + len(came) - len(both),
            changed + len(both),
        )
        touched.append(both)
    found = _by_column(before, after, keys, [c for c in columns if c not in keys], np.unique(np.concatenate(touched)))
    return RowChanges(rows[0] - removed - changed, added, removed, changed, found)


def _spill(path: Path, keys: Sequence[str], columns: Sequence[str], target: Path, parts: int) -> None:
    """Write pairs of hashes, of key and row, to ``target.PART``, by what the key leaves when divided by ``parts``."""
    with ExitStack() as stack:
        files = [stack.enter_context(target.with_name(f"{target.name}.{part}").open("wb")) for part in range(parts)]
        for batch in read_batches(path, columns):
            key = hash_rows(batch, keys)
            pairs = np.stack([key, key if tuple(keys) == tuple(columns) else hash_rows(batch, columns)], axis=1)
            part_of = key % np.uint64(parts)
            for part, file in enumerate(files):
                pairs[part_of == part].tofile(file)


def _surplus(pairs: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The keys of those rows that are not among ``others``; of equal rows as many as there are too many."""
    # Most rows of two versions are the same: only what is left of them need be counted. NumPy's other way than by
    # sorting overflows with large numbers before 2.1.
    left = pairs[~np.isin(pairs[:, 1], others[:, 1], kind="sort")]
    twice = _repeated(pairs, others)
    return np.concatenate([left[:, 0], twice])


def _repeated(pairs: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The keys of rows that both have, once for each time that ``pairs`` has them more often."""
    values, first, counts = np.unique(pairs[:, 1], return_index=True, return_counts=True)
    if len(values) == len(pairs):
        return np.zeros(0, np.uint64)
    there, times = np.unique(others[:, 1], return_counts=True)
    _, mine, theirs = np.intersect1d(values, there, assume_unique=True, return_indices=True)
    return np.repeat(pairs[first[mine], 0], np.maximum(counts[mine] - times[theirs], 0))


def _shared(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Keys of both, each as often as it can be paired."""
    found, ours = np.unique(left, return_counts=True)
    there, theirs = np.unique(right, return_counts=True)
    common, a, b = np.intersect1d(found, there, assume_unique=True, return_indices=True)
    return np.repeat(common, np.minimum(ours[a], theirs[b]))


def _by_column(
    before: Path, after: Path, keys: Sequence[str], columns: Sequence[str], touched: np.ndarray
) -> dict[str, int]:
    """In how many of the rows with the keys ``touched`` (sorted) each column is another."""
    if not len(touched) or not columns:
        return {}
    # The smallest hashes are a simple random sample.
    looked = touched[:LOOKED_INTO]
    old, new = (_hashes_of(path, keys, columns, looked) for path in (before, after))
    _, a, b = np.intersect1d(old[0], new[0], return_indices=True)
    differing = (old[1][a] != new[1][b]).sum(axis=0) * (len(touched) / len(looked))
    counts = {c: round(float(n)) for c, n in zip(columns, differing, strict=True) if n}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _hashes_of(
    path: Path, keys: Sequence[str], columns: Sequence[str], wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of the n rows with a key that is ``wanted``: n hashes of keys, and n by m hashes of ``columns``."""
    found, values = [np.zeros(0, np.uint64)], [np.zeros((0, len(columns)), np.uint64)]
    for batch in read_batches(path, [*keys, *columns]):
        key = hash_rows(batch, keys)
        hit = np.isin(key, wanted, kind="sort")
        if hit.any():
            rows = batch.filter(pa.array(hit))
            found.append(key[hit])
            values.append(np.stack([hash_values(rows.column(c)) for c in columns], axis=1))
    return np.concatenate(found), np.concatenate(values)
