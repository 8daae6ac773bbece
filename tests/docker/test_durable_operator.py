"""The swap-in for DockerOperator on a real Airflow and a real engine: killed, marked, cleared, timed out."""

from __future__ import annotations

import random
import time

import pytest
from tests.docker.counting import Run, containers, counting_airflow

from kaizen.containers import LABEL

pytest.importorskip("airflow.providers.docker", reason="pip install 'kaizen-mlops[airflow-docker]'")

DAGS = """
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
"""


@pytest.fixture(scope="module")
def airflow(docker_engine, tmp_path_factory):
    with counting_airflow(docker_engine, tmp_path_factory.mktemp("airflow"), DAGS) as service:
        service.wait_for_dags(["plain", "slow"])
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


def test_causes_decide_whether_a_retry_makes_sense(airflow, api):
    runs = {dag: Run(airflow, dag) for dag in ("fails", "hungry", "no_command")}
    assert {run.ended() for run in runs.values()} == {"failed"}
    assert {dag: run.task["try_number"] for dag, run in runs.items()} == {"fails": 2, "hungry": 1, "no_command": 1}
    assert "KZ703" in runs["fails"].log()
    assert runs["fails"].counted() == ["line 0", "line 1"] * 2
    assert "out of memory" in runs["hungry"].log()
    assert "limit 64m" in runs["hungry"].log()
    assert "KZ708" in runs["no_command"].log()


def test_killed_again_and_again_it_is_one_container_and_every_line_is_told_once(airflow, api):
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
    # On a busy machine none of them lived long enough to make it.
    run.until(lambda: containers(api), "a container")
    seen |= {c["Id"] for c in containers(api)}
    assert run.ended() == "success"
    assert len(seen) == 1
    assert run.counted() == [f"line {n}" for n in range(50)]
    assert run.xcom == "line 49"
    assert run.task["try_number"] == 4
    run.until(lambda: containers(api) == [], "removal")


def test_marked_failed_by_a_person_a_deaf_container_ends_soon(airflow, api):
    run = Run(airflow, "deaf")
    run.until(lambda: run.counted(), "the first line")
    run.mark_failed()
    began = time.monotonic()
    run.until(lambda: containers(api, everything=False) == [], "its end")
    assert time.monotonic() - began < 15
    assert run.ended() == "failed"


def test_cleared_while_it_runs_it_starts_over_with_another_container(airflow, api):
    run = Run(airflow, "long")
    run.until(lambda: run.counted(), "the first line")
    (before,) = containers(api)
    run.clear()
    run.until(lambda: {c["Id"] for c in containers(api)} not in ({before["Id"]}, set()), "another container")
    assert run.ended() == "success"
    assert run.counted()[-50:] == [f"line {n}" for n in range(50)]


def test_an_execution_timeout_ends_the_container(airflow, api):
    run = Run(airflow, "slow")
    assert run.ended() == "failed"
    run.until(lambda: containers(api) == [], "its end")
