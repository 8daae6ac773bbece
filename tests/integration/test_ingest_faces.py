"""One delivery, taken by the command, by Airflow's operators and by Kedro's nodes: the records are the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from tests.airflow_home import PROJECTS, load_dags, make_database, run_dag
from tests.loops import MONTHS, SPEC, SUITE, merged, outcomes, schedules, stations

from kaizen.cli import main
from kaizen.ledger import open_ledger
from kedro_kaizen.pipelines import ingest, validate
from kedro_kaizen.project import loop_of

FILE = """
from kaizen_airflow import IngestDag

dag = IngestDag("by_airflow/conf/base/kaizen.yml", default_args={"retries": 0})
"""
# Packed at no time: the same bytes each time.
PACKED = {"method": "gzip", "mtime": 0}
KEY = "a-key-that-all-three-have"


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("KAIZEN_SECRET_TRAIN_KEY", KEY)


def make_project(folder: Path) -> Path:
    """A loop with three tables, late rows, a private column, quarantined rows, four formats; its spec."""
    shutil.rmtree(folder, ignore_errors=True)
    spec = folder / "conf" / "base" / "kaizen.yml"
    landing = folder / "landing"
    for name in ("schedules", "stations", "outcomes"):
        (landing / name).mkdir(parents=True)
    (spec.parent / "expectations").mkdir(parents=True)
    (folder / "conf" / "local").mkdir()
    (spec.parent / "expectations" / "schedules.json").write_text(json.dumps(SUITE), encoding="utf-8")
    tables = {name: {"uri": f"../../landing/{name}/*", "on_change": "append"} for name in ("schedules", "outcomes")}
    tables["stations"] = {"uri": "../../landing/stations/*", "on_change": "replace"}
    changes = {
        "loop": "rail/faces",
        "data": {"tables": tables, "private": {"train": "hash"}, "private_key": "train_key", "max_quarantined": 0.5},
    }
    spec.write_text(yaml.safe_dump(merged(SPEC, changes)), encoding="utf-8")
    rows = schedules(MONTHS[0])
    rows.head(200).assign(rain=[99.0, *rows["rain"][1:200]]).to_csv(
        landing / "schedules" / "a.csv.gz", index=False, compression=PACKED
    )
    rows.tail(len(rows) - 200).to_parquet(landing / "schedules" / "b.parquet", index=False)
    outcomes(MONTHS[0]).to_json(landing / "outcomes" / "a.jsonl", orient="records", lines=True, date_format="iso")
    pd.DataFrame(stations()).to_feather(landing / "stations" / "a.feather", compression="uncompressed")
    return spec


def by_command(folder: Path) -> Path:
    spec = make_project(folder)
    assert main(["stage", "ingest", str(spec)]) == 0
    assert main(["stage", "validate", str(spec)]) == 0
    return spec


def by_airflow(folder: Path) -> Path:
    make_database()
    spec = make_project(PROJECTS / "by_airflow")
    ran = run_dag(load_dags("by_airflow", FILE)["rail.faces_ingest"])
    assert ran.tasks == {"ingest": "success", "validate": "success"}
    return spec


def by_kedro(folder: Path) -> Path:
    spec = make_project(folder)
    catalog = DataCatalog({"kaizen_loop": MemoryDataset(loop_of(folder, "local"), copy_mode="assign")})
    SequentialRunner().run(ingest.create_pipeline() + validate.create_pipeline(), catalog)
    return spec


def records(spec: Path) -> list[tuple[str, str, int, dict[str, Any]]]:
    """What the ledger has: kind, subject, position and facts, but where and by whom it was done."""
    with open_ledger(f"sqlite:///{spec.parents[2]}/.kaizen/ledger.db") as ledger:
        return sorted(
            (e.kind, e.subject, e.subject_seq, {k: v for k, v in e.payload.items() if k != "commit"})
            for e in ledger.events("rail/faces")
        )


def test_command_operators_and_nodes_leave_the_same_records(tmp_path: Path) -> None:
    found = [
        records(take(tmp_path / name))
        for name, take in (("command", by_command), ("airflow", by_airflow), ("kedro", by_kedro))
    ]
    kinds = [kind for kind, *_ in found[0]]
    assert kinds.count("Delivery") == 4
    assert kinds.count("DataVersion") == 4
    assert [r[3]["verdict"] for r in found[0] if r[0] == "ValidationReport"] == ["passed", "quarantined", "passed"]
    assert [r[3]["change"] for r in found[0] if r[0] == "DataVersion" and "change" in r[3]] == ["grew"]
    assert found[1] == found[0]
    assert found[2] == found[0]
