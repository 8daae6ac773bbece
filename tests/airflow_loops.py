"""The small loop of ``loops`` on a real Airflow, and the state that the same deliveries lead to with ``kaizen turn``.

One Airflow and one folder serve all scenarios: each puts the project back to a state that was saved, as records name
the folder that they were made in.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from demo.airflow_service import AirflowService
from tests.loops import LOOP, MONTHS, Project, WarmProcesses, make_loop, schedules

from kaizen.canonical import file_digests
from kaizen.ledger import open_ledger

PATIENCE = 600.0
"""Seconds after which nothing that is waited for will come, on a machine that others use too."""

KINDS = ("ingest", "scoring", "monitoring", "training", "reconcile")
BACKFILL, KEYED = "rail.delays_backfill", "rail.delays_keyed"
DAG_FILE = '''
"""A loop's five DAGs, and its ingest DAG twice more: by the calendar, and for runs with a partition key."""

from datetime import datetime, timedelta, timezone

from airflow.sdk import PartitionedAtRuntime
from kaizen_airflow import IngestDag, MonitoringDag, ReconcileDag, ScoringDag, TrainingDag

SPEC = "project/kaizen.yml"
FAST = {"retries": 2, "retry_delay": timedelta(seconds=1)}

ingest = IngestDag(SPEC, default_args=FAST)
scoring = ScoringDag(SPEC, default_args=FAST)
monitoring = MonitoringDag(SPEC, default_args=FAST)
training = TrainingDag(SPEC, default_args=FAST)
# The tests say when it is time.
reconcile = ReconcileDag(SPEC, default_args=FAST, schedule=None)
backfill = IngestDag(
    SPEC,
    dag_id="rail.delays_backfill",
    default_args=FAST,
    schedule="0 0 1 * *",
    start_date=datetime(2024, 1, 1, tzinfo=timezone.utc),
    end_date=datetime(2024, 12, 1, tzinfo=timezone.utc),
)
keyed = IngestDag(SPEC, dag_id="rail.delays_keyed", default_args=FAST, schedule=PartitionedAtRuntime())
'''

State = Mapping[str, Any]
Step = Callable[[Project], object]
"""A delivery, or what else happens to a project from outside."""

MARCH = MONTHS[2]


def land_bad_march(project: Project) -> None:
    """March with more rain in each row than the suite allows."""
    project.land("schedules", f"{MARCH}.parquet", schedules(MARCH).assign(rain=99.0))


def land_months(*months: str) -> Step:
    """All that belongs to some months, at once: a watcher sees all of it or nothing."""

    def step(project: Project) -> None:
        aside = Project(project.folder.with_name("aside"))
        for month in months:
            aside.land_month(month)
        for path in list(aside.landing.glob("*/*")):
            target = project.landing / path.relative_to(aside.landing)
            target.parent.mkdir(exist_ok=True)
            path.rename(target)

    return step


def rows_of(month: str) -> Step:
    return lambda project: project.land_schedules(month)


def outcomes_of(month: str) -> Step:
    return lambda project: project.land_outcomes(month)


YEAR = [land_months(*MONTHS[:2]), rows_of(MARCH), outcomes_of(MARCH)]
"""Three months as they come: a first champion after the first two, another one after the third."""

HISTORIES: dict[str, tuple[str, Sequence[Step]]] = {
    "nothing": ("new", [lambda _: None]),
    "february": ("nothing", YEAR[:1]),
    "march": ("february", YEAR[1:]),
    "at once": ("nothing", [land_months(*MONTHS[:3])]),
    "corrected": ("february", [land_bad_march, *YEAR[1:]]),
}
"""Name of a state: where it begins, and what is delivered, one after the other. "new" is the project as it is made."""


def settle(spec: str) -> int:
    """``kaizen turn`` twice, as bells ring again after a turn: the second finds nothing to do but to say so."""
    from kaizen.cli import main

    return main(["turn", spec]) or main(["turn", spec])


@dataclass
class References:
    """What deliveries lead to when ``kaizen turn`` follows each; each history also is a saved state of the project."""

    project: Project
    processes: WarmProcesses
    states: dict[str, State] = field(default_factory=dict)

    def make(self) -> None:
        """Go through all histories, in the project's own folder; at the end it is as new."""
        self.project.save("new")
        for name, (begins, steps) in HISTORIES.items():
            self.project.restore(begins)
            codes = []
            for step in steps:
                step(self.project)
                codes.append(self.processes.start("tests.airflow_loops:settle", str(self.project.spec)).wait().code)
            # What is refused is refused everywhere; the correction comes next.
            assert codes == [4 if step is land_bad_march else 0 for step in steps], (name, codes)
            self.states[name] = self.processes.state(self.project)
            self.project.save(name)
        self.project.restore("new")


@dataclass
class LoopOnAirflow:
    """The loop, its DAGs, and what a scenario does to both. Every wait ends by ``PATIENCE``."""

    airflow: AirflowService
    references: References
    armed: Path
    _earlier: set[tuple[str, str]] = field(default_factory=set)

    @property
    def project(self) -> Project:
        return self.references.project

    def begin(self, saved: str) -> None:
        """Put the project back to a saved state, and Airflow to rest; runs before this one are out of sight."""
        for file in (self.armed, *self.armed.parent.glob(f"{self.armed.name}.*")):
            file.unlink(missing_ok=True)
        for kind in KINDS:
            self.airflow.unpause(self.dag(kind))
        if not self.asset("landing")["watchers"]:
            with self.bell():
                self.reparse(watched=True)
        self.airflow.wait_idle(PATIENCE)
        files, rung = self._files(), self.landing_events()
        # The watcher sees other files, for which there is nothing to do: nobody hears it.
        self.airflow.pause(self.dag("ingest"))
        self._swap(saved)
        if self._files() != files:
            self.until(lambda: self.landing_events() > rung, "the bell for the state's own files")
        self.airflow.unpause(self.dag("ingest"))
        self._earlier = {(run["dag_id"], run["dag_run_id"]) for run in self.airflow.dag_runs()}

    def _swap(self, saved: str) -> None:
        # By renaming: the triggerer and the DAG processor read there all the time.
        folder, fresh = self.project.folder, self.project.folder.with_name("fresh")
        shutil.copytree(folder.with_name(f"{folder.name}.{saved}"), fresh)
        folder.rename(folder.with_name(f"left-{len(list(folder.parent.iterdir()))}"))
        fresh.rename(folder)

    def _files(self) -> set[tuple[str, int]]:
        return {(str(path), path.stat().st_mtime_ns) for path in self.project.landing.glob("*/*")}

    def state(self) -> State:
        """What is kept now."""
        return self.references.processes.state(self.project)

    # DAGs.

    @staticmethod
    def dag(kind: str) -> str:
        return f"rail.delays_{kind}"

    def runs(self, kind: str) -> list[dict[str, Any]]:
        """Runs of a DAG since the scenario began, oldest first."""
        runs = self.airflow.dag_runs(self.dag(kind))
        return [run for run in runs if (run["dag_id"], run["dag_run_id"]) not in self._earlier]

    def tasks(self, kind: str, run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Task instances of a run, by task."""
        return {t["task_id"]: t for t in self.airflow.task_instances(self.dag(kind), run["dag_run_id"])}

    def tries(self) -> dict[str, list[int]]:
        """Try numbers of all task instances that were tried more than once, by task."""
        found = defaultdict(list)
        for kind in KINDS:
            for run in self.runs(kind):
                for name, task in self.tasks(kind, run).items():
                    if task["try_number"] > 1:
                        found[name].append(task["try_number"])
        return dict(found)

    def outcomes(self) -> set[str]:
        """The states that the scenario's runs ended in."""
        return {run["state"] for kind in (*KINDS, "backfill", "keyed") for run in self.runs(kind)}

    def asset(self, what: str) -> dict[str, Any]:
        """One of the loop's assets."""
        name = f"kaizen/{LOOP}/{what}"
        found = self.airflow.api("GET", f"/assets?name_pattern={name}")["assets"]
        return next(each for each in found if each["name"] == name)

    def landing_events(self, by: str = "") -> int:
        """How often landing was rung, by the triggerer or by a task of DAG ``by``; heard or not."""
        query = f"asset_id={self.asset('landing')['id']}" + (f"&source_dag_id={self.dag(by)}" if by else "")
        total: int = self.airflow.api("GET", f"/assets/events?limit=1&{query}")["total_entries"]
        return total

    def keys(self, what: str, run_id: str) -> list[str | None]:
        """The partition keys that a run rang one of the loop's assets with."""
        query = f"asset_id={self.asset(what)['id']}&source_run_id={quote(run_id)}"
        events = self.airflow.api("GET", f"/assets/events?{query}")["asset_events"]
        return sorted((event["partition_key"] for event in events), key=str)

    def taken(self, table: str) -> list[str]:
        """The partitions that there are of a table, one entry for each version."""
        with open_ledger(f"sqlite:///{self.project.home / 'ledger.db'}") as ledger:
            versions = [event.payload for event in ledger.events(LOOP, kind="DataVersion")]
        return sorted(version["partition"] for version in versions if version["table"] == table)

    def reparse(self, *, watched: bool) -> None:
        """Let the DAG file be read again now: then the watcher of a paused DAG goes, and that of another comes back."""
        token = self.airflow.api("GET", f"/dags/{self.dag('ingest')}")["file_token"]
        self.airflow.api("PUT", f"/parseDagFile/{token}")
        self.until(lambda: bool(self.asset("landing")["watchers"]) == watched, f"watched is {watched}")

    def trigger(self, kind: str) -> str:
        """Start a DAG as a person does; its run."""
        return self.airflow.trigger(self.dag(kind))

    # Deliveries.

    @contextmanager
    def bell(self, kind: str = "ingest") -> Iterator[None]:
        """Wait, after the block, for what it sets off: a run of DAG ``kind``, and all that follows."""
        before = len(self.runs(kind))
        yield
        self.until(lambda: len(self.runs(kind)) > before, f"a run of {kind}")
        self.airflow.wait_idle(PATIENCE)

    def deliver(self, step: Step) -> None:
        """Let something land, and wait for all that follows."""
        with self.bell():
            step(self.project)
        self.until(self.is_taken, "what landed is taken")
        self.airflow.wait_idle(PATIENCE)

    def is_taken(self) -> bool:
        """Whether all that lies there was taken; else the bell was for what had come before it."""
        files = [path for path in self.project.landing.glob("*/*") if not path.name.startswith(".")]
        with open_ledger(f"sqlite:///{self.project.home / 'ledger.db'}") as ledger:
            taken = {event.payload["source"]["sha256"] for event in ledger.events(LOOP, kind="Delivery")}
        return {file_digests(path)[1]["sha256"] for path in files} <= taken

    # Faults.

    def arm(self, point: str) -> None:
        """Arm ``name:action`` for whichever task passes it first."""
        self.armed.with_name(f"{self.armed.name}.taken").unlink(missing_ok=True)
        draft = self.armed.with_name(".armed")
        draft.write_text(point, encoding="utf-8")
        draft.rename(self.armed)

    def wait_taken(self) -> None:
        """Return when a task has died, or is held, at the point."""
        self.until(self.armed.with_name(f"{self.armed.name}.taken").exists, f"a task passes {self._armed_point()}")

    def wait_held(self) -> int:
        """Return when a task is held at the point; its process."""
        held = self.armed.with_name(f"{self.armed.name}.held")
        self.until(held.exists, f"a task is held at {self._armed_point()}")
        return int(held.read_text(encoding="utf-8"))

    def release(self) -> None:
        """Let the held task go on."""
        self.armed.with_name(f"{self.armed.name}.held").unlink()

    def _armed_point(self) -> str:
        return self.armed.read_text(encoding="utf-8") if self.armed.exists() else "a point"

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Look until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"not in {PATIENCE:g} s: {what}"
            # Most looks are work for the API server, on the cores that the loop's tasks wait for.
            time.sleep(0.25)


@contextmanager
def loop_on_airflow(folder: Path, processes: WarmProcesses, template: Path) -> Iterator[LoopOnAirflow]:
    """A loop to which nothing was delivered, its DAGs awake in an Airflow of its own."""
    references = References(make_loop(folder / "projects" / "project"), processes)
    dags, armed = folder / "dags", folder / "armed"
    dags.mkdir()
    with ExitStack() as stack, ThreadPoolExecutor(1) as beside:
        made = beside.submit(references.make)
        # Nobody reads the project yet: there is no DAG file.
        airflow = stack.enter_context(_airflow(folder, dags, armed, template))
        made.result()
        (dags / "loop.py").write_text(DAG_FILE, encoding="utf-8")
        loop = LoopOnAirflow(airflow, references, armed)
        airflow.wait_for_dags([*map(loop.dag, KINDS), BACKFILL, KEYED], PATIENCE)
        # A watcher rings when it starts. What it rings for is the look-up table; `begin` makes the project new again.
        loop.until(lambda: bool(loop.runs("ingest")), "the first bell")
        yield loop


def _airflow(folder: Path, dags: Path, armed: Path, template: Path) -> AirflowService:
    unset = ("KAIZEN_HOME", "KAIZEN_LEDGER_URL", "KAIZEN_ENV", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    for name in unset:
        assert name not in os.environ, f"{name} would lead the loop out of its folder"
    return AirflowService(
        folder / "airflow",
        dags,
        settings={
            "core.dags_are_paused_at_creation": "False",
            # The tests say when.
            "dag_processor.min_file_process_interval": "3600",
            "kaizen.projects": str(folder / "projects"),
            "kaizen.landing_poll": "0.2",
            "kaizen.preload": "True",
            # What died is noticed in seconds, not minutes.
            "scheduler.job_heartbeat_sec": "1",
            "scheduler.scheduler_heartbeat_sec": "1",
            "scheduler.scheduler_health_check_threshold": "10",
            "scheduler.task_instance_heartbeat_timeout": "20",
            "scheduler.task_instance_heartbeat_timeout_detection_interval": "2",
            "workers.min_heartbeat_interval": "2",
        },
        env={
            "KAIZEN_FAULT": f"@{armed}",
            **{name: str(folder / "dvc") for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR")},
            "DVC_SITE_CACHE_DIR": str(folder / "dvc"),
            "PYTHONPATH": os.pathsep.join(_import_folders()),
        },
        template=template,
        start_timeout=PATIENCE,
    )


def _import_folders() -> list[str]:
    import kaizen

    root = Path(kaizen.__file__).parents[2]
    return [str(root / part) for part in ("core", "kedro_plugins", "providers")]


def explain(found: State, expected: State) -> str:
    """The first events that differ, for an assertion's message."""
    mine, theirs = ([json.dumps(e, sort_keys=True) for e in s["ledger"]] for s in (found, expected))
    more, missing = [e for e in mine if e not in theirs], [e for e in theirs if e not in mine]
    parts = [name for name in expected if found[name] != expected[name]]
    return "\n".join([f"differs in {parts}", "too much:", *more[:5], "missing:", *missing[:5]])
