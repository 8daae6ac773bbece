"""Secrets of a training in a container: found by their names, and masked in what comes out. A spec has names only."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from kaizen.errors import UsageError

VARIABLE = "KAIZEN_SECRET_"
"""A name in capitals after it is the variable with the value; with ``_FILE`` behind, the one with a file's path."""
SHORTEST, LONGEST = 6, 65_536
"""Bytes of a value: a shorter one cannot be masked without masking much else."""

_NAME = re.compile(r"(?!\w*_file$)[a-z][a-z0-9_]{0,62}", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
"""What Python makes of a variable's bytes that are no UTF-8."""
_MASK = "***"


def is_name(text: str) -> bool:
    """True for a name that a secret may have. One in ``_file`` would be another's variable."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, repr=False)
class Secrets:
    """Values by name; no ``repr`` shows them."""

    values: Mapping[str, str] = field(default_factory=dict)

    def mask(self, text: str) -> str:
        """``text`` with ``***`` for every value, as it is, or as JSON, Python and URLs write it."""
        for form in self._forms:
            text = text.replace(form, _MASK)
        return text

    def mask_all(self, value: Any) -> Any:
        """A JSON value with every text in it masked."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, Mapping):
            return {self.mask(str(key)): self.mask_all(each) for key, each in value.items()}
        return [self.mask_all(each) for each in value] if isinstance(value, list | tuple) else value

    @cached_property
    def _forms(self) -> list[str]:
        forms = {form for value in self.values.values() for form in _forms(value)}
        # Of two that hold each other the longer is to be masked as a whole.
        return sorted(forms, key=len, reverse=True)


def _forms(value: str) -> Iterator[str]:
    # A log shows a value of several lines line by line.
    for text in (value, *(line.strip() for line in value.splitlines())):
        if len(text.encode()) >= SHORTEST:
            yield from (text, repr(text)[1:-1], json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
            yield from (quote(text, safe=""), quote(text), quote_plus(text))


def find_secrets(
    names: Collection[str], given: Mapping[str, str], variables: Mapping[str, str], *, where: str = "place.secrets"
) -> Secrets:
    """The secrets of these names: those that were ``given``, else from a variable, else from the file it names.

    ``where`` is the key of the spec that names them.

    Raises ``UsageError``: KZ260 there is none, KZ261 a value that is too short or too long. No value is in a message.
    """
    return Secrets({name: _refuse_unusable(name, _find(name, given, variables, where), where) for name in names})


def _find(name: str, given: Mapping[str, str], variables: Mapping[str, str], where: str) -> str:
    variable = f"{VARIABLE}{name.upper()}"
    if name in given:
        return given[name]
    if variable in variables:
        return variables[variable]
    if path := variables.get(f"{variable}_FILE"):
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "not UTF-8"
        raise _missing(name, f"{variable}_FILE names {path}: {why}", variable, where)
    raise _missing(name, "nowhere", variable, where)


def _missing(name: str, found: str, variable: str, where: str) -> UsageError:
    return UsageError(
        "KZ260",
        f"the secret {name!r} is not there",
        where=f"{where}: {name}",
        value=found,
        limit=f"extra field secrets of Airflow's connection, {variable}, or a file that {variable}_FILE names",
        action=f"put it where this process finds it, or take its name out of {where}",
    )


def _refuse_unusable(name: str, value: str, where: str) -> str:
    size = len(value.encode(errors="replace"))
    if len(value.strip()) >= SHORTEST and size <= LONGEST and not _SURROGATE.search(value):
        return value
    raise UsageError(
        "KZ261",
        f"the secret {name!r} is too short to be masked, too long, or not UTF-8",
        where=f"{where}: {name}",
        value=f"{size} bytes",
        limit=f"{SHORTEST} to {LONGEST} bytes of UTF-8, not blank",
        action="use a longer secret, or pass a small setting in another way: it is none",
    )
