"""Bad input, one golden table: each is refused by one error with a stable code, and nothing is changed; or is taken.

``golden/refusals.txt`` is what a person reads on stderr, after the exit code, with paths and ports made plain;
``golden/taken.txt`` what a person, or the record, says of input that is taken, and what it added to the state.
KAIZEN_GOLDEN=write writes them anew.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.loops import (
    LOOP,
    MONTHS,
    Ended,
    Project,
    WarmProcesses,
    cold_kaizen,
    make_loop,
    outcomes,
    schedules,
    stations,
)

from kaizen.canonical import digest
from kaizen.store import Store

GOLDEN = Path(__file__).parent / "golden" / "refusals.txt"
TAKEN_GOLDEN = GOLDEN.with_name("taken.txt")
TABLE = GOLDEN.with_name("bad_input.md")
MARCH, APRIL = MONTHS[2:4]


@dataclass(frozen=True)
class Case:
    """One way to go wrong.

    Attributes:
        spec: what is changed in the spec. land: delivers, or breaks, something. argv, env: of ``kaizen turn``.
        fresh: with two months that nobody has seen, instead of after the first turn.
        stages: those that are right to do their work; they come before the state is taken.
        number: of the kind of bad input, in the table ``golden/bad_input.md``.
    """

    spec: Mapping[str, Any] = field(default_factory=dict)
    land: Callable[[Project], object] = lambda project: None
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False
    stages: tuple[str, ...] = ()
    number: str = ""


def march(**changes: Any) -> Callable[[Project], object]:
    """Deliver March's schedules with some columns changed."""
    return lambda project: project.land("schedules", "march.parquet", schedules(MARCH).assign(**changes))


def march_frame(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Project], object]:
    return lambda project: project.land("schedules", "march.parquet", change(schedules(MARCH)))


def march_bytes(name: str, change: Callable[[bytes], bytes]) -> Callable[[Project], object]:
    """Deliver March's schedules as Parquet or CSV, by ``name``, with the file's bytes changed."""

    def land(project: Project) -> None:
        path = project.landing / "schedules" / name
        rows = schedules(MARCH)
        if name.endswith(".parquet"):
            rows.to_parquet(path, index=False)
        else:
            text = rows.to_csv(index=False).encode()
            path.write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)
        path.write_bytes(change(path.read_bytes()))

    return land


def change_cell(data: bytes, *, row: int, column: int, value: bytes) -> bytes:
    """A CSV text with another value in one cell; ``row`` 1 is the first after the header."""
    lines = data.split(b"\n")
    cells = lines[row].split(b",")
    lines[row] = b",".join([*cells[:column], value, *cells[column + 1 :]])
    return b"\n".join(lines)


def suite(text: str) -> Callable[[Project], object]:
    return lambda project: (project.folder / "expectations" / "schedules.json").write_text(text)


def column_twice(project: Project) -> None:
    rows = pa.Table.from_pandas(schedules(MARCH))
    pq.write_table(rows.append_column("rain", rows["rain"]), project.landing / "schedules" / "march.parquet")


def one_class(project: Project) -> None:
    for month in MONTHS[:2]:
        project.land("outcomes", f"{month}.parquet", outcomes(month).assign(delay=0.0))


def contradiction(project: Project) -> None:
    """Somebody says of the punctual trains of these months that they were late."""
    for month in MONTHS[:2]:
        rows = outcomes(month)
        project.land("asked", f"{month}.parquet", rows.assign(delay=rows["delay"].clip(lower=11.0)))


def clean(table: str, **rules: Any) -> dict[str, Any]:
    return {"data": {"tables": {table: {"clean": rules}}}}


def disguise(project: Project) -> None:
    """The rain of these months is measured at the destination: the delay shows through."""
    for month in MONTHS[:2]:
        rain = (outcomes(month)["delay"] + 100) / 10
        project.land("schedules", f"{month}.parquet", schedules(month).assign(rain=rain))


def copied_target(project: Project) -> None:
    """The distance of these months is the delay in other units, plus some."""
    for month in MONTHS[:2]:
        distance = 3 - outcomes(month)["delay"] / 60
        project.land("schedules", f"{month}.parquet", schedules(month).assign(distance=distance))


