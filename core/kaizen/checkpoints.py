"""Checkpoints: what a long training saves on its way, so that the next attempt at it goes on instead of beginning anew.

Each is published as a folder with a manifest; one that was torn while it was saved, or damaged since, is not found.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kaizen.canonical import digest
from kaizen.errors import IntegrityError
from kaizen.faults import fault_point
from kaizen.publish import MANIFEST, build_manifest, seal_folder, verify_folder

_NAME = re.compile(r"step-(\d{12})")


@dataclass(frozen=True)
class Checkpoint:
    """A good one: the step after which it was saved, and the folder that ``write`` filled."""

    step: int
    folder: Path


class Checkpoints:
    """The checkpoints of one training, in a folder that outlives the attempts at it.

    Args:
        folder: made when the first is saved. keep: how many stay; the older are removed when another one is safe.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, write: Callable[[Path], object]) -> Checkpoint:
        """Let ``write`` fill an empty folder, and keep it as the state after ``step`` (0 or more), durable.

        Saving a step again replaces it. Raises what ``write`` raises; then the ones before are what there is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for torn in self.folder.glob(".draft-*"):
            shutil.rmtree(torn, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=self.folder))
        write(draft)
        seal_folder(draft, build_manifest(draft))
        target = self.folder / f"step-{step:012}"
        if target.exists():
            target.replace(draft.with_name(f"{draft.name}-old"))
        fault_point("checkpoints.before_rename")
        draft.replace(target)
        self._drop_old()
        return Checkpoint(step, target)

    def latest(self) -> Checkpoint | None:
        """The newest good one; None if there is none to go on from."""
        for step, folder in reversed(self._named()):
            try:
                manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
                verify_folder(folder, digest(manifest))
            except (OSError, ValueError, IntegrityError):
                continue
            return Checkpoint(step, folder)
        return None

    def _named(self) -> list[tuple[int, Path]]:
        found = [(match, path) for path in self.folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
        return sorted((int(match[1]), path) for match, path in found)

    def _drop_old(self) -> None:
        for _, folder in self._named()[: -self.keep]:
            shutil.rmtree(folder, ignore_errors=True)
