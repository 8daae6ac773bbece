"""What happens inside a place, on files, with no ledger and no registry in reach.

trigger asks whether there is something sound to train on; train, evaluate, deploy and score do their stage's work.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from functools import cache, lru_cache
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kaizen import codec, splits
from kaizen.adapters import estimates, leaks, mlflow_model
from kaizen.adapters.examples import Examples, assemble
from kaizen.adapters.profiles import make_profile
from kaizen.adapters.tables import read_parquet, write_parquet
from kaizen.bridge import InputFile, ModelFolder, Request
from kaizen.calendar import bounds
from kaizen.canonical import canonical_json, digest
from kaizen.checkpoints import Checkpoints
from kaizen.errors import DataRefused, ModelRefused
from kaizen.images import CODE, read_code
from kaizen.publish import publish_file, publish_json, verify_file, verify_folder
from kaizen.records import Comparison, Environment, Profile, Window
from kaizen.runners import Training, find_runner, make_importable
from kaizen.spec import ProblemSpec, Spec, parse_spec
from kaizen.trials import FolderSpool, Reporter, TrialStopped, parse_reports

_EXAMPLE_ROWS = 5
_SLICE_ROWS = 200
_REQUIRED = ("mlflow-skinny", "scikit-learn", "skops", "pandas", "numpy")


def trigger(request: Request) -> dict[str, Any]:
    """Refuse, before anybody decides to train, what ``train`` would refuse before it calls user code."""
    spec = parse_spec(request.spec, "request")
    find_runner(spec.train.runner)
    rows = _training_rows(canonical_json(request.spec), request.inputs, request.window, request.held_by)
    _split(spec, rows)
    if spec.tune:
        windows = request.window.cut(spec.evaluate.window, spec.timezone)
        trained, selected = (rows.in_window(spec.problem.timestamp, window) for window in windows)
        leaks.refuse_shared(spec, trained, selected, "rows of trials and of their selection")
    if request.selection:
        inputs = [i for i in request.inputs if _reaches_into(spec, i, request.selection)]
        gate = _load(spec, inputs, request.selection, request.held_by, labels=True).labelled()
        leaks.refuse_shared(spec, rows, gate, "training rows and the gate's")
    return {"rows": len(rows)}


def train(request: Request) -> dict[str, Any]:
    """Open the training set, run the user's training, package its model."""
    training = open_training(request)
    return close_training(request, training, find_runner(training.spec.runner)(training))


def trial(request: Request) -> dict[str, Any]:
    """Train one configuration on the rows of the window, and measure it on those of the selection."""
    begun, folder = time.perf_counter(), Path(request.folder)
    training = replace(open_training(request), report=Reporter(folder))
    value, stopped = None, False
    try:
        model = find_runner(training.spec.runner)(training)
    except TrialStopped:
        stopped = True
    else:
        value = _measure(request, model)
    reports = parse_reports(FolderSpool(folder).reports())
    seconds = round(time.perf_counter() - begun, 3)
    return {"value": value, "stopped": stopped, "reports": reports, "seconds": seconds}


def _measure(request: Request, model: Any) -> float:
    """The first gate's metric on the labelled rows of the selection. Raises ``DataRefused`` KZ424 without any."""
    spec = parse_spec(request.spec, "request")
    selected = request.selection or request.window
    rows = _load(spec, request.inputs, selected, request.held_by, labels=True).labelled()
    predictions = {"candidate": predict(model, rows.features, spec.problem)} if len(rows) else {}
    label = _as_label(_labels(rows), spec.problem)
    # One block: a trial needs the value, not its interval.
    block = np.zeros(len(rows), dtype=int)
    found = estimates.compare(spec.metric, label, predictions, block, spec.confidence) if len(rows) else None
    if found is None:
        raise DataRefused(
            "KZ424",
            "no rows to select a configuration by",
            where="tune: the newest labelled rows before the gate's",
            value=f"{len(rows)} rows, on which {spec.metric} has no value",
            limit=f"rows in which {spec.metric} can be measured (evaluate.window)",
            action="widen evaluate.window, or wait for more outcomes",
        )
    return found.candidate.value


