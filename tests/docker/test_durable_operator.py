"""The swap-in for DockerOperator on a real Airflow and a real engine: killed, marked, cleared, timed out."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from demo.airflow_service import AirflowService
from tests.docker.watch import counted
from tests.docker_engine import build_base_image

from kaizen.containers import LABEL

pytest.importorskip("airflow.providers.docker", reason="pip install 'kaizen-mlops[airflow-docker]'")

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

count("plain", lines=3)
count("everything", lines=3, xcom_all=True, auto_remove="never")
count("fails", lines=2, exit=3, retries=1)
count("forced", lines=1, exit=3, auto_remove="force")
count("skips", exit=7, skip_on_exit_code=7)
count("hungry", lines=0, exit="[bytearray(1 << 26) for _ in range(99)]", mem_limit="64m", auto_remove="force")
count("no_command", retries=5, entrypoint=["/no/such/program"])
count("long", lines=50, every=0.15, retries=200)
count("deaf", lines=600, every=0.2, deaf=True, auto_remove="force")
count("slow", lines=600, every=0.2, deaf=True, auto_remove="force", execution_timeout=timedelta(seconds=4))
'''

# A DAG as people write them for the Docker provider. Only its import is another one.
EXAMPLE = """
from airflow.sdk import DAG
IMPORT

SHARED = {"image": "IMAGE", "docker_url": "HOST", "auto_remove": "success", "mount_tmp_dir": False}

with DAG("NAME", schedule=None, default_args=SHARED):
    host = DockerOperator(task_id="host", command="/bin/sh -c 'echo looking around; uname -s'")
    words = DockerOperator(
        task_id="words",
        command=["sh", "-c", "for word in $WORDS; do echo $word; done | sort | uniq"],
        environment={"WORDS": "pear apple {{ ti.xcom_pull(task_ids='host') }} apple"},
        xcom_all=True,
    )
    count = DockerOperator(
        task_id="count",
        command="python -c 'print({{ ti.xcom_pull(task_ids='words') | length }} + 1)'",
        mem_limit="64m",
        cpus=0.5,
        user="1000",
        working_dir="/tmp",
    )
    kept = DockerOperator(
        task_id="kept",
        command='bash -c "cd $AIRFLOW_TMP_DIR && echo {{ ti.xcom_pull(task_ids="count") }} > kept && cat kept"',
        mount_tmp_dir=True,
        auto_remove="force",
    )
    quiet = DockerOperator(task_id="quiet", command="sleep 0.1", do_xcom_push=False)
    empty = DockerOperator(task_id="empty", command="test 3 = 4", skip_on_exit_code=1)
    host >> words >> count >> kept >> [quiet, empty]
"""
PROVIDER = "from airflow.providers.docker.operators.docker import DockerOperator"
SWAPPED = "from kaizen_airflow.operators.docker import DurableDockerOperator as DockerOperator"


@pytest.fixture(scope="module")
def airflow(docker_engine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("airflow")
    dags = folder / "dags"
    dags.mkdir()
    texts = {"count": DAG_FILE} | {
        name: EXAMPLE.replace("IMPORT", line).replace("NAME", name)
        for name, line in (("theirs", PROVIDER), ("ours", SWAPPED))
    }
    for name, text in texts.items():
        text = text.replace("IMAGE", build_base_image(docker_engine)).replace("HOST", docker_engine.host)
        (dags / f"{name}.py").write_text(text)
    paths = [str(ROOT / part) for part in ("core", "providers", "kedro_plugins")]
    with AirflowService(
        home=folder / "home",
        dags=dags,
        settings={"core.dags_are_paused_at_creation": "False"},
        env={"PYTHONPATH": os.pathsep.join(paths), "KAIZEN_LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}"},
        template=ROOT / "build" / "airflow-template",
    ) as service:
        service.wait_for_dags(["plain", "slow", "theirs", "ours"])
        yield service


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
            time.sleep(0.1)

    def ended(self):
        self.until(lambda: self.task["state"] in ("success", "failed", "skipped"), "the end")
        return self.task["state"]

    def log(self):
        return "\n".join(self.lines(attempt) for attempt in range(1, self.task["try_number"] + 1))

    def lines(self, attempt):
        return self.airflow.task_log(self.dag, self.id, self.name, attempt)

    def counted(self):
        """The container's lines in the logs of all attempts, joined."""
        folder = self.airflow.home / "logs" / f"dag_id={self.dag}" / f"run_id={self.id}" / f"task_id={self.name}"
        found = []
        for attempt in range(1, self.task["try_number"] + 1):
            path = folder / f"attempt={attempt}.log"
            fields = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
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

    def kill(self):
        os.kill(self.task["pid"], signal.SIGKILL)


def containers(api, *, everything=True):
    return api.containers(all=everything, filters={"label": LABEL})


