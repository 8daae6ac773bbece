"""A small real loop for tests: trains that leave a depot, late or not. Real tools, a turn in about a second.

``make_loop`` writes the project, its ``land_*`` methods deliver months, ``state`` reads back all that a turn may leave.
``warm_processes`` runs commands in real processes (with exit codes and signals) that need not import the libraries
first: a server imports them once and forks.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import yaml

from kaizen.canonical import digest, file_digests
from kaizen.ledger import open_ledger
from kaizen.loop import open_loop

LOOP = "rail/delays"
MONTHS = tuple(f"2024-{month:02d}" for month in range(1, 13))
TRAINS_A_DAY = 12
STATIONS = ("north", "east", "south", "west")

TRAINING = '''
"""How the loop of the tests trains."""

import os
import time
from pathlib import Path

from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HOLD = Path(__file__).parents[2] / "hold"


def train(examples, *, target, seed):
    if HOLD.exists():
        (HOLD.parent / "held").write_text(str(os.getpid()))
        time.sleep(600)
    return _fit(LogisticRegression(random_state=seed), examples, target)


def train_forest(examples, *, target, seed):
    return _fit(RandomForestClassifier(5, random_state=seed), examples, target)


def train_without_probability(examples, *, target, seed):
    return _fit(RidgeClassifier(random_state=seed), examples, target)


def train_nothing(examples, *, target, seed):
    raise ZeroDivisionError("no rolling stock")


def _fit(estimator, examples, target):
    model = make_pipeline(StandardScaler(), estimator)
    return model.fit(examples.drop(columns=target), examples[target])
'''

SPEC: dict[str, Any] = {
    "version": 1,
    "loop": LOOP,
    "clock": {"of": "data", "timezone": "Europe/Paris"},
    "problem": {
        "task": "classification",
        "target": "late",
        "label": "delay > 10",
        "entity": ["departs", "train"],
        "timestamp": "departs",
        "label_delay": "1d",
        "features": ["distance", "rain", "stations_platforms"],
    },
    "data": {
        "tables": {
            "schedules": {"uri": "landing/schedules/*", "partition": "month"},
            "stations": {"uri": "landing/stations/*", "join": ["origin"]},
            "outcomes": {"uri": "landing/outcomes/*", "partition": "month", "role": "labels"},
        },
        "suite": {"schedules": "expectations/schedules.json"},
        "outcomes": ["delay", "arrives"],
    },
    "train": {"runner": "callable", "function": "rail.training:train", "window": "last 1", "min_partitions": 2},
    "gates": [
        {"metric": "roc_auc", "at_least": 0.55},
        {"metric": "roc_auc", "against": "champion", "margin": 0.0},
    ],
    "retrain": {"cooldown": "7d", "budget": {"retrains": 2, "per": "60d"}, "reasons": ["decay", "person"]},
}

SUITE: dict[str, Any] = {
    "name": "schedules",
    "expectations": [
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "train"}},
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "rain", "min_value": 0, "max_value": 50}},
    ],
}


@dataclass(frozen=True)
class Project:
    """A loop's project. ``folder`` is what a user would have in git; everything kept lies in ``home``."""

    folder: Path

    @property
    def spec(self) -> Path:
        return self.folder / "kaizen.yml"

    @property
    def home(self) -> Path:
        return self.folder / ".kaizen"

    @property
    def landing(self) -> Path:
        return self.folder / "landing"

    def write_spec(self, changes: Mapping[str, Any] | None = None, *, env: str = "") -> None:
        """``SPEC`` with ``changes`` (merged key by key), or ``changes`` alone as the overlay of ``env``."""
        values = dict(changes or {}) if env else merged(SPEC, changes or {})
        path = self.spec.with_name(f"kaizen.{env}.yml") if env else self.spec
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def land(self, table: str, name: str, rows: pd.DataFrame) -> Path:
        """Deliver ``rows`` as the Parquet file ``name`` of a table, at once."""
        path = self.landing / table / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{name}")
        rows.to_parquet(draft, index=False)
        return draft.replace(path)

    def land_schedules(self, month: str) -> Path:
        return self.land("schedules", f"{month}.parquet", schedules(month))

    def land_outcomes(self, month: str) -> Path:
        return self.land("outcomes", f"{month}.parquet", outcomes(month))

    def land_month(self, month: str) -> None:
        """Deliver a month's schedules and outcomes."""
        self.land_schedules(month)
        self.land_outcomes(month)

    def save(self, name: str) -> None:
        """Keep a copy of the project as it is; ``restore`` brings it back to the same place, as records name it."""
        shutil.copytree(self.folder, self._saved(name))

    def restore(self, name: str) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self._saved(name), self.folder)

    def _saved(self, name: str) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{name}")


