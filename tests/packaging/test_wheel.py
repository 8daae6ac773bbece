"""The wheel holds what a user needs, nothing else, and its metadata keeps its promises."""

from __future__ import annotations

import ast
import configparser
import re
import tomllib
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import kaizen

if TYPE_CHECKING:
    import zipfile


def dist_info(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"kaizen_mlops-{kaizen.__version__}.dist-info/{name}").decode()


@pytest.fixture
def metadata(wheel: zipfile.ZipFile) -> Message:
    return Parser().parsestr(dist_info(wheel, "METADATA"))


def test_only_the_packages_are_at_the_top(wheel: zipfile.ZipFile) -> None:
    top = {name.partition("/")[0] for name in wheel.namelist()}
    assert top == {"kaizen", "kaizen_airflow", "kedro_kaizen", f"kaizen_mlops-{kaizen.__version__}.dist-info"}


def test_every_file_of_the_packages_and_of_the_template_is_in_it(
    wheel: zipfile.ZipFile, tracked: list[Path], root: Path
) -> None:
    """Dot files too: without conf/local/.gitkeep a new project cannot run."""
    homes = {"core/": "", "kedro_plugins/": "", "providers/": "", "project_template/": "kedro_kaizen/project_template/"}
    expected = set()
    for path in tracked:
        name = path.relative_to(root).as_posix()
        expected |= {inside + name.removeprefix(home) for home, inside in homes.items() if name.startswith(home)}
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == expected
    assert [name for name in shipped if name.endswith("conf/local/.gitkeep")]


def test_no_name_is_shipped_that_belongs_to_somebody_else(wheel: zipfile.ZipFile) -> None:
    """An airflow/__init__.py by accident would hide every provider of a machine."""
    top = {name.partition("/")[0] for name in wheel.namelist()}
    assert top.isdisjoint({"airflow", "tests", "benchmarks", "docs", "dags", "providers", "core"})


def test_users_type_checkers_see_the_types(wheel: zipfile.ZipFile) -> None:
    assert {"kaizen/py.typed", "kaizen_airflow/py.typed", "kedro_kaizen/py.typed"} <= set(wheel.namelist())


def test_the_metadata_names_version_licence_and_pythons(metadata: Message) -> None:
    assert metadata["Name"] == "kaizen-mlops"
    assert metadata["Version"] == kaizen.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    assert "Framework :: Kedro" in metadata.get_all("Classifier", [])


def test_without_an_extra_only_two_libraries_are_needed(metadata: Message) -> None:
    needed = [row for row in metadata.get_all("Requires-Dist", []) if "extra ==" not in row]
    assert [re.match(r"[\w-]+", row).group().lower() for row in needed] == ["pyyaml", "sqlalchemy"]  # type: ignore[union-attr]


def test_every_extra_that_an_error_tells_to_install_exists(metadata: Message, root: Path) -> None:
    named = set()
    for path in [p for home in ("core", "kedro_plugins", "providers") for p in root.glob(f"{home}/**/*.py")]:
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "MissingDependency":
                named |= {value.value for value in call.args[1:] if isinstance(value, ast.Constant)}
    assert named
    assert named <= set(metadata.get_all("Provides-Extra", []))


def test_every_entry_point_leads_to_a_name_in_the_wheel(wheel: zipfile.ZipFile, root: Path) -> None:
    points = configparser.ConfigParser(delimiters=("=",))
    points.read_string(dist_info(wheel, "entry_points.txt"))
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert set(points.sections()) == {"console_scripts", *declared["entry-points"]}
    for section in points.sections():
        for module, _, name in (value.partition(":") for value in points[section].values()):
            source = wheel.read(module.replace(".", "/") + ".py").decode()
            assert re.search(
                rf"^((def|class) {name}\(|{name}\b.*=|from .* import .*\b{name}\b)", source, re.MULTILINE
            ), module


def test_no_path_of_the_machine_that_built_it_is_inside(wheel: zipfile.ZipFile, root: Path) -> None:
    path = re.compile(rf"(?<![\w{{}}./-]){re.escape(str(root))}/".encode())
    assert [name for name in wheel.namelist() if path.search(wheel.read(name))] == []