REGRESSION = {
    "problem": {"task": "regression", "target": "delay", "label": None},
    "gates": [{"metric": "rmse", "at_most": 99}],
}


def train(function: str, **changes: Any) -> dict[str, Any]:
    return {"train": {"function": f"rail.training:{function}", **changes}}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


PORT = closed_port()
TO_VALIDATE, TO_TRIGGER = ("ingest", "validate"), ("ingest", "validate", "trigger")
CASES = {
    "unknown key": Case(spec={"favourite": 1}),
    "misspelt key": Case(spec={"retrain": {"cooldwon": "7d"}}),
    "wrong type": Case(spec={"train": {"min_partitions": "two"}}),
    "missing key": Case(spec={"loop": None}),
    "outcome among the features, in the spec": Case(
        number="B18", spec={"problem": {"features": ["distance", "delay"]}}
    ),
    "rows to predict cut by a column": Case(spec={"data": {"tables": {"schedules": {"partition": "by origin"}}}}),
    "missing suite": Case(spec={"data": {"suite": {"schedules": "expectations/gone.json"}}}),
    "suite that is not JSON": Case(land=suite("{")),
    "empty suite": Case(land=suite('{"name": "schedules", "expectations": []}')),
    "unknown expectation": Case(
        land=suite('{"expectations": [{"type": "expect_column_to_exits", "kwargs": {"column": "rain"}}]}')
    ),
    "unreachable tracking server": Case(env={"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{PORT}"}),
    "unreachable PostgreSQL": Case(env={"KAIZEN_LEDGER_URL": f"postgresql://loop:open-sesame@127.0.0.1:{PORT}/ledger"}),
    "missing column": Case(number="B09", land=march_frame(lambda rows: rows.rename(columns={"distance": "distnce"}))),
    "column twice": Case(number="B08", land=column_twice),
    "column twice, in CSV": Case(
        number="B08", land=march_bytes("march.csv", lambda data: data.replace(b"distance", b"rain", 1))
    ),
    "zero rows": Case(number="B02", land=march_frame(lambda rows: rows.head(0))),
    "all-null column": Case(land=march(rain=None)),
    "bad timestamp": Case(
        number="B14",
        land=march_frame(lambda r: r.assign(departs=["yesterday", *r["departs"].astype(str).tolist()[1:]])),
    ),
    "rows from the future": Case(
        number="B19",
        land=lambda project: project.land(
            "schedules", "march.parquet", schedules(MARCH).assign(departs=pd.Timestamp("2199-03-01", tz="UTC"))
        ),
    ),
    "outcome among the features, in the file": Case(number="B18", land=march(arrives=0.0)),
    "text named .parquet": Case(number="B05", land=march_bytes("march.parquet", lambda _: b"departs,train\n")),
    "truncated Parquet": Case(number="B04", land=march_bytes("march.parquet", lambda data: data[:-100])),
    "file of 0 bytes": Case(number="B01", land=march_bytes("march.parquet", lambda _: b"")),
    "folder among the files": Case(land=lambda project: (project.landing / "schedules" / "march.parquet").mkdir()),
    "truncated CSV.gz": Case(number="B04", land=march_bytes("march.csv.gz", lambda data: data[:-100])),
    "damaged CSV.gz": Case(
        number="B04", land=march_bytes("march.csv.gz", lambda data: data[:60] + bytes(8) + data[68:])
    ),
    "CSV that is not UTF-8": Case(
        number="B07", land=march_bytes("march.csv", lambda data: data.replace(b"north", b"n\xf6rd"))
    ),
    "damaged CSV.zip": Case(number="B04", land=march_bytes("march.csv.zip", lambda data: b"PK\3\4" + data)),
    "partition again with other content": Case(
        number="B15",
        land=lambda project: project.land("schedules", "again.parquet", schedules(MONTHS[1]).assign(rain=1.0)),
    ),
    "packed file that expands": Case(
        number="B06",
        spec={"data": {"tables": {"schedules": {"max_expanded": "1m"}}}},
        land=march_bytes(
            "march.csv.gz", lambda data: gzip.compress(gzip.decompress(data) + b"\n" * (2 << 20), mtime=0)
        ),
    ),
    "header of very many columns": Case(
        number="B06", land=march_bytes("march.csv", lambda _: ",".join(f"c{i}" for i in range(20_000)).encode() + b"\n")
    ),
    "CSV in UTF-16": Case(number="B07", land=march_bytes("march.csv", lambda data: data.decode().encode("utf-16"))),
    "new column, refused": Case(
        number="B10",
        spec={"data": {"tables": {"schedules": {"new_columns": "refuse"}}}},
        land=march(crew=2),
    ),
    "text among numbers": Case(
        number="B13", land=march_bytes("march.csv", lambda data: change_cell(data, row=7, column=3, value=b"far"))
    ),
    "rows of more columns than the header": Case(
        number="B13", land=march_bytes("march.csv", lambda data: change_cell(data, row=7, column=3, value=b"1,2"))
    ),
    "31 February": Case(
        number="B14",
        land=march_bytes("march.csv", lambda data: change_cell(data, row=3, column=0, value=b"2024-02-31T05:00:00Z")),
    ),
    "year 0001": Case(
        number="B14",
        land=march_bytes("march.csv", lambda data: change_cell(data, row=3, column=0, value=b"0001-01-01T00:00:00Z")),
    ),
    "missing timestamp": Case(
        number="B14", land=march_bytes("march.csv", lambda data: change_cell(data, row=3, column=0, value=b""))
    ),
    "remote that cannot be written": Case(
        number="B56", env={"KAIZEN_DATA_REMOTE": "/dev/null"}, land=lambda project: project.land_schedules(MARCH)
    ),
    "link out of the landing folder": Case(
        number="B21", land=lambda project: (project.landing / "schedules" / "march.parquet").symlink_to(project.spec)
    ),
    "line's end in a name": Case(
        number="B21", land=lambda project: project.land("schedules", "march\n.parquet", schedules(MARCH))
    ),
    "names that only case tells apart": Case(
        number="B22",
        land=lambda project: [
            project.land("schedules", n, schedules(MARCH)) for n in ("march.parquet", "March.parquet")
        ],
    ),
    "look-up key twice": Case(
        number="B15",
        land=lambda project: project.land("stations", "more.parquet", pd.concat([stations(), stations().head(1)])),
    ),
    "outcome twice": Case(
        number="B15",
        land=lambda project: project.land(
            "outcomes", "march.parquet", pd.concat([outcomes(MARCH), outcomes(MARCH).tail(1)])
        ),
    ),
    "budget spent": Case(
        spec={"retrain": {"budget": {"retrains": 1}}}, argv=("--because", "a new season"), stages=("monitor",)
    ),
    "one class only": Case(number="B16", land=one_class, fresh=True, stages=TO_VALIDATE),
    "outcome in disguise": Case(number="B18", land=disguise, fresh=True, stages=TO_VALIDATE),
    "copy of the target": Case(number="B18", spec=REGRESSION, land=copied_target, fresh=True, stages=TO_VALIDATE),
    "group on both sides": Case(spec={"problem": {"group": ["train"]}}, fresh=True, stages=TO_VALIDATE),
    "gate that the champion has seen": Case(
        spec={"evaluate": {"window": "20d"}}, argv=("--because", "a new season"), stages=("monitor",)
    ),
    "no rows to set aside": Case(spec={"data": {"acceptance": {"share": 1e-9}}}),
    "floor without rows set aside": Case(
        spec={"gates": [{"metric": "roc_auc", "rows": "acceptance", "at_least": 0.6}]}
    ),
    "acceptance set that is no floor": Case(
        spec={
            "data": {"acceptance": {}},
            "gates": [{"metric": "roc_auc", "rows": "acceptance", "against": "champion"}],
        }
    ),
    "split by no columns": Case(spec=train("train", validation={"by": "group"})),
    "split by an unknown column": Case(
        spec=train("train", validation={"by": "group", "columns": ["orgin"]}), fresh=True, stages=TO_VALIDATE
    ),
    "split that leaves nothing": Case(
        spec=train("train", validation={"by": "time", "last": "365d"}), fresh=True, stages=TO_VALIDATE
    ),
    "validation rows that nobody takes": Case(
        spec=train("train", validation={"by": "time"}), fresh=True, stages=TO_TRIGGER
    ),
    "untrusted model type": Case(spec=train("train_forest"), fresh=True, stages=TO_TRIGGER),
    "user code that raises": Case(spec=train("train_nothing"), fresh=True, stages=TO_TRIGGER),
    "model without predict_proba": Case(spec=train("train_without_probability"), fresh=True, stages=TO_TRIGGER),
    "missing training function": Case(spec=train("trian"), fresh=True, stages=TO_TRIGGER),
    "unknown runner": Case(spec=train("train", runner="callabel"), fresh=True, stages=TO_VALIDATE),
    "times that do not go together": Case(spec={"data": {"tables": {"stations": {"max_age": "3d"}}}}),
    "lag without a watermark": Case(spec={"data": {"tables": {"schedules": {"lag": "1h"}}}}),
    "label that cleaning would invent": Case(spec=clean("outcomes", missing={"delay": {"fill": 0}})),
    "rule of cleaning for no column": Case(
        spec=clean("schedules", missing={"rian": "drop_row"}), land=march(), stages=("ingest",)
    ),
    "labels that contradict each other": Case(
        spec={"data": {"tables": {"asked": {"uri": "landing/asked/*", "partition": "month", "role": "labels"}}}},
        land=contradiction,
        fresh=True,
        stages=TO_VALIDATE,
    ),
    "unknown interpreter": Case(
        spec={"place": {"mode": "python", "interpreter": "/nowhere/bin/python"}}, fresh=True, stages=TO_VALIDATE
    ),
}


