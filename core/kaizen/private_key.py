"""The key of hashed columns: a secret by name, else one that is made once and lies in the loop's home."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from kaizen.errors import UsageError
from kaizen.secrets import find_secrets

FILE = "private.key"
"""Below the loop's home, beside its store and its data repository, and in none of them."""
SHORTEST = 16
"""Characters: whoever guesses the key can try every e-mail address against its hash."""


def find_key(name: str, home: Path, given: Mapping[str, str], variables: Mapping[str, str]) -> bytes:
    """The key: the secret ``name`` as ``find_secrets`` finds it; without a name that of the loop's home, made if new.

    Raises ``UsageError``: KZ260, KZ261 of secrets, KZ262 too short, KZ263 others can read its file, or nobody can.
    """
    if name:
        value = find_secrets([name], given, variables, where="data.private_key").values[name]
        if len(value.strip()) < SHORTEST:
            raise UsageError(
                "KZ262",
                "the key of private columns is too short",
                where=f"data.private_key: {name}",
                value=f"{len(value.strip())} characters",
                limit=f"at least {SHORTEST}",
                action="make one: python -c 'import secrets; print(secrets.token_hex())'",
            )
        return value.strip().encode()
    path = home / FILE
    if not path.exists():
        _make(path)
    return _read(path)


def fingerprint(key: bytes) -> str:
    """Tells keys apart and nothing about them: eight hexadecimal digits."""
    return hmac.new(key, b"kaizen private key", hashlib.sha256).hexdigest()[:8]


def _make(path: Path) -> None:
    """A random key at ``path``, whole and durable or not at all; the first of two makers wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
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
