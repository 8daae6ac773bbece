"""Verify, check out, back up, restore and mend the versions of a data repository.

A backup is a DVC remote of its own with the history beside it: ``history-COMMIT.bundle`` (git) and, written last,
``kaizen-backup.json``, which names the bundle and every object with size and digests.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaizen.adapters.data_history import BRANCH, Change, Git, turn
from kaizen.adapters.data_places import Content, Folder, Place, open_place, spread
from kaizen.canonical import canonical_json, file_digests
from kaizen.errors import DataRefused, IntegrityError, UsageError
from kaizen.ports import BackedUp, Kept, Wrong

if TYPE_CHECKING:
    from kaizen.adapters.dvc_repository import DvcRepository

MANIFEST = "kaizen-backup.json"

_FORMAT = {"format": "kaizen-data-backup", "version": 1}
_LEFT_ALONE = timedelta(days=1)
_FRESH = timedelta(hours=1)
_NAMED = 20
_LOOSE = 5000
"""Objects of git in a file each; a version has four."""

Tell = Callable[[str], object]


class _Stored(Folder):
    """The loop's store, which has files by sha256."""

    def __init__(self, repository: DvcRepository) -> None:
        super().__init__("store", repository.store.root)
        self._store = repository.store

    def path(self, content: Content) -> Path | None:
        return self._store.file_path(content.sha256) if content.sha256 else None


def verify(repository: DvcRepository, tell: Tell, *, repair: bool) -> list[Wrong]:
    """See ``DataRepository``."""
    objects = _objects(repository.versions())
    places, seen = _places(repository), dict[Any, str]()
    step = _progress(tell, "verified", len(objects))

    def examine(content: Content) -> list[tuple[str, str, bool]]:
        wrong = {}
        for place in places:
            with repository.using(place):
                problem = "" if _unnamed(place, content) else place.problem(content, seen)
            if problem:
                wrong[place.name] = problem
        mended = bool(wrong) and repair and _mend(repository, content, set(wrong))
        step()
        return [(name, problem, mended) for name, problem in wrong.items()]

    found = zip(objects.values(), spread(examine, list(objects)), strict=True)
    wrong = [
        Wrong(v.path, v.commit, v.md5, name, problem, mended)
        for versions, problems in found
        for name, problem, mended in problems
        for v in versions
    ]
    if repair and repository.exists:
        repository.workspace.bring_up(anew=True)
    return wrong


def checkout(repository: DvcRepository, moment: str | datetime, folder: Path, tell: Tell) -> str:
    """See ``DataRepository``. Raises ``UsageError`` (KZ270, KZ271, KZ273), ``IntegrityError`` (KZ643)."""
    commit = resolve(repository, moment)
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            "KZ271",
            "the folder to check out into is in use",
            where=str(folder),
            limit="a folder that is empty or not there",
            action="name another folder",
        )
    try:
        _materialise(repository, commit, folder, tell)
    except OSError as error:
        raise UsageError(
            "KZ273",
            "the folder to check out into cannot be written",
            where=str(error.filename2 or error.filename or folder),
            value=error.strerror,
            limit=f"{folder} is a folder that this process may write",
            action="free space or grant the right, or name another folder",
        ) from error
    return commit


def _materialise(repository: DvcRepository, commit: str, folder: Path, tell: Tell) -> None:
    versions = repository.history.tree(commit)
    step = _progress(tell, "checked out", len(versions))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as drafts:
        draft = Path(drafts) / folder.name
        draft.mkdir()

        def place(version: Kept) -> None:
            target = draft / version.path
            _fetch(repository, _content(version), target, version.path)
            target.chmod(0o644)
            step()

        spread(place, versions)
        draft.replace(folder)


