"""Where copies of versions lie: a folder, or an object store behind ``s3://``, in the layout of a DVC remote.

A copy counts when its bytes were seen to be right: in a folder they are read again before the rename; an object store
computes the md5 of what it received itself (the ETag), and where its ETag is none, the object is read again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from kaizen.canonical import begin_digests, file_digests
from kaizen.errors import DataRefused, IntegrityError, MissingDependency
from kaizen.faults import fault_point
from kaizen.publish import publish_file, sync

GONE = "gone"

_OBJECTS = "files/md5"
_CHUNK = 1 << 20
# s3fs sends more than two parts' worth of bytes in parts.
_PART = 50 << 20


_WORKERS = 4
"""Objects under way at once in one call: one hashes while another waits for the disk or the network."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Content:
    """The bytes of a version; ``sha256`` is "" if whoever committed it did not say."""

    md5: str
    size: int
    sha256: str = ""

    @property
    def key(self) -> str:
        """Where a DVC remote has it."""
        return f"{_OBJECTS}/{self.md5[:2]}/{self.md5[2:]}"

    def problem(self, path: Path) -> str:
        """What is wrong with the file at ``path``; "" if it is these bytes."""
        try:
            size = path.stat().st_size
            if size != self.size:
                return f"{size} bytes instead of {self.size}"
            found = file_digests(path, self.hash_name)[1][self.hash_name]
        except FileNotFoundError:
            return GONE
        return self.difference(found)

    @property
    def hash_name(self) -> str:
        """By which digest bytes are told to be these: sha256 is the quicker one on today's machines, and says more."""
        return "sha256" if self.sha256 else "md5"

    def difference(self, found: str) -> str:
        """What is wrong with bytes of this digest (of ``hash_name``), or ""."""
        return "" if found == getattr(self, self.hash_name) else f"{self.hash_name} {found}"


Copy = Callable[[Path, Path, Content], str]
"""Makes a file of another that has certain bytes; says what is wrong with it, or ""."""


class Place(Protocol):
    """Somewhere with a copy of every object. Failures are ``OSError``, with nothing secret in their text."""

    name: str
    url: str

    def probe(self) -> None:
        """Raise ``OSError`` if nothing can be written here."""
        ...

    def problem(self, content: Content, seen: MutableMapping[Any, str] | None = None) -> str:
        """Read the copy; what is wrong with it, or "". ``seen`` spares reading one file by two names twice."""
        ...

    def has(self, content: Content) -> bool:
        """Whether there is a copy of that size, unread."""
        ...

    def put(self, content: Content, source: Path) -> None:
        """Have the bytes of ``source`` here, verified; a whole copy stays. Raises ``IntegrityError`` (KZ642)."""
        ...

    def fetch(self, content: Content, target: Path) -> bool:
        """Publish the copy as ``target``, verified; False (and nothing is left) if it is not whole."""
        ...

    def objects(self) -> Iterator[tuple[str, int, float]]:
        """md5, size and time (seconds since 1970) of everything that looks like an object here."""
        ...

    def write(self, key: str, source: Path) -> None:
        """Have ``source`` here under a name of its own, at once."""
        ...

    def read(self, key: str, target: Path) -> bool:
        """Copy what was written to ``target``; False if there is none."""
        ...

    def remove(self, key: str) -> None:
        """Have nothing under that name."""
        ...


