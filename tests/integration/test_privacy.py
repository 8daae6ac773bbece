"""The door in the real ingest: what is declared, what is found, what is told, and what another key may not do."""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from tests.canaries import emails, planted, sweep
from tests.loops import MONTHS, Project, make_loop, schedules

from kaizen.adapters.door import nothing_quoted
from kaizen.adapters.history import read_history
from kaizen.adapters.masking import KeyedHash
from kaizen.adapters.memory_registry import MemoryRegistry
from kaizen.deliveries import Span
from kaizen.doctor import examine
from kaizen.errors import DataRefused, UsageError
from kaizen.ingest import ingest
from kaizen.loop import Loop, open_loop
from kaizen.private_key import FILE
from kaizen.spec import load_spec

JANUARY, FEBRUARY = MONTHS[:2]
KEY = "the key of these tests"


@contextmanager
def opened(project: Project, **data: Any) -> Iterator[Loop]:
    project.write_spec({"data": data})
    with open_loop(project.spec, registry=MemoryRegistry()) as loop:
        yield loop


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_loop(tmp_path / "project", {})


def private(month: str, **more: Any) -> pd.DataFrame:
    return schedules(month).assign(email=emails(len(schedules(month))), **more)


def kept(loop: Loop, table: str, partition: str) -> pd.DataFrame:
    return pq.read_table(loop.store.file(loop.versions(table)[partition].address)).to_pandas()


def tables(**changes: Any) -> dict[str, Any]:
    """The spec's tables with changes of schedules."""
    return {"schedules": {"uri": "landing/schedules/*", "partition": "month", **changes}}


def test_a_column_that_surely_is_private_is_refused_until_something_is_said_of_it(project: Project) -> None:
    project.land("schedules", "x.parquet", private(JANUARY))
    with opened(project) as loop, pytest.raises(DataRefused, match="KZ414") as thrown:
        ingest(loop)
    assert "column email holds e-mail" in str(thrown.value)
    assert sweep(project.home) == []
    with opened(project, private={"email": "drop"}) as loop:
        assert "schedules" in {v.table for v in ingest(loop)}
        assert "email" not in kept(loop, "schedules", JANUARY)


@pytest.mark.parametrize(
    ("data", "told"), [({"detect": "warn"}, 1), ({"detect": "off"}, 0), ({"public": ["email"]}, 0)]
)
def test_what_is_said_of_it_decides(project: Project, data: dict[str, Any], told: int) -> None:
    project.land("schedules", "x.parquet", private(JANUARY))
    said: list[str] = []
    with opened(project, **data) as loop:
        ingest(loop, tell=said.append)
        assert kept(loop, "schedules", JANUARY)["email"].tolist() == emails(372)
    assert sum("column email holds e-mail" in line for line in said) == told


def test_what_only_may_be_private_is_told_and_taken(project: Project) -> None:
    notes = [f"ask {email} first" if i % 3 else "" for i, email in enumerate(emails(372))]
    project.land("schedules", "x.parquet", schedules(JANUARY).assign(note=notes))
    project.land("schedules", "y.parquet", schedules(FEBRUARY).assign(note=notes[: len(schedules(FEBRUARY))]))
    said: list[str] = []
    with opened(project) as loop:
        ingest(loop, tell=said.append)
    (line,) = [line for line in said if "note" in line]
    assert "may hold e-mail" in line
    assert "quorrim" not in line


@pytest.mark.parametrize("policy", [None, "hash"])
def test_a_file_that_would_be_copied_as_it_is_goes_through_the_door_as_well(
    project: Project, policy: str | None
) -> None:
    project.land("stations", "stations.parquet", pd.DataFrame({"origin": emails(300), "platforms": range(300)}))
    if policy is None:
        with opened(project) as loop, pytest.raises(DataRefused, match="KZ414"):
            ingest(loop)
    else:
        with opened(project, private={"origin": policy}) as loop:
            ingest(loop)
            assert kept(loop, "stations", "all")["origin"].str.fullmatch("[0-9a-f]{32}").all()
            assert loop.versions("stations")["all"].private["origin"].startswith("hash ")
    assert sweep(project.home) == []


def test_a_column_has_no_type_to_keep_once_it_is_masked(project: Project) -> None:
    # The first delivery has numbers, the second text, the third a dropped column as well as one that nobody knew.
    policy = {"seat": "hash", "age": {"generalise": 10}, "card": "drop"}
    project.land("schedules", "1.parquet", schedules(JANUARY).assign(seat=5, age=17, card=1))
    project.land("schedules", "2.parquet", schedules(FEBRUARY).assign(seat="5", age=17.5, card="1"))
    with opened(project, private=policy, tables=tables(new_columns="refuse")) as loop:
        ingest(loop)
        assert set(kept(loop, "schedules", JANUARY)["seat"]) == set(kept(loop, "schedules", FEBRUARY)["seat"])
        assert set(kept(loop, "schedules", FEBRUARY)["age"]) == {10}
        project.land("schedules", "3.parquet", schedules(MONTHS[2]).assign(seat=5.0, age=17, card=1))
        (third,) = ingest(loop)
    assert third.added == ()
    assert third.private.keys() == {"seat", "age", "card"}


