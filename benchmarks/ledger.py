"""What a ledger costs as it grows: reads of the head and of the state, appends by one and by many processes.

The peer, in the same run: INSERT and COMMIT of the same row into a table of the same columns, constraints and length,
through the same driver, with nothing around it. Both are durable: every commit is on disk.

    python benchmarks/ledger.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "core")]  # a checkout need not be installed

from tests.services import NotInstalledError, fresh_database, fresh_postgres  # noqa: E402

from kaizen.ledger import Ledger, NewEvent, open_ledger  # noqa: E402

FreshUrl = Callable[[], AbstractContextManager[str]]
LOOP = "nyc/flights"
AT = datetime(2013, 3, 1, tzinfo=UTC)
PAYLOAD = {"kind": "DataVersion", "version": 1, "table": "flights", "sha256": "0" * 64, "rows": 27004, "columns": {}}
COLUMNS = "loop, subject, subject_seq, kind, key, turn, at, actor, payload, prev_hash, hash"
ROW = (
    "{database:12}{events:>9,}{head_ms:>9.2f}{state_ms:>10.2f}{writers:>9}"
    "{appends_per_s:>11,.0f}{bare_inserts_per_s:>9,.0f}"
)
PROCESSES = multiprocessing.get_context("forkserver")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two short histories, four writers: about 20 s")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    sizes, writers, seconds = ((10, 1_000), 4, 0.3) if asked.quick else ((10, 1_000, 100_000), 16, 2.0)
    PROCESSES.set_forkserver_preload(["kaizen.adapters.sql_ledger"])
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} CPUs")
    print("database       events  head ms  state ms  writers  appends/s   bare/s")
    figures: list[dict[str, Any]] = []
    for ledgers in (sqlite_files, postgres_databases):
        try:
            with ledgers() as fresh_url:
                for size in sizes:
                    figures += measured(fresh_url, size, (1, writers), seconds)
        except NotInstalledError as reason:
            print(f"postgresql  skipped: {reason}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


@contextmanager
def sqlite_files() -> Iterator[FreshUrl]:
    with tempfile.TemporaryDirectory() as folder:

        @contextmanager
        def fresh_url() -> Iterator[str]:
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".db") as file:
                yield f"sqlite:///{file.name}"

        yield fresh_url


@contextmanager
def postgres_databases() -> Iterator[FreshUrl]:
    with fresh_postgres(fsync=True) as server:
        yield lambda: fresh_database(server)


def measured(fresh_url: FreshUrl, size: int, writers: tuple[int, ...], seconds: float) -> Iterator[dict[str, Any]]:
    with fresh_url() as url:
        with open_ledger(url) as ledger:
            fill(ledger, size)
            head = median_ms(lambda: ledger.head(LOOP, "data/table-0"), seconds)
            state = median_ms(lambda: ledger.heads(LOOP), seconds)
        copy_to_bare_table(url)
        for count in writers:
            row = {"database": sa.make_url(url).get_backend_name(), "events": size, "head_ms": head, "state_ms": state}
            row["writers"] = count
            row["appends_per_s"] = rate(append, url, count, seconds)
            row["bare_inserts_per_s"] = rate(insert, url, count, seconds)
            print(ROW.format(**row), flush=True)
            yield row


def fill(ledger: Ledger, size: int) -> None:
    """Histories of nine subjects: eight tables and a champion, as a loop has them."""
    for start in range(0, size, 1000):
        ledger.append_all(LOOP, [event(f"table-{n % 8}", f"fill-{n}") for n in range(start, min(start + 1000, size))])
    ledger.append(LOOP, "champion", "Promotion", "first", {"champion": 1}, turn="t1", at=AT, actor="benchmark")


def event(table: str, key: str) -> NewEvent:
    return NewEvent(f"data/{table}", "DataVersion", key, PAYLOAD, turn="t1", at=AT, actor="benchmark")


def median_ms(read: Callable[[], object], seconds: float) -> float:
    times, end = [], time.perf_counter() + min(seconds, 1.0)
    while time.perf_counter() < end:
        start = time.perf_counter()
        read()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def rate(work: Callable[..., None], url: str, writers: int, seconds: float) -> float:
    """Commits per second, all writers together; each counts by its own clock from a common start."""
    start, rates = PROCESSES.Barrier(writers), PROCESSES.Array("d", writers)
    processes = [PROCESSES.Process(target=work, args=(url, n, seconds, start, rates)) for n in range(writers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a writer failed")
    return float(sum(rates[:]))


def append(url: str, writer: int, seconds: float, start: Barrier, rates: Any) -> None:
    with open_ledger(url) as ledger:
        rates[writer] = repeat(
            lambda n: ledger.append_all(LOOP, [event(f"w{writer}", f"{os.getpid()}-{n}")]), seconds, start
        )


def insert(url: str, writer: int, seconds: float, start: Barrier, rates: Any) -> None:
    with closing(connect(url)) as connection:
        statement = f"INSERT INTO bare ({COLUMNS}) VALUES ({', '.join([placeholder(url)] * 11)})"
        payload, hashed = json.dumps(PAYLOAD), "0" * 64
        subject = f"{writer}-{os.getpid()}"

        def commit(n: int) -> None:
            row = (LOOP, subject, n, "DataVersion", f"{subject}-{n}", "t1", AT.isoformat(), "benchmark", payload)
            connection.execute(statement, (*row, hashed, hashed))

        rates[writer] = repeat(commit, seconds, start)


def repeat(commit: Callable[[int], object], seconds: float, start: Barrier) -> float:
    start.wait()
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        commit(done)
        done += 1
    return done / (time.perf_counter() - begin)


def connect(url: str) -> Any:
    """The bare driver, one transaction per statement."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(sa.make_url(url).database or "", timeout=30, isolation_level=None)
        connection.execute("PRAGMA synchronous=FULL")
        return connection
    import psycopg

    return psycopg.connect(url, autocommit=True)


def placeholder(url: str) -> str:
    return "?" if url.startswith("sqlite") else "%s"


def copy_to_bare_table(url: str) -> None:
    counter = "INTEGER PRIMARY KEY" if url.startswith("sqlite") else "BIGSERIAL PRIMARY KEY"
    columns = ", ".join(f"{c} {'BIGINT' if c == 'subject_seq' else 'TEXT'} NOT NULL" for c in COLUMNS.split(", "))
    unique = "UNIQUE (loop, subject, subject_seq), UNIQUE (loop, kind, key)"
    with closing(connect(url)) as connection:
        connection.execute(f"CREATE TABLE bare (position {counter}, {columns}, {unique})")
        connection.execute("CREATE INDEX bare_in_order ON bare (loop, position)")
        connection.execute(f"INSERT INTO bare ({COLUMNS}) SELECT {COLUMNS} FROM event")


if __name__ == "__main__":
    main()