Seen = Callable[[Project, Ended, WarmProcesses], str]
"""Of what was taken: what the person was told of it, or what is kept of it."""


def told_line(pattern: str) -> Seen:
    """The one line of the turn's output that ``pattern`` is found in."""

    def seen(project: Project, ended: Ended, _: WarmProcesses) -> str:
        (line,) = [line for line in (ended.out + ended.err).splitlines() if re.search(pattern, line)]
        return " ".join(line.replace(str(project.folder), "PROJECT").removeprefix("  | ").split())

    return seen


def shown_version(name: str, *facts: str) -> Seen:
    """What ``kaizen data show`` says of a version: ``facts``, such as its rows and its verdict's reason."""

    def seen(project: Project, _: Ended, processes: WarmProcesses) -> str:
        found = show(project, processes, name)
        return f"{name}: {', '.join(f'{fact} {found[fact]}' for fact in facts)}"

    return seen


def show(project: Project, processes: WarmProcesses, name: str) -> dict[str, Any]:
    ended = processes.kaizen("data", "show", name, "--spec", project.spec, "--json")
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def kept_columns(name: str, *, of: str = "") -> Seen:
    """The columns of the file that is kept of a version, in its order; or type and missing values of one."""

    def seen(project: Project, _: Ended, processes: WarmProcesses) -> str:
        store = Store(project.home / "loops" / LOOP / "store")
        rows = pq.read_table(store.file_path(show(project, processes, name)["sha256"]))
        what = f"{of} is {rows[of].type} with {rows[of].null_count} missing" if of else ", ".join(rows.column_names)
        return f"{name}: {rows.num_rows} rows, {what}"

    return seen


