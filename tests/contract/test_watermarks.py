"""One contract for tables with a watermark, in each database: nothing is missed, nothing is doubled.

Rows may be seen later than others with a higher watermark (``lag``), partitions are taken ahead of it (a range), and
whatever is asked for again changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
import sqlalchemy as sa
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.loops import SPEC, Project, make_loop, merged
from tests.services import fresh_database

from kaizen.adapters.memory_registry import MemoryRegistry
from kaizen.adapters.tables import read_parquet
from kaizen.calendar import bounds
from kaizen.errors import DataRefused, PartitionConflict, SpecError
from kaizen.ingest import EVER, Span, _taking, has_landed, ingest
from kaizen.loop import open_loop
from kaizen.records import Delivery

PARIS = ZoneInfo("Europe/Paris")
START = datetime(2024, 1, 1, tzinfo=UTC)
COLUMNS = ["departs", "train", "origin", "distance", "express"]
Row = tuple[int, datetime, str, float]
"""Number, departs, train, distance."""

TABLE = {
    "sqlite": "id INTEGER, departs TEXT, train TEXT, distance REAL, express INTEGER, changed TEXT, origin TEXT",
    "postgresql": "id BIGINT, departs TIMESTAMPTZ, train TEXT, distance FLOAT8, express BOOL, changed TIMESTAMPTZ, "
    "origin TEXT",
}


def number(n: int, hours: float | None = None, distance: float = 10.0) -> Row:
    """A row that departs after so many hours of the year: 300 of them are 12.5 days."""
    return n, START + timedelta(hours=300 * n if hours is None else hours), f"T{n}", distance + n


@dataclass
class Bench:
    """A loop whose schedules are a table of a database; ``id`` and ``changed`` grow with it."""

    project: Project
    engine: sa.Engine
    uri: str

    @classmethod
    def make(cls, folder: Path, url: str, **table: Any) -> Bench:
        project = make_loop(folder)
        sqlite = url.startswith("sqlite")
        path = project.folder / "in.db"
        engine = sa.create_engine(
            f"sqlite:///{path}" if sqlite else url.replace("postgresql:", "postgresql+psycopg:", 1),
            poolclass=sa.NullPool,
        )
        bench = cls(project, engine, "sqlite:///in.db" if sqlite else url)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE TABLE trips ({TABLE[engine.dialect.name]})")
        bench.write_spec(**table)
        return bench

    def write_spec(self, **table: Any) -> None:
        known = {"uri": self.uri, "select": "trips", "watermark": "id", "on_change": "append", "columns": COLUMNS}
        tables = {
            "schedules": {"partition": "month", **known, **table},
            "stations": SPEC["data"]["tables"]["stations"],
            "outcomes": None,
        }
        problem = {"features": ["distance"], "target": "express", "label": None}
        spec = merged(SPEC, {"problem": problem, "data": {"tables": tables, "suite": None, "outcomes": []}})
        self.project.spec.write_text(yaml.safe_dump(spec), encoding="utf-8")

    def insert(self, *rows: Row, connection: sa.Connection | None = None, changed: Sequence[datetime] = ()) -> None:
        values = [
            {
                "id": n,
                "departs": departs if self.is_postgres else departs.isoformat(),
                "train": train,
                "distance": distance,
                "express": n % 2 == 0,
                "origin": f"L{n % 3}",
                "changed": moment if self.is_postgres else moment.isoformat(),
            }
            for (n, departs, train, distance), moment in zip(
                rows, changed or [START + timedelta(minutes=row[0]) for row in rows], strict=True
            )
        ]
        statement = sa.text("INSERT INTO trips VALUES (:id, :departs, :train, :distance, :express, :changed, :origin)")
        if connection is not None:
            connection.execute(statement, values)
            return
        with self.engine.begin() as own:
            own.execute(statement, values)

    def execute(self, statement: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), values)

    @property
    def is_postgres(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def open(self) -> Any:
        return open_loop(self.project.spec, home=self.project.home, registry=MemoryRegistry())

    def ingest(self, span: Span = EVER) -> dict[str, tuple[int, str]]:
        """What a call adds: rows and change by partition."""
        with self.open() as loop:
            return {v.partition: (v.rows, v.change) for v in ingest(loop, span=span) if v.table == "schedules"}

    def has_landed(self) -> bool:
        with self.open() as loop:
            return has_landed(loop)

    def events(self) -> int:
        with self.open() as loop:
            assert loop.ledger.verify().ok
            return len(list(loop.ledger.events(loop.name)))

    def watermark(self) -> str:
        with self.open() as loop:
            head = loop.ledger.head(loop.name, "source/schedules")
            return Delivery.from_json(head.payload).watermark

    def kept(self) -> list[tuple[str, float]]:
        """Train and distance of all rows of the newest versions, each in the partition of its time."""
        found = []
        with self.open() as loop:
            for partition, version in loop.versions("schedules").items():
                frame = read_parquet(loop.store.file(version.address))
                assert set(frame["departs"].dt.tz_convert(PARIS).dt.strftime("%Y-%m")) <= {partition}
                found += zip(frame["train"], frame["distance"], strict=True)
        return sorted(found)

    def there(self) -> list[tuple[str, float]]:
        with self.engine.connect() as connection:
            return sorted(tuple(row) for row in connection.execute(sa.text("SELECT train, distance FROM trips")))

    def assert_all_once(self) -> None:
        """What is kept are the table's rows, and asking again changes nothing."""
        assert self.kept() == self.there()
        assert not self.has_landed()
        before = self.events()
        assert self.ingest() == {}
        assert self.events() == before


def month(key: str) -> Span:
    return Span(*bounds(key, PARIS))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def bench(url: str, tmp_path: Path) -> Bench:
    return Bench.make(tmp_path / "project", url)


LAGS = [{"watermark": "id", "lag": 5}, {"watermark": "changed", "lag": "5m"}]
"""Of numbers and of times, one a minute."""


@pytest.mark.parametrize(
    "table",
    [{**lag, "on_change": policy} for lag in LAGS for policy in ("append", "replace")],
    ids=lambda table: f"{table['watermark']} {table['on_change']}",
)
def test_a_row_that_is_seen_late_is_taken_once(bench: Bench, table: dict[str, Any]) -> None:
    bench.write_spec(**table)
    bench.insert(number(1), number(2), number(4))
    assert bench.ingest() == {"2024-01": (2, ""), "2024-02": (1, "")}
    assert not bench.has_landed()
    bench.insert(number(3))
    assert bench.has_landed()
    assert bench.ingest() == {"2024-02": (2, "grew")}
    bench.assert_all_once()
    # With a new one beside it.
    bench.insert(number(7))
    assert bench.ingest() == {"2024-03": (1, "")}
    bench.insert(number(8), number(5, hours=1))
    assert bench.ingest() == {"2024-01": (3, "grew"), "2024-04": (1, "")}
    bench.assert_all_once()


def test_without_a_lag_it_is_not_seen(bench: Bench) -> None:
    bench.insert(number(1), number(4))
    bench.ingest()
    bench.insert(number(3))
    assert not bench.has_landed()
    assert bench.ingest() == {}
