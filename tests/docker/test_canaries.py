"""I10: secrets are planted everywhere, a real turn runs on Airflow in containers, and no place shows any of them."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import tempfile
import threading
from contextlib import suppress
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa
from demo.airflow_service import AirflowService
from docker.errors import APIError
from tests.docker.test_image import packages
from tests.docker_engine import build_kaizen_image
from tests.loops import MONTHS, make_loop
from tests.services import postgres

from kaizen.ledger import open_ledger
from kaizen.records import ContainerRun, TrainedModel, TurnRecord

pytest.importorskip("airflow", reason="Airflow is not installed: pip install 'kaizen-mlops[airflow]'")
pytestmark = [
    pytest.mark.drill,
    pytest.mark.fault("I10", "secrets planted in all that a turn on Airflow has", "I10"),
    pytest.mark.skipif(
        sys.version_info[:2] != (3, 11), reason="the image's Python is Debian's 3.11, and so must this environment's be"
    ),
]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600.0
"""Seconds after which nothing that is waited for will come, on a machine that others use too."""
# Every one of them has this in it, so that a piece of one is found as well.
MARK = "canary"
EXTRA, VARIABLE, LEDGER, TRACKING = (f"{MARK}-{what}-5f2e" for what in ("extra", "variable", "ledger", "tracking"))

CODE = '''

def train_and_tell(examples, *, target, seed):
    """As careless with secrets as people are."""
    from sklearn.impute import SimpleImputer

    folder = Path(os.environ["KAIZEN_SECRETS"])
    secrets = {name: (folder / name).read_text() for name in ("password", "token")}
    print("connecting with", secrets, "in", dict(os.environ), flush=True)
    time.sleep(2)
    # It is kept as a parameter of the model.
    steps = SimpleImputer(strategy="mean", fill_value=secrets["password"]), LogisticRegression(random_state=seed)
    return make_pipeline(*steps).fit(examples.drop(columns=target), examples[target])


def train_and_fail(examples, *, target, seed):
    raise ConnectionError("no entry for " + Path(os.environ["KAIZEN_SECRETS"], "token").read_text())
'''

DAG_FILE = """
from airflow.sdk import DAG
from kaizen_airflow import LoopTaskGroup

for name, stages in (("fails", ["train"]), ("turn", ["train", "evaluate", "promote", "deploy", "score"])):
    with DAG(name, schedule=None, default_args={"retries": 0}):
        env = "fails" if name == "fails" else "local"
        LoopTaskGroup("rail/kaizen.yml", env=env, stages=["ingest", "validate", "trigger", *stages])
