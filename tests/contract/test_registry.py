"""The registry, read from outside: the twin by its attributes, MLflow by its own client."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from tests.loops import Running, WarmProcesses

import kaizen
from kaizen.adapters import mlflow_registry
from kaizen.adapters.memory_registry import MemoryRegistry
from kaizen.adapters.mlflow_registry import MlflowRegistry
from kaizen.errors import MissingDependency, RegistryError
from kaizen.ports import Registry, Run

SHA = "8d23cf6c86e834a7aa6eded54c26ce2bb2e74903538c61bdd5d2197997ab2f72"
TURN = """
import sys
from pathlib import Path
from kaizen.adapters.mlflow_registry import MlflowRegistry
from kaizen.ports import Run

uri, artifacts, loop, name, model = sys.argv[1:]
registry = MlflowRegistry(uri, Path(artifacts))
dataset = {"name": "flights/2013-04", "digest": "d" * 64, "source": "store:x", "context": "training"}
run = Run("train", params={"seed": 7}, metrics={"auc": 0.7}, tags={"a": "b"}, datasets=[dataset])
run_id = registry.log_stage(loop, "turn-1", run)
version = registry.register(name, Path(model), "digest-1", run_id=run_id, tags={})
registry.set_alias(name, "champion", version)
"""


@dataclass
class Opened:
    """A registry with the two questions that the suite asks about it from outside."""

    registry: Registry
    runs: Callable[[str, str], dict[str, dict[str, Any]]]
    """Of a loop's turn: what each run shows, by stage (the parent's is ``turn``); two of a stage fail."""
    versions: Callable[[str], dict[int, dict[str, str]]]
    """Of a model: the tags of each version."""
    history: Callable[[str, str], list[tuple[int, float]]]
    """Of a run, by its id: step and value of a metric on the way."""


def open_memory() -> Opened:
    registry = MemoryRegistry()

    def runs(loop: str, turn: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for kept in registry.runs.values():
            if (kept.loop, kept.turn) == (loop, turn):
                run = kept.run or Run("turn")
                assert run.stage not in found
                found[run.stage] = {
                    "status": kept.status,
                    "parent": kept.parent,
                    "params": {key: str(value) for key, value in run.params.items()},
                    "metrics": dict(run.metrics),
                    "tags": dict(run.tags),
                    "datasets": [dict(facts) for facts in run.datasets],
                    "artifacts": [path.name for path in run.artifacts],
                }
        return found

    def versions(name: str) -> dict[int, dict[str, str]]:
        return {
            number: {**version.tags, "kaizen.model": version.digest}
            for number, version in enumerate(registry.models.get(name, ()), start=1)
        }

    def history(run_id: str, metric: str) -> list[tuple[int, float]]:
        kept = registry.runs[run_id].run
        return list(kept.history[metric]) if kept else []

    return Opened(registry, runs, versions, history)


def open_mlflow(uri: str, artifacts: Path | None) -> Opened:
    client = MlflowClient(uri)

    def runs(loop: str, turn: str) -> dict[str, dict[str, Any]]:
        experiment = client.get_experiment_by_name(loop)
        found: dict[str, dict[str, Any]] = {}
        for run in client.search_runs([experiment.experiment_id], f"tags.`kaizen.turn` = '{turn}'"):
            tags = dict(run.data.tags)
            assert tags["kaizen.stage"] not in found
            found[tags["kaizen.stage"]] = {
                "status": run.info.status,
                "parent": tags.get("mlflow.parentRunId"),
                "params": run.data.params,
                "metrics": run.data.metrics,
                "tags": {key: tags[key] for key in tags if not key.startswith(("mlflow.runName", "mlflow.user"))},
                "datasets": [dataset_facts(each) for each in run.inputs.dataset_inputs],
                "artifacts": [each.path for each in client.list_artifacts(run.info.run_id)],
            }
        return found

    def versions(name: str) -> dict[int, dict[str, str]]:
        return {int(each.version): each.tags for each in client.search_model_versions(f"name = '{name}'")}

    def history(run_id: str, metric: str) -> list[tuple[int, float]]:
        return sorted((point.step, point.value) for point in client.get_metric_history(run_id, metric))

    return Opened(MlflowRegistry(uri, artifacts), runs, versions, history)


def dataset_facts(seen: Any) -> dict[str, str]:
    tags = {tag.key: tag.value for tag in seen.tags}
    assert tags["kaizen.digest"].startswith(seen.dataset.digest)
    source = seen.dataset.source.removeprefix('{"uri": "').removesuffix('"}')
    context = tags["mlflow.data.context"]
    return {"name": seen.dataset.name, "digest": tags["kaizen.digest"], "source": source, "context": context}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("tracking")
    return f"sqlite:///{folder}/new/mlflow.db", folder / "artifacts"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=os.environ | settings
        )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        # Its own session, so that its workers end with it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"no server: {log.read_text()}")


@pytest.fixture(scope="module", params=["memory", "database", "server"])
def opened(request: pytest.FixtureRequest) -> Opened:
    if request.param == "memory":
        return open_memory()
    if request.param == "database":
        return open_mlflow(*request.getfixturevalue("database"))
    return open_mlflow(request.getfixturevalue("server"), None)


@pytest.fixture
def loop() -> str:
    return f"nyc/{uuid4().hex}"


@pytest.fixture
def name(loop: str) -> str:
    return loop.replace("/", ".")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "data" / "model.skops").write_bytes(b"weights")
    return folder


def train_run(artifact: Path) -> Run:
    dataset = {"name": "flights/2013-04", "digest": SHA, "source": f"store:flights/2013-04@sha256:{SHA}"}
    return Run(
        "train",
        params={"seed": 7, "window": "all"},
        metrics={"rows": 1000.0, "auc": 0.71},
        tags={"mlflow.source.git.commit": "4b825dc", "kaizen.git.dirty": "false"},
        datasets=[{**dataset, "context": "training"}],
        artifacts=[artifact],
    )


def test_a_turn_is_one_parent_run_however_often_it_is_opened(opened: Opened, loop: str) -> None:
    first = opened.registry.open_turn(loop, "turn-1")
    assert opened.registry.open_turn(loop, "turn-1") == first
    assert opened.registry.open_turn(loop, "turn-2") != first
    assert opened.runs(loop, "turn-1")["turn"]["status"] == "RUNNING"


def test_stages_are_children_of_their_turn(opened: Opened, loop: str) -> None:
    stages = ("train", "evaluate", "promote")
    first = [opened.registry.log_stage(loop, "turn-1", Run(stage)) for stage in stages]
    again = [opened.registry.log_stage(loop, "turn-1", Run(stage)) for stage in stages]
    parent = opened.registry.open_turn(loop, "turn-1")
    assert again == first
    seen = opened.runs(loop, "turn-1")
    assert {stage: seen[stage]["parent"] for stage in seen} == {"turn": None} | dict.fromkeys(stages, parent)
    assert {seen[stage]["status"] for stage in stages} == {"FINISHED"}


def test_a_part_of_a_stage_is_a_run_within_its_and_may_come_first(opened: Opened, loop: str) -> None:
    points = [(step, step / 1500) for step in range(1500)]
    part = Run("trial-001", parent="train", history={"auc_so_far": points})
    first = opened.registry.log_stage(loop, "turn-1", part)
    assert opened.registry.log_stage(loop, "turn-1", part) == first
    assert opened.history(first, "auc_so_far") == points
    training = opened.registry.log_stage(loop, "turn-1", Run("train", metrics={"auc": 0.7}))
    seen = opened.runs(loop, "turn-1")
    assert seen["trial-001"]["parent"] == training
    assert seen["train"]["metrics"] == {"auc": 0.7}
    assert {run["status"] for stage, run in seen.items() if stage != "turn"} == {"FINISHED"}


def test_a_stage_shows_all_that_was_logged(opened: Opened, loop: str, model: Path) -> None:
    run = train_run(model / "MLmodel")
    opened.registry.log_stage(loop, "turn-1", run)
    seen = opened.runs(loop, "turn-1")["train"]
    assert seen["params"] == {"seed": "7", "window": "all"}
    assert seen["metrics"] == run.metrics
    assert seen["tags"].items() >= run.tags.items()
    assert seen["datasets"] == list(run.datasets)
    assert seen["artifacts"] == ["MLmodel"]


def test_a_finished_stage_is_not_written_again(opened: Opened, loop: str) -> None:
    opened.registry.log_stage(loop, "turn-1", Run("train", metrics={"auc": 0.7}))
    opened.registry.log_stage(loop, "turn-1", Run("train", metrics={"auc": 0.9, "late": 1.0}))
    assert opened.runs(loop, "turn-1")["train"]["metrics"] == {"auc": 0.7}


def test_the_same_turn_of_another_loop_is_another_run(opened: Opened, loop: str) -> None:
    opened.registry.log_stage(loop, "turn-1", Run("train"))
    opened.registry.open_turn(f"{loop}-2", "turn-1")
    assert set(opened.runs(f"{loop}-2", "turn-1")) == {"turn"}


@pytest.mark.parametrize(("failed", "status"), [(False, "FINISHED"), (True, "FAILED")])
def test_a_closed_turn_says_how_it_ended(opened: Opened, loop: str, failed: bool, status: str) -> None:
    opened.registry.log_stage(loop, "turn-1", Run("train"))
    opened.registry.close_turn(loop, "turn-1", failed=failed)
    seen = opened.runs(loop, "turn-1")
    assert {stage: seen[stage]["status"] for stage in seen} == {"turn": status, "train": "FINISHED"}


def test_the_same_digest_is_the_same_version(opened: Opened, loop: str, name: str, model: Path) -> None:
    run_id = opened.registry.log_stage(loop, "turn-1", Run("train"))
    versions = [
        opened.registry.register(name, model, digest, run_id=run_id, tags={"kaizen.loop": loop})
        for digest in ("digest-1", "digest-2", "digest-1")
    ]
    assert versions == [1, 2, 1]
    assert opened.versions(name) == {
        1: {"kaizen.model": "digest-1", "kaizen.loop": loop},
        2: {"kaizen.model": "digest-2", "kaizen.loop": loop},
    }


def test_eight_threads_register_eight_versions(opened: Opened, loop: str, name: str, model: Path) -> None:
    run_id = opened.registry.log_stage(loop, "turn-1", Run("train"))
    digests = [f"digest-{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        versions = pool.map(lambda each: opened.registry.register(name, model, each, run_id=run_id, tags={}), digests)
        by_digest = dict(zip(digests, versions, strict=True))
    assert sorted(by_digest.values()) == list(range(1, 9))
    assert {tags["kaizen.model"]: number for number, tags in opened.versions(name).items()} == by_digest


def test_threads_that_register_the_same_digest_agree(opened: Opened, loop: str, name: str, model: Path) -> None:
    run_id = opened.registry.log_stage(loop, "turn-1", Run("train"))
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda _: opened.registry.register(name, model, "same", run_id=run_id, tags={}), range(8))
        assert set(found) == {1}


def test_threads_that_write_the_same_new_rows_all_succeed(opened: Opened, loop: str, name: str, model: Path) -> None:
    """MLflow looks for a row, then adds it: for a run's parameters, an experiment's datasets, a model's alias."""
    first = opened.registry.log_stage(loop, "turn-0", Run("train"))
    version = opened.registry.register(name, model, "digest-1", run_id=first, tags={})
    run = train_run(model / "MLmodel")

    def write(turn: str) -> None:
        number = turn[-1]
        datasets = [{**run.datasets[0], "name": f"flights-{number}"}]
        opened.registry.log_stage(loop, turn, replace(run, datasets=datasets))
        opened.registry.set_alias(name, f"alias-{number}", version)

    turns = [f"turn-{turn}-{number}" for number in range(4) for turn in (1, 1, 2, 3)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, turns))
    for turn in turns:
        seen = opened.runs(loop, turn)["train"]
        assert seen["params"] == {"seed": "7", "window": "all"}
        assert [facts["name"] for facts in seen["datasets"]] == [f"flights-{turn[-1]}"]
        assert opened.registry.alias(name, f"alias-{turn[-1]}") == version


