"""The documents say what the code does: examples are read by it, and every key and command is named."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path

import pytest
import yaml

from kaizen.cli import main
from kaizen.spec import Spec, parse_spec

ROOT = Path(__file__).parents[2]


def test_the_spec_in_the_readme_is_one() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    spec = parse_spec(yaml.safe_load(example), "README.md")
    assert (spec.main, spec.labels) == ("orders", "returns")


def keys(kind: type, path: str = "") -> list[str]:
    """Dotted paths of all fields below a spec class, as the reference writes them."""
    found = []
    for name, hint in typing.get_type_hints(kind).items():
        inner = [k for k in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(k)]
        found += keys(typing.cast(type, inner[0]), f"{path}{name}.") if inner else [f"{path}{name}"]
    return found


@pytest.mark.parametrize("key", keys(Spec))
def test_every_key_is_in_the_reference(key: str) -> None:
    text = (ROOT / "docs" / "reference" / "spec.md").read_text(encoding="utf-8")
    assert f"`{key.rpartition('.')[2]}`" in text or f".{key.rpartition('.')[2]}`" in text


def test_every_command_is_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = set(re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE))
    assert commands >= {"turn", "backtest", "status", "doctor"}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in commands if f"`kaizen {name}" not in text] == []


@pytest.mark.parametrize("page", ["clean", "labels"])
def test_the_spec_of_a_how_to_is_part_of_one(page: str) -> None:
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    problem = {"task": "regression", "target": "spent", "entity": ["id"], "timestamp": "at"}
    rest = {"train": {"runner": "callable", "function": "shop.model:train"}}
    values = {"version": 1, "loop": "shop/x", "problem": problem, "gates": [{"metric": "mae", "at_most": 1}], **rest}
    values |= yaml.safe_load(example)
    values["gates"] = [
        {"metric": "roc_auc" if values["problem"]["task"] == "classification" else "mae", "at_least": 0.0}
    ]
    parse_spec(values, page)
