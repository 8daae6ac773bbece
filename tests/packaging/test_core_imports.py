"""The core can be imported with the standard library alone, and its command stays cheap to start."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {
    "airflow", "docker", "dvc", "great_expectations", "kedro", "mlflow", "numpy", "pandas", "pyarrow", "scipy", "skops",
    "sklearn", "sqlalchemy", "yaml",
}  # fmt: skip


def core_modules(root: Path) -> list[str]:
    """Every module of the core outside its adapters that an import does not run as a program."""
    files = (path.relative_to(root / "core") for path in (root / "core" / "kaizen").rglob("*.py"))
    kept = (file for file in files if "adapters" not in file.parts and file.name != "__main__.py")
    return sorted(".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in kept)


def loaded_after(root: Path, flags: list[str], *modules: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after importing ``modules``."""
    program = f"""
import importlib, json, sys
sys.path.insert(0, {str(root / "core")!r})
for name in {modules!r}:
    importlib.import_module(name)
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    done = subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_core_is_not_empty(root: Path) -> None:
    assert {"kaizen", "kaizen.errors", "kaizen.ledger", "kaizen.spec"} <= set(core_modules(root))


def test_every_core_module_imports_with_the_standard_library_alone(root: Path) -> None:
    assert "kaizen" in loaded_after(root, ["-I", "-S"], *core_modules(root))


def test_no_core_module_loads_a_library_that_is_installed(root: Path) -> None:
    """A guarded import (try, except ImportError) would pass the bare interpreter, and cost its seconds here."""
    assert loaded_after(root, ["-I"], *core_modules(root)) & HEAVY == set()


@pytest.mark.parametrize("module", ["kaizen.cli", "kaizen.bridge"])
def test_an_entry_point_loads_no_library(root: Path, module: str) -> None:
    assert loaded_after(root, ["-I"], module) & HEAVY == set()
