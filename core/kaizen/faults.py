"""Fault points: named places where a test (or a user's own drill) makes the process die, raise or stall.

``KAIZEN_FAULT=name:kill|raise|delay|hold[:nth]`` arms one point; unset, a point costs one dictionary look-up. The tests
enumerate every ``fault_point("…")`` call in the source, so a new point without a test fails.

``KAIZEN_FAULT=@FILE`` reads ``name:action[:nth]`` from FILE whenever a point is passed, so that a service that runs
already can be drilled. The process that finds its point there takes FILE away before it acts, by one rename to
``FILE.taken``: it happens once, and not again to the retry. Without FILE nothing is armed. Write FILE under another
name and rename it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

_LOOK_SECONDS = 0.05

_seen: dict[str, int] = {}


def fault_point(name: str) -> None:
    """Do what ``KAIZEN_FAULT`` asks for at this point.

    ``kill``: SIGKILL. ``raise``: OSError. ``delay``: 1 s. ``hold`` (with ``@FILE`` only): write this process's id to
    ``FILE.held`` and wait until that file is gone.
    """
    armed = os.environ.get("KAIZEN_FAULT")
    if not armed:
        return
    file = Path(armed[1:]) if armed.startswith("@") else None
    target, action, *nth = _read(file) if file else armed.split(":")
    if target != name:
        return
    _seen[name] = _seen.get(name, 0) + 1
    if _seen[name] != int(nth[0] if nth else 1) or (file and not _take(file)):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise OSError(f"fault point {name}")
    elif action == "delay":
        time.sleep(1)
    elif action == "hold" and file:
        _hold(_beside(file, "held"))


def _read(file: Path) -> list[str]:
    """What is armed in ``file``; nothing if another process has taken it away."""
    try:
        return file.read_text(encoding="utf-8").strip().split(":")
    except FileNotFoundError:
        return ["", ""]


def _take(file: Path) -> bool:
    """Whether it is this process that takes ``file`` away."""
    try:
        file.rename(_beside(file, "taken"))
    except FileNotFoundError:
        return False
    return True


def _hold(held: Path) -> None:
    draft = _beside(held, "draft")
    draft.write_text(str(os.getpid()), encoding="utf-8")
    draft.rename(held)
    while held.exists():
        time.sleep(_LOOK_SECONDS)


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(f"{file.name}.{suffix}")
