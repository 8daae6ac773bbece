"""A loop, opened: its spec, its ledger, its stores. What a stage function takes first.

Roots come from the environment: KAIZEN_HOME, KAIZEN_LEDGER_URL, MLFLOW_TRACKING_URI and KAIZEN_DATA_REMOTE, else
``environment:`` of the spec, else ``.kaizen`` in the project's folder.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from kaizen import bridge, codec
from kaizen.bridge import InputFile, ModelFolder, PlacedStage, Request
from kaizen.calendar import bounds
from kaizen.clock import Clock, WallClock
from kaizen.containers import Call, Caller, Log, Owner, tell_stderr
from kaizen.errors import MissingDependency, SpecError
from kaizen.ledger import Event, Ledger, NewEvent, open_ledger
from kaizen.ports import DataRepository, Registry, Run, Study
from kaizen.records import (
    AcceptanceSet,
    DataVersion,
    Input,
    Promotion,
    Record,
    TrainedModel,
    ValidationReport,
    Window,
    read_record,
)
from kaizen.spec import EnvironmentSpec, Spec, TuneSpec, load_spec
from kaizen.store import Store, split_address
from kaizen.trials import Watch

EVERYTHING = Window(None, None)
"""All rows, whatever their time."""

_KEEPS_OUT: tuple[PlacedStage, ...] = ("trigger", "trial", "train", "evaluate")
"""Stages that read labels, none of the acceptance set's."""

R = TypeVar("R", bound=Record)


