"""Planted private values, and a sweep that finds them in whatever form they may have got out.

Every planted value has a stem in it that nothing else has, so that a part of a value is found as well as a whole one.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, quote_plus

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tests.private_corpus import with_iban_check, with_luhn

STEMS = {"e-mail": "quorrim", "name": "Zaphirä", "card": "492900123456", "IBAN": "837104400445"}
"""In every e-mail address, name, card number and IBAN that is planted; each column is text."""


def emails(count: int) -> list[str]:
    return [f"{STEMS['e-mail']}.{i:05d}@example.org" for i in range(count)]


def names(count: int) -> list[str]:
    return [f"{STEMS['name']} Vantongeren {i}" for i in range(count)]


def cards(count: int) -> list[int]:
    """Whole numbers: a reader that finds types makes them of text, too."""
    return [int(with_luhn(f"{STEMS['card']}{i:03d}")) for i in range(count)]


def ibans(count: int) -> list[str]:
    return [with_iban_check("DE", f"{STEMS['IBAN']}{i:06d}") for i in range(count)]


def planted(rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` with a private value of every kind in each; the same at the same place each time."""
    n = len(rows)
    return rows.assign(email=emails(n), passenger=names(n), card=cards(n), iban=ibans(n))


def needles() -> dict[str, bytes]:
    """What is looked for: every stem in every encoding, and unkeyed hashes of the first values. Name to bytes."""
    found: dict[str, bytes] = {}
    for kind, stem in STEMS.items():
        for form, data in _encodings(stem):
            found[f"{kind} as {form}"] = data
    for value in (emails(1)[0], names(1)[0], str(cards(1)[0]), ibans(1)[0]):
        for algorithm in ("md5", "sha1", "sha256", "sha512"):
            digest = hashlib.new(algorithm, value.encode())
            # A part of it would do to try all values there can be.
            found[f"{algorithm} of {value[:4]}..."] = digest.digest()[:12]
            found[f"{algorithm} of {value[:4]}... as hex"] = digest.hexdigest()[:24].encode()
    low = cards(1)[0]
    # All cards have the same upper bytes.
    found["card as a whole number"] = struct.pack("<q", low)[2:]
    found["card as a float"] = struct.pack("<d", low)[3:]
    return found


def _encodings(text: str) -> Iterator[tuple[str, bytes]]:
    yield "text", text.encode()
    yield "text in small letters", text.lower().encode()
    yield "text in capitals", text.upper().encode()
    yield "UTF-16", text.encode("utf-16-le")
    yield "UTF-16, big end first", text.encode("utf-16-be")
    yield "UTF-32", text.encode("utf-32-le")
    yield "JSON", json.dumps(text)[1:-1].encode()
    yield "Python", ascii(text)[1:-1].encode()
    yield "URL", quote(text).encode()
    yield "form", quote_plus(text).encode()
    yield "hex", text.encode().hex().encode()
    yield "hex in capitals", text.encode().hex().upper().encode()
    yield "backwards", text[::-1].encode()
    for start in range(3):
        # Base64 takes three bytes at a time: where the text begins changes all of it, and its ends have neighbours.
        whole = base64.b64encode(b"\0" * start + text.encode())
        inner = whole[(start + 2) // 3 * 4 : len(whole) - 4]
        yield f"base64 at {start}", inner
        yield f"base64 for URLs at {start}", inner.translate(bytes.maketrans(b"+/", b"-_"))


@dataclass(frozen=True)
class Found:
    """One place where one planted value got out."""

    where: str
    what: str


def sweep_text(named: Mapping[str, str]) -> list[Found]:
    """What texts (outputs, logs) hold."""
    return [found for name, text in named.items() for found in _search(name, text.encode(errors="surrogateescape"))]


def sweep(*roots: Path) -> list[Found]:
    """What every file below ``roots`` holds: its bytes, unpacked, and decoded if it is Parquet, Arrow or of git."""
    found: list[Found] = []
    for root in roots:
        for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
            name = path.relative_to(root).as_posix()
            found += _search(f"the name {name}", name.encode())
            for how, data in _readings(path.read_bytes()):
                found += _search(f"{name}{how}", data)
        for folder in sorted(root.rglob(".git")):
            command = ["git", "-C", str(folder.parent), "cat-file", "--batch", "--batch-all-objects"]
            objects = subprocess.run(command, capture_output=True, check=True).stdout
            found += _search(f"{folder.relative_to(root)}, all objects", objects)
    return found


def _readings(data: bytes, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """The bytes themselves, and what they are when they are unpacked or decoded."""
    yield "", data
    if data[:4] == b"PAR1":
        yield " (Parquet)", _as_text(pq.ParquetFile(BytesIO(data)).read())
    elif data[:6] == b"ARROW1":
        yield " (Arrow)", _as_text(pa.ipc.open_file(BytesIO(data)).read_all())
    for name, packed in _unpacked(data) if depth < 3 else ():
        for how, inner in _readings(packed, depth + 1):
            yield f" ({name}){how}", inner


def _unpacked(data: bytes) -> Iterator[tuple[str, bytes]]:
    if data[:4] == b"PK\3\4":
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for member in archive.namelist():
                yield member, archive.read(member)
    elif data[:2] == b"\x1f\x8b":
        yield "gzip", gzip.decompress(data)
    elif data[:1] == b"\x78":
        with suppress(zlib.error):
            yield "zlib", zlib.decompress(data)


def _as_text(table: pa.Table) -> bytes:
    columns = {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}
    return repr(columns).encode() + str(table.schema.metadata).encode()


_NEEDLES = needles()
_ANY = re.compile(b"|".join(re.escape(needle) for needle in dict.fromkeys(_NEEDLES.values())))


def _search(where: str, data: bytes) -> list[Found]:
    hits = set(_ANY.findall(data))
    return [Found(where, what) for what, needle in _NEEDLES.items() if needle in hits]
