"""Column types: what a table's earlier versions had is what a delivery is held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kaizen.errors import DataRefused
from kaizen.privacy import show
from kaizen.sources import Wanted

_KNOWN = (
    pa.int64(),
    pa.float64(),
    pa.string(),
    pa.bool_(),
    pa.date32(),
    pa.timestamp("us"),
    pa.timestamp("us", "UTC"),
)
TYPES: dict[str, pa.DataType] = {
    **{str(kind): kind for kind in _KNOWN},
    # As the spec names them.
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "date": pa.date32(),
    "time": pa.timestamp("us", "UTC"),
}
"""Types that deliveries are held to, by the names that records and specs have for them; others may change."""


def column_types(schema: pa.Schema) -> dict[str, str]:
    """Column name to type name, in order."""
    return {field.name: str(field.type) for field in schema}


def merge_types(versions: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The types that a table's versions have had: of whole numbers and fractions, fractions."""
    found: dict[str, str] = {}
    for columns in versions:
        for name, kind in columns.items():
            before = found.get(name, "null")
            both = {before, kind}
            found[name] = kind if before == "null" else before if kind == "null" or len(both) == 1 else _both(both)
    return found


def _both(kinds: set[str]) -> str:
    return "double" if kinds == {"int64", "double"} else ""


def widen(one: pa.DataType | None, other: pa.DataType) -> pa.DataType:
    """The type that values of both have; text if there is no other."""
    if one is None or pa.types.is_null(one) or one == other:
        return other
    if pa.types.is_null(other):
        return one
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_nested(one) or pa.types.is_nested(other):
        return pa.unify_schemas([pa.schema([("x", one)]), pa.schema([("x", other)])], promote_options="permissive")[
            0
        ].type
    return pa.string()


def conform(batch: pa.RecordBatch, wanted: Wanted, first_row: int) -> pa.RecordBatch:
    """``batch`` in plain types, and in the expected ones as far as no value changes.

    Raises ``DataRefused`` KZ460 for a column of another type.
    """
    columns, names = [], batch.schema.names
    for name, column in zip(names, batch.columns, strict=True):
        plain = _plain(column)
        expected = TYPES.get(wanted.types.get(name, ""))
        columns.append(plain if expected in (None, plain.type) else _cast(plain, expected, name, first_row, wanted))
    return pa.RecordBatch.from_arrays(columns, names=names)


def without_views(kind: pa.DataType) -> pa.DataType:
    """The same type without Arrow's views of text and bytes, at any depth: Arrow cannot pick rows of them yet."""
    if pa.types.is_struct(kind):
        return pa.struct([_field_without_views(kind.field(i)) for i in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(_field_without_views(kind.key_field), _field_without_views(kind.item_field), kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_field_without_views(kind.value_field), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_field_without_views(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_field_without_views(kind.value_field))
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _field_without_views(inner: pa.Field) -> pa.Field:
    return inner.with_type(without_views(inner.type))


def _plain(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.dictionary_decode())
    if (kept := without_views(kind)) != kind:
        return _plain(column.cast(kept))
    if pa.types.is_large_string(kind):
        return column.cast(pa.string())
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return column.cast(pa.int64())
    if pa.types.is_floating(kind):
        return column.cast(pa.float64())
    return column


def _cast(column: pa.Array, expected: pa.DataType, name: str, first_row: int, wanted: Wanted) -> pa.Array:
    kind = column.type
    numbers = pa.types.is_floating(kind) and expected == pa.int64()
    times = pa.types.is_temporal(kind) and pa.types.is_temporal(expected)
    zones = (
        pa.types.is_timestamp(kind) and pa.types.is_timestamp(expected) and (kind.tz is None) != (expected.tz is None)
    )
    may = pa.types.is_null(kind) or (pa.types.is_integer(kind) and pa.types.is_floating(expected)) or numbers or times
    if may and not zones:
        try:
            return column.cast(expected)
        except pa.ArrowException:
            if numbers:
                # Whole numbers so far, now with fractions: the column becomes one of fractions.
                return column
    raise first_offender(column, expected, name, first_row, wanted)


def first_offender(column: pa.Array, expected: pa.DataType, name: str, first_row: int, wanted: Wanted) -> DataRefused:
    """The refusal of a column whose values are not of the expected type, with the first that is not."""
    low, high = 0, len(column)
    # The shortest beginning that cannot be cast ends with the first offender.
    while low < high:
        middle = (low + high) // 2
        if _casts(column.slice(0, middle + 1), expected):
            low = middle + 1
        else:
            high = middle
    at = min(low, len(column) - 1)
    value = value_of(column, at)
    shown = show(value, name, wanted.private)
    return DataRefused(
        "KZ460",
        "column has values of another type than before",
        where=f"{wanted.where}: column {name}, row {first_row + at}",
        value=repr(shown) if isinstance(value, str) else shown,
        limit=f"{expected}, as in the versions that were taken, or as types of the table says",
        action="correct the rows at the source; if the new type is meant, name it under types of the table",
    )


def value_of(column: pa.Array, at: int) -> Any:
    """One value for people; Python has no times as far away as Arrow has."""
    try:
        return column[at].as_py()
    except (OverflowError, ValueError):
        return f"a {column.type} out of range"


def _casts(column: pa.Array, expected: pa.DataType) -> bool:
    try:
        text = pa.types.is_string(column.type)
        pc.cast(pc.utf8_trim_whitespace(column) if text else column, expected)
    except pa.ArrowException:
        return False
    return bool(text or column.null_count == len(column))
