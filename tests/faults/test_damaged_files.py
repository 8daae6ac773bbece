"""Fuzzing: real files with bytes cut, flipped, doubled and put in. Rows come out, or one refusal: nothing else.

``--hypothesis-profile soak`` looks longer.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.test_sources import FILES, rows

from kaizen.adapters.landing import Cutter, by_time, read_batches, take_as_it_is, whole, with_time
from kaizen.adapters.readers import read_file
from kaizen.errors import DataRefused
from kaizen.sources import Wanted

ORIGINALS = {kind: write(rows("2024-01", 200)) for kind, write in FILES.items()}

place = st.floats(0, 1, exclude_max=True)
mutations = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), place, st.just(b"")),
        st.tuples(st.just("flip"), place, st.integers(0, 7).map(lambda bit: bytes([1 << bit]))),
        st.tuples(st.just("put"), place, st.binary(min_size=1, max_size=40)),
        st.tuples(
            st.just("over"), place, st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\n", b'"', b","])
        ),
        st.tuples(st.just("take"), place, st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("double"), place, st.just(b"")),
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for what, where, value in changes:
        at = int(where * len(data))
        data = CHANGES[what](data[:at], data[at:], value)
    return data


CHANGES = {
    "cut": lambda head, tail, value: head,
    "flip": lambda head, tail, value: head + (bytes([tail[0] ^ value[0]]) + tail[1:] if tail else b""),
    "put": lambda head, tail, value: head + value + tail,
    "over": lambda head, tail, value: head + value + tail[len(value) :],
    "take": lambda head, tail, value: head + tail[len(value) :],
    "double": lambda head, tail, value: head + tail + tail,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize("kind", FILES)
@given(changes=mutations)
def test_a_damaged_file_gives_rows_or_one_refusal(folder, kind, changes):
    path = folder / f"rows.{kind}"
    path.write_bytes(mutated(ORIGINALS[kind], changes))
    wanted = Wanted(str(path), needed=("departs", "train"), types={"distance": "double", "seats": "int64"})
    drafts, refusal = outcome(lambda: take(path, wanted, folder))
    if refusal:
        assert refusal.code in ("KZ401", "KZ402", "KZ403", "KZ404", "KZ405", "KZ460", "KZ464")
        assert str(path) in refusal.where
        assert len(str(refusal)) < 2000
    assert all(draft.rows > 0 for draft in drafts)


def outcome(work):
    """What came of it: drafts, or the one refusal. Anything else that is raised fails the test."""
    try:
        return work(), None
    except DataRefused as refusal:
        return [], refusal


def take(path, wanted, folder):
    """As ingest does: cut by time and written."""
    cutter, first = Cutter(folder, by_time("departs", "month", "UTC"), budget=1), 1
    for batch in read_file(path, wanted):
        batch.validate(full=True)
        cutter.add(with_time(batch, "departs", wanted, first))
        first += batch.num_rows
    return [cutter.draft(partition) for partition in cutter.partitions()]


@given(changes=mutations)
def test_a_damaged_file_that_would_be_kept_as_it_is_gives_rows_or_none(folder, changes):
    path = folder / "rows.parquet"
    path.write_bytes(mutated(ORIGINALS["parquet"], changes))
    original = take_as_it_is(path, "all", Wanted(str(path)), folder)
    drafts, refusal = outcome(lambda: keep(original) if original else [])
    if ahead := take_as_it_is(path, "all", Wanted(str(path)), folder):
        ahead.read_ahead()
        again, refusal_again = outcome(lambda: keep(ahead))
        assert (again, str(refusal_again)) == (drafts, str(refusal))
    assert refusal is None or refusal.code == "KZ402"
    assert all(draft.path.read_bytes() == path.read_bytes() for draft in drafts)
    assert all(sum(len(batch) for batch in read_batches(draft.path)) == draft.rows for draft in drafts)


def keep(original):
    """As ingest does with a file that it need not write."""
    original.read(lambda batch: None)
    return [original.draft(partition) for partition in original.partitions()]


def test_undamaged_files_are_taken_whole(folder):
    for kind, data in ORIGINALS.items():
        path = folder / f"rows.{kind}"
        path.write_bytes(data)
        cutter = Cutter(folder, whole("all"))
        for batch in read_file(path, Wanted(str(path))):
            cutter.add(batch)
        assert cutter.draft("all").rows == 200
