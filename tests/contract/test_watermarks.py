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

import pytest
import sqlalchemy as sa
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.loops import SPEC, Project, make_loop, merged

from kaizen.adapters.memory_registry import MemoryRegistry
from kaizen.adapters.sql_rows import quote
from kaizen.adapters.tables import read_parquet
from kaizen.calendar import bounds
from kaizen.deliveries import EVER, Span
from kaizen.errors import DataRefused, PartitionConflict, SpecError
from kaizen.ingest import _taking, has_landed, ingest
from kaizen.loop import open_loop
from kaizen.records import Delivery, ValidationReport
from kaizen.sources import Wanted, Whence, Whole, find_items
from kaizen.spec import load_spec

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
            connection.exec_driver_sql("DROP TABLE IF EXISTS trips")
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


def test_whoever_only_looks_sees_a_late_row_too(bench: Bench) -> None:
    """As the triggerer of Airflow does, which does not know what was taken."""
    bench.write_spec(lag=5)
    table = load_spec(bench.project.spec).data.tables["schedules"]

    def look() -> str:
        (item,) = find_items(table, Whence(bench.project.folder))
        return item.stamp()

    bench.insert(number(1), number(4))
    before = look()
    assert look() == before
    bench.insert(number(3))
    assert look() != before


def test_rows_come_many_at_a_time(bench: Bench) -> None:
    bench.insert(*(number(n, hours=n) for n in range(60)))
    table = load_spec(bench.project.spec).data.tables["schedules"]
    whole = Whole("departs", "Europe/Paris", ("departs", "train"), lambda partition: True)
    for whence in (Whence(bench.project.folder), Whence(bench.project.folder, whole=whole)):
        (item,) = find_items(table, whence)
        assert [batch.num_rows for batch in item.batches(Wanted("trips"))] == [60]


def test_without_a_lag_it_is_not_seen(bench: Bench) -> None:
    bench.insert(number(1), number(4))
    bench.ingest()
    bench.insert(number(3))
    assert not bench.has_landed()
    assert bench.ingest() == {}


def test_of_two_transactions_the_one_that_began_later_ends_first(postgres_url: str, tmp_path: Path) -> None:
    bench = Bench.make(tmp_path / "project", postgres_url, watermark="changed", lag="1h", on_change="replace")
    now = datetime(2024, 5, 1, tzinfo=UTC)
    with bench.engine.connect() as slow, bench.engine.connect() as fast:
        bench.insert(number(1), number(3), connection=slow, changed=[now, now])
        bench.insert(number(2), number(4), connection=fast, changed=[now + timedelta(minutes=1)] * 2)
        fast.commit()
        assert bench.ingest() == {"2024-01": (1, ""), "2024-02": (1, "")}
        assert bench.ingest() == {}
        slow.commit()
    assert bench.ingest() == {"2024-01": (2, "grew"), "2024-02": (2, "grew")}
    bench.assert_all_once()


def test_a_row_that_changes_takes_the_place_of_the_one_before_or_is_refused(bench: Bench) -> None:
    bench.write_spec(watermark="changed", lag="10m", on_change="replace")
    bench.insert(number(1), number(2), number(4))
    bench.ingest()
    later = (START + timedelta(minutes=3)).isoformat()
    cast = "CAST(:at AS TIMESTAMPTZ)" if bench.is_postgres else ":at"
    change = f"UPDATE trips SET distance = :distance, changed = {cast} WHERE id = 1"
    # Behind the watermark, in a transaction that was slow.
    bench.execute(change, distance=99.0, at=later)
    assert bench.ingest() == {"2024-01": (2, "replaced")}
    bench.assert_all_once()
    bench.write_spec(watermark="changed", lag="10m", on_change="append")
    bench.execute(change, distance=98.0, at=later)
    before = bench.events()
    with pytest.raises(PartitionConflict) as refused:
        bench.ingest()
    assert (refused.value.code, refused.value.value) == (
        "KZ430",
        "1 rows that were there before are gone, or others now",
    )
    assert bench.events() == before


