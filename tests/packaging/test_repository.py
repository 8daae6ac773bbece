"""The house rules for what is committed."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# In pieces, so that this file does not contain them.
HOSTS = [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com")]
REGISTRIES = [".".join(host) for host in HOSTS]
REGISTRY = re.compile("|".join(re.escape(host) for host in REGISTRIES).encode())
FILES = ["LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "AGENTS.md", ".ci/run", "Makefile"]


def test_no_file_names_a_package_registry(tracked: list[Path], root: Path) -> None:
    """Where packages come from is for the reader's pip to know."""
    assert [str(path.relative_to(root)) for path in tracked if REGISTRY.search(path.read_bytes())] == []


@pytest.mark.parametrize("host", REGISTRIES)
def test_the_pattern_finds_each_registry(host: str) -> None:
    assert REGISTRY.search(f"index-url = https://{host}/simple".encode())


@pytest.mark.parametrize("name", FILES)
def test_a_newcomer_finds(root: Path, name: str) -> None:
    assert (root / name).read_text().strip()


def test_the_licence_is_the_one_that_the_metadata_names(root: Path) -> None:
    text = (root / "LICENSE").read_text()
    assert re.search(r"Apache License\s+Version 2\.0", text)
    assert "END OF TERMS AND CONDITIONS" in text


def test_make_without_a_target_lists_them_all(root: Path) -> None:
    text = subprocess.run(["make"], cwd=root, capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^  make ([\w-]+) +\w", text, re.MULTILINE)
    (targets,) = re.findall(r"^\.PHONY: (.+)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert {*listed, "python"} == set(targets.split())


def test_make_refuses_a_python_that_is_too_old(root: Path, tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.1 || exit 1\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "python", f"PYTHON={old}"], cwd=root, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Kaizen needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert "is Python 3.10.1" in done.stderr


@pytest.mark.parametrize(("name", "least"), [("dev", 100), ("oldest", 100), ("torch", 1)])
def test_constraints_are_exact_versions_and_nothing_else(root: Path, name: str, least: int) -> None:
    rows = (root / "constraints" / f"{name}.txt").read_text().splitlines()
    assert len(rows) >= least
    assert [row for row in rows if not re.match(r"[a-z0-9][a-z0-9-]*==[\w.]+( ; .+)?$", row)] == []


def test_the_shell_understands_the_ci_script(root: Path) -> None:
    assert (root / ".ci" / "run").stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", ".ci/run"], cwd=root).returncode == 0
