"""Where a task's time goes: how much of it was spent importing libraries, and how much was work."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


@dataclass
class Spent:
    """Seconds of one block: ``imports`` of modules that were not loaded yet, ``work`` all the rest."""

    imports: float = 0.0
    work: float = 0.0


@contextmanager
def measured() -> Iterator[Spent]:
    """Measure the block; the numbers are there when it has ended, also by an exception."""
    spent, began = Spent(), time.monotonic()
    clock = _ImportClock()
    sys.meta_path.insert(0, clock)
    try:
        yield spent
    finally:
        sys.meta_path.remove(clock)
        spent.imports = clock.seconds
        spent.work = time.monotonic() - began - clock.seconds


class _ImportClock:
    """A finder that finds what Python finds, and times what the outermost module takes to load."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            # The loader is this module's own object, so nobody else sees the change.
            self._time(spec.loader)
        return spec

    def _time(self, loader: Any) -> None:
        load = loader.exec_module

        def timed(module: ModuleType) -> None:
            began = time.monotonic()
            self._depth += 1
            try:
                load(module)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += time.monotonic() - began

        loader.exec_module = timed
