"""``kedro kaizen``: the real commands of ``kaizen``, on the project's spec."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from kedro_kaizen.cli import commands

SPEC = """
version: 1
loop: nyc/flights
problem: {task: regression, target: y, entity: [id], timestamp: at}
data: {tables: {rows: {uri: "landing/*.parquet", partition: month}}}
train: {runner: kedro, pipeline: training}
gates: [{metric: rmse, at_most: 1}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for env, text in {"base": SPEC, "prod": "environment: {home: ../../prod}\n", "broken": "lop: nyc/x\n"}.items():
        (tmp_path / "conf" / env).mkdir(parents=True)
        (tmp_path / "conf" / env / "kaizen.yml").write_text(text)
    return tmp_path


def kaizen(project: Path, *arguments: str) -> Result:
    return CliRunner().invoke(commands, ["kaizen", *arguments], obj=SimpleNamespace(project_path=project))


def test_group_adds_one_command_to_kedro() -> None:
    assert list(commands.commands) == ["kaizen"]


def test_importing_the_commands_loads_no_library(tmp_path: Path) -> None:
    code = "import click, json, sys; before = set(sys.modules); import kedro_kaizen.cli"
    code += "; print(json.dumps(sorted({n.split('.')[0] for n in set(sys.modules) - before})))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True, check=True)
    loaded = set(json.loads(ran.stdout))
    assert not loaded & {"kaizen", "kedro", "pandas", "sqlalchemy", "mlflow"}


def test_commands_run_on_the_projects_spec_from_any_folder(project: Path) -> None:
    told = kaizen(project, "turn", "--json")
    assert told.exit_code == 0, told.output
    assert (project / ".kaizen/ledger.db").is_file()
    assert "nyc/flights" in kaizen(project, "status").output
    shown = kaizen(project, "ledger", "show")
    assert shown.exit_code == 0
    assert "TriggerDecision" in shown.output


def test_rows_to_label_are_asked_for_on_the_projects_spec(project: Path) -> None:
    told = kaizen(project, "label", "queue", "--rows", "5")
    assert (told.exit_code, told.output[:14]) == (0, "nothing to ask")
    refused = kaizen(project, "label", "import", "--sheet", "labels.csv")
    assert (refused.exit_code, "KZ357" in refused.output) == (3, True)


def test_environment_is_kedros(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDRO_ENV", "prod")
    assert kaizen(project, "turn").exit_code == 0
    assert (project / "prod/ledger.db").is_file()
    assert not (project / ".kaizen").exists()


def test_environment_that_is_named_outranks_kedros(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDRO_ENV", "broken")
    assert kaizen(project, "status").exit_code == 3
    told = kaizen(project, "status", "--env=prod")
    assert told.exit_code == 5
    assert str(project / "prod/ledger.db") in told.output


def test_refusal_keeps_its_exit_code(project: Path) -> None:
    assert kaizen(project, "turn", "--env", "broken").exit_code == 3


def test_the_spec_goes_behind_the_action_of_image(project: Path) -> None:
    told = kaizen(project, "image", "build", "--tag", "flights:1")
    assert told.exit_code == 2
    assert f"KZ250: the project has no Dockerfile\n  where: {project}" in told.output
    assert "--network" in kaizen(project, "image", "build", "--help").output
    assert kaizen(project, "image").exit_code == 2


def test_help_is_that_of_kaizen(project: Path) -> None:
    told = kaizen(project, "turn", "--help")
    assert told.exit_code == 0
    assert "--because" in told.output
