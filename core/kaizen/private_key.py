"""The key of hashed columns: a secret by name, else one that is made once and lies in the loop's home."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from kaizen.errors import UsageError
from kaizen.publish import publish_text
from kaizen.secrets import find_secrets

FILE = "private.key"
"""Below the loop's home, beside its store and its data repository, and in none of them."""
HASH = "hash "
"""Before a key's fingerprint, in what records say of a hashed column."""
SHORTEST = 16
"""Characters: whoever guesses the key can try every e-mail address against its hash."""


def find_key(
    name: str, home: Path, given: Mapping[str, str], variables: Mapping[str, str], used: Collection[str] = ()
) -> bytes:
    """The key: the secret ``name`` as ``find_secrets`` finds it; without a name that of the loop's home, made if new.

    Args:
        used: fingerprints of keys that hashed what is there. A key by name may be another; that of the home may not.

    Raises ``UsageError``: KZ260, KZ261 of secrets; KZ262 too short; KZ263 others can read its file, or nobody can;
    KZ264 the key of the home is gone, or another.
    """
    if name:
        value = find_secrets([name], given, variables, where="data.private_key").values[name].strip()
        if len(value) < SHORTEST:
            raise UsageError(
                "KZ262",
                "the key of private columns is too short",
                where=f"data.private_key: {name}",
                value=f"{len(value)} characters",
                limit=f"at least {SHORTEST}",
                action="make one: python -c 'import secrets; print(secrets.token_hex())'",
            )
        return value.encode()
    path = home / FILE
    if not path.exists():
        if used:
            raise _lost(path, "no such file", used)
        _make(path)
    key = _read(path)
    if used and fingerprint(key) not in used:
        raise _lost(path, f"a key with the fingerprint {fingerprint(key)}", used)
    return key


def fingerprints(private: Iterable[Mapping[str, str]]) -> set[str]:
    """Of the keys that hashed, by what records say became of private columns (``DataVersion.private``)."""
    return {said.removeprefix(HASH) for columns in private for said in columns.values() if said.startswith(HASH)}


def _lost(path: Path, found: str, used: Collection[str]) -> UsageError:
    return UsageError(
        "KZ264",
        "the key that hashed earlier rows is not there: new rows would not meet them",
        where=str(path),
        value=found,
        limit=f"the key with the fingerprint {' or '.join(sorted(used))}",
        action="restore the file; or name a new key under data.private_key, and deliver again what is joined",
    )


def fingerprint(key: bytes) -> str:
    """Tells keys apart and nothing about them: eight hexadecimal digits."""
    return hmac.new(key, b"kaizen private key", hashlib.sha256).hexdigest()[:8]


def _make(path: Path) -> None:
    """A random key at ``path``, whole and durable or not at all; the first of two makers wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (ignored := path.with_name(".gitignore")).exists():
        # A home may lie in a project of which somebody says `git add .`.
        publish_text(ignored, f"{FILE}\n.{FILE}-*\n")
    draft = path.with_name(f".{FILE}-{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        # A link never replaces what is there.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        value = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError) as error:
        raise _unusable(path, getattr(error, "strerror", None) or "not ASCII") from None
    if mode & 0o077:
        raise _unusable(path, f"mode {mode & 0o777:04o}")
    if len(value) < SHORTEST:
        raise _unusable(path, f"{len(value)} characters")
    return value.encode()


def _unusable(path: Path, found: str) -> UsageError:
    return UsageError(
        "KZ263",
        "the key of private columns cannot be used",
        where=str(path),
        value=found,
        limit=f"a file that its owner alone can read (0600), with at least {SHORTEST} characters",
        action=f"chmod 600 {path}; a lost key cannot be made again: restore it from where you keep secrets",
    )
