"""Warm workers: what is imported before task processes are forked, and the proof that they still work.

A stage needs seconds to import pandas, Great Expectations, MLflow or scikit-learn, and works for tenths of a second. A
process that is forked after these imports inherits them. Only *importing* before the fork is safe: OpenMP (under
``HistGradientBoosting*``) and polars keep threads once they were *used*; a forked process has the locks of these
threads, not the threads, and waits for ever. Somebody else's plugin may do that, or a library's next release. So what
is representative is tried in a forked process, before any task depends on it.

``kaizen_airflow.plugin`` says in which process this happens, and when.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from kaizen.errors import MissingDependency, UsageError

MODULES = (
    "pandas",
    "pyarrow.parquet",
    "sklearn.ensemble",
    "sklearn.linear_model",
    # Searches every module that is loaded, for each of SciPy's functions: the fewer there are, the faster.
    "skops.io",
    "mlflow.models",
    "mlflow.sklearn",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "great_expectations",
    "dvc.repo",
    "kedro.framework.session",
    "psycopg",
    "kaizen.turn",
)
"""The libraries that the stages use, all behind extras; ``kaizen.adapters`` come in addition, whatever there is."""

LIMIT = 20.0
"""Seconds for one probe. It needs 1 or 2; the rest is for a machine that starts everything at once."""

_NO_TELEMETRY = {
    "GX_ANALYTICS_ENABLED": "false",
    "KEDRO_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_PAUSE = 0.02

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preloaded:
    """What a process has imported for those that it forks.

    Attributes:
        imported: modules that are loaded now.
        missing: module to the reason why it is not: its library is not installed, or its import failed.
        seconds: what the imports took, once.
    """

    imported: tuple[str, ...]
    missing: dict[str, str]
    seconds: float


def preload(modules: Sequence[str] | None = None) -> Preloaded:
    """Import ``modules`` (default: all that the stages use), as far as they are installed.

    A library that cannot be imported is no error here: the task that needs it says so in its own words.
    """
    began = time.monotonic()
    # As the stages themselves set it; read when the library is imported, which is now.
    for name, value in _NO_TELEMETRY.items():
        os.environ.setdefault(name, value)
    names = (*MODULES, *_adapters()) if modules is None else tuple(modules)
    with _process_left_alone():
        reasons = {name: _try_import(name) for name in names}
        _read_installation()
    missing = {name: reason for name, reason in reasons.items() if reason}
    return Preloaded(tuple(name for name in names if name not in missing), missing, time.monotonic() - began)


def prove_forkable(limit: float = LIMIT) -> tuple[str, ...]:
    """Do a small piece of work with each loaded library that keeps threads, in a forked process; their names.

    This process is left as it was: the work happens in the forked ones only.

    Args:
        limit: seconds for each piece of work.

    Raises:
        UsageError: KZ240, a forked process hangs or dies; it has been ended.
    """
    proven = tuple(name for name in _PROBES if name in sys.modules)
    for name in proven:
        if trouble := _try_in_fork(_PROBES[name], limit):
            raise UsageError(
                "KZ240",
                f"a process that is forked from this one cannot use {name}",
                where="[kaizen] preload, in the process that forks task processes",
                value=f"the forked process {trouble}",
                limit=f"{name} is imported before the fork, never used; a small piece of work ends within {limit:g} s",
                action=f"find what uses {name} while Airflow starts (plugins, airflow_local_settings.py) and stop it;"
                " without [kaizen] preload Airflow starts, but a task that uses it after such code hangs all the same",
            )
    return proven


def _adapters() -> tuple[str, ...]:
    import kaizen.adapters

    (folder,) = kaizen.adapters.__path__
    return tuple(sorted(f"kaizen.adapters.{path.stem}" for path in Path(folder).glob("[a-z]*.py")))


def _try_import(name: str) -> str:
    # The reason why it is not imported, or nothing.
    library = name.partition(".")[0]
    if name not in sys.modules and find_spec(library) is None:
        return f"{library} is not installed"
    try:
        import_module(name)
    except MissingDependency as error:
        return error.what
    except Exception as error:  # noqa: BLE001 -- the scheduler goes on, whatever a broken installation raises
        return f"{type(error).__name__}: {error}"
    return ""


def _read_installation() -> None:
    # Who trains or saves a model reads the metadata of every installed distribution, once per process. What is broken
    # there is for that task to tell: the scheduler goes on.
    with suppress(Exception):
        _read_metadata()


def _read_metadata() -> None:
    if utils := sys.modules.get("mlflow.utils.requirements_utils"):
        utils.warn_dependency_requirement_mismatches(["mlflow"])
    if place := sys.modules.get("kaizen.adapters.place"):
        place.installed_packages()


@contextmanager
def _process_left_alone() -> Iterator[None]:
    """Undo what these imports do to the process that they happen in.

    Kedro puts a console handler on the root logger, hooks into uncaught exceptions and captures warnings; skops asks
    each of Airflow's modules for attributes that it does not have, which gives a thousand deprecation warnings.
    """
    root = logging.getLogger()
    handlers, disabled, hook, shown = root.handlers[:], root.manager.disable, sys.excepthook, warnings.showwarning
    logging.disable(max(disabled, logging.INFO))
    # Not `warnings.catch_warnings`: a filter that a library installs for itself belongs to the task processes too.
    warnings.showwarning = _drop
    try:
        yield
    finally:
        if warnings.showwarning is not _drop:
            logging.captureWarnings(False)
        warnings.showwarning = shown
        sys.excepthook = hook
        root.handlers[:] = handlers
        logging.disable(disabled)


def _drop(*_: Any, **__: Any) -> None:
    """Show a warning to nobody."""


def _try_in_fork(work: Callable[[], None], limit: float) -> str:
    # What went wrong, or nothing.
    with warnings.catch_warnings():
        # Python 3.12 and later warn of a fork beside threads (NumPy has some from its import): that is the question.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _work_and_exit(work)
    status = None
    try:
        status = _wait(child, limit)
    finally:
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if status is None:
        return f"was still at work after {limit:g} s"
    code = os.waitstatus_to_exitcode(status)
    return "" if code == 0 else f"ended with {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"


def _wait(child: int, limit: float) -> int | None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(_PAUSE)
    return None


def _work_and_exit(work: Callable[[], None]) -> NoReturn:
    # Never back into the caller's code: this is a copy of a scheduler.
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 -- whatever it is, the process ends here
        traceback.print_exc()
    finally:
        os._exit(code)


# The probes take their libraries by name: they are loaded, and this face depends on none.


def _fit_trees() -> None:
    ensemble, threads = import_module("sklearn.ensemble"), import_module("threadpoolctl")
    rows = import_module("numpy").arange(400.0).reshape(200, 2)
    # A single thread starts no others and would prove nothing.
    with threads.threadpool_limits(2, user_api="openmp"):
        ensemble.HistGradientBoostingClassifier(max_iter=2).fit(rows, rows[:, 0] > rows[:, 0].mean())


def _write_and_read_table() -> None:
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.table({"left": range(200), "right": range(200)}), sink)
    parquet.read_table(arrow.BufferReader(sink.getvalue()), use_threads=True)


def _sum_groups() -> None:
    frame = import_module("polars").DataFrame({"group": [0, 1] * 100, "value": list(range(200))})
    frame.group_by("group").sum()


_PROBES: dict[str, Callable[[], None]] = {
    "sklearn.ensemble": _fit_trees,
    "pyarrow.parquet": _write_and_read_table,
    "polars": _sum_groups,
}
