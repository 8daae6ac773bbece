"""What holds for every test: no tool reports home, nothing outside the test's own folder is touched, no quiet skip."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

# Before any library is imported: some read these once, at import.
os.environ.update(
    AIRFLOW_HOME=(home := tempfile.mkdtemp(prefix="kaizen-airflow-")),
    AIRFLOW__CORE__DAGS_FOLDER=f"{home}/dags",
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home}/airflow.db",
    AIRFLOW__KAIZEN__PROJECTS=f"{home}/projects",
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
    DO_NOT_TRACK="1",
    DVC_NO_ANALYTICS="1",
    GX_ANALYTICS_ENABLED="false",
    KEDRO_DISABLE_TELEMETRY="1",
    MLFLOW_DISABLE_TELEMETRY="true",
)

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import ModuleType

    from tests.loops import WarmProcesses

pytest_plugins = ["tests.fault_table"]

atexit.register(shutil.rmtree, home, ignore_errors=True)

# A shared machine may be slow at any moment: how long an example takes says nothing.
hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile("default")

NO_SKIPS = os.environ.get("KAIZEN_NO_SKIPS") == "1"
NO_ENGINE = os.environ.get("KAIZEN_NO_ENGINE")
"""Why no Docker engine can be on this machine."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        _refuse_skip(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have measured: those of other processes cannot print it themselves."""
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.stats.get(outcome, ())]
    for text in [text for r in reports for name, text in r.user_properties if name == "measured" and r.when == "call"]:
        terminalreporter.write_line(text)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """With KAIZEN_NO_SKIPS=1 a skip is a failure that shows its reason, but for an engine that cannot be here."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if NO_SKIPS and not (NO_ENGINE and NO_ENGINE in reason):
        report.outcome = "failed"
        report.longrepr = f"KAIZEN_NO_SKIPS=1 allows no skip. {reason}"


@pytest.fixture(scope="session")
def processes() -> Iterator[WarmProcesses]:
    """Real processes that start warm: one server for all files, as its imports take longer than most tests."""
    from tests.loops import warm_processes

    with warm_processes() as found:
        yield found


@pytest.fixture(autouse=True)
def isolation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has its own working folder, MLflow store, DVC configuration, and Kedro project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for variable in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / ".dvc-of-the-user"))
    leading = ("KEDRO_ENV", "MLFLOW_REGISTRY_URI", "KAIZEN_FAULT", "KAIZEN_DATA_REMOTE")
    for variable in [name for name in os.environ if name.startswith(leading)]:
        monkeypatch.delenv(variable)
    path, modules = sys.path.copy(), sys.modules.copy()
    yield
    sys.path[:] = path
    _forget_project(tmp_path, modules)
    _forget_mlflow()


def _forget_project(folder: Path, before: dict[str, ModuleType]) -> None:
    """A Kedro project that a test made leaves its modules behind: the next one has the same package name."""
    # Thousands of modules are there after every test, few of them are new.
    new = [name for name, module in sys.modules.items() if before.get(name) is not module]
    for name in new:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(f"{folder}{os.sep}"):
            del sys.modules[name]


def _forget_mlflow() -> None:
    """MLflow keeps the tracking URI and the active run in the process."""
    if mlflow := sys.modules.get("mlflow"):
        while mlflow.active_run():
            mlflow.end_run()
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
