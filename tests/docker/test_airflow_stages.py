"""A loop's stages in containers on a real Airflow: the training's task is killed, the turn ends as if it were not."""

from __future__ import annotations

import os
import sys
from collections import Counter

import pytest
from demo.airflow_service import AirflowService
from tests.docker.attempts import CANARY, leaks
from tests.docker.counting import ROOT, Run
from tests.docker.test_airflow_faults import QUICK
from tests.docker.test_image import make_base
from tests.docker.watch import counted, watch
from tests.loops import LOOP, MONTHS, make_loop

from kaizen.ledger import open_ledger
from kaizen.records import ContainerRun, TurnRecord

pytestmark = pytest.mark.drill

LINES = 150
IMAGE = "rail-train:1"
PACKAGES = ("kaizen-mlops", "mlflow-skinny", "pandas", "pyarrow", "scikit-learn", "skops")

SLOWLY = f"""
import time

from rail.training import train


def train_slowly(examples, *, target, seed):
    for number in range({LINES}):
        print("line", number, flush=True)
        time.sleep(0.1)
    return train(examples, target=target, seed=seed)
"""

DAG_FILE = """
from datetime import timedelta

from airflow.sdk import DAG
from kaizen_airflow import LoopTaskGroup

FAST = {"retries": 5, "retry_delay": timedelta(seconds=0.5)}
STAGES = ["ingest", "validate", "trigger", "train", "evaluate", "promote", "deploy", "score"]

with DAG("rail", schedule=None, params={"because": "it is new"}, default_args=FAST):
    LoopTaskGroup("project/kaizen.yml", STAGES, group_id="turn", prefix_group_id=False)
"""


@pytest.fixture(scope="module")
def project(docker_engine, tmp_path_factory):
    """Two months have landed; what is the project's lies in the image."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the image's Python is Debian's 3.11, and its packages are this environment's")
    place = {"mode": "docker", "image": IMAGE, "engine": docker_engine.host, "memory": "1g"}
    changes = {"place": place, "train": {"function": "rail.slowly:train_slowly"}}
    made = make_loop(tmp_path_factory.mktemp("projects") / "project", changes)
    (made.folder / "src" / "rail" / "slowly.py").write_text(SLOWLY)
    for month in MONTHS[:2]:
        made.land_month(month)
    return made


@pytest.fixture(scope="module")
def image(docker_engine, project):
    """What ``kaizen image build`` would make, of what is here already."""
    folders = {
        "usr/lib/python3/dist-packages/kaizen": ROOT / "core" / "kaizen",
        "opt/project/src": project.folder / "src",
    }
    made = make_base(docker_engine, "kaizen-test/rail:1", *PACKAGES, folders=folders)
    environment = ["ENV KAIZEN_PROJECT=/opt/project HOME=/tmp", "WORKDIR /opt/project"]
    container = docker_engine.client.api.create_container(made, ["true"])
    docker_engine.client.api.commit(container, *IMAGE.split(":"), changes=environment)
    docker_engine.client.api.remove_container(container)
    return IMAGE


@pytest.fixture(scope="module")
def airflow(project, image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("airflow")
    (dags := folder / "dags").mkdir()
    (dags / "rail.py").write_text(DAG_FILE)
    paths = [str(ROOT / part) for part in ("core", "providers", "kedro_plugins")]
    with AirflowService(
        home=folder / "home",
        dags=dags,
        settings={**QUICK, "kaizen.projects": str(project.folder.parent)},
        env={"PYTHONPATH": os.pathsep.join(paths), "MLFLOW_TRACKING_TOKEN": CANARY},
        template=ROOT / "build" / "airflow-template",
    ) as service:
        service.wait_for_dags(["rail"])
        yield service


@pytest.mark.fault("F01", "the task of a stage (place: docker) is killed, on Airflow", "I1 I2 I3 I10 I11")
def test_the_task_of_a_training_is_killed_and_the_turn_goes_on_as_if_it_were_not(airflow, project, api, saw):
    with watch(api) as engine:
        run = Run(airflow, "rail", task="train")
        for kills in (1, 2):
            run.until(lambda: run.task["state"] == "running" and run.task["pid"], "the training")
            run.until(lambda least=40 * kills: len(run.counted()) > least, "its lines")
            assert leaks(api, airflow.home, project.home) == []
            run.kill()
            run.until(lambda tries=kills: run.task["try_number"] > tries, "the next attempt")
        assert run.ended() == "success", run.log()
        run.until(lambda: run.state in ("success", "failed"), "the end of the turn")
    with open_ledger(f"sqlite:///{project.home / 'ledger.db'}") as ledger:
        (turn,) = [TurnRecord.from_json(e.payload) for e in ledger.events(LOOP, kind="TurnRecord")]
        runs = [ContainerRun.from_json(e.payload) for e in ledger.events(LOOP, kind="ContainerRun")]
    told = counted(run.counted(), LINES)
    saw(kills=2, attempts=run.task["try_number"], **told)
    assert (run.state, turn.outcome) == ("success", "deployed")
    assert engine.stages == Counter({"trigger": 1, "train": 1, "evaluate": 1, "deploy": 1, "score": 1})
    assert {(r.cause, r.exit_code) for r in runs} == {("", 0)}
    assert told == {"lines": LINES, "doubled": 0, "missing": 0, "out of order": 0}
    assert leaks(api, airflow.home, project.home) == []
    assert api.containers(all=True) == []
    assert api.volumes()["Volumes"] in (None, [])
