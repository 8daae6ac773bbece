"""The whole turn as one pipeline: ``kedro run`` does what is due and carries out a person's wish to retrain.

The order is that of ``kaizen.turn.advance``. Between nodes pass the records that stages leave (``kaizen_*``) and the
names that order them; data and models stay where they are stored.
"""

from __future__ import annotations

from typing import Any

from kedro.pipeline import Pipeline

from kedro_kaizen.datasets import RecordDataset
from kedro_kaizen.pipelines import deploy, evaluate, ingest, monitor, promote, score, train, trigger, validate
from kedro_kaizen.pipelines.train import trains_in_process
from kedro_kaizen.project import SESSION, ProjectLoop


def create_pipeline(training: Pipeline) -> Pipeline:
    """Compose a turn around the project's ``training``, a pipeline from ``examples`` to ``model``.

    Where the project's nodes run is the session's environment's ``place``; outside a session (``kedro registry``) the
    pipeline is that of a training in this process.

    Raises:
        SpecError: the spec cannot be read; KZ331: ``training`` lacks ``examples`` or ``model``.
    """
    return Pipeline(
        [
            ingest.create_pipeline(),
            validate.create_pipeline(),
            score.create_pipeline("kaizen_validated", "kaizen_scored_before", "score_before"),
            monitor.create_pipeline("kaizen_scored_before", "kaizen_health_before", "monitor_before"),
            trigger.create_pipeline("kaizen_health_before"),
            train.create_pipeline(training, in_process=_trains_in_process()),
            evaluate.create_pipeline(),
            promote.create_pipeline(),
            deploy.create_pipeline(),
            score.create_pipeline("kaizen_turn"),
            monitor.create_pipeline(),
        ]
    )


def _trains_in_process() -> bool:
    session = SESSION.get()
    # In an image there is no spec: it comes with each request.
    if session is None or not session.path.is_file():
        return True
    return trains_in_process(session.spec())


def add_datasets(loop: ProjectLoop, pipeline: Pipeline, catalog: Any) -> None:
    """Put ``kaizen_loop``, and the records that the project's catalog does not declare itself, into ``catalog``.

    Records lie in the loop's home, so that single nodes can be run again (``kedro run --from-nodes``).
    """
    declared = set(catalog)
    catalog["kaizen_loop"] = loop
    for name in sorted(pipeline.datasets() - declared - {"kaizen_loop"}):
        if name.startswith("kaizen_"):
            catalog[name] = RecordDataset(filepath=loop.record_file(name.removeprefix("kaizen_")))
