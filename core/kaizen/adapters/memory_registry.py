"""The ``Registry`` port in memory: the twin of MLflow for tests, a user's tests included."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Literal

from kaizen.adapters.mlflow_model import require_folder
from kaizen.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kaizen.ports import Run


@dataclass
class MemoryRun:
    """A run of the tree. ``run`` is what was logged; None for the parent run of a turn."""

    loop: str
    turn: str
    parent: str | None = None
    run: Run | None = None
    status: Literal["RUNNING", "FINISHED", "FAILED"] = "RUNNING"


@dataclass(frozen=True)
class MemoryVersion:
    """A model version; its number is its place in ``MemoryRegistry.models[name]``, counted from 1."""

    model: Path
    digest: str
    run_id: str
    tags: Mapping[str, str]


@dataclass
class MemoryRegistry:
    """Everything that was logged and registered, open to assertions.

    Attributes:
        runs: by run id. models: versions by model name, oldest first. aliases: version by (model name, alias).
    """

    runs: dict[str, MemoryRun] = field(default_factory=dict)
    models: dict[str, list[MemoryVersion]] = field(default_factory=dict)
    aliases: dict[tuple[str, str], int] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def open_turn(self, loop: str, turn: str) -> str:
        run_id = f"{loop}/{turn}"
        self.runs.setdefault(run_id, MemoryRun(loop, turn))
        return run_id

    def page(self, loop: str, turn: str) -> str:
        return ""

    def log_stage(self, loop: str, turn: str, run: Run) -> str:
        parent = self.open_turn(loop, turn)
        if run.parent:
            parent = f"{parent}/{run.parent}"
            self.runs.setdefault(parent, MemoryRun(loop, turn, self.open_turn(loop, turn)))
        run_id = f"{parent}/{run.stage}"
        if (found := self.runs.get(run_id)) is None or found.status != "FINISHED":
            self.runs[run_id] = MemoryRun(loop, turn, parent, run, "FINISHED")
        return run_id

    def close_turn(self, loop: str, turn: str, *, failed: bool = False) -> None:
        self.runs[self.open_turn(loop, turn)].status = "FAILED" if failed else "FINISHED"

    def register(self, name: str, model: Path, digest: str, *, run_id: str, tags: Mapping[str, str]) -> int:
        require_folder(model)
        if run_id not in self.runs:
            raise _refused(f"register {name}", f"no run {run_id}", "the id of a stage's run")
        with self._lock:
            versions = self.models.setdefault(name, [])
            known = [version.digest for version in versions]
            if digest not in known:
                versions.append(MemoryVersion(model, digest, run_id, dict(tags)))
                known.append(digest)
            return known.index(digest) + 1

    def set_alias(self, name: str, alias: str, version: int | None) -> None:
        if version is None:
            self.aliases.pop((name, alias), None)
        elif 1 <= version <= len(self.models.get(name, ())):
            self.aliases[name, alias] = version
        else:
            raise _refused(f"set alias {alias} of {name}", f"no version {version}", "a version that is registered")

    def alias(self, name: str, alias: str) -> int | None:
        return self.aliases.get((name, alias))


def _refused(what: str, value: str, limit: str) -> RegistryError:
    action = "correct the call; nothing was written"
    return RegistryError(
        "KZ802", f"the registry refused to {what}", where="memory", value=value, limit=limit, action=action
    )
