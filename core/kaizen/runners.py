"""Whose code trains: runners, found by name through the entry-point group ``kaizen.runners``.

The core registers ``callable``; the Kedro face registers ``kedro``. A runner gets a ``Training`` and returns the fitted
model, nothing else: what is stored, measured and promoted is not its business.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaizen.checkpoints import Checkpoints
from kaizen.codec import nearest
from kaizen.errors import SpecError
from kaizen.spec import TrainSpec
from kaizen.trials import Report, say_nothing

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Training:
    """What a runner gets.

    Attributes:
        examples: n rows: the feature columns as they were ingested, and the target column.
        validation: rows like ``examples``, from the same window and not among them; None without ``train.validation``.
        target: name of the target column.
        spec: the ``train`` section, with the names that the runner needs and the seed.
        project: the project's folder.
        env: the loop's environment: a runner with settings of its own takes those of the same name.
        checkpoints: where a long training saves what the next attempt at it goes on from.
        parameters: settings that a search chose for this training, by name; empty where nothing was searched.
        report: told how good it is so far, if the training is a trial.
    """

    examples: pd.DataFrame
    target: str
    spec: TrainSpec
    project: Path
    env: str
    checkpoints: Checkpoints | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    report: Report = say_nothing
    validation: pd.DataFrame | None = None


Runner = Callable[[Training], Any]


def find_runner(name: str) -> Runner:
    """The runner registered as ``name``. Raises ``SpecError`` (KZ308) with the nearest name."""
    found = {e.name: e for e in entry_points(group="kaizen.runners")}
    if name not in found:
        hint = nearest(name, found)
        raise SpecError(
            "KZ308",
            "no such runner",
            where="train.runner",
            value=name,
            limit="one of " + ", ".join(sorted(found)),
            action=f"did you mean {hint!r}?" if hint else "install the package that registers it",
        )
    runner: Runner = found[name].load()
    return runner


def make_importable(project: Path) -> None:
    """Put the project's code (``src/`` if there is one, and the folder itself) on this process's path, once."""
    for folder in (project, project / "src"):
        if folder.is_dir() and str(folder) not in sys.path:
            sys.path.insert(0, str(folder))


def run_callable(training: Training) -> Any:
    """Call ``train.function`` (``"package.module:function"``) as ``function(examples, target=..., seed=...)``.

    Besides, it gets what a search chose for it by name, and as far as it has such parameters the training's
    ``checkpoints``, ``report`` and ``validation``.

    Raises:
        SpecError: KZ309 there is no such function, KZ318 it does not take a parameter that is searched, KZ350 rows
            for validation are not taken, or not there.
    """
    module_name, _, name = training.spec.function.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(
            "KZ309",
            "training function cannot be imported",
            where="train.function",
            value=f"{training.spec.function} ({error})",
            limit='"package.module:function", importable from the project',
            action="correct the name, or install the project where the loop trains",
        ) from error
    names, required, takes_any = _parameters_of(function)
    where = f"train.function: {training.spec.function}"
    if not takes_any and (unknown := [name for name in training.parameters if name not in names]):
        raise not_taken(where, unknown, names)
    check_validation(training, where, taken="validation" in names, needed="validation" in required)
    offered = {"checkpoints": training.checkpoints, "report": training.report}
    offered |= {"validation": training.validation} if training.validation is not None else {}
    more = {name: value for name, value in offered.items() if name in names}
    return function(training.examples, target=training.target, seed=training.spec.seed, **training.parameters, **more)


def check_validation(training: Training, where: str, *, taken: bool, needed: bool) -> None:
    """Refuse (``SpecError`` KZ350) validation rows that nobody takes, or that are asked for and not there."""
    there = training.validation is not None
    if (taken or not there) and (there or not needed):
        return
    raise SpecError(
        "KZ350",
        "the training does not take validation rows" if there else "the training asks for validation rows",
        where=where,
        value="no parameter or free input `validation`" if there else "no train.validation",
        limit="both, or neither",
        action="let the training take `validation`, or remove train.validation" if there else "add train.validation",
    )


def not_taken(where: str, unknown: Sequence[str], known: Iterable[str]) -> SpecError:
    """The refusal of a search for parameters that the training does not have."""
    hint = nearest(unknown[0], known)
    return SpecError(
        "KZ318",
        "the training does not take what is searched",
        where=where,
        value=", ".join(unknown),
        limit="parameters of the training: " + ", ".join(sorted(known)),
        action=f"did you mean {hint!r}?" if hint else "correct tune.parameters, or let the training take them",
    )


def _parameters_of(function: Callable[..., Any]) -> tuple[list[str], list[str], bool]:
    """The names of a function's parameters, of those without a default, and whether it takes any name besides."""
    try:
        found = inspect.signature(function).parameters
    except ValueError:
        # A built-in one tells no signature.
        return [], [], True
    required = [name for name, p in found.items() if p.default is inspect.Parameter.empty]
    return list(found), required, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found.values())
