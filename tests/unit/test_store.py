"""The store: bytes by content. What an address gives is what was put, or a refusal."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kaizen
from kaizen.errors import IntegrityError
from kaizen.store import Store, address, split_address

SHA = hashlib.sha256(b"1").hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put_folder(store: Store, text: str) -> str:
    with store.scratch() as scratch:
        draft = scratch / "model"
        draft.mkdir()
        (draft / "a").write_text(text)
        return store.put_folder("loop/model", draft)


def visible(root: Path) -> list[Path]:
    """Files that somebody could read by an address."""
    found = [path for path in root.rglob("*") if path.is_file()]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def test_a_file_is_found_by_its_content_whatever_it_is_called(store: Store) -> None:
    one = store.put_file("flights/2013-04", lambda path: path.write_bytes(b"1"))
    two = store.put_file("other", lambda path: path.write_bytes(b"1"))
    assert one == f"store:flights/2013-04@sha256:{SHA}"
    assert store.file(one) == store.file(two) == store.file_path(SHA)
    assert store.file(one).read_bytes() == b"1"
    assert visible(store.root) == [store.file_path(SHA)]


def test_a_folder_is_found_by_its_content(store: Store) -> None:
    text = put_folder(store, "1")
    assert put_folder(store, "1") == text
    assert (store.folder(text) / "a").read_text() == "1"
    assert put_folder(store, "2") != text


def test_an_address_is_taken_apart_as_it_was_made() -> None:
    assert split_address(address("nyc/flights/model", SHA)) == ("nyc/flights/model", SHA)


@pytest.mark.parametrize(
    "text",
    [
        "",
        SHA,
        f"store:x@sha256:{SHA[:-1]}",
        f"store:x@sha256:{SHA.upper()}",
        f"store:@sha256:{SHA}",
        f"s3:x@sha256:{SHA}",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError) as refusal:
        split_address(text)
    assert (refusal.value.code, refusal.value.value) == ("KZ613", text)


@pytest.mark.parametrize("damage", [b"", b"12"])
def test_a_torn_file_is_refused_and_healed_by_putting_it_again(damage: bytes, store: Store) -> None:
    text = store.put_file("x", lambda path: path.write_bytes(b"1"))
    store.file(text).chmod(0o644)
    store.file_path(SHA).write_bytes(damage)
    with pytest.raises(IntegrityError):
        store.file(text)
    assert store.put_file("x", lambda path: path.write_bytes(b"1")) == text
    assert store.file(text).read_bytes() == b"1"


def test_a_damaged_folder_is_refused_and_healed_by_putting_it_again(store: Store) -> None:
    text = put_folder(store, "1")
    (store.folder(text) / "a").write_text("2")
    with pytest.raises(IntegrityError):
        store.folder(text)
    assert put_folder(store, "1") == text
    assert (store.folder(text) / "a").read_text() == "1"


def test_a_file_and_a_folder_that_were_never_put_are_refused(store: Store) -> None:
    with pytest.raises(IntegrityError):
        store.file(address("x", SHA))
    with pytest.raises(IntegrityError):
        store.folder(address("x", SHA))


def test_scratch_is_on_the_stores_file_system_and_gone_afterwards(store: Store) -> None:
    with store.scratch() as scratch:
        (scratch / "a").touch()
        assert scratch.parent == store.root
    with pytest.raises(ValueError, match="no"), store.scratch():
        raise ValueError("no")
    assert list(store.root.iterdir()) == []


def test_a_writer_that_fails_leaves_nothing(store: Store) -> None:
    def torn(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.put_file("x", torn)
    assert list(store.root.iterdir()) == []


PUT = """
import sys
from pathlib import Path
from kaizen.store import Store
store = Store(Path(sys.argv[1]))
if sys.argv[2] == "file":
    store.put_file("x", lambda path: path.write_bytes(b"1"))
else:
    with store.scratch() as scratch:
        (scratch / "m").mkdir()
        (scratch / "m" / "a").write_text("1")
        store.put_folder("x", scratch / "m")
"""


@pytest.mark.parametrize(
    ("what", "point"),
    [
        ("file", "publish.file.before_rename"),
        ("folder", "publish.folder.before_manifest"),
        ("folder", "publish.file.before_rename"),
        ("folder", "publish.folder.before_rename"),
    ],
)
def test_a_writer_that_is_killed_leaves_nothing_readable_and_the_next_succeeds(
    what: str, point: str, store: Store
) -> None:
    command = [sys.executable, "-c", PUT, str(store.root), what]
    env = {**os.environ, "PYTHONPATH": str(Path(kaizen.__file__).parents[1])}
    assert subprocess.run(command, env={**env, "KAIZEN_FAULT": f"{point}:kill"}).returncode == -9
    assert visible(store.root) == []
    subprocess.run(command, env=env, check=True)
    if what == "file":
        assert store.file(address("x", SHA)).read_bytes() == b"1"
    else:
        (folder,) = (store.root / "folders").iterdir()
        assert (store.folder(address("x", folder.name)) / "a").read_text() == "1"
