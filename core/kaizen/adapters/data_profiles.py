"""Statistics of one version's file, in memory that does not grow with its rows.

Column after column is read in batches. Counts, extremes, mean and deviation are of all rows; quantiles and
distributions of a sample of at most 131,072 rows, the same for all columns and each time. A share in such a sample is
off by 0.14 percentage points at one standard error, at most.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kaizen.adapters.profiles import make_profile
from kaizen.adapters.row_hashes import BATCH, hash_rows, hash_values, open_file, read_batches
from kaizen.records import EXACTLY, Bin, ColumnKind, ColumnProfile, DataProfile, FeatureProfile, Profile

SAMPLE = 1 << 17
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BARS = 24
_TAIL = 0.005
"""Share of rows at each end that the first and the last bar of a distribution take in, however far they lie."""


def profile_file(path: Path, table: str, partition: str, data: str, private: Collection[str]) -> DataProfile:
    """The profile of one version's Parquet file. ``data`` is its address; of ``private`` columns only counts."""
    with open_file(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        picks = _picks(rows)
        columns = tuple(_profile_column(file, f, picks, f.name in private) for f in schema)
    return DataProfile(table, partition, data, rows, len(picks), columns)


def reference_profile(profile: DataProfile) -> Profile:
    """What the rows of another version are compared with: the sampled rows, by deciles and by categories."""
    features = tuple(
        FeatureProfile(c.column, c.kind == "number", _in_sample(profile, c), c.deciles or c.bins)
        for c in profile.columns
        if c.kind in ("number", "category")
    )
    return Profile(profile.sampled, features)


def count_in(path: Path, reference: Profile) -> Profile:
    """The sampled rows of a file in the bins of ``reference``; columns that the file lacks are left out."""
    with open_file(path) as file:
        schema, picks = file.schema_arrow, _picks(file.metadata.num_rows)
        names = [f.feature for f in reference.features if f.feature in schema.names]
        numeric = {f.feature for f in reference.features if f.numeric}
        # A column that was of numbers and is of texts now has no distribution in the old bins.
        alike = [n for n in names if (_kind(schema.field(n).type) == "number") == (n in numeric)]
        frame = pd.DataFrame({n: _drawable(_sample(file, n, picks), _kind(schema.field(n).type)) for n in alike})
    return make_profile(frame, reference) if alike else Profile(len(picks), ())


def sample_rows(path: Path) -> pd.DataFrame:
    """The sampled rows, whole."""
    with open_file(path) as file:
        picks = _picks(file.metadata.num_rows)
        if len(picks) == file.metadata.num_rows:
            return file.read().to_pandas()
        return pa.Table.from_batches(list(_taken(file, None, picks)), file.schema_arrow).to_pandas()


def matching_rows(path: Path, keys: tuple[str, ...], rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a file whose ``keys`` are those of one of ``rows``; the file is never whole in memory."""
    wanted = np.unique(hash_rows(pa.RecordBatch.from_pandas(rows[list(keys)], preserve_index=False), keys))
    found = [b.filter(pa.array(np.isin(hash_rows(b, keys), wanted))) for b in read_batches(path)]
    with open_file(path) as file:
        return pa.Table.from_batches(found, file.schema_arrow).to_pandas()


def _picks(rows: int) -> np.ndarray:
    """Which rows are the sample, sorted: simple random sampling without replacement, by a fixed seed."""
    if rows <= SAMPLE:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, SAMPLE, replace=False, shuffle=False))


def _taken(file: pq.ParquetFile, columns: list[str] | None, picks: np.ndarray) -> Iterator[pa.RecordBatch]:
    offset = 0
    for batch in file.iter_batches(BATCH, columns=columns):
        yield _take(batch, picks, offset)
        offset += batch.num_rows


def _take(values: Any, picks: np.ndarray, offset: int) -> Any:
    """The sampled ones of the array or batch that begins at row ``offset``."""
    first, last = np.searchsorted(picks, (offset, offset + len(values)))
    return values.take(pa.array(picks[first:last] - offset))


def _sample(file: pq.ParquetFile, column: str, picks: np.ndarray) -> pa.Array:
    return _joined([batch.column(0) for batch in _taken(file, [column], picks)], file.schema_arrow.field(column).type)


def _joined(pieces: list[pa.Array], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        pieces, kind = [p.dictionary_decode() for p in pieces], kind.value_type
    return pa.concat_arrays(pieces) if pieces else pa.array([], kind)


def _kind(kind: pa.DataType) -> ColumnKind:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_boolean(values)
    return "category" if texts else "other"


@dataclass
class _Moments:
    """Count, mean and sum of squares, merged as Chan, Golub & LeVeque (1979) do."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, numbers: np.ndarray) -> None:
        n = len(numbers)
        if not n:
            return
        mean = float(numbers.mean())
        shift, total = mean - self.mean, self.count + n
        self.squares += float(((numbers - mean) ** 2).sum()) + shift**2 * self.count * n / total
        self.mean += shift * n / total
        self.count = total

    @property
    def deviation(self) -> float | None:
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else None


@dataclass
class _Distinct:
    """How many different values: the k smallest hashes tell (Bar-Yossef et al. 2002; Beyer et al. 2007).

    Exact below k = 4,096; above, one standard error is 1.6 %.
    """

    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))

    def add(self, hashes: np.ndarray) -> None:
        if len(self.kept) == EXACTLY:
            hashes = hashes[hashes < self.kept[-1]]
        if len(hashes):
            self.kept = np.unique(np.concatenate([self.kept, hashes]))[:EXACTLY]

    def estimate(self) -> int:
        if len(self.kept) < EXACTLY:
            return len(self.kept)
        return round((EXACTLY - 1) / (float(self.kept[-1]) / 2.0**64))


