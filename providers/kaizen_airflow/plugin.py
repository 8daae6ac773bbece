"""The Airflow plugin: it says when the stages' libraries are preloaded (``[kaizen] preload``), and where not.

Every component loads this module, so it imports nothing but what they all have. Only the scheduler goes further, and
only when it forks task processes itself (LocalExecutor or a subclass, start method ``fork``), in this order, which is
Airflow's own::

    Job()                          on_starting, with a job that does not know yet what it will be
    SchedulerJobRunner(job)        the job is named: here the libraries are imported, and the guard asks
      its executors                 instances only
    run_job                        LocalExecutor.start forks its workers; later it replaces those that die

Celery is not served: `airflow celery worker` makes no job and loads no plugins before its pool forks.
"""

from __future__ import annotations

import logging
import multiprocessing
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

_log = logging.getLogger(__name__)


class WarmWorkers:
    """Listener: preloads in the scheduler whose executor forks task processes, and nowhere else."""

    @hookimpl
    def on_starting(self, component: Any) -> None:
        """Wait for a job to be named; task processes report a component that is no job."""
        job_type = getattr(type(component), "job_type", None)
        if job_type is None:
            return
        from sqlalchemy import event

        def on_named(job: Any, name: str, *_: Any) -> None:
            # Each heartbeat names a copy of the job again.
            if job is component and name == "SchedulerJob":
                _start_scheduler()

        # Airflow calls this before it gives the job its type, and swallows what is raised here.
        event.listen(job_type, "set", on_named)


class _OnlyInTheApiServer:
    """The reports' page: FastAPI is imported by whoever asks for it, which is the API server alone."""

    def __get__(self, plugin: object, owner: type) -> list[Any]:
        from kaizen_airflow.reports import app

        return [{"app": app, "url_prefix": "/kaizen", "name": "Kaizen"}]


class KaizenPlugin(AirflowPlugin):
    """Kaizen's plugin."""

    name = "kaizen"
    fastapi_apps = _OnlyInTheApiServer()
    listeners: list[Any] = [WarmWorkers()]  # noqa: RUF012 -- as Airflow declares it


def is_wanted() -> bool:
    """Whether ``[kaizen] preload`` is on; empty is off. A value that is no boolean is refused by Airflow itself."""
    from airflow.configuration import conf

    return bool(conf.get("kaizen", "preload", fallback="")) and conf.getboolean("kaizen", "preload")


def forks_tasks() -> bool:
    """Whether the scheduler in this process will fork task processes that inherit its imports."""
    from airflow.executors.executor_loader import ExecutorLoader
    from airflow.executors.local_executor import LocalExecutor

    classes = [ExecutorLoader.import_executor_cls(name)[0] for name in ExecutorLoader.get_executor_names()]
    return multiprocessing.get_start_method() == "fork" and any(issubclass(each, LocalExecutor) for each in classes)


def warm_up() -> None:
    """Import the stages' libraries here, and prove that forked processes can use them.

    Raises:
        UsageError: KZ240, they cannot. The scheduler must not start then: what was used before the fork cannot be
            unused, so every task process would inherit it, with preloading or without, and hang until its timeout.
    """
    from kaizen_airflow.preload import preload, prove_forkable

    preloaded = preload()
    for name, reason in preloaded.missing.items():
        _log.info("not preloaded: %s (%s)", name, reason)
    proven = prove_forkable()
    _log.info(
        "preloaded %d modules for task processes in %.1f s; forked processes can use %s",
        len(preloaded.imported),
        preloaded.seconds,
        ", ".join(proven) or "them",
    )


def _start_scheduler() -> None:
    if not is_wanted():
        return
    if forks_tasks():
        warm_up()
    else:
        _log.warning("[kaizen] preload does nothing here: only LocalExecutor with start method fork is served")