def resolve(repository: DvcRepository, moment: str | datetime) -> str:
    """The commit of a revision, or the newest one of a time (ISO 8601). Raises ``UsageError`` (KZ270)."""
    git, found = repository.history.git, None
    if repository.exists:
        if isinstance(moment, str):
            found = git.attempt("rev-parse", "--verify", "--quiet", "--end-of-options", f"{moment}^{{commit}}")
        time = moment if isinstance(moment, datetime) else _time(moment)
        if (found is None or found.returncode) and time:
            found = git.attempt("rev-list", "-1", "--first-parent", f"--before={int(time.timestamp())}", BRANCH)
    commit = found.stdout.decode().strip() if found and not found.returncode else ""
    if not commit:
        raise UsageError(
            "KZ270",
            "no such version of the data set",
            where=str(repository.root),
            value=str(moment),
            limit="a revision of the data repository, or a time (ISO 8601) at which it had one",
            action="`kaizen data log` and `git log` in the data repository list them",
        )
    return commit.splitlines()[-1]


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def backup(repository: DvcRepository, remote: str, tell: Tell) -> BackedUp:
    """See ``DataRepository``.

    Raises:
        UsageError: nothing was committed yet, or the remote is the repository's own (KZ272).
        DataRefused: the remote cannot be written (KZ442) or holds another data set's backup (KZ448).
        IntegrityError: no copy of an object is whole (KZ643).
    """
    place = open_place("backup", remote)
    if not repository.exists or place.url == repository.remote.url:
        raise UsageError(
            "KZ272",
            "there is nothing that could be backed up there",
            where=place.url,
            value="the repository's own remote" if repository.exists else "no version was committed yet",
            limit="a second remote, and at least one version",
            action="name another folder or bucket; ingest first",
        )
    history = repository.history
    with repository.using(place), _scratch(repository) as folder:
        place.probe()
        before = _read_manifest(place, folder) or {"objects": {}, "root": _root(history.git, BRANCH), "bundle": {}}
        bundle = folder / "bundle"
        history.git("bundle", "create", "--quiet", str(bundle), BRANCH)
        tip = history.git("bundle", "list-heads", str(bundle)).split()[0]
        root = _root(history.git, tip)
        if before["root"] != root:
            raise _other_data_set(place.url, before["root"], root)
        objects = _objects(history.versions(tip))
        step = _progress(tell, "backed up", len(objects))

        def copy(content: Content) -> bool:
            known = before["objects"].get(content.md5) == [content.size, content.sha256] and place.has(content)
            if not known:
                with _whole(repository, content, folder) as source:
                    place.put(content, source)
            step()
            return not known

        copied = sum(spread(copy, list(objects)))
        facts = {"key": f"history-{tip}.bundle", "sha256": file_digests(bundle)[1]["sha256"]}
        _write_checked(place, facts["key"], bundle, folder)
        manifest = {
            **_FORMAT,
            "root": root,
            "commit": tip,
            "versions": sum(map(len, objects.values())),
            "bundle": facts,
            "objects": {c.md5: [c.size, c.sha256] for c in objects},
        }
        (folder / "manifest").write_text(canonical_json(manifest), encoding="utf-8")
        _write_checked(place, MANIFEST, folder / "manifest", folder)
        if before["bundle"] and before["bundle"]["key"] != facts["key"]:
            place.remove(before["bundle"]["key"])
    return _summary(manifest, copied)


def restore(repository: DvcRepository, remote: str, tell: Tell) -> BackedUp:
    """See ``DataRepository``. Versions that came after the backup stay; it may be repeated after a kill.

    Raises:
        DataRefused: no backup is there (KZ447); the repository here has another history (KZ448).
        IntegrityError: the backup is damaged (KZ644); the objects that are whole were brought back.
    """
    place = open_place("backup", remote)
    with _scratch(repository) as folder:
        with repository.using(place):
            manifest, bundle = _read_manifest(place, folder), folder / "bundle"
            if manifest is None:
                raise DataRefused(
                    "KZ447",
                    "no backup of a data set is there",
                    where=place.url,
                    limit=f"{MANIFEST}, which `kaizen data backup` writes last",
                    action="name the remote that was backed up to",
                )
            key, sha256 = manifest["bundle"]["key"], manifest["bundle"]["sha256"]
            if not place.read(key, bundle) or file_digests(bundle)[1]["sha256"] != sha256:
                raise _damaged(place.url, [key])
        if repository.exists and _root(repository.history.git, BRANCH) != manifest["root"]:
            raise _other_data_set(place.url, manifest["root"], _root(repository.history.git, BRANCH))
        with repository.writing():
            copied = _bring_back(repository, place, manifest, folder, tell)
            _bring_history(repository, manifest["commit"], bundle)
            contents = [Content(md5, *facts) for md5, facts in manifest["objects"].items()]
            spread(lambda content: _mend(repository, content, {"cache"}), contents)
            repository.workspace.bring_up(anew=True)
    return _summary(manifest, copied)


def _bring_back(repository: DvcRepository, place: Place, manifest: dict[str, Any], folder: Path, tell: Tell) -> int:
    """Have every object of a backup in the store and the remote; how many were copied."""
    contents = [Content(md5, *facts) for md5, facts in manifest["objects"].items()]
    repository.probe()
    step = _progress(tell, "restored", len(contents))
    stored, remote, damaged = _Stored(repository), repository.remote, []

    def bring(content: Content) -> bool:
        try:
            with _whole(repository, content, folder, place) as source, repository.using(remote):
                new = bool(stored.problem(content)) or not remote.has(content)
                remote.put(content, source)
                stored.put(content, source)
        except IntegrityError:
            damaged.append(content.key)
            return False
        step()
        return new

    copied = sum(spread(bring, contents))
    if damaged:
        raise _damaged(place.url, sorted(damaged))
    return copied


