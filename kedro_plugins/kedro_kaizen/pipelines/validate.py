"""validate: a verdict for every new partition. The rules are in ``kaizen.validate``."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from kaizen.records import ValidationReport
from kaizen.validate import validate
from kedro_kaizen.project import ProjectLoop


def run(loop: ProjectLoop, after: object) -> list[ValidationReport]:
    """Check every version that has no verdict; the reports that were added. ``after`` only orders."""
    with loop.open() as opened:
        return validate(opened)


def create_pipeline() -> Pipeline:
    """``kaizen_ingested`` to ``kaizen_validated``."""
    return Pipeline([node(run, ["kaizen_loop", "kaizen_ingested"], "kaizen_validated", name="validate")])
