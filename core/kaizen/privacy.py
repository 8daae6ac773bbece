"""Privacy at the door: what becomes of private columns, which columns look private, and what a message may show.

Rules over plain values; ``adapters/masking.py`` applies policies to Arrow batches, ``adapters/detector.py`` takes
samples of their columns. A policy goes by the column's name, over all tables, so that keys still meet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kaizen.errors import DataRefused
from kaizen.identifiers import KINDS, Kind, holds_one

How = Literal["drop", "hash", "truncate", "generalise"]
Unit = Literal["day", "month", "year"]
UNITS: tuple[Unit, ...] = ("day", "month", "year")
"""What times are truncated to, shortest first."""

LIMIT = "drop, hash, {truncate: N | day | month | year}, or {generalise: STEP | [EDGE, EDGE, ...]}"


@dataclass(frozen=True)
class Policy:
    """What becomes of a private column.

    Attributes:
        how: ``drop``: it is not taken. ``hash``: its values are replaced by keyed ones. ``truncate``: the first ``by``
            characters of a text, or a time down to the day, month or year. ``generalise``: a number down to the lower
            end of its step, or of its interval.
        by: a length, a unit, a step, or edges; None for the others.
    """

    how: How
    by: int | float | Unit | tuple[float, ...] | None = None

    def __str__(self) -> str:
        return self.how if self.by is None else f"{self.how} {self.by}"


def parse_policies(private: Mapping[str, Any]) -> dict[str, Policy]:
    """``data.private`` as policies by column. Raises ``ValueError`` for the first that is none."""
    return {column: parse_policy(value) for column, value in private.items()}


def parse_policy(value: Any) -> Policy:
    """A policy as the spec writes it; ``ValueError`` for anything else."""
    if value in ("drop", "hash"):
        return Policy(value)
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(value)
    ((how, by),) = value.items()
    if how == "truncate" and (by in UNITS or (_is_number(by, int) and by >= 1)):
        return Policy("truncate", by)
    if how == "generalise" and isinstance(by, list | tuple):
        if by and all(_is_number(edge) for edge in by) and list(by) == sorted(set(by)):
            return Policy("generalise", tuple(by))
    elif how == "generalise" and _is_number(by) and by > 0:
        return Policy("generalise", by)
    raise ValueError(value)


def _is_number(value: Any, kind: Any = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def refuse_misspelt(private: Collection[str], columns: Collection[str], where: str) -> None:
    """Raise ``DataRefused`` KZ415 if a private column came under a name that differs in case, spaces, ``_`` or ``-``.

    Its values would be taken as they are. A name that is in no table at all is for ``kaizen doctor`` to say.
    """
    plain = {_plain(column): column for column in columns if column not in private}
    for name in private:
        if name not in columns and (found := plain.get(_plain(name))):
            raise DataRefused(
                "KZ415",
                "a private column came under another name",
                where=where,
                value=found,
                limit=f"{name}, as data.private has it",
                action=f"write data.private: {{{found}: ...}}, or rename the column at the source",
            )


def refuse_other_key(before: Mapping[str, str], columns: Collection[str], now: Mapping[str, str], where: str) -> None:
    """Raise ``DataRefused`` KZ482 if rows are to be added to some that were masked otherwise, or with another key.

    Args:
        before, now: what became of private columns, as ``DataVersion.private`` has it. columns: those there were.
    """
    for column, said in now.items():
        was = before.get(column, "as it came" if column in columns else said)
        if was != said:
            raise DataRefused(
                "KZ482",
                "rows would be added to some that were masked otherwise",
                where=f"{where}: column {column}",
                value=said,
                limit=was,
                action="restore the key or the policy, or say on_change: replace and deliver the whole partition",
            )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


# Which columns look private.


@dataclass(frozen=True)
class Suspicion:
    """A column whose values look like identifiers of one kind.

    Attributes:
        sure: beyond reasonable doubt. share: of the ``sampled`` different values that are some. No value is kept.
    """

    column: str
    kind: str
    sure: bool
    share: float
    sampled: int

    def __str__(self) -> str:
        verb = "holds" if self.sure else "may hold"
        return f"column {self.column} {verb} {self.kind} ({self.share:.0%} of {self.sampled} values looked at)"


_EVIDENCE, _WITH_NAME = 6.0, 1.0
"""Powers of ten by which chance must be ruled out; less where the column's name says the same."""
_FEWEST = 5
"""Values that hold, before a column is refused."""
_CONSISTENT = 0.95
"""Share of the values of a form that must hold: among numbers of another kind some do by chance, never so many."""


