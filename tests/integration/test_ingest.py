"""ingest on real deliveries: how rows are cut, what late data becomes, and that each delivery counts once."""

from __future__ import annotations

import gzip
import itertools
import os
import random
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.loops import MONTHS, make_loop, schedules

from kaizen.adapters.landing import Cutter, by_column, by_time, key_name, repeats_keys, same_rows, whole
from kaizen.adapters.memory_registry import MemoryRegistry
from kaizen.adapters.tables import read_parquet
from kaizen.calendar import bounds
from kaizen.canonical import file_digests
from kaizen.deliveries import Span
from kaizen.errors import DataRefused, PartitionConflict
from kaizen.ingest import _Taking, has_landed, ingest, ingest_file
from kaizen.loop import open_loop
from kaizen.sources import FileItem

JANUARY, FEBRUARY, MARCH = MONTHS[:3]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A loop with its data repository, and nothing but its look-up table in it."""
    project = make_loop(tmp_path_factory.mktemp("ingest") / "project", {"data": {"suite": None}})
    with opened(project) as loop:
        ingest(loop)
    project.save("empty")
    return project


@pytest.fixture
def project(saved):
    saved.restore("empty")
    return saved


def opened(project):
    return open_loop(project.spec, home=project.home, registry=MemoryRegistry())


def table(project, name="schedules", **keys):
    """Say something else of a table in the spec."""
    project.write_spec({"data": {"suite": None, "tables": {name: keys}}})


def take(project, **arguments):
    with opened(project) as loop:
        return ingest(loop, **arguments)


def read(project, name, partition):
    with opened(project) as loop:
        return read_parquet(loop.store.file(loop.versions(name)[partition].address))


def said(versions):
    return [(v.table, v.partition, v.rows, v.change) for v in versions]


# How rows are cut.


def test_a_look_up_can_be_cut_by_a_column(project):
    more = pd.DataFrame({"origin": ["a/b", "a/b", ".c", "d.dvc"], "platforms": [1, 2, 3, 4], "hour": [1, 2, 1, 1]})
    table(project, "stations", partition="by origin", join=["origin", "hour"])
    (project.landing / "stations" / "stations.parquet").unlink()
    project.land("stations", "more.parquet", more)
    assert [v.partition for v in take(project)] == ["%2Ec", "a%2Fb", "d%2Edvc"]
    assert read(project, "stations", "a%2Fb")["platforms"].tolist() == [1, 2]


def test_a_look_up_can_be_cut_by_file_and_keeps_the_bytes(project):
    table(project, "stations", partition="file", on_change="replace")
    path = project.land("stations", "more.parquet", pd.DataFrame({"origin": ["x"], "platforms": [1]}))
    versions = {v.partition: v for v in take(project)}
    assert set(versions) == {"more.parquet"}
    with opened(project) as loop:
        assert loop.store.file(versions["more.parquet"].address).read_bytes() == path.read_bytes()
        inputs = loop.inputs_for([JANUARY], labels=False)
    assert versions["more.parquet"].source.sha256 == file_digests(path)[1]["sha256"]
    assert inputs == ()


def test_days_are_cut_in_the_loops_zone(project):
    table(project, partition="day")
    late = pd.Timestamp("2024-03-30 23:30", tz="Europe/Paris")
    rows = schedules(MARCH).head(3).assign(departs=[late, late + pd.Timedelta(hours=1), late + pd.Timedelta(hours=24)])
    project.land("schedules", "march.parquet", rows)
    # The clocks went forward on the 31st: 24 hours later it is half past midnight, on the 1st of April.
    assert [v.partition for v in take(project)] == ["2024-03-30", "2024-03-31", "2024-04-01"]


def test_columns_in_another_order_are_the_same_columns(project):
    rows = schedules(JANUARY)
    project.land("schedules", "a.parquet", rows)
    take(project)
    project.land("schedules", "b.parquet", rows[list(reversed(rows.columns))])
    assert take(project) == []


@pytest.mark.parametrize("sizes", [[7], [5000], [100_000], [1, 8192, 3]])
@pytest.mark.parametrize("budget", [1, 1 << 40])
def test_the_same_rows_give_the_same_bytes_wherever_they_were_cut(tmp_path, sizes, budget):
    frame = pd.DataFrame({"at": pd.date_range("2024-01-30", periods=30_000, freq="10s", tz="UTC").as_unit("us")})
    frame = frame.assign(n=np.arange(len(frame)), text=[None if i % 3 else f"t{i % 50}" for i in range(len(frame))])
    rows = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None).combine_chunks()

    def digests(sizes, budget, folder):
        folder.mkdir()
        cutter, at, turn = Cutter(folder, by_time("at", "day", "Europe/Paris"), budget), 0, 0
        while at < rows.num_rows:
            size = sizes[turn % len(sizes)]
            for batch in rows.slice(at, size).to_batches():
                cutter.add(batch)
            at, turn = at + size, turn + 1
        return {p: cutter.draft(p).sha256 for p in cutter.partitions()}

    once = digests([len(frame)], 1 << 40, tmp_path / "once")
    assert len(once) == 4
    assert digests(sizes, budget, tmp_path / "often") == once


def test_spilled_rows_keep_what_changed_in_the_middle(tmp_path):
    cutter = Cutter(tmp_path, whole("all"), budget=1)
    for values in (pa.array([1, 2]), pa.array([None, None], pa.null()), pa.array([0.5])):
        cutter.add(pa.RecordBatch.from_arrays([values], names=["x"]))
    draft = cutter.draft("all")
    assert (draft.columns, draft.rows) == ({"x": "double"}, 5)
    assert read_parquet(draft.path)["x"].tolist()[0::4] == [1.0, 0.5]


def test_keys_that_only_case_tells_apart_are_refused():
    batch = pa.RecordBatch.from_arrays([pa.array(["A", "b", "a"])], names=["k"])
    with pytest.raises(DataRefused, match="KZ463") as refused:
        list(by_column("k", "orders")(batch))
    assert refused.value.value == "'A' and 'a'"
    assert key_name("x" * 300) != key_name("x" * 301)
    assert key_name("") != ""


# What a partition that is there becomes.


def test_more_of_a_partition_is_refused_by_default_and_nothing_is_kept(project):
    rows = schedules(JANUARY)
    project.land("schedules", "a.parquet", rows.head(100))
    take(project)
    project.land("schedules", "b.parquet", rows.tail(50))
    with pytest.raises(PartitionConflict, match="KZ430"):
        take(project)
    with opened(project) as loop:
        assert loop.versions("schedules")[JANUARY].rows == 100


def test_late_rows_make_the_partition_grow(project):
    rows, told = schedules(JANUARY), []
    table(project, on_change="append")
    project.land("schedules", "a.parquet", rows.head(100))
    (first,) = take(project)
    project.land("schedules", "b.parquet", rows.tail(50))
    (second,) = take(project, tell=told.append)
    assert said([first, second]) == [("schedules", JANUARY, 100, ""), ("schedules", JANUARY, 150, "grew")]
    assert second.previous == first.digest
    assert told == [f"schedules/{JANUARY} grew: 100 rows, now 150"]
    pd.testing.assert_frame_equal(
        read(project, "schedules", JANUARY)[["train", "rain"]],
        pd.concat([rows.head(100), rows.tail(50)], ignore_index=True)[["train", "rain"]],
    )
    assert take(project) == []


def test_late_rows_that_are_there_already_are_refused_by_their_key(project):
    rows = schedules(JANUARY)
    table(project, on_change="append")
    project.land("schedules", "a.parquet", rows.head(100))
    take(project)
    project.land("schedules", "b.parquet", rows.tail(len(rows) - 99))
    with pytest.raises(DataRefused, match="KZ411"):
        take(project)


def test_a_corrected_file_takes_the_partitions_place(project):
    rows = schedules(JANUARY)
    table(project, on_change="replace")
    project.land("schedules", "a.parquet", rows)
    (first,) = take(project)
    project.land("schedules", "a.parquet", rows.assign(rain=1.0))
    (second,) = take(project)
    project.land("schedules", "a.parquet", pd.concat([rows.assign(rain=1.0), rows.head(1)]))
    (third,) = take(project)
    project.land("schedules", "a.parquet", rows)
    assert take(project) == []
    # Redelivery is no work; the same rows in a file of its own are a correction back.
    rows.to_parquet(project.landing / "schedules" / "b.parquet", index=False, compression="gzip")
    (fourth,) = take(project)
    assert [v.change for v in (first, second, third, fourth)] == ["", "replaced", "grew", "replaced"]
    # What was there once may come back.
    assert fourth.address == first.address
    with opened(project) as loop:
        assert loop.versions("schedules")[JANUARY] == fourth


def test_a_new_column_is_taken_and_said_or_refused(project):
    told = []
    project.land("schedules", "a.parquet", schedules(JANUARY))
    take(project)
    project.land("schedules", "b.parquet", schedules(FEBRUARY).assign(crew=2))
    (version,) = take(project, tell=told.append)
    assert version.added == ("crew",)
    assert "new column crew" in told[0]
    table(project, new_columns="refuse")
    project.land("schedules", "c.parquet", schedules(MARCH).assign(crew=2, buffet=True))
    with pytest.raises(DataRefused, match="KZ468") as refused:
        take(project)
    assert refused.value.value == "buffet"


def land_text(project, name, rows):
    path = project.landing / "schedules" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(rows.to_csv(index=False), encoding="utf-8")


@pytest.mark.parametrize("together", [True, False])
def test_what_comes_together_is_held_to_the_same_types_and_columns_as_what_comes_one_by_one(project, together):
    told = []
    arrivals = [
        ("a.csv", schedules(JANUARY).assign(crew=2)),
        ("b.csv", schedules(FEBRUARY)[lambda rows: rows.columns[::-1]].assign(crew=2.5, buffet=True)),
        ("c.csv", schedules(MARCH).assign(crew="two")),
    ]
    for name, rows in arrivals:
        land_text(project, name, rows)
        if not together and name != "c.csv":
            take(project, tell=told.append)
    with pytest.raises(DataRefused) as refused:
        take(project, tell=told.append)
    assert (refused.value.code, refused.value.value) == ("KZ460", "'two'")
    assert [line for line in told if "new column" in line] == [f"{project.landing}/schedules/b.csv: new column buffet"]
    with opened(project) as loop:
        kept = loop.versions("schedules")
        assert list(kept) == [JANUARY, FEBRUARY]
        assert [kept[month].columns["crew"] for month in kept] == ["int64", "double"]
        files = [pq.read_schema(loop.store.file(version.address)).names for version in kept.values()]
        assert files[1] == [*files[0], "buffet"]


@pytest.mark.parametrize("together", [True, False])
def test_whole_numbers_stay_so_when_a_later_file_has_gaps(project, together):
    project.land("schedules", "a.parquet", schedules(JANUARY).assign(crew=2))
    if not together:
        take(project)
    rows = schedules(FEBRUARY)
    project.land("schedules", "b.parquet", rows.assign(crew=np.where(np.arange(len(rows)) % 31 == 6, np.nan, 2.0)))
    take(project)
    with opened(project) as loop:
        assert loop.versions("schedules")[FEBRUARY].columns["crew"] == "int64"


# What is taken.


def test_a_range_can_be_taken_and_the_rest_later(project):
    everything = pd.concat([schedules(month) for month in MONTHS[:4]])
    project.land("schedules", "all.parquet", everything)
    zone = "Europe/Paris"
    with opened(project) as loop:
        begin, end = bounds(FEBRUARY, loop.spec.timezone)[0], bounds(MARCH, loop.spec.timezone)[1]
        assert [v.partition for v in ingest(loop, span=Span(begin, end))] == [FEBRUARY, MARCH]
        assert ingest(loop, span=Span(begin, end)) == []
        assert has_landed(loop)
        assert [v.partition for v in ingest(loop)] == [JANUARY, MONTHS[3]]
        assert not has_landed(loop)
        assert str(loop.spec.timezone) == zone


def test_a_deliverys_bytes_are_read_again_only_if_its_file_changed(project, monkeypatch):
    path = project.land_schedules(JANUARY)
    os.utime(path, (time.time() - 60,) * 2)
    with opened(project) as loop:
        ingest(loop)
        # A file's times are believed when they are a while old.
        time.sleep(2.1)
        assert not has_landed(loop)
        monkeypatch.setattr("kaizen.sources.begin_digests", None)
        assert not has_landed(loop)
        assert ingest(loop) == []


@pytest.mark.parametrize(
    ("name", "code"), [("new\nline.parquet", "KZ461"), (f"{'x' * 230}.parquet", "KZ461"), ("JANUARY.parquet", "KZ462")]
)
def test_names_that_cannot_be_taken(project, name, code):
    project.land("schedules", "january.parquet", schedules(JANUARY))
    project.land("schedules", name, schedules(FEBRUARY))
    with pytest.raises(DataRefused, match=code):
        take(project)


def test_a_link_out_of_the_landing_folder_is_refused(project, tmp_path):
    schedules(JANUARY).to_parquet(tmp_path / "elsewhere.parquet")
    folder = project.landing / "schedules"
    folder.mkdir()
    (folder / "a.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(DataRefused, match="KZ461"):
        take(project)


def test_a_bomb_goes_off_against_its_limit(project):
    table(project, max_expanded="1m")
    folder = project.landing / "schedules"
    folder.mkdir()
    (folder / "a.csv.gz").write_bytes(
        gzip.compress(schedules(JANUARY).to_csv(index=False).encode() + b"\n" * (2 << 20))
    )
    with pytest.raises(DataRefused, match="KZ464") as refused:
        take(project)
    assert refused.value.limit.startswith("1048576 bytes")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
def test_another_encoding_is_read_if_it_is_named(project, encoding):
    table(project, encoding="utf-8" if encoding == "utf-8-sig" else encoding)
    rows = schedules(JANUARY).assign(origin="söuth")
    folder = project.landing / "schedules"
    folder.mkdir()
    (folder / "a.csv").write_bytes(rows.to_csv(index=False).encode(encoding))
    take(project)
    found = read(project, "schedules", JANUARY)
    assert set(found["origin"]) == {"söuth"}
    assert next(iter(found.columns)) == "departs"


# Many at once.


def test_eight_processes_on_the_same_deliveries_take_each_once(processes, project):
    table(project, partition="day")
    rows = pd.concat([schedules(JANUARY), schedules(FEBRUARY)]).reset_index(drop=True)
    days = rows.groupby(rows["departs"].dt.tz_convert("Europe/Paris").dt.strftime("%Y-%m-%d"))
    for day, part in days:
        project.land("schedules", f"{day}.parquet", part)
    dice, kills = random.Random(0), itertools.count()
    with ThreadPoolExecutor(8) as pool:

        def work(_):
            while True:
                running = start_ingest(processes, project)
                killed = dice.random() < 0.5 and next(kills) < 6
                if killed:
                    time.sleep(dice.uniform(0, 1))
                    with suppress(ProcessLookupError):
                        os.kill(running.pid, signal.SIGKILL)
                ended = running.wait()
                if ended.code == 0:
                    return
                assert killed, ended.err
                assert ended.code == -signal.SIGKILL, ended.err

        list(pool.map(work, range(8)))
    with opened(project) as loop:
        assert ingest(loop) == []
        found = loop.versions("schedules")
        events = list(loop.ledger.events(loop.name, kind="DataVersion"))
        assert loop.ledger.verify().ok
    assert sorted(found) == sorted(day for day, _ in days)
    assert sum(v.rows for v in found.values()) == len(rows)
    assert len([e for e in events if e.subject.startswith("data/schedules/")]) == len(found)


def start_ingest(processes, project):
    return processes.start("tests.loops:run_stages", str(project.spec), ["ingest"])


def test_two_that_add_to_the_same_partition_lose_nothing(processes, project):
    table(project, on_change="append")
    rows = schedules(JANUARY)
    for i in range(8):
        project.land("schedules", f"part{i}.parquet", rows.iloc[i::8])
    running = [start_ingest(processes, project) for _ in range(3)]
    assert [ended.err for ended in (each.wait() for each in running) if ended.code] == []
    found = read(project, "schedules", JANUARY)
    assert len(found) == len(rows)
    assert set(found["rain"]) == set(rows["rain"])


def test_a_file_that_is_cut_after_it_was_hashed_is_one_that_somebody_writes(project, monkeypatch):
    path, identity = project.land_schedules(JANUARY), FileItem.identity

    def then_cut(item, scratch):
        found = identity(item, scratch)
        path.write_bytes(path.read_bytes()[:-20])
        return found

    monkeypatch.setattr(FileItem, "identity", then_cut)
    with pytest.raises(DataRefused, match="KZ406") as refusal:
        take(project)
    assert re.fullmatch("sha256 .{64}, then .{64}", str(refusal.value.value))


def taken_at_once(project, monkeypatch, name, first, second):
    """Take ``first``; when its bytes are committed and its record is not there, another loop takes ``second``."""
    project.land(name, "first.parquet", first)
    (aside := project.folder / "aside").mkdir(exist_ok=True)
    second.to_parquet(aside / "second.parquet")
    commit = _Taking.commit

    def overtaken(taking, *given):
        pointers = commit(taking, *given)
        monkeypatch.setattr(_Taking, "commit", commit)
        with opened(project) as other:
            assert ingest_file(other, name, aside / "second.parquet")
        return pointers

    monkeypatch.setattr(_Taking, "commit", overtaken)
    return take(project)


def test_first_deliveries_at_the_same_moment_are_held_against_each_other(project, monkeypatch):
    january, february = schedules(JANUARY), schedules(FEBRUARY)
    with pytest.raises(DataRefused) as refusal:
        taken_at_once(project, monkeypatch, "schedules", january.assign(distance="far"), february)
    assert "first.parquet" in refusal.value.where
    assert "distance" in refusal.value.where
    with opened(project) as loop:
        assert list(loop.versions("schedules")) == [FEBRUARY]


def test_of_two_that_bring_a_new_column_at_the_same_moment_the_second_goes_by_the_first(project, monkeypatch):
    table(project, "stations", partition="file", new_columns="accept")
    rows = pd.DataFrame({"origin": ["x"], "platforms": [4]})
    (taken,) = taken_at_once(project, monkeypatch, "stations", rows.assign(roof=[1]), rows.assign(roof=[0.5]))
    assert (taken.source.uri, taken.columns["roof"]) == ("first.parquet", "double")


@pytest.mark.parametrize(("roof", "kind"), [(None, None), (0.5, "double")])
def test_what_waits_is_held_against_what_somebody_else_delivers_meanwhile(project, monkeypatch, roof, kind):
    """While two files are committed the next two wait; a delivery of another loop comes in between."""
    monkeypatch.setattr("kaizen.landed._TOGETHER", (2, 1 << 40))
    table(project, "stations", partition="file", new_columns="accept")
    for n in range(6):
        frame = pd.DataFrame({"origin": [f"x{n}"], "platforms": [n]})
        project.land("stations", f"{n}.parquet", frame.assign(roof=[n]) if n >= 4 and roof else frame)
    other = pd.DataFrame({"platforms": [9], "origin": ["y"]})
    (aside := project.folder / "aside").mkdir()
    (other.assign(roof=[roof]) if roof else other).to_parquet(aside / "other.parquet")
    commit, held = _Taking.commit, []

    def overtaken(taking, name, landed):
        held.append([each.item.name for each in landed])
        if len(held) == 2:
            with opened(project) as loop:
                assert ingest_file(loop, name, aside / "other.parquet")
        return commit(taking, name, landed)

    monkeypatch.setattr(_Taking, "commit", overtaken)
    taken = take(project)
    again = [["4.parquet"], ["5.parquet"]] if roof else [["4.parquet", "5.parquet"]]
    assert held == [["0.parquet", "1.parquet"], ["2.parquet", "3.parquet"], ["other.parquet"], *again]
    assert [v.partition for v in taken] == [f"{n}.parquet" for n in range(6)]
    assert {v.columns.get("roof") for v in taken if v.partition >= "4"} == {kind}
    with opened(project) as loop:
        assert set(loop.versions("stations")) == {*(f"{n}.parquet" for n in range(6)), "other.parquet", "all"}
        assert loop.data.verify(print) == []
    assert take(project) == []


@pytest.mark.parametrize("together", [1, 3, 100])
def test_small_files_are_taken_in_order_however_many_are_committed_together(project, monkeypatch, together):
    monkeypatch.setattr("kaizen.landed._TOGETHER", (together, 1 << 40))
    table(project, "stations", partition="file", on_change="replace", new_columns="accept")
    for n in range(7):
        frame = pd.DataFrame({"origin": [f"x{n}"], "platforms": [n]})
        project.land("stations", f"{n}.parquet", frame.assign(roof=n / 2) if n >= 4 else frame)
    assert [v.partition for v in take(project)] == [f"{n}.parquet" for n in range(7)]
    project.land("stations", "5.parquet", pd.DataFrame({"roof": [9.5], "platforms": [5], "origin": ["x5"]}))
    (again,) = take(project)
    assert (again.change, list(read(project, "stations", "5.parquet"))) == ("replaced", ["origin", "platforms", "roof"])


def test_a_small_file_that_is_refused_leaves_those_before_it_and_nothing_of_those_after(project):
    table(project, "stations", partition="file")
    for n in range(4):
        repeated = "x" if n == 2 else "y"
        project.land("stations", f"{n}.parquet", pd.DataFrame({"origin": ["x", repeated], "platforms": n}))
    with pytest.raises(DataRefused, match="KZ411"):
        take(project)
    with opened(project) as loop:
        assert sorted(loop.versions("stations")) == ["0.parquet", "1.parquet", "all"]
    assert list(project.home.glob("**/.scratch-*")) == []


def test_a_small_file_with_damaged_pages_leaves_those_before_it_and_nothing_of_those_after(project):
    table(project, "stations", partition="file")
    paths = [
        project.land("stations", f"{n}.parquet", pd.DataFrame({"origin": ["x", "y"], "platforms": n})) for n in range(4)
    ]
    at = pq.ParquetFile(paths[2]).metadata.row_group(0).column(0).data_page_offset
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[:at] + bytes(8) + whole[at + 8 :])
    with pytest.raises(DataRefused, match=r"KZ402: .*\n.*2.parquet"):
        take(project)
    with opened(project) as loop:
        assert sorted(loop.versions("stations")) == ["0.parquet", "1.parquet", "all"]


@pytest.mark.parametrize(
    ("kind", "values", "kept"),
    [
        (pa.string_view(), ["a", None], "string"),
        (pa.binary_view(), [b"a", None], "binary"),
        (pa.list_(pa.string_view()), [["a", None], None], "list<element: string>"),
        (pa.large_list(pa.binary_view()), [[b"a", None], None], "large_list<element: binary>"),
        (pa.list_(pa.string_view(), 1), [["a"], ["b"]], "fixed_size_list<element: string>[1]"),
        (pa.map_(pa.string_view(), pa.int64()), [[("a", 1)], None], "map<string, int64>"),
        (pa.struct([("in", pa.list_(pa.string_view()))]), [{"in": ["a"]}, None], "struct<in: list<element: string>>"),
        (pa.list_view(pa.int64()), [[1, 2], None], "list_view<element: int64>"),
    ],
    ids=str,
)
def test_arrows_views_of_text_are_text(project, kind, values, kept):
    """Of more rows than are looked at, some are picked; Arrow cannot pick views."""
    table(project, "stations", partition="file", new_columns="accept")
    rows = pa.table(
        {"origin": [f"x{n}" for n in range(600)], "platforms": [1] * 600, "more": pa.array(values * 300, kind)}
    )
    pq.write_table(rows, project.land("stations", "more.parquet", pd.DataFrame({"a": [1]})))
    version = next(v for v in take(project) if v.partition == "more.parquet")
    assert (version.rows, version.columns["more"]) == (600, kept)
    with opened(project) as loop:
        file = loop.store.file(version.address)
    assert pq.read_table(file)["more"].to_pylist() == rows["more"].to_pylist()


@pytest.mark.parametrize("together", [1, 100])
def test_the_same_bytes_by_two_names_are_one_delivery(project, monkeypatch, together):
    monkeypatch.setattr("kaizen.landed._TOGETHER", (together, 1 << 40))
    table(project, "stations", partition="file")
    for name in ("a.parquet", "b.parquet"):
        project.land("stations", name, pd.DataFrame({"origin": ["x"], "platforms": [1]}))
        project.land("schedules", name, schedules(JANUARY))
    assert {v.partition for v in take(project)} == {"a.parquet", JANUARY}
    assert take(project) == []


@given(
    rows=st.lists(
        st.tuples(st.sampled_from([None, -1, 0, 1, 2**53, 2**53 + 1]), st.sampled_from([None, 0.0, 0.25, 0.5]))
    ),
    text=st.booleans(),
    ordered=st.booleans(),
)
def test_repeated_keys_are_found_by_whatever_is_quickest(tmp_path_factory, rows, text, ordered):
    whole, parts = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [])
    if ordered:
        whole = sorted(v for v in whole if v is not None)
        parts = parts[: len(whole)]
    kind = pa.string() if text else pa.int64()
    columns = {"a": pa.array([str(v) if text and v is not None else v for v in whole], kind), "b": pa.array(parts)}
    table = pa.table({"a": columns["a"], "b": columns["b"].cast(pa.float64())})
    path = tmp_path_factory.mktemp("keys") / "rows.parquet"
    pq.write_table(table, path, row_group_size=3)
    for keys in (["a"], ["a", "b"]):
        values = [tuple(row.values()) for row in table.select(keys).to_pylist()]
        assert repeats_keys(path, keys) == (len(set(values)) < len(values))


def test_rows_are_compared_not_bytes(tmp_path):
    frame = pd.DataFrame({"x": range(20_000)})
    for name, compression in (("a", "zstd"), ("b", "none")):
        pq.write_table(pa.Table.from_pandas(frame), tmp_path / name, compression=compression)
    pq.write_table(pa.Table.from_pandas(frame.iloc[::-1]), tmp_path / "c")
    assert same_rows(tmp_path / "a", tmp_path / "b")
    assert not same_rows(tmp_path / "a", tmp_path / "c")
