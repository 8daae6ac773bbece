"""What befalls Airflow itself while a container runs: scheduler, supervisor and API server die; it is adopted."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from demo.airflow_service import AirflowService
from tests.docker.counting import DAG_FILE, PATIENCE, ROOT, Run, containers
from tests.docker.watch import counted, watch
from tests.docker_engine import build_base_image

pytestmark = pytest.mark.drill

LINES = 150
DAGS = f"""
count("scheduler", lines={LINES}, every=0.2, retries=20)
count("supervisor", lines={LINES}, every=0.2, retries=20)
# While there is no server attempts begin and end.
count("server", lines={LINES}, every=0.2, retries=200)
"""
# What died is noticed in seconds, not minutes.
QUICK = {
    "core.dags_are_paused_at_creation": "False",
    "scheduler.job_heartbeat_sec": "1",
    "scheduler.scheduler_heartbeat_sec": "1",
    "scheduler.scheduler_health_check_threshold": "10",
    "scheduler.task_instance_heartbeat_timeout": "10",
    "scheduler.task_instance_heartbeat_timeout_detection_interval": "2",
    "workers.execution_api_retries": "1",
}


@pytest.fixture(scope="module")
def airflow(docker_engine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("airflow")
    dags = folder / "dags"
    dags.mkdir()
    text = (DAG_FILE + DAGS).replace("IMAGE", build_base_image(docker_engine)).replace("HOST", docker_engine.host)
    (dags / "count.py").write_text(text)
    paths = [str(ROOT / part) for part in ("core", "providers", "kedro_plugins")]
    with AirflowService(
        home=folder / "home",
        dags=dags,
        settings=QUICK,
        env={"PYTHONPATH": os.pathsep.join(paths), "KAIZEN_LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}"},
        template=ROOT / "build" / "airflow-template",
    ) as service:
        service.wait_for_dags(["server"])
        yield service


def begin(airflow, dag):
    """A run whose container tells its lines, and the process of its task."""
    run = Run(airflow, dag)
    run.until(lambda: len(run.counted()) > 5, "its first lines")
    return run, run.task["pid"]


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_gone(pid):
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"process {pid} goes on"
        time.sleep(0.1)


def assert_adopted(run, engine, saw):
    """The one container, its own last line, and every line once, whatever became of the attempts."""
    assert run.ended() == "success", run.log()
    told, attempts = counted(run.counted(), LINES), run.task["try_number"]
    saw(attempts=attempts, wrong=int(run.xcom != f"line {LINES - 1}"), **told)
    assert len(engine.started) == 1
    assert run.xcom == f"line {LINES - 1}"
    assert told == {"lines": LINES, "doubled": 0, "missing": 0, "out of order": 0}


@pytest.mark.fault("F05", "the scheduler is killed, and starts again", "I1 I2 I11")
def test_a_scheduler_that_dies_loses_no_container(airflow, api, saw):
    with watch(api) as engine:
        run, _ = begin(airflow, "scheduler")
        airflow.kill("scheduler")
        airflow.start("scheduler")
        airflow.wait_healthy()
        run.ended()
    assert_adopted(run, engine, saw)


@pytest.mark.fault("F14", "the task's supervisor is killed", "I1 I2 I11")
def test_a_supervisor_that_dies_leaves_the_container_to_the_next_attempt(airflow, api, saw):
    with watch(api) as engine:
        run, pid = begin(airflow, "supervisor")
        os.kill(parent(pid), signal.SIGKILL)
        run.ended()
    assert run.task["try_number"] > 1
    assert_adopted(run, engine, saw)


@pytest.mark.fault("F16", "the API server is away until the task is killed for it", "I1 I2 I11")
def test_a_task_that_is_killed_for_want_of_an_api_server_leaves_its_container(airflow, api, saw):
    with watch(api) as engine:
        run, pid = begin(airflow, "server")
        airflow.kill("api-server")
        wait_gone(pid)
        assert len(containers(api, everything=False)) == 1
        airflow.start("api-server")
        airflow.wait_healthy()
        run.ended()
    assert run.task["try_number"] > 1
    assert_adopted(run, engine, saw)
