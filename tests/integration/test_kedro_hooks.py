"""The hooks, and what they cost a project that does not use Kaizen: nothing."""

from __future__ import annotations

import contextvars
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline, node

from kaizen.errors import SpecError
from kedro_kaizen.hooks import hooks

HEAVY = {"dvc", "great_expectations", "kaizen", "mlflow", "sklearn", "skops", "sqlalchemy"}
"""pandas is not among them: Kedro's MemoryDataset loads it where it is installed."""
PLAIN = {
    "pyproject.toml": """
        [tool.kedro]
        package_name = "plain"
        project_name = "Plain"
        kedro_init_version = "1.7.0"
        """,
    "conf/base/parameters.yml": "number: 2",
    "conf/local/.gitkeep": "",
    "conf/base/catalog.yml": "",
    "src/plain/__init__.py": "",
    "src/plain/pipeline_registry.py": """
        from kedro.pipeline import Pipeline, node

        def register_pipelines():
            return {"__default__": Pipeline([node(lambda n: n + 1, "params:number", "result", name="add")])}
        """,
    "observe.py": """
        import json, sys
        from pathlib import Path
        from kedro.framework.session import KedroSession
        from kedro.framework.startup import bootstrap_project

        bootstrap_project(Path.cwd())
        session = KedroSession.create(Path.cwd())
        with session:
            result = session.run()["result"].load()
        plugins = [type(p).__name__ for p in session._hook_manager.get_plugins()]
        print(json.dumps([result, plugins, sorted({name.split(".")[0] for name in sys.modules})]))
        """,
}


def observe(code: str, folder: Path) -> list[object]:
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, text=True, capture_output=True, check=True)
    return list(json.loads(ran.stdout.splitlines()[-1]))


def test_importing_the_hooks_loads_no_library(tmp_path: Path) -> None:
    code = """
        import json, sys
        import kedro.framework.hooks
        before = set(sys.modules)
        import kedro_kaizen.hooks
        print(json.dumps(sorted(set(sys.modules) - before)))
        """
    loaded = [str(name) for name in observe(textwrap.dedent(code), tmp_path)]
    others = [name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names]
    assert others == ["kedro_kaizen", "kedro_kaizen.hooks"]


def test_plain_project_notices_nothing(tmp_path: Path) -> None:
    for name, text in PLAIN.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
    before = sorted(tmp_path.rglob("*"))
    result, plugins, loaded = observe((tmp_path / "observe.py").read_text(), tmp_path)
    assert result == 3
    assert "KaizenHooks" in plugins
    assert not HEAVY & set(loaded)
    made = [path for path in sorted(tmp_path.rglob("*")) if path not in before and "__pycache__" not in path.parts]
    assert made == []


def test_pipeline_without_a_turn_keeps_its_catalog(tmp_path: Path) -> None:
    catalog = DataCatalog()
    pipeline = Pipeline([node(len, "rows", "count", name="count")])
    hooks.after_catalog_created(catalog=catalog)
    hooks.before_pipeline_run({"project_path": str(tmp_path), "env": None}, pipeline, catalog)
    assert list(catalog) == []


def test_turn_without_a_spec_is_refused_before_it_runs(tmp_path: Path) -> None:
    pipeline = Pipeline([node(len, "kaizen_loop", "kaizen_ingested", name="ingest")])
    with pytest.raises(SpecError) as caught:
        hooks.before_pipeline_run({"project_path": str(tmp_path), "env": "local"}, pipeline, DataCatalog())
    assert caught.value.code == "KZ301"
    assert str(tmp_path / "conf/base/kaizen.yml") in str(caught.value)


def test_session_is_known_to_pipelines_that_are_made_in_it(tmp_path: Path) -> None:
    from kedro_kaizen.project import SESSION, loop_of

    def begin_session() -> None:
        hooks.after_context_created(SimpleNamespace(project_path=tmp_path, env="prod"))
        assert SESSION.get() == loop_of(tmp_path, "prod")

    contextvars.copy_context().run(begin_session)