def test_an_alias_moves_and_goes(opened: Opened, loop: str, name: str, model: Path) -> None:
    registry = opened.registry
    assert registry.alias(name, "champion") is None
    run_id = registry.log_stage(loop, "turn-1", Run("train"))
    for digest in ("digest-1", "digest-2"):
        version = registry.register(name, model, digest, run_id=run_id, tags={})
        assert registry.alias(name, "champion") == (None if version == 1 else 1)
        registry.set_alias(name, "champion", version)
        assert registry.alias(name, "champion") == version
    for _ in range(2):
        registry.set_alias(name, "champion", None)
        assert registry.alias(name, "champion") is None


def test_removing_the_alias_of_a_model_that_nobody_knows_is_fine(opened: Opened, name: str) -> None:
    opened.registry.set_alias(name, "champion", None)
    assert opened.registry.alias(name, "champion") is None


def test_an_alias_cannot_point_at_a_version_that_is_not_there(
    opened: Opened, loop: str, name: str, model: Path
) -> None:
    run_id = opened.registry.log_stage(loop, "turn-1", Run("train"))
    opened.registry.set_alias(name, "champion", opened.registry.register(name, model, "d", run_id=run_id, tags={}))
    with pytest.raises(RegistryError) as refusal:
        opened.registry.set_alias(name, "champion", 9)
    assert (refusal.value.code, refusal.value.what) == (
        "KZ802",
        f"the registry refused to set alias champion of {name}",
    )
    assert opened.registry.alias(name, "champion") == 1


