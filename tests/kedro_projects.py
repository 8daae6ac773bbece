"""Kedro projects for tests: made by the starter, run by commands in processes of their own."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import yaml
from tests.loops import WarmProcesses

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


def call_warm(processes: WarmProcesses, folder: Path, *command: str, **variables: str) -> Ended:
    """``call`` in a process that has imported most libraries already, with some more variables."""
    arguments = (str(folder), command, _environment() | variables)
    ended = processes.start("tests.kedro_projects:run_module", *arguments).wait()
    return Ended(command, ended.code, ended.out + ended.err)


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


def run_module(folder: str, command: list[str], variables: dict[str, str]) -> None:
    """What ``python -m COMMAND`` does in ``folder``, with these variables and no others."""
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
