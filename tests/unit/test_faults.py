"""What arms a fault point, and that a point armed by a file acts once, in one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kaizen
from kaizen.faults import fault_point

PASS = 'import sys; from kaizen.faults import fault_point; fault_point("a.point"); print("passed")'


def passing(armed: str) -> subprocess.Popen[str]:
    """A process that passes ``a.point``, armed so."""
    env = {**os.environ, "KAIZEN_FAULT": armed, "PYTHONPATH": str(Path(kaizen.__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-c", PASS], env=env, stdout=subprocess.PIPE, text=True)


def test_a_point_armed_by_a_file_kills_one_process_and_not_its_retry(tmp_path):
    file = tmp_path / "armed"
    file.write_text("a.point:kill\n")
    with passing(f"@{file}") as first:
        assert first.wait() == -signal.SIGKILL
    assert not file.exists()
    with passing(f"@{file}") as second:
        assert second.communicate()[0] == "passed\n"


def test_of_several_processes_one_takes_the_file(tmp_path):
    file = tmp_path / "armed"
    file.write_text("a.point:kill")
    processes = [passing(f"@{file}") for _ in range(4)]
    codes = sorted(process.wait() for process in processes)
    for process in processes:
        process.communicate()
    assert codes == [-signal.SIGKILL, 0, 0, 0]


def test_a_file_that_arms_another_point_is_left_alone(tmp_path, monkeypatch):
    file = tmp_path / "armed"
    file.write_text("another.point:raise")
    monkeypatch.setenv("KAIZEN_FAULT", f"@{file}")
    fault_point("a.point")
    assert file.read_text() == "another.point:raise"
    with pytest.raises(OSError, match=r"another\.point"):
        fault_point("another.point")
    fault_point("another.point")


def test_a_held_process_says_who_it_is_and_waits_to_be_let_go(tmp_path):
    file, held = tmp_path / "armed", tmp_path / "armed.held"
    file.write_text("a.point:hold")
    with passing(f"@{file}") as process:
        deadline = time.monotonic() + 60
        while not held.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert int(held.read_text()) == process.pid
        assert process.poll() is None
        held.unlink()
        assert process.communicate()[0] == "passed\n"
