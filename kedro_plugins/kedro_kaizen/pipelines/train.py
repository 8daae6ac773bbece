"""train: the project's own nodes, in the namespace ``train``, between two of Kaizen's.

The rules are in ``kaizen.train``. In a place other than this process the namespace is one node, ``train``, which runs
the same training over there.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kedro.pipeline import Pipeline, node

from kaizen.errors import UsageError
from kaizen.records import TrainedModel, TrainingSet, TriggerDecision
from kaizen.runners import check_validation
from kaizen.spec import PlaceSpec, Spec
from kaizen.train import find_candidate, keep_candidate, train, training_request, training_set
from kaizen.trigger import turn_id
from kedro_kaizen.project import ProjectLoop
from kedro_kaizen.runner import check_training

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from kaizen.loop import Loop
    from kaizen.runners import Training


def run(loop: ProjectLoop, decision: TriggerDecision) -> tuple[TrainingSet, TrainedModel]:
    """Choose the training set and train on it in the loop's place."""
    with loop.open() as opened:
        _check_place(opened, in_process=False)
        if opened.spec.place.mode == "in_process":
            # Each trial runs the project's nodes in a session of its own, and there is none within a node.
            opened.spec = replace(opened.spec, place=PlaceSpec("python", interpreter=sys.executable))
        examples = training_set(opened)
        return examples, train(opened, examples, decision, turn_id(decision))


def open_examples(loop: ProjectLoop, decision: TriggerDecision) -> tuple[TrainingSet, pd.DataFrame]:
    """Choose the training set and read it: n rows of features and the label, for the project's nodes."""
    examples, training = _open(loop, decision, ())
    return examples, training.examples


def opening(asked: Sequence[str]) -> Callable[[ProjectLoop, TriggerDecision], tuple[Any, ...]]:
    """``open_examples`` that also leaves what the project's nodes ask for: the training's attributes by these names."""

    def open_more(loop: ProjectLoop, decision: TriggerDecision) -> tuple[Any, ...]:
        examples, training = _open(loop, decision, asked)
        return (examples, training.examples, *(getattr(training, name) for name in asked))

    return open_more


def _open(loop: ProjectLoop, decision: TriggerDecision, asked: Sequence[str]) -> tuple[TrainingSet, Training]:
    from kaizen.adapters.place import open_training

    with loop.open() as opened:
        _check_place(opened, in_process=True)
        examples = training_set(opened)
        training = open_training(training_request(opened, examples, turn_id(decision)))
        check_validation(training, "the project's training", taken=(taken := "validation" in asked), needed=taken)
        return examples, training


def close_model(
    loop: ProjectLoop, decision: TriggerDecision, examples: TrainingSet, rows: pd.DataFrame, model: Any
) -> TrainedModel:
    """Package the model that the project's nodes left and keep it. A retry finds the model that is there."""
    from kaizen.adapters.place import close_training
    from kaizen.runners import Training

    with loop.open() as opened:
        spec, turn = opened.spec, turn_id(decision)
        if found := find_candidate(opened, examples, decision, turn):
            return found
        training = Training(rows, spec.problem.target, spec.train, opened.project, opened.env)
        outputs = close_training(training_request(opened, examples, turn), training, model)
        return keep_candidate(opened, examples, decision, turn, outputs)


def create_pipeline(training: Pipeline, *, in_process: bool) -> Pipeline:
    """``kaizen_decision`` to ``kaizen_training_set`` and ``kaizen_candidate``, through the project's ``training``.

    Its free input ``examples`` becomes ``train.examples``, its free output ``model`` ``train.model``, and so do free
    inputs ``checkpoints``, ``report`` and ``validation``; parameters and other datasets keep their names. Raises
    ``SpecError`` (KZ331) if it lacks one of the two.
    """
    check_training(training, "training")
    if not in_process:
        leaves = ["kaizen_training_set", "kaizen_candidate"]
        return Pipeline([node(run, ["kaizen_loop", "kaizen_decision"], leaves, name="train")])
    asked = [name for name in ("checkpoints", "report", "validation") if name in training.inputs()]
    given = {name: f"train.{name}" for name in ("examples", *asked)}
    own = Pipeline(
        training,
        namespace="train",
        inputs=given,
        outputs={"model": "train.model"},
        prefix_datasets_with_namespace=False,
    )
    before = node(
        opening(asked) if asked else open_examples,
        ["kaizen_loop", "kaizen_decision"],
        ["kaizen_training_set", *given.values()],
        name="open",
        namespace="train",
    )
    after = node(
        close_model,
        ["kaizen_loop", "kaizen_decision", "kaizen_training_set", "train.examples", "train.model"],
        "kaizen_candidate",
        name="close",
        namespace="train",
    )
    return Pipeline([before, own, after])


def trains_in_process(spec: Spec) -> bool:
    """Whether the project's nodes are nodes of the turn's pipeline; a search runs them many times, elsewhere."""
    return spec.place.mode == "in_process" and spec.tune is None


def _check_place(loop: Loop, *, in_process: bool) -> None:
    mode = loop.spec.place.mode
    if trains_in_process(loop.spec) is not in_process:
        raise UsageError(
            "KZ230",
            "pipelines were made for another place",
            where="place.mode",
            value=mode,
            limit="in_process without tune" if in_process else "another place than this process, or tune",
            action="open the project again (`bootstrap_project`) before a session in another environment",
        )