def test_it_says_what_the_parent_says_and_cleans_up_after_itself(airflow, api):
    runs = {dag: Run(airflow, dag) for dag in ("plain", "everything", "skips", "forced")}
    assert {dag: run.ended() for dag, run in runs.items()} == {
        "plain": "success",
        "everything": "success",
        "skips": "skipped",
        "forced": "failed",
    }
    assert runs["plain"].xcom == "line 2"
    assert runs["everything"].xcom == ["line 0", "line 1", "line 2"]
    assert runs["plain"].counted() == ["line 0", "line 1", "line 2"]
    runs["plain"].until(lambda: len(containers(api)) == 2, "removal")
    # auto_remove="never", and a failure under "success", stay for somebody to look at.
    assert sorted(c["Labels"][f"{LABEL}.loop"] for c in containers(api)) == ["airflow/everything", "airflow/skips"]


@pytest.mark.fault("F13", "out of memory, on Airflow: not retried", "I1 I2")
def test_causes_decide_whether_a_retry_makes_sense(airflow, api):
    runs = {dag: Run(airflow, dag) for dag in ("fails", "hungry", "no_command")}
    assert {run.ended() for run in runs.values()} == {"failed"}
    assert {dag: run.task["try_number"] for dag, run in runs.items()} == {"fails": 2, "hungry": 1, "no_command": 1}
    assert "KZ703" in runs["fails"].log()
    assert runs["fails"].counted() == ["line 0", "line 1"] * 2
    assert "out of memory" in runs["hungry"].log()
    assert "limit 64m" in runs["hungry"].log()
    assert "KZ708" in runs["no_command"].log()


@pytest.mark.fault("F01", "the task of a DurableDockerOperator is killed, on Airflow", "I1 I2 I11")
def test_killed_again_and_again_it_is_one_container_and_every_line_is_told_once(airflow, api, saw):
    dice = random.Random(1)
    run = Run(airflow, "long")
    seen = set()
    for _ in range(3):
        run.until(lambda: run.task["state"] == "running" and run.task["pid"], "running")
        attempt = run.task["try_number"]
        time.sleep(dice.uniform(0.2, 1.5))
        seen |= {c["Id"] for c in containers(api)}
        run.kill()
        run.until(lambda tries=attempt: run.task["try_number"] > tries, "the next attempt")
    assert run.ended() == "success"
    assert len(seen) == 1
    assert run.counted() == [f"line {n}" for n in range(50)]
    assert run.xcom == "line 49"
    assert run.task["try_number"] == 4
    run.until(lambda: containers(api) == [], "removal")
    saw(kills=3, wrong=int(run.xcom != "line 49"), **counted(run.counted(), 50))


@pytest.mark.fault("F02", "a person marks it failed; it ignores SIGTERM", "I1 I2")
def test_marked_failed_by_a_person_a_deaf_container_ends_soon(airflow, api):
    run = Run(airflow, "deaf")
    run.until(lambda: run.counted(), "the first line")
    airflow.api("PATCH", f"/dags/deaf/dagRuns/{run.id}/taskInstances/count", {"new_state": "failed"})
    began = time.monotonic()
    run.until(lambda: containers(api, everything=False) == [], "its end")
    assert time.monotonic() - began < 15
    assert run.ended() == "failed"


@pytest.mark.fault("F02", "a person clears it while it runs", "I1 I2")
def test_cleared_while_it_runs_it_starts_over_with_another_container(airflow, api):
    run = Run(airflow, "long")
    run.until(lambda: run.counted(), "the first line")
    (before,) = containers(api)
    which = {"dag_run_id": run.id, "task_ids": ["count"]}
    how = {"dry_run": False, "only_failed": False, "only_running": False}
    airflow.api("POST", "/dags/long/clearTaskInstances", {**which, **how})
    run.until(lambda: {c["Id"] for c in containers(api)} not in ({before["Id"]}, set()), "another container")
    assert run.ended() == "success"
    assert run.counted()[-50:] == [f"line {n}" for n in range(50)]
    run.until(lambda: containers(api) == [], "removal")


@pytest.mark.fault("F49", "execution_timeout; it ignores SIGTERM", "I1 I2")
def test_an_execution_timeout_ends_the_container(airflow, api):
    run = Run(airflow, "slow")
    assert run.ended() == "failed"
    run.until(lambda: containers(api) == [], "its end")


@pytest.mark.drill
def test_a_dag_for_the_docker_provider_runs_with_only_its_import_changed(airflow, api):
    runs = {dag: Run(airflow, dag, task="kept") for dag in ("theirs", "ours")}
    states, values = {}, {}
    for dag, run in runs.items():
        run.until(lambda run=run: run.state in ("success", "failed"), "the end of the DAG")
        states[dag] = {task["task_id"]: task["state"] for task in airflow.task_instances(dag, run.id)}
        values[dag] = {name: run.value(name) for name in states[dag]}
    done = dict.fromkeys(("host", "words", "count", "kept", "quiet"), "success")
    assert states == {dag: {**done, "empty": "skipped"} for dag in runs}, runs["ours"].log()
    said = {"host": "Linux", "words": ["Linux", "apple", "pear"], "count": "4", "kept": "4"}
    assert values == {dag: {**said, "quiet": None, "empty": None} for dag in runs}
