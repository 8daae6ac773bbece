"""The swap-in for DockerOperator, deferred: no worker waits for its container; a triggerer that dies loses nothing."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.docker.counting import Run, containers, counting_airflow

pytest.importorskip("airflow.providers.docker", reason="pip install 'kaizen-mlops[airflow-docker]'")

DAGS = """
import os
from datetime import datetime, UTC
from airflow.sdk import task

SECRETS = {"environment": {"TOKEN": "canary-1"}, "private_environment": {"PASSWORD": "canary-2"}}
for suffix, how in (("", {}), ("_blocking", {"deferrable": False})):
    count("plain" + suffix, lines=3, **how)
    count("everything" + suffix, lines=3, every=0.5, xcom_all=True, auto_remove="never", **how)
    count("fails" + suffix, lines=2, every=0.5, exit=3, retries=1, **how)
    count("skips" + suffix, lines=2, exit=7, skip_on_exit_code=7, **how)
count("long", lines=40, every=0.2, retries=5, **SECRETS)
count("named", lines=40, every=0.2, container_name="count-for-me")
count("deaf", lines=400, every=0.2, deaf=True, auto_remove="force")
count("slow", lines=400, every=0.2, auto_remove="force", execution_timeout=timedelta(seconds=6))

class Later:
    def now(self):
        return datetime.now(UTC) + timedelta(hours=1)

with DAG("reconcile", schedule=None):
    @task(task_id="count")
    def reconcile():
        from kaizen.adapters.docker_engine import Engine
        from kaizen.adapters.docker_orphans import remove_orphans
        from kaizen.ledger import open_ledger
        from kaizen_airflow.containers import is_deferred, is_over
        with open_ledger(os.environ["KAIZEN_LEDGER_URL"]) as ledger:
            return list(remove_orphans(Engine("HOST"), ledger, Later(), is_over, is_deferred))
    reconcile()
