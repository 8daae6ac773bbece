"""Rules of a project's image: which files it is made of, what identifies them, and what may not be in it.

Nothing here knows an engine; ``adapters/docker_images.py`` builds and pushes.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from kaizen import __version__
from kaizen.canonical import digest, file_digests
from kaizen.errors import StageFailed, UsageError

DOCKERFILE, IGNORE, WHEELS = "Dockerfile", ".dockerignore", "wheels"
REVISION = "org.opencontainers.image.revision"
CONTENT = "io.kaizen.content"
DIRTY = "io.kaizen.dirty"
CODE = "KAIZEN_CODE"
"""The variable by which a container knows the commit that its image was built from; see ``code_of``."""
VERSION_ARGUMENT = "KAIZEN_VERSION"
"""A Dockerfile that declares this argument gets the release that asks for the image: both must speak one protocol."""

_CHANGED = "-dirty"
_SECRET_NAME = re.compile(r"(?:^|_)(TOKEN|PASSWORD|PASSWD|SECRET|KEY|CREDENTIALS?)$", re.IGNORECASE)
_SECRET_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_SECRET_FILES = (
    *(f"credentials{rest}" for rest in ("", "*.yml", "*.yaml", "*.json", "*.toml", "*.ini")),
    *(".env", ".env.*", ".netrc", ".pgpass", ".pypirc", ".git-credentials", "id_rsa", "id_ecdsa", "id_ed25519"),
)


@dataclass(frozen=True)
class Recipe:
    """What an image is made of.

    Attributes:
        folder: the project's. files: path by name in the build's context, in the order of names.
        arguments: of the build, by name, BASE among them if it was chosen.
        content: digest of all that; equal content needs no new image.
    """

    folder: Path
    files: Mapping[str, Path]
    arguments: Mapping[str, str]
    content: str


def read_recipe(folder: Path, arguments: Mapping[str, str], wheels: Iterable[Path] = ()) -> Recipe:
    """The recipe in a project's folder; ``wheels`` join its context as ``wheels/NAME``.

    Raises:
        UsageError: KZ250 no Dockerfile, KZ251 not a wheel.
        StageFailed: KZ723 a secret would be in the image, or in its history.
    """
    dockerfile = folder / DOCKERFILE
    if not dockerfile.is_file():
        raise UsageError(
            "KZ250",
            "the project has no Dockerfile",
            where=str(folder),
            value=None,
            limit=f"a {DOCKERFILE} beside the project's code",
            action="copy Dockerfile, .dockerignore and requirements.txt from `kedro new --starter=kaizen-flights`",
        )
    text = dockerfile.read_text(encoding="utf-8")
    files = context_files(folder)
    files |= {DOCKERFILE: dockerfile} | {f"{WHEELS}/{path.name}": _checked_wheel(path) for path in wheels}
    files = dict(sorted(files.items()))
    if VERSION_ARGUMENT in declared_arguments(text):
        arguments = {VERSION_ARGUMENT: __version__, **arguments}
    refuse_secrets(text, files, arguments)
    return Recipe(folder, files, arguments, content_digest(files, arguments))


def _checked_wheel(path: Path) -> Path:
    if path.suffix != ".whl" or not path.is_file():
        action = "name a file as `pip wheel` or `python -m build --wheel` leaves it"
        raise UsageError("KZ251", "not a wheel", where="--wheel", value=str(path), limit="a .whl file", action=action)
    return path


def parse_arguments(given: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as a mapping. Raises ``UsageError`` KZ252."""
    found = dict(text.partition("=")[::2] for text in given if "=" in text)
    if bad := [text for text in given if not text.partition("=")[0].isidentifier() or "=" not in text]:
        action = "write --build-arg NAME=VALUE"
        raise UsageError("KZ252", "not a build argument", where="--build-arg", value=bad[0], action=action)
    return found


def check_name(name: str) -> str:
    """``name``, if an image can be given it. Raises ``UsageError`` KZ253."""
    if not name or "@" in name or name.startswith("sha256:"):
        raise UsageError(
            "KZ253",
            "no name for the image",
            where="--tag, place.image",
            value=name or None,
            limit="NAME or NAME:TAG; a digest names an image that exists",
            action="give --tag, or set place.image",
        )
    return name


def context_files(folder: Path) -> dict[str, Path]:
    """Path by name of every file below ``folder`` that its ``.dockerignore`` lets through. Links are not followed."""
    ignored = Ignored(_text(folder / IGNORE))
    found: dict[str, Path] = {}
    for root, folders, names in os.walk(folder):
        inside = Path(root).relative_to(folder)
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        for name in (*names, *links):
            path = (inside / name).as_posix()
            if path not in ignored:
                found[path] = Path(root) / name
        folders[:] = [n for n in folders if n not in links and not ignored.whole((inside / n).as_posix())]
    return dict(sorted(found.items()))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


