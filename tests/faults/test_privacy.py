"""Private values go in and none comes out: a loop with planted ones, refused in every way, and swept."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from tests.canaries import STEMS, Found, needles, planted, sweep, sweep_text
from tests.loops import MONTHS, Ended, Project, make_loop, outcomes, schedules

from kaizen.loop import open_loop
from kaizen.private_key import FILE

TRAINING = """
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NUMBERS = ["distance", "rain", "stations_platforms"]


def train(examples, *, target, seed):
    print(examples.to_string())
    model = make_pipeline(ColumnTransformer([("numbers", StandardScaler(), NUMBERS)]), LogisticRegression())
    return model.fit(examples.drop(columns=target), examples[target])


def train_and_quote(examples, *, target, seed):
    raise ValueError("could not convert string to float: " + repr(examples.iloc[0].to_dict()))
"""

PRIVATE = {
    # Part of the entity, so that rows and outcomes meet by it.
    "train": "hash",
    "email": "hash",
    "passenger": "hash",
    "card": "drop",
    "iban": {"truncate": 2},
}
CHANGES: dict[str, Any] = {
    "problem": {"features": ["distance", "rain", "stations_platforms", "passenger", "iban"]},
    "data": {"private": PRIVATE, "max_quarantined": 0.5},
    "train": {"function": "rail.private:train"},
    "retrain": {"budget": {"retrains": 9}},
}
MARCH = MONTHS[2]


def rows(month: str) -> pd.DataFrame:
    """A month of schedules with private values in each row; the suite refuses some of them."""
    found = planted(schedules(month))
    # Of a train nobody is told: its name is a stem, too.
    found = found.assign(train=found["train"].map(lambda train: f"{STEMS['name']} {train}"))
    return found.assign(rain=found["rain"].where(found.index % 40 != 7, 99.0))


def truth(month: str) -> pd.DataFrame:
    found = planted(outcomes(month))
    return found.assign(train=found["train"].map(lambda train: f"{STEMS['name']} {train}"))


@pytest.fixture(scope="module")
def project(processes, tmp_path_factory):
    project = make_loop(tmp_path_factory.mktemp("private") / "project", CHANGES)
    (project.folder / "src" / "rail" / "private.py").write_text(TRAINING, encoding="utf-8")
    return project


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """All that any process printed."""
    return {}


@pytest.fixture(scope="module")
def turned(project, processes, said):
    """After two whole turns and a third that found nothing to do."""
    for number, month in enumerate(MONTHS[:3]):
        project.land("schedules", f"{month}.parquet", rows(month))
        project.land("outcomes", f"{month}.parquet", truth(month))
        if number:
            note(said, f"turn {number}", processes.kaizen("turn", project.spec))
    note(said, "status", processes.kaizen("status", "--spec", project.spec, "--json"))
    note(said, "doctor", processes.kaizen("doctor", project.spec))
    note(said, "ledger", processes.kaizen("ledger", "show", "--spec", project.spec, "--json"))
    return project


def note(said: dict[str, str], name: str, ended: Ended, code: int = 0) -> str:
    assert ended.code == code, ended.err
    said[f"{name}: stdout"], said[f"{name}: stderr"] = ended.out, ended.err
    return ended.out + ended.err


def test_the_loop_works_on_what_is_left(turned, said) -> None:
    assert "turn 2024-02" in said["turn 1: stdout"]
    assert "quarantined" in said["turn 1: stdout"]
    with open_loop(turned.spec) as loop:
        found, _ = loop.champion() or pytest.fail("no champion")
        version = loop.versions("schedules")["2024-01"]
        labelled = loop.versions("outcomes")["2024-01"]
    assert found.champion >= 1
    kept = pq.read_table(loop.store.file(version.address)).to_pandas()
    assert set(version.columns) == {"departs", "train", "origin", "distance", "rain", "email", "passenger", "iban"}
    assert set(kept["iban"]) == {"DE"}
    assert kept["email"].str.fullmatch("[0-9a-f]{32}").all()
    # Hashed alike in both tables, so that each row finds its outcome.
    other = pq.read_table(loop.store.file(labelled.address)).to_pandas()
    assert set(kept["train"]) == set(other["train"])
    key = version.private["email"]
    assert version.private == {**PRIVATE, "iban": "truncate 2", "train": key, "email": key, "passenger": key}


SLIPPED = "a row that slipped by a column"
REFUSALS: dict[str, tuple[str, Callable[[Project], Path]]] = {
    "a bad time": (
        "KZ405",
        lambda p: p.land("schedules", "x.parquet", texts(rows(MARCH), "departs", "quorrim yesterday")),
    ),
    SLIPPED: (
        "KZ405",
        lambda p: p.land("schedules", "x.parquet", rows(MARCH).assign(departs=rows(MARCH)["passenger"])),
    ),
    "a key twice": (
        "KZ411",
        lambda p: p.land("outcomes", "x.parquet", pd.concat([truth(MONTHS[3]), truth(MONTHS[3]).tail(1)])),
    ),
    "other rows": ("KZ430", lambda p: p.land("schedules", "x.parquet", rows(MARCH).assign(distance=1.0))),
    "a column too many": ("KZ402", lambda p: csv(p, lambda text: broken(text, ",one,more"))),
    "a quote that does not end": ("KZ402", lambda p: csv(p, lambda text: broken(text, '"', front=True))),
    "text in a column of numbers": (
        "KZ460",
        lambda p: csv(p, lambda _: rows(MONTHS[3]).astype({"rain": str}).assign(rain=rows(MARCH)["email"]).to_csv()),
    ),
    "JSON that is cut": ("KZ402", lambda p: lines(p, lambda text: text.replace('"email":', '"email"', 1))),
    "JSON of two types": ("KZ402", lambda p: lines(p, lambda text: text.replace('"rain":', '"rain":{"a":1},"x":', 1))),
    "another spelling": (
        "KZ415",
        lambda p: p.land("schedules", "x.parquet", rows(MARCH).rename(columns={"email": "E-Mail"})),
    ),
    "a column that nobody declared": (
        "KZ414",
        lambda p: p.land("schedules", "x.parquet", rows(MARCH).rename(columns={"email": "reached_by"})),
    ),
    "an outcome among them": ("KZ412", lambda p: p.land("schedules", "x.parquet", rows(MARCH).assign(delay=1.0))),
    "a list in a hashed column": (
        "KZ480",
        lambda p: p.land("schedules", "x.parquet", rows(MARCH).assign(email=[[e] for e in rows(MARCH)["email"]])),
    ),
}


def texts(frame: pd.DataFrame, column: str, last: str) -> pd.DataFrame:
    return frame.assign(**{column: [*frame[column].astype(str).tolist()[:-1], last]})


def csv(project: Project, change: Callable[[str], str]) -> Path:
    path = project.landing / "schedules" / "x.csv.gz"
    path.write_bytes(gzip.compress(change(rows(MONTHS[3]).to_csv(index=False)).encode()))
    return path


def broken(text: str, mark: str, *, front: bool = False) -> str:
    """The CSV with something before or behind a row in its middle."""
    found = text.splitlines()
    found[100] = mark + found[100] if front else found[100] + mark
    return "\n".join(found)


def lines(project: Project, change: Callable[[str], str]) -> Path:
    path = project.landing / "schedules" / "x.jsonl"
    path.write_text(change(rows(MONTHS[3]).to_json(orient="records", lines=True, date_format="iso")))
    return path


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_shows_nothing_private(turned, processes, said, name) -> None:
    code, land = REFUSALS[name]
    path = land(turned)
    try:
        # As a person sees it, and as a log that has the whole traceback.
        assert code in note(said, name, processes.kaizen("turn", turned.spec), int(code[2]))
        ended = processes.start("tests.loops:run_stages", str(turned.spec), ["ingest"]).wait()
        assert code in note(said, f"{name}, traceback", ended, 1)
        assert "Traceback" in ended.err
    finally:
        path.unlink()
    assert sweep_text(said) == []


def test_user_code_that_quotes_a_row_quotes_what_is_left(turned, processes, said) -> None:
    turned.write_spec({**CHANGES, "train": {"function": "rail.private:train_and_quote"}})
    try:
        ended = processes.kaizen("turn", turned.spec, "--because", "it shall fail")
        assert "KZ701" in note(said, "user code", ended, 7)
        assert "could not convert" in ended.err
    finally:
        turned.write_spec(CHANGES)
    assert sweep_text(said) == []


def test_nothing_private_is_in_any_file_or_output(turned, said, tmp_path) -> None:
    assert len(said) > 30
    files = [p for p in turned.home.rglob("*") if p.is_file()]
    # Store, data repository, its remote, ledger, tracking, runs: all are there to be swept.
    assert {p.relative_to(turned.home).parts[0] for p in files} >= {"loops", "ledger.db", "mlflow.db"}
    parts = {p.relative_to(turned.home / "loops" / "rail" / "delays").parts[0] for p in files if "loops" in p.parts}
    assert parts >= {"store", "data", "data-remote", "runs", FILE}
    with open_loop(turned.spec) as loop:
        reports = [e.payload for e in loop.ledger.events(loop.name, kind="ValidationReport")]
    assert any(report["quarantine"] for report in reports)
    assert sweep(turned.home) == []
    assert sweep_text(said) == []


def test_the_key_is_in_its_file_and_nowhere_else(turned, said) -> None:
    path = turned.home / "loops" / "rail" / "delays" / FILE
    assert f"{path.stat().st_mode:o}" == "100600"
    key = path.read_bytes().strip()
    holders = [p for p in turned.folder.rglob("*") if p.is_file() and key in p.read_bytes()]
    assert holders == [path]
    assert key.decode() not in "".join(said.values())


def test_the_sweep_finds_what_is_there(turned, tmp_path) -> None:
    found = sweep(turned.landing)
    for kind in ("e-mail", "name", "IBAN"):
        assert any(f.what == f"{kind} as text" and f.where.endswith("(Parquet)") for f in found)
    assert any(f.what == "card as text" for f in found)
    for number, (what, needle) in enumerate(needles().items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "x.gz").write_bytes(gzip.compress(b"before " + needle + b" after"))
        assert what in {f.what for f in sweep(folder)}
        assert {f.where for f in sweep(folder)} == {"x.gz (gzip)"}
    assert Found("out", "e-mail as text") in sweep_text({"out": json.dumps({"to": "quorrim.1@example.org"})})


def test_a_rotated_key_changes_nothing_of_what_was_taken(turned, processes, tmp_path) -> None:
    project = make_loop(tmp_path / "rotated", {**CHANGES, "data": {**CHANGES["data"], "private_key": "pii"}})
    old, new = ({"KAIZEN_SECRET_PII": f"the {word} key of this test"} for word in ("old", "new"))
    project.land("schedules", "january.parquet", rows(MONTHS[0]))
    command = ("tests.loops:run_stages", str(project.spec), ["ingest"])
    assert processes.start(*command, env=old).wait().code == 0
    before = processes.state(project)
    # The same file, and the same file under another name: both are recognised by their bytes.
    project.land("schedules", "again.parquet", rows(MONTHS[0]))
    ended = processes.start(*command, env=new).wait()
    assert ended.code == 0, ended.err
    assert processes.state(project) == before
    # What is new is hashed with the new key, and doctor says that both are there.
    project.land("schedules", "february.parquet", rows(MONTHS[1]))
    assert processes.start(*command, env=new).wait().code == 0
    with open_loop(project.spec) as loop:
        private = {p: v.private["email"] for p, v in loop.versions("schedules").items()}
    assert private["2024-01"] != private["2024-02"]
    ended = processes.kaizen("doctor", project.spec, env=new)
    (line,) = [line for line in ended.out.splitlines() if "private key" in line]
    assert f"but there is data of {private['2024-01'].removeprefix('hash ')}" in line
