"""Kedro projects for tests: made by the starter, run by commands in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

import yaml

_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(
    [
        "great_expectations",
        "kedro.framework.cli.cli",
        "kedro_kaizen.pipelines.turn",
        "mlflow.models",
        "mlflow.sklearn",
        "pandas",
        "pyarrow.parquet",
        "sklearn.ensemble",
        "skops.io",
        "kaizen.adapters.dvc_repository",
        "kaizen.adapters.great_expectations_suite",
        "kaizen.adapters.mlflow_registry",
        "kaizen.adapters.place",
        "kaizen.adapters.sql_databases",
        "kaizen.cli",
    ]
)

Ended = subprocess.CompletedProcess[str]
"""``stdout`` holds both streams."""


def call(folder: Path, *command: str, typed: str | None = None) -> Ended:
    """Run ``python -m COMMAND`` in ``folder`` as a person would, whose shell names no loop, server or path."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=_environment(),
        input=typed,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


def call_warm(folder: Path, *command: str, **variables: str) -> Ended:
    """``call`` in a process that has imported the libraries already, with some more variables."""
    output = folder / "output.txt"
    process = _WARM.Process(target=_run_module, args=(folder, command, _environment() | variables, output))
    process.start()
    process.join()
    return Ended(command, int(process.exitcode or 0), output.read_text(encoding="utf-8"))


def new_project(folder: Path, name: str, *, repository: str, package: str) -> Path:
    """``kedro new`` from the starter, without a question; the project's folder."""
    answers = {"project_name": name, "repo_name": repository, "python_package": package, "output_dir": str(folder)}
    (folder / "answers.yml").write_text(yaml.safe_dump(answers))
    succeed(call(folder, "kedro", "new", "--starter=kaizen-flights", "--config", "answers.yml"))
    return folder / repository


def succeed(ended: Ended) -> None:
    """Fail with what the command said, unless it succeeded."""
    assert ended.returncode == 0, ended.stdout


def _environment() -> dict[str, str]:
    named = ("KAIZEN_", "KEDRO_ENV", "MLFLOW_TRACKING_URI", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if not name.startswith(named)}


def _run_module(folder: Path, command: tuple[str, ...], variables: dict[str, str], output: Path) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
