"""score: the champion predicts what is new to it. The rules are in ``kaizen.score``."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from kaizen.records import ScoredBatch
from kaizen.score import score
from kedro_kaizen.project import ProjectLoop


def run(loop: ProjectLoop, after: object) -> list[ScoredBatch]:
    """Score every partition that is due; the batches that were added. ``after`` only orders."""
    with loop.open() as opened:
        return score(opened)


def create_pipeline(after: str = "kaizen_validated", leaves: str = "kaizen_scored", name: str = "score") -> Pipeline:
    """Dataset ``after`` to dataset ``leaves``: a turn scores twice, with the champion before and after it."""
    return Pipeline([node(run, ["kaizen_loop", after], leaves, name=name)])
