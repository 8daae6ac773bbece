"""A data repository in a folder of its own, and the tools that people read it with, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dvc.repo import Repo

import kaizen
from kaizen.adapters.dvc_repository import DvcRepository
from kaizen.ports import NewFile, Pointer
from kaizen.store import Store

COMMIT = """
import os, sys
from pathlib import Path
from kaizen.adapters.dvc_repository import DvcRepository
from kaizen.errors import KaizenError
from kaizen.ports import NewFile
from kaizen.store import Store

base, message, *paths = sys.argv[1:]
store = Store(Path(base, "store"))
repository = DvcRepository(Path(base, "data"), os.environ.get("BENCH_REMOTE", Path(base, "remote")), store)
try:
    for path in paths:
        source = Path(store.file(store.put_file(path, lambda draft: draft.write_text(f"{message} {path}"))))
        print(repository.commit([NewFile(path, source, f"{message} {path}")])[path].commit)
except KaizenError as error:
    import json
    sys.exit(json.dumps(error.to_json()))
"""
FLIGHTS = "flights/2013-04.parquet"
WEATHER = "weather/2013-04.parquet"


class Bench:
    """A data repository in a folder of its own, and the tools that people read it with."""

    def __init__(self, base: Path) -> None:
        self.base, self.root, self.remote = base, base / "data", base / "remote"
        self.store = Store(base / "store")
        self.repository = DvcRepository(self.root, self.remote, self.store)

    def source(self, content: bytes) -> Path:
        return self.store.file(self.store.put_file("any", lambda draft: draft.write_bytes(content)))

    def commit(self, path: str, content: bytes, message: str = "deliver") -> Pointer:
        return self.repository.commit([NewFile(path, self.source(content), message)])[path]

    def spawn(self, message: str, *paths: str, **options) -> subprocess.Popen:
        env = os.environ | {"PYTHONPATH": str(Path(kaizen.__file__).parents[1])} | options.pop("env", {})
        return subprocess.Popen(
            [sys.executable, "-c", COMMIT, str(self.base), message, *paths],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
        )  # fmt: skip

    def git(self, *arguments: str, root: Path | None = None, env: dict[str, str] | None = None) -> str:
        command = ["git", "-C", str(root or self.root), *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **(env or {})})
        return done.stdout.strip()

    def run_dvc(self, *arguments: str, root: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(command, cwd=root or self.root, check=False, capture_output=True, text=True)

    def dvc(self, *arguments: str, root: Path | None = None) -> str:
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=root or self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def subjects(self) -> list[str]:
        return self.git("log", "--reverse", "--format=%s").splitlines()[1:]

    def assert_sound(self) -> None:
        """Git and DVC agree that workspace, history, cache and remote say the same."""
        assert self.git("status", "--porcelain") == ""
        assert self.git("fsck", "--strict", "--no-dangling") == ""
        assert self.git("rev-list", "--min-parents=2", "HEAD") == ""
        with Repo(str(self.root)) as repo:
            assert repo.status() == {}
            assert repo.status(cloud=True) == {}

    def assert_pulled(self, folder: Path, expected: dict[str, bytes]) -> None:
        self.git("clone", "--quiet", str(self.root), str(folder))
        self.dvc("pull", "--quiet", root=folder)
        assert {path: (folder / path).read_bytes() for path in expected} == expected

    def place(self, pointer: Pointer, name: str) -> Path:
        """Where the copy of a version lies in store, cache or remote."""
        if name == "store":
            sha256 = next(v.meta["sha256"] for v in self.repository.versions() if v.md5 == pointer.md5)
            return self.store.file_path(sha256)
        return self.objects(pointer)[name == "remote"]

    def objects(self, pointer: Pointer) -> tuple[Path, Path]:
        place = Path("files", "md5", pointer.md5[:2], pointer.md5[2:])
        return self.root / ".dvc" / "cache" / place, self.remote / place


def tear(path: Path, content: bytes) -> None:
    """Leave other bytes under a name that looks finished; the file that other links lead to stays whole."""
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o444)
