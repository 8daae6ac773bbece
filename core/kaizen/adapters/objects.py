"""Files of object stores, through fsspec: copied beside the store while they are hashed, then read like files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa

from kaizen.adapters.readers import read_file
from kaizen.errors import DataRefused, MissingDependency
from kaizen.sources import Item, Wanted, Whence, changed, unreadable
from kaizen.spec import TableSpec

_BLOCK = 8 << 20
_EXTRAS = {"s3": "s3", "s3a": "s3"}


def is_known(scheme: str) -> bool:
    """Whether fsspec has a file system for this scheme."""
    return scheme in fsspec.available_protocols()


@dataclass
class ObjectItem:
    """A file of an object store."""

    files: Any
    path: str
    name: str
    where: str
    facts: dict[str, Any]
    copy: Path | None = None

    def stamp(self) -> str:
        return _stamp(self.facts)

    def settled(self) -> bool:
        # An object store replaces objects whole, and says so by their tags.
        return bool(self.stamp())

    def identity(self, scratch: Path) -> str:
        self.copy, found = scratch / "object", hashlib.sha256()
        try:
            with self.files.open(self.path, "rb", block_size=_BLOCK) as source, self.copy.open("wb") as target:
                while block := source.read(_BLOCK):
                    found.update(block)
                    target.write(block)
            self.files.invalidate_cache()
            after = self.files.info(self.path)
        except OSError as error:
            raise unreadable(self.where, _told(error)) from error
        if _stamp(after) != self.stamp() or after["size"] != self.copy.stat().st_size:
            raise changed(self.where, f"{self.facts['size']} bytes, then {after['size']}")
        return found.hexdigest()

    def batches(self, wanted: Wanted) -> Iterator[pa.RecordBatch]:
        return read_file(self._copied(), wanted)

    def refuse_changed(self, identity: str) -> None:
        """Nothing can: what was read is the copy that was hashed."""

    def original(self) -> Path | None:
        return self._copied()

    def watermark(self) -> str:
        return ""

    def _copied(self) -> Path:
        if self.copy is None:
            raise ValueError("identity has not been asked")
        return self.copy


def find_objects(table: TableSpec, whence: Whence) -> list[Item]:
    """The files that ``table.uri`` names in an object store, by name.

    Raises ``DataRefused`` KZ467: the store cannot be reached, or refuses. ``MissingDependency``: no library for it.
    """
    scheme, _, _ = table.uri.partition(":")
    try:
        files, pattern = fsspec.url_to_fs(table.uri)
        files.invalidate_cache()
        found = files.glob(pattern, detail=True)
    except ImportError:
        raise MissingDependency(f"fsspec's file system for {scheme}://", _EXTRAS.get(scheme, scheme)) from None
    except OSError as error:
        raise out_of_reach(table.uri, _told(error)) from error
    return [
        ObjectItem(files, path, PurePosixPath(path).name, f"{scheme}://{path}", facts)
        for path, facts in sorted(found.items())
        if facts["type"] == "file" and not PurePosixPath(path).name.startswith(".")
    ]


def out_of_reach(where: str, value: str) -> DataRefused:
    """The refusal of a source that does not answer or does not let us in."""
    return DataRefused(
        "KZ467",
        "source cannot be reached",
        where=where,
        value=value,
        limit="a source that answers, with the rights to list and read",
        action="check address, credentials and network of the source; then retry",
    )


def _stamp(facts: dict[str, Any]) -> str:
    tag = facts.get("ETag") or facts.get("etag") or facts.get("md5Hash") or facts.get("mtime") or facts.get("created")
    return f"{facts['size']}-{tag}" if tag else ""


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
