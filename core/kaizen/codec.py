"""Frozen dataclasses to JSON values and back, strictly: what is not declared is refused, never ignored.

Supported field types: ``str int float bool``, ``timedelta`` (as ``"90s" "15m" "2h" "7d"``), ``Literal``, ``X | None``,
``tuple[X, ...]``, ``dict[str, X]``, ``Any`` and other dataclasses. Spec and records share it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import sys
import types
import typing
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_FLOAT = sys.float_info.max

LATER = {"later": True}
"""``field(default=..., metadata=LATER)`` came after its dataclass was first released: at its default it is not written.

So what was written before reads back as the same value, and its digest stays what it was.
"""


class DecodeError(ValueError):
    """A JSON value is not what its dataclass declares.

    Attributes:
        path: key path from the root, e.g. ``gates[1].at_least``.
        what: what is wrong. value: what was found. limit: what is accepted. hint: the nearest known name, or "".
    """

    def __init__(self, path: str, what: str, value: Any, limit: str, hint: str = "") -> None:
        super().__init__(f"{path}: {what}")
        self.path, self.what, self.value, self.limit, self.hint = path, what, value, limit, hint


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """The known name most like ``name``, or "" if none is close."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), "")


def parse_duration(text: str) -> timedelta:
    """``"90s" "15m" "2h" "7d"``, at most six digits, as a ``timedelta``; anything else is a ``ValueError``."""
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if not match:
        raise ValueError(text)
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def format_duration(value: timedelta) -> str:
    """The shortest text that ``parse_duration`` reads as ``value`` (whole seconds)."""
    seconds = int(value.total_seconds())
    unit = next(u for u in ("d", "h", "m", "s") if seconds % _UNITS[u] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def encode(value: Any) -> Any:
    """A dataclass instance (or a value inside one) as JSON values.

    Fields that equal their default stay in, but ``LATER`` ones.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {f.name: encode(v) for f, v in found if not ("later" in f.metadata and v == _default(f))}
    if isinstance(value, tuple | list):
        return [encode(v) for v in value]
    if isinstance(value, dict):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, timedelta):
        return format_duration(value)
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def decode(kind: type[T], value: Any, path: str = "") -> T:
    """``value`` (JSON values) as an instance of ``kind``; raises ``DecodeError`` at the first thing undeclared."""
    return typing.cast(T, _decode(kind, value, path))


def _decode(kind: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _decode_union(typing.get_args(kind), value, path)
    if origin is typing.Literal:
        return _decode_literal(typing.get_args(kind), value, path)
    if origin is tuple:
        return _decode_tuple(typing.get_args(kind)[0], value, path)
    if origin is dict:
        return _decode_dict(typing.get_args(kind)[1], value, path)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, path)
    return _decode_scalar(kind, value, path)


def _decode_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    others = [k for k in kinds if k is not type(None)]
    for kind in others[:-1]:
        try:
            return _decode(kind, value, path)
        except DecodeError:
            continue
    return _decode(others[-1], value, path)


def _decode_literal(choices: tuple[Any, ...], value: Any, path: str) -> Any:
    # 1 == True in Python, so the type is compared as well.
    if any(value == c and type(value) is type(c) for c in choices):
        return value
    hint = nearest(value, [str(c) for c in choices]) if isinstance(value, str) else ""
    raise DecodeError(path, "unknown value", value, "one of " + ", ".join(map(str, choices)), hint)


def _decode_tuple(item: Any, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise DecodeError(path, "wrong type", _shown(value), "a list")
    return tuple(_decode(item, v, f"{path}[{i}]") for i, v in enumerate(value))


def _decode_dict(item: Any, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise DecodeError(path, "wrong type", _shown(value), "a mapping with text keys")
    return {k: _decode(item, v, _join(path, k)) for k, v in value.items()}


def _decode_dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise DecodeError(path, "wrong type", _shown(value), "a mapping")
    hints = _hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in value:
        if key not in fields:
            raise DecodeError(
                _join(path, str(key)), "unknown key", key, "one of " + ", ".join(fields), nearest(str(key), fields)
            )
    found = {name: _decode(hints[name], value[name], _join(path, name)) for name in fields if name in value}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in found:
            raise DecodeError(_join(path, name), "missing key", None, f"{name} is required")
    return kind(**found)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is timedelta:
        try:
            return parse_duration(value)
        except (TypeError, ValueError):
            raise DecodeError(
                path, "not a duration", _shown(value), 'a number with a unit: "90s", "15m", "2h", "7d"'
            ) from None
    if kind is float and type(value) in (int, float) and abs(value) <= _MAX_FLOAT:
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    names = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}
    raise DecodeError(path, "wrong type", _shown(value), names[kind])


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _shown(value: Any) -> str:
    return f"{value!r:.80} ({type(value).__name__})"
