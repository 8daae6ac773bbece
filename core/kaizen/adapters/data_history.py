"""The history of a data repository: git, one commit per version, and the branch moves by compare-and-set.

Blobs, trees and commits are written by one ``git fast-import`` for any number of versions, which moves the branch only
from the tip that it was told to the last of its commits. Whoever was overtaken begins again at the new tip. Writers
of one machine take turns at this (milliseconds), so that none loses again and again, and so that a lock file found in
one's own turn is known to be a dead git's.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from textwrap import indent
from typing import Any, TextIO

import yaml

from kaizen.errors import DataRefused
from kaizen.ports import Kept

BRANCH = "refs/heads/main"
POINTER = ".dvc"
"""How the name of a pointer file ends, and the folder that DVC calls its own."""

PATIENCE = 60.0
"""Seconds that a writer waits for its turn."""

_TRIES = 20
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SETTINGS = {
    "user.name": "kaizen",
    "user.email": "kaizen@localhost",
    "core.hooksPath": os.devnull,
    "core.fsync": "committed",
    "core.filesRefLockTimeout": "300",
    "commit.gpgSign": "false",
    # A collector would go on in the background, with locks of its own.
    "gc.auto": "0",
    "maintenance.auto": "false",
}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Git:
    """Git on the repository at ``root`` and no other, deaf to the person's settings, hooks and environment.

    A ``lock`` (file descriptor) is handed to every command, so that it stays taken while one outlives its caller.
    """

    root: Path
    lock: int | None = None

    def __call__(self, *arguments: str, given: bytes = b"") -> str:
        """What ``git`` prints for these arguments and this input. Raises ``DataRefused`` (KZ444) if it fails."""
        done = self.attempt(*arguments, given=given)
        if not done.returncode:
            return done.stdout.decode(errors="surrogateescape")
        raise self.failed("git", done)

    def attempt(self, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """``git`` with these arguments and this input, ended."""
        settings = [part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}")]
        return self.run("git", *settings, *arguments, given=given)

    def run(self, *command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """A command that works on this repository, ended."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self._environment(),
            pass_fds=() if self.lock is None else (self.lock,),
            input=given,
            capture_output=True,
            check=False,
        )

    def failed(self, name: str, done: subprocess.CompletedProcess[bytes]) -> DataRefused:
        """The refusal that says what the command said."""
        return DataRefused(
            "KZ444",
            f"{name} fails in the data repository",
            where=str(self.root),
            value=done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}",
            limit="exit code 0",
            action="run `git status` and `git fsck` there, mend what they name, then retry",
        )

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return inherited | {
            "GIT_DIR": str(self.root / ".git"),
            "GIT_WORK_TREE": str(self.root),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_LITERAL_PATHSPECS": "1",
            "XDG_CONFIG_HOME": str(self.root / ".git"),
            "LC_ALL": "C",
        }


