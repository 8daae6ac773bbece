"""One contract for every source: the rows come as they are, each delivery once, and what is new is found."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
import yaml
from tests.loops import SPEC, Project, make_loop, merged
from tests.services import s3_server

from kaizen.adapters.memory_registry import MemoryRegistry
from kaizen.adapters.tables import read_parquet
from kaizen.deliveries import EVER
from kaizen.errors import DataRefused
from kaizen.ingest import _taking, has_landed, ingest
from kaizen.loop import open_loop

JANUARY, FEBRUARY = "2024-01", "2024-02"
COLUMNS = ["departs", "train", "origin", "distance", "rain", "seats", "note", "express"]


def rows(month: str, n: int = 60) -> pd.DataFrame:
    """Rows with every type that sources have in common, and missing values."""
    rng = np.random.default_rng(int(month.replace("-", "")))
    start = pd.Timestamp(f"{month}-02 05:00", tz="UTC")
    return pd.DataFrame(
        {
            "departs": [start + pd.Timedelta(hours=7 * i) for i in range(n)],
            "train": [f"T{i}" for i in range(n)],
            "origin": rng.choice(["north", "söuth"], n),
            "distance": rng.uniform(10, 300, n).round(1),
            "rain": [None if i % 7 == 0 else round(i / 3, 2) for i in range(n)],
            "seats": pd.array([None if i % 5 == 0 else i for i in range(n)], dtype="Int64"),
            "note": [None if i % 4 == 0 else f"n{i}, {i}" for i in range(n)],
            "express": [i % 2 == 0 for i in range(n)],
        }
    )


@dataclass
class Bench:
    """A loop whose schedules come from one kind of source; ``deliver`` puts a month there."""

    project: Project
    deliver: Callable[[str, pd.DataFrame], object]
    table: Mapping[str, Any]
    appends: bool = False
    """A delivery is what was added, not a thing of its own."""
    env: dict[str, str] = field(default_factory=dict)

    def write_spec(self, **changes: Any) -> None:
        tables = {
            "schedules": {"partition": "month", **self.table, **changes},
            "stations": SPEC["data"]["tables"]["stations"],
        }
        problem = {"features": ["distance"], "target": "express", "label": None}
        data = {"tables": {**tables, "outcomes": None}, "suite": None, "outcomes": []}
        spec = merged(SPEC, {"problem": problem, "data": data})
        self.project.spec.parent.mkdir(parents=True, exist_ok=True)
        self.project.spec.write_text(yaml.safe_dump(spec), encoding="utf-8")

    def open(self) -> Any:
        return open_loop(self.project.spec, home=self.project.home, registry=MemoryRegistry())

    def ingest(self) -> list[Any]:
        with self.open() as loop:
            return [version for version in ingest(loop) if version.table == "schedules"]

    def read(self, partition: str) -> pd.DataFrame:
        with self.open() as loop:
            return read_parquet(loop.store.file(loop.versions("schedules")[partition].address))


def text_of(frame: pd.DataFrame) -> bytes:
    target = io.BytesIO()
    pcsv.write_csv(arrow_of(frame), target)
    return target.getvalue()


def arrow_of(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def json_lines_of(frame: pd.DataFrame) -> bytes:
    lines = [{k: v for k, v in row.items() if v is not None} for row in arrow_of(frame).to_pylist()]
    return b"".join(json.dumps(line, default=str, ensure_ascii=False).encode() + b"\n" for line in lines)


def ipc_of(frame: pd.DataFrame, new: Callable[..., Any]) -> bytes:
    target = io.BytesIO()
    table = arrow_of(frame)
    with new(target, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return target.getvalue()


def parquet_of(frame: pd.DataFrame) -> bytes:
    target = io.BytesIO()
    pq.write_table(arrow_of(frame), target, row_group_size=11)
    return target.getvalue()


def zip_of(data: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.csv", data)
    return target.getvalue()


def zst_of(data: bytes) -> bytes:
    target = pa.BufferOutputStream()
    with pa.CompressedOutputStream(target, "zstd") as stream:
        stream.write(data)
    return target.getvalue().to_pybytes()


FILES: dict[str, Callable[[pd.DataFrame], bytes]] = {
    "parquet": parquet_of,
    "csv": text_of,
    "csv.gz": lambda frame: gzip.compress(text_of(frame)),
    "csv.zst": lambda frame: zst_of(text_of(frame)),
    "csv.zip": lambda frame: zip_of(text_of(frame)),
    "jsonl": json_lines_of,
    "jsonl.gz": lambda frame: gzip.compress(json_lines_of(frame)),
    "arrow": lambda frame: ipc_of(frame, pyarrow.ipc.new_file),
    "feather": lambda frame: ipc_of(frame, pyarrow.ipc.new_stream),
}


def file_bench(project: Project, kind: str) -> Bench:
    def deliver(name: str, frame: pd.DataFrame) -> None:
        path = project.landing / "schedules" / "deep" / f"{name}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES[kind](frame))

    return Bench(project, deliver, {"uri": f"landing/schedules/**/*.{kind}"})


def s3_bench(project: Project, url: str, monkeypatch: pytest.MonkeyPatch) -> Bench:
    import fsspec

    for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_ENDPOINT_URL", url)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = project.folder.parent.name.replace("_", "-").lower()[:40]
    files, _ = fsspec.url_to_fs(f"s3://{bucket}")
    files.mkdir(bucket)

    def deliver(name: str, frame: pd.DataFrame) -> None:
        files.pipe_file(f"{bucket}/in/{name}.parquet", parquet_of(frame))

    return Bench(project, deliver, {"uri": f"s3://{bucket}/in/*.parquet"})


def sql_bench(project: Project, url: str) -> Bench:
    engine = sa.create_engine(
        sa.make_url(url).set(drivername=url.partition(":")[0].replace("postgresql", "postgresql+psycopg"))
    )

    def deliver(name: str, frame: pd.DataFrame) -> None:
        numbered = frame.assign(id=np.arange(len(frame)) + 1000 * int(name[-1]))
        numbered["seats"] = numbered["seats"].astype(object).where(numbered["seats"].notna(), None)
        numbered.to_sql("schedules", engine, if_exists="append", index=False)
        engine.dispose()

    uri = url if url.startswith("postgresql") else f"sqlite:///{Path(url.removeprefix('sqlite:///')).name}"
    table = {"uri": uri, "select": "schedules", "watermark": "id", "on_change": "append", "columns": COLUMNS}
    return Bench(project, deliver, table, appends=True)


def kedro_bench(project: Project) -> Bench:
    conf = project.folder / "conf"
    (conf / "local").mkdir(parents=True)
    (conf / "base").mkdir()
    package = project.folder / "src" / "rail"
    (package / "settings.py").touch()
    (package / "pipeline_registry.py").write_text("def register_pipelines():\n    return {}\n")
    (project.folder / "pyproject.toml").write_text(
        '[tool.kedro]\npackage_name = "rail"\nproject_name = "Rail"\nkedro_init_version = "1.7.0"\n'
    )
    dataset = {"type": "partitions.PartitionedDataset", "path": "landing/schedules", "dataset": "pandas.ParquetDataset"}
    dataset["filename_suffix"] = ".parquet"
    (conf / "base" / "catalog.yml").write_text(yaml.safe_dump({"schedules_in": dataset}))
    kedro = KedroProject(project.folder)

    def deliver(name: str, frame: pd.DataFrame) -> None:
        kedro.land("schedules", f"{name}.parquet", frame)

    return Bench(kedro, deliver, {"uri": "kedro:schedules_in", "on_change": "replace"}, appends=True)


class KedroProject(Project):
    @property
    def spec(self) -> Path:
        return self.folder / "conf" / "base" / "kaizen.yml"


@pytest.fixture(scope="session")
def s3_url():
    with s3_server() as url:
        yield url


SOURCES = ["parquet", "csv", "s3", "sqlite", "postgresql", "kedro"]


@pytest.fixture(params=SOURCES)
def bench(request, tmp_path, monkeypatch):
    return make_bench(request.param, request, tmp_path, monkeypatch)


@pytest.fixture(params=[*SOURCES, *(kind for kind in FILES if kind not in SOURCES)])
def any_bench(request, tmp_path, monkeypatch):
    """Besides, every format of files."""
    return make_bench(request.param, request, tmp_path, monkeypatch)


def make_bench(kind, request, tmp_path, monkeypatch):
    project = make_loop(tmp_path / "project")
    if kind in FILES:
        bench = file_bench(project, kind)
    elif kind == "s3":
        bench = s3_bench(project, request.getfixturevalue("s3_url"), monkeypatch)
    elif kind == "kedro":
        bench = kedro_bench(project)
    else:
        url = f"sqlite:///{project.folder / 'in.db'}" if kind == "sqlite" else request.getfixturevalue("postgres_url")
        bench = sql_bench(project, url)
    bench.write_spec()
    return bench


def expected(frame: pd.DataFrame) -> pd.DataFrame:
    """How rows come back from a partition: as pandas reads Parquet of plain types."""
    return arrow_of(frame[COLUMNS]).to_pandas()


def test_rows_come_as_they_are(any_bench):
    bench = any_bench
    bench.deliver("part1", rows(JANUARY))
    versions = bench.ingest()
    assert [(v.partition, v.rows, v.change) for v in versions] == [(JANUARY, 60, "")]
    kinds = versions[0].columns
    assert {n: kinds[n] for n in ("departs", "train", "distance", "seats")} == {
        "departs": "timestamp[us, tz=UTC]",
        "train": "string",
        "distance": "double",
        "seats": "int64",
    }
    found = bench.read(JANUARY)
    want = expected(rows(JANUARY))
    # SQLite has no truth values, only numbers.
    pd.testing.assert_frame_equal(found[COLUMNS].assign(express=found["express"].astype(bool)), want, check_dtype=False)


def test_the_same_again_is_no_work(bench):
    bench.deliver("part1", rows(JANUARY))
    first = bench.ingest()
    assert len(first) == 1
    assert bench.ingest() == []
    with bench.open() as loop:
        deliveries = list(loop.ledger.events(loop.name, subject="source/schedules"))
    assert len(deliveries) == 1


def test_what_is_new_is_found_and_taken_once(bench):
    bench.deliver("part1", rows(JANUARY))
    bench.ingest()
    bench.deliver("part2", rows(FEBRUARY))
    with bench.open() as loop:
        assert has_landed(loop)
    assert [v.partition for v in bench.ingest()] == [FEBRUARY]
    assert bench.ingest() == []
    pd.testing.assert_frame_equal(
        bench.read(FEBRUARY)[["train", "distance"]], expected(rows(FEBRUARY))[["train", "distance"]]
    )


def test_nothing_yet_is_no_error(bench):
    if "select" in bench.table or "kedro" in str(bench.table["uri"]):
        bench.deliver("part1", rows(JANUARY).head(0))
        bench.write_spec(min_rows=1)
        if "kedro" in str(bench.table["uri"]):
            with pytest.raises(DataRefused, match="KZ408"):
                bench.ingest()
            return
    assert bench.ingest() == []


def test_chosen_columns_come_in_the_order_of_the_spec(bench):
    bench.deliver("part1", rows(JANUARY))
    bench.write_spec(columns=["rain", "departs", "train", "origin", "distance", "express"])
    bench.ingest()
    assert list(bench.read(JANUARY)) == ["rain", "departs", "train", "origin", "distance", "express"]


def test_a_missing_column_is_named_with_its_nearest(bench):
    bench.deliver("part1", rows(JANUARY).rename(columns={"distance": "distnce"}))
    bench.write_spec(columns=[c for c in COLUMNS if c != "note"])
    with pytest.raises(DataRefused) as refused:
        bench.ingest()
    assert refused.value.code == "KZ403"
    assert refused.value.value == "distance (nearest: distnce)"


def test_a_type_that_changes_is_refused_with_the_first_row(any_bench):
    bench = any_bench
    bench.deliver("part1", rows(JANUARY))
    bench.ingest()
    if bench.table.get("select"):
        bench.write_spec(
            select="SELECT id, departs, train, origin, 'far' AS distance, rain, seats, note, express FROM schedules"
        )
    other = rows(FEBRUARY)
    bench.deliver(
        "part2", other.assign(distance=other["distance"] if bench.table.get("select") else ["far"] * len(other))
    )
    with pytest.raises(DataRefused) as refused:
        bench.ingest()
    assert refused.value.code == "KZ460"
    assert "column distance, row 1" in refused.value.where
    assert refused.value.value == "'far'"


def test_whole_numbers_that_become_fractions_are_taken(bench):
    # A database has its own word on the type.
    bench.deliver("part1", rows(JANUARY).assign(distance=100.0 if "select" in bench.table else 100))
    assert bench.ingest()[0].columns["distance"] in ("int64", "double")
    bench.deliver("part2", rows(FEBRUARY).assign(distance=100.5))
    assert [v.columns["distance"] for v in bench.ingest()] == ["double"]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path, monkeypatch):
    return make_bench(request.param, request, tmp_path, monkeypatch)


def test_two_that_go_on_from_the_same_watermark_take_each_row_once(database):
    """The second one has listed before the first has finished, and meanwhile more has come."""
    database.deliver("part1", rows(JANUARY))
    with database.open() as loop:
        with _taking(loop, EVER, print) as late:
            database.ingest()
            database.deliver("part2", rows(FEBRUARY))
            stale = late.deliveries.items("schedules")
            with _taking(loop, EVER, print) as early:
                assert [v.partition for v in early.take_all("schedules")] == [FEBRUARY]
            database.deliver("part3", rows("2024-03"))
            assert [v.partition for v in late.take("schedules", stale)] in ([], ["2024-03"])
        ingest(loop)
        assert {p: v.rows for p, v in loop.versions("schedules").items()} == dict.fromkeys(
            [JANUARY, FEBRUARY, "2024-03"], 60
        )
        assert loop.ledger.verify().ok


def test_more_rows_than_were_listed_are_not_taken_twice(database):
    database.deliver("part1", rows(JANUARY))
    with database.open() as loop:
        with _taking(loop, EVER, print) as late:
            first = late.deliveries.items("schedules")
            database.deliver("part2", rows(FEBRUARY))
            # Somebody who has listed later is done earlier: with all rows.
            assert len(database.ingest()) == 2
            assert late.take("schedules", first) == []
        assert {p: (v.rows, v.change) for p, v in loop.versions("schedules").items()} == {
            JANUARY: (60, ""),
            FEBRUARY: (60, ""),
        }
