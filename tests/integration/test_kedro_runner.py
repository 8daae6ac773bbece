"""The runner ``kedro``: a real project's pipeline, called as the loop's place calls it."""

from __future__ import annotations

import logging
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kaizen.errors import SpecError
from kaizen.runners import Training, find_runner
from kaizen.spec import TrainSpec

EXAMPLES = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [2.0, 4.0, 6.0]})
FILES = {
    "pyproject.toml": """
        [tool.kedro]
        package_name = "tiny"
        project_name = "Tiny"
        kedro_init_version = "1.7.0"
        """,
    "conf/base/parameters.yml": "slope: {start: 0.5}",
    "conf/prod/parameters.yml": "slope: {start: 10.0}",
    "conf/local/.gitkeep": "",
    "conf/base/catalog.yml": """
        offsets:
          type: pandas.CSVDataset
          filepath: data/offsets.csv
        """,
    "data/offsets.csv": "offset\n100\n",
    "src/tiny/__init__.py": "",
    "src/tiny/settings.py": """
        from tiny.noise import Noise
        HOOKS = (Noise(),)
        """,
    "src/tiny/noise.py": """
        from kedro.framework.hooks import hook_impl

        class Noise:
            seen = []

            @hook_impl
            def before_pipeline_run(self, run_params, catalog):
                self.seen += [name for name in catalog if name.startswith("kaizen")]
                if run_params["pipeline_names"] == ["tracked"]:
                    import mlflow
                    mlflow.start_run(nested=True)
        """,
    "src/tiny/pipeline_registry.py": """
        from kedro.pipeline import Pipeline, node

        def fit(examples, slope, offsets):
            examples["x"] = 0.0   # a project may spoil its own copy
            return {"rows": len(examples), "start": slope["start"], "offset": int(offsets["offset"][0])}

        def tell(examples, start, report):
            report(1, start)
            return start

        def fail(examples):
            raise ZeroDivisionError("no slope")

        def register_pipelines():
            training = Pipeline([node(fit, ["examples", "params:slope", "offsets"], "model", name="fit")])
            return {
                "training": training,
                "tracked": training,
                "validating": Pipeline([node(lambda e, v: len(v), ["examples", "validation"], "model", name="fit")]),
                "failing": Pipeline([node(fail, "examples", "model", name="fail")]),
                "tried": Pipeline([node(tell, ["examples", "params:slope.start", "report"], "model", name="tell")]),
                "reporting": Pipeline([node(len, "offsets", "count", name="count")]),
                "__default__": Pipeline([]),
            }
        """,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
    return tmp_path


def train(project: Path, pipeline: str = "training", env: str = "local", **more: Any) -> object:
    return find_runner("kedro")(Training(EXAMPLES, "y", TrainSpec("kedro", pipeline=pipeline), project, env, **more))


def test_pipeline_gets_examples_and_the_projects_own_settings(project: Path) -> None:
    assert train(project) == {"rows": 3, "start": 0.5, "offset": 100}


def test_what_a_search_chose_outranks_the_projects_parameters(project: Path) -> None:
    assert train(project, parameters={"slope.start": 2.5}) == {"rows": 3, "start": 2.5, "offset": 100}
    assert train(project, env="prod", parameters={"slope.start": 2.5}) == {"rows": 3, "start": 2.5, "offset": 100}
    assert train(project) == {"rows": 3, "start": 0.5, "offset": 100}


def test_a_pipeline_reports_if_it_asks_for_it(project: Path) -> None:
    told: list[tuple[int, float]] = []
    assert train(project, "tried", parameters={"slope.start": 2.5}, report=lambda *report: told.append(report)) == 2.5
    assert told == [(1, 2.5)]
    assert train(project, "tried") == 0.5


def test_a_pipeline_gets_validation_rows_if_it_asks_for_them(project: Path) -> None:
    assert train(project, "validating", validation=EXAMPLES.head(2)) == 2


@pytest.mark.parametrize(("pipeline", "more"), [("validating", {}), ("training", {"validation": EXAMPLES})])
def test_validation_rows_that_only_one_side_knows_of_are_refused(
    project: Path, pipeline: str, more: dict[str, Any]
) -> None:
    with pytest.raises(SpecError, match="KZ350") as caught:
        train(project, pipeline, **more)
    assert caught.value.where == f"train.pipeline: {pipeline}"


def test_a_parameter_that_does_not_go_into_the_pipeline_is_refused_by_name(project: Path) -> None:
    with pytest.raises(SpecError, match=r"tilt\.start") as caught:
        train(project, parameters={"tilt.start": 2.5})
    assert caught.value.code == "KZ318"


def test_examples_are_not_the_projects_to_change(project: Path) -> None:
    train(project)
    assert EXAMPLES["x"].tolist() == [1.0, 2.0, 3.0]


def test_environment_is_that_of_the_loop(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAIZEN_ENV", "local")
    monkeypatch.setenv("KEDRO_ENV", "local")
    assert train(project, env="prod") == {"rows": 3, "start": 10.0, "offset": 100}


def test_environment_that_kedro_does_not_know_is_refused_by_name(project: Path) -> None:
    with pytest.raises(SpecError, match=r"conf/nowhere is a folder") as caught:
        train(project, env="nowhere")
    assert caught.value.code == "KZ333"


def test_every_call_is_a_session_of_its_own(project: Path) -> None:
    assert train(project) == train(project)


def test_unregistered_pipeline_is_refused_with_the_nearest_name(project: Path) -> None:
    with pytest.raises(SpecError, match="did you mean 'training'") as caught:
        train(project, "trainign")
    assert caught.value.code == "KZ330"


def test_pipeline_that_trains_nothing_is_refused(project: Path) -> None:
    with pytest.raises(SpecError, match="no free input examples and no free output model") as caught:
        train(project, "reporting")
    assert caught.value.code == "KZ331"


def test_folder_without_a_kedro_project_is_refused(project: Path) -> None:
    (project / "pyproject.toml").unlink()
    with pytest.raises(SpecError) as caught:
        train(project)
    assert caught.value.code == "KZ332"


def test_error_of_the_project_comes_through(project: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="no slope"):
        train(project, "failing")


def test_turns_hooks_stay_quiet_in_a_training(project: Path) -> None:
    train(project)
    assert sys.modules["tiny.noise"].Noise.seen == []


def test_logging_of_the_process_is_left_as_it_was(
    project: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, shown, mine = logging.getLogger(), warnings.showwarning, logging.NullHandler()
    # Another test may have imported Kedro by itself: then its handler is there already.
    monkeypatch.setattr(root, "handlers", [mine])
    train(project)
    assert root.handlers == [mine]
    assert warnings.showwarning is shown
    assert logging.root.manager.disable == logging.NOTSET
    assert "Kedro" not in "".join(capfd.readouterr())


def test_tracking_run_that_the_projects_hooks_open_is_closed(project: Path) -> None:
    import mlflow

    train(project, "tracked")
    assert mlflow.active_run() is None
    assert len(mlflow.search_runs(output_format="list")) == 1


def test_tracking_run_that_was_open_stays_open(project: Path) -> None:
    import mlflow

    with mlflow.start_run() as mine:
        train(project, "tracked")
        now = mlflow.active_run()
        assert now is not None
        assert now.info.run_id == mine.info.run_id
