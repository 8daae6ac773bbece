"""JSON values to dataclasses and back: what is declared comes through unchanged, everything else is refused by name."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizen import codec


@dataclass(frozen=True)
class Wheel:
    size: int
    spokes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Bicycle:
    name: str
    kind: Literal["road", "track", 3, True]
    front: Wheel
    rear: Wheel | None = None
    service: timedelta = timedelta(days=365)
    weight: float = 0.0
    sold: bool = False
    parts: dict[str, Wheel] = field(default_factory=dict)
    label: float | str | None = None
    anything: Any = None


SMALLEST: dict[str, Any] = {"name": "a", "kind": "road", "front": {"size": 28}}


def refused(value: Any, kind: Any = Bicycle) -> codec.DecodeError:
    with pytest.raises(codec.DecodeError) as refusal:
        codec.decode(kind, value)
    return refusal.value


def test_what_is_left_out_has_its_default() -> None:
    assert codec.decode(Bicycle, SMALLEST) == Bicycle("a", "road", Wheel(28))


wheels = st.builds(
    Wheel, st.integers(), st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3).map(tuple)
)
bicycles = st.builds(
    Bicycle,
    st.text(),
    st.sampled_from(["road", "track", 3, True]),
    wheels,
    st.none() | wheels,
    st.integers(0, 999_999).map(lambda n: timedelta(seconds=n)),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.dictionaries(st.text(), wheels, max_size=2),
    st.none() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.lists(st.integers()),
)


@given(bicycles)
def test_anything_declared_survives_json(bicycle: Bicycle) -> None:
    assert codec.decode(Bicycle, json.loads(json.dumps(codec.encode(bicycle)))) == bicycle


@pytest.mark.parametrize(
    ("value", "path", "what", "limit", "hint"),
    [
        ({**SMALLEST, "wieght": 3}, "wieght", "unknown key", "one of name, kind, front, rear, service", "weight"),
        ({**SMALLEST, "zzz": 3}, "zzz", "unknown key", "one of name", ""),
        ({**SMALLEST, 7: 3}, "7", "unknown key", "one of name", ""),
        ({"name": "a", "kind": "road"}, "front", "missing key", "front is required", ""),
        ({**SMALLEST, "kind": "raod"}, "kind", "unknown value", "one of road, track, 3, True", "road"),
        ({**SMALLEST, "kind": 1}, "kind", "unknown value", "one of road", ""),
        ({**SMALLEST, "kind": 3.0}, "kind", "unknown value", "one of road", ""),
        ({**SMALLEST, "front": {"size": True}}, "front.size", "wrong type", "a whole number", ""),
        ({**SMALLEST, "front": {"size": 1.0}}, "front.size", "wrong type", "a whole number", ""),
        ({**SMALLEST, "front": [28]}, "front", "wrong type", "a mapping", ""),
        ({**SMALLEST, "front": None}, "front", "wrong type", "a mapping", ""),
        ({**SMALLEST, "front": {"size": 1, "spokes": [1, "2"]}}, "front.spokes[1]", "wrong type", "a finite", ""),
        ({**SMALLEST, "front": {"size": 1, "spokes": "12"}}, "front.spokes", "wrong type", "a list", ""),
        ({**SMALLEST, "rear": {"size": "1"}}, "rear.size", "wrong type", "a whole number", ""),
        ({**SMALLEST, "weight": True}, "weight", "wrong type", "a finite number", ""),
        ({**SMALLEST, "weight": float("nan")}, "weight", "wrong type", "a finite number", ""),
        ({**SMALLEST, "weight": float("inf")}, "weight", "wrong type", "a finite number", ""),
        ({**SMALLEST, "weight": 10**400}, "weight", "wrong type", "a finite number", ""),
        ({**SMALLEST, "sold": 1}, "sold", "wrong type", "true or false", ""),
        ({**SMALLEST, "name": 1}, "name", "wrong type", "text", ""),
        ({**SMALLEST, "parts": {"bell": 1}}, "parts.bell", "wrong type", "a mapping", ""),
        ({**SMALLEST, "parts": {1: {"size": 1}}}, "parts", "wrong type", "a mapping with text keys", ""),
        ({**SMALLEST, "parts": []}, "parts", "wrong type", "a mapping with text keys", ""),
        ({**SMALLEST, "label": []}, "label", "wrong type", "text", ""),
        ([], "", "wrong type", "a mapping", ""),
    ],
)
def test_what_is_not_declared_is_refused_by_its_path(value: Any, path: str, what: str, limit: str, hint: str) -> None:
    error = refused(value)
    assert (error.path, error.what, error.hint) == (path, what, hint)
    assert error.limit.startswith(limit)


def test_a_wrong_value_is_shown_with_its_type_and_not_at_length() -> None:
    assert refused({**SMALLEST, "name": 5}).value == "5 (int)"
    assert len(refused({**SMALLEST, "name": ["long"] * 1000}).value) < 100


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604800), ("999999d", 86399913600)]
)
def test_durations(text: str, seconds: int) -> None:
    assert codec.parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "7", "d", "-7d", "7 d", "7D", "1.5h", "7d ", "7d\n", "P7D", "1000000s", "\u0663d", "9" * 5000 + "d"]
)
def test_other_texts_are_not_durations(text: str) -> None:
    error = refused({**SMALLEST, "service": text})
    assert (error.path, error.what) == ("service", "not a duration")


def test_a_number_without_a_unit_is_not_a_duration() -> None:
    assert refused({**SMALLEST, "service": 7}).value == "7 (int)"


@given(st.integers(0, 999_999), st.sampled_from("smhd"))
def test_a_duration_is_written_so_that_it_reads_the_same(number: int, unit: str) -> None:
    value = codec.parse_duration(f"{number}{unit}")
    assert codec.parse_duration(codec.format_duration(value)) == value


@pytest.mark.parametrize(("seconds", "text"), [(0, "0d"), (59, "59s"), (60, "1m"), (90, "90s"), (86400, "1d")])
def test_a_duration_is_written_in_the_largest_unit_that_fits(seconds: int, text: str) -> None:
    assert codec.format_duration(timedelta(seconds=seconds)) == text


def test_a_field_that_came_later_is_written_only_if_it_says_something():
    @dataclass(frozen=True)
    class Grown:
        name: str
        labels: dict[str, int] = field(default_factory=dict, metadata=codec.LATER)
        note: str = field(default="", metadata=codec.LATER)

    assert codec.encode(Grown("a")) == {"name": "a"}
    assert codec.encode(Grown("a", {"x": 1}, "n")) == {"name": "a", "labels": {"x": 1}, "note": "n"}
    assert Grown("a", labels={}) == Grown("a")