def kept_times(name: str) -> Seen:
    """Whether the moments that are kept of March's schedules are those that were meant."""

    def seen(project: Project, ended: Ended, processes: WarmProcesses) -> str:
        store = Store(project.home / "loops" / LOOP / "store")
        kept = pq.read_table(store.file_path(show(project, processes, name)["sha256"]))["departs"]
        same = kept.to_pandas().tolist() == schedules(MARCH)["departs"].tolist()
        return f"{name}: departs is {kept.type}, {'the same moments' if same else 'OTHER MOMENTS'}"

    return seen


@dataclass(frozen=True)
class Taken(Case):
    """Input that looks bad and is taken, or left for another time.

    ``seen`` is what is told or kept of it. ``land`` may return a file to hold open meanwhile.
    """

    seen: Seen = lambda project, ended, processes: ended.out.splitlines()[0]


def again(project: Project) -> None:
    """What was delivered comes again under other names."""
    for month in MONTHS[:2]:
        path = project.landing / "schedules" / f"{month}.parquet"
        path.with_name(f"{month}-again.parquet").write_bytes(path.read_bytes())


def gaps(project: Project) -> None:
    """A whole number's column of March has gaps in April: pandas then writes fractions."""
    project.land("schedules", "march.parquet", schedules(MARCH).assign(crew=2))
    rows = schedules(APRIL)
    project.land(
        "schedules", "till_april.parquet", rows.assign(crew=np.where(np.arange(len(rows)) % 31 == 6, None, 2.0))
    )