@dataclass
class Loop:
    """One loop of one environment.

    Attributes:
        path: the spec's file; relative paths in the spec start at its folder.
        env: the environment whose overlay lies on the spec; the user's code trains with the settings of the same one.
        home: root of everything that this loop keeps (its store, data repository, run folders).
        studies: URL of the database of studies.
    """

    spec: Spec
    path: Path
    env: str
    home: Path
    ledger: Ledger
    store: Store
    data: DataRepository
    registry: Registry
    clock: Clock
    actor: str
    caller: Caller
    studies: str

    @property
    def name(self) -> str:
        """``project/loop``."""
        return self.spec.loop

    @property
    def project(self) -> Path:
        """The folder whose code trains: that of ``conf/`` in a Kedro project, else the spec's own."""
        return project_folder(self.path)

    # The ledger, in terms of records.

    def append(self, subject: str, record: Record, key: str, *, turn: str = "", expect: int | None = None) -> Event:
        """Append ``record`` to ``subject`` once; see ``Ledger.append``."""
        event = self.new_event(subject, record, key, turn=turn, expect=expect)
        return self.ledger.append_all(self.name, [event])[0]

    def new_event(
        self, subject: str, record: Record, key: str, *, turn: str = "", expect: int | None = None
    ) -> NewEvent:
        """``record`` as an event that is to be appended together with others."""
        kind, at = type(record).__name__, self.clock.now()
        return NewEvent(subject, kind, key, record.to_json(), turn=turn, at=at, actor=self.actor, expect=expect)

    def find(self, kind: type[R], key: str) -> R | None:
        """The record that was left under an idempotency key."""
        event = self.ledger.find(self.name, kind.__name__, key)
        return kind.from_json(event.payload) if event else None

    def head(self, kind: type[R], subject: str) -> R | None:
        """The newest record of ``subject``."""
        event = self.ledger.head(self.name, subject)
        return kind.from_json(event.payload) if event else None

    def heads(self, kind: type[R], prefix: str) -> dict[str, R]:
        """The newest record of every subject ``prefix + NAME``, by NAME, sorted."""
        found = self.ledger.heads(self.name, prefix=prefix)
        return {subject.removeprefix(prefix): kind.from_json(event.payload) for subject, event in found.items()}

    def by_digest(self, kind: type[R], subject: str, digest: str) -> R:
        """The record of ``subject`` with this digest; it exists because another record names it."""
        for event in self.ledger.events(self.name, subject=subject, kind=kind.__name__, newest_first=True):
            record = read_record(event.payload)
            if isinstance(record, kind) and record.digest == digest:
                return record
        raise LookupError(f"{kind.__name__} {digest} in {subject}")

    # State, as folds over the ledger.

    def champion(self) -> tuple[Promotion, TrainedModel] | None:
        """Who is champion now."""
        promotion = self.head(Promotion, "champion")
        return (promotion, self.model(promotion)) if promotion else None

    def model(self, promotion: Promotion) -> TrainedModel:
        """The trained model that a promotion made champion."""
        return self.by_digest(TrainedModel, f"candidate/{promotion.turn}", promotion.candidate)

    def promotion(self, champion: int) -> Promotion:
        """The promotion that made this champion."""
        events = self.ledger.events(self.name, subject="champion", newest_first=True)
        return next(p for e in events if (p := Promotion.from_json(e.payload)).champion == champion)

    def promotion_in(self, turn: str) -> Promotion | None:
        """The promotion that a turn made of its own candidate."""
        events = self.ledger.events(self.name, subject="champion", newest_first=True)
        found = (Promotion.from_json(e.payload) for e in events if e.turn == turn)
        return next((p for p in found if p.turn == turn), None)

    def versions(self, table: str) -> dict[str, DataVersion]:
        """The newest version of every partition of a table."""
        return self.heads(DataVersion, f"data/{table}/")

    def validated(self, table: str) -> dict[str, Input]:
        """Partitions whose newest version passed validation, as stages take them."""
        reports = self.heads(ValidationReport, f"validation/{table}/")
        return {
            partition: Input(table, partition, version.digest, report.digest, report.valid)
            for partition, version in self.versions(table).items()
            if (report := reports.get(partition)) and report.data == version.digest and report.valid
        }

    def inputs_for(self, partitions: Iterable[str], *, labels: bool) -> tuple[Input, ...]:
        """What a stage needs for some partitions of the main table: those, their look-ups and their labels.

        Of a table with times of its own these are all partitions in which a row may find something.
        """
        wanted, spec = set(partitions), self.spec
        tables = [spec.main, *spec.joined, *(spec.label_tables if labels else ())]
        return tuple(
            found
            for table in tables
            for partition, found in self.validated(table).items()
            if self._serves(table, partition, wanted)
        )

    def _serves(self, table: str, partition: str, wanted: set[str]) -> bool:
        """Whether a partition of ``table`` may hold something for the rows of those of the main table."""
        spec, zone = self.spec.data.tables[table], self.spec.timezone
        if not spec.timed:
            return True
        if not spec.own_time or not wanted:
            return partition in wanted
        first, last = _utc(bounds(min(wanted), zone)[0]), _utc(bounds(max(wanted), zone)[1])
        begin, end = map(_utc, bounds(partition, zone))
        if spec.time:
            return end > first and begin <= last + self.spec.horizon_of(table)
        return begin < last and (spec.max_age is None or end > first - spec.max_age)

    def labels_for(self, partition: str) -> tuple[Input, ...]:
        """Where the labels of a partition of the main table come from."""
        inputs = self.inputs_for([partition], labels=True)
        return tuple(i for i in inputs if i.table in (self.spec.label_tables or (self.spec.main,)))

    def labelled(self) -> list[str]:
        """Partitions of the main table whose outcomes have come and are old enough, oldest first."""
        now, zone, delay = self.moment(), self.spec.timezone, self.spec.problem.label_delay
        return [p for p in self.with_outcomes() if bounds(p, zone)[1] + delay <= now]

    def with_outcomes(self) -> list[str]:
        """Partitions of the main table whose outcomes have come, however old they are; oldest first."""
        rows, table, zone = list(self.validated(self.spec.main)), self.spec.labels, self.spec.timezone
        if table is None:
            return rows
        known, spec = set(self.validated(table)), self.spec.data.tables[table]
        if not spec.timed:
            return rows if known else []
        if not spec.time:
            return [p for p in rows if p in known]
        # A row's outcome may lie in a later partition than the row: outcomes must have come that far.
        reached = max((_utc(bounds(p, zone)[1]) for p in known), default=datetime.fromtimestamp(0, UTC))
        return [p for p in rows if _utc(bounds(p, zone)[1]) + self.spec.horizon_of(table) <= reached]

    def acceptance(self) -> AcceptanceSet | None:
        """The rows that were set aside."""
        return self.head(AcceptanceSet, "acceptance")

    def moment(self) -> datetime:
        """The present in the loop's own clock: the wall's, or as late as the data that has come tells."""
        if self.spec.clock.of == "wall":
            return self.clock.now().astimezone(self.spec.timezone)
        zone, spec = self.spec.timezone, self.spec
        ends = [bounds(p, zone)[1] for p in self.versions(spec.main)]
        if spec.labels is None:
            ends = [end + spec.problem.label_delay for end in ends]
        elif spec.data.tables[spec.labels].timed:
            # What happened until then is known, so long after its rows.
            later = spec.problem.label_delay
            later -= spec.horizon_of(spec.labels) if spec.data.tables[spec.labels].time else timedelta(0)
            ends += [bounds(p, zone)[1] + later for p in self.versions(spec.labels)]
        return max(ends, default=datetime.fromtimestamp(0, zone))

    # Places and tracking.

    def request(
        self,
        stage: PlacedStage,
        turn: str,
        *,
        inputs: Iterable[Input] = (),
        window: Window = EVERYTHING,
        models: Mapping[str, TrainedModel] | None = None,
        reference: str = "",
        parameters: Mapping[str, Any] | None = None,
        selection: Window | None = None,
        checkpoints: str = "",
    ) -> Request:
        """A request in a run folder of its own, every address resolved and verified. ``reference`` is an address.

        ``checkpoints`` names a folder that attempts at the same work share.
        """
        runs = self.home / "runs" / turn
        runs.mkdir(parents=True, exist_ok=True)
        # Of its own: two callers of one stage must not meet in a folder.
        folder = Path(tempfile.mkdtemp(prefix=f"{stage}-", dir=runs))
        files = [
            InputFile(i.table, i.partition, str(self.store.file(i.address)), split_address(i.address)[1])
            for i in inputs
        ]
        held = self.acceptance() if stage in _KEEPS_OUT else None
        files += self._acceptance_files(held) if held else []
        folders = {
            role: ModelFolder(str(self.store.folder(m.model)), split_address(m.model)[1])
            for role, m in (models or {}).items()
        }
        profile = str(self.store.file(reference)) if reference else ""
        # Where ledger and tracking server are is none of a place's business.
        spec, project = codec.encode(replace(self.spec, environment=EnvironmentSpec())), str(self.project)
        # Attempts at one training have a folder each, and this one together.
        saved = str(runs / checkpoints) if checkpoints else ""
        settings = dict(parameters or {})
        return Request(
            stage,
            spec,
            self.env,
            project,
            str(folder),
            tuple(files),
            window,
            folders,
            profile,
            turn,
            saved,
            settings,
            selection,
            held_by=held.columns if held else (),
        )

    def _acceptance_files(self, held: AcceptanceSet) -> list[InputFile]:
        """The members with their look-ups and labels: to be kept out, and to be measured on."""
        own = [i for i in held.inputs if i.table == held.table]
        members = [replace(i, address=address) for i, address in zip(own, held.members, strict=True)]
        others = [i for i in held.inputs if i.table != held.table]
        return [
            InputFile(i.table, i.partition, str(self.store.file(i.address)), split_address(i.address)[1], True)
            for i in (*members, *others)
        ]

    def run(self, request: Request, *, watch: Watch | None = None, limit: timedelta | None = None) -> dict[str, Any]:
        """Run a stage in the loop's place; see ``bridge.run``. What an earlier stage left has been kept by now.

        ``limit``: it gets no more time than that, whatever ``place.timeout`` allows.
        """
        self.caller.settle()
        place = self.spec.place
        place = replace(place, timeout=min(place.timeout, limit)) if limit else place
        return bridge.run(request, place, self.caller, watch)

    def open_study(self, name: str, tune: TuneSpec, *, higher_is_better: bool) -> AbstractContextManager[Study]:
        """The study of a search, kept in SQL: a new one, or what an earlier attempt left."""
        try:
            from kaizen.adapters.optuna_study import open_study
        except ImportError:
            raise MissingDependency("Optuna", "tune") from None
        return open_study(self.studies, name, tune, higher_is_better=higher_is_better, seed=self.spec.train.seed)

    def log(self, turn: str, run: Run) -> None:
        """Show a stage of a turn on the tracking server."""
        self.registry.log_stage(self.name, turn, run)


