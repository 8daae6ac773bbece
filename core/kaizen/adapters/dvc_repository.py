"""Partitions in a DVC repository, for people who read with ``dvc pull``, ``dvc diff`` and ``dvc.api``.

DVC's own writer takes one lock per repository, trusts every read-only object unread and syncs nothing. This one writes
DVC's format with what the house promises: many writers at once, bytes verified before they count, nothing torn.

    remote object  ->  cache object  ->  .gitignore, workspace file, pointer file  ->  one git commit
    (outside any lock, by content)       (one writer at a time)

Each step can be repeated, so the retry of a killed writer ends where an undisturbed one does.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import yaml

from kaizen.canonical import file_digests
from kaizen.errors import DataRefused, IntegrityError, MissingDependency
from kaizen.faults import fault_point
from kaizen.ports import Pointer
from kaizen.publish import publish_file, publish_text
from kaizen.store import Store

# In a process of its own: DVC prints, sets up logging and obeys the person's git settings where it is imported.
_INITIALISE = """
import json, sys
from dvc.repo import Repo

with Repo.init() as repo, repo.config.edit() as config:
    config.update(json.loads(sys.argv[1]))
"""
_CONFIG = {
    "core": {"analytics": False, "check_update": False, "autostage": False, "remote": "store"},
    "cache": {"type": "hardlink,copy"},
}
_GIT_SETTINGS = {
    "user.name": "kaizen",
    "user.email": "kaizen@localhost",
    "core.hooksPath": os.devnull,
    "core.fsync": "committed",
    "commit.gpgSign": "false",
    # A collector would go on in the background, with locks of its own.
    "gc.auto": "0",
    "maintenance.auto": "false",
}


class DvcRepository:
    """A loop's data repository: git and DVC at ``root``, apart from the code's, made at the first commit.

    Its objects are hard links of the store's files where one file system holds both; the remote has its own copy.

    Args:
        root: where the repository lies; everything in it is written by this class.
        remote: the folder (path or ``file://`` URL) of the DVC remote ``store``. Raises ``DataRefused`` (KZ442) for
            any other URL.
        store: where the sources of commits lie.
    """

    def __init__(self, root: Path, remote: str | Path, store: Store) -> None:
        self.root = root.absolute()
        self.remote = _local_folder(remote)
        self.store = store

    def commit(self, path: str, source: Path, message: str) -> Pointer:
        """Make ``source``'s bytes the content of ``path`` (posix, relative), in the remote too, as one commit.

        The same bytes at the same path again make no new commit: the newest that touched the path is returned.

        Raises:
            DataRefused: the path is not one of plain names (KZ441); remote (KZ442) or repository (KZ443) cannot be
                written; git refuses (KZ444).
            IntegrityError: ``source`` is not a whole file of the store (KZ641); a copy went wrong (KZ642).
            MissingDependency: DVC is needed to make the repository.
        """
        self._check_path(path)
        size, md5 = self._check_source(source)
        fault_point("data.commit.before_remote")
        with _refused("KZ442", "the data remote cannot be written", self.remote):
            _put(_object(self.remote, md5), source, size, md5, shutil.copyfile)
        with _refused("KZ443", "the data repository cannot be written", self.root):
            self._open()
            _put(self._cached(md5), source, size, md5, _link)
            commit = self._record(path, size, md5, message)
        return Pointer(md5, size, commit)

    def _check_path(self, path: str) -> None:
        plain = path.isprintable() and all(
            part and not part.startswith(".") and not part.endswith(".dvc") for part in path.split("/")
        )
        if not plain or not (self.root / path).parent.resolve().is_relative_to(self.root.resolve()):
            raise DataRefused(
                "KZ441",
                "path does not name a file of the data repository",
                where=str(self.root),
                value=ascii(path),
                limit="a relative path of printable names, none beginning with '.' or ending with '.dvc'",
                action="name the partition like flights/2013-04.parquet",
            )

    def _check_source(self, source: Path) -> tuple[int, str]:
        """Size and md5 of the store's file ``source``, whose bytes must be those of its name."""
        try:
            size, digests = file_digests(source, "md5", "sha256")
            if self.store.file_path(digests["sha256"]).samefile(source):
                return size, digests["md5"]
            found = f"sha256 {digests['sha256']}"
        except OSError as error:
            found = f"{error.strerror}: {error.filename}"
        raise IntegrityError(
            "KZ641",
            "source is not the store's file of its own content",
            where=str(source),
            value=found,
            limit=f"a whole file below {self.store.root}",
            action="put the file into the store again, then retry",
        )

    def _open(self) -> None:
        """Make the repository if there is none, and refuse one that sends its readers to another remote."""
        if not (self.root / ".git").exists():
            self._create()
        config = self.root / ".dvc" / "config"
        lines = [line.strip() for line in config.read_text(encoding="utf-8").splitlines()] if config.exists() else []
        if not {f"url = {self.remote}", f'url = "{self.remote}"'}.intersection(lines):
            raise DataRefused(
                "KZ443",
                "not the data repository of this remote",
                where=str(config),
                value=next((line for line in lines if line.startswith("url = ")), "no DVC remote"),
                limit=f"url = {self.remote}",
                action="name another root, or the remote that this repository has",
            )

    def _create(self) -> None:
        """Make the whole repository aside, then rename it: somebody faster may do the same."""
        if find_spec("dvc") is None:
            raise MissingDependency("dvc", "dvc")
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root.parent, prefix=".draft-") as folder:
            draft = Path(folder) / self.root.name
            draft.mkdir()
            git = _Git(draft)
            git("init", "--quiet", "--initial-branch=main", "--template=")
            config = _CONFIG | {"remote": {"store": {"url": str(self.remote)}}}
            git.run(sys.executable, "-c", _INITIALISE, json.dumps(config))
            git("add", "--", ".dvc/config", ".dvc/.gitignore", ".dvcignore")
            git("commit", "--quiet", "--message=Begin the data repository")
            try:
                draft.rename(self.root)
            except OSError:
                if not (self.root / ".git").exists():
                    raise

    def _record(self, path: str, size: int, md5: str, message: str) -> str:
        """Make workspace and history say that ``path`` has this content; the newest commit that says so."""
        target = self.root / path
        pointer = target.with_name(f"{target.name}.dvc")
        facts = {"md5": md5, "size": size, "hash": "md5", "path": target.name}
        text = yaml.safe_dump({"outs": [facts]}, sort_keys=False, allow_unicode=True)
        with _only_writer(self.root) as git:
            target.parent.mkdir(parents=True, exist_ok=True)
            for leftover in target.parent.glob(".publish-*"):
                leftover.unlink()
            fault_point("data.commit.before_pointer")
            ignore = _ignore(target)
            _put(target, self._cached(md5), size, md5, _link)
            publish_text(pointer, text)
            fault_point("data.commit.before_git")
            git("add", "--force", "--", str(pointer), str(ignore))
            if git("diff", "--cached", "--name-only", "--", str(pointer)):
                git("commit", "--quiet", f"--message={message}", "--", str(pointer), str(ignore))
            fault_point("data.commit.after_git")
            return git("log", "-1", "--format=%H", "--", str(pointer)).strip()

    def _cached(self, md5: str) -> Path:
        return _object(self.root / ".dvc" / "cache", md5)


