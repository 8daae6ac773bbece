"""Install the wheel into a clean environment, as a user would, and use it: ``smoke.py WHEEL core|kedro|all``.

Needs nothing but the standard library, so that any supported Python can run it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints" / "dev.txt"
STARTER = "kaizen-flights"
# What must not come along: the core is for machines that have none of it.
HEAVY = {"core": ("dvc", "great_expectations", "kedro", "mlflow", "numpy", "pandas"), "kedro": ("mlflow", "dvc")}


class Environment:
    """A virtual environment with the wheel in it."""

    def __init__(self, folder: Path, wheel: Path, extra: str) -> None:
        self.bin, self.folder = folder / "env" / "bin", folder
        venv.create(folder / "env", with_pip=True)
        wanted = str(wheel) if extra == "core" else f"{wheel}[{extra}]"
        self.run("python", "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS), wanted)
        self.run("python", "-m", "pip", "check")

    def run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        """The standard output of one of the environment's programs; its failure ends the smoke test."""
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=cwd or self.folder,
            env={**clean, "PATH": f"{self.bin}:{os.environ['PATH']}", "KEDRO_DISABLE_TELEMETRY": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{program} {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def modules(self, *names: str) -> list[str]:
        """Those of ``names`` that could be imported."""
        found = f"import importlib.util as u, json; print(json.dumps([n for n in {names} if u.find_spec(n)]))"
        return [str(name) for name in json.loads(self.run("python", "-I", "-c", found))]


def smoke_core(environment: Environment) -> None:
    """The command answers; so does every entry point that the wheel promises to a bare machine."""
    assert "backtest" in environment.run("kaizen", "--help")
    environment.run("python", "-I", "-c", "from kaizen.runners import run_callable; import kaizen.bridge")


def smoke_kedro(environment: Environment) -> None:
    """Kedro sees the plugin, and the starter in the wheel makes a project that keeps its empty folders."""
    assert STARTER in environment.run("kedro", "starter", "list")
    config = environment.folder / "config.yml"
    config.write_text("project_name: Flights\nrepo_name: flights\npython_package: flights\n")
    environment.run("kedro", "new", f"--starter={STARTER}", "--config", str(config), "--telemetry", "no")
    project = environment.folder / "flights"
    assert (project / "conf" / "local").is_dir(), f"{STARTER} has lost conf/local"
    assert "kaizen" in environment.run("kedro", "--help", cwd=project)


def smoke_all(environment: Environment) -> None:
    """A new project's pipelines can be loaded with everything that [all] brings."""
    smoke_kedro(environment)
    assert "train" in environment.run("kedro", "registry", "list", cwd=environment.folder / "flights")


SMOKE = {"core": (smoke_core,), "kedro": (smoke_core, smoke_kedro), "all": (smoke_core, smoke_all)}


def main(wheel: str, extra: str) -> None:
    """Install and use; the first thing that does not hold ends the program with its reason."""
    with tempfile.TemporaryDirectory(prefix="kaizen-smoke-") as folder:
        environment = Environment(Path(folder), Path(wheel).resolve(), extra)
        unwanted = environment.modules(*HEAVY.get(extra, ()))
        if unwanted:
            sys.exit(f"[{extra}] brings {', '.join(unwanted)}")
        for use in SMOKE[extra]:
            use(environment)
    print(f"smoke: the wheel works in a clean environment ({extra})")


if __name__ == "__main__":
    main(*sys.argv[1:])