def open_training(request: Request) -> Training:
    """The labelled rows of the window, checked and split. Raises ``DataRefused`` before any user code runs."""
    spec = parse_spec(request.spec, "request")
    make_importable(Path(request.project))
    rows = _training_rows(canonical_json(request.spec), request.inputs, request.window, request.held_by)
    # Read for this training alone: its memory is user code's from here on.
    _training_rows.cache_clear()
    rows, held = _split(spec, rows)
    checkpoints = Checkpoints(Path(request.checkpoints)) if request.checkpoints else None
    return Training(
        _frame(spec, rows),
        spec.problem.target,
        spec.train,
        Path(request.project),
        request.env,
        checkpoints,
        request.parameters,
        validation=_frame(spec, held) if held else None,
    )


def _frame(spec: Spec, rows: Examples) -> pd.DataFrame:
    return rows.features.assign(**{spec.problem.target: rows.label})


def _split(spec: Spec, rows: Examples) -> tuple[Examples, Examples | None]:
    """Training and validation rows. Raises ``DataRefused``: KZ492 a side that nothing can be learnt from, leaks."""
    wanted, salt = spec.train.validation, f"{spec.loop}/validation"
    if wanted is None:
        return rows, None
    if wanted.by == "time":
        found = splits.by_time(rows.rows, spec.problem.timestamp, share=wanted.share, last=wanted.last)
    else:
        split = splits.by_group if wanted.by == "group" else splits.by_hash
        found = split(rows.rows, spec.validation_columns, share=wanted.share, salt=salt)
    mask = np.asarray(found, dtype=bool)
    kept, held = rows.where(~mask), rows.where(mask)
    classes = len(np.unique(_labels(kept)))
    if not len(kept) or not len(held) or (spec.problem.task == "classification" and classes < 2):
        raise DataRefused(
            "KZ492",
            "rows cannot be split into training and validation",
            where=f"train.validation: by {wanted.by}",
            value=f"{len(kept)} rows of {classes} classes to train on, {len(held)} to validate",
            limit="rows on both sides, and two classes to train on",
            action="change share, last or columns of train.validation, or wait for more rows",
        )
    leaks.refuse_shared(spec, kept, held, "training and validation rows")
    return kept, held


def _reaches_into(spec: Spec, item: InputFile, window: Window) -> bool:
    """Whether a partition holds rows of a window that is the newest, or something that they may look up."""
    if item.acceptance or window.start is None or spec.data.tables[item.table].serves_any:
        return True
    return bounds(item.partition, spec.timezone)[1] > datetime.fromisoformat(window.start)


@lru_cache(maxsize=1)
def _training_rows(compiled: str, inputs: tuple[InputFile, ...], window: Window, held_by: tuple[str, ...]) -> Examples:
    """The labelled rows, checked; a process that was asked by trigger need not read them again to train."""
    spec = parse_spec(json.loads(compiled), "request")
    rows = _load(spec, inputs, window, held_by, labels=True).labelled()
    _check_rows(spec, rows)
    return rows


def _check_rows(spec: Spec, rows: Examples) -> None:
    if len(rows) == 0:
        raise DataRefused(
            "KZ420",
            "no labelled rows to train on",
            where="training set",
            value="0 rows",
            limit="at least 1",
            action="deliver outcomes for the partitions, or wait for problem.label_delay",
        )
    if spec.problem.task == "classification":
        _refuse_one_class(spec, rows)
    leaks.refuse_outcomes_in_disguise(spec, rows)


