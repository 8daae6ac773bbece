"""The swap-in for DockerOperator on a real Airflow and a real engine: killed, marked, cleared, timed out.

Then the same deferred: no worker waits for its container; a triggerer that dies loses nothing. One Airflow is for all:
its start costs more than most tests.
"""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.docker.counting import DAG_FILE, Run, containers, counting_airflow
from tests.docker.watch import counted

from kaizen.containers import LABEL

pytest.importorskip("airflow.providers.docker", reason="pip install 'kaizen-mlops[airflow-docker]'")

DAGS = '''
from functools import partial
# What the others do by the default of this Airflow.
count = partial(count, deferrable=False)
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

LEAVE = """
import json, os, sys
from pathlib import Path
STATUS = Path("/proc/self/status")
print("not the result", file=sys.stderr)
def writes(path):
    try:
        Path(path, "probe").touch()
    except OSError:
        return False
    return True
seen = {"uid": os.getuid(), "root": writes("/usr"), "tmp": writes("/tmp"), "caps": STATUS.read_text()}
text = {"leaves": json.dumps(seen), "tears": '{"auc": 0.', "lies": '{"auc": NaN}'}.get(sys.argv[1])
if text:
    Path(os.environ["KAIZEN_RESULT"]).write_text(text)
"""
for dag_id in ("leaves", "tears", "lies", "forgets"):
    with DAG(dag_id, schedule=None):
        DurableDockerOperator(
            task_id="count", image="IMAGE", docker_url="HOST", command=["python", "-c", LEAVE, dag_id],
            walls={"memory": "64m"}, result_file=True, auto_remove="force", deferrable=False,
        )
with DAG("opens", schedule=None):
    DurableDockerOperator(
        task_id="count", image="IMAGE", docker_url="HOST", command="true", walls={}, privileged=True, deferrable=False
    )
'''


DEFERRED = """
import os
from datetime import datetime, UTC
from airflow.sdk import task

SECRETS = {"environment": {"TOKEN": "canary-1"}, "private_environment": {"PASSWORD": "canary-2"}}
for suffix, how in (("", {}), ("_blocking", {"deferrable": False})):
    count("deferred_plain" + suffix, lines=3, **how)
    count("deferred_everything" + suffix, lines=3, every=0.5, xcom_all=True, auto_remove="never", **how)
    count("deferred_fails" + suffix, lines=2, every=0.5, exit=3, retries=1, **how)
    count("deferred_skips" + suffix, lines=2, exit=7, skip_on_exit_code=7, **how)
count("deferred_long", lines=40, every=0.2, retries=5, **SECRETS)
count("deferred_named", lines=40, every=0.2, container_name="count-for-me")
count("deferred_deaf", lines=400, every=0.2, deaf=True, auto_remove="force")
count("deferred_slow", lines=400, every=0.2, auto_remove="force", execution_timeout=timedelta(seconds=6))

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
KINDS = ("deferred_plain", "deferred_everything", "deferred_fails", "deferred_skips")
LINES = [f"line {n}" for n in range(40)]


# A DAG as people write them for the Docker provider. Only its import is another one.
EXAMPLE = """
from airflow.sdk import DAG
IMPORT

SHARED = {"image": "IMAGE", "docker_url": "HOST", "auto_remove": "success", "mount_tmp_dir": False, "deferrable": False}

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
def fault(tmp_path_factory):
    """A file that arms a fault point in the next process that passes it."""
    return tmp_path_factory.mktemp("fault") / "fault"


@pytest.fixture(scope="module")
def airflow(docker_engine, tmp_path_factory, fault):
    written = {"theirs": PROVIDER, "ours": SWAPPED}
    others = {name: EXAMPLE.replace("IMPORT", line).replace("NAME", name) for name, line in written.items()}
    others["deferred"] = DAG_FILE + DEFERRED
    settings = {
        "operators.default_deferrable": "True",
        # How soon another triggerer takes over what a killed one had.
        "triggerer.job_heartbeat_sec": "1",
        "triggerer.triggerer_health_check_threshold": "5",
        "scheduler.trigger_timeout_check_interval": "1",
    }
    given = {"others": others, "settings": settings, "env": {"KAIZEN_FAULT": f"@{fault}"}}
    with counting_airflow(docker_engine, tmp_path_factory.mktemp("airflow"), DAGS, **given) as service:
        service.wait_for_dags(["plain", "slow", "theirs", "ours", "deferred_plain", "reconcile"])
        yield service


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


def test_behind_walls_it_has_its_result_from_a_file_or_fails(airflow, api):
    runs = {dag: Run(airflow, dag) for dag in ("leaves", "tears", "lies", "forgets", "opens")}
    ended = {dag: run.ended() for dag, run in runs.items()}
    assert ended == {dag: "success" if dag == "leaves" else "failed" for dag in runs}
    seen = runs["leaves"].xcom
    assert (seen["uid"], seen["root"], seen["tmp"]) == (65532, False, True)
    assert "CapEff:\t0000000000000000" in seen["caps"]
    assert "KZ718" in runs["tears"].log()
    assert "NaN is no JSON number" in runs["lies"].log()
    assert "KZ703" in runs["forgets"].log()
    assert "KZ319" in runs["opens"].log()
    runs["leaves"].until(lambda: not containers(api), "removal")
    assert not api.volumes(filters={"label": LABEL})["Volumes"]


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
    for number in range(3):
        run.until(lambda: run.task["state"] == "running" and run.task["pid"], "running")
        attempt = run.task["try_number"]
        if number == 2:
            # On a slow machine the attempts before it may not have got that far.
            run.until(lambda: containers(api), "its container")
        time.sleep(dice.uniform(0.2, 1.5))
        seen |= {c["Id"] for c in containers(api)}
        run.kill()
        run.until(lambda tries=attempt: run.task["try_number"] > tries, "the next attempt")
    # On a busy machine none of them lived long enough to make it.
    run.until(lambda: containers(api), "a container")
    seen |= {c["Id"] for c in containers(api)}
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
    run.mark_failed()
    began = time.monotonic()
    run.until(lambda: containers(api, everything=False) == [], "its end")
    assert time.monotonic() - began < 15
    assert run.ended() == "failed"