class Ignored:
    """The names that a ``.dockerignore`` keeps out, as Docker reads it: the last pattern that matches decides."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines() if not line.startswith("#")]
        read = [(line.startswith("!"), line.removeprefix("!").strip()) for line in lines if line]
        plain = [(kept, os.path.normpath(pattern).lstrip("/")) for kept, pattern in read]
        self._rules = [(kept, re.compile(_expression(p)), p.split("/")) for kept, p in plain if p not in ("", ".")]

    def __contains__(self, name: str) -> bool:
        # A pattern that matches a folder matches all that is in it.
        above = [name, *(p.as_posix() for p in PurePosixPath(name).parents if p.name)]
        kept = [k for k, expression, _ in self._rules if any(expression.fullmatch(each) for each in above)]
        return bool(kept) and not kept[-1]

    def whole(self, folder: str) -> bool:
        """True if nothing below ``folder`` gets through."""
        return folder in self and not any(kept and _leads_into(parts, folder) for kept, _, parts in self._rules)


def _leads_into(pattern: Sequence[str], folder: str) -> bool:
    """True if ``pattern`` may match something below ``folder``."""
    for part, name in zip(pattern, folder.split("/"), strict=False):
        if part == "**":
            return True
        if not fnmatchcase(name, part):
            return False
    return len(pattern) > folder.count("/") + 1


_PIECES = (
    (r"\*\*/", "(?:.*/)?"),
    (r"\*\*", ".*"),
    (r"\*", "[^/]*"),
    (r"\?", "[^/]"),
    (r"\[\^?[^\]]+\]", None),
    (r"\\.", None),
)


def _expression(pattern: str) -> str:
    """A pattern of Go's ``filepath.Match``, with ``**`` for any number of folders, as a regular expression."""
    found, rest = "", pattern
    while rest:
        for piece, meaning in _PIECES:
            if match := re.match(piece, rest):
                found += match[0] if meaning is None else meaning
                rest = rest[match.end() :]
                break
        else:
            found, rest = found + re.escape(rest[0]), rest[1:]
    return found


def content_digest(files: Mapping[str, Path], arguments: Mapping[str, str]) -> str:
    """Digest of names, bytes, executability and arguments. Owners and times of files do not count."""
    return digest([[[name, *_identity(path)] for name, path in sorted(files.items())], dict(arguments)])


def _identity(path: Path) -> tuple[str, str]:
    if path.is_symlink():
        return "link", str(path.readlink())
    return f"{mode_of(path):o}", file_digests(path)[1]["sha256"]


def mode_of(path: Path) -> int:
    """How a file lies in the image: everybody may read it, whatever this machine's umask was."""
    return 0o755 if path.stat().st_mode & 0o100 else 0o644


def code_of(labels: Mapping[str, str]) -> str:
    """What CODE says of an image with these labels, "" if ``kaizen image build`` did not make it, or knew no commit."""
    if DIRTY not in labels or not labels.get(REVISION):
        # A base may have a revision of its own: that of other code.
        return ""
    return labels[REVISION] + (_CHANGED if labels[DIRTY] == "true" else "")


def read_code(text: str) -> tuple[str, bool]:
    """Commit, and whether there were changes besides, of what CODE says."""
    return text.removesuffix(_CHANGED), text.endswith(_CHANGED)


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile, in capitals, with their arguments; lines that go on are one."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\[ \t]*\n", " ", "\n".join(lines)).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word:
            yield word.upper(), rest.strip()


def declared_arguments(dockerfile: str) -> set[str]:
    """The names that ``ARG`` declares."""
    return {part.partition("=")[0] for word, rest in instructions(dockerfile) if word == "ARG" for part in _words(rest)}


def refuse_secrets(dockerfile: str, names: Iterable[str], arguments: Mapping[str, str]) -> None:
    """Refuse what would put a secret into an image or its history. Raises ``StageFailed`` KZ723."""
    for where, name, value in _assignments(dockerfile, arguments):
        if value and (_SECRET_NAME.search(name) or _SECRET_URL.search(value)):
            raise _secret(f"{where} {name}", "a value, which everybody who has the image can read")
    for word, rest in instructions(dockerfile):
        if word in ("COPY", "ADD") and "--from=" not in rest:
            for source in [part for part in _words(rest.strip("[]").replace(",", " ")) if not part.startswith("-")][
                :-1
            ]:
                if _holds_secrets(os.path.normpath(source)):
                    raise _secret(f"{DOCKERFILE}: {word}", source)
    for name in names:
        if _holds_secrets(name):
            raise _secret(f"the build's files ({IGNORE} lets it through)", name)


def _assignments(dockerfile: str, arguments: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Where, name and value of everything that a build is told by name."""
    yield from (("build argument", name, value) for name, value in arguments.items())
    for word, rest in instructions(dockerfile):
        if word == "ENV" and "=" not in rest.partition(" ")[0]:
            name, _, value = rest.partition(" ")
            yield f"{DOCKERFILE}: ENV", name, value.strip()
        elif word in ("ENV", "ARG"):
            for part in _words(rest):
                name, _, value = part.partition("=")
                yield f"{DOCKERFILE}: {word}", name, value


def _holds_secrets(name: str) -> bool:
    path = PurePosixPath(name)
    if path.name == ".gitkeep":
        return False
    local = any(pair == ("conf", "local") for pair in zip(path.parts, path.parts[1:], strict=False))
    return local or any(fnmatchcase(path.name, pattern) for pattern in _SECRET_FILES)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _secret(where: str, value: str) -> StageFailed:
    return StageFailed(
        "KZ723",
        "the image would hold a secret",
        where=where,
        value=value,
        limit="no secret in ARG, ENV, build arguments or files: layers and their history keep it for ever",
        action=f"leave it out, name its file in {IGNORE}; a stage needs none, since its data comes with the request",
    )
