"""The data repository's checked-out files: a view of the tip, for people who ``cd`` there.

Whoever has committed brings it up to the tip, for everybody: the next one finds nothing to do. A branch that a person
has checked out is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from kaizen.adapters.data_history import BRANCH, POINTER, Git, History, read_pointer, turn
from kaizen.adapters.data_places import Content, Folder
from kaizen.faults import fault_point


class Workspace:
    """Pointer files, links to cached objects, and git's index, below the root of ``history``."""

    def __init__(self, history: History, cache: Folder) -> None:
        self.history, self.cache, self.root = history, cache, history.root

    @property
    def _shown(self) -> Path:
        """Holds the commit that the workspace shows."""
        return self.root / ".git" / "kaizen-shown"

    def bring_up(self, own: Mapping[str, Content] | None = None, *, anew: bool = False) -> None:
        """Show the tip. The paths of ``own`` are looked at in any case; ``anew``: all are."""
        own = own or {}
        if not anew and self._shows(own):
            return
        with turn(self.root / ".git" / "kaizen-workspace") as lock:
            head = (self.root / ".git" / "HEAD").read_text(encoding="utf-8")
            if head.strip() != f"ref: {BRANCH}" or (not anew and self._shows(own)):
                return
            self._write(Git(self.root, lock), own, anew=anew)

    def _shows(self, own: Mapping[str, Content]) -> bool:
        return self._read_shown() == self.history.tip() and all(self._has(*each) for each in own.items())

    def _has(self, path: str, content: Content) -> bool:
        pointer, data, cached = self.root / f"{path}{POINTER}", self.root / path, self.cache.root / content.key
        facts = read_pointer(pointer.read_bytes()) if pointer.exists() else {}
        if facts.get("md5") != content.md5 or not data.exists():
            return False
        return data.samefile(cached) or not content.problem(data)

    def _read_shown(self) -> str:
        try:
            return self._shown.read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def _write(self, git: Git, own: Mapping[str, Content], *, anew: bool) -> None:
        # Those of the history are for whoever has its turn.
        for leftover in (self.root / ".git").glob("*index*.lock"):
            leftover.unlink(missing_ok=True)
        tip = self.history.tip()
        gone, changed = self._changes(git, "" if anew else self._read_shown(), tip)
        changed += [f"{path}{POINTER}" for path in own]
        fault_point("data.commit.before_workspace")
        for folder in {(self.root / path).parent for path in changed}:
            folder.mkdir(parents=True, exist_ok=True)
            for draft in folder.glob(".publish-*"):
                draft.unlink()
        texts = self.history.read([f"{tip}:{path}" for path in dict.fromkeys(changed)])
        for name, text in texts.items():
            if text is not None:
                path = name.partition(":")[2]
                self._show(self.root / path, text, own.get(path.removesuffix(POINTER)))
        for path in gone:
            for file in (path, path.removesuffix(POINTER)):
                (self.root / file).unlink(missing_ok=True)
        git("read-tree", "--reset", tip)
        self._shown.write_text(tip, encoding="utf-8")

    def _changes(self, git: Git, shown: str, tip: str) -> tuple[list[str], list[str]]:
        """What is no more, and what is new or other, between two commits; all of ``tip`` if ``shown`` is none."""
        found = git.attempt("diff-tree", "-r", "-z", "--no-renames", "--name-status", shown, tip) if shown else None
        if found is None or found.returncode:
            return [], git("ls-tree", "-r", "-z", "--name-only", tip).rstrip("\0").split("\0")
        words = found.stdout.decode().rstrip("\0").split("\0")
        rows = list(zip(words[::2], words[1::2], strict=False))
        return [path for status, path in rows if status == "D"], [path for status, path in rows if status != "D"]

    def _show(self, file: Path, text: bytes, own: Content | None) -> None:
        """One file of the tip, and the data that it points to: most likely ``own``."""
        content = own if own and own.md5.encode() in text else _content_of(file, text)
        if content:
            data, cached = file.with_name(file.name.removesuffix(POINTER)), self.cache.root / content.key
            if not _is_link(data, cached) and self.cache.has(content) and content.problem(data):
                _swap(data, lambda draft: self.cache.copy(cached, draft, content))
        if _bytes_of(file) != text:
            _swap(file, lambda draft: draft.write_bytes(text))


def _content_of(file: Path, text: bytes) -> Content | None:
    facts = read_pointer(text) if file.name.endswith(POINTER) else {}
    return Content(facts["md5"], facts["size"]) if facts else None


def _is_link(data: Path, cached: Path) -> bool:
    try:
        return data.samefile(cached)
    except FileNotFoundError:
        return False


def _bytes_of(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _swap(target: Path, write: Callable[[Path], object]) -> None:
    """Make what ``write`` leaves appear at once. Not durable: after a power cut the view is made anew, from git."""
    draft = target.with_name(f".publish-{target.name}")
    write(draft)
    draft.replace(target)
