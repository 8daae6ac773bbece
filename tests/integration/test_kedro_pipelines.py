"""The turn as a pipeline: its nodes, its order, and what becomes of the project's own training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline, node

from kaizen.errors import SpecError, UsageError
from kaizen.records import TriggerDecision
from kedro_kaizen.datasets import RecordDataset
from kedro_kaizen.pipelines import ingest, promote, train, turn
from kedro_kaizen.project import SESSION, ProjectLoop, loop_of

DECISION = TriggerDecision("2013-03-01T00:00:00-05:00", "2013-02", True, ("first",), "", "no champion yet", None, 1)
OWN = Pipeline(
    [
        node(lambda rows, weather: rows, ["examples", "weather"], "clean", name="clean"),
        node(lambda rows, p: (rows, rows), ["clean", "params:training"], ["model", "plot"], name="fit"),
    ]
)
SPEC = """
version: 1
loop: nyc/flights
problem: {task: regression, target: y, entity: [id], timestamp: at}
data: {tables: {rows: {uri: "*.parquet", partition: month}}}
place: {mode: PLACE, interpreter: python}
train: {runner: kedro, pipeline: training}
gates: [{metric: rmse, at_most: 1}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "conf/base").mkdir(parents=True)
    return tmp_path


def loop_in(project: Path, place: str) -> ProjectLoop:
    loop = loop_of(project, "local")
    loop.path.write_text(SPEC.replace("PLACE", place))
    return loop


@pytest.fixture(params=["in_process", "python"])
def place(request: pytest.FixtureRequest, project: Path) -> Iterator[str]:
    token = SESSION.set(loop_in(project, request.param))
    yield request.param
    SESSION.reset(token)


def names(pipeline: Pipeline) -> list[str]:
    return [n.name for n in pipeline.nodes]


def test_turn_runs_the_stages_in_the_order_of_advance(place: str) -> None:
    own = ["train.open", "train.clean", "train.fit", "train.close"] if place == "in_process" else ["train"]
    before = ["ingest", "validate", "score_before", "monitor_before", "trigger"]
    assert names(turn.create_pipeline(OWN)) == [*before, *own, "evaluate", "promote", "deploy", "score", "monitor"]


def test_own_nodes_keep_the_names_of_parameters_and_datasets() -> None:
    made = {n.name: n for n in train.create_pipeline(OWN, in_process=True).nodes}
    assert made["train.clean"].inputs == ["train.examples", "weather"]
    assert made["train.fit"].inputs == ["clean", "params:training"]
    assert made["train.fit"].outputs == ["train.model", "plot"]


def test_a_turn_needs_nothing_but_its_loop_and_what_the_training_needs(place: str) -> None:
    own = {"weather", "params:training"} if place == "in_process" else set()
    assert turn.create_pipeline(OWN).inputs() == {"kaizen_loop"} | own


@pytest.mark.parametrize(
    ("takes", "leaves", "missing"),
    [("rows", "model", "input examples"), ("examples", "tree", "output model"), ("rows", "tree", "and no free output")],
)
def test_training_without_examples_or_model_is_refused(takes: str, leaves: str, missing: str) -> None:
    other = Pipeline([node(lambda rows: rows, takes, leaves, name="fit")])
    with pytest.raises(SpecError, match=missing) as caught:
        train.create_pipeline(other, in_process=True)
    assert caught.value.code == "KZ331"


def test_pipelines_of_one_place_are_refused_in_another(project: Path) -> None:
    with pytest.raises(UsageError, match="KZ230"):
        train.run(loop_in(project, "in_process"), DECISION)
    with pytest.raises(UsageError, match="KZ230"):
        train.open_examples(loop_in(project, "python"), DECISION)


def test_with_a_search_the_training_is_one_node_in_any_place(project: Path) -> None:
    loop = loop_in(project, "in_process")
    loop.path.write_text(loop.path.read_text() + "tune: {parameters: {depth: {default: 3, low: 1, high: 9}}}\n")
    token = SESSION.set(loop)
    made = names(turn.create_pipeline(OWN))
    SESSION.reset(token)
    assert "train" in made
    assert not [name for name in made if name.startswith("train.")]
    with pytest.raises(UsageError, match="KZ230"):
        train.open_examples(loop, DECISION)


def test_own_nodes_get_what_they_ask_for_besides_the_examples() -> None:
    asked = ["examples", "report", "validation", "checkpoints"]
    asking = Pipeline([node(lambda *given: given[0], asked, "model", name="fit")])
    made = {n.name: n for n in train.create_pipeline(asking, in_process=True).nodes}
    given = ["train.examples", "train.checkpoints", "train.report", "train.validation"]
    assert made["train.open"].outputs == ["kaizen_training_set", *given]
    assert set(made["train.fit"].inputs) == set(given)


def test_suite_that_is_none_is_found_out_before_anything_is_taken(project: Path) -> None:
    loop = loop_in(project, "in_process")
    loop.path.write_text(loop.path.read_text().replace("month}}}", "month}}, suite: {rows: s.json}}"))
    loop.path.with_name("s.json").write_text("[]")
    loop.path.with_name("2024-01.parquet").write_bytes(b"not looked at")
    with pytest.raises(SpecError) as caught:
        ingest.run(loop)
    assert caught.value.code == "KZ322"
    with loop.open() as opened:
        assert list(opened.ledger.events(opened.name)) == []


def test_environment_of_a_session_reaches_the_place(project: Path) -> None:
    loop_in(project, "python")
    (project / "conf" / "prod").mkdir()
    with loop_of(project, "prod").open() as opened:
        assert opened.request("train", "turn").env == "prod"


def test_catalog_gets_the_records_that_it_does_not_declare(project: Path) -> None:
    own = RecordDataset(filepath=project / "mine.json")
    catalog, loop = DataCatalog(datasets={"kaizen_verdict": own}), loop_in(project, "in_process")
    turn.add_datasets(loop, train.create_pipeline(OWN, in_process=True) + promote.create_pipeline(), catalog)
    assert catalog["kaizen_verdict"] is own
    assert catalog.load("kaizen_loop") == loop
    record = project / ".kaizen/loops/nyc/flights/kedro/candidate.json"
    assert catalog["kaizen_candidate"]._describe() == {"filepath": str(record)}
    assert "weather" not in catalog
