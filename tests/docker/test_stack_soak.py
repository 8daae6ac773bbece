"""The stack on a real engine, with stand-ins for the official images: healthy, closed, and three months of flights.

The flights' stages run in containers beside the stack, which the scheduler starts through the proxy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from demo import run as demo
from demo.airflow_client import AirflowClient
from demo.airflow_service import _free_port
from tests.docker.stack_images import build_images, build_stage_image
from tests.docker.test_stack import COPIED, SERVICES, compose, make_secrets, secrets_of
from tests.docker_engine import DockerEngine, find_dockerd
from tests.services import NotInstalledError

from kaizen.containers import LABEL
from kaizen.loop import open_loop
from kaizen.records import ContainerRun, Promotion
from kaizen.spec import load_spec

pytestmark = pytest.mark.soak
ROOT = Path(__file__).parents[2]
ENDED = ("postgres-init", "airflow-init")
STAGES = "flights-train:1"


class Engine(DockerEngine):
    """With published ports, as a machine's own engine has them; there are no rules of iptables for them here."""

    def _options(self):
        return [option.replace("userland-proxy=false", "userland-proxy=true") for option in super()._options()]


class Stack:
    """A copy of what the stack needs, and how compose is asked about it."""

    def __init__(self, folder, engine, images):
        self.folder, self.engine = folder, engine
        self.airflow_port, self.mlflow_port = _free_port(), _free_port()
        self.variables = {
            **images,
            "DOCKER_HOST": engine.host,
            "KAIZEN_DOCKER_SOCKET": engine.host.removeprefix("unix://"),
            "KAIZEN_AIRFLOW_PORT": str(self.airflow_port),
            "KAIZEN_MLFLOW_PORT": str(self.mlflow_port),
            "KAIZEN_DAGS_ARE_PAUSED": "False",
            "COMPOSE_HTTP_TIMEOUT": "300",
        }

    def __call__(self, *arguments):
        done = compose(self.folder, *arguments, **self.variables)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def container(self, service):
        return self.engine.client.containers.get(f"kaizen_{service}_1")

    def inside(self, service, *command):
        """Exit code and output of a command in a service's container."""
        code, output = self.container(service).exec_run(list(command))
        return code, output.decode()

    def wait_healthy(self, timeout=300):
        deadline = time.monotonic() + timeout
        while unhealthy := [s for s in SERVICES if s not in ENDED and not self._is_healthy(s)]:
            if time.monotonic() > deadline:
                pytest.fail(f"{unhealthy}\n" + "\n".join(self("logs", "--tail=30", s) for s in unhealthy))
            time.sleep(1)

    def _is_healthy(self, service):
        return self.container(service).attrs["State"].get("Health", {}).get("Status") == "healthy"

    @property
    def airflow_image(self):
        """The tag of the image that compose built for Airflow."""
        return yaml.safe_load(self("config"))["services"]["airflow-scheduler"]["image"]

    def address(self, service):
        networks = self.container(service).attrs["NetworkSettings"]["Networks"]
        return networks["kaizen_default"]["IPAddress"]

    @property
    def airflow(self):
        password = json.loads((self.folder / "stack/secrets/airflow_passwords").read_text())["admin"]
        return AirflowClient(f"http://127.0.0.1:{self.airflow_port}", ("admin", password))


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    """A loop in a folder of loops, and the months that will land."""
    folder = tmp_path_factory.mktemp("loops")
    made = demo._make_project(folder, 3, {"mode": "docker", "image": STAGES, "memory": "2g"})
    return folder, *made


@pytest.fixture(scope="module")
def stack(tmp_path_factory, flights):
    try:
        find_dockerd()
    except NotInstalledError as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("stack")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    shutil.rmtree(folder / "stack/secrets", ignore_errors=True)
    make_secrets(folder)
    flights[0].rename(folder / "loops")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder / "dist"), str(ROOT)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    # Everybody's umask: the containers' user is another than this one.
    subprocess.run(["chmod", "-R", "a+rX", str(folder / "loops"), str(folder / "dags")], check=True)
    with Engine() as engine:
        found = Stack(folder, engine, build_images(engine))
        found("build", "--quiet")
        build_stage_image(engine, STAGES, found.airflow_image, folder / "loops/flights")
        found("up", "--detach")
        found.wait_healthy()
        yield found


def test_every_service_is_healthy_and_the_others_have_ended_well(stack):
    stack.wait_healthy(timeout=0)
    assert [stack.container(name).attrs["State"]["ExitCode"] for name in ENDED] == [0, 0]
    assert stack.airflow.api("GET", "/connections/kaizen_default")["conn_type"] == "kaizen"


def test_no_secret_is_in_inspect_or_a_log(stack):
    told = json.dumps([c.attrs for c in stack.engine.client.containers.list(all=True)])
    told += "".join(c.logs().decode(errors="replace") for c in stack.engine.client.containers.list(all=True))
    told += "".join(json.dumps(stack.engine.client.images.get(i).history()) for i in ("kaizen-airflow:0.1.0",))
    assert [secret for secret in secrets_of(stack.folder) if secret in told] == []


