"""Masking: policies of private columns, applied to Arrow batches as they stream by.

Everything that is stored has gone through ``Mask.apply``, and nothing else sees the rows before: a batch goes in, the
same rows with fewer or other columns come out. What comes out for a schema is known before (``masked_schema``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizen.errors import DataRefused
from kaizen.privacy import UNITS, Policy
from kaizen.private_key import HASH, fingerprint

LENGTH = 32
"""Hexadecimal digits of a hash: 128 bits. Among a thousand million different values the chance that any two meet is

10^18 / 2^129, about one in 10^21.
"""

_Place = tuple[str, int]
"""Where a batch's column is: the delivery and its name, and the number of the first row."""
_BLOCK = 64
"""Bytes of a block of SHA-256."""


def hashes(policies: Mapping[str, Policy]) -> bool:
    """Whether one of them needs a key."""
    return any(policy.how == "hash" for policy in policies.values())


class Mask:
    """Policies with their key; ``apply`` has no state, so that batches may come in any order.

    Args:
        key: needed where a policy hashes. zone: in which times with a zone are truncated; without one, as they stand.
    """

    def __init__(self, policies: Mapping[str, Policy], key: bytes = b"", zone: str = "UTC") -> None:
        self.hashes = hashes(policies)
        if self.hashes and not key:
            raise ValueError("a policy hashes, and there is no key")
        self.policies, self.zone = dict(policies), zone
        self._hash = KeyedHash(key)
        self._fingerprint = fingerprint(key) if key else ""

    def apply(self, batch: pa.RecordBatch, where: str = "", first_row: int = 1) -> pa.RecordBatch:
        """The rows of ``batch``, masked. Raises ``DataRefused``: KZ480, KZ481; in them its place and first row."""
        schema = masked_schema(batch.schema, self.policies, where)
        arrays = [
            self._mask(column, field.type, self.policies.get(field.name), (f"{where}: column {field.name}", first_row))
            for column, field in zip(batch.columns, batch.schema, strict=True)
            if not _dropped(field.name, self.policies)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema) if arrays else batch.select([])

    def said(self, columns: list[str]) -> dict[str, str]:
        """What became of those of ``columns`` that are private, for a record; a hash names its key's fingerprint."""
        shown = {"hash": f"{HASH}{self._fingerprint}"}
        return {c: shown.get(p.how, str(p)) for c, p in self.policies.items() if c in columns}

    def _mask(self, values: pa.Array, kind: pa.DataType, policy: Policy | None, where: _Place) -> pa.Array:
        if policy is None or (pa.types.is_null(kind) and policy.how != "hash"):
            return values
        if pa.types.is_dictionary(kind):
            inner = self._mask(values.dictionary, kind.value_type, policy, where)
            return inner.take(values.indices)
        if policy.how == "hash":
            return self._hash.values(values)
        if policy.how == "generalise":
            return _generalise(values, policy, where)
        if _is_text(kind):
            # Views of text have no kernels yet.
            values = values.cast(pa.string())
        if policy.by in UNITS:
            return _truncate_time(values, str(policy.by), self.zone, where)
        return pc.utf8_slice_codeunits(values, 0, policy.by)


