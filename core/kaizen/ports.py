"""What the core needs of the tools around it. Adapters implement these; each port has one contract suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from kaizen.records import Finding, Trial, TrialState


@dataclass(frozen=True)
class Pointer:
    """A file as the data repository knows it: DVC's md5, size in bytes, and the commit that holds the pointer."""

    md5: str
    size: int
    commit: str


@dataclass(frozen=True)
class NewFile:
    """A version to be: ``source``, a file of the store, is to be the content of ``path`` (posix, relative).

    ``message`` is its commit's; ``meta`` (plain values) goes beside its digests, for people and their tools. ``md5`` is
    that of ``source``, from whoever has just put it into the store and need not be read again; "" if nobody has.
    """

    path: str
    source: Path
    message: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    md5: str = ""


@dataclass(frozen=True)
class Kept:
    """A version in the history: what ``path`` was from ``commit`` on, and the ``meta`` that came with it."""

    path: str
    commit: str
    md5: str
    size: int
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wrong:
    """A copy that is not what was committed: at ``place`` (store, cache, remote or ledger) ``found`` was there."""

    path: str
    commit: str
    md5: str
    place: str
    found: str
    repaired: bool = False


@dataclass(frozen=True)
class BackedUp:
    """What a backup or a restored data set holds, and how much of it was copied this time."""

    commit: str
    versions: int
    objects: int
    size: int
    copied: int


class DataRepository(Protocol):
    """Versions of a loop's partitions that people read with their own tools (``dvc pull``, ``dvc diff``).

    ``tell`` is called with a line of progress now and then.
    """

    def probe(self) -> None:
        """Refuse a remote that cannot be written, before anything else is done."""
        ...

    def commit(self, versions: Sequence[NewFile]) -> dict[str, Pointer]:
        """Keep each version, in the remote too, as one commit of its own; the pointers by path.

        The same bytes at the same path again make no new commit and return the pointer that there is. Whatever is
        refused, nothing of this call is in the history then.
        """
        ...

    def versions(self) -> list[Kept]:
        """Every version in the history, oldest first."""
        ...

    def verify(self, tell: Callable[[str], object], *, repair: bool = False) -> list[Wrong]:
        """Re-hash every copy of every version; ``repair`` replaces what is wrong from a copy that is whole."""
        ...

    def checkout(self, moment: str | datetime, folder: Path, tell: Callable[[str], object]) -> str:
        """Make ``folder`` the data set as of a revision or time, verified; the commit."""
        ...

    def backup(self, remote: str, tell: Callable[[str], object]) -> BackedUp:
        """Copy the history and what is not there yet of its objects to a second remote, verified."""
        ...

    def restore(self, remote: str, tell: Callable[[str], object]) -> BackedUp:
        """Bring all that a backup holds back into store, repository and remote, verified."""
        ...

    def reconcile(self, now: datetime) -> Iterator[str]:
        """Push again what the remote lost, mend what killed processes left; objects of no version are named."""
        ...


@dataclass(frozen=True)
class SuiteResult:
    """What an expectation suite found in a table.

    Attributes:
        expectations: how many were evaluated.
        findings: those that did not hold, in suite order.
        bad_rows: positions (from 0, sorted) of rows named by row-level findings.
        table_failed: True if a finding is about the whole table, or a check broke: quarantine cannot mend it.
    """

    expectations: int
    findings: tuple[Finding, ...]
    bad_rows: tuple[int, ...]
    table_failed: bool


@dataclass(frozen=True)
class Run:
    """One stage of a turn as the tracking server shows it."""

    stage: str
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[Mapping[str, str]] = ()
    """Each with ``name``, ``digest``, ``source`` and ``context``."""
    artifacts: Sequence[Path] = ()
    parent: str = ""
    """The stage that it is a part of; "" is the turn itself."""
    history: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    """Metrics as they were on the way: step and value."""


class Registry(Protocol):
    """Runs, model versions and aliases as people see them. A view: the ledger decides, this shows."""

    def open_turn(self, loop: str, turn: str) -> str:
        """The id of the turn's parent run: found again by its tag, made if there is none."""
        ...

    def page(self, loop: str, turn: str) -> str:
        """Address of the turn's run for people, "" where nobody serves pages."""
        ...

    def log_stage(self, loop: str, turn: str, run: Run) -> str:
        """Write a stage's child run once (found again by its tags) and return its id; a repeat adds nothing."""
        ...

    def close_turn(self, loop: str, turn: str, *, failed: bool = False) -> None:
        """End the turn's parent run."""
        ...

    def register(self, name: str, model: Path, digest: str, *, run_id: str, tags: Mapping[str, str]) -> int:
        """Register the model folder by its bytes and return its version; the same digest again, the same version."""
        ...

    def set_alias(self, name: str, alias: str, version: int | None) -> None:
        """Point an alias at a version, or remove it (None)."""
        ...

    def alias(self, name: str, alias: str) -> int | None:
        """The version an alias points at, or None (no such model, no such alias)."""
        ...


class Study(Protocol):
    """The trials of one search, kept where the next attempt finds them. Trials come one after the other."""

    name: str

    def unfinished(self) -> Trial | None:
        """The trial that was asked for and not told the end of."""
        ...

    def ask(self) -> Trial:
        """A new trial; the first one is the default configuration."""
        ...

    def report(self, number: int, reports: Sequence[tuple[int, float]]) -> bool:
        """Keep what is new in a running trial's reports; whether it is not worth more time."""
        ...

    def reports(self, number: int) -> list[tuple[int, float]]:
        """What was kept, by step."""
        ...

    def tell(
        self, number: int, state: TrialState, seconds: float, *, value: float | None = None, reason: str = ""
    ) -> None:
        """End a trial; one that has ended stays as it is. Only ``complete`` has a value."""
        ...

    def trials(self) -> list[Trial]:
        """All of them, by number."""
        ...

    def importance(self) -> dict[str, float]:
        """The share of each parameter in the differences between values, summing to 1; {} if too few are known."""
        ...
