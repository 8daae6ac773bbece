"""Publishing: nothing torn is ever readable.

One way to make bytes visible to others: write to a temporary place on the same file system, fsync, verify, write the
manifest last, rename. A folder is published with ``manifest.json`` (path, size, sha256 of each file); its identity is
the sha256 of that manifest. Readers check before they trust.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kaizen.canonical import canonical_json, digest, file_digests
from kaizen.errors import IntegrityError
from kaizen.faults import fault_point

MANIFEST = "manifest.json"


def publish_file(target: Path, write: Callable[[Path], object], *, mode: int = 0o444) -> Path:
    """Let ``write`` fill a temporary file, then make it appear as ``target`` at once, durable and read-only.

    An existing ``target`` is replaced. Raises whatever ``write`` raises; then nothing is visible.
    """
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".publish-")
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".publish-")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(mode)
        sync(temporary)
        fault_point("publish.file.before_rename")
        temporary.replace(target)
        sync(target.parent)
    finally:
        # Also where it went well: a rename onto another link of the same file does nothing.
        temporary.unlink(missing_ok=True)
    return target


def publish_text(target: Path, text: str) -> Path:
    """``publish_file`` for text (UTF-8); the file stays writable."""
    return publish_file(target, lambda path: path.write_text(text, encoding="utf-8"), mode=0o644)


def publish_json(target: Path, value: Any) -> Path:
    """``publish_text`` of ``value``'s canonical JSON."""
    return publish_text(target, canonical_json(value))


def build_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of what lies in ``folder`` (recursive, sorted by path, itself excluded)."""
    entries = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST):
        size, digests = file_digests(path)
        entries.append({"path": path.relative_to(folder).as_posix(), "size": size, **digests})
    return {"version": 1, "files": entries}


def seal_folder(folder: Path, manifest: dict[str, Any]) -> None:
    """Make the files of ``manifest`` durable, and then write it beside them: what has it is whole."""
    for entry in manifest["files"]:
        sync(folder / entry["path"])
    fault_point("publish.folder.before_manifest")
    publish_text(folder / MANIFEST, canonical_json(manifest))
    sync(folder)


def publish_folder(folder: Path, parent: Path) -> tuple[Path, str]:
    """Move a finished ``folder`` (same file system) to ``parent/<digest>`` with its manifest; both are returned.

    Publishing the same content twice leaves the first copy; ``folder`` is gone afterwards either way.
    """
    manifest = build_manifest(folder)
    identity = digest(manifest)
    target = parent / identity
    if target.exists():
        try:
            verify_folder(target, identity)
        except IntegrityError:
            # A damaged copy is replaced by the good one in hand, never trusted and never merged.
            target.replace(Path(tempfile.mkdtemp(dir=parent, prefix=".damaged-")) / identity)
        else:
            shutil.rmtree(folder)
            return target, identity
    seal_folder(folder, manifest)
    fault_point("publish.folder.before_rename")
    parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.replace(target)
    except OSError:
        # Somebody published the same content in between: theirs is ours.
        verify_folder(target, identity)
        shutil.rmtree(folder)
    sync(parent)
    return target, identity


def verify_folder(folder: Path, identity: str) -> None:
    """Check every file of a published folder. Raises ``IntegrityError`` (KZ611, KZ612) with the first that differs."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = digest(manifest)
    except (OSError, ValueError) as error:
        raise _refuse("KZ611", "unpublished or damaged folder", folder / MANIFEST, str(error), identity) from error
    if found != identity:
        raise _refuse("KZ611", "manifest is not the one that was published", folder / MANIFEST, found, identity)
    for entry in manifest["files"]:
        verify_file(folder / entry["path"], entry["sha256"], entry["size"])


def verify_file(path: Path, sha256: str, size: int | None = None) -> None:
    """Check one file's bytes. Raises ``IntegrityError`` (KZ612) with both digests."""
    try:
        found_size, digests = file_digests(path)
    except OSError as error:
        raise _refuse("KZ612", "stored file is gone", path, error.strerror, sha256) from error
    if digests["sha256"] != sha256 or (size is not None and size != found_size):
        found = f"sha256 {digests['sha256']} ({found_size} bytes)"
        raise _refuse("KZ612", "stored file has other bytes than were published", path, found, f"sha256 {sha256}")


def _refuse(code: str, what: str, path: Path, value: str | None, limit: str) -> IntegrityError:
    action = "restore it: `dvc pull` for data, or train again for models; then retry"
    return IntegrityError(code, what, where=str(path), value=value, limit=limit, action=action)


def sync(path: Path) -> None:
    """Make what a file holds, or which names a folder has, outlast a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
