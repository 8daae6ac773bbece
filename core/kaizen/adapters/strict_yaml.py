"""YAML as configuration should be: safe, and strict about what YAML lets pass (duplicate keys, aliases, tags)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class StrictYamlError(ValueError):
    """Not plain YAML. ``line`` counts from 1."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(f"line {line}: {problem}")
        self.problem, self.line = problem, line


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise StrictYamlError("a key that is not a scalar", key_node.start_mark.line + 1)
            key = self.construct_object(key_node)
            if key in seen:
                raise StrictYamlError(f"duplicate key {key!r}", key_node.start_mark.line + 1)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ``OSError`` or ``StrictYamlError``."""
    try:
        text = path.read_text(encoding="utf-8")
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise StrictYamlError("aliases are not accepted", _line(event.start_mark))
            if getattr(event, "tag", None):
                raise StrictYamlError("tags are not accepted", _line(event.start_mark))
        values = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except UnicodeDecodeError as error:
        raise StrictYamlError(f"not UTF-8 at byte {error.start}", 1) from error
    except yaml.MarkedYAMLError as error:
        raise StrictYamlError(error.problem or "not YAML", _line(error.problem_mark)) from error
    except yaml.reader.ReaderError as error:
        raise StrictYamlError(f"character {error.character:#x} is not printable", 1) from error
    if not isinstance(values, dict):
        raise StrictYamlError(f"a {type(values).__name__}, not a mapping", 1)
    return values


def _line(mark: Any) -> int:
    return 1 if mark is None else int(mark.line) + 1
