"""Bad input, one golden table: each is refused by one error with a stable code, and nothing is changed.

``golden/refusals.txt`` is what a person reads on stderr, after the exit code, with paths and ports made plain;
KAIZEN_GOLDEN=write writes it anew.
"""

from __future__ import annotations

import gzip
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.loops import MONTHS, Project, cold_kaizen, make_loop, outcomes, schedules, stations

from kaizen.canonical import digest

GOLDEN = Path(__file__).parent / "golden" / "refusals.txt"
TABLE = GOLDEN.with_name("bad_input.md")
MARCH = MONTHS[2]


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
    # The third file of the table is the new one; the writer goes on while its digest is taken.
    running = processes.start(
        "kaizen.cli:main", ["turn", str(project.spec)], env={"KAIZEN_FAULT": "ingest.while_reading:delay:3"}
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


def test_the_same_partition_with_the_same_content_is_no_work(project, settled, processes):
    project.restore("running")
    for again in (MONTHS[0], MONTHS[1]):
        path = project.landing / "schedules" / f"{again}.parquet"
        path.with_name(f"{again}-again.parquet").write_bytes(path.read_bytes())
    ended = processes.kaizen("turn", project.spec)
    assert ended.code == 0
    assert "ingested 0 partitions, validated 0, scored 0" in ended.out
    assert processes.state(project) == settled


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


ACCEPTED = {
    "B03": ("columns in another order", "taken by name: tests/integration/test_ingest.py"),
    "B11": ("whole numbers with missing values", "stay whole numbers: tests/contract/test_sources.py"),
    "B12": ("infinite numbers, in features or labels", "rows quarantined, counted: tests/integration/test_clean.py"),
    "B17": ("a feature that is constant", "a warning that is recorded: tests/integration/test_windows.py"),
    "B15": ("the same partition with the same content", "no work: test_bad_input.py"),
    "B20": ("a file that somebody is writing", "not taken, and said: test_bad_input.py"),
}
"""Kinds of bad input that are taken, or left for another time; each has a test of its own."""


def test_the_table_of_bad_input():
    golden = read_golden()
    known = {**{name: case.number for name, case in CASES.items()}, "file that is still being written": "B20"}
    rows = [
        (number, name, *re.match(r"exit (\d)\n(KZ\d+): (.*)", golden[name]).groups(), "equal")
        for name, number in known.items()
        if number
    ]
    rows += [(number, name, "0", "", told, "as told") for number, (name, told) in ACCEPTED.items()]
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


def assert_golden(name: str, told: str) -> None:
    if os.environ.get("KAIZEN_GOLDEN") == "write":
        entries = {**read_golden(), name: told}
        order = [*CASES, *(n for n in entries if n not in CASES)]
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text("\n".join(f"[{n}]\n{entries[n]}" for n in order if n in entries), encoding="utf-8")
    assert read_golden().get(name) == told


def read_golden() -> dict[str, str]:
    text = GOLDEN.read_text(encoding="utf-8") if GOLDEN.exists() else ""
    parts = re.split(r"^\[(.+)\]\n", text, flags=re.MULTILINE)[1:]
    return {name: body.rstrip("\n") + "\n" for name, body in zip(parts[::2], parts[1::2], strict=True)}