def make_loop(folder: Path, changes: Mapping[str, Any] | None = None) -> Project:
    """A project in the new ``folder`` that nothing but its look-up table was delivered to."""
    project = Project(folder)
    package = folder / "src" / "rail"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "training.py").write_text(TRAINING, encoding="utf-8")
    suite = folder / "expectations" / "schedules.json"
    suite.parent.mkdir()
    suite.write_text(json.dumps(SUITE), encoding="utf-8")
    project.write_spec(changes)
    project.land("stations", "stations.parquet", stations())
    return project


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` over ``base``, mapping by mapping; None takes a key away."""
    found = dict(base)
    for key, value in changes.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(base[key], value) if isinstance(value, dict) and key in base else value
    return found


def stations() -> pd.DataFrame:
    return pd.DataFrame({"origin": STATIONS, "platforms": [2, 4, 6, 8]})


def schedules(month: str) -> pd.DataFrame:
    """A month of trains: entity, time and features, the same each time it is asked for."""
    rng = np.random.default_rng(int(month.replace("-", "")))
    n = pd.Period(month).days_in_month * TRAINS_A_DAY
    start = pd.Timestamp(f"{month}-01 05:00", tz="Europe/Paris").tz_convert("UTC")
    times = [start + pd.Timedelta(days=i // TRAINS_A_DAY, hours=i % TRAINS_A_DAY) for i in range(n)]
    return pd.DataFrame(
        {
            "departs": times,
            "train": [f"T{i % 5}" for i in range(n)],
            "origin": rng.choice(STATIONS, n),
            "distance": rng.uniform(10, 300, n).round(1),
            "rain": rng.uniform(0, 20, n).round(1),
        }
    )


def outcomes(month: str) -> pd.DataFrame:
    """How late those trains were. From March on distance works the other way: the champion of before decays."""
    rows = schedules(month)
    rng = np.random.default_rng(int(month.replace("-", "")) + 1)
    sign = 1 if month < "2024-03" else -1
    delay = sign * (rows["distance"] - 155) / 12 + (rows["rain"] - 10) / 2 + rng.normal(0, 8, len(rows)) + 10
    arrives = rows["departs"] + pd.to_timedelta(60 + delay, unit="min")
    return rows[["departs", "train"]].assign(delay=delay.round(1), arrives=arrives.dt.floor("s"))


# What a turn leaves.


def state(home: Path, ledger: str = "") -> dict[str, Any]:
    """All that is kept below ``home``, in comparable form: no times, ids, actors, chain hashes or commit hashes.

    Two histories that did the same work have the same state, however often they were interrupted.
    """
    loop = home / "loops" / LOOP
    return {
        "ledger": _ledger(ledger or f"sqlite:///{home / 'ledger.db'}"),
        "registry": _registry(home),
        "data": _data(loop / "data"),
        "remote": _files(loop / "data-remote"),
        "store": _files(loop / "store"),
    }


def state_digest(home: Path) -> str:
    """``state`` as one digest."""
    return digest(state(home))


def _ledger(url: str) -> list[list[Any]]:
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return []
    with open_ledger(url) as ledger:
        assert ledger.verify().ok
        events = [
            [e.loop, e.subject, e.subject_seq, e.kind, e.key, e.turn, {**e.payload, "commit": ""}]
            for e in ledger.events()
        ]
    return sorted(events, key=lambda event: event[:3])


def _registry(home: Path) -> dict[str, Any]:
    """MLflow's run tree, logged models, versions and aliases, as its own client shows them."""
    if not (home / "mlflow.db").exists():
        return {"runs": [], "models": [], "versions": [], "aliases": {}}
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiments = [e.experiment_id for e in client.search_experiments() if e.name == LOOP]
    runs = list(client.search_runs(experiments)) if experiments else []
    names = {run.info.run_id: run.info.run_name for run in runs}
    models = client.search_logged_models(experiments) if experiments else []
    registered = client.search_registered_models()
    versions = [v for model in registered for v in client.search_model_versions(f"name = '{model.name}'")]
    return {
        "runs": sorted((_run(run, names) for run in runs), key=digest),
        "models": sorted(([str(m.status), m.name, m.tags, names.get(m.source_run_id)] for m in models), key=digest),
        "versions": sorted(([int(v.version), v.name, v.tags, names[v.run_id]] for v in versions), key=digest),
        "aliases": {m.name: {alias: int(v) for alias, v in m.aliases.items()} for m in registered},
    }


def _run(run: Any, names: Mapping[str, str]) -> dict[str, Any]:
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    inputs = [[i.dataset.name, i.dataset.digest, i.dataset.source] for i in run.inputs.dataset_inputs]
    return {
        "name": run.info.run_name,
        "parent": names.get(run.data.tags.get("mlflow.parentRunId")),
        "status": run.info.status,
        "params": run.data.params,
        "metrics": run.data.metrics,
        "tags": tags,
        "inputs": sorted(inputs),
        "models": len(run.outputs.model_outputs) if run.outputs else 0,
    }


def _data(repository: Path) -> dict[str, Any]:
    """The tree of the newest commit with its pointers' content, how many commits led there, and the workspace."""
    if not (repository / ".git").exists():
        return {}
    return {
        "tree": _git(repository, "ls-tree", "-r", "HEAD"),
        "commits": _git(repository, "log", "--format=%s"),
        "changes": _git(repository, "status", "--porcelain"),
        "workspace": _files(repository),
    }


def _git(repository: Path, *arguments: str) -> list[str]:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _files(root: Path) -> dict[str, str]:
    """Path to sha256 of every file that a reader may find: drafts of whoever died have hidden names."""
    paths = [p for p in root.rglob("*") if p.is_file() and not p.is_symlink()]
    names = {p.relative_to(root).as_posix(): p for p in paths}
    return {
        name: file_digests(path)[1]["sha256"]
        for name, path in sorted(names.items())
        if not any(part.startswith(".") for part in name.split("/"))
    }


# Processes.

_PRELOADED = (
    "great_expectations",
    "mlflow.models",
    "mlflow.sklearn",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "psycopg",
    "pyarrow.parquet",
    # The modules of tests, whose functions are called, import it.
    "pytest",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "skops.io",
    "kaizen.adapters.dvc_repository",
    "kaizen.adapters.great_expectations_suite",
    "kaizen.adapters.mlflow_registry",
    "kaizen.adapters.place",
    "kaizen.adapters.sql_databases",
    "kaizen.cli",
    "kaizen.turn",
)


@dataclass
class Ended:
    """How a process ended: ``code`` as ``subprocess`` has it (minus the signal's number if it was killed)."""

    code: int
    out: str
    err: str


@dataclass
class Running:
    """A process of a ``WarmProcesses``."""

    pid: int
    _replies: IO[str]
    _folder: Path

    def wait(self) -> Ended:
        """Wait for its end."""
        with self._replies:
            status = int(self._replies.readline())
        code = os.waitstatus_to_exitcode(status)
        texts = [(self._folder / name).read_text(encoding="utf-8") for name in ("out", "err")]
        return Ended(code, *texts)


@dataclass
class WarmProcesses:
    """Starts real processes in which all libraries are imported already."""

    _address: str
    _folder: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(self, target: str, *arguments: Any, env: Mapping[str, str] | None = None) -> Running:
        """Call ``module:function`` with JSON-able arguments; what it returns (or raises) is the exit code."""
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        request = {
            "target": target,
            "arguments": arguments,
            "env": {**_environment(), **(env or {})},
            "folder": str(folder),
            "cwd": str(Path.cwd()),
        }
        reply = socket.socket(socket.AF_UNIX)
        reply.connect(self._address)
        reply.sendall(json.dumps(request).encode() + b"\n")
        replies = reply.makefile()
        return Running(int(replies.readline()), replies, folder)

    def kaizen(self, *arguments: object, env: Mapping[str, str] | None = None) -> Ended:
        """Run ``kaizen ARGUMENTS`` to its end."""
        return self.start("kaizen.cli:main", [str(a) for a in arguments], env=env).wait()

    def state(self, project: Project) -> dict[str, Any]:
        """``state`` of a project, read by a process that has seen no earlier one: MLflow keeps databases open."""
        ended = self.start("tests.loops:print_state", str(project.home)).wait()
        assert ended.code == 0, ended.err
        found: dict[str, Any] = json.loads(ended.out)
        return found

    def stages(self, project: Project, *names: str) -> None:
        """Run some stages of a project's loop, by name, and nothing else."""
        ended = self.start("tests.loops:run_stages", str(project.spec), names).wait()
        assert ended.code == 0, ended.err


def cold_kaizen(*arguments: object) -> Ended:
    """Run ``python -m kaizen.cli ARGUMENTS`` to its end, as a shell would."""
    command = [sys.executable, "-m", "kaizen.cli", *map(str, arguments)]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def print_state(home: str) -> None:
    print(json.dumps(state(Path(home))))


def run_stages(spec: str, names: list[str]) -> None:
    """Call ``kaizen.NAME.NAME(loop)`` for each of ``names``."""
    with open_loop(Path(spec)) as loop:
        for name in names:
            getattr(import_module(f"kaizen.{name}"), name)(loop)


def _environment() -> dict[str, str]:
    """This process's variables, without those that would lead a loop out of its own folder."""
    led = ("MLFLOW_TRACKING_URI", "KAIZEN_HOME", "KAIZEN_LEDGER_URL", "KAIZEN_ENV", "KAIZEN_FAULT")
    paths = os.pathsep.join(path for path in sys.path if path)
    return {name: value for name, value in os.environ.items() if name not in led} | {"PYTHONPATH": paths}


@contextmanager
def warm_processes() -> Iterator[WarmProcesses]:
    """A server for processes that start warm; it and they end with the block."""
    with tempfile.TemporaryDirectory(prefix="kaizen-") as folder:
        address = f"{folder}/socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(64)
            code = f"from tests.loops import serve; serve({listener.fileno()})"
            server = subprocess.Popen([sys.executable, "-c", code], pass_fds=[listener.fileno()], env=_environment())
        try:
            yield WarmProcesses(address, Path(folder))
        finally:
            server.terminate()
            server.wait()


def serve(listener: int) -> None:
    """Import once, then fork a process per connection."""
    for name in _PRELOADED:
        import_module(name)
    # Who trains or saves a model reads the metadata of every installed distribution, once per process.
    import_module("mlflow.utils.requirements_utils").warn_dependency_requirement_mismatches(["mlflow"])
    import_module("kaizen.adapters.place").installed_packages()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.socket(fileno=listener)
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            os._exit(_attend(connection))
        connection.close()


def _attend(connection: socket.socket) -> int:
    """Run one request in a process of its own; tell its pid, then how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.loads(connection.makefile().readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        os._exit(_perform(request))
    connection.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    connection.sendall(f"{status}\n".encode())
    return 0


def _perform(request: dict[str, Any]) -> int:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{request['folder']}/{name}", os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    module, _, name = request["target"].partition(":")
    try:
        code = getattr(import_module(module), name)(*request["arguments"])
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001 -- whatever it is, the process ends here
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code or 0)