def number_column(data: bytes) -> bytes:
    """A CSV text with one more column, of whole numbers."""
    head, *rows = data.splitlines()
    return b"\n".join([head + b",crew", *(row + b",2" for row in rows), b""])


def constant(project: Project) -> None:
    for month in MONTHS[:2]:
        project.land("schedules", f"{month}.parquet", schedules(month).assign(rain=1.0))


def infinite(table: str, rows: pd.DataFrame, column: str) -> Callable[[Project], object]:
    values = rows[column].where(np.arange(len(rows)) > 2, np.inf)
    return lambda project: project.land(table, "march.parquet", rows.assign(**{column: values}))


def zones(rows: pd.DataFrame) -> pd.DataFrame:
    """The same moments, written in two zones."""
    written = [
        time.tz_convert("Asia/Tokyo" if number % 2 else "UTC").isoformat()
        for number, time in enumerate(rows["departs"])
    ]
    return rows.assign(departs=written)


TAKEN = {
    "columns in another order": Taken(
        number="B03", land=march_frame(lambda rows: rows[rows.columns[::-1]]), seen=kept_columns("schedules/2024-03")
    ),
    "CSV with a byte order mark": Taken(
        number="B07",
        land=march_bytes("march.csv", lambda data: b"\xef\xbb\xbf" + data),
        seen=kept_columns("schedules/2024-03"),
    ),
    "new column": Taken(number="B10", land=march(crew=2), seen=told_line("new column")),
    "whole numbers with missing values": Taken(
        number="B11",
        land=march_bytes("march.csv", lambda data: change_cell(number_column(data), row=7, column=5, value=b"")),
        seen=kept_columns("schedules/2024-03", of="crew"),
    ),
    "whole numbers, then fractions for their missing values": Taken(
        number="B11", land=gaps, seen=kept_columns("schedules/2024-04", of="crew")
    ),
    "infinite numbers in a feature": Taken(
        number="B12",
        land=infinite("schedules", schedules(MARCH), "distance"),
        seen=shown_version("schedules/2024-03", "verdict", "quarantined", "reason"),
    ),
    "infinite numbers in an outcome": Taken(
        number="B12",
        land=infinite("outcomes", outcomes(MARCH), "delay"),
        seen=shown_version("outcomes/2024-03", "verdict", "quarantined", "reason"),
    ),
    "times in several zones": Taken(number="B14", land=march_frame(zones), seen=kept_times("schedules/2024-03")),
    "the same partitions with the same content": Taken(number="B15", land=again),
    "a feature that is constant": Taken(
        number="B17", land=constant, fresh=True, stages=("ingest",), seen=told_line("warning")
    ),
    "a file that somebody is writing": Taken(
        number="B20",
        land=lambda project: project.land_schedules(MARCH).open("ab"),
        seen=told_line("somebody is writing"),
    ),
}


@pytest.fixture(scope="module")
def project(processes, tmp_path_factory):
    """A loop saved twice: ``fresh``, two months delivered and not seen; ``running``, when all is done with them."""
    project = make_loop(tmp_path_factory.mktemp("bad") / "project")
    # Databases and data repository are there.
    assert processes.kaizen("turn", project.spec).code == 0
    for month in MONTHS[:2]:
        project.land_month(month)
    project.save("fresh")
    for _ in ("the turn", "nothing is due"):
        ended = processes.kaizen("turn", project.spec)
        assert ended.code == 0, ended.err
    project.save("running")
    return project


@pytest.fixture(scope="module")
def settled(project, processes):
    """The state of ``running``."""
    project.restore("running")
    return processes.state(project)


