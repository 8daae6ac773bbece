"""Refusals: one tree, codes that are used once, and facts that survive a process boundary."""

from __future__ import annotations

import ast
import json
import pickle
import re
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kaizen import errors
from kaizen.canonical import canonical_json
from kaizen.errors import (
    HeadMoved,
    IntegrityError,
    KaizenError,
    LeaseHeld,
    LedgerError,
    MissingDependency,
    PartitionConflict,
    SpecError,
)
from kaizen.ledger import Lease

ROOT = Path(__file__).parents[2]
SOURCES = [path for name in ("core", "kedro_plugins", "providers") for path in sorted((ROOT / name).rglob("*.py"))]
CLASSES = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, KaizenError)
}
SHARED = {
    "KZ421": "labels of one class: counted before the place is started, or found in it",
    "KZ802": "the registry cannot be used: one code for every adapter of the port",
}
"""Codes that mean the same in more than one module."""


def calls() -> list[tuple[Path, ast.Call, str]]:
    """Every call in the source whose first argument is a code."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            first = node.args[0] if isinstance(node, ast.Call) and node.args else None
            if isinstance(first, ast.Constant) and re.fullmatch(r"KZ\d+", str(first.value)):
                found.append((path, node, str(first.value)))
    return found


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    lines = re.findall(r"[├└]── (\w+)(?: +exit (\d))?", errors.__doc__ or "")
    drawn = {name: int(number) for name, number in lines if number}
    assert drawn == {n: k.exit_code for n, k in CLASSES.items() if k.__bases__ == (KaizenError,)}
    assert {name for name, _ in lines} | {"KaizenError"} == set(CLASSES)


def test_exit_codes_of_families_differ() -> None:
    families = [kind.exit_code for kind in CLASSES.values() if kind.__bases__ == (KaizenError,)]
    assert len(set(families)) == len(families)
    # 0 is success, 1 is Python's own, from 126 on they are the shell's.
    assert all(1 < code < 10 for code in families)


def test_codes_have_the_exit_code_of_the_class_that_they_are_raised_with() -> None:
    raised = [(path, call.func.id, code) for path, call, code in calls() if isinstance(call.func, ast.Name)]
    known = [(path, CLASSES[name], code) for path, name, code in raised if name in CLASSES]
    assert len(known) > 30
    assert [(str(p), kind.__name__, code) for p, kind, code in known if int(code[2]) != kind.exit_code] == []


def test_every_code_has_a_family_and_two_digits() -> None:
    found = {code for path in SOURCES for code in re.findall(r"\bKZ\w*", path.read_text(encoding="utf-8"))}
    concrete = {code for code in found if re.fullmatch(r"KZ\d+", code)}
    families = {str(kind.exit_code) for kind in CLASSES.values()} - {"1"}
    assert {code for code in concrete if len(code) != 5 or code[2] not in families} == set()


def test_a_code_is_raised_in_one_module_only() -> None:
    modules = defaultdict(set)
    for path, _, code in calls():
        modules[code].add(path.relative_to(ROOT).as_posix())
    several = {code: sorted(paths) for code, paths in modules.items() if len(paths) > 1}
    assert {code: paths for code, paths in several.items() if code not in SHARED} == {}


def test_a_refusal_reads_as_its_facts_one_per_line() -> None:
    error = SpecError(
        "KZ303", "unknown key", where="kaizen.yml: gate", value="gate", limit="one of gates", action="fix"
    )
    assert str(error) == (
        "KZ303: unknown key\n  where: kaizen.yml: gate\n  value: gate\n  limit: one of gates\n  next: fix"
    )


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (False, "False"), (0.0, "0.0")])
def test_a_value_that_is_zero_is_shown(value: Any, shown: str) -> None:
    assert str(SpecError("KZ304", "no", value=value)) == f"KZ304: no\n  value: {shown}"


def test_facts_that_are_not_there_are_not_shown() -> None:
    assert str(SpecError("KZ304", "no")) == "KZ304: no"


@pytest.mark.parametrize("kind", [kind for kind in CLASSES.values() if kind is not MissingDependency])
def test_an_error_survives_pickling_with_all_that_it_carries(kind: type[KaizenError]) -> None:
    error = kind("KZ999", "what", where="here", value={"a": 1}, limit=2.5, action="next")
    error.__dict__["extra"] = (1, 2)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert (str(copy), copy.args) == (str(error), error.args)


def test_a_missing_dependency_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(MissingDependency("DVC", "dvc")))
    assert isinstance(copy, MissingDependency)
    assert copy.action == "pip install 'kaizen-mlops[dvc]'"


def test_what_moved_and_who_holds_are_none_until_they_are_known() -> None:
    assert (HeadMoved("KZ501", "moved").head, LeaseHeld("KZ503", "held").lease) == (None, None)


def test_a_held_lease_travels_with_its_error() -> None:
    error = LeaseHeld("KZ503", "held")
    error.lease = Lease("gpu/0", "ada", 3, datetime(2013, 3, 1, tzinfo=UTC))
    assert pickle.loads(pickle.dumps(error)).lease == error.lease


@pytest.mark.parametrize("kind", [kind for kind in CLASSES.values() if kind.__bases__ == (KaizenError,)])
def test_the_facts_as_json_are_the_same_error_again(kind: type[KaizenError]) -> None:
    error = kind(f"KZ{kind.exit_code}99", "what", where="here", value=1, limit="x", action="next")
    again = KaizenError.from_json(json.loads(canonical_json(error.to_json())))
    assert type(again) is kind
    assert again.to_json() == error.to_json()


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (1, 1),
        (0.5, 0.5),
        ("x", "x"),
        ([1, 2], "[1, 2]"),
        (Path("a/b"), "a/b"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_any_fact_can_be_written_as_json(value: Any, plain: Any) -> None:
    facts = IntegrityError("KZ601", "what", value=value, limit=value).to_json()
    assert (facts["value"], facts["limit"]) == (plain, plain)
    assert json.loads(canonical_json(facts)) == facts


@pytest.mark.parametrize(
    ("error", "family"),
    [(PartitionConflict("KZ410", "x"), errors.DataRefused), (HeadMoved("KZ501", "x"), LedgerError)],
)
def test_from_json_gives_the_family_of_the_code(error: KaizenError, family: type[KaizenError]) -> None:
    assert type(KaizenError.from_json(error.to_json())) is family


def test_a_code_of_a_family_nobody_knows_is_still_a_refusal() -> None:
    again = KaizenError.from_json({"code": "KZ042", "what": "of a newer release"})
    assert (type(again), again.code, again.exit_code) == (KaizenError, "KZ042", 1)
