"""The provider as Airflow sees it: metadata, connection form, links, settings; and that nothing heavy comes along."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import jsonschema
import pytest

airflow = pytest.importorskip("airflow", reason="apache-airflow is not installed: pip install 'kaizen-mlops[airflow]'")

from kaizen_airflow.get_provider_info import get_provider_info  # noqa: E402

FACE = Path(import_module("kaizen_airflow").__file__).parent
HEAVY = {
    "dvc",
    "great_expectations",
    "kedro",
    "mlflow",
    "numpy",
    "pandas",
    "polars",
    "pyarrow",
    "skops",
    "sklearn",
    "torch",
}
DAG_FILE = """
from kaizen_airflow import IngestDag, MonitoringDag, ReconcileDag, ScoringDag, TrainingDag

dags = [kind({spec!r}) for kind in (IngestDag, ScoringDag, MonitoringDag, TrainingDag, ReconcileDag)]
"""


def test_the_metadata_is_what_airflows_schema_asks_for() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)
    assert get_provider_info()["package-name"] == "kaizen-mlops"


def test_every_module_on_disk_is_listed_and_every_listed_one_can_be_imported() -> None:
    info = get_provider_info()
    for kind in ("operators", "hooks", "triggers"):
        listed = {module for entry in info[kind] for module in entry["python-modules"]}
        on_disk = {f"kaizen_airflow.{kind}.{p.stem}" for p in (FACE / kind).glob("*.py") if p.stem != "__init__"}
        assert listed == on_disk
        for module in listed:
            import_module(module)
    for path in (*info["extra-links"], *info["notifications"]):
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(module), name)


def test_airflow_itself_finds_provider_form_links_and_settings() -> None:
    from airflow.configuration import conf
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    assert "kaizen-mlops" in manager.providers
    assert manager.hooks["kaizen"].hook_name == "Kaizen"
    assert manager.field_behaviours["kaizen"]["relabeling"] == {"password": "Ledger password"}
    fields = {name for name in manager.connection_form_widgets if name.startswith("extra__kaizen__")}
    assert fields == {"extra__kaizen__ledger", "extra__kaizen__tracking", "extra__kaizen__home"}
    links = {f"kaizen_airflow.links.stage.{name}" for name in ("TrackingRunLink", "ReportLink", "DataReportLink")}
    assert links <= set(manager.extra_links_class_names)
    assert conf.getboolean("kaizen", "preload") is False


def test_the_entry_points_load_in_a_bare_interpreter() -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); import kaizen_airflow.get_provider_info as g; print(g)"
    subprocess.run([sys.executable, "-I", "-S", "-c", program, str(FACE.parent)], check=True)


def test_parsing_a_loops_dags_imports_no_library_of_a_stage(tmp_path: Path) -> None:
    from tests.loops import make_loop

    project = make_loop(tmp_path / "rail")
    file = tmp_path / "dags.py"
    file.write_text(DAG_FILE.format(spec=str(project.spec)))
    program = f"""
import json, runpy, sys
found = runpy.run_path({str(file)!r})
print(json.dumps([sorted(d.dag_id for d in found["dags"]), sorted({{n.partition(".")[0] for n in sys.modules}})]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ids, loaded = json.loads(done.stdout.splitlines()[-1])
    kinds = ("ingest", "monitoring", "reconcile", "scoring", "training")
    assert ids == [f"rail.delays_{kind}" for kind in kinds]
    assert set(loaded) & HEAVY == set()


def test_the_face_uses_airflow_through_its_public_doors_only() -> None:
    import ast

    allowed = ("airflow.sdk", "airflow.triggers.base", "airflow.plugins_manager", "airflow.listeners")
    inside = ("plugin.py", "reports.py")  # which run in Airflow's own processes, where tasks never are
    # Whose operator is subclassed, and whose hook makes the clients.
    of_a_provider = dict.fromkeys(("docker.py", "planned.py", "engines.py"), "airflow.providers.docker")
    for path in FACE.rglob("*.py"):
        if path.name in inside:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                doors = (*allowed, of_a_provider.get(path.name, "airflow.sdk"))
                assert not name.startswith("airflow") or name.startswith(doors), f"{path.name}: {name}"