@dataclass
class _Scan:
    """What all rows of a column come to."""

    missing: int = 0
    infinite: int = 0
    distinct: _Distinct = field(default_factory=_Distinct)
    moments: _Moments = field(default_factory=_Moments)
    low: Any = None
    high: Any = None
    sample: list[pa.Array] = field(default_factory=list)

    def add(self, values: pa.Array, kind: ColumnKind) -> None:
        present = values.drop_null()
        if kind == "number":
            numbers = _numbers(present)
            self.infinite += int(np.isinf(numbers).sum())
            missing = np.isnan(numbers)
            present = present.filter(pa.array(~missing)) if missing.any() else present
            numbers = numbers[np.isfinite(numbers)]
            self.moments.add(numbers)
            self._extend(numbers.min() if len(numbers) else None, numbers.max() if len(numbers) else None)
        elif kind == "time":
            found = pc.min_max(present)
            self._extend(found["min"].as_py(), found["max"].as_py())
        self.missing += len(values) - len(present)
        self.distinct.add(hash_values(present))

    def _extend(self, low: Any, high: Any) -> None:
        if low is not None:
            self.low = low if self.low is None else min(self.low, low)
            self.high = high if self.high is None else max(self.high, high)


def _profile_column(file: pq.ParquetFile, column: pa.Field, picks: np.ndarray, private: bool) -> ColumnProfile:
    kind, scan, offset = _kind(column.type), _Scan(), 0
    for batch in file.iter_batches(BATCH, columns=[column.name]):
        values = batch.column(0)
        scan.add(values, kind)
        scan.sample.append(_take(values, picks, offset))
        offset += len(values)
    named = str(column.type).removeprefix("large_")
    facts = (scan.missing, scan.distinct.estimate())
    if private:
        return ColumnProfile(column.name, named, "private", *facts)
    sample = _drawable(_joined(scan.sample, column.type), kind)
    drawn = _drawn(kind, sample, scan)
    return ColumnProfile(column.name, named, kind, *facts, scan.infinite, **drawn)


def _drawable(values: pa.Array, kind: ColumnKind) -> pd.Series:
    """Sampled values as they are counted: floats without infinities, times as seconds, texts."""
    if kind == "number":
        numbers = _numbers(values)
        return pd.Series(np.where(np.isinf(numbers), np.nan, numbers))
    if kind == "time":
        zone = getattr(values.type, "tz", None)
        moments = values.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
        return pd.Series(_numbers(moments) / 1e6)
    if kind == "category":
        return pd.Series(values.cast(pa.string()).to_pylist(), dtype=object)
    return pd.Series([None] * len(values), dtype=object)


def _drawn(kind: ColumnKind, sample: pd.Series, scan: _Scan) -> dict[str, Any]:
    """The fields of a ``ColumnProfile`` that hold values."""
    if kind == "category":
        return {"bins": make_profile(sample.to_frame("c")).features[0].bins}
    if kind == "other" or scan.low is None:
        return {"deciles": (Bin(None, 0),)} if kind == "number" else {}
    present = sample.dropna().to_numpy()
    quantiles = tuple(float(q) for q in np.quantile(present, QUANTILES, method="inverted_cdf")) if len(present) else ()
    bars = _histogram(present)
    if kind == "time":
        edges = {"minimum": scan.low.isoformat(), "maximum": scan.high.isoformat()}
        bars = tuple(Bin(_moment(float(b.upper or 0)), b.count) for b in bars)
        return {**edges, "quantiles": tuple(_moment(q) for q in quantiles), "bins": bars}
    return {
        "minimum": float(scan.low),
        "maximum": float(scan.high),
        "mean": scan.moments.mean,
        "deviation": scan.moments.deviation,
        "quantiles": quantiles,
        "bins": bars,
        "deciles": make_profile(sample.to_frame("c")).features[0].bins,
    }


def _histogram(numbers: np.ndarray) -> tuple[Bin, ...]:
    """A bar per value if there are few, else 24 of one width, of which the outer ones take in the tails."""
    if not len(numbers):
        return ()
    values, counts = np.unique(numbers, return_counts=True)
    if len(values) <= _BARS:
        return tuple(Bin(float(v), int(n)) for v, n in zip(values, counts, strict=True))
    low, high = np.quantile(numbers, (_TAIL, 1 - _TAIL), method="inverted_cdf")
    if low == high:
        low, high = numbers.min(), numbers.max()
    inner = _edges(low, high, whole=bool((values == np.floor(values)).all()))
    found = np.bincount(np.searchsorted(inner, numbers, "left"), minlength=len(inner) + 1)
    return tuple(Bin(float(u), int(n)) for u, n in zip([*inner, numbers.max()], found, strict=True))


def _edges(low: float, high: float, *, whole: bool) -> np.ndarray:
    """Inner edges of at most 24 bars of one width; each takes in as many whole numbers as the next one."""
    if not whole:
        return np.linspace(low, high, _BARS + 1)[1:-1]
    width = math.ceil((high - low + 1) / _BARS)
    return np.arange(low + width, high + 1, width) - 0.5


def _numbers(values: pa.Array) -> np.ndarray:
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=float)


def _moment(seconds: float) -> str:
    return str(pd.Timestamp(round(seconds * 1e6), unit="us", tz="UTC").isoformat())


def _in_sample(profile: DataProfile, column: ColumnProfile) -> int:
    """Missing values among the sampled rows: the rows that are in no bin."""
    return profile.sampled - sum(b.count for b in column.deciles or column.bins)
