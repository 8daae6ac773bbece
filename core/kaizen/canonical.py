"""One way to turn JSON values into bytes, and bytes into a digest.

Everything that is compared, chained or named by content goes through here: records, specs, ledger payloads.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """``value`` as JSON text: sorted keys, no white space, UTF-8 kept, NaN and infinities refused (``ValueError``)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 (hex) of ``value``'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digests(path: Path, *names: str, copy: Path | None = None) -> tuple[int, dict[str, str]]:
    """Size in bytes and hex digests of a file (default: sha256), all in one pass over the bytes.

    ``copy``: where the same pass writes them to.
    """
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in names or ("sha256",)}
    size = 0
    with path.open("rb") as stream, copy.open("wb") if copy else nullcontext() as target:
        while chunk := stream.read(1 << 20):
            size += len(chunk)
            for each in hashes.values():
                each.update(chunk)
            if target:
                target.write(chunk)
    return size, {name: each.hexdigest() for name, each in hashes.items()}
