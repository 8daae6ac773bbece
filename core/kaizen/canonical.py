"""One way to turn JSON values into bytes, and bytes into a digest.

Everything that is compared, chained or named by content goes through here: records, specs, ledger payloads.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from queue import SimpleQueue
from typing import Any


def canonical_json(value: Any) -> str:
    """``value`` as JSON text: sorted keys, no white space, UTF-8 kept, NaN and infinities refused (``ValueError``)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 (hex) of ``value``'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digests(path: Path, *names: str, copy: Path | None = None) -> tuple[int, dict[str, str]]:
    """Size in bytes and hex digests of a file (default: sha256). ``copy``: see ``begin_digests``."""
    found = {name: coming.result() for name, coming in begin_digests(path, *names, copy=copy).items()}
    return next(iter(found.values()))[0], {name: text for name, (_, text) in found.items()}


def begin_digests(path: Path, *names: str, copy: Path | None = None) -> dict[str, Future[tuple[int, str]]]:
    """Size in bytes and hex digest of a file, by each of ``names`` (default: sha256); those of a large one will come.

    ``copy``: where its bytes are copied to before this returns; the digests are then of what the copy holds, read
    again. Hashing leaves the interpreter free: each digest of a large file has a thread, and follows the copy at its
    own pace.
    """
    wanted = names or ("sha256",)
    with ExitStack() as opened:
        source = opened.enter_context(path.open("rb", buffering=0))
        target = opened.enter_context(copy.open("wb", buffering=0)) if copy else None
        if os.fstat(source.fileno()).st_size > _LARGE:
            return _begin_beside(copy or path, wanted, source, target)
        while target and _send(source, target):
            pass
        stream = opened.enter_context(copy.open("rb", buffering=0)) if copy else source
        digests = [hashlib.new(name, usedforsecurity=False) for name in wanted]
        size = _update(digests, stream)
    found: dict[str, Future[tuple[int, str]]] = {name: Future() for name in wanted}
    for each, coming in zip(digests, found.values(), strict=True):
        coming.set_result((size, each.hexdigest()))
    return found


def _begin_beside(
    path: Path, names: Sequence[str], source: FileIO, target: FileIO | None
) -> dict[str, Future[tuple[int, str]]]:
    """The digests of a file that ``source`` is being copied to, if there is a ``target``."""
    more: list[SimpleQueue[bool]] = [SimpleQueue() for _ in names]
    with ExitStack() as opened:
        beside = ThreadPoolExecutor(len(names))
        # Whoever wants a digest waits for it.
        opened.callback(beside.shutdown, wait=False)
        found = {n: beside.submit(_digest_behind, path, n, queue) for n, queue in zip(names, more, strict=True)}
        for queue in more:
            opened.callback(queue.put, False)
        while target and _send(source, target):
            for queue in more:
                queue.put(True)
    return found


def _digest_behind(path: Path, name: str, more: SimpleQueue[bool]) -> tuple[int, str]:
    """Size and digest of a file that grows for as long as there is ``more``."""
    digests, size, goes_on = [hashlib.new(name, usedforsecurity=False)], 0, True
    with path.open("rb", buffering=0) as stream:
        while goes_on:
            goes_on = more.get()
            size += _update(digests, stream)
    return size, digests[0].hexdigest()


def _update(digests: Sequence[Any], stream: FileIO) -> int:
    """Take what is left of a stream into digests; how many bytes that was."""
    buffer, size = memoryview(bytearray(_CHUNK)), 0
    while count := stream.readinto(buffer):
        size += count
        for each in digests:
            each.update(buffer[:count])
    return size


def _send(source: FileIO, target: FileIO) -> int:
    """Copy some bytes from where the two files are; how many. The error of a disk names both."""
    try:
        try:
            # Within the system, without a turn through this process.
            return os.sendfile(target.fileno(), source.fileno(), None, _STEP)
        except OSError as error:
            if error.errno not in _NO_SENDFILE:
                raise
        block = source.read(_STEP) or b""
        rest = memoryview(block)
        while rest:
            rest = rest[target.write(rest) :]
        return len(block)
    except OSError as error:
        raise OSError(error.errno, error.strerror, source.name, None, target.name) from None


_CHUNK, _STEP, _LARGE = 1 << 18, 4 << 20, 8 << 20
_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EXDEV, errno.EOPNOTSUPP)