def _refuse_one_class(spec: Spec, rows: Examples) -> None:
    classes = np.unique(_labels(rows))
    if len(classes) < 2:
        raise DataRefused(
            "KZ421",
            "labels have one class only",
            where=f"training set: {spec.problem.target}",
            value=f"class {classes[0]:g} in {len(rows)} rows",
            limit="at least 2 classes",
            action="check problem.label and the outcomes; a model cannot learn from one class",
        )


def close_training(request: Request, training: Training, model: Any) -> dict[str, Any]:
    """Package ``model``: saved, opened again as a stranger would, and asked for the same predictions."""
    spec = parse_spec(request.spec, "request")
    features = training.examples.drop(columns=training.target)
    example = features.head(_EXAMPLE_ROWS)
    predictions = predict(model, example, spec.problem)
    folder = Path(request.folder) / "model"
    mlflow_model.save(
        model,
        folder,
        features=example,
        predictions=predictions,
        trusted_types=spec.train.trusted_types,
        pip_requirements=[f"{name}=={version(name)}" for name in _REQUIRED],
    )
    again = predict(mlflow_model.load(folder, spec.train.trusted_types), example, spec.problem)
    if _parity(again) != _parity(predictions):
        raise ModelRefused(
            "KZ906",
            "the stored model predicts otherwise than the trained one",
            where=str(folder),
            value=again.tolist(),
            limit=predictions.tolist(),
            action="check the model's own state for what is not stored with it",
        )
    profile = Path(request.folder) / "profile.json"
    publish_json(profile, make_profile(features).to_json())
    return {
        "model": str(folder),
        "profile": str(profile),
        "rows": len(features),
        "warnings": leaks.oddities(features),
        "features": mlflow_model.signature_columns(folder),
        "parity": _parity(predictions),
        "parameters": {**_parameters(model), **{f"tune.{name}": str(v) for name, v in request.parameters.items()}},
        "environment": codec.encode(_environment(Path(request.project))),
    }


def evaluate(request: Request) -> dict[str, Any]:
    """Measure candidate (and champion) on the labelled rows of the window: each gate's metric, and its slices.

    The candidate alone is measured on the acceptance set as well.
    """
    spec = parse_spec(request.spec, "request")
    rows = _load(spec, request.inputs, request.window, request.held_by, labels=True).labelled()
    block = rows.days(spec.problem.timestamp, spec.clock.timezone) if len(rows) else np.zeros(0, dtype=int)
    predictions = {
        role: predict(_open(folder, request.project, spec), rows.features, spec.problem) if len(rows) else np.zeros(0)
        for role, folder in request.models.items()
    }
    label = _as_label(_labels(rows), spec.problem)
    found = []
    for metric in dict.fromkeys(gate.metric for gate in spec.gates):
        gates = [g for g in spec.gates if g.metric == metric]
        found.append(estimates.compare(metric, label, predictions, block, spec.confidence))
        for column in dict.fromkeys(c for g in gates for c in g.slices):
            for name, mask in _slices(rows.features[column]):
                some = {role: p[mask] for role, p in predictions.items()}
                found.append(
                    estimates.compare(metric, label[mask], some, block[mask], spec.confidence, slice_name=name)
                )
    return {
        "rows": len(rows),
        "blocks": len(np.unique(block)),
        "comparisons": [codec.encode(c) for c in found if c is not None],
        "acceptance": [codec.encode(c) for c in _accept(spec, request)],
    }


def _accept(spec: Spec, request: Request) -> list[Comparison]:
    """The candidate on the labelled rows of the acceptance set, by each gate's metric."""
    held = _acceptance(spec, request.inputs, request.held_by)
    rows = held.labelled() if held else None
    if rows is None or not len(rows):
        return []
    found = {
        "candidate": predict(_open(request.models["candidate"], request.project, spec), rows.features, spec.problem)
    }
    label = _as_label(_labels(rows), spec.problem)
    block = rows.days(spec.problem.timestamp, spec.clock.timezone)
    metrics = dict.fromkeys(gate.metric for gate in spec.gates)
    measured = [estimates.compare(metric, label, found, block, spec.confidence) for metric in metrics]
    return [comparison for comparison in measured if comparison is not None]


