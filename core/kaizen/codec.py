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
from collections.abc import Callable
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

    def below(self, key: str) -> DecodeError:
        """The same error, as the container has it that found it under ``key``."""
        dot = "." if key and self.path and not self.path.startswith("[") else ""
        return DecodeError(f"{key}{dot}{self.path}", self.what, self.value, self.limit, self.hint)


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
    try:
        return typing.cast(T, _decoder(typing.cast(Any, kind))(value))
    except DecodeError as error:
        raise error.below(path) from None


_Decode = Callable[[Any], Any]
"""Turns a JSON value into what was declared; the path of its ``DecodeError`` starts at that value."""


@functools.cache
def _decoder(kind: Any) -> _Decode:
    """Types are looked into once: thousands of records are read of each."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda value: value
    if origin in (typing.Union, types.UnionType):
        return _union(inner)
    if origin is typing.Literal:
        return _literal(inner)
    if origin is tuple:
        return _tuple(_decoder(inner[0]))
    if origin is dict:
        return _dict(_decoder(inner[1]))
    if dataclasses.is_dataclass(kind):
        return functools.partial(_decode_dataclass, kind)
    return _scalar(kind)


def _union(kinds: tuple[Any, ...]) -> _Decode:
    *others, last = (_decoder(kind) for kind in kinds if kind is not type(None))
    optional = type(None) in kinds

    def decode_union(value: Any) -> Any:
        if value is None and optional:
            return None
        for other in others:
            try:
                return other(value)
            except DecodeError:
                continue
        return last(value)

    return decode_union


def _literal(choices: tuple[Any, ...]) -> _Decode:
    def decode_literal(value: Any) -> Any:
        # 1 == True in Python, so the type is compared as well.
        if any(value == c and type(value) is type(c) for c in choices):
            return value
        hint = nearest(value, [str(c) for c in choices]) if isinstance(value, str) else ""
        raise DecodeError("", "unknown value", value, "one of " + ", ".join(map(str, choices)), hint)

    return decode_literal


def _tuple(item: _Decode) -> _Decode:
    def decode_tuple(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise DecodeError("", "wrong type", _shown(value), "a list")
        return tuple(_inside(item, v, f"[{i}]") for i, v in enumerate(value))

    return decode_tuple


def _dict(item: _Decode) -> _Decode:
    def decode_dict(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
            raise DecodeError("", "wrong type", _shown(value), "a mapping with text keys")
        return {k: _inside(item, v, k) for k, v in value.items()}

    return decode_dict


def _inside(decoder: _Decode, value: Any, key: str) -> Any:
    try:
        return decoder(value)
    except DecodeError as error:
        raise error.below(key) from None


def _decode_dataclass(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise DecodeError("", "wrong type", _shown(value), "a mapping")
    decoders, required = _fields(kind)
    for key in value:
        if key not in decoders:
            limit, hint = "one of " + ", ".join(decoders), nearest(str(key), decoders)
            raise DecodeError(str(key), "unknown key", key, limit, hint)
    found = {name: _inside(decoder, value[name], name) for name, decoder in decoders.items() if name in value}
    for name in required:
        if name not in found:
            raise DecodeError(name, "missing key", None, f"{name} is required")
    return kind(**found)


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, _Decode], tuple[str, ...]]:
    """The decoders of a dataclass's fields, and the names of those without a default."""
    hints, missing = typing.get_type_hints(kind), dataclasses.MISSING
    fields = dataclasses.fields(kind)
    required = [f.name for f in fields if f.default is missing and f.default_factory is missing]
    return {f.name: _decoder(hints[f.name]) for f in fields}, tuple(required)


def _scalar(kind: Any) -> _Decode:
    if kind is timedelta:
        return _decode_duration
    if kind is float:
        return _decode_float
    name = {str: "text", int: "a whole number", bool: "true or false"}[kind]

    def decode_scalar(value: Any) -> Any:
        if type(value) is kind:
            return value
        raise DecodeError("", "wrong type", _shown(value), name)

    return decode_scalar


def _decode_float(value: Any) -> float:
    if type(value) in (int, float) and abs(value) <= _MAX_FLOAT:
        return float(value)
    raise DecodeError("", "wrong type", _shown(value), "a finite number")


def _decode_duration(value: Any) -> timedelta:
    try:
        return parse_duration(value)
    except (TypeError, ValueError):
        limit = 'a number with a unit: "90s", "15m", "2h", "7d"'
        raise DecodeError("", "not a duration", _shown(value), limit) from None


def _shown(value: Any) -> str:
    return f"{value!r:.80} ({type(value).__name__})"
