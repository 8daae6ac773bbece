"""ingest: take what landed. The rules are in ``kaizen.ingest``."""

from __future__ import annotations

import logging

from kedro.pipeline import Pipeline, node

from kaizen.ingest import ingest
from kaizen.records import DataVersion
from kaizen.turn import preflight
from kedro_kaizen.project import ProjectLoop

_LOG = logging.getLogger(__name__)


def run(loop: ProjectLoop) -> list[DataVersion]:
    """Land every new file; what was added."""
    with loop.open() as opened:
        preflight(opened)
        return ingest(opened, tell=_LOG.warning)


def create_pipeline() -> Pipeline:
    """``kaizen_loop`` to ``kaizen_ingested``."""
    return Pipeline([node(run, "kaizen_loop", "kaizen_ingested", name="ingest")])
