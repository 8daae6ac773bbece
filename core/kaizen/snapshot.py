"""A compiled spec beside its YAML: what must be known of a loop often, such as whenever a DAG file is parsed.

A YAML spec takes milliseconds to read and check, its snapshot microseconds. A snapshot names the bytes that it was made
from, so one that is out of date is never believed: then the YAML is read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaizen import codec
from kaizen.catalogue import Entry, describe
from kaizen.errors import SpecError
from kaizen.publish import publish_json
from kaizen.spec import Spec, load_spec, overlay_path

VERSION = 2


@dataclass(frozen=True)
class Snapshot:
    """What a schedule must know of a loop.

    Attributes:
        loop: ``project/loop``. digest: the spec's. tables: what the spec says of each, as JSON values.
        place: mode and interpreter of the loop's place. catalogue: what people should know of each table.
    """

    loop: str
    digest: str
    tables: dict[str, dict[str, Any]]
    place: dict[str, str]
    catalogue: dict[str, Entry] = field(default_factory=dict)


def read_snapshot(path: Path, env: str) -> Snapshot:
    """The snapshot of the spec at ``path`` in ``env``, or the same from the YAML. Raises ``SpecError`` as it does."""
    try:
        stored = json.loads(snapshot_path(path, env).read_bytes())
        if stored["version"] == VERSION and stored["sources"] == _sources(path, env):
            return Snapshot(**stored["snapshot"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return _snapshot(load_spec(path, env))


def write_snapshot(path: Path, env: str) -> Path:
    """Compile the spec at ``path`` in ``env``; the file that ``read_snapshot`` finds.

    Raises:
        SpecError: the spec is not one, or (KZ314) it changed while it was read.
    """
    before = _sources(path, env)
    spec = load_spec(path, env)
    if _sources(path, env) != before:
        raise SpecError("KZ314", "the spec changed while it was compiled", where=str(path), action="compile it again")
    target = snapshot_path(path, env)
    publish_json(target, {"version": VERSION, "sources": before, "snapshot": vars(_snapshot(spec))})
    return target


def snapshot_path(path: Path, env: str) -> Path:
    """Where the snapshot of a spec lies: beside it, ``.STEM.ENV.json``."""
    return path.with_name(f".{path.stem}.{env}.json")


def _snapshot(spec: Spec) -> Snapshot:
    values: dict[str, Any] = codec.encode(spec.place)
    place = {"mode": values["mode"], "interpreter": values["interpreter"]}
    tables: dict[str, dict[str, Any]] = codec.encode(spec.data.tables)
    # Once is enough: the catalogue has it.
    lean = {name: {k: v for k, v in table.items() if k != "about"} for name, table in tables.items()}
    return Snapshot(spec.loop, spec.digest, lean, place, {name: describe(spec, name) for name in tables})


def _sources(path: Path, env: str) -> dict[str, str]:
    """sha256 of the spec's file and its overlay's, "" for one that is not there."""
    return {name: _digest(file) for name, file in (("spec", path), ("overlay", overlay_path(path, env)))}


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""