def test_rows_may_be_cut_by_a_hashed_column(project: Project) -> None:
    platforms = pd.DataFrame({"origin": emails(3) * 4, "platforms": range(12)})
    project.land("stations", "stations.parquet", platforms)
    cut = {"stations": {"uri": "landing/stations/*", "partition": "by origin"}}
    with opened(
        project, private={"origin": "hash"}, tables=cut, suite={"stations": "expectations/schedules.json"}
    ) as loop:
        ingest(loop)
        assert len(loop.versions("stations")) == 3
    assert sweep(project.home) == []


def test_a_time_is_truncated_in_the_zone_of_the_loop_and_stays_in_its_partition(project: Project) -> None:
    project.land("schedules", "x.parquet", schedules(JANUARY))
    with opened(project, private={"departs": {"truncate": "day"}}) as loop:
        assert {v.partition for v in ingest(loop) if v.table == "schedules"} == {JANUARY}
        times = kept(loop, "schedules", JANUARY)["departs"].dt.tz_convert("Europe/Paris")
    assert times.nunique() == 31
    assert (times.dt.hour == 0).all()


def hashed(project: Project, monkeypatch: pytest.MonkeyPatch, key: str, **changes: Any) -> Any:
    monkeypatch.setenv("KAIZEN_SECRET_PII", key)
    return opened(project, private={"email": "hash"}, private_key="pii", tables=tables(**changes))


