"""train: choose the training set, run the user's training in the place, keep the candidate.

The gate's rows are the newest labelled window; training ends where it begins, so no compared model has seen them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaizen import codec
from kaizen.bridge import Request
from kaizen.calendar import bounds
from kaizen.canonical import digest
from kaizen.errors import DataRefused
from kaizen.faults import fault_point
from kaizen.loop import Loop
from kaizen.ports import Run
from kaizen.records import Environment, Input, TrainedModel, TrainingSet, TriggerDecision, Window
from kaizen.spec import train_partitions
from kaizen.tune import find_parameters, require_optuna
from kaizen.windows import acceptance_set, refuse_seen


def training_set(loop: Loop) -> TrainingSet:
    """What a training now may see: labelled partitions, and the window that ends at the gate's.

    Raises ``DataRefused``: KZ423 too few labelled partitions, KZ421 labels of one class only, KZ429 the champion has
    seen rows of the gate's window, KZ491 no acceptance set yet.
    """
    spec, labelled = loop.spec, loop.labelled()
    if len(labelled) < spec.train.min_partitions:
        raise DataRefused(
            "KZ423",
            "too few labelled partitions to train on",
            where="training set",
            value=f"{len(labelled)} ({', '.join(labelled[-3:]) or 'none'})",
            limit=f"at least {spec.train.min_partitions} (train.min_partitions)",
            action="wait for the next outcomes, or lower train.min_partitions",
        )
    acceptance_set(loop)
    labelled_until = Window(None, bounds(labelled[-1], spec.timezone)[1].isoformat())
    gate = labelled_until.cut(spec.evaluate.window, spec.timezone)[1]
    refuse_seen(loop, gate)
    last = train_partitions(spec.train.window)
    chosen = labelled if last is None else labelled[-last:]
    inputs = loop.inputs_for(chosen, labels=True)
    _refuse_one_class(loop, chosen, inputs)
    begin = None if last is None else bounds(chosen[0], spec.timezone)[0].isoformat()
    return TrainingSet(inputs, Window(begin, gate.start), gate)


def refuse_unsound(loop: Loop, turn: str) -> None:
    """Refuse, before anything is decided, what training would refuse before it calls user code.

    The place looks at training rows and at the gate's.

    Raises ``DataRefused``: what ``training_set`` raises, and from the place KZ420 no labelled row in the window, KZ422
    a feature that tells the label, KZ425 to KZ428 leaks, KZ492 no split; ``SpecError``: KZ308 no such runner.
    """
    if loop.spec.tune:
        require_optuna()
    examples = training_set(loop)
    request = loop.request("trigger", turn, inputs=examples.inputs, window=examples.window, selection=examples.gate)
    loop.run(request)


def _refuse_one_class(loop: Loop, partitions: list[str], inputs: tuple[Input, ...]) -> None:
    """Before anything is decided: a model cannot learn from one class."""
    if loop.spec.problem.task == "regression":
        return
    versions = {t: loop.versions(t) for t in loop.spec.label_tables or (loop.spec.main,)}
    counts = {name for i in inputs if i.table in versions for name in versions[i.table][i.partition].labels}
    if len(counts) < 2:
        raise DataRefused(
            "KZ421",
            "labels have one class only",
            where=f"training set: {loop.spec.problem.target}",
            value="class " + (", ".join(counts) or "none") + f" in {len(partitions)} partitions",
            limit="at least 2 classes",
            action="check problem.label and the outcomes",
        )


def train(loop: Loop, examples: TrainingSet, decision: TriggerDecision, turn: str) -> TrainedModel:
    """Run the training in the loop's place and keep its model. A retry finds the model that is there."""
    if found := find_candidate(loop, examples, decision, turn):
        return found
    parameters = find_parameters(loop, examples, _key(loop, examples, decision), turn)
    request = training_request(loop, examples, turn, parameters)
    return keep_candidate(loop, examples, decision, turn, loop.run(request))


def find_candidate(loop: Loop, examples: TrainingSet, decision: TriggerDecision, turn: str) -> TrainedModel | None:
    """The model that an earlier attempt at this very training left; shown again, as that attempt may have died."""
    found = loop.find(TrainedModel, _key(loop, examples, decision))
    if found:
        _show(loop, examples, found, turn)
    return found


def training_request(
    loop: Loop, examples: TrainingSet, turn: str, parameters: Mapping[str, Any] | None = None
) -> Request:
    """What the place gets; ``parameters`` are those that a search found."""
    return loop.request(
        "train",
        turn,
        inputs=examples.inputs,
        window=examples.window,
        parameters=parameters,
        checkpoints="checkpoints",
    )


def keep_candidate(
    loop: Loop, examples: TrainingSet, decision: TriggerDecision, turn: str, outputs: dict[str, Any]
) -> TrainedModel:
    """Publish what a training left, record it, show it on the tracking server."""
    profile = Path(outputs["profile"])
    model = TrainedModel(
        training_set=examples.digest,
        model=loop.store.put_folder(f"{loop.name}/model", Path(outputs["model"])),
        features=outputs["features"],
        rows=outputs["rows"],
        runner=loop.spec.train.runner,
        seed=loop.spec.train.seed,
        environment=codec.decode(Environment, outputs["environment"]),
        profile=loop.store.put_file(f"{loop.name}/profile", lambda path: shutil.copyfile(profile, path)),
        parity=outputs["parity"],
        parameters=outputs["parameters"],
        warnings=tuple(outputs.get("warnings", ())),
    )
    fault_point("train.before_append")
    subject = f"candidate/{turn}"
    # Also under its digest: a promotion names the model that way.
    loop.ledger.append_all(
        loop.name,
        [
            loop.new_event(subject, examples, f"{turn}/{examples.digest}", turn=turn),
            loop.new_event(subject, model, _key(loop, examples, decision), turn=turn),
        ],
    )
    _show(loop, examples, model, turn)
    return model


def _key(loop: Loop, examples: TrainingSet, decision: TriggerDecision) -> str:
    return digest([examples.digest, loop.spec.digest, decision.generation])


def _show(loop: Loop, examples: TrainingSet, model: TrainedModel, turn: str) -> None:
    environment = model.environment
    loop.log(
        turn,
        Run(
            stage="train",
            params={
                "runner": model.runner,
                "seed": model.seed,
                "window_end": examples.window.end,
                "spec": loop.spec.digest,
                **model.parameters,
            },
            metrics={"rows": float(model.rows)},
            tags={
                "mlflow.source.git.commit": environment.code,
                "kaizen.git.dirty": str(environment.dirty).lower(),
                "kaizen.environment": environment.packages,
                "kaizen.candidate": model.digest,
                **({"kaizen.warnings": "; ".join(model.warnings)} if model.warnings else {}),
            },
            datasets=[
                {"name": f"{i.table}/{i.partition}", "digest": i.data[:32], "source": i.address, "context": "training"}
                for i in examples.inputs
            ],
        ),
    )
