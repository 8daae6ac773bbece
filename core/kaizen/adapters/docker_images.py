"""Images on a Docker engine: built from a recipe by any of its builders, found again by their content, pushed."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import requests
from docker.errors import APIError, DockerException, ImageNotFound

import docker
from kaizen.adapters.docker_engine import Engine
from kaizen.containers import clean_line
from kaizen.errors import StageFailed
from kaizen.images import CONTENT, DIRTY, REVISION, Recipe, mode_of

SILENCE = 3600
"""Seconds that a step of a build, such as a large installation, may say nothing."""
_TAIL = 8
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_BOOKKEEPING = ("--->", "Removing intermediate container")

Tell = Callable[[str], None]
"""Is told every line of what the engine says."""


@dataclass(frozen=True)
class Image:
    """An image of a recipe.

    Attributes:
        image: its name. id: the engine's. content: digest of the recipe.
        revision: commit of the project when it was built, "" if there was none.
        dirty: the project had changes that were not committed. built: False if it was there already.
    """

    image: str
    id: str
    content: str
    revision: str
    dirty: bool
    built: bool


@dataclass(frozen=True)
class Pushed:
    """An image in a registry: its name, and the same with the digest that the registry gave it."""

    image: str
    reference: str


def build(engine: Engine, recipe: Recipe, name: str, *, tell: Tell, network: str = "", anew: bool = False) -> Image:
    """The image ``name`` of ``recipe``: the one that is there if its content is the same, else a new one.

    Args:
        network: of the build's steps; "" is the engine's default. anew: in any case, and every layer of it.

    Raises:
        StageFailed: KZ721, with the last lines; then ``name`` means what it meant before. KZ715 no engine.
    """
    if not anew and (found := _find(engine, name)) and _labels(found).get(CONTENT) == recipe.content:
        return _image(name, found, built=False)
    revision, dirty = git_state(recipe.folder)
    settings = {
        "labels": {CONTENT: recipe.content, REVISION: revision, DIRTY: str(dirty).lower()},
        "buildargs": dict(recipe.arguments),
        "network_mode": network or None,
        "nocache": anew,
    }
    with tempfile.TemporaryFile() as context:
        _write_context(recipe.files, context)
        context.seek(0)
        _follow(
            lambda: engine.api.build(
                **settings,
                tag=name,
                fileobj=context,
                custom_context=True,
                rm=True,
                forcerm=True,
                timeout=SILENCE,
                decode=True,
            ),
            tell,
            lambda said: _not_built(recipe, name, said),
        )
    made = _find(engine, name)
    if made is None or _labels(made).get(CONTENT) != recipe.content:
        raise _not_built(recipe, name, "the build ended without an image")
    return _image(name, made, built=True)


def push(engine: Engine, name: str, *, tell: Tell) -> Pushed:
    """Push the image ``name`` to the registry that its name says.

    Raises ``StageFailed``: KZ722, in the engine's own words, also if there is no such image here. KZ715 no engine.
    """
    if _find(engine, name) is None:
        raise _not_pushed(name, "there is no such image here", "build it with `kaizen image build`")
    repository, tag = docker.utils.parse_repository_tag(name)
    found = _follow(
        lambda: engine.slow.push(repository, tag or "latest", stream=True, decode=True),
        tell,
        lambda said: _not_pushed(name, said, "log in (docker login), or correct the name or the registry"),
    )
    if "Digest" not in found:
        raise _not_pushed(name, "the registry gave no digest", "push it again")
    return Pushed(name, f"{repository}@{found['Digest']}")


def git_state(project: Path) -> tuple[str, bool]:
    """The commit of a project's folder, "" outside of a repository; and whether there is more than was committed."""
    revision = _git(project, "rev-parse", "HEAD")
    return revision, bool(_git(project, "status", "--porcelain", "--", "."))


def _git(project: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(project), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _find(engine: Engine, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = engine.ask(engine.api.inspect_image, name)
    except ImageNotFound:
        return None
    return found


def _labels(found: Mapping[str, Any]) -> dict[str, str]:
    return found["Config"].get("Labels") or {}


def _image(name: str, found: Mapping[str, Any], *, built: bool) -> Image:
    labels = _labels(found)
    return Image(name, found["Id"], labels[CONTENT], labels.get(REVISION, ""), labels.get(DIRTY) == "true", built)


def _write_context(files: Mapping[str, Path], context: IO[bytes]) -> None:
    """The build's files as a tar archive: root's, without times, so that the engine knows equal layers as equal."""
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, path in files.items():
            entry = tarfile.TarInfo(name)
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
                archive.addfile(entry)
                continue
            entry.size, entry.mode = path.stat().st_size, mode_of(path)
            with path.open("rb") as content:
                archive.addfile(entry, content)


def _follow(ask: Callable[[], Any], tell: Tell, refuse: Callable[[str], StageFailed]) -> dict[str, Any]:
    """Tell what the engine says, and return what it says beside: ids and digests.

    Raises what ``refuse`` makes of an error, whether it is an answer, in the stream, or the stream's own end.
    """
    tail, found = deque[str](maxlen=_TAIL), dict[str, Any]()
    try:
        for item in ask():
            # A refusal before the stream begins is one item of another shape.
            if error := item.get("error") or item.get("message"):
                raise refuse(" | ".join([*tail, clean_line(str(error))]))
            found |= item.get("aux") or {}
            for line in _lines(item):
                tell(line)
                if not line.strip().startswith(_BOOKKEEPING):
                    tail.append(line)
    except APIError as error:
        raise refuse(str(error.explanation or error)) from error
    except (requests.exceptions.RequestException, DockerException, ValueError) as error:
        raise refuse(" | ".join([*tail, f"{type(error).__name__}: {error}"[:300]])) from error
    return found


def _lines(item: Mapping[str, Any]) -> Iterator[str]:
    if "stream" in item:
        # The classic builder shows standard error in red.
        text = _COLOUR.sub("", str(item["stream"]))
        yield from (clean_line(line) for line in text.splitlines() if line.strip())
    # A layer's bars are for terminals; its first and last state are enough.
    elif item.get("status") and not item.get("progressDetail"):
        yield clean_line(": ".join(str(item[key]) for key in ("id", "status") if item.get(key)))


def _not_built(recipe: Recipe, name: str, said: str) -> StageFailed:
    return StageFailed(
        "KZ721",
        "the image cannot be built",
        where=f"{recipe.folder}, image {name}",
        value=said[-1500:],
        limit="a Dockerfile whose steps all succeed",
        action="correct that step. A package that is on no index: --wheel FILE; a step without a network: --network",
    )


def _not_pushed(name: str, said: str, action: str) -> StageFailed:
    return StageFailed(
        "KZ722",
        "the image cannot be pushed",
        where=f"image {name}",
        value=said[-1500:],
        limit="an image of this engine, and a registry that takes it",
        action=action,
    )
