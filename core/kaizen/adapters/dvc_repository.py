"""Partitions in a DVC repository, for people who read with ``dvc pull``, ``dvc diff`` and ``dvc.api``.

DVC's own writer takes one lock per repository, trusts every read-only object unread and syncs nothing. This one writes
DVC's format with what the house promises: many writers at once, bytes verified before they count, nothing torn.

    remote objects  ->  cache objects  ->  one git commit per version  ->  workspace files and pointer files
    (by content, verified, no lock)        (compare-and-set)               (a view: whoever comes brings it to the tip)

Each step can be repeated, so the retry of a killed writer ends where an undisturbed one does.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from configobj import ConfigObj

from kaizen.adapters import data_keeping
from kaizen.adapters.data_history import POINTER, Change, Git, History, read_pointer, write_pointer
from kaizen.adapters.data_places import Content, Folder, Place, link, open_place, spread
from kaizen.adapters.data_workspace import Workspace
from kaizen.canonical import file_digests
from kaizen.errors import DataRefused, IntegrityError, MissingDependency
from kaizen.faults import fault_point
from kaizen.ports import BackedUp, Kept, NewFile, Pointer, Wrong
from kaizen.store import Store

# What `dvc init` writes. DVC itself takes a second to import, and prints, sets up logging and obeys the person's git
# settings where it is imported.
_CONFIG = {
    "core": {"analytics": False, "check_update": False, "autostage": False, "remote": "store"},
    "cache": {"type": "hardlink,copy"},
}
_IGNORE = "*\n!*/\n!*.dvc\n!.gitignore\n!.dvcignore\n"
"""Data is DVC's to keep, whatever it is called: one file for all folders, so that no two writers meet in one."""