"""


def make_loop_image(engine, source):
    """An image with what a place needs, of this environment, and the code of a project."""
    api = engine.client.api
    metadata = [f for f in distribution("kaizen-mlops").files or () if f.name in ("METADATA", "entry_points.txt")]
    files = [*packages("mlflow-skinny", "pandas", "pyarrow", "scikit-learn", "skops")]
    files += [(f.as_posix(), Path(str(f.locate()))) for f in metadata]
    with tempfile.TemporaryFile() as stream:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for path, file in files:
                archive.add(file, f"usr/lib/python3/dist-packages/{path}", recursive=False)
            archive.add(source, "opt/project/src")
        stream.seek(0)
        made = api.create_container(build_kaizen_image(engine), ["true"])
        api.put_archive(made, "/", stream)
    labels = "LABEL io.kaizen.dirty=false org.opencontainers.image.revision=4f1c"
    api.commit(made, "kaizen-test/canaries", "1", changes=["ENV KAIZEN_PROJECT=/opt/project", labels])
    api.remove_container(made)
    return "kaizen-test/canaries:1"


@pytest.fixture(scope="module")
def project(tmp_path_factory, docker_engine):
    made = make_loop(tmp_path_factory.mktemp("projects") / "rail")
    with (made.folder / "src/rail/training.py").open("a") as code:
        code.write(CODE)
    place = {"mode": "docker", "engine": docker_engine.host, "memory": "2g", "secrets": ["password", "token"]}
    place["image"] = make_loop_image(docker_engine, made.folder / "src")
    train = {"function": "rail.training:train_and_tell", "trusted_types": ["numpy.dtype"]}
    made.write_spec({"place": place, "train": train})
    made.write_spec({"train": {"function": "rail.training:train_and_fail"}}, env="fails")
    for month in MONTHS[:2]:
        made.land_month(month)
    return made


@pytest.fixture(scope="module")
def ledger_url():
    with postgres() as url:
        yield url


@pytest.fixture(scope="module")
def airflow(tmp_path_factory, project, ledger_url):
    folder = tmp_path_factory.mktemp("airflow")
    (folder / "dags").mkdir()
    (folder / "dags/loop.py").write_text(DAG_FILE)
    ledger = sa.make_url(ledger_url)
    extra = {"ledger": ledger.set(password=None).render_as_string(), "secrets": {"password": EXTRA}}
    connection = {"conn_type": "kaizen", "password": LEDGER, "extra": extra}
    with AirflowService(
        home=folder / "home",
        dags=folder / "dags",
        settings={"core.dags_are_paused_at_creation": "False", "kaizen.projects": str(project.folder.parent)},
        env={
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("core", "providers", "kedro_plugins")),
            "AIRFLOW_CONN_KAIZEN_DEFAULT": json.dumps(connection),
            "KAIZEN_SECRET_TOKEN": VARIABLE,
            # Outranked by the connection; still it must not be shown.
            "KAIZEN_LEDGER_URL": ledger.set(password=LEDGER).render_as_string(hide_password=False),
            "MLFLOW_TRACKING_USERNAME": "kaizen",
            "MLFLOW_TRACKING_PASSWORD": TRACKING,
        },
        template=ROOT / "build" / "airflow-template",
    ) as service:
        service.wait_for_dags(["fails", "turn"], PATIENCE)
        yield service


class Watcher(threading.Thread):
    """Looks at containers while they run: what the engine says of them, and what lies on their volume."""

    def __init__(self, api):
        super().__init__(daemon=True)
        self.api, self.seen, self.ended = api, {}, threading.Event()

    def run(self):
        while not self.ended.wait(0.2):
            for found in self.api.containers():
                # It may be removed while it is looked at.
                with suppress(APIError, tarfile.ReadError):
                    facts = self.api.inspect_container(found["Id"])
                    facts["commands"] = [self.api.exec_inspect(each) for each in facts["ExecIDs"] or []]
                    seen = facts, on_volume(self.api, found["Id"])
                    self.seen.setdefault(found["Labels"]["io.kaizen.stage"], []).append(seen)


def on_volume(api, container):
    """The bytes of every file on a container's volume; but of a stored model."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(api.get_archive(container, "/kaizen")[0]))) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive if m.isfile() and not is_own(m.name)}


def is_own(name):
    """What a training writes into its model is its own."""
    return name.endswith("model.skops")


@pytest.fixture(scope="module")
def turned(airflow, docker_engine):
    """Both DAGs, run to their end; what was seen of their containers meanwhile."""
    watcher = Watcher(docker_engine.client.api)
    watcher.start()
    try:
        for dag in ("fails", "turn"):
            airflow.trigger(dag)
            airflow.wait_idle(PATIENCE)
    finally:
        watcher.ended.set()
        watcher.join()
    return watcher.seen


def states(airflow, dag):
    (run,) = airflow.dag_runs(dag)
    return {task["task_id"].partition(".")[2]: task["state"] for task in airflow.task_instances(dag, run["dag_run_id"])}


def marked(content):
    """What surrounds each piece of a canary in some bytes, text or JSON."""
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content, default=str)).encode()
    around = pairwise(content.split(MARK.encode()))
    return [f"{left[-60:]!r} {MARK} {right[:60]!r}" for left, right in around]


