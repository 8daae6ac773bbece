"""An Airflow home for tests in this process: a database, the DAG files of a folder, and DAGs run by ``dag.test``.

Airflow reads its settings once, at its first import: ``tests/conftest.py`` names the home before any test is collected.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(os.environ["AIRFLOW_HOME"])
DAGS, PROJECTS = ROOT / "dags", ROOT / "projects"


@dataclass(frozen=True)
class Ran:
    """How a DAG run ended: its state, its tasks' states, and their XCom values."""

    state: str
    tasks: dict[str, str]
    values: dict[str, Any]


def make_database() -> None:
    """Create Airflow's tables in this process's home, once."""
    from airflow.utils.db import initdb

    DAGS.mkdir(parents=True, exist_ok=True)
    PROJECTS.mkdir(exist_ok=True)
    if not (ROOT / "airflow.db").exists():
        initdb()


def load_dags(name: str, text: str) -> dict[str, Any]:
    """Write a DAG file, parse it as Airflow does, make it known to the database; its DAGs by id."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    file = DAGS / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    bag = DagBag(str(file), bundle_path=DAGS, bundle_name="dags-folder")
    assert not bag.import_errors, bag.import_errors
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(bag, "dags-folder", None)
    return dict(bag.dags)


def run_dag(dag: Any, **conf: Any) -> Ran:
    """Run all tasks of a DAG in this process, without a scheduler."""
    run = dag.test(run_conf=conf or None)
    instances = run.get_task_instances()
    values = {ti.task_id: ti.xcom_pull(task_ids=ti.task_id) for ti in instances}
    return Ran(str(run.state), {ti.task_id: str(ti.state) for ti in instances}, values)


def asset_events(prefix: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and extra of the plain events of assets whose name begins with ``prefix``, oldest first."""
    return [(name, extra) for name, extra, _ in _asset_events(prefix) if "/partitions/" not in name]


def partition_events(prefix: str) -> list[tuple[str, str]]:
    """Name and partition key of the events of assets whose name begins with ``prefix``."""
    return sorted((name, key or "") for name, _, key in _asset_events(prefix))


def _asset_events(prefix: str) -> list[tuple[str, dict[str, Any], str | None]]:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        events = session.scalars(select(AssetEvent).order_by(AssetEvent.id))
        return [(e.asset.name, dict(e.extra), e.partition_key) for e in events if e.asset.name.startswith(prefix)]