def score(request: Request) -> dict[str, Any]:
    """Predict every row of the window; profile the rows in the reference's bins."""
    spec = parse_spec(request.spec, "request")
    rows = _load(spec, request.inputs, request.window, (), labels=False)
    model = _open(request.models["champion"], request.project, spec)
    values = predict(model, rows.features, spec.problem) if len(rows) else np.zeros(0)
    predictions = Path(request.folder) / "predictions.parquet"
    publish_file(predictions, lambda path: write_parquet(rows.rows.assign(prediction=values), path))
    reference = (
        Profile.from_json(json.loads(Path(request.reference).read_text(encoding="utf-8")))
        if request.reference
        else None
    )
    profile = Path(request.folder) / "profile.json"
    publish_json(profile, make_profile(rows.features, reference).to_json())
    return {"predictions": str(predictions), "profile": str(profile), "rows": len(rows)}


def deploy(request: Request) -> dict[str, Any]:
    """Prove that the champion opens here: its predictions on its own input example, as a parity digest."""
    spec = parse_spec(request.spec, "request")
    folder = request.models["champion"]
    # A model that this process happens to hold proves nothing about the stored one.
    _opened.cache_clear()
    model = _open(folder, request.project, spec)
    return {"parity": _parity(predict(model, _input_example(Path(folder.path)), spec.problem))}


STAGES: dict[str, Callable[[Request], dict[str, Any]]] = {
    "trigger": trigger,
    "trial": trial,
    "train": train,
    "evaluate": evaluate,
    "deploy": deploy,
    "score": score,
}


def _input_example(folder: Path) -> pd.DataFrame:
    """The example rows in a model folder, in the types of its signature."""
    stored = json.loads((folder / "input_example.json").read_text(encoding="utf-8"))
    frame = pd.DataFrame(stored["data"], columns=stored["columns"])
    types = mlflow_model.signature_columns(folder)
    return frame.astype({name: float if kind == "double" else object for name, kind in types.items()})


def predict(model: Any, features: pd.DataFrame, problem: ProblemSpec) -> np.ndarray:
    """N floats: the probability of ``problem.positive``, or the predicted value. Raises ``ModelRefused`` KZ907."""
    if problem.task == "regression":
        values = model.predict(features)
    else:
        classes = list(getattr(model, "classes_", []))
        if problem.positive not in classes or not hasattr(model, "predict_proba"):
            raise ModelRefused(
                "KZ907",
                "model gives no probability of the positive class",
                where="problem.positive",
                value="classes "
                + (", ".join(map(str, classes)) or "none")
                + ("" if hasattr(model, "predict_proba") else ", no predict_proba"),
                limit=f"predict_proba and class {problem.positive}",
                action="train a classifier on the target column as it is",
            )
        values = model.predict_proba(features)[:, classes.index(problem.positive)]
    found = np.asarray(values, dtype=float)
    if found.shape != (len(features),) or not np.isfinite(found).all():
        raise ModelRefused(
            "KZ908",
            "predictions are not one finite number per row",
            where="model",
            value=f"shape {found.shape}, {int((~np.isfinite(found)).sum())} not finite",
            limit=f"({len(features)},) finite numbers",
            action="correct the model",
        )
    return found


def _load(
    spec: Spec, inputs: Iterable[InputFile], window: Window, held_by: tuple[str, ...], *, labels: bool
) -> Examples:
    """The inputs' rows in the window, every file checked against its digest before it is read.

    Rows of the acceptance set, known by their values in ``held_by``, are not among them.
    """
    inputs = list(inputs)
    tables = _read(spec, [item for item in inputs if not item.acceptance])
    keep = (*spec.problem.group, *spec.validation_columns, *held_by) if labels else ()
    rows = assemble(spec, tables, labels=labels, keep=keep).in_window(spec.problem.timestamp, window)
    held = _acceptance(spec, inputs, held_by)
    return _without(spec, rows, held, held_by) if held and labels else rows


