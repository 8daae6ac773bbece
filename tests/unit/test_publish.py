"""Publishing: what a reader can open is whole, whatever happens to the writer and to the disk."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import kaizen
from kaizen.canonical import canonical_json, digest
from kaizen.errors import IntegrityError
from kaizen.publish import (
    MANIFEST,
    build_manifest,
    publish_file,
    publish_folder,
    publish_json,
    publish_text,
    verify_file,
    verify_folder,
)

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def fill(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def run_with_fault(fault: str, code: str, *arguments: Path) -> int:
    """Run ``code`` in a process that has a fault armed; its exit status."""
    env = {**os.environ, "KAIZEN_FAULT": fault, "PYTHONPATH": str(Path(kaizen.__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=env, capture_output=True).returncode


# Files


def test_a_published_file_is_read_only_and_alone(tmp_path: Path) -> None:
    target = publish_file(tmp_path / "a" / "b.bin", lambda path: path.write_bytes(b"bytes"))
    assert target.read_bytes() == b"bytes"
    assert target.stat().st_mode & 0o777 == 0o444
    assert names(tmp_path) == ["a", "a/b.bin"]


def test_text_and_json_can_be_published_again(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    publish_json(target, {"b": 1, "a": "ü"})
    assert target.read_text(encoding="utf-8") == '{"a":"ü","b":1}'
    assert target.stat().st_mode & 0o777 == 0o644
    assert publish_text(target, "other").read_text() == "other"


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = publish_text(tmp_path / "a.txt", "old")

    def torn(path: Path) -> None:
        path.write_text("half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish_file(target, torn)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_json_that_has_no_canonical_form_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        publish_json(tmp_path / "a.json", {"a": float("nan")})
    assert names(tmp_path) == []


def test_readers_never_see_a_torn_file(tmp_path: Path) -> None:
    target, texts = tmp_path / "a.txt", {letter * 300_000 for letter in "abc"}
    publish_text(target, "a" * 300_000)
    done, seen = threading.Event(), set()

    def read() -> None:
        while not done.is_set():
            seen.add(target.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for text in sorted(texts) * 10:
        publish_text(target, text)
    done.set()
    reader.join()
    assert seen <= texts


@pytest.mark.parametrize("action", ["kill", "raise"])
def test_a_file_whose_writer_dies_before_the_rename_is_not_there(action: str, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from kaizen.publish import publish_text\n"
    code += "publish_text(Path(sys.argv[1]), 'new')"
    target = publish_text(tmp_path / "a.txt", "old")
    assert run_with_fault(f"publish.file.before_rename:{action}", code, target) != 0
    assert target.read_text() == "old"
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["a.txt"]
    assert run_with_fault("nothing:kill", code, target) == 0
    assert target.read_text() == "new"


@pytest.mark.parametrize("damage", [b"", b"byteS", b"bytes and more"])
def test_changed_bytes_are_refused_with_both_digests(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(damage)
    with pytest.raises(IntegrityError) as refusal:
        verify_file(path, EMPTY[::-1], 5)
    assert (refusal.value.code, refusal.value.where) == ("KZ612", str(path))
    assert EMPTY[::-1] in refusal.value.limit
    assert f"({len(damage)} bytes)" in str(refusal.value.value)


def test_the_right_bytes_are_accepted_and_a_wrong_size_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    verify_file(path, EMPTY)
    verify_file(path, EMPTY, 0)
    with pytest.raises(IntegrityError):
        verify_file(path, EMPTY, 1)


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="stored file is gone") as refusal:
        verify_file(tmp_path / "a", EMPTY)
    assert refusal.value.code == "KZ612"


# Folders


def test_the_manifest_lists_every_file_sorted_by_path(tmp_path: Path) -> None:
    folder = fill(tmp_path / "x", b="", a="1")
    fill(folder / "sub", manifest="")
    (folder / MANIFEST).write_text("of an earlier life")
    (folder / "sub" / MANIFEST).write_text("")
    manifest = build_manifest(folder)
    assert [entry["path"] for entry in manifest["files"]] == ["a", "b", "sub/manifest", "sub/manifest.json"]
    assert manifest["files"][1] == {"path": "b", "size": 0, "sha256": EMPTY}


def test_a_published_folder_lies_under_the_digest_of_its_manifest(tmp_path: Path) -> None:
    draft = fill(tmp_path / "draft", a="1", b="2")
    expected = digest(build_manifest(draft))
    folder, identity = publish_folder(draft, tmp_path / "folders")
    assert identity == expected
    assert folder == tmp_path / "folders" / identity
    assert names(tmp_path) == ["folders", *[f"folders/{identity}{end}" for end in ("", "/a", "/b", "/manifest.json")]]
    verify_folder(folder, identity)


def test_the_same_content_is_published_once(tmp_path: Path) -> None:
    first = publish_folder(fill(tmp_path / "one", a="1"), tmp_path / "folders")
    inode = (first[0] / "a").stat().st_ino
    second = publish_folder(fill(tmp_path / "two", a="1"), tmp_path / "folders")
    assert second == first
    assert (first[0] / "a").stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["folders"]


@pytest.mark.parametrize("damage", ["changed", "removed", "no manifest", "torn manifest", "empty"])
def test_a_damaged_folder_is_refused_and_healed_by_publishing_again(damage: str, tmp_path: Path) -> None:
    folder, identity = publish_folder(fill(tmp_path / "one", a="1", b="2"), tmp_path / "folders")
    if damage == "changed":
        (folder / "a").write_text("3")
    elif damage == "removed":
        (folder / "b").unlink()
    elif damage == "no manifest":
        (folder / MANIFEST).unlink()
    elif damage == "torn manifest":
        (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:-20])
    else:
        for path in folder.iterdir():
            path.unlink()
    with pytest.raises(IntegrityError):
        verify_folder(folder, identity)
    again, same = publish_folder(fill(tmp_path / "two", a="1", b="2"), tmp_path / "folders")
    assert (again, same) == (folder, identity)
    verify_folder(again, identity)


def test_a_manifest_of_other_content_is_refused(tmp_path: Path) -> None:
    folder, identity = publish_folder(fill(tmp_path / "one", a="1"), tmp_path / "folders")
    (folder / "a").write_text("2")
    (folder / MANIFEST).write_text(canonical_json(build_manifest(folder)))
    with pytest.raises(IntegrityError, match="not the one that was published") as refusal:
        verify_folder(folder, identity)
    assert (refusal.value.code, refusal.value.limit) == ("KZ611", identity)


PUBLISH_FOLDER = """
import sys
from pathlib import Path
from kaizen.publish import publish_folder
draft = Path(sys.argv[1])
draft.mkdir()
(draft / "a").write_text("1")
publish_folder(draft, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("action", ["kill", "raise"])
@pytest.mark.parametrize(
    "point", ["publish.folder.before_manifest", "publish.file.before_rename", "publish.folder.before_rename"]
)
def test_a_folder_whose_writer_dies_is_not_there(point: str, action: str, tmp_path: Path) -> None:
    identity = digest(build_manifest(fill(tmp_path / "expected", a="1")))
    folders = tmp_path / "folders"
    assert run_with_fault(f"{point}:{action}", PUBLISH_FOLDER, tmp_path / "draft", folders) != 0
    assert not folders.exists()
    with pytest.raises(IntegrityError):
        verify_folder(folders / identity, identity)
    assert run_with_fault("nothing:kill", PUBLISH_FOLDER, tmp_path / "again", folders) == 0
    verify_folder(folders / identity, identity)


def test_two_publishers_of_one_content_both_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one comes between the look and the rename."""
    other: dict[str, Any] = {}

    def meanwhile(point: str) -> None:
        if point == "publish.folder.before_rename" and not other:
            other["started"] = True
            other["result"] = publish_folder(fill(tmp_path / "other", a="1"), tmp_path / "folders")

    monkeypatch.setattr("kaizen.publish.fault_point", meanwhile)
    mine = publish_folder(fill(tmp_path / "mine", a="1"), tmp_path / "folders")
    assert mine == other["result"]
    assert not (tmp_path / "mine").exists()
    verify_folder(*mine)


def test_a_draft_that_is_a_link_of_what_somebody_else_has_just_published_is_not_left(tmp_path: Path) -> None:
    """A rename onto another link of the same file does nothing, and leaves both."""
    source, target = tmp_path / "source", tmp_path / "shared" / "target"
    source.write_text("same")

    def write(draft: Path) -> None:
        draft.unlink()
        os.link(source, draft)
        os.link(source, target)

    publish_file(target, write)
    assert names(tmp_path) == ["shared", "shared/target", "source"]
