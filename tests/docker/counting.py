"""DAGs of one task ``count`` whose container counts lines, on a real Airflow; and what tests ask of their runs."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from urllib.parse import quote

from demo.airflow_service import AirflowService
from tests.docker_engine import build_base_image

from kaizen.containers import LABEL

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120

DAG_FILE = '''
from datetime import timedelta
from airflow.sdk import DAG
from kaizen_airflow.operators.docker import DurableDockerOperator

COUNT = """
import signal, sys, time
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
for n in range({lines}):
    print("line", n, flush=True)
    time.sleep({every})
sys.exit({exit})
"""

def count(dag_id, lines=1, every=0.0, exit=0, deaf=False, **operator):
    with DAG(dag_id, schedule=None, max_active_runs=4):
        DurableDockerOperator(
            task_id="count", image="IMAGE", docker_url="HOST", mount_tmp_dir=False,
            command=["python", "-c", COUNT.format(lines=lines, every=every, exit=exit, deaf=deaf)],
            retry_delay=timedelta(seconds=0.5), **{"retries": 0, "auto_remove": "success", **operator},
        )
'''


def counting_airflow(engine, folder, dags, *, settings=None, env=None, others=None):
    """An Airflow, not started yet, with the DAGs of ``dags``, whose containers are those of ``engine``.

    ``others``: more DAG files, by name.
    """
    (folder / "dags").mkdir()
    for name, text in {"count": DAG_FILE + dags, **(others or {})}.items():
        text = text.replace("IMAGE", build_base_image(engine)).replace("HOST", engine.host)
        (folder / "dags" / f"{name}.py").write_text(text)
    paths = [str(ROOT / part) for part in ("core", "providers", "kedro_plugins")]
    ledger = {"PYTHONPATH": os.pathsep.join(paths), "KAIZEN_LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}"}
    return AirflowService(
        home=folder / "home",
        dags=folder / "dags",
        settings={"core.dags_are_paused_at_creation": "False", **(settings or {})},
        env={**ledger, **(env or {})},
        template=ROOT / "build" / "airflow-template",
    )


class Run:
    """One run of a DAG, and in it one task."""

    def __init__(self, airflow, dag, task="count"):
        self.airflow, self.dag, self.name, self.id = airflow, dag, task, airflow.trigger(dag)

    @property
    def task(self):
        (task,) = [t for t in self.airflow.task_instances(self.dag, self.id) if t["task_id"] == self.name]
        return task

    @property
    def state(self):
        return next(run["state"] for run in self.airflow.dag_runs(self.dag) if run["dag_run_id"] == self.id)

    def until(self, condition, what):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {self.task['state']}\n{self.log()}"
            # Each look is work for the API server, on the cores that the task waits for.
            time.sleep(0.25)

    def ended(self):
        self.until(lambda: self.task["state"] in ("success", "failed", "skipped"), "the end")
        return self.task["state"]

    def log(self):
        return "\n".join(self.lines(attempt) for attempt in range(1, self.task["try_number"] + 1))

    def lines(self, attempt):
        return self.airflow.task_log(self.dag, self.id, self.name, attempt)

    def counted(self):
        """The container's lines in the logs of all attempts, the triggerer's too, joined."""
        folder = self.airflow.home / "logs" / f"dag_id={self.dag}" / f"run_id={self.id}" / f"task_id={self.name}"
        found = []
        for attempt in range(1, self.task["try_number"] + 1):
            for path in sorted(folder.glob(f"attempt={attempt}.log*")):
                fields = [json.loads(line) for line in path.read_text().splitlines()]
                found += [f["event"] for f in fields if f.get("logger") == "kaizen.container" or "nth" in f]
        return found

    @property
    def xcom(self):
        return self.value(self.name)

    def value(self, task):
        """What a task returned; None if it pushed nothing."""
        path = f"/dags/{self.dag}/dagRuns/{quote(self.id)}/taskInstances/{task}/xcomEntries"
        pushed = {entry["key"] for entry in self.airflow.api("GET", path)["xcom_entries"]}
        return self.airflow.api("GET", f"{path}/return_value")["value"] if "return_value" in pushed else None

    def mark_failed(self):
        """What a person does."""
        path = f"/dags/{self.dag}/dagRuns/{quote(self.id)}/taskInstances/count"
        self.airflow.api("PATCH", path, {"new_state": "failed"})

    def clear(self):
        """What a person does."""
        which = {"dag_run_id": self.id, "task_ids": ["count"]}
        how = {"dry_run": False, "only_failed": False, "only_running": False}
        self.airflow.api("POST", f"/dags/{self.dag}/clearTaskInstances", {**which, **how})

    def kill(self):
        os.kill(self.task["pid"], signal.SIGKILL)


def containers(api, *, everything=True):
    return api.containers(all=everything, filters={"label": LABEL})
