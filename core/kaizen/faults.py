"""Fault points: named places where a test (or a user's own drill) makes the process die, raise or stall.

``KAIZEN_FAULT=name:kill|raise|delay[:nth]`` arms one point; unset, a point costs one dictionary look-up. The tests
enumerate every ``fault_point("…")`` call in the source, so a new point without a test fails.
"""

from __future__ import annotations

import os
import signal
import time

_seen: dict[str, int] = {}


def fault_point(name: str) -> None:
    """Do what ``KAIZEN_FAULT`` asks for at this point: ``kill`` (SIGKILL), ``raise`` (OSError) or ``delay`` (1 s)."""
    armed = os.environ.get("KAIZEN_FAULT")
    if not armed:
        return
    target, action, *nth = armed.split(":")
    if target != name:
        return
    _seen[name] = _seen.get(name, 0) + 1
    if _seen[name] != int(nth[0] if nth else 1):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise OSError(f"fault point {name}")
    elif action == "delay":
        time.sleep(1)