class DvcRepository:
    """A loop's data repository: git and DVC at ``root``, apart from the code's, made at the first commit.

    Its objects are hard links of the store's files where one file system holds both; the remote has its own copy.

    Args:
        root: where the repository lies; everything in it is written by this class.
        remote: the DVC remote ``store``: a folder (path or ``file://`` URL) or ``s3://BUCKET/PREFIX``. Raises
            ``DataRefused`` (KZ449) for any other URL.
        store: where the sources of commits lie.
    """

    def __init__(self, root: Path, remote: str | Path, store: Store) -> None:
        self.root = root.absolute()
        self.remote: Place = open_place("remote", remote)
        self.cache = Folder("cache", self.root / ".dvc" / "cache", link)
        self.store = store
        self.history = History(self.root)
        self.workspace = Workspace(self.history, self.cache)
        self._probed = False

    @property
    def exists(self) -> bool:
        """Whether anything was ever committed or restored here."""
        return (self.root / ".git").exists()

    def probe(self) -> None:
        """Refuse a remote that cannot be written, before anything else is done. Raises ``DataRefused`` (KZ442)."""
        with self.using(self.remote):
            self.remote.probe()
        self._probed = True

    def commit(self, versions: Sequence[NewFile]) -> dict[str, Pointer]:
        """See ``DataRepository``.

        Raises:
            DataRefused: a path is not one of plain names (KZ441) or goes through a file (KZ445); remote (KZ442) or
                repository (KZ443) cannot be written; git refuses (KZ444); others were always faster (KZ446).
            IntegrityError: a source is not a whole file of the store (KZ641); a copy went wrong (KZ642).
            MissingDependency: DVC is needed to make the repository.
        """
        self._check_paths([version.path for version in versions])
        contents = spread(self._check_source, versions)
        fault_point("data.commit.before_remote")
        if not self._probed:
            self.probe()
        with self.using(self.remote, sum(content.size for content in contents)):
            if isinstance(self.remote, Folder):
                self.remote.check_room(contents)
            spread(lambda pair: self.remote.put(pair[0], pair[1].source), zip(contents, versions, strict=True))
        with self.writing():
            self.open()
            spread(lambda pair: self.cache.put(pair[0], pair[1].source), zip(contents, versions, strict=True))
            fault_point("data.commit.before_git")
            wanted = list(zip(versions, contents, strict=True))
            commits = self.history.append(lambda tip: self._plan(wanted, tip))
            fault_point("data.commit.after_git")
            self.workspace.bring_up({v.path: content for v, content in wanted})
        return {v.path: Pointer(c.md5, c.size, commits[v.path + POINTER]) for v, c in wanted}

    def _check_paths(self, paths: Sequence[str]) -> None:
        root, folders = self.root.resolve(), {(self.root / path).parent for path in paths}
        inside = {folder for folder in folders if folder.resolve().is_relative_to(root)}
        for path in paths:
            plain = path.isprintable() and all(
                part and not part.startswith(".") and not part.endswith(".dvc") for part in path.split("/")
            )
            if not plain or (self.root / path).parent not in inside:
                raise DataRefused(
                    "KZ441",
                    "path does not name a file of the data repository",
                    where=str(self.root),
                    value=ascii(path),
                    limit="a relative path of printable names, none beginning with '.' or ending with '.dvc'",
                    action="name the partition like flights/2013-04.parquet",
                )

    def _check_source(self, version: NewFile) -> Content:
        """What the store's file ``source`` holds, which must be what its name says."""
        source = version.source
        try:
            if version.md5 and self.store.file_path(source.name) == source:
                return Content(version.md5, source.stat().st_size, source.name)
            size, digests = file_digests(source, "md5", "sha256")
            if self.store.file_path(digests["sha256"]).samefile(source):
                return Content(digests["md5"], size, digests["sha256"])
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

    def _plan(self, wanted: Sequence[tuple[NewFile, Content]], tip: str) -> tuple[list[Change], list[str]]:
        """One commit for each version that ``tip`` does not have. Raises ``DataRefused`` (KZ445)."""
        above = {v.path: _folders(v.path) for v, _ in wanted}
        pointers = {path + POINTER for path in above} | {f + POINTER for found in above.values() for f in found}
        names = sorted({".gitignore", *pointers, *above})
        found = {
            name: found
            for name, found in zip(names, self.history.read([f"{tip}:{n}" for n in names]).values(), strict=True)
            if found is not None
        }
        changes, unchanged = [], []
        there = {name: read_pointer(text) for name, text in found.items() if name.endswith(POINTER)}
        taken = {*there, *(name for name, text in found.items() if not text)}
        for version, content in wanted:
            pointer = version.path + POINTER
            self._check_place(version.path, above, taken)
            facts = {"md5": content.md5, "size": content.size}
            if there.get(pointer, {}).items() >= facts.items():
                unchanged.append(pointer)
                continue
            there[pointer] = facts
            meta = {**version.meta, "sha256": content.sha256}
            text = write_pointer(Path(version.path).name, content.md5, content.size, meta)
            changes.append(Change({pointer: text}, version.message))
        if changes and ".gitignore" not in found:
            # The repository was begun by a release that named every file.
            changes[0] = Change({".gitignore": _IGNORE, **changes[0].files}, changes[0].message)
        return changes, unchanged

    def _check_place(self, path: str, batch: Mapping[str, list[str]], there: set[str]) -> None:
        """Refuse a file where there is a folder, and the reverse: git would take both, a workspace cannot."""
        through = next((f for f in batch[path] if f + POINTER in there or f in batch), None)
        if through is None and path in there:
            through = path
        if through is not None:
            raise DataRefused(
                "KZ445",
                "path goes through a file of the data repository, or is a folder there",
                where=str(self.root / through),
                value=path,
                limit="a name that is either a file or a folder",
                action="name the partition otherwise",
            )

    def open(self) -> None:
        """Make the repository if there is none, and refuse one that sends its readers to another remote."""
        if not self.exists:
            self._create()
        config = self.root / ".dvc" / "config"
        lines = [line.strip() for line in config.read_text(encoding="utf-8").splitlines()] if config.exists() else []
        url = self.remote.url
        if not {f"url = {url}", f'url = "{url}"'}.intersection(lines):
            raise DataRefused(
                "KZ443",
                "not the data repository of this remote",
                where=str(config),
                value=next((line for line in lines if line.startswith("url = ")), "no DVC remote"),
                limit=f"url = {url}",
                action="name another root, or the remote that this repository has",
            )

    def _create(self) -> None:
        """Make the whole repository aside, then rename it: somebody faster may do the same."""
        with self.draft() as git:
            folder = git.root / ".dvc"
            folder.mkdir()
            named = {f'remote "{name}"': facts for name, facts in self.dvc_remote().items()}
            with (folder / "config").open("wb") as file:
                ConfigObj(_CONFIG | named).write(file)
            (folder / ".gitignore").write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")
            (git.root / ".dvcignore").touch()
            (git.root / ".gitignore").write_text(_IGNORE, encoding="utf-8")
            git("add", "--force", "--", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")
            git("commit", "--quiet", "--message=Begin the data repository")

    @contextmanager
    def draft(self) -> Iterator[Git]:
        """A repository beside ``root`` that takes its place at the end, if nobody was faster."""
        if find_spec("dvc") is None:
            raise MissingDependency("dvc", "dvc")
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root.parent, prefix=".draft-") as folder:
            draft = Path(folder) / self.root.name
            draft.mkdir()
            git = Git(draft)
            git("init", "--quiet", "--initial-branch=main", "--template=")
            yield git
            try:
                draft.rename(self.root)
            except OSError:
                if not self.exists:
                    raise

    def dvc_remote(self) -> dict[str, dict[str, object]]:
        """The remote as DVC's configuration names it. What people pull is hashed, too."""
        facts: dict[str, object] = {"url": self.remote.url, "verify": True}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if self.remote.url.startswith("s3://") and endpoint and "@" not in endpoint:
            facts["endpointurl"] = endpoint
        return {"store": facts}

    # What is done with the versions that there are.

    def versions(self) -> list[Kept]:
        return self.history.versions() if self.exists else []

    def verify(self, tell: Callable[[str], object], *, repair: bool = False) -> list[Wrong]:
        return data_keeping.verify(self, tell, repair=repair)

    def checkout(self, moment: str | datetime, folder: Path, tell: Callable[[str], object]) -> str:
        return data_keeping.checkout(self, moment, folder, tell)

    def backup(self, remote: str, tell: Callable[[str], object]) -> BackedUp:
        return data_keeping.backup(self, remote, tell)

    def restore(self, remote: str, tell: Callable[[str], object]) -> BackedUp:
        return data_keeping.restore(self, remote, tell)

    def reconcile(self, now: datetime) -> Iterator[str]:
        return data_keeping.reconcile(self, now)

    @contextmanager
    def using(self, place: Place, need: int = 0) -> Iterator[None]:
        """Raise ``DataRefused`` (KZ442) for what a remote refuses."""
        limit = f"{place.url} is a folder that this process may write"
        action = "mount it, free space or grant the right, then retry"
        if place.url.startswith("s3://"):
            limit = f"{place.url} is in a bucket that these credentials may write"
            action = "check the standard AWS variables, the bucket, its policy and this machine's clock, then retry"
        with _refused("KZ442", "the data remote cannot be used", place.url, limit, action, need):
            yield

    @contextmanager
    def writing(self, need: int = 0) -> Iterator[None]:
        """Raise ``DataRefused`` (KZ443) for what the file system refuses."""
        limit = f"{self.root} is a folder that this process may write"
        action = "mount it, free space or grant the right, then retry"
        with _refused("KZ443", "the data repository cannot be written", str(self.root), limit, action, need):
            yield


def _folders(path: str) -> list[str]:
    """The folders that a path goes through."""
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


@contextmanager
def _refused(code: str, what: str, where: str, limit: str, action: str, need: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Of two files, the second is the one that was to be written.
        file, value = str(error.filename2 or error.filename or where), error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            value += _space(Path(file), need)
        raise DataRefused(code, what, where=file, value=value, limit=limit, action=action) from error


def _space(path: Path, need: int) -> str:
    """How much is free where ``path`` would lie, as an addition to a message."""
    there = next((folder for folder in (path, *path.parents) if folder.exists()), None)
    free = f": {shutil.disk_usage(there).free:,} bytes free" if there else ""
    return f"{free}, {need:,} bytes to be written" if need else free
