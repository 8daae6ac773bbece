"""One way to turn JSON values into bytes, and bytes into a digest.

Everything that is compared, chained or named by content goes through here: records, specs, ledger payloads.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import FileIO
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

    ``copy``: where the same pass copies them to; the digests are then of what the copy holds, read again.
    """
    first, *others = (hashlib.new(name, usedforsecurity=False) for name in names or ("sha256",))
    size = 0
    with ExitStack() as opened:
        source = opened.enter_context(path.open("rb", buffering=0))
        target = opened.enter_context(copy.open("wb", buffering=0)) if copy else None
        stream = opened.enter_context(copy.open("rb", buffering=0)) if copy else source
        length = os.fstat(source.fileno()).st_size
        # Hashing leaves the interpreter free: a second digest goes to another core.
        beside = opened.enter_context(ThreadPoolExecutor(len(others))) if others and length > _LARGE else None
        buffer = memoryview(bytearray(max(1, min(_CHUNK, length))))
        while True:
            if target and size == target.tell():
                _send(source, target, len(buffer))
            count = stream.readinto(buffer)
            if not count:
                break
            size, chunk = size + count, buffer[:count]
            waits = [beside.submit(each.update, chunk) for each in others] if beside else []
            first.update(chunk)
            for each in () if beside else others:
                each.update(chunk)
            for wait in waits:
                wait.result()
    return size, {each.name: each.hexdigest() for each in (first, *others)}


def _send(source: FileIO, target: FileIO, count: int) -> None:
    """Copy up to ``count`` bytes from where the two files are; the error of a disk names both."""
    try:
        try:
            # Within the system, without a turn through this process.
            os.sendfile(target.fileno(), source.fileno(), None, count)
        except OSError as error:
            if error.errno not in _NO_SENDFILE:
                raise
            rest = memoryview(source.read(count) or b"")
            while rest:
                rest = rest[target.write(rest) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, source.name, None, target.name) from None


_CHUNK, _LARGE = 1 << 20, 8 << 20
_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EXDEV, errno.EOPNOTSUPP)