def test_with_another_key_rows_are_not_added_to_those_of_the_first(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.land("schedules", "1.parquet", private(JANUARY).head(100))
    with hashed(project, monkeypatch, KEY, on_change="append") as loop:
        ingest(loop)
    project.land("schedules", "2.parquet", private(JANUARY).tail(100))
    with hashed(project, monkeypatch, "another key of the tests", on_change="append") as loop:
        with pytest.raises(DataRefused, match="KZ482"):
            ingest(loop)
        assert loop.versions("schedules")[JANUARY].rows == 100
    with hashed(project, monkeypatch, KEY, on_change="append") as loop:
        ingest(loop)
        assert loop.versions("schedules")[JANUARY].rows == 200


def test_a_key_that_is_rotated_between_two_spans_of_one_file_changes_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = pd.concat([private(JANUARY), private(FEBRUARY)], ignore_index=True)
    project.land("schedules", "both.parquet", both)
    with hashed(project, monkeypatch, KEY) as loop:
        ingest(loop, span=Span(until=datetime(2024, 2, 1, tzinfo=UTC)))
        january = loop.versions("schedules")[JANUARY]
    with hashed(project, monkeypatch, "another key of the tests") as loop:
        assert [v.partition for v in ingest(loop) if v.table == "schedules"] == [FEBRUARY]
        assert loop.versions("schedules")[JANUARY] == january


def test_rows_that_have_no_bytes_of_their_own_are_known_again_with_another_key(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A table of a database without a watermark: only its rows tell whether anything is new.
    with sqlite3.connect(project.folder / "stations.db") as database:
        database.execute("CREATE TABLE stations (origin TEXT, platforms INTEGER, manager TEXT)")
        people = [("north", 2, emails(9)[0]), ("south", None, emails(9)[1])]
        database.executemany("INSERT INTO stations VALUES (?, ?, ?)", people)
    source = {"stations": {"uri": "sqlite:///stations.db", "select": "stations", "join": ["origin"]}}
    said = {"private": {"manager": "hash"}, "private_key": "pii", "tables": source}
    monkeypatch.setenv("KAIZEN_SECRET_PII", KEY)
    with opened(project, **said) as loop:
        (first,) = ingest(loop)
    monkeypatch.setenv("KAIZEN_SECRET_PII", "another key of the tests")
    with opened(project, **said) as loop:
        assert ingest(loop) == []
        assert loop.versions("stations")["all"] == first
        with sqlite3.connect(project.folder / "stations.db") as database:
            database.execute("UPDATE stations SET platforms = 3 WHERE origin = 'south'")
        (second,) = ingest(loop)
    assert second.private != first.private
    assert sweep(project.home) == []


def test_a_key_by_name_that_is_not_there_is_refused_before_anything_is_read(project: Project) -> None:
    project.land("schedules", "x.parquet", private(JANUARY))
    with opened(project, private={"email": "hash"}, private_key="pii") as loop:
        with pytest.raises(UsageError, match="KZ260"):
            ingest(loop)
        assert loop.versions("schedules") == {}
        assert not (loop.home / FILE).exists()


def test_somebody_who_is_known_can_be_found_with_the_key(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.land("schedules", "x.parquet", private(JANUARY))
    with hashed(project, monkeypatch, KEY) as loop:
        ingest(loop)
        rows = kept(loop, "schedules", JANUARY)
    found = rows[rows["email"] == KeyedHash(KEY.encode()).value(emails(8)[7])]
    assert found["departs"].tolist() == [schedules(JANUARY)["departs"][7]]


def test_a_history_that_is_replayed_is_masked_before_it_lands_again(project: Project) -> None:
    for month in MONTHS[:4]:
        project.land("schedules", f"{month}.parquet", planted(schedules(month)))
        project.land_outcomes(month)
    policies = {"email": "hash", "passenger": {"truncate": 1}, "card": "drop", "iban": {"truncate": 2}, "train": "hash"}
    project.write_spec({"data": {"private": policies}})
    history = read_history(load_spec(project.spec), project.spec)
    january = history["schedules"][JANUARY]
    assert january["email"].str.fullmatch("[0-9a-f]{32}").all()
    assert set(january["iban"]) == {"DE"}
    assert "card" not in january
    assert set(january["train"]) == set(history["outcomes"][JANUARY]["train"])


def test_a_database_that_quotes_a_value_is_not_quoted(project: Project, tmp_path: Path) -> None:
    import sqlalchemy as sa

    from kaizen.adapters.sql_rows import reading

    def insert() -> None:
        with reading(sa.create_engine("sqlite://"), "here") as connection:
            connection.execute(sa.text("CREATE TABLE people (n INTEGER CHECK (typeof(n) = 'integer'))"))
            connection.execute(sa.text("INSERT INTO people VALUES ('quorrim')"))

    with pytest.raises(DataRefused, match="KZ465") as thrown:
        insert()
    assert thrown.value.value == "IntegrityError"
    assert thrown.value.__suppress_context__


def test_an_error_that_nobody_foresaw_is_told_without_its_text(project: Project) -> None:
    project.write_spec({"data": {"private": {"email": "hash"}}})
    with pytest.raises(DataRefused, match="KZ483") as thrown, nothing_quoted(load_spec(project.spec), "x.parquet"):
        int("quorrim@example.org")
    assert "ValueError at test_privacy.py, line" in str(thrown.value)
    assert "quorrim" not in "".join(traceback.format_exception(thrown.value))
    with pytest.raises(DataRefused, match="KZ401"), nothing_quoted(load_spec(project.spec), "x.parquet"):
        raise DataRefused("KZ401", "as it is")
    project.write_spec()
    with pytest.raises(ValueError, match="quorrim"), nothing_quoted(load_spec(project.spec), "x.parquet"):
        int("quorrim@example.org")


# doctor


def lines(project: Project) -> dict[str, Any]:
    return {f.name: f for f in examine(project.spec)}


def test_doctor_tells_of_the_key_and_of_columns_that_never_came(project: Project, monkeypatch) -> None:
    project.write_spec({"data": {"private": {"email": "hash", "phone": "drop"}}})
    assert "is made by the first ingest" in lines(project)["private key"].found
    project.land("schedules", "x.parquet", private(JANUARY))
    with open_loop(project.spec, registry=MemoryRegistry()) as loop:
        ingest(loop)
    found = lines(project)
    assert (found["private key"].status, found["private columns"].status) == ("ok", "missing")
    assert found["private columns"].found == "in no table: phone"
    key = project.home / "loops" / "rail" / "delays" / FILE
    key.chmod(0o640)
    assert (lines(project)["private key"].status, "KZ263" in lines(project)["private key"].found) == ("broken", True)
    # Lost: another would not meet what it hashed.
    key.unlink()
    project.land("schedules", "y.parquet", private(FEBRUARY))
    with open_loop(project.spec, registry=MemoryRegistry()) as loop, pytest.raises(UsageError, match="KZ264"):
        ingest(loop)
    assert not key.exists()
    assert "KZ264" in lines(project)["private key"].found
    key.write_text("a key of somebody else")
    key.chmod(0o600)
    with open_loop(project.spec, registry=MemoryRegistry()) as loop, pytest.raises(UsageError, match="KZ264"):
        ingest(loop)
    # A key with a name is rotated on purpose.
    monkeypatch.setenv("KAIZEN_SECRET_PII", KEY)
    project.write_spec({"data": {"private": {"email": "hash"}, "private_key": "pii"}})
    with open_loop(project.spec, registry=MemoryRegistry()) as loop:
        ingest(loop)
    assert "but there is data of" in lines(project)["private key"].found
    monkeypatch.delenv("KAIZEN_SECRET_PII")
    project.write_spec({"data": {"private": {"email": "hash"}, "private_key": "pii"}})
    assert "KZ260" in lines(project)["private key"].found


def test_doctor_says_nothing_of_keys_where_nothing_is_hashed(project: Project) -> None:
    assert not {"private key", "private columns"} & lines(project).keys()