def _without(spec: Spec, rows: Examples, held: Examples, held_by: tuple[str, ...]) -> Examples:
    """The rows that are none of the acceptance set's: by its key, nor, were a row corrected, by entity or group."""
    kept = np.ones(len(rows), dtype=bool)
    for columns in dict.fromkeys(c for c in (held_by, spec.problem.entity, spec.problem.group) if c):
        known = held.rows if columns == held_by else held.rows.dropna(subset=list(columns))
        keys = set(splits.keys_of(known, columns))
        kept &= np.array([key not in keys for key in splits.keys_of(rows.rows, columns)], dtype=bool)
    return rows if kept.all() else rows.where(kept)


def _acceptance(spec: Spec, inputs: Iterable[InputFile], held_by: tuple[str, ...]) -> Examples | None:
    """The rows of the acceptance set; None without one."""
    files = [item for item in inputs if item.acceptance]
    keep = (*spec.problem.group, *held_by)
    return assemble(spec, _read(spec, files), labels=True, keep=keep) if files else None


def _read(spec: Spec, inputs: Iterable[InputFile]) -> dict[str, pd.DataFrame]:
    parts: dict[str, list[pd.DataFrame]] = {}
    for item in inputs:
        verify_file(Path(item.path), item.sha256)
        frame = read_parquet(Path(item.path))
        leaks.refuse_outside(spec, item, frame)
        parts.setdefault(item.table, []).append(frame)
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


def _open(folder: ModelFolder, project: str, spec: Spec) -> Any:
    verify_folder(Path(folder.path), folder.digest)
    make_importable(Path(project))
    return _opened(folder.path, spec.train.trusted_types)


@lru_cache(maxsize=4)
def _opened(path: str, trusted_types: tuple[str, ...]) -> Any:
    """Published folders never change, so one opening serves every stage of a turn in the same process."""
    return mlflow_model.load(Path(path), trusted_types)


def _labels(rows: Examples) -> np.ndarray:
    if rows.label is None:
        raise ValueError("labels were not asked for")
    return rows.label


def _as_label(label: np.ndarray, problem: ProblemSpec) -> np.ndarray:
    return (label == problem.positive).astype(float) if problem.task == "classification" else label


def _slices(values: pd.Series) -> list[tuple[str, np.ndarray]]:
    """``column=value`` and row mask of every value with enough rows to say something."""
    counts = values.value_counts()
    names = sorted(str(v) for v, n in counts.items() if n >= _SLICE_ROWS)
    text = values.astype(str)
    return [(f"{values.name}={name}", (text == name).to_numpy()) for name in names]


def _parity(predictions: np.ndarray) -> str:
    """Digest of predictions to six decimals: equal in every place with the same libraries."""
    return digest([f"{value:.6f}" for value in predictions])


def _environment(project: Path) -> Environment:
    commit = _git(project, "rev-parse", "HEAD")
    dirty = bool(commit and _git(project, "status", "--porcelain"))
    if not commit:
        # An image has the code, and its history is elsewhere.
        commit, dirty = read_code(os.environ.get(CODE, ""))
    return Environment(platform.python_version(), installed_packages(), commit, dirty)


@cache
def installed_packages() -> str:
    """Digest of what is installed; a process does not change its environment."""
    names = sorted(f"{d.metadata['Name']}=={d.version}".lower() for d in distributions())
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _parameters(model: Any) -> dict[str, str]:
    """The plain settings of an estimator, or of a pipeline's steps, for the tracking server."""
    steps = getattr(model, "steps", [("", model)])
    return {
        f"{name}.{key}".lstrip("."): str(value)
        for name, step in steps
        for key, value in getattr(step, "get_params", dict)().items()
        if isinstance(value, str | int | float | bool)
    }


def _git(project: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(project), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
