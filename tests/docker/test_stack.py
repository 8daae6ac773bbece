"""docker-compose.yml: valid, walled, replaceable, without a secret; under soak it runs, and the flights run on it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import kaizen

ROOT = Path(__file__).parents[2]
COPIED = ("docker-compose.yml", "stack", "dags", "constraints", ".dockerignore")
SERVICES = [
    *("postgres", "postgres-init", "mlflow", "docker-proxy", "airflow-init", "airflow-api-server"),
    *("airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"),
]
ONCE = ("postgres-init", "airflow-init")
IMAGES = {
    "KAIZEN_POSTGRES_IMAGE": {"postgres", "postgres-init"},
    "KAIZEN_MLFLOW_IMAGE": {"mlflow"},
    "KAIZEN_DOCKER_PROXY_IMAGE": {"docker-proxy"},
    "KAIZEN_AIRFLOW_IMAGE": {name for name in SERVICES if name.startswith("airflow-")},
}


@pytest.fixture
def checkout(tmp_path):
    """What of this checkout the stack needs, without anybody's secrets."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name, **({"ignore": shutil.ignore_patterns("secrets")} if name == "stack" else {}))
    return folder


def make_secrets(folder: Path) -> str:
    command = [sys.executable, "stack/make_secrets.py"]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def compose(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    if not shutil.which("docker-compose"):
        pytest.skip("no docker-compose on PATH; install it (apt-get install docker-compose)")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KAIZEN_", "COMPOSE_"))}
    return subprocess.run(
        ["docker-compose", *arguments], cwd=folder, env={**kept, **variables}, capture_output=True, text=True
    )


def config(folder: Path, **variables: str):
    done = compose(folder, "config", **variables)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """The stack as docker-compose reads it."""
    if not shutil.which("docker-compose"):
        pytest.skip("no docker-compose on PATH; install it (apt-get install docker-compose)")
    folder = tmp_path_factory.mktemp("stack")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    shutil.rmtree(folder / "stack" / "secrets", ignore_errors=True)
    make_secrets(folder)
    return config(folder)


# The file.


def test_without_secrets_it_says_what_to_do(checkout):
    done = compose(checkout, "config")
    assert done.returncode != 0
    assert "run `make stack-secrets` first" in done.stderr


def test_it_has_the_services_of_the_house(stack):
    assert sorted(stack["services"]) == sorted(SERVICES)
    assert all(volume == {} for volume in stack["volumes"].values())


def test_it_uses_nothing_that_one_of_the_two_composes_does_not_know():
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.search(
        r"^(version|name):|^\s*(gpus|content|start_interval|deploy|develop|attach):", text, re.MULTILINE
    )


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_walls(stack, name):
    service = stack["services"][name]
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert service.keys() >= {"mem_limit", "pids_limit", "logging", "restart"}
    assert service.keys() & {"privileged", "network_mode", "pid", "ipc", "devices"} == set()
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    assert (service["healthcheck"]["test"] == ["NONE"]) == (name in ONCE)


@pytest.mark.parametrize("name", SERVICES)
def test_only_the_proxy_has_the_socket_and_only_postgres_has_capabilities(stack, name):
    service = stack["services"][name]
    mounts = [str(volume).partition(":")[0] for volume in service.get("volumes", [])]
    assert any("docker.sock" in mount for mount in mounts) == (name == "docker-proxy")
    assert ("cap_add" in service) == (name == "postgres")
    root = not re.fullmatch(r"[1-9]\d*:0", service.get("user", ""))
    assert root == (name in ("docker-proxy", "postgres"))


def test_only_the_scheduler_reaches_the_proxy(stack):
    within = {name for name, service in stack["services"].items() if "docker" in service.get("networks", {})}
    assert (within, stack["networks"]["docker"]) == ({"airflow-scheduler", "docker-proxy"}, {"internal": True})
    assert set(stack["services"]["docker-proxy"]["networks"]) == {"docker"}


def test_ports_are_this_machines_alone(stack):
    ports = {name: service["ports"] for name, service in stack["services"].items() if "ports" in service}
    assert sorted(ports) == ["airflow-api-server", "mlflow"]
    assert [p for each in ports.values() for p in each if not str(p).startswith("127.0.0.1:")] == []
    (hosts,) = [a for a in stack["services"]["mlflow"]["command"] if a.startswith("--allowed-hosts=")]
    assert "*" not in hosts


def test_code_and_loops_are_mounted_read_only(stack):
    for name in IMAGES["KAIZEN_AIRFLOW_IMAGE"] - {"airflow-init"}:
        mounts = [v for v in map(str, stack["services"][name]["volumes"]) if v.startswith("/")]
        assert [v for v in mounts if not v.endswith(":ro")] == []


@pytest.mark.parametrize(("variable", "services"), IMAGES.items(), ids=IMAGES)
def test_an_image_is_pinned_and_can_be_replaced(checkout, stack, variable, services):
    make_secrets(checkout)
    replaced = config(checkout, **{variable: "registry.example/image:1"})["services"]
    for name, service in stack["services"].items():
        assert re.search(r":v?\d+\.\d+", service["image"]), service["image"]
        assert (replaced[name]["image"] == "registry.example/image:1") == (name in services)


def test_images_of_ours_are_built_from_pinned_ones(stack):
    version = re.escape(kaizen.__version__)
    bases = {"airflow": "KAIZEN_AIRFLOW_BASE", "mlflow": "KAIZEN_MLFLOW_BASE"}
    airflow, mlflow = stack["services"]["airflow-scheduler"], stack["services"]["mlflow"]
    assert re.fullmatch(f"kaizen-airflow:{version}", airflow["image"])
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints/dev.txt").read_text(), re.MULTILINE))
    assert f":{pins['apache-airflow']}-" in airflow["build"]["args"]["KAIZEN_AIRFLOW_BASE"]
    assert re.search(r":\d+\.\d+", mlflow["build"]["args"]["KAIZEN_MLFLOW_BASE"])
    assert mlflow["image"] == f"kaizen-mlflow:{pins['mlflow']}"
    for service in (airflow, mlflow):
        dockerfile = service["build"]["dockerfile"]
        base = bases[Path(dockerfile).stem]
        assert f"\nARG {base}={service['build']['args'][base]}\nFROM ${{{base}}}\n" in (ROOT / dockerfile).read_text()


def test_every_variable_has_a_default_but_the_one_that_make_writes():
    found = re.findall(r"\$\{(\w+)(:[-?])?", (ROOT / "docker-compose.yml").read_text())
    assert {name for name, default in found if default != ":-"} == {"KAIZEN_UID"}


# Secrets.


def test_secrets_are_private_random_and_kept(checkout):
    told = make_secrets(checkout)
    folder = checkout / "stack/secrets"
    first = {path.name: path.read_text() for path in folder.iterdir()}
    assert all(name in told for name in first)
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    (folder / "mlflow_pgpass").unlink()
    assert "mlflow_pgpass made" in make_secrets(checkout)
    second = {path.name: path.read_text() for path in folder.iterdir()}
    assert {name for name in first if first[name] != second[name]} == {"mlflow_pgpass"}
    assert "nothing made" in make_secrets(checkout)


def test_settings_of_ones_own_are_kept(checkout):
    (checkout / ".env").write_text("KAIZEN_AIRFLOW_PORT=9999\nKAIZEN_UID=1234")
    make_secrets(checkout)
    assert (checkout / ".env").read_text().splitlines() == [
        "KAIZEN_AIRFLOW_PORT=9999",
        "KAIZEN_UID=1234",
        "COMPOSE_PROJECT_NAME=kaizen",
    ]
    if os.geteuid() == 0:
        assert {path.stat().st_uid for path in (checkout / "stack/secrets").iterdir()} == {1234}


def secrets_of(folder: Path) -> set[str]:
    """Every password and key of a stack."""
    found = set()
    for path in (folder / "stack/secrets").iterdir():
        text = path.read_text()
        if path.name.endswith("pgpass"):
            found |= {line.rpartition(":")[2] for line in text.splitlines()}
        else:
            found |= set(json.loads(text).values()) if path.name == "airflow_passwords" else {text}
    return found


def test_no_secret_is_in_the_configuration(checkout):
    make_secrets(checkout)
    text = compose(checkout, "config").stdout
    secrets = secrets_of(checkout)
    assert len(secrets) == 8
    assert min(map(len, secrets)) >= 20
    assert [secret for secret in secrets if secret in text] == []
    assert not re.search(r"\w+://[^/\s:@]+:[^/\s@]+@", text)
    for name, service in yaml.safe_load(text)["services"].items():
        shown = [k for k in service.get("environment", {}) if re.search(r"PASSWORD|SECRET|FERNET|TOKEN", k)]
        assert [k for k in shown if not k.endswith(("_FILE", "_CMD"))] == [], name


def test_git_and_the_images_see_no_secret(checkout):
    ignored = ["stack/secrets/postgres_password", ".env", "loops/flights/conf/base/kaizen.yml"]
    done = subprocess.run(["git", "check-ignore", *ignored], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ignored
    assert (ROOT / ".dockerignore").read_text().splitlines()[1:] == ["*", "!dist/*.whl", "!constraints/*.txt"]


def test_the_shell_understands_the_script():
    assert subprocess.run(["sh", "-n", str(ROOT / "stack/databases.sh")]).returncode == 0


@pytest.mark.parametrize(("has_plugin", "chosen"), [(True, "docker compose"), (False, "docker-compose")])
def test_make_takes_the_compose_that_is_there(tmp_path, has_plugin, chosen):
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\n{'echo v2' if has_plugin else 'exit 1'}\n")
    docker.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for target, command in {"status": "ps", "down": "down", "logs": "logs --follow --tail=100 mlflow"}.items():
        asked = ["make", "--dry-run", "--no-print-directory", target, "SERVICE=mlflow"]
        told = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        assert told.strip() == f"{chosen} {command}"