def _bring_history(repository: DvcRepository, commit: str, bundle: Path) -> None:
    """Have ``commit`` in the history, and the remote's address in its configuration."""
    history = repository.history
    fetch = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", str(bundle))
    if not repository.exists:
        with repository.draft() as git:
            git(*fetch, "--update-head-ok", f"{BRANCH}:{BRANCH}")
    with turn(history.folder / "kaizen-history") as lock:
        git = Git(repository.root, lock)
        git(*fetch, BRANCH)
        tip = history.tip()
        if git.attempt("merge-base", "--is-ancestor", commit, tip).returncode:
            if git.attempt("merge-base", "--is-ancestor", tip, commit).returncode:
                raise _other_data_set(str(repository.root), commit, tip)
            git("update-ref", BRANCH, commit, tip)
    history.append(lambda tip: _point_to_remote(repository, tip))


def _point_to_remote(repository: DvcRepository, tip: str) -> tuple[list[Change], list[str]]:
    """The commit that names the remote in DVC's configuration, if another is named."""
    text = next(iter(repository.history.read([f"{tip}:.dvc/config"]).values())) or b""
    before, section, rest = text.decode().partition("['remote \"store\"']\n")
    wanted = "".join(
        f'    {key} = "{value}"\n' if isinstance(value, str) else f"    {key} = {str(value).lower()}\n"
        for key, value in repository.dvc_remote()["store"].items()
    )
    found = re.search(r'(?m)^\s*url = "?(.*?)"?$', rest)
    if found and found[1] == repository.remote.url:
        return [], []
    _, _, others = rest.partition("\n[")
    after = f"[{others}" if others else ""
    section = section or "['remote \"store\"']\n"
    return [Change({".dvc/config": f"{before}{section}{wanted}{after}"}, "Name the remote")], []


def reconcile(repository: DvcRepository, now: datetime) -> Iterator[str]:
    """See ``DataRepository``."""
    if not repository.exists:
        return
    rwlock = repository.root / ".dvc" / "tmp" / "rwlock"
    if rwlock.exists() and not _is_json(rwlock):
        rwlock.unlink()
        yield "removed DVC's rwlock, which a killed dvc had left half written"
    looked, tip = repository.history.folder / "kaizen-reconciled", repository.history.tip()
    if _same_and_fresh(looked, tip, now):
        return
    objects = _objects(repository.versions())
    with repository.using(repository.remote):
        there = {md5: (size, time) for md5, size, time in repository.remote.objects()}
    for content, versions in objects.items():
        if there.get(content.md5, (-1, 0))[0] != content.size:
            done = _mend(repository, content, {"remote"})
            what = "pushed again" if done else "NOT in the remote, and no copy here is whole"
            yield f"{what}: {versions[-1].path} of commit {versions[-1].commit[:12]}"
    repository.workspace.bring_up(anew=True)
    known = {content.md5 for content in objects}
    idle = sorted(
        md5
        for md5, (_, time) in there.items()
        if md5 not in known and now.timestamp() - time > _LEFT_ALONE.total_seconds()
    )
    for md5 in idle[:_NAMED]:
        yield f"object of no version: {repository.remote.url}/{Content(md5, 0).key}"
    if len(idle) > _NAMED:
        yield f"and {len(idle) - _NAMED} more objects of no version"
    git = repository.history.git
    if int(git("count-objects").split()[0]) > _LOOSE:
        # What is under way is loose and in no commit yet: this leaves it alone.
        git("repack", "-d", "-q")
    looked.write_text(f"{tip} {now.timestamp()}", encoding="utf-8")


def _same_and_fresh(looked: Path, tip: str, now: datetime) -> bool:
    """Whether the remote was looked through at this tip a short while ago: that costs a listing of it."""
    try:
        commit, at = looked.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return False
    return commit == tip and abs(now.timestamp() - float(at)) < _FRESH.total_seconds()


def _mend(repository: DvcRepository, content: Content, wrong: set[str]) -> bool:
    """Replace the copies at some places by one that is whole; whether there is one."""
    try:
        with _scratch(repository) as folder, _whole(repository, content, folder) as source:
            for place in _places(repository):
                if place.name in wrong and not _unnamed(place, content):
                    with repository.using(place):
                        place.put(content, source)
                    # A cache object is to be a link of the store's file.
                    stored = _Stored(repository).path(content)
                    source = stored if place.name == "store" and stored else source
    except IntegrityError:
        return False
    return True