class KeyedHash:
    """HMAC-SHA256 (RFC 2104) of values in their canonical form, cut to ``LENGTH``.

    Equal values have equal hashes in every column, table and type: see ``canonical``.
    """

    def __init__(self, key: bytes) -> None:
        key = hashlib.sha256(key).digest() if len(key) > _BLOCK else key
        key = key.ljust(_BLOCK, b"\0")
        # The states after the key's block: copying them costs less than half of a call of hmac.digest.
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    def __call__(self, message: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()[: LENGTH // 2]

    def value(self, value: Any) -> str | None:
        """The hash of one Python value, as ``values`` writes it: to look somebody up who is known by name."""
        found = self.values(pa.array([value]))[0].as_py()
        return None if found is None else str(found)

    def values(self, values: pa.Array) -> pa.Array:
        """The hashes as text, in the order of ``values``; nulls (and floats that are no number) stay null."""
        encoded = values.dictionary_encode()
        messages = canonical(encoded.dictionary)
        hashes = _as_text(self, messages)
        return hashes.take(encoded.indices)


def _as_text(hash_of: KeyedHash, messages: list[bytes | None]) -> pa.Array:
    data = b"".join([hash_of(message) for message in messages if message is not None]).hex().encode()
    present = np.array([message is not None for message in messages], dtype=bool)
    offsets = np.concatenate([[0], np.cumsum(present * LENGTH)]).astype("int32")
    validity = pa.py_buffer(np.packbits(present, bitorder="little").tobytes())
    buffers = [validity, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(messages), buffers)


def canonical(values: pa.Array) -> list[bytes | None]:
    """The bytes that stand for each value in its hash: what is equal as a key is equal here, whatever its type.

    Text as it is, in UTF-8 (no trimming, no folding of case); whole numbers in decimal, whatever their type, so that
    ``5``, ``5.0`` (a column of whole numbers with a gap is one of floats) and the text ``5`` are one; other numbers
    as Python writes them; ``true`` and ``false``; dates and times in ISO 8601, UTC if they have a zone; bytes as
    they are. NaN is missing.
    """
    kind = values.type
    if pa.types.is_integer(kind):
        return [None if value is None else b"%d" % value for value in values.to_pylist()]
    if pa.types.is_timestamp(kind):
        # In microseconds: finer ones have no Python type.
        values = values.cast(pa.timestamp("us", "UTC" if kind.tz else None), safe=False)
    return [_canonical_value(value) for value in values.to_pylist()]


def _canonical_value(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            return None if math.isnan(value) else str(value).encode()
        if value == int(value):
            return b"%d" % int(value)
        return (repr(value) if isinstance(value, float) else f"{value.normalize():f}").encode()
    return str(value.isoformat() if hasattr(value, "isoformat") else value).encode()


def masked_schema(schema: pa.Schema, policies: Mapping[str, Policy], where: str = "") -> pa.Schema:
    """The schema after masking. Raises ``DataRefused`` KZ480 for a policy that does not fit its column's type.

    hash: text. truncate: text, or the time's own type. generalise: whole numbers stay whole (64 bits) if the step or
    all edges are, else floats.
    """
    fields = []
    for field in schema:
        policy = policies.get(field.name)
        if policy is None:
            fields.append(field)
        elif policy.how != "drop":
            kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            masked = _masked_type(kind, policy)
            if masked is None:
                raise DataRefused(
                    "KZ480",
                    "a policy does not fit its column",
                    where=f"{where}: column {field.name}",
                    value=f"{policy} of {field.type}",
                    limit="hash: no list or mapping; truncate N: text; truncate to a unit: times; generalise: numbers",
                    action="choose another policy in data.private",
                )
            fields.append(pa.field(field.name, masked))
    return pa.schema(fields)


def _dropped(column: str, policies: Mapping[str, Policy]) -> bool:
    return column in policies and policies[column].how == "drop"


def _masked_type(kind: pa.DataType, policy: Policy) -> pa.DataType | None:
    if pa.types.is_null(kind):
        # Of a column without a value nothing is known.
        return kind if policy.how != "hash" else pa.string()
    if policy.how == "hash":
        return None if pa.types.is_nested(kind) else pa.string()
    if policy.how == "generalise":
        return _generalised_type(kind, policy)
    if _is_text(kind):
        return pa.string()
    times = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    return kind if times and policy.by in UNITS else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _generalised_type(kind: pa.DataType, policy: Policy) -> pa.DataType | None:
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return None
    steps = policy.by if isinstance(policy.by, tuple) else (policy.by,)
    whole = pa.types.is_integer(kind) and not pa.types.is_uint64(kind) and all(isinstance(s, int) for s in steps)
    return pa.int64() if whole else pa.float64()


_CUT = {"day": 10, "month": 7, "year": 4}
"""Characters of an ISO 8601 date down to a unit."""


def _truncate_time(values: pa.Array, unit: str, zone: str, where: _Place) -> pa.Array:
    kind = values.type
    if _is_text(kind):
        # Not text that happens to begin like one: all or nothing. What was truncated before stays as it is.
        fits = pc.match_substring_regex(values, r"^\d{4}(-\d{2}(-\d{2}([T ]\d{2}:\d{2}[0-9:.,Z+-]*)?)?)?$")
        _refuse_unless(pc.fill_null(fits, True), where, f"a date of ISO 8601, to be truncated to the {unit}")
        return pc.utf8_slice_codeunits(values, 0, _CUT[unit])
    if pa.types.is_timestamp(kind) and kind.tz:
        local = values.cast(pa.timestamp(kind.unit, zone))
        return pc.floor_temporal(local, unit=unit).cast(kind)
    return pc.floor_temporal(values, unit=unit).cast(kind) if len(values) else values


def _generalise(values: pa.Array, policy: Policy, where: _Place) -> pa.Array:
    """To the lower end of the step or the interval. What is below the first edge becomes null."""
    kind = _generalised_type(values.type, policy)
    numbers = values.cast(kind, safe=False)
    missing = numbers.is_null().to_numpy(zero_copy_only=False)
    plain = pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False)
    if isinstance(policy.by, tuple):
        edges = np.array(policy.by, dtype=plain.dtype)
        place = np.searchsorted(edges, plain, side="right") - 1
        missing = missing | (place < 0)
        lower = edges[np.maximum(place, 0)]
        lower = np.where(np.isnan(plain), plain, lower) if plain.dtype.kind == "f" else lower
    else:
        step = plain.dtype.type(policy.by)
        lower = np.floor_divide(plain, step) * step
        # The lowest whole numbers have no lower end of 64 bits.
        _refuse_unless(pa.array(~(lower > plain)), where, f"numbers that have a lower end at a step of {policy.by}")
    return pa.array(lower, type=kind, mask=missing)


def _refuse_unless(fits: pa.Array, where: _Place, limit: str) -> None:
    if pc.all(fits).as_py() is not False:
        return
    column, first_row = where
    raise DataRefused(
        "KZ481",
        "a value cannot be masked",
        where=f"{column}, row {first_row + pc.index(fits, False).as_py()}",
        value="not shown",
        limit=limit,
        action="correct the row at the source, or choose another policy in data.private",
    )
