"""What an ingestion on Airflow can be asked for, and who may ring for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from tests.airflow_home import PROJECTS, load_dags, make_database, run_dag
from tests.loops import MONTHS, Project, make_loop, schedules

from kaizen.loop import open_loop

FILE = """
from kaizen_airflow import IngestDag

dag = IngestDag("backfill/kaizen.yml", default_args={"retries": 0})
"""
ASSET = "s3://warehouse/bookings"


@pytest.fixture(scope="module")
def project() -> Project:
    make_database()
    tables = {"schedules": {"asset": ASSET}, "outcomes": {"asset": "bookings"}, "stations": {"asset": ASSET}}
    return make_loop(PROJECTS / "backfill", {"loop": "rail/backfill", "data": {"suite": None, "tables": tables}})


@pytest.fixture(scope="module")
def dag(project: Project) -> Any:
    return load_dags("backfill", FILE)["rail.backfill_ingest"]


@pytest.fixture(autouse=True)
def own_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


def taken(project: Project) -> list[str]:
    with open_loop(project.spec) as loop:
        return sorted(loop.versions("schedules"))


def test_other_teams_assets_ring_each_once(dag: Any) -> None:
    from airflow.sdk import Asset

    names = sorted(asset.name for asset in dag.timetable.asset_condition.objects)
    assert names == ["bookings", "kaizen/rail/backfill/landing", ASSET]
    assert Asset(uri=ASSET).name == ASSET


def test_a_run_takes_the_range_that_it_is_asked_for_and_another_the_rest(dag: Any, project: Project) -> None:
    project.land("schedules", "all.parquet", pd.concat([schedules(month) for month in MONTHS[:4]]))
    ran = run_dag(dag, since="2024-02-01", until="2024-04-01")
    assert ran.tasks == {"ingest": "success", "validate": "success"}
    assert taken(project) == [MONTHS[1], MONTHS[2]]
    assert run_dag(dag, since="2024-02-01", until="2024-04-01").values["ingest"]["count"] == 0
    assert run_dag(dag).tasks == {"ingest": "success", "validate": "success"}
    assert taken(project) == list(MONTHS[:4])


def test_a_run_with_a_partition_key_takes_that_partition(dag: Any, project: Project, monkeypatch: Any) -> None:
    from kaizen_airflow.operators.ingest import IngestOperator

    task = dag.get_task("ingest")
    monkeypatch.setattr("kaizen_airflow.operators.stage.began_with", lambda context: "")
    order = IngestOperator.order(task, {"dag_run": SimpleNamespace(conf=None), "partition_key": "2024-05"})
    assert (order.partition, order.since, order.until) == ("2024-05", None, None)
    for month in MONTHS[4:6]:
        project.land_schedules(month)
    from kaizen.stages import run_stage

    with open_loop(project.spec) as loop:
        assert [r.subject for r in run_stage(loop, "ingest", order).records] == ["data/schedules/2024-05"]


@pytest.mark.parametrize("asked", [{"since": "yesterday"}, {"until": {"a": 1}}])
def test_a_range_that_is_none_is_refused(dag: Any, asked: dict[str, Any]) -> None:
    ran = run_dag(dag, **asked)
    assert ran.state == "failed"
    assert ran.tasks["ingest"] == "failed"