def spread(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``work`` on every item, several at a time; results in order. Raises what the first that failed raised."""
    found = list(items)
    if len(found) < 2:
        return [work(item) for item in found]
    with ThreadPoolExecutor(_WORKERS) as pool:
        futures = [pool.submit(work, item) for item in found]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


def link(source: Path, target: Path, content: Content) -> str:
    """Link ``target`` to ``source``; copy where the file system cannot. What is wrong with the copy, or ""."""
    try:
        try:
            os.link(source, target)
        except FileExistsError:
            target.unlink()
            os.link(source, target)
    except OSError:
        return copy_and_read(source, target, content)
    return ""


def _link_at_once(source: Path, target: Path) -> bool:
    """Link a ``target`` that is not there to a file that is whole on disk; False where that cannot be."""
    sync(source)
    try:
        try:
            os.link(source, target)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)
    except OSError:
        return False
    fault_point("publish.link.before_sync")
    sync(target.parent)
    return True


def copy_and_read(source: Path, target: Path, content: Content) -> str:
    """Copy a file, and read the copy again; what is wrong with it, or ""."""
    found = begin_digests(source, content.hash_name, copy=target)[content.hash_name]
    if not found.done():
        # A large copy goes to the disk while it is read again.
        sync(target)
    return content.difference(found.result()[1])


def publish(target: Path, content: Content, source: Path, copy: Copy) -> None:
    """Make ``target`` hold the bytes of ``source``; what lies there is kept only if its own bytes say so."""
    if target.exists() and (target.samefile(source) or not content.problem(target)):
        return
    if copy is link and _link_at_once(source, target):
        return

    def write(draft: Path) -> None:
        if problem := copy(source, draft, content):
            raise _miscopied(str(target), problem, content, source)

    publish_file(target, write)


class Folder:
    """A folder, local or mounted. ``copy`` makes one file of another: ``copy_and_read``, or ``link``."""

    def __init__(self, name: str, root: Path, copy: Copy = copy_and_read) -> None:
        self.name, self.url, self.root = name, str(root), root
        self.copy = copy

    def path(self, content: Content) -> Path | None:
        """Where the copy is; None if that cannot be told."""
        return self.root / content.key

    def probe(self) -> None:
        folder = self.root / _OBJECTS
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".publish-")
        os.close(handle)
        Path(name).unlink()

    def check_room(self, contents: Iterable[Content]) -> None:
        """Raise ``OSError`` if those that are not here yet do not fit."""
        self.root.mkdir(parents=True, exist_ok=True)
        if sum(c.size for c in set(contents) if not self.has(c)) > shutil.disk_usage(self.root).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.root))

    def problem(self, content: Content, seen: MutableMapping[Any, str] | None = None) -> str:
        path = self.path(content)
        if path is None or not path.exists():
            return GONE
        status = path.stat()
        known = seen if seen is not None else {}
        key = (status.st_dev, status.st_ino, content)
        if key not in known:
            known[key] = content.problem(path)
        return known[key]

    def has(self, content: Content) -> bool:
        path = self.path(content)
        try:
            return path is not None and path.stat().st_size == content.size
        except (FileNotFoundError, NotADirectoryError):
            return False

    def put(self, content: Content, source: Path) -> None:
        path = self.path(content)
        if path is not None:
            publish(path, content, source, self.copy)

    def fetch(self, content: Content, target: Path) -> bool:
        path = self.path(content)
        if path is None or not path.exists():
            return False
        return _fetch(content, target, lambda draft: shutil.copyfile(path, draft))

    def objects(self) -> Iterator[tuple[str, int, float]]:
        for path in (self.root / _OBJECTS).glob("[0-9a-f][0-9a-f]/*"):
            if len(path.name) == 30:
                status = path.stat()
                yield path.parent.name + path.name, status.st_size, status.st_mtime

    def write(self, key: str, source: Path) -> None:
        publish_file(self.root / key, lambda draft: shutil.copyfile(source, draft), mode=0o644)

    def read(self, key: str, target: Path) -> bool:
        try:
            shutil.copyfile(self.root / key, target)
        except FileNotFoundError:
            return False
        return True

    def remove(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)


class ObjectStore:
    """A bucket, and a prefix in it. Endpoint and credentials come from the standard AWS variables and files."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self.url = name, url
        self._base = url.removeprefix("s3://")
        self._pid = 0

    @property
    def _s3(self) -> Any:
        # A client does not survive a fork.
        if self._pid != os.getpid():
            self.__dict__.pop("_client", None)
            self._pid = os.getpid()
        return self._client

    @cached_property
    def _client(self) -> Any:
        try:
            import s3fs
        except ImportError:
            raise MissingDependency("s3fs", "s3") from None
        settings = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2, "mode": "standard"}}
        return s3fs.S3FileSystem(anon=False, use_listings_cache=False, skip_instance_cache=True, config_kwargs=settings)

    def probe(self) -> None:
        key = f"{self._base}/.kaizen-probe-{uuid.uuid4().hex}"
        with _told(self.url):
            self._s3.pipe_file(key, b"may this be written?")
            self._s3.rm_file(key)

    def problem(self, content: Content, seen: MutableMapping[Any, str] | None = None) -> str:
        try:
            with _told(self.url), self._s3.open(f"{self._base}/{content.key}", block_size=8 << 20) as stream:
                md5, size = hashlib.md5(usedforsecurity=False), 0
                while chunk := stream.read(_CHUNK):
                    md5.update(chunk)
                    size += len(chunk)
        except FileNotFoundError:
            return GONE
        if size != content.size:
            return f"{size} bytes instead of {content.size}"
        return "" if md5.hexdigest() == content.md5 else f"md5 {md5.hexdigest()}"

    def has(self, content: Content) -> bool:
        facts = self._facts(content)
        return facts is not None and facts["size"] == content.size

    def put(self, content: Content, source: Path) -> None:
        if self._is_whole(content, source):
            return
        with _told(self.url):
            self._s3.put_file(str(source), f"{self._base}/{content.key}", chunksize=_PART, max_concurrency=2)
        if not self._is_whole(content, source):
            where = f"{self.url}/{content.key}"
            raise _miscopied(where, self.problem(content) or "another ETag", content, source)

    def fetch(self, content: Content, target: Path) -> bool:
        def download(draft: Path) -> None:
            with _told(self.url):
                self._s3.get_file(f"{self._base}/{content.key}", str(draft))

        try:
            return _fetch(content, target, download)
        except FileNotFoundError:
            return False

    def objects(self) -> Iterator[tuple[str, int, float]]:
        with _told(self.url):
            try:
                found = self._s3.find(f"{self._base}/{_OBJECTS}", detail=True)
            except FileNotFoundError:
                return
        for key, facts in found.items():
            md5 = "".join(key.split("/")[-2:])
            if len(md5) == 32:
                yield md5, facts["size"], facts["LastModified"].timestamp()

    def write(self, key: str, source: Path) -> None:
        with _told(self.url):
            self._s3.put_file(str(source), f"{self._base}/{key}", chunksize=_PART, max_concurrency=2)

    def read(self, key: str, target: Path) -> bool:
        try:
            with _told(self.url):
                self._s3.get_file(f"{self._base}/{key}", str(target))
        except FileNotFoundError:
            return False
        return True

    def remove(self, key: str) -> None:
        with _told(self.url):
            self._s3.rm_file(f"{self._base}/{key}")

    def _facts(self, content: Content) -> dict[str, Any] | None:
        try:
            with _told(self.url):
                facts: dict[str, Any] = self._s3.info(f"{self._base}/{content.key}", refresh=True)
        except FileNotFoundError:
            return None
        return facts

    def _is_whole(self, content: Content, source: Path) -> bool:
        """Whether the store's own digest is that of ``source``; where it keeps none, whether the bytes are."""
        facts = self._facts(content)
        if facts is None or facts["size"] != content.size:
            return False
        tag = str(facts.get("ETag", "")).strip('"')
        if tag == content.md5 or ("-" in tag and tag == _tag_of_parts(source)):
            return True
        return not self.problem(content)