def test_with_replace_a_partition_comes_whole_when_rows_are_added_to_it(bench: Bench) -> None:
    bench.write_spec(on_change="replace")
    bench.insert(number(1), number(2))
    bench.ingest()
    bench.insert(number(3), number(4, hours=2))
    assert bench.ingest() == {"2024-01": (3, "grew"), "2024-02": (1, "")}
    bench.assert_all_once()
    bench.execute("DELETE FROM trips WHERE id = 1")
    bench.insert(number(5, hours=3))
    assert bench.ingest() == {"2024-01": (3, "replaced")}
    bench.assert_all_once()


@pytest.mark.parametrize("partition", [None, "file", "by origin"])
def test_partitions_that_are_no_times_come_whole_too(bench: Bench, partition: str | None) -> None:
    stations = {"uri": bench.uri, "select": "trips", "watermark": "id", "on_change": "replace", "partition": partition}
    with_stations = {"columns": ["origin", "distance"], "join": ["origin"], "clean": {"duplicates": "keep_last"}}
    spec = yaml.safe_load(bench.project.spec.read_text())
    spec["data"]["tables"]["stations"] = {**stations, **with_stations}
    spec["problem"]["features"] = ["distance"]
    bench.project.spec.write_text(yaml.safe_dump(spec))

    def stations_kept() -> dict[str, int]:
        bench.ingest()
        with bench.open() as loop:
            return {p: v.rows for p, v in loop.versions("stations").items()}

    bench.insert(number(1), number(2))
    names = {None: ["all"] * 2, "file": ["trips"] * 2, "by origin": ["L1", "L2"]}[partition]
    assert stations_kept() == {name: names.count(name) for name in names}
    bench.insert(number(4))
    names = {None: ["all"] * 3, "file": ["trips"] * 3, "by origin": ["L1", "L1", "L2"]}[partition]
    assert stations_kept() == {name: names.count(name) for name in names}
    bench.assert_all_once()


def test_a_partition_that_validation_refused_is_replaced_by_all_of_it(bench: Bench) -> None:
    bench.insert(number(1), number(2), number(4))
    bench.ingest()
    with bench.open() as loop:
        version = loop.versions("schedules")["2024-01"]
        report = ValidationReport(
            "schedules", "2024-01", version.digest, "", "refused", 0, 0, 0, 0, (), None, None, "too far"
        )
        loop.ledger.append_all(loop.name, [loop.new_event("validation/schedules/2024-01", report, "refused")])
    bench.execute("UPDATE trips SET distance = 5 WHERE id = 1")
    bench.insert(number(5, hours=2), number(6))
    assert bench.ingest() == {"2024-01": (3, "replaced"), "2024-03": (1, "")}
    bench.insert(number(7, hours=3))
    assert bench.ingest() == {"2024-01": (4, "grew")}
    bench.assert_all_once()


@pytest.mark.parametrize("policy", ["append", "replace"])
@pytest.mark.parametrize("lag", [None, 5], ids=["", "lag"])
def test_a_range_is_taken_ahead_of_the_watermark_and_the_rest_later(bench: Bench, policy: str, lag: int | None) -> None:
    bench.write_spec(on_change=policy, lag=lag)
    bench.insert(number(1), number(3), number(4), number(6))
    assert bench.ingest(month("2024-02")) == {"2024-02": (2, "")}
    assert bench.watermark() == ""
    before = bench.events()
    assert bench.ingest(month("2024-02")) == {}
    assert bench.ingest(month("2024-02")) == {}
    assert bench.events() == before
    assert bench.ingest() == {"2024-01": (1, ""), "2024-03": (1, "")}
    assert bench.watermark() == "6"
    bench.assert_all_once()
    # Some of a partition lies before the watermark, some beyond it.
    bench.insert(number(7, hours=800), number(8))
    assert bench.ingest(month("2024-02")) == {"2024-02": (3, "grew")}
    assert bench.watermark() == "6"
    bench.insert(number(9, hours=801))
    assert bench.ingest() == {"2024-02": (4, "grew"), "2024-04": (1, "")}
    bench.assert_all_once()
    bench.insert(number(10, hours=802))
    assert bench.ingest() == {"2024-02": (5, "grew")}
    bench.assert_all_once()