def _fetch(repository: DvcRepository, content: Content, target: Path, path: str) -> None:
    for place in _places(repository):
        # What a folder's copy may fail at is writing the target, which is the caller's to tell.
        with nullcontext() if isinstance(place, Folder) else repository.using(place):
            if place.fetch(content, target):
                return
    raise _no_copy(content, path)


@contextmanager
def _whole(repository: DvcRepository, content: Content, folder: Path, *more: Place) -> Iterator[Path]:
    """A file with these bytes, verified: one that there is, or a fetched one. Raises ``IntegrityError`` (KZ643)."""
    local = [place.path(content) for place in (_Stored(repository), repository.cache)]
    found = next((path for path in local if path and path.exists() and not content.problem(path)), None)
    if found is not None:
        yield found
        return
    target = folder / content.md5
    for place in (*more, repository.remote):
        with repository.using(place):
            if place.fetch(content, target):
                break
    else:
        raise _no_copy(content, content.key)
    try:
        yield target
    finally:
        target.unlink(missing_ok=True)


def _places(repository: DvcRepository) -> list[Place]:
    return [_Stored(repository), repository.cache, repository.remote]


def _unnamed(place: Place, content: Content) -> bool:
    """Whether ``place`` cannot have the object, because it goes by a digest that nobody wrote down."""
    return isinstance(place, _Stored) and place.path(content) is None


def _content(version: Kept) -> Content:
    sha256 = str(version.meta.get("sha256", ""))
    return Content(version.md5, version.size, sha256 if re.fullmatch("[0-9a-f]{64}", sha256) else "")


def _objects(versions: list[Kept]) -> dict[Content, list[Kept]]:
    """The versions of every object, oldest first."""
    found: dict[str, list[Kept]] = {}
    for version in versions:
        found.setdefault(version.md5, []).append(version)
    return {max(map(_content, same), key=lambda content: content.sha256): same for same in found.values()}


def _root(git: Git, revision: str) -> str:
    """The first commit: it tells one data set from another."""
    return git("rev-list", "--max-parents=0", "--first-parent", revision).split()[-1]


def _read_manifest(place: Place, folder: Path) -> dict[str, Any] | None:
    """What a backup says of itself; None if there is none. Raises ``IntegrityError`` (KZ644)."""
    if not place.read(MANIFEST, folder / "found"):
        return None
    try:
        manifest: dict[str, Any] = json.loads((folder / "found").read_text(encoding="utf-8"))
        if {name: manifest[name] for name in _FORMAT} == _FORMAT:
            return manifest
    except (ValueError, LookupError, TypeError):
        pass
    raise _damaged(place.url, [MANIFEST])


def _write_checked(place: Place, key: str, source: Path, folder: Path) -> None:
    place.write(key, source)
    if not place.read(key, folder / "again") or file_digests(folder / "again") != file_digests(source):
        raise _damaged(place.url, [key])


def _summary(manifest: dict[str, Any], copied: int) -> BackedUp:
    sizes = [size for size, _ in manifest["objects"].values()]
    return BackedUp(manifest["commit"], manifest["versions"], len(sizes), sum(sizes), copied)


@contextmanager
def _scratch(repository: DvcRepository) -> Iterator[Path]:
    with repository.store.scratch() as folder:
        yield folder


def _progress(tell: Tell, word: str, total: int) -> Callable[[], None]:
    """To be called once for each of ``total`` objects; tells at every tenth of them."""
    lock, done = threading.Lock(), 0

    def step() -> None:
        nonlocal done
        with lock:
            done += 1
            if done == total or done * 10 // total > (done - 1) * 10 // total:
                tell(f"{word} {done} of {total} objects")

    return step


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return False
    return True


def _no_copy(content: Content, path: str) -> IntegrityError:
    return IntegrityError(
        "KZ643",
        "no copy of a version is whole",
        where=path,
        value=f"md5 {content.md5} is missing or damaged in store, cache and remote",
        limit=f"md5 {content.md5} ({content.size} bytes)",
        action="`kaizen data restore` from a backup, or deliver the source again",
    )


def _damaged(url: str, keys: list[str]) -> IntegrityError:
    return IntegrityError(
        "KZ644",
        "the backup is damaged",
        where=url,
        value=", ".join(keys[:_NAMED]) + (f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""),
        limit=f"the bytes that {MANIFEST} names",
        action="restore from another backup; back up again while the first copies are whole",
    )


def _other_data_set(where: str, found: str, wanted: str) -> DataRefused:
    return DataRefused(
        "KZ448",
        "the backup and the repository here are of different data sets",
        where=where,
        value=f"commit {found}",
        limit=f"a history with commit {wanted}",
        action="name another remote, or restore into an empty home (KAIZEN_HOME)",
    )
