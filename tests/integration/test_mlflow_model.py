"""The model folder: written and opened as the place does it, and read as a user of MLflow does it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder
from skops.io import dumps, get_untrusted_types

import kaizen
from kaizen.adapters import mlflow_model
from kaizen.canonical import digest
from kaizen.errors import MissingDependency, ModelRefused
from kaizen.publish import build_manifest

FEATURES = """
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin


class Calendar(TransformerMixin, BaseEstimator):
    def fit(self, rows, target=None):
        self.first_year_ = float(pd.to_datetime(rows["time_hour"]).dt.year.min())
        self.carriers_ = set(rows["carrier"])
        self.hours_ = frozenset(rows["time_hour"].str[11:13])
        self.note_ = b"bytes are a file of their own"
        return self

    def transform(self, rows):
        time = pd.to_datetime(rows["time_hour"])
        return rows.drop(columns="time_hour").assign(hour=time.dt.hour * 1.0, year=time.dt.year - self.first_year_)
"""
TRAINING = """
import sys
from pathlib import Path
import numpy as np
import pandas as pd
from flights.features import Calendar
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder
from skops.io import dumps, get_untrusted_types
from kaizen.adapters import mlflow_model

rows = pd.read_parquet(sys.argv[1])
for target, seed in zip(sys.argv[2::2], sys.argv[3::2]):
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    model = Pipeline([
        ("calendar", Calendar()),
        ("columns", ColumnTransformer([("carrier", encoder, ["carrier"])], remainder="passthrough")),
        ("model", HistGradientBoostingClassifier(max_iter=20, max_features=0.5, random_state=int(seed))),
    ]).fit(rows, (rows["distance"] > 1000).astype(int))
    mlflow_model.save(model, Path(target), features=rows, predictions=model.predict(rows),
                      trusted_types=get_untrusted_types(data=dumps(model)), pip_requirements=["scikit-learn", "skops"])
"""
REQUIREMENTS = ("scikit-learn", "skops")
COLUMNS = {"time_hour": "string", "carrier": "string", "distance": "double", "temp": "double"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's project with a transformer of its own, importable in this process."""
    source = tmp_path_factory.mktemp("project")
    (source / "flights").mkdir()
    (source / "flights" / "__init__.py").touch()
    (source / "flights" / "features.py").write_text(FEATURES)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(source))
        yield source
        for name in ("flights", "flights.features"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    random, count = np.random.default_rng(7), 400
    temperature = random.normal(size=count)
    temperature[::10] = np.nan
    return pd.DataFrame(
        {
            "time_hour": pd.date_range("2013-01-01", periods=count, freq="h").astype(str),
            "carrier": random.choice(["AA", "B6", "UA"], count),
            "distance": random.normal(1000, 300, count),
            "temp": temperature,
        }
    )


@pytest.fixture(scope="module")
def model(project: Path, rows: pd.DataFrame) -> Pipeline:
    from flights.features import Calendar

    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    steps = [
        ("calendar", Calendar()),
        ("columns", ColumnTransformer([("carrier", encoder, ["carrier"])], remainder="passthrough")),
        ("model", HistGradientBoostingClassifier(max_iter=20, random_state=7)),
    ]
    return Pipeline(steps).fit(rows, (rows["distance"] > 1000).astype(int))


@pytest.fixture(scope="module")
def trusted(model: Pipeline) -> tuple[str, ...]:
    """What this release of skops asks to be named: the project's class and some of scikit-learn's own."""
    return tuple(get_untrusted_types(data=dumps(model)))


def save(model: Any, folder: Path, rows: pd.DataFrame, trusted: tuple[str, ...]) -> None:
    predictions = np.zeros(len(rows))
    mlflow_model.save(
        model, folder, features=rows, predictions=predictions, trusted_types=trusted, pip_requirements=REQUIREMENTS
    )


@pytest.fixture(scope="module")
def saved(
    model: Pipeline, rows: pd.DataFrame, trusted: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    mlflow_model.save(
        model,
        folder,
        features=rows,
        predictions=model.predict(rows),
        trusted_types=trusted,
        pip_requirements=REQUIREMENTS,
    )
    return folder


def test_an_opened_model_predicts_the_same(
    saved: Path, model: Pipeline, rows: pd.DataFrame, trusted: tuple[str, ...]
) -> None:
    opened = mlflow_model.load(saved, trusted)
    np.testing.assert_array_equal(opened.predict_proba(rows), model.predict_proba(rows))
    assert type(opened.named_steps["calendar"]).__module__ == "flights.features"


def test_a_user_of_mlflow_opens_the_same_folder(saved: Path, model: Pipeline, rows: pd.DataFrame) -> None:
    opened = mlflow.pyfunc.load_model(str(saved))
    np.testing.assert_array_equal(opened.predict(rows), model.predict(rows))
    assert opened.metadata.signature.inputs.input_names() == list(rows)


def test_a_user_of_mlflow_opens_the_estimator_itself(saved: Path, model: Pipeline, rows: pd.DataFrame) -> None:
    opened = mlflow.sklearn.load_model(str(saved))
    np.testing.assert_array_equal(opened.predict_proba(rows), model.predict_proba(rows))
    calendar, original = opened.named_steps["calendar"], model.named_steps["calendar"]
    assert vars(calendar) == vars(original)


@pytest.mark.long
def test_the_same_training_in_another_process_leaves_the_same_bytes(
    project: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    rows.to_parquet(tmp_path / "rows.parquet")
    trainings = {"1": ["a", "7"], "2": ["again", "7", "other", "8"]}
    paths = os.pathsep.join([str(Path(kaizen.__file__).parents[1]), str(project)])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TRAINING, "rows.parquet", *wanted],
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": hash_seed},
            cwd=tmp_path,
        )
        for hash_seed, wanted in trainings.items()
    ]
    assert [process.wait() for process in running] == [0, 0]
    first, again, other = (digest(build_manifest(tmp_path / name)) for name in ("a", "again", "other"))
    assert first == again
    assert first != other


