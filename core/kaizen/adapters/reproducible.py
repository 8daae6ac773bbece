"""A model folder with the same bytes for the same model: no clock, no memory address, no hash order in it.

MLflow writes a random id and the time into ``MLmodel``. A skops file is a zip with the time of day, whose nodes and
members are called after memory addresses, and whose sets stand in the order of this process. Two trainings that made
the same model would have two digests; the loop could not tell that they agree.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Hashable
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import yaml

from kaizen.canonical import digest
from kaizen.publish import build_manifest

_SCHEMA = "schema.json"
_NO_TIME = "1970-01-01 00:00:00.000000"


def make_reproducible(folder: Path, metadata: str, archive: str) -> None:
    """Take out of a freshly saved model folder what depends on when, where and in which process it was saved.

    Args:
        folder: as MLflow left it; changed in place, to be called before anybody reads it.
        metadata: name of the ``MLmodel`` file. Its ``model_uuid`` becomes a name (version 5) of all other content.
        archive: name of the skops file.
    """
    before = (folder / archive).stat().st_size
    _rewrite_archive(folder / archive)
    facts = yaml.safe_load((folder / metadata).read_text(encoding="utf-8"))
    (folder / metadata).unlink()
    facts["model_size_bytes"] += (folder / archive).stat().st_size - before
    facts |= {"utc_time_created": _NO_TIME, "model_uuid": None}
    facts["model_uuid"] = uuid.uuid5(uuid.NAMESPACE_OID, digest([facts, build_manifest(folder)])).hex
    (folder / metadata).write_text(yaml.safe_dump(facts, allow_unicode=True), encoding="utf-8")


def _rewrite_archive(path: Path) -> None:
    draft = path.with_suffix(".draft")
    with ZipFile(path) as old, ZipFile(draft, "w") as new:
        names = _Names(old.namelist())
        schema = names.apply(json.loads(old.read(_SCHEMA)))
        # A ZipInfo of its own has a fixed date, and no rights of this machine.
        for former, name in names.members.items():
            new.writestr(ZipInfo(name), old.read(former))
        new.writestr(ZipInfo(_SCHEMA), json.dumps(schema, separators=(",", ":")))
    draft.replace(path)


class _Names:
    """Names for a skops file's nodes and members in order of appearance, instead of addresses."""

    def __init__(self, stored: Collection[str]) -> None:
        self.stored = set(stored) - {_SCHEMA}
        self.members: dict[str, str] = {}
        self._numbers: dict[Hashable, int] = {}

    def apply(self, value: Any) -> Any:
        """A JSON value of the schema under its new names."""
        if isinstance(value, list):
            return [self.apply(item) for item in value]
        if isinstance(value, dict):
            _sort_set(value, self.stored)
            return {key: self._node(value) if _is_id(key, item) else self.apply(item) for key, item in value.items()}
        if isinstance(value, str) and value in self.stored:
            return self.members.setdefault(value, f"{len(self.members) + 1}{Path(value).suffix}")
        return value

    def _node(self, node: dict[str, Any]) -> int:
        # Whether equal constants are one object is Python's choice of the day; they are read back alike either way.
        constant = node.get("__loader__") == "JsonNode"
        identity = (node["__class__"], node["content"]) if constant else node["__id__"]
        # From 1: skops takes 0 for "not shared".
        return self._numbers.setdefault(identity, len(self._numbers) + 1)


def _is_id(key: str, item: Any) -> bool:
    # An attribute of the model may have that name, but then it is a node.
    return key == "__id__" and isinstance(item, int)


def _sort_set(node: dict[str, Any], stored: Collection[str]) -> None:
    """Sort a set's items in place by their own content, with names that begin anew in each."""
    kind = node.get("__loader__"), node.get("__class__")
    if kind == ("SetNode", "set"):
        items = node["content"]
    elif kind == ("ConstructorFromReduceNode", "frozenset"):
        items = node["content"]["content"][0]["content"]
    else:
        return
    items.sort(key=lambda item: json.dumps(_Names(stored).apply(item)))
