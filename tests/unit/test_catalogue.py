"""The catalogue: what the spec says of a table, and what a version adds to it; nothing that is decided by."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from kaizen.canonical import canonical_json
from kaizen.catalogue import describe, entry, plain_uri, private_columns
from kaizen.errors import SpecError
from kaizen.spec import Spec, parse_spec

VALUES: dict[str, Any] = {
    "version": 1,
    "loop": "rail/delays",
    "problem": {
        "task": "classification",
        "target": "late",
        "label": "delay > 10",
        "entity": ["train"],
        "timestamp": "departs",
    },
    "data": {
        "tables": {
            "schedules": {
                "uri": "landing/*.parquet",
                "partition": "month",
                "columns": ["departs", "train", "distance"],
                "about": {
                    "meaning": "trains that leave",
                    "owner": "ada",
                    "licence": "CC0-1.0",
                    "retention": "730d",
                    "columns": {"distance": {"meaning": "to go", "unit": "km"}, "train": {"meaning": "its name"}},
                },
            },
            "outcomes": {"uri": "outcomes/*.parquet", "partition": "month", "role": "labels"},
        }
    },
    "train": {"runner": "callable", "function": "rail:train"},
    "gates": [{"metric": "roc_auc", "at_least": 0.6}],
}


def spec(about: Any = None) -> Spec:
    values = copy.deepcopy(VALUES)
    if about is not None:
        values["data"]["tables"]["schedules"]["about"] = about
    return parse_spec(values, "kaizen.yml")


def with_private(policies: dict[str, Any]) -> Spec:
    found = spec()
    return replace(found, data=replace(found.data, private=policies))


def test_what_the_spec_says_of_a_table_is_plain_values() -> None:
    about = describe(spec(), "schedules")
    assert about == {
        "table": "schedules",
        "meaning": "trains that leave",
        "owner": "ada",
        "licence": "CC0-1.0",
        "retention": "730d",
        "role": "features",
        "partition": "month",
        "uri": "landing/*.parquet",
        "columns": {"distance": {"meaning": "to go", "unit": "km"}, "train": {"meaning": "its name"}},
    }
    assert json.loads(canonical_json(about)) == about


def test_what_nobody_has_said_is_left_out() -> None:
    assert describe(spec(), "outcomes") == {
        "table": "outcomes",
        "role": "labels",
        "partition": "month",
        "uri": "outcomes/*.parquet",
    }


def test_an_entry_adds_the_facts_of_a_version_and_the_types_of_its_columns() -> None:
    facts = {"rows": 3, "size": 900, "sha256": "a" * 64, "delivered": "2024-01.parquet"}
    found = entry(spec(), "schedules", "2024-01", {"departs": "timestamp", "distance": "double"}, **facts)
    assert found["version"] == "2024-01"
    assert {name: found[name] for name in facts} == facts
    # `train` was dropped at the door, `departs` was never described.
    assert found["columns"] == {
        "distance": {"type": "double", "meaning": "to go", "unit": "km"},
        "departs": {"type": "timestamp"},
    }
    assert list(found["columns"]) == ["distance", "departs"]


@pytest.mark.parametrize(
    ("policy", "name"), [("hash", "hash"), ({"truncate": 7}, "truncate"), ({"generalise": [7, 77]}, "generalise")]
)
def test_private_columns_are_named_with_their_policy_and_nothing_of_its_parameters(policy: Any, name: str) -> None:
    found = with_private({"train": policy, "passenger": "drop"})
    assert private_columns(found, ["train", "distance"]) == {"train": name}
    about = describe(found, "schedules")
    assert about["columns"]["train"] == {"meaning": "its name", "private": name}
    assert "7" not in canonical_json({**about, "retention": ""})
    assert "columns" not in describe(found, "outcomes")
    version = entry(found, "outcomes", "all", {"train": "string"}, rows=1, size=1, sha256="a", delivered="x")
    assert version["columns"] == {"train": {"type": "string", "private": name}}


@pytest.mark.parametrize(
    ("uri", "plain"),
    [
        ("postgresql://ada:secret@db.example:5432/rail?sslkey=secret", "postgresql://db.example:5432/rail"),
        ("s3://bucket/rail/*.parquet", "s3://bucket/rail/*.parquet"),
        ("landing/a@b/*.parquet", "landing/a@b/*.parquet"),
        ("package:rail/data.csv", "package:rail/data.csv"),
    ],
)
def test_a_login_is_no_part_of_the_catalogue(uri: str, plain: str) -> None:
    assert plain_uri(uri) == plain


def test_nothing_is_decided_by_what_people_should_know() -> None:
    described = spec()
    bare = spec({})
    assert described.digest == bare.digest
    schedules = replace(described.data.tables["schedules"], min_rows=2)
    other = replace(described, data=replace(described.data, tables={**described.data.tables, "schedules": schedules}))
    assert other.digest != described.digest


@pytest.mark.parametrize(
    ("about", "code", "where", "said"),
    [
        ({"columns": {"distanc": {}}}, "KZ345", "about.columns.distanc", "did you mean 'distance'?"),
        ({"columns": {"weather": {}}}, "KZ345", "about.columns.weather", "remove the line"),
        ({"retention": "0d"}, "KZ346", "about.retention", "correct it"),
        ({"ownr": "ada"}, "KZ303", "about.ownr", "did you mean 'owner'?"),
        ({"columns": {"train": {"units": "km"}}}, "KZ303", "about.columns.train.units", "did you mean 'unit'?"),
    ],
    ids=str,
)
def test_what_cannot_be_about_a_table_is_refused(about: Any, code: str, where: str, said: str) -> None:
    with pytest.raises(SpecError) as refusal:
        spec(about)
    assert refusal.value.code == code
    assert refusal.value.where.endswith(where)
    assert refusal.value.action == said
