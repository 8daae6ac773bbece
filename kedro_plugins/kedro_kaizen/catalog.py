"""``kedro kaizen catalog``: what the spec says of tables, where Kedro's catalog finds it.

The words go into a file of their own, ``conf/base/catalog_kaizen.yml``, under a key that Kedro makes no dataset of. An
entry of the project's own catalog takes them in by their table's name::

    flights:
      type: kedro_kaizen.datasets.TableDataset
      table: flights
      metadata: {kaizen: "${_kaizen.flights}"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kaizen.catalogue import describe
from kaizen.errors import SpecError
from kaizen.publish import publish_text
from kaizen.spec import load_spec
from kedro_kaizen.project import SPEC

FILE = Path("conf/base/catalog_kaizen.yml")

_HEAD = "# Written by `kedro kaizen catalog` from kaizen.yml. Entries of the catalog take it in: ${_kaizen.TABLE}\n"


def write(project: Path) -> Path:
    """Write the file of a project from its spec, and return its path. Raises ``SpecError``."""
    return publish_text(project / FILE, _text(project))


def check(project: Path, env: str | None) -> None:
    """Compare the file, and every dataset that names a table, with the spec.

    Raises ``SpecError``: KZ347 with all that is out of step; what ``load_spec`` raises.
    """
    file = project / FILE
    stale = not file.is_file() or file.read_text(encoding="utf-8") != _text(project)
    found = [f"{FILE} is {'another' if file.is_file() else 'missing'}"] if stale else _differing(project, env)
    if found:
        raise SpecError(
            "KZ347",
            "the catalog is out of step with the spec",
            where=str(project),
            value="; ".join(found),
            limit="what kaizen.yml says of its tables",
            action='run `kedro kaizen catalog`; datasets take it in by metadata: {kaizen: "${_kaizen.TABLE}"}',
        )


def _text(project: Path) -> str:
    tables = _tables(project)
    return _HEAD + yaml.safe_dump({"_kaizen": tables}, sort_keys=False, allow_unicode=True, width=116)


def _tables(project: Path) -> dict[str, Any]:
    spec = load_spec(project / SPEC)
    return {table: describe(spec, table) for table in spec.data.tables}


def _differing(project: Path, env: str | None) -> list[str]:
    """The datasets that say something else of a table, as Kedro reads them."""
    from kedro.framework.session import KedroSession

    created: Any = KedroSession.create(project_path=project, env=env)
    with created as session:
        entries = dict(session.load_context().config_loader["catalog"])
    tables, found = _tables(project), []
    for name, entry in entries.items():
        said = (entry.get("metadata") or {}).get("kaizen") if isinstance(entry, dict) else None
        if isinstance(said, dict) and "table" in said and said != tables.get(said["table"]):
            found.append(f"dataset {name} says something else of table {said['table']}")
    return found
