"""The project's pipelines."""

from __future__ import annotations

from kedro.pipeline import Pipeline
from kedro_kaizen.pipelines import turn

from {{ cookiecutter.python_package }}.pipelines.training import create_pipeline


def register_pipelines() -> dict[str, Pipeline]:
    """`training` is ours; `kedro run` carries out a whole turn around it."""
    training = create_pipeline()
    return {"training": training, "__default__": turn.create_pipeline(training)}