@contextmanager
def turn(file: Path) -> Iterator[int]:
    """Hold the lock on ``file``, which ends with its last holder; its descriptor.

    Raises ``DataRefused`` (KZ446) after ``PATIENCE`` seconds, naming the process that has it.
    """
    with file.open("a+", encoding="utf-8") as lock:
        end, pause = time.monotonic() + PATIENCE, 0.001
        while not _taken(lock):
            if time.monotonic() > end:
                lock.seek(0)
                raise DataRefused(
                    "KZ446",
                    "the data repository is busy",
                    where=str(file),
                    value=f"held by process {lock.read().strip() or 'unknown'}",
                    limit=f"a turn within {PATIENCE:g} s",
                    action="retry; if that process hangs, end it",
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def _taken(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True)
class Change:
    """A commit to be: ``files`` (text by path) and its message."""

    files: Mapping[str, str]
    message: str


Plan = Callable[[str], tuple[list[Change], list[str]]]
"""The commits to make on a tip, and the paths of which it says already what is wanted. May raise ``DataRefused``."""


class History:
    """The branch ``main`` of the data repository at ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git = Git(root)

    @cached_property
    def folder(self) -> Path:
        """Where git keeps what is its own."""
        return self.root / ".git"

    def tip(self) -> str:
        """The newest commit."""
        try:
            found = (self.folder / BRANCH).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            found = ""
        # It is asked for often, and nearly always in a file of its own.
        return found if _COMMIT.fullmatch(found) else self.git("rev-parse", "--verify", BRANCH).strip()

    def append(self, plan: Plan) -> dict[str, str]:
        """Add the commits that ``plan`` makes of the tip, in one line after it; by path, the newest that touched it.

        Raises ``DataRefused``: others were faster every time (KZ446); git fails (KZ444); whatever ``plan`` raises.
        """
        with turn(self.folder / "kaizen-history") as lock:
            git = Git(self.root, lock)
            for _ in range(_TRIES):
                tip = self.tip()
                changes, unchanged = plan(tip)
                if not changes:
                    return self.newest(unchanged, tip)
                done = git.attempt("fast-import", "--quiet", "--date-format=now", given=_stream(changes, tip))
                if not done.returncode:
                    made = done.stdout.decode().split()
                    commits = {path: commit for c, commit in zip(changes, made, strict=True) for path in c.files}
                    return {**self.newest(unchanged, tip), **commits}
                if self.tip() == tip and not self._remove_leftovers():
                    raise git.failed("git", done)
        raise DataRefused(
            "KZ446",
            "the data repository is busy",
            where=str(self.root),
            value=f"somebody else was faster {_TRIES} times",
            limit="a branch that stays for the time of one commit",
            action="retry when whoever else commits there has ended",
        )

    def _remove_leftovers(self) -> bool:
        """Remove the locks and reports of a git that was killed in its turn; whether there were any."""
        found = [*self.folder.glob("refs/**/*.lock"), *self.folder.glob("fast_import_crash_*")]
        found += [self.folder / name for name in ("HEAD.lock", "packed-refs.lock") if (self.folder / name).exists()]
        for leftover in found:
            leftover.unlink(missing_ok=True)
        return bool(found)

    def read(self, names: Sequence[str]) -> dict[str, bytes | None]:
        """Content of objects (``REVISION:PATH`` or ids) by name; None for one that there is not, b"" for a folder."""
        done = self.git.attempt("cat-file", "--batch", given=_encode("".join(f"{name}\n" for name in names)))
        if done.returncode:
            raise self.git.failed("git", done)
        found: dict[str, bytes | None] = {}
        rest = memoryview(done.stdout)
        for name in names:
            head, _, _ = bytes(rest[: len(_encode(name)) + 80]).partition(b"\n")
            if head.endswith(b" missing"):
                found[name], rest = None, rest[len(head) + 1 :]
                continue
            _, kind, size = head.split()
            begin, end = len(head) + 1, len(head) + 1 + int(size)
            found[name], rest = bytes(rest[begin:end]) if kind == b"blob" else b"", rest[end + 1 :]
        return found

    def newest(self, paths: Iterable[str], tip: str) -> dict[str, str]:
        """By path, the newest commit up to ``tip`` that touched it."""
        wanted, found = set(paths), {}
        if wanted:
            for commit, path, _ in self._touched(tip):
                if path in wanted:
                    wanted.remove(path)
                    found[path] = commit
        return found

    def versions(self, until: str = BRANCH) -> list[Kept]:
        """Every version up to a commit, oldest first."""
        touched = [(c, p, blob) for c, p, blob in self._touched(until) if p.endswith(POINTER) and blob.strip("0")]
        texts = self.read(list({blob for _, _, blob in touched}))
        pointers = {blob: read_pointer(text) for blob, text in texts.items()}
        kept = [_kept(path, commit, pointers[blob]) for commit, path, blob in reversed(touched)]
        return [version for version in kept if version]

    def tree(self, revision: str) -> list[Kept]:
        """The versions that a commit shows, by path; the commit of each is this one."""
        rows = self.git("ls-tree", "-r", "-z", revision).split("\0")
        found = [(row.partition("\t")[2], row.split()[2]) for row in rows if row.endswith(POINTER)]
        texts = self.read([blob for _, blob in found])
        kept = [_kept(path, revision, read_pointer(texts[blob])) for path, blob in found]
        return [version for version in kept if version]

    def _touched(self, revision: str) -> Iterator[tuple[str, str, str]]:
        """Commit, path and new blob of every change, newest first."""
        options = ("-z", "--format=%H", "--raw", "--no-abbrev", "--no-renames", "--first-parent", "-m")
        commit = blob = ""
        for token in self.git("log", *options, revision, "--").split("\0"):
            word = token.removeprefix("\n")
            if word.startswith(":"):
                blob = word.split()[3]
            elif blob:
                yield commit, word, blob
                blob = ""
            else:
                commit = word


def _encode(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _stream(changes: Sequence[Change], tip: str) -> bytes:
    """The commits for ``git fast-import``, which prints their ids; without the last line it does nothing."""
    parts = [b"feature done\n"]
    for number, change in enumerate(changes, 1):
        parts.append(f"commit {BRANCH}\nmark :{number}\ncommitter kaizen <kaizen@localhost> now\n".encode())
        parts.append(_data(change.message))
        if number == 1:
            parts.append(f"from {tip}\n".encode())
        for path, text in change.files.items():
            quoted = path.replace("\\", "\\\\").replace('"', '\\"')
            parts += [f'M 100644 inline "{quoted}"\n'.encode(), _data(text)]
    parts += [f"get-mark :{number}\n".encode() for number in range(1, len(changes) + 1)]
    return b"".join([*parts, b"done\n"])


def _data(text: str) -> bytes:
    raw = text.encode()
    return b"data %d\n%b\n" % (len(raw), raw)


def write_pointer(name: str, md5: str, size: int, meta: Mapping[str, Any]) -> str:
    """DVC's pointer to a file called ``name``."""
    facts: dict[str, Any] = {"outs": [{"md5": md5, "size": size, "hash": "md5", "path": name}]}
    nested = {key: value for key, value in meta.items() if isinstance(value, Mapping)}
    plain = {key: value for key, value in meta.items() if key not in nested}
    if not (plain and nested):
        return _yaml(facts | ({"meta": dict(meta)} if meta else {}))
    return _yaml({**facts, "meta": plain}) + indent(_yaml_of(json.dumps(nested)), "  ")


@lru_cache(maxsize=64)
def _yaml_of(text: str) -> str:
    # What is said of columns is the same for most partitions, and long.
    return _yaml(json.loads(text))


def _yaml(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def read_pointer(text: bytes | None) -> dict[str, Any]:
    """md5, size and meta of a pointer file; {} if it is none to a single file."""
    try:
        facts = yaml.load(text or b"", Loader=_Loader)  # noqa: S506 - a safe one, in C where there is one
        (out,) = facts["outs"]
        if re.fullmatch(r"[0-9a-f]{32}", out["md5"]):
            return {"md5": out["md5"], "size": int(out["size"]), "meta": facts.get("meta") or {}}
    except (yaml.YAMLError, LookupError, TypeError, ValueError):
        pass
    return {}


def _kept(pointer: str, commit: str, facts: Mapping[str, Any]) -> Kept | None:
    return Kept(pointer.removesuffix(POINTER), commit, facts["md5"], facts["size"], facts["meta"]) if facts else None
