"""The detector: which columns of a stream of Arrow batches look private.

It looks at a few rows of each batch and keeps at most ``SAMPLE`` different values of a column in memory, chosen by
their checksum: the same rows give the same sample, however long the stream is.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from kaizen.identifiers import read
from kaizen.privacy import Suspicion, judge

SAMPLE = 1_000
"""Different values that are kept of a column."""
ROWS, LATER_ROWS, FIRST = 256, 32, 4
"""Rows of a batch that are looked at, evenly spaced: more of the first few batches."""
CHARACTERS = 500
"""Of a text that are looked at."""


class Detector:
    """``look`` at batches, and ask for ``suspicions`` whenever they are wanted.

    Args:
        known: columns that are not looked at, because they are declared private or public.
        rows: of each of the first few batches.
    """

    def __init__(self, known: Collection[str] = (), *, rows: int = ROWS) -> None:
        self._known, self._rows, self._batches = frozenset(known), rows, 0
        self._samples: dict[str, _Sample] = {}

    def look(self, batch: pa.RecordBatch) -> None:
        """Take the values of some rows into the sample."""
        some = _spaced(len(batch), self._rows if self._batches < FIRST else LATER_ROWS)
        self._batches += 1
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            if name in self._known:
                continue
            if _begins_with_fraction(values):
                continue
            sample = self._samples.setdefault(name, _Sample())
            for leaves in _leaves(values if some is None else values.take(some)):
                for text in _texts(leaves):
                    sample.add(text)

    def suspicions(self) -> list[Suspicion]:
        """What the values so far tell, by column; the sure ones first."""
        found = [
            s
            for name, sample in self._samples.items()
            if sample.readings
            for s in judge(name, len(sample), sample.readings)
        ]
        return sorted(found, key=lambda suspicion: not suspicion.sure)


def few_rows(batch: pa.RecordBatch, number: int) -> pa.RecordBatch:
    """Those rows of a stream's batch ``number``, from 0, that a detector looks at at most."""
    some = _spaced(len(batch), ROWS if number < FIRST else LATER_ROWS)
    return batch if some is None else batch.take(some)


def _spaced(count: int, most: int) -> pa.Array | None:
    """The places of ``most`` of ``count`` rows, evenly spaced; None if that is all of them."""
    step = -(-count // most)
    return pa.array(range(0, count, step), pa.int64()) if step > 1 else None


class _Sample:
    """The ``SAMPLE`` different values with the smallest checksums, and what was read in those that say something."""

    def __init__(self) -> None:
        self.readings: dict[str, dict[str, str]] = {}
        self._values: set[str] = set()
        self._largest: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._values)

    def add(self, text: str) -> None:
        if text in self._values:
            return
        entry = (-zlib.crc32(text.encode(errors="replace")), text)
        if len(self._largest) < SAMPLE:
            heapq.heappush(self._largest, entry)
        elif entry > self._largest[0]:
            _, out = heapq.heapreplace(self._largest, entry)
            self._values.remove(out)
            self.readings.pop(out, None)
        else:
            return
        self._values.add(text)
        if found := read(text):
            self.readings[text] = found


def _begins_with_fraction(values: pa.Array) -> bool:
    """Whether the first value says already that the column holds no whole numbers."""
    first = values[0].as_py() if len(values) and pa.types.is_floating(values.type) else None
    return first is not None and bool(abs(first) < 2**53 and first % 1)


def _leaves(values: pa.Array) -> Iterator[pa.Array]:
    """The plain values inside lists and mappings; what is private in one is private in its column."""
    kind = values.type
    if pa.types.is_struct(kind):
        for inner in values.flatten():
            yield from _leaves(inner)
    elif pa.types.is_map(kind):
        yield from _leaves(values.keys)
        yield from _leaves(values.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(values.flatten())
    else:
        yield values


def _texts(values: pa.Array) -> Iterator[str]:
    """Texts and whole numbers as they would be written; others are no identifiers."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.dictionary_decode(), kind.value_type
    if pa.types.is_floating(kind):
        # Whole numbers with a gap are floats in many files; a column with a fraction is none of them.
        whole = pc.fill_null(pc.equal(pc.floor(values), values), True)
        if not pc.all(whole).as_py():
            return
        values = pc.if_else(pc.less(pc.abs(values), 2**53), values, None).cast(pa.int64())
    elif not (
        pa.types.is_integer(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
    ):
        return
    for value in values.to_pylist()[: ROWS * 4]:
        text = str(value)[:CHARACTERS].strip()
        if value is not None and text:
            yield text
