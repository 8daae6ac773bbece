"""The store: bytes by content, behind logical addresses that hold on every host.

An address is ``store:NAME@sha256:HEX``. NAME is for people; HEX finds the bytes: ``files/`` holds single files,
``folders/`` published folders (HEX is then the digest of the manifest). Roots come from the environment, never from
a record.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from kaizen.canonical import file_digests
from kaizen.errors import IntegrityError
from kaizen.publish import publish_file, publish_folder, sync, verify_file, verify_folder

_AT_ONCE = 4
_ADDRESS = re.compile(r"store:(?P<name>[^@]+)@sha256:(?P<sha256>[0-9a-f]{64})")


def address(name: str, sha256: str) -> str:
    """The logical address of content ``sha256`` under the name ``name``."""
    return f"store:{name}@sha256:{sha256}"


def split_address(text: str) -> tuple[str, str]:
    """Name and sha256 of an address. Raises ``IntegrityError`` (KZ613) for anything else."""
    match = _ADDRESS.fullmatch(text)
    if not match:
        raise IntegrityError("KZ613", "not a store address", value=text, limit="store:NAME@sha256:HEX")
    return match["name"], match["sha256"]


class Store:
    """Content-addressed files and folders under one root on one file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def file_path(self, sha256: str) -> Path:
        """Where the file with this content lies, or would lie."""
        return self.root / "files" / sha256[:2] / sha256

    def put_file(self, name: str, write: Callable[[Path], object]) -> str:
        """Let ``write`` fill a file, keep it by content, return its address."""
        with self.scratch() as folder:
            draft = folder / "draft"
            write(draft)
            _, digests = file_digests(draft)
            target = self.file_path(digests["sha256"])
            if not self._holds(target, digests["sha256"]):
                publish_file(target, lambda path: shutil.copyfile(draft, path))
        return address(name, digests["sha256"])

    def adopt(self, name: str, draft: Path, sha256: str) -> str:
        """Keep the finished file ``draft`` (below ``scratch``), whose bytes are known, and return its address.

        A power cut may tear it until ``sync`` was called: then its bytes are not those of its name.
        """
        target = self.file_path(sha256)
        if not self._holds(target, sha256):
            draft.chmod(0o444)
            try:
                draft.replace(target)
            except FileNotFoundError:
                target.parent.mkdir(parents=True, exist_ok=True)
                draft.replace(target)
        return address(name, sha256)

    def sync(self, addresses: Collection[str]) -> None:
        """Make adopted files durable, several at a time: a disk writes many in about the time of one."""
        files = [self.file_path(split_address(text)[1]) for text in addresses]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for paths in (files, {file.parent for file in files}):
                list(pool.map(sync, paths))

    def put_folder(self, name: str, folder: Path) -> str:
        """Publish a finished folder (below ``scratch``) and return its address; ``folder`` is gone afterwards."""
        _, identity = publish_folder(folder, self.root / "folders")
        return address(name, identity)

    def file(self, text: str) -> Path:
        """The verified file at an address. Raises ``IntegrityError`` if it is gone or changed."""
        _, sha256 = split_address(text)
        verify_file(self.file_path(sha256), sha256)
        return self.file_path(sha256)

    def folder(self, text: str) -> Path:
        """The verified folder at an address. Raises ``IntegrityError`` if it is gone or changed."""
        _, identity = split_address(text)
        verify_folder(self.root / "folders" / identity, identity)
        return self.root / "folders" / identity

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder on the store's file system, removed at the end."""
        self.root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.root, prefix=".scratch-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def _holds(path: Path, sha256: str) -> bool:
        if not path.exists():
            return False
        try:
            verify_file(path, sha256)
        except IntegrityError:
            return False
        return True
