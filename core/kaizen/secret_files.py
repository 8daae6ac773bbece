"""Secrets inside a container: files in memory, one by each name, that come after its start.

They come over the standard input of a command in the running container, whose end is ``receive``; the entry point of
the stage waits for them (``await_secrets``).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import IO

from kaizen.causes import Cause
from kaizen.publish import publish_file
from kaizen.secrets import Secrets

FOLDER = "KAIZEN_SECRETS"
"""The variable that names the folder of the files."""
CUT_OFF = 3
"""Exit code of ``receive`` whose input ended too early."""


def await_secrets(names: Collection[str], patience: float) -> Secrets:
    """The secrets, as soon as all of them are there. Raises ``StageFailed`` KZ725 after ``patience`` seconds."""
    if not names:
        return Secrets()
    folder, until = Path(os.environ[FOLDER]), time.monotonic() + patience
    while missing := [name for name in names if not (folder / name).is_file()]:
        if time.monotonic() > until:
            raise Cause.NO_SECRETS.error(
                where=str(folder),
                value=f"not there: {', '.join(missing)}",
                limit=f"all of them within {patience:g} s, as whoever started this container would give them",
            )
        time.sleep(0.05)
    return Secrets({name: (folder / name).read_text(encoding="utf-8") for name in names})


def packed(secrets: Secrets) -> bytes:
    """What ``receive`` reads: the length, a line's end, so many bytes. A connection need not be closed behind it."""
    body = json.dumps(dict(secrets.values)).encode()
    return b"%d\n%b" % (len(body), body)


def receive(folder: Path, stream: IO[bytes]) -> int:
    """Keep in ``folder`` what ``packed`` wrote, each file at once; 0, or ``CUT_OFF`` if the stream ends before."""
    head = stream.readline(20)
    body = stream.read(int(head)) if head.endswith(b"\n") else b""
    if not head.endswith(b"\n") or len(body) < int(head):
        return CUT_OFF
    for name, value in json.loads(body).items():
        publish_file(folder / name, partial(Path.write_bytes, data=value.encode()), mode=0o400)
    return 0


if __name__ == "__main__":
    sys.exit(receive(Path(sys.argv[1]), sys.stdin.buffer))
