"""One way to turn JSON values into bytes, and bytes into a digest.

Everything that is compared, chained or named by content goes through here: records, specs, ledger payloads.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any


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
    first, *others = (hashlib.new(name, usedforsecurity=False) for name in names or ("sha256",))
    size = 0
    with ExitStack() as opened:
        stream = opened.enter_context(path.open("rb"))
        target = opened.enter_context(copy.open("wb")) if copy else None
        # Hashing leaves the interpreter free: a second digest goes to another core.
        beside = opened.enter_context(ThreadPoolExecutor(len(others))) if others and _size(stream) > _LARGE else None
        while chunk := stream.read(_CHUNK):
            size += len(chunk)
            waits = [beside.submit(each.update, chunk) for each in others] if beside else []
            first.update(chunk)
            if target:
                target.write(chunk)
            for each in () if beside else others:
                each.update(chunk)
            for wait in waits:
                wait.result()
    return size, {each.name: each.hexdigest() for each in (first, *others)}


_CHUNK, _LARGE = 1 << 20, 8 << 20


def _size(stream: IO[bytes]) -> int:
    return os.fstat(stream.fileno()).st_size