def test_nobody_enters_without_a_password_or_by_another_name(stack):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{stack.airflow_port}/api/v2/dags", timeout=30)
    url = f"http://127.0.0.1:{stack.mlflow_port}/api/2.0/mlflow/experiments/search?max_results=1"
    assert urllib.request.urlopen(url, timeout=30).status == 200
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "evil.example"}), timeout=30)


def test_a_role_enters_its_own_database_only(stack):
    code = "import psycopg, sys; psycopg.connect(sys.argv[1])"
    mine = ["postgresql://airflow@postgres/airflow", "postgresql://ledger@postgres/ledger"]
    for url in mine:
        assert stack.inside("airflow-scheduler", "python", "-c", code, url) == (0, "")
    for url in ("postgresql://ledger@postgres/airflow", "postgresql://postgres@postgres/postgres"):
        assert stack.inside("airflow-scheduler", "python", "-c", code, url)[0] != 0
    assert stack.inside("mlflow", "python", "-c", code, "postgresql://mlflow@postgres/mlflow") == (0, "")
    password = (stack.folder / "stack/secrets/mlflow_pgpass").read_text().strip().rpartition(":")[2]
    url = f"postgresql://mlflow:{password}@postgres/ledger"
    assert "permission denied for database" in stack.inside("mlflow", "python", "-c", code, url)[1]


START = """
import sys
from kaizen.adapters.docker_engine import Engine
from docker.errors import APIError
engine = Engine()
body = {"Image": sys.argv[1], "Cmd": ["echo", "trained"], "Labels": {"io.kaizen": "1"}}
made = engine.api.create_container_from_config({**body, "HostConfig": {"NetworkMode": "none"}})
engine.api.start(made)
engine.api.wait(made)
print(engine.api.logs(made).decode(), len(engine.ours()))
engine.remove(made["Id"])
for host in ({"Privileged": True}, {"Binds": ["/:/host"]}):
    try:
        engine.api.create_container_from_config({**body, "HostConfig": host})
    except APIError as error:
        print(error.status_code, error.explanation)
for name in ("kaizen_postgres_1", "kaizen_docker-proxy_1"):
    try:
        engine.remove(name)
    except APIError as error:
        print(error.status_code)
"""


def test_the_scheduler_starts_containers_and_becomes_root_by_none(stack):
    image = stack.variables["KAIZEN_DOCKER_PROXY_IMAGE"]
    code, told = stack.inside("airflow-scheduler", "python", "-c", START, image)
    assert code == 0, told
    assert told.startswith("trained")
    assert told.count("403") == 4
    reach = "import socket; socket.create_connection(('docker-proxy', 2375), 5)"
    assert stack.inside("airflow-scheduler", "python", "-c", reach)[0] == 0
    assert stack.inside("mlflow", "python", "-c", reach)[0] != 0


def test_the_flights_are_scheduled_and_survive_a_restart(stack, flights, tmp_path, monkeypatch):
    _, spec_file, history = flights
    spec_file = stack.folder / "loops" / spec_file.relative_to(flights[0])
    # Whoever looks on from here reads the same ledger, and writes nothing.
    monkeypatch.setenv("PGPASSFILE", str(stack.folder / "stack/secrets/airflow_pgpass"))
    monkeypatch.setenv("KAIZEN_LEDGER_URL", f"postgresql://ledger@{stack.address('postgres')}/ledger")
    monkeypatch.setenv("KAIZEN_HOME", str(tmp_path / "home"))
    spec = load_spec(spec_file, "local")
    stack.airflow.wait_for_dags(demo.DAGS.values(), timeout=120)
    demo._live_through(stack.airflow, spec, spec_file, history)
    before = champion(spec_file)
    assert before
    assert {run["state"] for run in stack.airflow.dag_runs()} == {"success"}
    with open_loop(spec_file, env="local") as loop:
        events = loop.ledger.events(loop.name, kind=ContainerRun.__name__)
        ran = [ContainerRun.from_json(event.payload) for event in events]
    assert {run.stage for run in ran} == {"trigger", "train", "evaluate", "deploy", "score"}
    assert {(run.cause, run.image) for run in ran} == {("", STAGES)}
    assert stack.engine.client.api.containers(all=True, filters={"label": LABEL}) == []
    code, told = stack.inside("airflow-scheduler", "kaizen", "status")
    assert (code, "nyc/flights" in told) == (0, True), told
    stack("down")
    stack("up", "--detach")
    stack.wait_healthy()
    monkeypatch.setenv("KAIZEN_LEDGER_URL", f"postgresql://ledger@{stack.address('postgres')}/ledger")
    assert champion(spec_file) == before
    # The watcher of the landing is new, and rings for what lies there.
    stack.airflow.wait_idle(demo.PATIENCE)
    assert {run["state"] for run in stack.airflow.dag_runs()} == {"success"}
    assert champion(spec_file) == before


def champion(spec_file):
    with open_loop(spec_file, env="local") as loop:
        promotion = loop.head(Promotion, "champion")
        return promotion.champion if promotion else None