def test_a_range_ends_where_the_loop_s_zone_says_and_may_be_empty(bench: Bench) -> None:
    last = bounds("2024-02", PARIS)[1]
    hours = [(moment - START) / timedelta(hours=1) for moment in (last - timedelta(seconds=1), last)]
    bench.insert(number(1, hours=hours[0]), number(2, hours=hours[1]))
    assert bench.ingest(month("2024-01")) == {}
    assert bench.ingest(month("2024-02")) == {"2024-02": (1, "")}
    # What is only partly in a range is not in it.
    assert bench.ingest(Span(since=last + timedelta(seconds=1))) == {}
    assert bench.ingest(Span(since=last)) == {"2024-03": (1, "")}
    bench.ingest()
    bench.assert_all_once()


def test_two_at_once_take_each_row_once(bench: Bench) -> None:
    """The one that has listed first is done last; both have the same new rows of a partition."""
    bench.write_spec(lag=5, on_change="replace")
    bench.insert(number(1), number(4))
    bench.ingest()
    with bench.open() as loop, _taking(loop, EVER, print) as late:
        bench.insert(number(2))
        listed = late.deliveries.items("schedules")
        assert late.known_of("schedules").versions.keys() == {"2024-01", "2024-02"}
        bench.insert(number(3))
        assert bench.ingest() == {"2024-01": (2, "grew"), "2024-02": (2, "grew")}
        assert late.take("schedules", listed) == []
    bench.assert_all_once()


def test_what_comes_between_the_look_and_the_reading_is_for_the_next_call(bench: Bench) -> None:
    bench.insert(number(1), number(4))
    bench.ingest(month("2024-01"))
    with bench.open() as loop, _taking(loop, EVER, print) as taking:
        listed = taking.deliveries.items("schedules")
        bench.insert(number(5, hours=1))
        assert [v.partition for v in taking.take("schedules", listed)] == ["2024-02"]
    assert bench.watermark() == "4"
    assert bench.ingest() == {"2024-01": (2, "grew")}
    bench.assert_all_once()