@pytest.mark.parametrize("name", CASES)
def test_a_refusal_says_all_and_changes_nothing(project, settled, processes, name):
    case = CASES[name]
    project.restore("fresh" if case.fresh else "running")
    project.write_spec(case.spec)
    case.land(project)
    if case.stages:
        processes.stages(project, *case.stages)
    before = processes.state(project) if case.stages else settled
    ended = processes.kaizen("turn", project.spec, *case.argv, env=case.env)
    # All that is kept: ledger, registry, data repository, remote, store.
    assert digest(processes.state(project)) == digest(before)
    told = shown(ended.code, ended.err, project)
    assert_golden(name, told)
    assert_complete(ended.code, told)


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_is_said_and_what_was_there_stays(project, settled, processes, name):
    case = TAKEN[name]
    project.restore("fresh" if case.fresh else "running")
    held = case.land(project)
    if case.stages:
        processes.stages(project, *case.stages)
    before = processes.state(project) if case.stages else settled
    ended = processes.kaizen("turn", project.spec)
    if isinstance(held, io.IOBase):
        held.close()
    seen = case.seen(project, ended, processes)
    told = f"exit {ended.code}\n{seen}\nstate: {added(before, processes.state(project))}\n"
    assert_golden(name, told, TAKEN_GOLDEN)


