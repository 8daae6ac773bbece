"""What tests/conftest.py promises for every test, tried on a suite of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SKIPS = {
    "mark": '@pytest.mark.skip(reason="no GPU here")\ndef test_it(): ...',
    "condition": '@pytest.mark.skipif(True, reason="no GPU here")\ndef test_it(): ...',
    "call": 'def test_it(): pytest.skip("no GPU here")',
    "fixture": '@pytest.fixture\ndef gpu(): pytest.skip("no GPU here")\ndef test_it(gpu): ...',
    "module": 'pytest.skip("no GPU here", allow_module_level=True)',
    "import": 'pytest.importorskip("nowhere", reason="no GPU here")\ndef test_it(): ...',
}


def run_suite(root: Path, folder: Path, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """pytest over one test file under our conftest."""
    shutil.copy(root / "tests" / "conftest.py", folder)
    (folder / "test_it.py").write_text(f"import os, pathlib, sys\nimport pytest\n\n{text}\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)],
        env={**os.environ, "KAIZEN_NO_SKIPS": "0", **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("how", SKIPS)
def test_where_no_skip_is_allowed_a_skip_fails_with_its_reason(root: Path, tmp_path: Path, how: str) -> None:
    assert run_suite(root, tmp_path, SKIPS[how]).returncode in (0, 5)
    strict = run_suite(root, tmp_path, SKIPS[how], KAIZEN_NO_SKIPS="1")
    assert strict.returncode not in (0, 5)
    assert "KAIZEN_NO_SKIPS=1 allows no skip" in strict.stdout
    assert "no GPU here" in strict.stdout


def test_an_expected_failure_is_no_skip(root: Path, tmp_path: Path) -> None:
    text = '@pytest.mark.xfail(reason="known")\ndef test_it(): assert False'
    assert run_suite(root, tmp_path, text, KAIZEN_NO_SKIPS="1").returncode == 0


def test_no_test_reaches_the_caller_or_the_next_test(root: Path, tmp_path: Path) -> None:
    text = """
def project(name):
    pathlib.Path("package").mkdir()
    pathlib.Path("package/__init__.py").write_text(f"NAME = {name!r}")
    sys.path.insert(0, str(pathlib.Path.cwd()))
    import package
    return package.NAME

@pytest.mark.parametrize("name", ["one", "two"])
def test_it(name, tmp_path):
    assert pathlib.Path.cwd() == tmp_path
    assert str(tmp_path) in os.environ["MLFLOW_TRACKING_URI"]
    assert os.environ["KEDRO_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "1"
    assert "KEDRO_ENV" not in os.environ
    assert project(name) == name
"""
    done = run_suite(root, tmp_path, text, KEDRO_ENV="production", MLFLOW_TRACKING_URI="http://production")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
