"""A scikit-learn model as an MLflow model folder: written and opened in the place, read by anybody.

The folder is MLflow's own format, so people load it with ``mlflow.pyfunc.load_model``. The model inside is a skops
file: it names the types that it is made of, and only types that the project has named (``train.trusted_types``) are
made alive again. A class of the project itself must be importable in the place; its code does not travel along.
"""

from __future__ import annotations

import json
import os
import warnings
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from kaizen.adapters.reproducible import make_reproducible
from kaizen.errors import MissingDependency, ModelRefused, RegistryError

if TYPE_CHECKING:
    from collections.abc import Collection

    import numpy as np
    import pandas as pd

MODEL_FILE = "MLmodel"
_SKOPS_FILE = "model.skops"
_EXAMPLE_ROWS = 5


def save(
    model: Any,
    folder: Path,
    *,
    features: pd.DataFrame,
    predictions: np.ndarray[Any, Any],
    trusted_types: Collection[str],
    pip_requirements: Collection[str],
) -> None:
    """Write ``model`` to ``folder`` with its signature, five example rows and its requirements.

    The same model, requirements and library versions leave the same bytes, whenever and wherever they are saved.

    Args:
        model: a fitted estimator or pipeline with ``predict``.
        folder: appears whole, or not at all if the model is refused; its parent exists.
        features: rows as the model takes them, some hundreds: all are looked at (10 us each) for the signature, and a
            column with a missing value becomes optional in it. Columns of floats and strings take missing values
            later; MLflow refuses rows where a column of integers has one.
        predictions: what the model predicts for ``features``.
        trusted_types: full names of the types, beyond those that skops trusts, that the model may hold.
        pip_requirements: requirements of the place that the model needs, such as ``scikit-learn==1.9.1``.

    Raises:
        ModelRefused: no ``predict`` (KZ901), a type that is not named (KZ902), or not expressible (KZ903).
    """
    if not callable(getattr(model, "predict", None)):
        raise ModelRefused(
            "KZ901",
            "the model cannot predict",
            where="the result of train",
            value=_type_name(model),
            limit="a fitted scikit-learn estimator or pipeline with predict(rows)",
            action="return the fitted model itself from the training pipeline or callable",
        )
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    _library("skops.io")
    sklearn_flavor, models = _library("mlflow.sklearn"), _library("mlflow.models")
    with TemporaryDirectory(dir=folder.parent, prefix=".save-") as scratch:
        draft = Path(scratch) / "model"
        try:
            sklearn_flavor.save_model(
                model,
                str(draft),
                signature=models.infer_signature(features, predictions),
                input_example=features.head(_EXAMPLE_ROWS),
                pip_requirements=list(pip_requirements),
                serialization_format="skops",
                skops_trusted_types=list(trusted_types),
            )
            make_reproducible(draft, MODEL_FILE, _SKOPS_FILE)
        except Exception as error:
            raise _why_not_saved(model, trusted_types, error) from error
        draft.replace(folder)


def load(folder: Path, trusted_types: Collection[str]) -> Any:
    """The estimator in ``folder``, made of skops' own trusted types and those named here only.

    The allow-list that the folder carries for MLflow is not looked at: it came with the model.

    Raises:
        ModelRefused: a type that is not named (KZ902), or a file that cannot be opened in this place (KZ904).
    """
    skops = _library("skops.io")
    path = folder / _SKOPS_FILE
    try:
        unnamed = sorted(set(skops.get_untrusted_types(file=path)) - set(trusted_types))
        if not unnamed:
            return skops.load(path, trusted=list(trusted_types))
    except Exception as error:
        raise ModelRefused(
            "KZ904",
            "the model cannot be opened in this place",
            where=str(path),
            value=f"{type(error).__name__}: {error}",
            limit="a skops file whose classes are importable here",
            action="install the project, and the library versions it was trained with, in the place; or train again",
        ) from error
    raise _untrusted(unnamed, trusted_types, str(path))


def signature_columns(folder: Path) -> dict[str, str]:
    """The columns that the model takes, with MLflow's type names (``double``, ``string`` ...), in order.

    Raises:
        ModelRefused: no signature of named columns can be read (KZ905).
    """
    path = folder / MODEL_FILE
    try:
        signature = yaml.safe_load(path.read_text(encoding="utf-8"))["signature"]
        return {column["name"]: column["type"] for column in json.loads(signature["inputs"])}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ModelRefused(
            "KZ905",
            "the model has no signature of named columns",
            where=str(path),
            value=f"{type(error).__name__}: {error}",
            limit="signature.inputs as a list of columns with name and type",
            action="save the model with the signature of the rows that it takes",
        ) from error


def require_folder(model: Path) -> None:
    """Refuse to register what is not a model folder: ``RegistryError`` (KZ804)."""
    if not (model / MODEL_FILE).is_file():
        raise RegistryError(
            "KZ804",
            "not an MLflow model folder",
            where=str(model),
            value=f"no {MODEL_FILE}",
            limit=f"a folder with a file {MODEL_FILE}",
            action="register the folder that train left",
        )


def _why_not_saved(model: Any, trusted_types: Collection[str], error: Exception) -> ModelRefused:
    skops = _library("skops.io")
    try:
        unnamed = sorted(set(skops.get_untrusted_types(data=skops.dumps(model))) - set(trusted_types))
    except Exception:  # noqa: BLE001 -- whatever stopped the first attempt stops this one; the first is reported
        unnamed = []
    if unnamed:
        return _untrusted(unnamed, trusted_types, _type_name(model))
    return ModelRefused(
        "KZ903",
        "the model cannot be saved as an MLflow model with a skops file",
        where=_type_name(model),
        value=f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}",
        limit="functions and classes of importable modules (no lambdas); columns of numbers, strings, booleans, times",
        action="move what the model holds into a module of the project, and name it in `train.trusted_types`",
    )


def _untrusted(unnamed: list[str], trusted_types: Collection[str], where: str) -> ModelRefused:
    return ModelRefused(
        "KZ902",
        "the model holds types that are not named as trusted",
        where=where,
        value=", ".join(unnamed),
        limit=f"train.trusted_types: [{', '.join(trusted_types)}]",
        action="review these types, then add those that you trust to `train.trusted_types` in kaizen.yml",
    )


def _type_name(model: Any) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _library(name: str) -> Any:
    # Imported at first use: together they cost seconds, and reading a signature needs neither. skops asks every module
    # of the process for the name of every scipy function while it is imported; deprecated names answer with a warning.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(name)
    except ImportError as error:
        raise MissingDependency(name.partition(".")[0], "mlflow") from error