def judge(column: str, sampled: int, readings: Mapping[str, Mapping[str, str]]) -> list[Suspicion]:
    """What so many different values of a column tell; ``readings`` has what ``identifiers.read`` said of some.

    A kind is sure if nearly all values that have its form also hold by its rules, chance is ruled out, and enough of
    the column has that form. The name alone is never evidence; together with values it is.
    """
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column).lower()
    seen = {kind for found in readings.values() for kind in found}
    kinds = [kind for kind in KINDS if kind.name in seen]
    found = [_judge_kind(kind, column, bool(kind.named.search(name)), sampled, readings) for kind in kinds]
    return [suspicion for suspicion in found if suspicion]


def _judge_kind(
    kind: Kind, column: str, named: bool, sampled: int, readings: Mapping[str, Mapping[str, str]]
) -> Suspicion | None:
    said = [found[kind.name] for found in readings.values() if kind.name in found]
    held, inside = said.count("holds") + (said.count("bare") if named else 0), said.count("inside")
    formed = held + said.count("fails")
    evidence = held * -math.log10(kind.chance)
    consistent = held >= _CONSISTENT * formed
    common = formed >= kind.least * sampled
    ruled_out = evidence >= (_WITH_NAME if named else _EVIDENCE) and held >= _FEWEST
    sure = consistent and common and ruled_out and (named or _spread(kind, readings))
    half = 0 < formed / 2 <= held
    likely = half and (named or (held >= 3 and evidence >= 2 and formed >= sampled / 10))
    if sure or likely or inside >= 3:
        return Suspicion(column, kind.name, sure, (held + inside) / sampled, sampled)
    return None


def _spread(kind: Kind, readings: Mapping[str, Mapping[str, str]]) -> bool:
    """Versions of four numbers are written as addresses are, but most of their numbers are small."""
    if kind.name != "IPv4":
        return True
    held = [value.split("/")[0].split(".") for value, found in readings.items() if found.get("IPv4") == "holds"]
    return all(max(int(octets[place]) for octets in held) >= 200 for place in range(1, 4)) and (
        len({octets[0] for octets in held}) >= 3
    )


def refuse_sure(suspicions: Iterable[Suspicion], where: str) -> None:
    """Raise ``DataRefused`` KZ414 with every column that surely holds identifiers; no value is in it."""
    sure = [suspicion for suspicion in suspicions if suspicion.sure]
    if not sure:
        return
    first = sure[0].column
    raise DataRefused(
        "KZ414",
        "a column looks private and is not declared",
        where=where,
        value="; ".join(map(str, sure)),
        limit="data.private or data.public names it",
        action=f"write data.private: {{{first}: hash}} (or drop), or data.public: [{first}] if it names nobody",
    )


# What a message may show.

HIDDEN = "(private)"


def show(value: object, column: str = "", private: Collection[str] = ()) -> str:
    """A value that was read and not masked yet, as a message may show it: at most 40 characters.

    Nothing of a private column is shown. As soon as a table has one, only the shape of the others is: what is refused
    may stand in the wrong column. The same holds for what reads as an identifier. What was masked may be shown.
    """
    if column in private:
        return HIDDEN
    text = str(value)
    return shape(text) if private or holds_one(text) else text[:40]


def shape(text: str) -> str:
    """The first 40 characters with ``a`` for letters and ``9`` for digits: ``2013-0x-01`` is ``9999-9a-99``."""
    return "".join(map(_shape_of, text[:40]))


def _shape_of(character: str) -> str:
    if character.isdigit():
        return "9"
    if character.isalpha():
        return "a"
    return character if character.isascii() and character.isprintable() else "?"


_SAFE = re.compile(
    r"[Rr]ow #?\d+|[Ll]ine \d+|[Cc]olumn #?\d+|[Ee]xpected \d+ (?:columns|fields)|(?:got|saw) \d+|(?:byte|position) \d+"
    r"|conversion error to [a-z]+[0-9]*|(?:CSV|JSON) parse error|straddling object|Invalid value|Invalid UTF8"
    r"|Missing a (?:comma|colon|name)[a-z ]*|The document is empty"
)


def parser_message(error: BaseException) -> str:
    """What a parser's error says without the row that it quotes: its kind, places, counts and types.

    Raise the refusal ``from None``: a traceback would show the original.
    """
    said = dict.fromkeys(match[0] for match in _SAFE.finditer(str(error)))
    return ": ".join([type(error).__name__, *([", ".join(said)] if said else [])])
