"""Everything that Kaizen refuses, as one tree.

    KaizenError
    ├── UsageError             exit 2   a command or call is used wrongly
    │   └── MissingDependency           an extra is not installed
    ├── SpecError              exit 3   kaizen.yml cannot be read as a loop
    ├── DataRefused            exit 4   input data is not what the spec promises
    │   └── PartitionConflict           same partition, other content
    ├── LedgerError            exit 5   the ledger refuses or is damaged
    │   ├── HeadMoved                   somebody appended first; look again
    │   ├── KeyConflict                 same idempotency key, other payload
    │   └── LeaseHeld                   somebody else holds the resource
    ├── IntegrityError         exit 6   stored bytes are not the bytes that were published
    ├── StageFailed            exit 7   user code or a place failed
    ├── RegistryError          exit 8   the tracking server or registry cannot be used
    └── ModelRefused           exit 9   a model breaks the contract (no signature, cannot predict)

Every error has a stable ``code`` and keeps its facts as attributes, so that callers act without parsing text:
what was refused, where, the value found, the limit it broke, and the next action for the reader. A refusal
changes nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaizen.ledger import Event, Lease


class KaizenError(Exception):
    """A refusal.

    Attributes:
        code: stable identifier, ``KZ`` + the family's exit code + a number, e.g. ``KZ301``. Never reused.
        what: one sentence: what is refused.
        where: file, key path, table/partition or resource.
        value: what was found there.
        limit: what would have been accepted.
        action: what the reader can do next.
    """

    exit_code = 1

    def __init__(
        self, code: str, what: str, *, where: str = "", value: Any = None, limit: Any = None, action: str = ""
    ) -> None:
        self.code, self.what, self.where = code, what, where
        self.value, self.limit, self.action = value, limit, action
        super().__init__(code, what)

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.what}"]
        for label, fact in (
            ("where", self.where),
            ("value", self.value),
            ("limit", self.limit),
            ("next", self.action),
        ):
            if fact not in ("", None):
                lines.append(f"  {label}: {fact}")
        return "\n".join(lines)

    @property
    def may_pass(self) -> bool:
        """True if the same call may succeed later although nobody changes anything: what a retry is for."""
        return self.code in _MAY_PASS

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.__dict__.copy())

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values, for ``--json`` and result files."""
        return {
            "code": self.code,
            "what": self.what,
            "where": self.where,
            "value": _plain(self.value),
            "limit": _plain(self.limit),
            "action": self.action,
        }

    @staticmethod
    def from_json(facts: dict[str, Any]) -> KaizenError:
        """The error of ``facts``, in the class that its code belongs to."""
        family = _FAMILIES.get(str(facts["code"])[2:3], KaizenError)
        return family(
            facts["code"],
            facts["what"],
            where=facts.get("where", ""),
            value=facts.get("value"),
            limit=facts.get("limit"),
            action=facts.get("action", ""),
        )


def _plain(fact: Any) -> Any:
    # JSON knows no NaN and no infinity.
    plain = math.isfinite(fact) if isinstance(fact, float) else isinstance(fact, str | int | None)
    return fact if plain else str(fact)


def _rebuild(cls: type[KaizenError], state: dict[str, Any]) -> KaizenError:
    error = cls.__new__(cls)
    Exception.__init__(error, state["code"], state["what"])
    error.__dict__.update(state)
    return error


class UsageError(KaizenError):
    """A command or call is used wrongly."""

    exit_code = 2


class MissingDependency(UsageError):
    """A library behind an extra is not installed; ``action`` is the command that installs it."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            "KZ201",
            f"{library} is not installed",
            where="this Python environment",
            limit=f"{library} is needed for this step",
            action=f"pip install 'kaizen-mlops[{extra}]'",
        )


class SpecError(KaizenError):
    """``kaizen.yml`` cannot be read as a loop."""

    exit_code = 3


class DataRefused(KaizenError):
    """Input data is not what the spec promises."""

    exit_code = 4


class PartitionConflict(DataRefused):
    """A partition that was ingested before is delivered again with other content."""


class LedgerError(KaizenError):
    """The ledger refuses, or is damaged."""

    exit_code = 5


class HeadMoved(LedgerError):
    """Somebody appended to the subject first: look at the new ``head`` and decide again."""

    head: Event | None = None


class KeyConflict(LedgerError):
    """An event with the same idempotency key and another payload exists."""


class LeaseHeld(LedgerError):
    """Somebody else holds the resource: ``lease``, or None if it was released."""

    lease: Lease | None = None


class IntegrityError(KaizenError):
    """Stored bytes are not the bytes that were published."""

    exit_code = 6


class StageFailed(KaizenError):
    """User code, or the place that ran it, failed."""

    exit_code = 7


class RegistryError(KaizenError):
    """The tracking server or model registry cannot be used."""

    exit_code = 8


class ModelRefused(KaizenError):
    """A model breaks the contract: no signature, cannot predict, not what was evaluated."""

    exit_code = 9


# A file is still being written; the data repository is busy; a lease is held; ledger, tracking server or engine is out
# of reach; a place was killed, lost its GPU or its disk was full; an image could not be pulled; secrets did not reach a
# container; another engine's container is still leased.
_MAY_PASS = frozenset(
    {
        *(
            "KZ406",
            "KZ446",
            "KZ503",
            "KZ506",
            "KZ703",
            "KZ707",
            "KZ710",
            "KZ712",
            "KZ713",
            "KZ715",
            "KZ719",
            "KZ720",
            "KZ725",
        ),
        *("KZ726", "KZ729", "KZ801"),
    }
)

_FAMILIES: dict[str, type[KaizenError]] = {
    "2": UsageError,
    "3": SpecError,
    "4": DataRefused,
    "5": LedgerError,
    "6": IntegrityError,
    "7": StageFailed,
    "8": RegistryError,
    "9": ModelRefused,
}