@pytest.mark.fault("F02", "a person clears it while it runs", "I1 I2")
def test_cleared_while_it_runs_it_starts_over_with_another_container(airflow, api):
    run = Run(airflow, "long")
    run.until(lambda: run.counted(), "the first line")
    (before,) = containers(api)
    run.clear()
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


# Deferred.


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


@pytest.mark.long
def test_it_says_what_the_blocking_one_says(airflow, api):
    runs = {dag: Run(airflow, dag) for kind in KINDS for dag in (kind, f"{kind}_blocking")}
    states = {dag: run.ended() for dag, run in runs.items()}
    assert [states[kind] for kind in KINDS] == ["success", "success", "failed", "skipped"]
    for one, other in ((runs[kind], runs[f"{kind}_blocking"]) for kind in KINDS):
        assert states[one.dag] == states[other.dag]
        assert one.task["try_number"] == other.task["try_number"]
        assert one.counted() == other.counted() != []
    assert runs["deferred_plain"].xcom == runs["deferred_plain_blocking"].xcom == "line 2"
    assert (
        runs["deferred_everything"].xcom == runs["deferred_everything_blocking"].xcom == ["line 0", "line 1", "line 2"]
    )
    assert "KZ703" in runs["deferred_fails"].log()
    assert "Pausing task as DEFERRED" in runs["deferred_everything"].log()
    assert "Pausing task as DEFERRED" not in runs["deferred_everything_blocking"].log()


def test_while_it_is_deferred_nobody_waits_and_no_secret_lies_in_the_database(airflow, api):
    run = deferred(airflow, "deferred_long")
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
@pytest.mark.long
@pytest.mark.parametrize("killed", [True, pytest.param(False, marks=pytest.mark.drill)], ids=["killed", "terminated"])
def test_a_triggerer_that_comes_back_finds_the_same_container(airflow, api, triggerer, killed):
    run = deferred(airflow, "deferred_long")
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
    run = Run(airflow, "deferred_long")
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
    run = deferred(airflow, "deferred_long")
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
    run = deferred(airflow, "deferred_long")
    docker_engine.pause()
    time.sleep(15)
    docker_engine.resume()
    assert run.ended() == "success"
    assert run.counted() == LINES
    assert run.task["try_number"] == 1


@pytest.mark.drill
@pytest.mark.fault("F52", "a person removes the container of a deferred task", "I1 I2")
def test_removed_by_a_stranger_while_it_is_deferred_it_is_tried_again(airflow, api):
    run = deferred(airflow, "deferred_long")
    (container,) = containers(api)
    api.remove_container(container["Id"], force=True)
    assert run.ended() == "success"
    assert "KZ707" in run.log()
    assert run.task["try_number"] == 2
    assert run.counted() == LINES


@pytest.mark.fault("F02", "a person marks a deferred task failed; it ignores SIGTERM", "I1 I2")
def test_marked_failed_while_it_is_deferred_a_deaf_container_ends(airflow, api):
    run = deferred(airflow, "deferred_deaf")
    run.until(lambda: lines(api), "the first line")
    run.mark_failed()
    run.until(lambda: containers(api) == [], "its end")
    assert run.ended() == "failed"


@pytest.mark.drill
@pytest.mark.fault("F02", "a person clears a deferred task", "I1 I2")
def test_cleared_while_it_is_deferred_it_starts_over(airflow, api):
    # Its container's name is the same for ever.
    run = deferred(airflow, "deferred_named")
    (before,) = containers(api)
    run.clear()
    run.until(lambda: {c["Id"] for c in containers(api)} not in ({before["Id"]}, set()), "another container")
    assert run.ended() == "success"
    assert run.counted() == LINES


@pytest.mark.fault("F49", "execution_timeout of a deferred task, with a triggerer and without", "I1 I2")
@pytest.mark.parametrize(
    "alive", [True, pytest.param(False, marks=pytest.mark.drill)], ids=["by-the-triggerer", "without-one"]
)
def test_an_execution_timeout_of_a_deferred_task_ends_the_container(airflow, api, triggerer, alive):
    run = deferred(airflow, "deferred_slow")
    if not alive:
        airflow.kill("triggerer")
    assert run.ended() == "failed"
    run.until(lambda: containers(api) == [], "its end")
    assert run.counted()[:3] == ["line 0", "line 1", "line 2"]
    assert "execution_timeout: 0:00:06" in run.log()


@pytest.mark.drill
@pytest.mark.fault("F60", "no triggerer is there: only the reconciler looks", "I1 I2")
def test_without_a_triggerer_a_container_is_an_orphan_only_when_its_task_is_over(airflow, api, triggerer):
    run = deferred(airflow, "deferred_deaf")
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
