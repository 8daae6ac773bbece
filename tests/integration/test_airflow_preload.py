"""Warm workers: what is imported before task processes are forked, where, and the guard that proves the fork."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kaizen.errors import UsageError
from kaizen_airflow import preload

ROOT = Path(__file__).resolve().parents[2]

# Everything that the stages use, really imported, in a process where logging is somebody else's.
IMPORTED = """
import json, logging, sys, warnings
logging.basicConfig(stream=sys.stderr)
def state():
    root = logging.getLogger()
    return root.handlers[:], root.manager.disable, sys.excepthook, warnings.showwarning
before = state()
from kaizen_airflow.preload import preload, prove_forkable
preloaded = preload()
print(json.dumps({
    "missing": preloaded.missing,
    "none": preload(["no_such_library.part"]).missing,
    "unloaded": [name for name in preloaded.imported if name not in sys.modules],
    "left alone": state() == before,
    "proven": prove_forkable(),
}))
"""

# What another plugin could do while the scheduler starts.
USED = """
import json, os, time
from kaizen.errors import UsageError
from kaizen_airflow.preload import _fit_trees, preload, prove_forkable
preload(["sklearn.ensemble"])
_fit_trees()
try:
    prove_forkable(limit=3)
except UsageError as error:
    try:
        os.waitpid(-1, os.WNOHANG)
        children = "left"
    except ChildProcessError:
        children = "none"
    print(json.dumps({**error.to_json(), "children": children}))
"""

# Airflow's own runners, named as its commands name them; ``warm_up`` alone is replaced, by a note that it was called.
STARTED = """
import json, os, sys
from types import SimpleNamespace
from airflow.executors import executor_loader
from airflow.executors.base_executor import BaseExecutor
from airflow.jobs.dag_processor_job_runner import DagProcessorJobRunner
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.jobs.triggerer_job_runner import TriggererJobRunner
from airflow.sdk.execution_time.task_runner import TaskRunnerMarker
from airflow.sdk.listener import get_listener_manager
from kaizen_airflow import plugin

class Elsewhere(BaseExecutor):
    pass

def warmed(start, executor="LocalExecutor", setting="True"):
    calls = []
    plugin.warm_up = lambda: calls.append(1)
    os.environ.update(AIRFLOW__CORE__EXECUTOR=executor, AIRFLOW__KAIZEN__PRELOAD=setting)
    executor_loader._executor_names.clear()
    start()
    return len(calls)

def scheduler():
    SchedulerJobRunner(job=Job())
    # As a heartbeat does, whose `session.merge` makes a copy of the job.
    copy = Job.__mapper__.class_manager.new_instance()
    copy.job_type = SchedulerJobRunner.job_type

found = {
    "dag processor": warmed(lambda: DagProcessorJobRunner(Job(), SimpleNamespace())),
    "triggerer": warmed(lambda: TriggererJobRunner(Job())),
    "task": warmed(lambda: get_listener_manager().hook.on_starting(component=TaskRunnerMarker())),
    "scheduler, off": warmed(scheduler, setting="False"),
    "scheduler, empty": warmed(scheduler, setting=""),
    "scheduler, tasks elsewhere": warmed(scheduler, executor="__main__.Elsewhere"),
    "scheduler": warmed(scheduler),
    "scheduler of several executors": warmed(scheduler, executor="__main__.Elsewhere,LocalExecutor"),
}
heavy = ("kaizen.turn", "kaizen_airflow.preload", "pandas", "sklearn", "mlflow", "great_expectations", "kedro", "dvc")
found["imported"] = [name for name in heavy if name in sys.modules]
print(json.dumps(found))
"""


def in_new_process(script: str, home: Path) -> Any:
    """What ``script`` prints as JSON, in a process with an Airflow of its own."""
    variables = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # On a machine with a single core too: one thread leaves nothing behind.
        "OMP_NUM_THREADS": "2",
        "PYTHONPATH": f"{ROOT / 'core'}:{ROOT / 'providers'}",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW__")} | variables,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
def test_imports_before_the_fork_are_complete_and_harmless(tmp_path: Path) -> None:
    found = in_new_process(IMPORTED, tmp_path)
    assert found == {
        "missing": {},
        "none": {"no_such_library.part": "no_such_library is not installed"},
        "unloaded": [],
        "left alone": True,
        "proven": ["sklearn.ensemble", "pyarrow.parquet"],
    }


def test_use_before_the_fork_is_refused_and_nothing_is_left_behind(tmp_path: Path) -> None:
    found = in_new_process(USED, tmp_path)
    assert found["code"] == "KZ240"
    assert found["what"] == "a process that is forked from this one cannot use sklearn.ensemble"
    # Which of the two depends on how OpenMP's threads wait.
    assert found["value"] in (
        "the forked process was still at work after 3 s",
        "the forked process was ended by SIGSEGV",
    )
    assert "[kaizen] preload" in found["where"]
    assert found["children"] == "none"


def test_only_a_scheduler_that_forks_its_tasks_preloads_and_only_if_asked(tmp_path: Path) -> None:
    assert in_new_process(STARTED, tmp_path) == {
        "dag processor": 0,
        "triggerer": 0,
        "task": 0,
        "scheduler, off": 0,
        "scheduler, empty": 0,
        "scheduler, tasks elsewhere": 0,
        "scheduler": 1,
        "scheduler of several executors": 1,
        "imported": [],
    }


@pytest.mark.parametrize(
    ("work", "trouble"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was ended by SIGKILL"),
        (lambda: sys.exit(7), "ended with 1"),
    ],
)
def test_a_forked_process_that_dies_is_refused(monkeypatch: pytest.MonkeyPatch, work: Any, trouble: str) -> None:
    monkeypatch.setattr(preload, "_PROBES", {"json": work})
    with pytest.raises(UsageError, match="KZ240") as refused:
        preload.prove_forkable()
    assert refused.value.value == f"the forked process {trouble}"
