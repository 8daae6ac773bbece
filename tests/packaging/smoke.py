"""Install the wheel into a clean environment, as a user would, and use it: ``smoke.py WHEEL core|airflow|kedro|all``.

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
AIRFLOW_COMMANDS = (
    "providers list",
    "providers hooks --output yaml",
    "providers links --output yaml",
    "config get-value kaizen landing_poll",
)
SPEC = """
version: 1
loop: shop/returns
problem: {task: classification, target: returned, entity: [order_id], timestamp: ordered_at}
data: {tables: {orders: {uri: "landing/*.parquet", partition: day}}}
train: {runner: callable, function: "shop.model:train"}
gates: [{metric: roc_auc, at_least: 0.6}]
"""
# What must not come along: the core is for machines that have none of it.
HEAVY = {
    "core": ("airflow", "dvc", "great_expectations", "kedro", "mlflow", "numpy", "pandas"),
    "airflow": ("dvc", "great_expectations", "kedro", "mlflow", "numpy", "pandas", "sklearn"),
    "kedro": ("airflow", "mlflow", "dvc"),
}


class Environment:
    """A virtual environment with the wheel in it."""

    def __init__(self, folder: Path, wheel: Path, extra: str) -> None:
        self.bin, self.folder = folder / "env" / "bin", folder
        self.settings = {
            "KEDRO_DISABLE_TELEMETRY": "1",
            "COLUMNS": "200",
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }
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
            env={**clean, "PATH": f"{self.bin}:{os.environ['PATH']}", **self.settings},
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


def smoke_airflow(environment: Environment) -> None:
    """Airflow lists the provider, its connection type, links and settings, and parses a loop's DAGs."""
    airflow = {command: environment.run("airflow", *command.split()) for command in AIRFLOW_COMMANDS}
    assert "kaizen-mlops" in airflow["providers list"]
    assert "kaizen_airflow.hooks.kaizen.KaizenHook" in airflow["providers hooks --output yaml"]
    assert "kaizen_airflow.links.stage.ReportLink" in airflow["providers links --output yaml"]
    assert airflow["config get-value kaizen landing_poll"].split()[-1] == "5.0"
    spec = environment.folder / "kaizen.yml"
    spec.write_text(SPEC)
    parsed = f"from kaizen_airflow import TrainingDag; print(TrainingDag({str(spec)!r}).dag_id)"
    assert environment.run("python", "-c", parsed).split()[-1] == "shop.returns_training"


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


SMOKE = {
    "core": (smoke_core,),
    "airflow": (smoke_core, smoke_airflow),
    "kedro": (smoke_core, smoke_kedro),
    "all": (smoke_core, smoke_airflow, smoke_all),
}


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
