"""The swap-in for DockerOperator on a real Airflow and a real engine: killed, marked, cleared, timed out."""

from __future__ import annotations

import random
import time

import pytest
from tests.docker.counting import Run, containers, counting_airflow
from tests.docker.watch import counted

from kaizen.containers import LABEL

pytest.importorskip("airflow.providers.docker", reason="pip install 'kaizen-mlops[airflow-docker]'")

DAGS = '''
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
            walls={"memory": "64m"}, result_file=True, auto_remove="force",
        )
with DAG("opens", schedule=None):
    DurableDockerOperator(task_id="count", image="IMAGE", docker_url="HOST", command="true", walls={}, privileged=True)
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
    written = {"theirs": PROVIDER, "ours": SWAPPED}
    others = {name: EXAMPLE.replace("IMPORT", line).replace("NAME", name) for name, line in written.items()}
    with counting_airflow(docker_engine, tmp_path_factory.mktemp("airflow"), DAGS, others=others) as service:
        service.wait_for_dags(["plain", "slow", *others])
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