def added(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What came to the state: "equal", or records by kind. What was there must be there as it was."""
    if digest(after) == digest(before):
        return "equal"
    assert all(event in after["ledger"] for event in before["ledger"])
    for place in ("store", "remote"):
        assert before[place].items() <= after[place].items()
    assert set(before["data"]["tree"]) <= set(after["data"]["tree"])
    kinds = Counter(event[3] for event in after["ledger"])
    kinds.subtract(event[3] for event in before["ledger"])
    return ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()) if number) + " more"


@pytest.mark.parametrize("name", ["misspelt key", "missing column"])
def test_the_same_from_a_shell(project, settled, processes, name):
    project.restore("running")
    project.write_spec(CASES[name].spec)
    CASES[name].land(project)
    ended = cold_kaizen("turn", project.spec)
    assert processes.state(project) == settled
    assert_golden(name, shown(ended.code, ended.err, project))


def test_a_file_that_somebody_is_writing_is_not_taken_and_said(project, settled, processes):
    project.restore("running")
    path = project.land_schedules(MARCH)
    with path.open("ab"):
        ended = processes.kaizen("turn", project.spec)
    assert ended.code == 0
    assert f"{path}: not taken, somebody is writing it" in ended.err
    assert processes.state(project) == settled
    ended = processes.kaizen("turn", project.spec)
    assert "ingested 1 partitions" in ended.out


def test_a_file_that_changes_while_it_is_read_is_refused(project, settled, processes):
    project.restore("running")
    path = project.land_schedules(MARCH)
    for taken in set(path.parent.iterdir()) - {path}:
        taken.unlink()
    # The writer goes on while the digest of the table's only file is taken.
    running = processes.start(
        "kaizen.cli:main", ["turn", str(project.spec)], env={"KAIZEN_FAULT": "ingest.while_reading:delay:1"}
    )
    with writer(path):
        ended = running.wait()
    assert processes.state(project) == settled
    told = re.sub(r"\d+ bytes, then \d+", "N bytes, then M", shown(ended.code, ended.err, project))
    assert_golden("file that is still being written", told)


@contextmanager
def writer(path: Path) -> Iterator[None]:
    """Somebody who puts a longer file in the place of ``path`` all the time."""
    done, draft = threading.Event(), path.with_name(".longer")

    def write() -> None:
        while not done.wait(0.02):
            draft.write_bytes(path.read_bytes() + b"more")
            draft.replace(path)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_no_password_is_shown(project, processes):
    project.restore("running")
    for name in ("KAIZEN_LEDGER_URL", "MLFLOW_TRACKING_URI"):
        ended = processes.kaizen(
            "turn", project.spec, env={name: f"postgresql://loop:open-sesame@127.0.0.1:{PORT}/ledger"}
        )
        assert ended.code in (5, 8)
        assert "open-sesame" not in ended.out + ended.err


def test_a_refused_loop_goes_on_when_the_cause_is_gone(project, processes):
    project.restore("running")
    path = project.landing / "schedules" / "march.parquet"
    march_bytes("march.parquet", lambda data: data[:-100])(project)
    assert processes.kaizen("turn", project.spec).code == 4
    path.unlink()
    project.land_month(MARCH)
    ended = processes.kaizen("turn", project.spec)
    assert ended.code == 0
    assert "ingested 2 partitions, validated 2, scored 1" in ended.out


def test_a_partition_that_was_refused_may_come_again_corrected_and_then_no_more(project, processes):
    project.restore("running")
    project.land("schedules", "march.parquet", schedules(MARCH).assign(rain=99.0))
    ended = processes.kaizen("turn", project.spec)
    assert (ended.code, "KZ450" in ended.err) == (4, True)
    project.land("schedules", "march.parquet", schedules(MARCH))
    ended = processes.kaizen("turn", project.spec)
    assert ended.code == 0, ended.err
    assert "ingested 1 partitions, validated 1, scored 1" in ended.out
    project.land("schedules", "march.parquet", schedules(MARCH).assign(rain=1.0))
    ended = processes.kaizen("turn", project.spec)
    assert (ended.code, "KZ430" in ended.err) == (4, True)


def test_the_table_of_bad_input():
    golden = read_golden()
    known = {**{name: case.number for name, case in CASES.items()}, "file that is still being written": "B20"}
    rows = [
        (number, name, *re.match(r"exit (\d)\n(KZ\d+): (.*)", golden[name]).groups(), "equal")
        for name, number in known.items()
        if number
    ]
    golden = read_golden(TAKEN_GOLDEN)
    rows += [
        (case.number, name, code, "", told, state)
        for name, case in TAKEN.items()
        for code, told, state in [re.match(r"exit (\d)\n(.*)\nstate: (.*)", golden[name]).groups()]
    ]
    head = ("number", "input", "exit", "code", "message", "state digest before and after")
    lines = [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *sorted(rows))]
    text = "\n".join(lines) + "\n"
    if os.environ.get("KAIZEN_GOLDEN") == "write":
        TABLE.write_text(text, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == text


def shown(code: int, err: str, project: Project) -> str:
    """What a person is told, without progress; names of this machine made plain."""
    told = re.sub(r"^  \w+ \.\.\.\n", "", err, flags=re.MULTILINE)
    for found, plain in ((str(project.folder), "PROJECT"), (str(PORT), "PORT")):
        told = told.replace(found, plain)
    told = re.sub(r"2024-02-[0-9a-f]{10}", "TURN", told)
    told = re.sub(r"(TURN/\w+)-\w{8}/", r"\1/", told)
    told = re.sub(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\S+$", "NOW", told, flags=re.MULTILINE)
    # Of Parquet files: each version of its writer makes others.
    told = re.sub(r"\b[0-9a-f]{64}\b", "DIGEST", told)
    told = re.sub(r"\b\d+ bytes, no readable", "SIZE bytes, no readable", told)
    return f"exit {code}\n{told.strip()}\n"


def assert_complete(code: int, told: str) -> None:
    """One error, its code's family is the exit code, and all five facts are there."""
    lines = told.splitlines()[1:]
    found = re.fullmatch(r"KZ(\d)\d\d: .+", lines[0])
    assert found
    assert int(found[1]) == code
    assert sum(line.startswith("KZ") for line in lines) == 1
    facts = [match[1] for line in lines if (match := re.match(r"  (where|value|limit|next): \S", line))]
    # A key that is missing has no value.
    assert facts == ["where", *(["value"] if "missing key" not in lines[0] else []), "limit", "next"]


def assert_golden(name: str, told: str, golden: Path = GOLDEN) -> None:
    if os.environ.get("KAIZEN_GOLDEN") == "write":
        entries = {**read_golden(golden), name: told}
        order = [*CASES, *TAKEN, *(n for n in entries if n not in {**CASES, **TAKEN})]
        golden.parent.mkdir(exist_ok=True)
        golden.write_text("\n".join(f"[{n}]\n{entries[n]}" for n in order if n in entries), encoding="utf-8")
    assert read_golden(golden).get(name) == told


def read_golden(golden: Path = GOLDEN) -> dict[str, str]:
    text = golden.read_text(encoding="utf-8") if golden.exists() else ""
    parts = re.split(r"^\[(.+)\]\n", text, flags=re.MULTILINE)[1:]
    return {name: body.rstrip("\n") + "\n" for name, body in zip(parts[::2], parts[1::2], strict=True)}