def open_place(name: str, url: str | Path) -> Folder | ObjectStore:
    """The place at a path, ``file://`` or ``s3://`` URL. Raises ``DataRefused`` (KZ449) for any other."""
    text = str(url)
    scheme, found, rest = text.partition("://")
    if not found:
        return Folder(name, Path(url).absolute())
    if scheme == "file":
        return Folder(name, Path(unquote(rest)).absolute())
    parts = urlsplit(text)
    plain = scheme == "s3" and parts.netloc and not {"@", "?", "#"}.intersection(text)
    if not plain:
        raise DataRefused(
            "KZ449",
            "not the URL of a remote that data can be kept in",
            where=f"the {name} of the data repository",
            value=f"{scheme}://",
            limit="a folder (path or file:// URL) or s3://BUCKET/PREFIX",
            action="name one of those; S3's endpoint and credentials are the standard AWS variables, never in the URL",
        )
    return ObjectStore(name, f"s3://{parts.netloc}{parts.path.rstrip('/')}")


class _Unfit(Exception):
    pass


def _fetch(content: Content, target: Path, copy: Callable[[Path], object]) -> bool:
    def write(draft: Path) -> None:
        copy(draft)
        if content.problem(draft):
            raise _Unfit

    try:
        publish_file(target, write)
    except _Unfit:
        return False
    return True


def _tag_of_parts(source: Path) -> str:
    """The ETag of an object that was sent in parts."""
    digests = []
    with source.open("rb") as stream:
        while chunk := stream.read(_PART):
            digests.append(hashlib.md5(chunk, usedforsecurity=False).digest())
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn what s3fs and botocore raise into an ``OSError`` that says no more than the error's name."""
    try:
        yield
    except (FileNotFoundError, MissingDependency):
        raise
    except Exception as error:  # noqa: BLE001 - three libraries, no common class; their texts may hold keys
        cause: Any = error if hasattr(error, "response") else error.__cause__
        code = getattr(cause, "response", {}).get("Error", {}).get("Code", "")
        raise OSError(errno.EIO, str(code or type(error).__name__), url) from None


def _miscopied(where: str, problem: str, content: Content, source: Path) -> IntegrityError:
    return IntegrityError(
        "KZ642",
        "a copy has other bytes than its source",
        where=where,
        value=problem,
        limit=f"md5 {content.md5} ({content.size} bytes), the bytes of {source}",
        action="check both disks, then retry",
    )
