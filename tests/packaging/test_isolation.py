"""What tests/conftest.py promises for every test, tried on a suite of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SKIPS = (
    '@pytest.mark.skip(reason="no GPU here")\ndef test_it(): ...',
    '@pytest.mark.skipif(True, reason="no GPU here")\ndef test_it(): ...',
    'def test_it(): pytest.skip("no GPU here")',
    '@pytest.fixture\ndef gpu(): pytest.skip("no GPU here")\ndef test_it(gpu): ...',
    'pytest.skip("no GPU here", allow_module_level=True)',
    'pytest.importorskip("nowhere", reason="no GPU here")\ndef test_it(): ...',
)


def run_suite(root: Path, folder: Path, *texts: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """pytest over a test file of each text, under our conftest."""
    shutil.copy(root / "tests" / "conftest.py", folder)
    for number, text in enumerate(texts):
        (folder / f"test_{number}.py").write_text(f"import os, pathlib, sys\nimport pytest\n\n{text}\n")
    options = ["-ra", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--rootdir", str(folder)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder)],
        # The conftest names a plugin of this checkout.
        env={**os.environ, "PYTHONPATH": str(root), "KAIZEN_NO_SKIPS": "0", **environment},
        capture_output=True,
        text=True,
    )


def test_where_no_skip_is_allowed_each_skip_fails_with_its_reason(root: Path, tmp_path: Path) -> None:
    lenient = run_suite(root, tmp_path, *SKIPS)
    assert lenient.returncode in (0, 5)
    assert lenient.stdout.splitlines()[-1].strip("= ").startswith(f"{len(SKIPS)} skipped")
    strict = run_suite(root, tmp_path, *SKIPS, KAIZEN_NO_SKIPS="1")
    assert strict.returncode not in (0, 5)
    reasons = re.findall(r"^KAIZEN_NO_SKIPS=1 allows no skip\. Skipped: no GPU here$", strict.stdout, re.MULTILINE)
    assert len(reasons) == len(SKIPS)
    named = re.findall(r"^(?:FAILED|ERROR) test_(\d)\.py", strict.stdout, re.MULTILINE)
    assert sorted(map(int, named)) == list(range(len(SKIPS)))


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