def test_equal_arrays_that_are_two_objects_stay_two(rows: pd.DataFrame, tmp_path: Path) -> None:
    """Only constants are told apart by content: what can be changed may be shared only if it was."""
    model = LinearRegression().fit(rows[["distance"]], rows["distance"])
    model.one, model.other = np.ones(3), np.ones(3)
    model.shared = model.one
    save(model, tmp_path / "model", rows, ())
    opened = mlflow_model.load(tmp_path / "model", ())
    assert opened.shared is opened.one
    assert opened.other is not opened.one


def test_the_folder_holds_what_a_reader_needs(saved: Path, rows: pd.DataFrame) -> None:
    example = json.loads((saved / "input_example.json").read_text())
    assert example["columns"] == list(rows)
    assert len(example["data"]) == 5
    assert {"scikit-learn", "skops"} <= set((saved / "requirements.txt").read_text().split())
    assert not list(saved.rglob("*.pkl"))
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_the_signature_is_read_without_importing_a_library(saved: Path) -> None:
    assert mlflow_model.signature_columns(saved) == COLUMNS
    script = (
        "import sys; from pathlib import Path; from kaizen.adapters.mlflow_model import signature_columns\n"
        "columns = signature_columns(Path(sys.argv[1]))\n"
        "print(list(columns), sorted({'mlflow', 'sklearn', 'skops', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, str(saved)]
    paths = {"PYTHONPATH": str(Path(kaizen.__file__).parents[1])}
    printed = subprocess.run(command, env=paths, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == f"{list(COLUMNS)} []"


def test_a_type_that_is_not_named_is_not_saved(
    model: Pipeline, rows: pd.DataFrame, trusted: tuple[str, ...], tmp_path: Path
) -> None:
    named = tuple(name for name in trusted if name != "flights.features.Calendar")
    with pytest.raises(ModelRefused) as refusal:
        save(model, tmp_path / "model", rows, named)
    assert (refusal.value.code, refusal.value.value) == ("KZ902", "flights.features.Calendar")
    assert refusal.value.limit == f"train.trusted_types: [{', '.join(named)}]"
    assert "`train.trusted_types`" in refusal.value.action
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_is_not_named_is_not_opened_whatever_the_folder_says(saved: Path, trusted: tuple[str, ...]) -> None:
    assert "flights.features.Calendar" in (saved / "MLmodel").read_text()
    with pytest.raises(ModelRefused) as refusal:
        mlflow_model.load(saved, ())
    assert (refusal.value.code, refusal.value.value) == ("KZ902", ", ".join(sorted(trusted)))


def test_a_model_without_predict_is_refused(rows: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused) as refusal:
        save(OrdinalEncoder().fit(rows), tmp_path / "model", rows, ())
    assert (refusal.value.code, refusal.value.value) == ("KZ901", "sklearn.preprocessing._encoders.OrdinalEncoder")
    assert list(tmp_path.iterdir()) == []


def test_a_lambda_is_refused_even_if_it_is_named(rows: pd.DataFrame, tmp_path: Path) -> None:
    steps = [("drop", FunctionTransformer(lambda given: given[["distance"]])), ("model", LinearRegression())]
    model = Pipeline(steps).fit(rows, rows["distance"])
    with pytest.raises(ModelRefused) as refusal:
        save(model, tmp_path / "model", rows, tuple(get_untrusted_types(data=dumps(model))))
    assert refusal.value.code == "KZ903"
    assert "lambda" in refusal.value.value
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_a_project_that_is_not_installed_here_is_refused(
    saved: Path, trusted: tuple[str, ...], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(project)])
    monkeypatch.delitem(sys.modules, "flights.features")
    monkeypatch.delitem(sys.modules, "flights")
    with pytest.raises(ModelRefused) as refusal:
        mlflow_model.load(saved, trusted)
    assert refusal.value.code == "KZ904"
    assert "flights" in refusal.value.value


@pytest.mark.parametrize("damage", [b"", b"not a zip file"])
def test_a_damaged_file_is_refused(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.skops").write_bytes(damage)
    with pytest.raises(ModelRefused) as refusal:
        mlflow_model.load(tmp_path, ())
    assert (refusal.value.code, refusal.value.where) == ("KZ904", str(tmp_path / "model.skops"))


@pytest.mark.parametrize(
    "text", [None, "", "flavors: {}", "signature: {inputs: null}", "signature: {inputs: '[{}]'}", "a: ["]
)
def test_a_folder_without_a_signature_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(ModelRefused) as refusal:
        mlflow_model.signature_columns(tmp_path)
    assert refusal.value.code == "KZ905"


def test_a_missing_library_names_the_extra(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(MissingDependency) as refusal:
        mlflow_model.load(saved, ())
    assert (refusal.value.what, refusal.value.action) == (
        "skops is not installed",
        "pip install 'kaizen-mlops[mlflow]'",
    )