@dataclass(frozen=True)
class _Git:
    """Git on the repository at ``root`` and no other, deaf to the person's settings, hooks and environment.

    A ``lock`` (file descriptor) is handed to every command, so that it stays taken while one outlives its caller.
    """

    root: Path
    lock: int | None = None

    def __call__(self, *arguments: str) -> str:
        """What ``git`` prints for these arguments. Raises ``DataRefused`` (KZ444) if it fails."""
        settings = [part for key, value in _GIT_SETTINGS.items() for part in ("-c", f"{key}={value}")]
        return self.run("git", *settings, *arguments)

    def run(self, *command: str) -> str:
        """What a command prints that works on this repository. Raises ``DataRefused`` (KZ444) if it fails."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self._environment(),
            pass_fds=() if self.lock is None else (self.lock,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if not done.returncode:
            return done.stdout
        raise DataRefused(
            "KZ444",
            f"{Path(command[0]).name} fails in the data repository",
            where=str(self.root),
            value=done.stderr.strip() or f"exit code {done.returncode}",
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
def _only_writer(root: Path) -> Iterator[_Git]:
    """One writer at a time, with git at ``root``; locks that a killed git left behind are removed first."""
    folder = root / ".git"
    with (folder / "kaizen-writer").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in (*folder.glob("*.lock"), *folder.glob("refs/**/*.lock")):
            leftover.unlink(missing_ok=True)
        yield _Git(root, lock.fileno())


@contextmanager
def _refused(code: str, what: str, where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataRefused(
            code,
            what,
            where=str(error.filename or where),
            value=error.strerror or str(error),
            limit=f"{where} is a folder that this process may write",
            action="mount it, free space or grant the right, then retry",
        ) from error


def _local_folder(remote: str | Path) -> Path:
    scheme, found, rest = str(remote).partition("://")
    if not found:
        return Path(remote).absolute()
    if scheme != "file":
        raise DataRefused(
            "KZ442",
            "the data remote cannot be written",
            where="the data repository's remote",
            value=f"{scheme}://",
            limit="a local or mounted folder: a path or a file:// URL",
            action="name a folder; `dvc push --remote` copies it elsewhere",
        )
    return Path(unquote(rest)).absolute()


def _object(database: Path, md5: str) -> Path:
    return database / "files" / "md5" / md5[:2] / md5[2:]


def _put(target: Path, source: Path, size: int, md5: str, place: Callable[[Path, Path], object]) -> None:
    """Make ``target`` hold the bytes of ``source``; what lies there is kept only if its own bytes say so."""
    if target.exists() and (target.samefile(source) or _holds(target, size, md5)):
        return

    def write(draft: Path) -> None:
        place(source, draft)
        if not draft.samefile(source) and not _holds(draft, size, md5):
            raise IntegrityError(
                "KZ642",
                "a copy has other bytes than its source",
                where=str(target),
                value=f"not md5 {md5} ({size} bytes)",
                limit=f"the bytes of {source}",
                action="check both disks, then retry",
            )

    publish_file(target, write)


def _holds(path: Path, size: int, md5: str) -> bool:
    return path.stat().st_size == size and file_digests(path, "md5")[1]["md5"] == md5


def _link(source: Path, target: Path) -> None:
    """Link ``target`` to ``source``; copy where the file system cannot."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _ignore(target: Path) -> Path:
    """Let git ignore ``target`` as DVC does; the ``.gitignore`` that says so."""
    ignore = target.with_name(".gitignore")
    entry = "/" + re.sub(r"([][!*#?\\])", r"\\\1", target.name)
    lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.exists() else []
    if entry not in lines:
        publish_text(ignore, "\n".join([*lines, entry, ""]))
    return ignore
