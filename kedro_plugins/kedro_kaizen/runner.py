"""The entry point ``kedro`` of ``kaizen.runners``: a project's registered pipeline, from ``examples`` to ``model``."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kaizen.codec import nearest
from kaizen.errors import SpecError
from kaizen.runners import check_validation, not_taken
from kedro_kaizen.project import SESSION, TRAINING, loop_of

if TYPE_CHECKING:
    from kedro.pipeline import Pipeline

    from kaizen.runners import Training


def run_pipeline(training: Training) -> Any:
    """Run ``training.spec.pipeline`` of the project in a session of its own and return what it calls ``model``.

    The pipeline's free input ``examples`` is ``training.examples``, n rows of features and the target; free inputs
    ``checkpoints``, ``report`` and ``validation`` are the training's; parameters and other datasets are the project's,
    in the environment ``training.env``, but for the parameters that a search chose.

    Raises:
        SpecError: KZ318 it has no parameter that is searched, KZ330 no such pipeline, KZ331 it does not take examples
            or leave a model, KZ332 no Kedro project, KZ333 no settings for this environment, KZ350 rows for validation
            are not taken, or not there.
    """
    os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "1")
    with logging_left_alone():
        from kedro.config import MissingConfigException

    own = loop_of(training.project, training.env)
    # Not the loop of another project's session in this process: the pipelines that are opened now depend on it.
    opened = SESSION.set(own if own.path.is_file() else None)
    token = TRAINING.set(training)
    try:
        with logging_left_alone():
            _open_project(training)
        from kedro.framework.session import KedroSession

        searched = nested(training.parameters)
        session = KedroSession.create(training.project, env=training.env, runtime_params=searched)
        with _runs_closed(), session:
            return session.run(pipeline_names=[training.spec.pipeline])["model"].load()
    except MissingConfigException as error:
        raise SpecError(
            "KZ333",
            "Kedro lacks settings for this environment",
            where=f"train, environment {training.env}",
            value=str(error),
            limit=f"conf/{training.env} is a folder; it may be empty",
            action="make the folder, or choose another environment with --env",
        ) from error
    finally:
        TRAINING.reset(token)
        SESSION.reset(opened)


def check_training(pipeline: Pipeline, name: str) -> None:
    """Refuse a training pipeline without the free input ``examples`` or output ``model``: ``SpecError`` KZ331."""
    missing = [
        f"{role} {dataset}"
        for role, dataset, found in (
            ("input", "examples", pipeline.inputs()),
            ("output", "model", pipeline.outputs()),
        )
        if dataset not in found
    ]
    if missing:
        raise SpecError(
            "KZ331",
            "pipeline cannot be used for training",
            where=f"pipeline {name}",
            value=f"no free {' and no free '.join(missing)}",
            limit="takes `examples` (the rows, with their label) and leaves `model` (fitted)",
            action="name the first node's input `examples` and the last one's output `model`",
        )


def _open_project(training: Training) -> None:
    """Make the project this process's Kedro project, and check that it can train."""
    from kedro.framework.project import pipelines
    from kedro.framework.startup import bootstrap_project
    from kedro.utils import is_kedro_project

    name = training.spec.pipeline
    if not is_kedro_project(training.project):
        raise SpecError(
            "KZ332",
            "not a Kedro project",
            where="train.runner",
            value=str(training.project),
            limit="a folder whose pyproject.toml has [tool.kedro]",
            action="put kaizen.yml into conf/base of a Kedro project, or use `runner: callable`",
        )
    bootstrap_project(training.project)
    if name not in pipelines:
        hint = nearest(name, pipelines)
        raise SpecError(
            "KZ330",
            "pipeline is not registered",
            where="train.pipeline",
            value=name,
            limit="one of " + ", ".join(sorted(pipelines)),
            action=f"did you mean {hint!r}?" if hint else "register it in pipeline_registry.py",
        )
    check_training(pipelines[name], name)
    taken = "validation" in pipelines[name].inputs()
    check_validation(training, f"train.pipeline: {name}", taken=taken, needed=taken)
    _check_parameters(pipelines[name], name, training.parameters)


def _check_parameters(pipeline: Pipeline, name: str, parameters: Mapping[str, Any]) -> None:
    """Refuse (``SpecError`` KZ318) a parameter if neither it nor what it is part of goes into ``pipeline``."""
    free = pipeline.inputs()
    taken = sorted(dataset.removeprefix("params:") for dataset in free if dataset.startswith("params:"))

    def is_taken(parameter: str) -> bool:
        return any(f"{parameter}.".startswith(f"{t}.") or t.startswith(f"{parameter}.") for t in taken)

    unknown = [parameter for parameter in parameters if not is_taken(parameter)]
    if unknown and "parameters" not in free:
        raise not_taken(f"train.pipeline: {name}", unknown, taken)


def nested(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """``{"model.depth": 3}`` as ``{"model": {"depth": 3}}``, the form in which a session takes them."""
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        *parents, last = name.split(".")
        inner = found
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return found


@contextmanager
def logging_left_alone() -> Iterator[None]:
    """Undo what importing Kedro, and opening a project, do to the process: a console handler on the root logger."""
    root = logging.getLogger()
    handlers, disabled, hook, shown = root.handlers[:], root.manager.disable, sys.excepthook, warnings.showwarning
    # Kedro says at once where its console handler was configured from.
    logging.disable(max(disabled, logging.INFO))
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        sys.excepthook = hook
        if warnings.showwarning is not shown:
            logging.captureWarnings(False)


@contextmanager
def _runs_closed() -> Iterator[None]:
    """End the MLflow runs that a project's own hooks leave open; one that was open before stays."""
    before = _active_run()
    try:
        yield
    finally:
        while (run := _active_run()) and run != before:
            sys.modules["mlflow"].end_run()


def _active_run() -> str | None:
    mlflow = sys.modules.get("mlflow")
    run = mlflow.active_run() if mlflow else None
    return run.info.run_id if run else None
