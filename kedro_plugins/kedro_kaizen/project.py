"""Which loop a Kedro session works on: the project's ``conf/base/kaizen.yml`` in the session's environment.

Imports the standard library only: it is loaded with every Kedro project that has the plugin installed.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaizen.loop import Loop
    from kaizen.runners import Training
    from kaizen.spec import Spec

SPEC = Path("conf/base/kaizen.yml")


@dataclass(frozen=True)
class ProjectLoop:
    """Where a loop is. Nodes get this, not an open loop: a ledger's connection does not travel between processes.

    Attributes:
        path: the spec's file. env: the overlay that goes on it.
    """

    path: Path
    env: str

    def open(self) -> AbstractContextManager[Loop]:
        """The loop, opened; see ``kaizen.loop.open_loop``."""
        from kaizen.loop import open_loop

        return open_loop(self.path, env=self.env)

    def spec(self) -> Spec:
        """The loop's spec. Raises ``SpecError``."""
        from kaizen.spec import load_spec

        return load_spec(self.path, self.env)

    def record_file(self, name: str) -> Path:
        """Where a node's newest record lies as a dataset: below the loop's home, one file per dataset."""
        from kaizen.loop import roots

        spec = self.spec()
        return roots(spec, self.path)[0] / "loops" / spec.loop / "kedro" / f"{name}.json"


def loop_of(project: Path, env: str | None) -> ProjectLoop:
    """The loop of a Kedro project in an environment (default: KAIZEN_ENV, else ``local``)."""
    return ProjectLoop(project / SPEC, env or os.environ.get("KAIZEN_ENV", "local"))


SESSION: ContextVar[ProjectLoop | None] = ContextVar("session", default=None)
"""The loop of the newest session's project. Kedro tells hooks of a session, but not ``register_pipelines``."""

TRAINING: ContextVar[Training | None] = ContextVar("training", default=None)
"""The training that ``runner.run_pipeline`` carries out at the moment."""


def session_loop() -> ProjectLoop:
    """The loop of the newest session's project; without a session that of the current folder."""
    return SESSION.get() or loop_of(Path.cwd(), None)