"""
KINDS = ("plain", "everything", "fails", "skips")
LINES = [f"line {n}" for n in range(40)]


@pytest.fixture(scope="module")
def fault(tmp_path_factory):
    """A file that arms a fault point in the next process that passes it."""
    return tmp_path_factory.mktemp("fault") / "fault"


@pytest.fixture(scope="module")
def airflow(docker_engine, tmp_path_factory, fault):
    settings = {
        "operators.default_deferrable": "True",
        # How soon another triggerer takes over what a killed one had.
        "triggerer.job_heartbeat_sec": "1",
        "triggerer.triggerer_health_check_threshold": "5",
        "scheduler.trigger_timeout_check_interval": "1",
    }
    folder = tmp_path_factory.mktemp("airflow")
    with counting_airflow(docker_engine, folder, DAGS, settings=settings, env={"KAIZEN_FAULT": f"@{fault}"}) as service:
        service.wait_for_dags(["plain", "reconcile"])
        yield service


@pytest.fixture
def triggerer(airflow):
    """The triggerer, which a test may end; it runs again afterwards."""
    yield airflow.processes["triggerer"]
    if airflow.processes["triggerer"].poll() is not None:
        restart(airflow)


def restart(airflow):
    airflow.start("triggerer")
    airflow.wait_healthy()


def deferred(airflow, dag):
    """A run whose task is deferred, and whose trigger has begun to wait for its container."""
    run = Run(airflow, dag)
    run.until(lambda: run.task["state"] == "deferred", "deferral")
    logs = f"logs/dag_id={dag}/run_id={run.id}/task_id=count/attempt=1.log.trigger.*"
    run.until(lambda: list(airflow.home.glob(logs)), "the trigger")
    return run


def of_database(airflow, statement):
    (database,) = airflow.home.glob("airflow-*.db")
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        return connection.execute(statement).fetchall()


def lines(api):
    """What the one container has printed."""
    (container,) = containers(api)
    return api.logs(container["Id"]).decode().splitlines()


def test_it_says_what_the_blocking_one_says(airflow, api):
    runs = {dag: Run(airflow, dag) for kind in KINDS for dag in (kind, f"{kind}_blocking")}
    states = {dag: run.ended() for dag, run in runs.items()}
    assert [states[kind] for kind in KINDS] == ["success", "success", "failed", "skipped"]
    for one, other in ((runs[kind], runs[f"{kind}_blocking"]) for kind in KINDS):
        assert states[one.dag] == states[other.dag]
        assert one.task["try_number"] == other.task["try_number"]
        assert one.counted() == other.counted() != []
    assert runs["plain"].xcom == runs["plain_blocking"].xcom == "line 2"
    assert runs["everything"].xcom == runs["everything_blocking"].xcom == ["line 0", "line 1", "line 2"]
    assert "KZ703" in runs["fails"].log()
    assert "Pausing task as DEFERRED" in runs["everything"].log()
    assert "Pausing task as DEFERRED" not in runs["everything_blocking"].log()


def test_while_it_is_deferred_nobody_waits_and_no_secret_lies_in_the_database(airflow, api):
    run = deferred(airflow, "long")
    pool = airflow.api("GET", "/pools/default_pool")
    assert (pool["running_slots"], pool["deferred_slots"]) == (0, 1)
    assert not Path(f"/proc/{run.task['pid']}").exists()
    (container,) = containers(api, everything=False)
    ((given,),) = of_database(airflow, "SELECT kwargs FROM trigger")
    assert container["Id"] in given
    assert "canary" not in given
    assert run.ended() == "success"
    assert run.counted() == LINES
    run.until(lambda: containers(api) == [], "removal")


@pytest.mark.fault("F60", "the triggerer is killed, or told to end, and comes back", "I1 I2")
@pytest.mark.parametrize("killed", [True, pytest.param(False, marks=pytest.mark.drill)], ids=["killed", "terminated"])
def test_a_triggerer_that_comes_back_finds_the_same_container(airflow, api, triggerer, killed):
    run = deferred(airflow, "long")
    (container,) = containers(api)
    run.until(lambda: len(lines(api)) > 3, "some lines")
    if killed:
        airflow.kill("triggerer")
        # Until the container has ended as well.
        run.until(lambda: containers(api, everything=False) == [], "its end")
    else:
        triggerer.terminate()
        triggerer.wait()
    restart(airflow)
    seen = {c["Id"] for c in containers(api)}
    assert run.ended() == "success"
    assert seen == {container["Id"]}
    assert run.task["try_number"] == 1
    assert run.counted() == LINES
    assert run.xcom == "line 39"
    run.until(lambda: containers(api) == [], "removal")


@pytest.mark.drill
@pytest.mark.fault("F60", "the worker dies before it defers, or when it resumes", "I1 I2")
@pytest.mark.parametrize("point", ["containers.after_start", "ledger.append.after_commit"])
def test_a_worker_that_dies_before_it_defers_or_when_it_resumes_is_followed_by_one_that_adopts(
    airflow, api, fault, point
):
    fault.write_text(f"{point}:kill")
    run = Run(airflow, "long")
    run.until(lambda: containers(api, everything=False), "a container")
    (container,) = containers(api)
    assert run.ended() == "success"
    assert f"container {container['Names'][0][1:]} is adopted" in run.log()
    assert run.counted() == LINES
    assert run.task["try_number"] == 2
    assert not fault.exists()


@pytest.mark.drill
@pytest.mark.fault("F60", "no triggerer can run the trigger", "I1 I2")
def test_where_no_triggerer_can_run_the_trigger_the_task_waits_itself(airflow, api, triggerer):
    run = deferred(airflow, "long")
    airflow.kill("triggerer")
    of_database(airflow, "UPDATE trigger SET classpath = 'kaizen_airflow.nowhere.ContainerTrigger'")
    restart(airflow)
    assert run.ended() == "success"
    assert "no triggerer can wait for the container" in run.log()
    assert run.counted() == LINES
    assert run.task["try_number"] == 1
    # It would take the next trigger, which SQLite gives the same number, for the one that it could not load.
    airflow.kill("triggerer")


@pytest.mark.drill
@pytest.mark.fault("F51", "dockerd hangs while the task is deferred", "I1 I2")
def test_an_engine_that_hangs_is_waited_for(airflow, api, docker_engine):
    run = deferred(airflow, "long")
    docker_engine.pause()
    time.sleep(15)
    docker_engine.resume()
    assert run.ended() == "success"
    assert run.counted() == LINES
    assert run.task["try_number"] == 1


@pytest.mark.drill
@pytest.mark.fault("F52", "a person removes the container of a deferred task", "I1 I2")
def test_removed_by_a_stranger_while_it_is_deferred_it_is_tried_again(airflow, api):
    run = deferred(airflow, "long")
    (container,) = containers(api)
    api.remove_container(container["Id"], force=True)
    assert run.ended() == "success"
    assert "KZ707" in run.log()
    assert run.task["try_number"] == 2
    assert run.counted() == LINES


@pytest.mark.fault("F02", "a person marks a deferred task failed; it ignores SIGTERM", "I1 I2")
def test_marked_failed_while_it_is_deferred_a_deaf_container_ends(airflow, api):
    run = deferred(airflow, "deaf")
    run.until(lambda: lines(api), "the first line")
    run.mark_failed()
    run.until(lambda: containers(api) == [], "its end")
    assert run.ended() == "failed"


@pytest.mark.drill
@pytest.mark.fault("F02", "a person clears a deferred task", "I1 I2")
def test_cleared_while_it_is_deferred_it_starts_over(airflow, api):
    # Its container's name is the same for ever.
    run = deferred(airflow, "named")
    (before,) = containers(api)
    run.clear()
    run.until(lambda: {c["Id"] for c in containers(api)} not in ({before["Id"]}, set()), "another container")
    assert run.ended() == "success"
    assert run.counted() == LINES


@pytest.mark.fault("F49", "execution_timeout of a deferred task, with a triggerer and without", "I1 I2")
@pytest.mark.parametrize(
    "alive", [True, pytest.param(False, marks=pytest.mark.drill)], ids=["by-the-triggerer", "without-one"]
)
def test_an_execution_timeout_ends_the_container(airflow, api, triggerer, alive):
    run = deferred(airflow, "slow")
    if not alive:
        airflow.kill("triggerer")
    assert run.ended() == "failed"
    run.until(lambda: containers(api) == [], "its end")
    assert run.counted()[:3] == ["line 0", "line 1", "line 2"]
    assert "execution_timeout: 0:00:06" in run.log()


@pytest.mark.drill
@pytest.mark.fault("F60", "no triggerer is there: only the reconciler looks", "I1 I2")
def test_without_a_triggerer_a_container_is_an_orphan_only_when_its_task_is_over(airflow, api, triggerer):
    run = deferred(airflow, "deaf")
    (container,) = containers(api)
    airflow.kill("triggerer")
    reconciled = Run(airflow, "reconcile")
    assert reconciled.ended() == "success"
    assert reconciled.xcom == []
    run.mark_failed()
    reconciled = Run(airflow, "reconcile")
    assert reconciled.ended() == "success"
    (said,) = reconciled.xcom
    assert container["Names"][0][1:] in said
    assert containers(api) == []
