"""Sources: what a table's ``uri`` delivers, as items that are taken whole and once.

    landing/orders/*.parquet      files here                     ``FileItem``
    package:NAME/PATH             a file of an installed package ``FileItem``
    s3://bucket/orders/*.csv      files of an object store       ``kaizen.adapters.objects``
    postgresql://..., sqlite://   a table or a query             ``kaizen.adapters.queries``
    SCHEME:REST                   whatever is registered under ``kaizen.sources``, such as ``kedro:DATASET``

Listing items reads no bytes of them, and needs no library where they are files.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import importlib.util
import os
import re
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from kaizen.canonical import begin_digests
from kaizen.errors import DataRefused, MissingDependency, SpecError
from kaizen.faults import fault_point
from kaizen.spec import TableSpec

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
PACKINGS = {".gz": "gz", ".zst": "zst", ".zip": "zip"}
LONGEST_NAME = 200
_SCHEME = re.compile(r"([a-z][a-z0-9+]*):")
_MAGIC = re.compile("[*?[]")
_SETTLED = 2.0
"""Seconds after which a file's times tell every change: clocks of file systems are coarse."""


def _say_nothing(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Wanted:
    """What a reader is asked for.

    Attributes:
        where: the item, for people. columns: which to take, in this order; empty: all. needed: these must be there.
        types: type names of columns, as they were before or as the spec says. order: of the columns before.
        private: columns of which no error may show a value. format: "" is by the name.
        max_expanded: bytes that a packed file may become.
    """

    where: str
    columns: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    private: Collection[str] = ()
    format: str = ""
    encoding: str = "utf-8"
    max_expanded: int = 16 << 30


class Item(Protocol):
    """One thing that a source delivers: a file, or what a query gives now."""

    @property
    def name(self) -> str:
        """As records name it: the same in every environment."""
        ...

    @property
    def where(self) -> str:
        """As errors name it."""
        ...

    def stamp(self) -> str:
        """Another text whenever the content may be another; costs no reading. "" if only reading tells."""
        ...

    def settled(self) -> bool:
        """Whether the stamp can be relied on from now on."""
        ...

    def identity(self, scratch: Path) -> str:
        """sha256 of what is delivered, "" if only its rows tell. ``scratch`` is a folder for copies.

        Raises ``DataRefused``: KZ406 it changes meanwhile, KZ407 it cannot be read.
        """
        ...

    def batches(self, wanted: Wanted) -> Iterator[pa.RecordBatch]:
        """The rows, in the columns and types that are wanted. ``identity`` has been asked before."""
        ...

    def refuse_changed(self, identity: str) -> None:
        """Raise ``DataRefused`` KZ406 if the rows that were read may not be those of ``identity``."""
        ...

    def original(self) -> Path | None:
        """A local file with the delivered bytes, if there is one. Of a source elsewhere, ``identity`` fetches it."""
        ...

    def watermark(self) -> str:
        """How far the source had come when it was read, "" if it does not count."""
        ...


@dataclass
class FileItem:
    """A file on this machine."""

    path: Path
    name: str

    @property
    def where(self) -> str:
        return str(self.path)

    def stamp(self) -> str:
        found = self._stat()
        return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"

    def settled(self) -> bool:
        return time.time() - self._stat().st_ctime > _SETTLED

    def _stat(self) -> os.stat_result:
        try:
            return self.path.stat()
        except OSError as error:
            raise unreadable(self.where, error.strerror or str(error)) from error

    def identity(self, scratch: Path) -> str:
        return stable_digests(self.path)["sha256"].result()[1]

    def batches(self, wanted: Wanted) -> Iterator[pa.RecordBatch]:
        found: Iterator[pa.RecordBatch] = _readers().read_file(self.path, wanted)
        return found

    def refuse_changed(self, identity: str) -> None:
        found = self.identity(self.path.parent)
        if found != identity:
            raise changed(str(self.path), f"sha256 {identity}, then {found}")

    def original(self) -> Path | None:
        return self.path

    def watermark(self) -> str:
        return ""


@dataclass(frozen=True)
class Whole:
    """Whole partitions are wanted of a table with a watermark, not only what was added to them.

    Attributes:
        time: the column that dates a row, "" if the table is not cut by time. zone: that it is cut in.
        keys: columns that identify a row. holds: whether a partition is in the range; since, until: its ends, if it is
            one. Without a range those partitions are wanted that have new rows.
    """

    time: str
    zone: str
    keys: tuple[str, ...]
    holds: Callable[[str], bool]
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_range(self) -> bool:
        """Whether somebody asked for a range."""
        return self.since is not None or self.until is not None


@dataclass(frozen=True)
class Whence:
    """What a source is looked at from.

    Attributes:
        base: where relative paths start. env: the loop's environment. name: of the table.
        since: the watermark of the newest delivery, for sources that have one.
        secrets: values that an orchestrator's connection gives, by name; others are found in variables and files.
        whole: what is wanted of a source with a watermark, if it is more than what was added.
    """

    base: Path
    env: str = "local"
    name: str = ""
    since: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    whole: Whole | None = None


Find = Callable[[TableSpec, Whence], list[Item]]
"""What finds the items of a scheme."""


def find_items(table: TableSpec, whence: Whence, tell: Callable[[str], object] = _say_nothing) -> list[Item]:
    """What the source of ``table`` delivers now, by name; nothing yet is no error.

    ``tell`` is told of files that somebody has open for writing; they are not among the items.

    Raises:
        SpecError: KZ311 a package is not installed, KZ334 no such scheme.
        DataRefused: KZ461 a name that cannot be taken, KZ462 names that only case tells apart; KZ467 out of reach.
    """
    scheme = _scheme(table.uri)
    if scheme in ("", "package", "file"):
        items: list[Item] = []
        for path in find_files(table.uri, whence.base):
            if _is_open_for_writing(path):
                tell(f"{path}: not taken, somebody is writing it")
            else:
                items.append(FileItem(path, table.uri if scheme == "package" else path.name))
    else:
        items = _elsewhere(scheme)(table, whence)
    _refuse_names(items, table.uri)
    return items


def find_files(uri: str, base: Path) -> list[Path]:
    """The files a table's ``uri`` names now, sorted; none yet is no error. Raises ``SpecError`` KZ311 for a package."""
    if uri.startswith("package:"):
        return [_file_of_package(uri)]
    pattern = str(base / uri.removeprefix("file://"))
    found = (Path(p) for p in glob.glob(pattern, recursive=True))
    root = Path(pattern[: m.start()] if (m := _MAGIC.search(pattern)) else pattern).parent.resolve()
    return sorted(p for p in found if not p.name.startswith(".") and _refuse_leaving(p, root))


def _file_of_package(uri: str) -> Path:
    package, _, inside = uri.removeprefix("package:").partition("/")
    try:
        found = importlib.util.find_spec(package)
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise SpecError(
            "KZ311",
            "package with data is not installed",
            where="data.tables",
            value=package,
            limit="an installed package",
            action=f"pip install {package}",
        )
    return Path(next(iter(found.submodule_search_locations))) / inside


def _refuse_leaving(path: Path, root: Path) -> bool:
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        raise DataRefused(
            "KZ461",
            "file cannot be taken by its name",
            where=ascii(str(path)),
            value="a link that leads out of the landing folder",
            limit=f"files below {root}",
            action="deliver a copy, or name its folder in uri",
        )
    return True


def _refuse_names(items: list[Item], uri: str) -> None:
    folded: dict[str, str] = {}
    for item in items:
        if not item.name.isprintable() or len(item.name.encode(errors="replace")) > LONGEST_NAME:
            raise DataRefused(
                "KZ461",
                "file cannot be taken by its name",
                where=uri,
                value=ascii(item.name)[:80],
                limit=f"printable, at most {LONGEST_NAME} bytes",
                action="rename it at the source",
            )
        other = folded.setdefault(fold(item.name), item.name)
        if other != item.name:
            raise DataRefused(
                "KZ462",
                "names that look the same",
                where=uri,
                value=f"{other!a} and {item.name!a}",
                limit="names that differ in more than case and look-alike letters",
                action="rename one of them at the source",
            )


def fold(name: str) -> str:
    """A name as it looks: without case, compatibility letters as their plain ones."""
    import unicodedata

    return unicodedata.normalize("NFKC", name).casefold()


def _is_open_for_writing(path: Path) -> bool:
    """Whether a process of this machine has the file open for writing: then it is not whole yet.

    A read lease is granted only if nobody does (fcntl(2), F_SETLEASE). Where leases are not known, or not for this
    user's asking, nobody does.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # Should somebody open it meanwhile, the signal that tells so is one that nobody minds.
        fcntl.fcntl(handle, fcntl.F_SETSIG if hasattr(fcntl, "F_SETSIG") else 10, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(handle)
    return False


def stable_digests(path: Path, *names: str, copy: Path | None = None) -> dict[str, Future[tuple[int, str]]]:
    """``begin_digests`` of a file that nobody is writing. Raises ``DataRefused``: KZ406 it changes, KZ407."""
    try:
        before = path.stat()
        coming = begin_digests(path, *names, copy=copy)
        # A copy changes no more; what was read of the file itself is what it was until now.
        size = copy.stat().st_size if copy else max(each.result()[0] for each in coming.values())
        fault_point("ingest.while_reading")
        after = path.stat()
    except OSError as error:
        if error.filename2:
            # It is the copy that cannot be written.
            raise
        raise unreadable(str(path), error.strerror or str(error)) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != after.st_size:
        raise changed(str(path), f"{before.st_size} bytes, then {after.st_size}")
    return coming


def unreadable(where: str, value: str) -> DataRefused:
    """The refusal of an item that cannot be read."""
    return DataRefused(
        "KZ407",
        "file cannot be read",
        where=where,
        value=value,
        limit="a readable file",
        action="check the path and its permissions",
    )


def changed(where: str, value: str) -> DataRefused:
    """The refusal of an item that somebody is still writing."""
    return DataRefused(
        "KZ406",
        "file is still being written",
        where=where,
        value=value,
        limit="a file that does not change",
        action="deliver under a name that begins with a dot and rename when complete; then retry",
    )


def unpacked_name(name: str) -> tuple[str, str]:
    """A name without the suffix of its packing, and that packing: ``gz``, ``zst``, ``zip`` or ""."""
    suffix = PurePosixPath(name).suffix
    packing = PACKINGS.get(suffix.lower(), "")
    return (name.removesuffix(suffix), packing) if packing else (name, "")


def format_of(name: str, given: str = "") -> str:
    """The format of a file: as the spec says, else by its suffix, else CSV."""
    return given or FORMATS.get(PurePosixPath(unpacked_name(name)[0]).suffix.lower(), "csv")


def _scheme(uri: str) -> str:
    match = _SCHEME.match(uri)
    return match[1] if match else ""


def _elsewhere(scheme: str) -> Find:
    """What finds the items of another scheme than files'."""
    found = {e.name: e for e in entry_points(group="kaizen.sources")}
    if scheme in found:
        loaded: Find = found[scheme].load()
        return loaded
    dialect = scheme.partition("+")[0]
    try:
        if dialect in ("postgresql", "sqlite", "mysql", "mariadb", "mssql", "oracle", "duckdb", "snowflake"):
            from kaizen.adapters.queries import find_queries

            return find_queries
        from kaizen.adapters.objects import find_objects, is_known
    except ImportError:
        raise MissingDependency("pyarrow or fsspec", "data") from None
    if is_known(scheme):
        return find_objects
    raise SpecError(
        "KZ334",
        "no source for this scheme",
        where="data.tables: uri",
        value=f"{scheme}:",
        limit="a path, package:, an object store's scheme such as s3://, a database URL, or one of "
        + (", ".join(f"{name}:" for name in sorted(found)) or "the entry-point group kaizen.sources"),
        action="correct the uri, or install the package that brings this source",
    )


def _readers() -> Any:
    try:
        from kaizen.adapters import readers
    except ImportError:
        raise MissingDependency("pyarrow", "data") from None
    return readers
