"""A real Airflow 3 for demos and tests: four processes with a home of their own, of which nothing stays behind."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from demo.airflow_client import AirflowClient, AirflowError, AirflowTimeout, Json

# The API server is first because it needs longest. Log servers would listen on all addresses, and nobody needs
# them as long as the API server reads the same folder.
_COMMANDS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
# 700 FastAPI routes make millions of objects that live for ever: collecting less often saves a quarter of the start.
_LAUNCH = "import gc; gc.set_threshold(100_000, 50, 100); from airflow.__main__ import main; main()"
_SETTINGS = {
    "core.executor": "LocalExecutor",
    "core.parallelism": "4",
    "core.load_examples": "False",
    "core.fernet_key": "",
    "api.host": "127.0.0.1",
    "api.workers": "1",
    "usage_data_collection.enabled": "False",
    # Twice as often costs a tenth of a core, all the time.
    "scheduler.scheduler_idle_sleep_time": "0.2",
    # A supervisor that misses the end of its task process looks again at its next heartbeat.
    "workers.min_heartbeat_interval": "1",
    "scheduler.orphaned_tasks_check_interval": "10",
    "dag_processor.refresh_interval": "5",
    "dag_processor.bundle_refresh_check_interval": "1",
    "dag_processor.print_stats_interval": "0",
}
_LOG_TAIL_LINES = 40


class AirflowService(AirflowClient):
    """Airflow as a context manager: healthy inside, gone outside.

    `home` becomes AIRFLOW_HOME and is kept; a home belongs to one service at a time, and what an earlier one left
    running there is ended first. `settings` maps "section.key" to a value and wins over what the demo finds fast.
    `env` is added to the environment of every component, and thus of every task. `template` is a folder that keeps a
    migrated, empty database per version of Airflow. `python` is that of the environment that has Airflow. Durations are
    seconds. Raises `AirflowError` with the end of a component's log when it does not start.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        settings: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        template: Path | None = None,
        start_timeout: float = 180.0,
        python: str = sys.executable,
    ) -> None:
        self._python = python
        self.home = home.resolve()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, datetime] = {}
        self._port = _free_port()
        self._template = template or self.home
        self._start_timeout = start_timeout
        self._family = _ProcessFamily("KAIZEN_AIRFLOW_HOME", str(self.home))
        super().__init__(f"http://127.0.0.1:{self._port}", ("admin", secrets.token_urlsafe(12)))
        self._env = self._environment(dags.resolve(), settings or {}, env or {})

    def __enter__(self) -> Self:
        try:
            self._family.end(grace=0)
            self._prepare_home()
            for name in _COMMANDS:
                self.start(name)
            self.wait_healthy(self._start_timeout)
            # The first request builds every version of this API, for longer than the first task's client would wait.
            self._request("GET", "/execution/health", None, "")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, settings: Mapping[str, str] | None = None) -> None:
        """Start one component and return at once; see `wait_healthy`. Its output is appended to its log.

        `settings` are this process's own, and win over the service's.
        """
        launch = ("-c", _LAUNCH) if name == "api-server" else ("-m", "airflow")
        self._started[name] = datetime.now(UTC)
        with self.log_file(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                (self._python, *launch, *_COMMANDS[name]),
                cwd=self.home,
                env=self._env | _as_variables(settings or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL one component, and only its main process: what it had started lives on as orphans."""
        self._family.look()
        self.processes[name].kill()
        self.processes[name].wait()

    def stop(self, grace: float = 4.0) -> None:
        """End all processes that this service brought about: politely, then after `grace` seconds by force."""
        for process in self.processes.values():
            process.poll()
        self._family.end(grace)
        for process in self.processes.values():
            process.wait()

    def log_file(self, name: str) -> Path:
        """Where the output of one component goes."""
        return self.home / f"logs-{name}.txt"

    def wait_healthy(self, timeout: float = 120.0) -> None:
        """Return when every component is healthy and has sent a heartbeat since it was started last.

        Raises `AirflowError` as soon as one has ended, `AirflowTimeout` with the names of those that are missing.
        """
        deadline = time.monotonic() + timeout
        while missing := self._unhealthy():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise AirflowError(f"the {name} ended with code {process.returncode}\n{self._log_tail(name)}")
            if time.monotonic() > deadline:
                tails = "\n".join(self._log_tail(name) for name in missing)
                raise AirflowTimeout(f"not healthy after {timeout:g} s: {', '.join(missing)}\n{tails}")
            time.sleep(0.2)

    def _unhealthy(self) -> list[str]:
        health = self.health()
        if not health:
            return list(self.processes)
        return [name for name in self.processes if name != "api-server" and not self._is_alive(name, health)]

    def _is_alive(self, name: str, health: Json) -> bool:
        """The heartbeat counts: Airflow calls a component healthy for 30 s after it was killed."""
        key = name.replace("-", "_")
        beat = health[key][f"latest_{key}_heartbeat"]
        alive = health[key]["status"] == "healthy" and beat is not None
        return alive and datetime.fromisoformat(beat) >= self._started[name]

    def _environment(self, dags: Path, settings: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
        known = _SETTINGS | {
            "core.dags_folder": str(dags),
            "core.execution_api_server_url": f"{self.url}/execution/",
            "core.simple_auth_manager_users": f"{self.login[0]}:admin",
            "core.simple_auth_manager_passwords_file": str(self.home / "passwords.json"),
            "database.sql_alchemy_conn": f"sqlite:///{self.home / _database_name()}",
            "logging.base_log_folder": str(self.home / "logs"),
            "logging.worker_log_server_port": str(_free_port()),
            "logging.trigger_log_server_port": str(_free_port()),
            "api.port": str(self._port),
            "api.base_url": self.url,
            "api.secret_key": secrets.token_urlsafe(32),
            "api_auth.jwt_secret": secrets.token_urlsafe(48),
        }
        variables = _as_variables({**known, **settings})
        inherited = {key: text for key, text in os.environ.items() if not key.startswith("AIRFLOW_")}
        # Proxies of the environment must not get what the tasks tell the API server.
        proxies = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        # SPT_NOENV: Airflow's process titles would overwrite the environment by which the family is found.
        marks = {"AIRFLOW_HOME": str(self.home), "SPT_NOENV": "1", **self._family.mark}
        return {**inherited, **proxies, **env, **variables, **marks}

    def _prepare_home(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        # Airflow would write one at every start, in four processes at once.
        (self.home / "airflow.cfg").touch()
        passwords = self.home / "passwords.json"
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps(dict([self.login])), encoding="utf-8")
        database = self.home / _database_name()
        if not database.exists():
            migrated = self._migrated_database()
            if migrated != database:
                partial = database.with_suffix(".partial")
                shutil.copyfile(migrated, partial)
                partial.replace(database)

    def _migrated_database(self) -> Path:
        """An empty database of this version of Airflow; migrating takes as long as the rest of the start."""
        target = self._template.resolve() / _database_name()
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                partial = Path(folder, target.name)
                env = self._env | {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{partial}"}
                self._migrate(env)
                partial.replace(target)
        return target

    def _migrate(self, env: Mapping[str, str]) -> None:
        with self.log_file("migrate").open("wb") as log:
            command = (self._python, "-m", "airflow", "db", "migrate")
            ended = subprocess.run(command, cwd=self.home, env=env, stdout=log, stderr=subprocess.STDOUT, check=False)
        if ended.returncode:
            raise AirflowError(f"`airflow db migrate` ended with {ended.returncode}\n{self._log_tail('migrate')}")

    def _log_tail(self, name: str) -> str:
        lines = self.log_file(name).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"--- {self.log_file(name)}, its end:", *lines[-_LOG_TAIL_LINES:]])


@dataclass(frozen=True)
class _Process:
    """One process; `started` tells it from a later one with the same id."""

    pid: int
    started: int
    parent: int
    session: int
    marked: bool


class _ProcessFamily:
    """Processes that carry an environment variable, and their descendants and sessions.

    The variable survives the death of a parent; parents and sessions find a descendant that was started with an
    empty environment. What has escaped all three before `look` was called is not found. Linux only: it reads /proc.
    """

    def __init__(self, name: str, value: str) -> None:
        self.mark = {name: value}
        self._known: set[tuple[int, int]] = set()

    def look(self) -> list[int]:
        """Ids of the members that live now; they stay members when they lose their parent later."""
        living = self._living()
        members = {p for p in living if p.marked or (p.pid, p.started) in self._known}
        while True:
            pids = {p.pid for p in members}
            # Only a session whose leader is a member is a session of the family.
            sessions = {p.session for p in members} & pids
            grown = members | {p for p in living if p.parent in pids or p.session in sessions}
            if grown == members:
                break
            members = grown
        self._known |= {(p.pid, p.started) for p in members}
        return sorted(p.pid for p in members)

    def end(self, grace: float) -> None:
        """SIGTERM to all members, SIGKILL to those that are left after `grace` seconds; returns when none is left."""
        try:
            deadline = time.monotonic() + grace
            if grace > 0:
                self._signal(signal.SIGTERM)
            while self.look() and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            # Again and again: a member may start another while it is being looked for.
            while self._signal(signal.SIGKILL):
                time.sleep(0.02)

    def _signal(self, number: signal.Signals) -> bool:
        """Whether there was anybody to signal."""
        pids = self.look()
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        return bool(pids)

    def _living(self) -> set[_Process]:
        entry = b"\0%b=%b\0" % next((key.encode(), value.encode()) for key, value in self.mark.items())
        found = (_read(folder, entry) for folder in Path("/proc").iterdir() if folder.name.isdigit())
        return {process for process in found if process and process.pid != os.getpid()}


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit, so that every `with` cleans up. For a main, in its main thread."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _database_name() -> str:
    return f"airflow-{version('apache-airflow-core')}.db"


def _as_variables(settings: Mapping[str, str]) -> dict[str, str]:
    return {f"AIRFLOW__{key.upper().replace('.', '__')}": text for key, text in settings.items()}


def _free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, below those which the kernel gives to outgoing connections."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _read(folder: Path, entry: bytes) -> _Process | None:
    """None for a process that has ended, is a zombie, or belongs to somebody else."""
    try:
        # The name, in parentheses, may hold blanks and parentheses itself.
        fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        environment = b"\0" + (folder / "environ").read_bytes()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return _Process(int(folder.name), int(fields[19]), int(fields[1]), int(fields[3]), entry in environment)