def _utc(moment: datetime) -> datetime:
    """So that hours after it are hours, across daylight saving."""
    return moment.astimezone(UTC)


def project_folder(path: Path) -> Path:
    """The project that a spec belongs to."""
    folder = path.parent
    return folder.parent.parent if folder.parent.name == "conf" else folder


@contextmanager
def open_loop(
    path: Path,
    *,
    env: str | None = None,
    home: Path | None = None,
    environment: EnvironmentSpec | None = None,
    clock: Clock | None = None,
    registry: Registry | None = None,
    spec: Spec | None = None,
    actor: str = "",
    call: Call | None = None,
) -> Iterator[Loop]:
    """Open the loop of a spec file; the ledger is closed at the end.

    Args:
        env: overlay of this environment; default KAIZEN_ENV, else ``local``.
        home: root of all that is kept, overriding the environment; then ledger and tracking lie below it too.
        environment: roots that outrank variables and spec, as far as they are named.
        registry: another than MLflow, for tests.
        spec: another than the file's, for replays.
        actor: whom the ledger names; default KAIZEN_ACTOR, else the login.
        call: for whom containers work, where their log goes, and when they end; default a person at a shell.

    Raises:
        SpecError: the spec, or a suite that it names, cannot be read.
    """
    path = path.resolve()
    env = env or os.environ.get("KAIZEN_ENV", "local")
    spec = spec or load_spec(path, env)
    for table, suite in spec.data.suite.items():
        read_suite_file(path.parent / suite, table)
    root, ledger_url, tracking = roots(spec, path, home, environment)
    base = root / "loops" / spec.loop
    base.mkdir(parents=True, exist_ok=True)
    store = Store(base / "store")
    clock = clock or WallClock()
    with open_ledger(ledger_url) as ledger:
        # Leases count in the wall's time, whatever the loop's clock is.
        call = call or Call(Owner(f"shell:{spec.loop}", attempt=os.getpid()), Log(tell_stderr))
        caller = Caller(call, ledger, WallClock(), spec.loop)
        yield Loop(
            spec=spec,
            path=path,
            env=env,
            home=base,
            ledger=ledger,
            store=store,
            data=_data_repository(base, data_remote(spec, path, home, environment) or base / "data-remote", store),
            registry=registry or _mlflow(tracking, root),
            clock=clock,
            actor=actor or os.environ.get("KAIZEN_ACTOR") or getpass.getuser(),
            caller=caller,
            studies=studies_url(ledger_url),
        )
        caller.settle()


