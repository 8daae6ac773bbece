"""The arrows between the layers hold, and the check that holds them can fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("core", "kedro_plugins", "providers")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter over the packages of ``folder``, which go before any installed ones."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([f"{folder}/{name}" for name in PACKAGES])},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """The checkout's packages, free to be spoiled."""
    for name in PACKAGES:
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_layers_of_the_checkout_hold(root: Path) -> None:
    done = lint_imports(root)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract", "arrow"),
    [
        ("kaizen.clock", "import pandas", "The core needs no library", "kaizen.clock -> pandas"),
        ("kaizen.clock", "def f():\n    import mlflow.sklearn", "The core needs no library", "kaizen.clock -> mlflow"),
        ("kaizen.clock", "import yaml", "The core needs no library", "kaizen.clock -> yaml"),
        ("kaizen.clock", "import kedro_kaizen", "The core does not know its faces", "kaizen.clock -> kedro_kaizen"),
        ("kaizen.promote", "import kaizen.turn", "Turns over stages", "kaizen.promote -> kaizen.turn"),
        ("kaizen.statistics", "import kaizen.ledger", "Turns over stages", "kaizen.statistics -> kaizen.ledger"),
        ("kedro_kaizen.hooks", "import airflow.sdk", "The Kedro face", "kedro_kaizen.hooks -> airflow"),
        ("kedro_kaizen.hooks", "import kaizen_airflow", "The Kedro face", "kedro_kaizen.hooks -> kaizen_airflow"),
        ("kaizen_airflow.assets", "import kedro_kaizen", "The Airflow face", "kaizen_airflow.assets -> kedro_kaizen"),
        ("kaizen_airflow.assets", "import mlflow.sklearn", "The Airflow face", "kaizen_airflow.assets -> mlflow"),
    ],
)
def test_an_import_against_the_arrows_is_refused(copy: Path, module: str, line: str, contract: str, arrow: str) -> None:
    (source,) = copy.glob(f"*/{module.replace('.', '/')}.py")
    with source.open("a") as stream:
        stream.write(f"\n{line}\n")
    done = lint_imports(copy)
    assert done.returncode == 1
    assert [row for row in done.stdout.splitlines() if row.startswith(contract) and " BROKEN" in row]
    assert re.search(rf"^- +{arrow} \(l\.", done.stdout, re.MULTILINE)