def test_a_folder_without_a_model_is_not_registered(opened: Opened, loop: str, name: str, tmp_path: Path) -> None:
    run_id = opened.registry.log_stage(loop, "turn-1", Run("train"))
    with pytest.raises(RegistryError) as refusal:
        opened.registry.register(name, tmp_path / "nothing", "digest-1", run_id=run_id, tags={})
    assert refusal.value.code == "KZ804"
    assert opened.versions(name) == {}


def test_a_model_of_a_run_that_is_not_there_is_not_registered(opened: Opened, name: str, model: Path) -> None:
    with pytest.raises(RegistryError) as refusal:
        opened.registry.register(name, model, "digest-1", run_id="0" * 32, tags={})
    assert (refusal.value.code, refusal.value.what) == ("KZ802", f"the registry refused to register {name}")
    assert opened.versions(name) == {}


# --- MLflow alone --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["database", "server"])
def tracked(request: pytest.FixtureRequest) -> tuple[MlflowRegistry, MlflowClient]:
    if request.param == "database":
        uri, artifacts = request.getfixturevalue("database")
        return MlflowRegistry(uri, artifacts), MlflowClient(uri)
    uri = request.getfixturevalue("server")
    return MlflowRegistry(uri), MlflowClient(uri)


def test_a_version_holds_the_bytes_of_the_folder(
    tracked: tuple[MlflowRegistry, MlflowClient], loop: str, name: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, client = tracked
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/else.db")
    run_id = registry.log_stage(loop, "turn-1", Run("train"))
    version = registry.register(name, model, "digest-1", run_id=run_id, tags={})
    found = client.get_model_version(name, str(version))
    run = client.get_run(run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version}"))
    assert (folder / "data" / "model.skops").read_bytes() == b"weights"
    assert (found.run_id, found.status) == (run_id, "READY")
    assert [output.model_id in found.source for output in run.outputs.model_outputs] == [True]
    assert mlflow.active_run() is None


def test_a_model_that_a_killed_attempt_left_open_is_finished(
    tracked: tuple[MlflowRegistry, MlflowClient], loop: str, name: str, model: Path
) -> None:
    registry, client = tracked
    run_id = registry.log_stage(loop, "turn-1", Run("train"))
    experiment = client.get_run(run_id).info.experiment_id
    left = client.create_logged_model(experiment, name="left", source_run_id=run_id, tags={"kaizen.model": "digest-1"})
    client.log_outputs(run_id, [LoggedModelOutput(left.model_id, step=0)])
    registry.register(name, model, "digest-1", run_id=run_id, tags={})
    found = client.search_logged_models([experiment])
    assert [(each.model_id, each.status) for each in found] == [(left.model_id, "READY")]


def test_a_run_that_somebody_else_made_in_the_same_moment_is_everybodys(
    tracked: tuple[MlflowRegistry, MlflowClient], loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, client = tracked
    rivals: list[str] = []
    create_run = MlflowClient.create_run

    def overtaken(self: MlflowClient, experiment: str, **given: Any) -> Any:
        rivals.append(create_run(self, experiment, start_time=1, **given).info.run_id)
        return create_run(self, experiment, **given)

    monkeypatch.setattr(MlflowClient, "create_run", overtaken)
    assert registry.open_turn(loop, "turn-1") == rivals[0]
    experiment = client.get_experiment_by_name(loop)
    assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == rivals


def test_of_two_runs_of_a_turn_the_oldest_stays_even_if_it_came_last(
    tracked: tuple[MlflowRegistry, MlflowClient], loop: str
) -> None:
    registry, client = tracked
    child = registry.log_stage(loop, "turn-1", Run("train"))
    experiment = client.get_experiment_by_name(loop).experiment_id
    tags = {"kaizen.turn": "turn-1", "kaizen.stage": "turn"}
    older = client.create_run(experiment, start_time=1, tags=tags).info.run_id
    assert registry.log_stage(loop, "turn-1", Run("train")) == child
    assert {run.info.run_id for run in client.search_runs([experiment])} == {older, child}
    assert client.get_run(child).data.tags["mlflow.parentRunId"] == older


def test_a_version_that_was_made_twice_after_a_lost_reply_is_the_first(
    tracked: tuple[MlflowRegistry, MlflowClient], loop: str, name: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, _ = tracked
    create = MlflowClient.create_model_version

    def repeated(self: MlflowClient, *given: Any, **named: Any) -> Any:
        create(self, *given, **named)
        return create(self, *given, **named)

    monkeypatch.setattr(MlflowClient, "create_model_version", repeated)
    run_id = registry.log_stage(loop, "turn-1", Run("train"))
    assert [registry.register(name, model, "digest-1", run_id=run_id, tags={}) for _ in range(2)] == [1, 1]


def test_a_version_that_mlflow_made_before_it_refused_counts(
    tracked: tuple[MlflowRegistry, MlflowClient], loop: str, name: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server does with one of two requests that come at once."""
    registry, _ = tracked
    create = MlflowClient.create_model_version

    def refused(*_: Any, **__: Any) -> Any:
        raise MlflowException("UNIQUE constraint failed")

    def refused_late(self: MlflowClient, *given: Any, **named: Any) -> Any:
        create(self, *given, **named)
        return refused()

    run_id = registry.log_stage(loop, "turn-1", Run("train"))
    monkeypatch.setattr(MlflowClient, "create_model_version", refused)
    with pytest.raises(RegistryError, match="KZ802"):
        registry.register(name, model, "digest-1", run_id=run_id, tags={})
    monkeypatch.setattr(MlflowClient, "create_model_version", refused_late)
    assert registry.register(name, model, "digest-1", run_id=run_id, tags={}) == 1


@pytest.mark.parametrize(
    "point",
    [
        "registry.log_stage.before_finish",
        "registry.register.before_version",
        "registry.register.after_version",
        "registry.alias.before_set",
    ],
)
def test_a_killed_attempt_is_finished_by_the_next(
    processes: WarmProcesses, database: tuple[str, Path], loop: str, name: str, model: Path, point: str
) -> None:
    uri, artifacts = database
    arguments = [uri, str(artifacts), loop, name, str(model)]
    assert start_turn(processes, arguments, f"{point}:kill").wait().code == -signal.SIGKILL
    opened = open_mlflow(uri, artifacts)
    exec_turn(arguments)
    assert {stage: seen["status"] for stage, seen in opened.runs(loop, "turn-1").items()} == {
        "turn": "RUNNING",
        "train": "FINISHED",
    }
    run_id = opened.registry.log_stage(loop, "turn-1", Run("train"))
    client = MlflowClient(uri)
    assert [point.value for point in client.get_metric_history(run_id, "auc")] == [0.7]
    assert len(client.get_run(run_id).inputs.dataset_inputs) == 1
    assert len(client.search_logged_models([client.get_run(run_id).info.experiment_id])) == 1
    assert opened.versions(name) == {1: {"kaizen.model": "digest-1"}}
    assert opened.registry.alias(name, "champion") == 1


def test_a_new_database_is_whole_or_not_there(
    processes: WarmProcesses, tmp_path: Path, loop: str, name: str, model: Path
) -> None:
    file, artifacts = tmp_path / "tracking" / "mlflow.db", tmp_path / "artifacts"
    arguments = [f"sqlite:///{file}", str(artifacts), loop, name, str(model)]
    killed = start_turn(processes, arguments, "publish.file.before_rename:kill").wait()
    assert (killed.code, file.exists()) == (-signal.SIGKILL, False)
    exec_turn(arguments)
    assert set(open_mlflow(arguments[0], artifacts).runs(loop, "turn-1")) == {"turn", "train"}


def test_processes_that_find_no_database_share_a_new_one(
    processes: WarmProcesses, tmp_path: Path, loop: str, name: str, model: Path
) -> None:
    uri, artifacts = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts"
    started = [
        start_turn(processes, [uri, str(artifacts), f"{loop}-{number}", name, str(model)]) for number in range(3)
    ]
    assert [(ended.err, ended.code) for ended in (running.wait() for running in started)] == [("", 0)] * 3
    opened = open_mlflow(uri, artifacts)
    assert [set(opened.runs(f"{loop}-{number}", "turn-1")) for number in range(3)] == [{"turn", "train"}] * 3


def start_turn(processes: WarmProcesses, arguments: list[str], fault: str = "") -> Running:
    """``exec_turn`` in a process of its own."""
    return processes.start("tests.contract.test_registry:exec_turn", arguments, env={"KAIZEN_FAULT": fault})


def exec_turn(arguments: list[str]) -> None:
    """The same turn in this process, which has imported MLflow already."""
    original, sys.argv = sys.argv, ["turn", *arguments]
    try:
        exec(compile(TURN, "turn", "exec"), {})
    finally:
        sys.argv = original


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(kaizen.__file__).parents[1])}


@pytest.mark.parametrize("where", ["database", "server"])
def test_a_turn_prints_nothing_and_leaves_nothing_where_it_runs(
    request: pytest.FixtureRequest, where: str, loop: str, name: str, model: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db" if where == "database" else request.getfixturevalue("server")
    (tmp_path / "cwd").mkdir()
    command = [sys.executable, "-c", TURN, uri, str(tmp_path / "artifacts"), loop, name, str(model)]
    ended = subprocess.run(
        command, cwd=tmp_path / "cwd", env=environment(), capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert list((tmp_path / "cwd").iterdir()) == []
    assert (tmp_path / "artifacts").exists() == (where == "database")


UNREACHABLE = """KZ801: the tracking server or database cannot be reached
  where: {uri}
  value: [Errno 111] Connection refused
  limit: an answer within 5 s; 3 attempts at a server
  next: start it, or correct the tracking URI of this environment; then retry"""


def test_an_unreachable_server_is_refused_without_its_password() -> None:
    port = free_port()
    registry = MlflowRegistry(f"http://kaizen:c4n@ry@127.0.0.1:{port}")
    before = {key: value for key, value in os.environ.items() if "HTTP" in key}
    with pytest.raises(RegistryError) as refusal:
        registry.open_turn("nyc/flights", "turn-1")
    assert str(refusal.value) == UNREACHABLE.format(uri=f"http://***@127.0.0.1:{port}")
    assert "c4n" not in "".join(traceback.format_exception(refusal.value))
    assert {key: value for key, value in os.environ.items() if "HTTP" in key} == before


def test_the_cause_is_the_servers_even_while_another_error_is_handled() -> None:
    registry = MlflowRegistry(f"http://127.0.0.1:{free_port()}")
    try:
        raise KeyError("something else")
    except KeyError:
        with pytest.raises(RegistryError) as refusal:
            registry.alias("flights", "champion")
    assert refusal.value.value == "[Errno 111] Connection refused"


def test_a_server_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_registry, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(RegistryError) as refusal:
        MlflowRegistry(f"http://127.0.0.1:{listener.getsockname()[1]}").alias("flights", "champion")
    assert (refusal.value.code, refusal.value.value) == ("KZ801", "timed out")


@pytest.mark.parametrize(
    ("status", "body", "action"),
    [
        (403, "Invalid Host header - possible DNS rebinding attack detected", "--allowed-hosts"),
        (401, "You are not authenticated", "MLFLOW_TRACKING_USERNAME"),
        (403, "Permission denied", "ask for the right to write"),
    ],
)
def test_a_refusing_server_leads_to_the_setting_that_helps(status: int, body: str, action: str) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            healthy = self.path == "/health"
            self.send_response(200 if healthy else status)
            self.end_headers()
            self.wfile.write(b"OK" if healthy else f"{body} http://kaizen:c4nary@tracking/".encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        registry = MlflowRegistry(f"http://kaizen:c4nary@127.0.0.1:{server.server_port}")
        with pytest.raises(RegistryError) as refusal:
            registry.alias("flights", "champion")
        server.shutdown()
    assert refusal.value.code == "KZ802"
    assert action in refusal.value.action
    assert f"{body} http://***@tracking/" in refusal.value.value
    assert "c4nary" not in "".join(traceback.format_exception(refusal.value))


def test_an_unreachable_database_is_refused_without_its_password(tmp_path: Path) -> None:
    registry = MlflowRegistry(f"postgresql+psycopg://kaizen:c4nary@127.0.0.1:{free_port()}/tracking", tmp_path)
    with pytest.raises(RegistryError) as refusal:
        registry.alias("flights", "champion")
    assert refusal.value.code == "KZ801"
    assert "Connection refused" in refusal.value.value
    assert "c4nary" not in "".join(traceback.format_exception(refusal.value))


def test_a_database_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError) as refusal:
        MlflowRegistry(f"sqlite:///{tmp_path}/file/mlflow.db", tmp_path).alias("flights", "champion")
    assert (refusal.value.code, refusal.value.where) == ("KZ801", f"sqlite:///{tmp_path}/file/mlflow.db")


def test_a_database_needs_a_place_for_artifacts() -> None:
    with pytest.raises(RegistryError) as refusal:
        MlflowRegistry("postgresql://kaizen:c4nary@db/tracking?password=c4nary")
    assert refusal.value.code == "KZ803"
    assert refusal.value.where == "postgresql://***@db/tracking?password=***"


def test_a_missing_mlflow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingDependency) as refusal:
        MlflowRegistry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path).alias("flights", "champion")
    assert refusal.value.action == "pip install 'kaizen-mlops[mlflow]'"


def test_a_name_that_the_registry_does_not_take_is_refused(
    tracked: tuple[MlflowRegistry, MlflowClient], loop: str, model: Path
) -> None:
    registry, _ = tracked
    run_id = registry.log_stage(loop, "turn-1", Run("train"))
    with pytest.raises(RegistryError) as refusal:
        registry.register("nyc/flights", model, "digest-1", run_id=run_id, tags={})
    assert refusal.value.code == "KZ802"
    assert "nyc/flights" in refusal.value.value