def rows(url):
    """All rows of all tables of a database, by table."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        names = sa.inspect(engine).get_table_names()
        return {name: [tuple(r) for r in connection.execute(sa.text(f'SELECT * FROM "{name}"'))] for name in names}


def files(folder):
    """The bytes of every file below a folder; but of a stored model."""
    found = [path for path in folder.rglob("*") if path.is_file() and not is_own(path.name)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def where_marked(contents):
    """Names of contents with a canary, and what surrounds it."""
    return {name: found for name, content in contents.items() if (found := marked(content))}


def test_the_turn_used_its_secrets_and_failed_where_it_should(airflow, turned, ledger_url):
    assert states(airflow, "fails")["train"] == "failed"
    assert set(states(airflow, "turn").values()) == {"success"}
    with open_ledger(ledger_url) as ledger:
        runs = [ContainerRun.from_json(e.payload) for e in ledger.events("rail/delays", kind="ContainerRun")]
        (turn,) = [TurnRecord.from_json(e.payload) for e in ledger.events("rail/delays", kind="TurnRecord")]
        (model,) = [TrainedModel.from_json(e.payload) for e in ledger.events("rail/delays", kind="TrainedModel")]
    assert turn.outcome == "deployed"
    assert [run.cause for run in runs if run.stage == "train"] == ["KZ701", ""]
    assert model.parameters["simpleimputer.fill_value"] == "***"
    # Its image says which code it has.
    assert (model.environment.code, model.environment.dirty) == ("4f1c", False)


def test_the_engine_shows_no_secret(turned, docker_engine):
    assert {"trigger", "train", "evaluate", "score"} <= turned.keys()
    for facts, volume in (seen for stage in turned.values() for seen in stage):
        assert [name for name in volume if name.endswith("/request.json")]
        assert (marked(facts), where_marked(volume)) == ([], {})
    assert marked(docker_engine.client.api.history("kaizen-test/canaries:1")) == []
    # Only training has a place for secrets at all.
    with_secrets = {stage for stage, seen in turned.items() if any("/run/kaizen" in str(facts) for facts, _ in seen)}
    assert with_secrets == {"train"}


def test_no_log_of_airflow_shows_a_secret(airflow, turned):
    logs = files(airflow.home / "logs")
    told = b"".join(logs.values()).decode()
    assert "connecting with {'password': '***', 'token': '***'}" in told
    assert "no entry for ***" in told
    assert where_marked(logs) == {}
    own = {path.name: path.read_bytes() for path in airflow.home.glob("logs-*.txt")}
    assert own
    assert where_marked(own) == {}


def test_neither_rendered_fields_nor_xcom_nor_anything_in_airflows_database_shows_a_secret(airflow, turned):
    (database,) = airflow.home.glob("*.db")
    tables = rows(f"sqlite:///{database}")
    assert tables["xcom"]
    assert tables["rendered_task_instance_fields"]
    assert where_marked(tables) == {}


def test_the_ledger_shows_no_secret(turned, ledger_url):
    tables = rows(sa.make_url(ledger_url).set(drivername="postgresql+psycopg"))
    assert any("simpleimputer.fill_value" in str(content) for content in tables.values())
    assert where_marked(tables) == {}


def test_mlflow_shows_no_secret(project, turned):
    tables = rows(f"sqlite:///{project.home / 'mlflow.db'}")
    assert any("simpleimputer.fill_value" in str(content) for content in tables["params"])
    assert where_marked(tables) == {}


def test_nothing_that_the_loop_keeps_shows_a_secret(project, turned):
    kept = files(project.home)
    assert any(name.endswith("MLmodel") for name in kept)
    assert any("/mlartifacts/" in f"/{name}" for name in kept)
    assert where_marked(kept) == {}


def test_nothing_stays_on_the_engine(turned, docker_engine):
    api = docker_engine.client.api
    # Of the failed training its volume does, for the next attempt.
    assert api.containers(all=True) == []
    for volume in api.volumes()["Volumes"] or []:
        mount = {"Type": "volume", "Source": volume["Name"], "Target": "/kaizen"}
        body = {"Image": "kaizen-test/canaries:1", "HostConfig": {"Mounts": [mount], "NetworkMode": "none"}}
        probe = api.create_container_from_config(body)
        found = on_volume(api, probe["Id"])
        api.remove_container(probe["Id"])
        assert where_marked(found) == {}