def roots(
    spec: Spec, path: Path, home: Path | None = None, environment: EnvironmentSpec | None = None
) -> tuple[Path, str, str]:
    """Home, ledger URL and tracking URI of an environment; see ``open_loop``."""
    if home is not None:
        return home, f"sqlite:///{home / 'ledger.db'}", f"sqlite:///{home / 'mlflow.db'}"
    first, given = environment or EnvironmentSpec(), spec.environment
    root = Path(
        first.home or os.environ.get("KAIZEN_HOME") or path.parent / (given.home or project_folder(path) / ".kaizen")
    ).resolve()
    ledger = first.ledger or os.environ.get("KAIZEN_LEDGER_URL") or given.ledger
    tracking = first.tracking or os.environ.get("MLFLOW_TRACKING_URI") or given.tracking
    return root, ledger or f"sqlite:///{root / 'ledger.db'}", tracking or f"sqlite:///{root / 'mlflow.db'}"


def data_remote(spec: Spec, path: Path, home: Path | None = None, environment: EnvironmentSpec | None = None) -> str:
    """Where an environment keeps this loop's share of its DVC remote; "" if it lies with the loop itself."""
    named = (environment.remote if environment else "") or os.environ.get("KAIZEN_DATA_REMOTE") or ""
    if home is not None or not (named or spec.environment.remote):
        return ""
    named = named or spec.environment.remote
    root = named if "://" in named else str((path.parent / named).resolve())
    return f"{root.rstrip('/')}/{spec.loop}"


def studies_url(ledger: str) -> str:
    """Where studies are kept: in the ledger's PostgreSQL database, in a file beside its SQLite file, or in memory."""
    scheme, separator, rest = ledger.partition("://")
    if separator and scheme != "sqlite":
        return ledger
    file = rest.removeprefix("/") if separator else ledger
    return "sqlite://" if file in ("", ":memory:") else f"sqlite:///{Path(file).with_name('studies.db')}"


def read_suite_file(path: Path, table: str) -> None:
    """Refuse a suite that is not there before anything is done. Raises ``SpecError`` (KZ310)."""
    if not path.is_file():
        raise SpecError(
            "KZ310",
            "expectation suite is missing",
            where=f"data.suite.{table}",
            value=str(path),
            limit="a suite file as Great Expectations writes it",
            action="create the file, or remove the line",
        )


def _data_repository(base: Path, remote: str | Path, store: Store) -> DataRepository:
    try:
        from kaizen.adapters.dvc_repository import DvcRepository
    except ImportError:
        raise MissingDependency("DVC", "dvc") from None
    return DvcRepository(base / "data", remote, store)


def _mlflow(tracking: str, root: Path) -> Registry:
    try:
        from kaizen.adapters.mlflow_registry import MlflowRegistry
    except ImportError:
        raise MissingDependency("MLflow", "mlflow") from None
    return MlflowRegistry(tracking, root / "mlartifacts")
