"""`examples` -> `model`: what the loop calls when it retrains."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from .nodes import fit


def create_pipeline(**kwargs: object) -> Pipeline:
    return Pipeline([node(fit, inputs=["examples", "params:training"], outputs="model", name="fit")])