@pytest.mark.parametrize(
    "form",
    ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y%m%dT%H%M%S+0000", "DATE", "TIMESTAMP"],
)
def test_times_in_whatever_form_say_which_partitions_are_asked_for(
    form: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    native = form in ("DATE", "TIMESTAMP")
    url = request.getfixturevalue("postgres_url") if native else f"sqlite:///{tmp_path}"
    bench = Bench.make(tmp_path / "project", url, lag=5, on_change="replace")
    if native:
        bench.execute(f"ALTER TABLE trips ALTER departs TYPE {form} USING departs AT TIME ZONE 'UTC'")

    def insert(*rows: Row) -> None:
        bench.insert(*rows)
        for n, departs, _, _ in rows if not native else ():
            bench.execute("UPDATE trips SET departs = :at WHERE id = :id", at=departs.strftime(form), id=n)

    insert(number(1), number(2), number(4), number(5))
    assert bench.ingest() == {"2024-01": (2, ""), "2024-02": (1, ""), "2024-03": (1, "")}
    insert(number(3, hours=700), number(6, hours=1))
    assert bench.ingest(month("2024-01")) == {"2024-01": (4, "grew")}
    insert(number(7, hours=24 * 29))
    assert bench.ingest() == {"2024-01": (5, "grew")}
    bench.assert_all_once()


def test_a_lag_of_another_kind_than_the_watermark_is_refused(bench: Bench) -> None:
    bench.insert(number(1))
    for watermark, lag in (("id", "5m"), ("changed", 5), ("train", "5m")):
        bench.write_spec(watermark=watermark, lag=lag)
        with pytest.raises(SpecError, match="KZ361") as refused:
            bench.ingest()
        assert refused.value.where == "data.tables.schedules.lag"


def test_an_infinite_date_is_refused_until_the_query_says_what_it_is(postgres_url: str, tmp_path: Path) -> None:
    bench = Bench.make(tmp_path / "project", postgres_url, columns=[*COLUMNS, "until"])
    bench.insert(number(1))
    bench.execute("ALTER TABLE trips ADD COLUMN until DATE")
    bench.execute("UPDATE trips SET until = 'infinity'")
    with pytest.raises(DataRefused, match="KZ465") as refused:
        bench.ingest()
    assert "nullif(COLUMN, 'infinity')" in str(refused.value)
    named = ", ".join(["id", *COLUMNS])
    bench.write_spec(
        columns=[*COLUMNS, "until"], select=f"SELECT {named}, nullif(until, 'infinity') AS until FROM trips"
    )
    assert bench.ingest() == {"2024-01": (1, "")}


@pytest.mark.parametrize("lag", [{}, {"lag": 5}], ids=["", "lag"])
@pytest.mark.parametrize("on_change", ["append", "replace"])
def test_only_the_columns_that_are_wanted_are_asked_for(
    postgres_url: str, tmp_path: Path, on_change: str, lag: dict[str, int]
) -> None:
    bench = Bench.make(tmp_path / "project", postgres_url, on_change=on_change, **lag)
    bench.insert(number(1))
    # Whoever reads it is refused.
    bench.execute("ALTER TABLE trips ADD COLUMN until DATE DEFAULT 'infinity'")
    assert bench.ingest() == {"2024-01": (1, "")}
    bench.assert_all_once()


@pytest.mark.parametrize("on_change", ["append", "replace"])
@pytest.mark.parametrize("name", ["a:b", ":id", "100%", "%(id)s", 'say "x"', "a.b", "Order", "select", "é"])
def test_a_column_may_have_any_name(bench: Bench, on_change: str, name: str) -> None:
    bench.insert(number(1))
    bench.execute(f"ALTER TABLE trips ADD COLUMN {quote(bench.engine, name)} INTEGER DEFAULT 7")
    assert name in {column["name"] for column in sa.inspect(bench.engine).get_columns("trips")}
    bench.write_spec(columns=[*COLUMNS, name], on_change=on_change)
    assert bench.ingest() == {"2024-01": (1, "")}
    with bench.open() as loop:
        assert read_parquet(loop.store.file(loop.versions("schedules")["2024-01"].address))[name].tolist() == [7]


def test_a_query_may_hold_colons(bench: Bench) -> None:
    bench.insert(number(1))
    cast = "::text" if bench.is_postgres else ""
    bench.write_spec(select=f"""SELECT * FROM trips WHERE '{{"a":1}}'{cast} <> ':low'""")
    assert bench.ingest() == {"2024-01": (1, "")}


# Whatever comes in whatever order.

Step = tuple[str, Any]


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Rows in the order in which they are seen, each at most 4 behind a later one; between them calls and ranges."""
    count = draw(st.integers(3, 10))
    delays = draw(st.lists(st.floats(0, 4.9), min_size=count, max_size=count))
    hours = draw(st.lists(st.integers(0, 24 * 85), min_size=count, max_size=count))
    rows = [number(n + 1, hours=hours[n]) for n in range(count)]
    steps: list[Step] = [("insert", row) for row in sorted(rows, key=lambda row: row[0] + delays[row[0] - 1])]
    for _ in range(draw(st.integers(1, 4))):
        asked = draw(st.sampled_from(["", "2024-01", "2024-02", "2024-03"]))
        steps.insert(draw(st.integers(1, len(steps))), ("ingest", asked))
    return steps


@pytest.mark.parametrize("policy", ["append", "replace"])
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=histories())
def test_rows_in_any_order_within_the_lag_are_all_taken_once(
    policy: str, steps: list[Step], url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bench = Bench.make(tmp_path_factory.mktemp("any") / "project", url, lag=5, on_change=policy)
    for what, value in steps:
        if what == "insert":
            bench.insert(value)
        else:
            bench.ingest(month(value) if value else EVER)
            kept = bench.kept()
            assert len(set(kept)) == len(kept)
            assert set(kept) <= set(bench.there())
    bench.ingest()
    bench.assert_all_once()


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=histories())
def test_without_a_lag_rows_in_their_order_are_all_taken_once_between_ranges(
    steps: list[Step], url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bench = Bench.make(tmp_path_factory.mktemp("any") / "project", url)
    rows = iter(sorted(value for what, value in steps if what == "insert"))
    for what, value in steps:
        if what == "insert":
            bench.insert(next(rows))
        else:
            bench.ingest(month(value) if value else EVER)
            kept = bench.kept()
            assert len(set(kept)) == len(kept)
    bench.ingest()
    bench.assert_all_once()
