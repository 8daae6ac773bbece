"""One spec per loop: ``kaizen.yml``, read strictly, compiled to JSON with a digest.

An unknown key is an error that names the nearest known one. The environment's overlay (``conf/<env>/kaizen.yml`` beside
``conf/base/kaizen.yml``, else ``kaizen.<env>.yml``) is merged key by key; nothing is interpolated. Relative paths start
at the spec's file. The digest leaves out ``environment``, ``place`` and ``about`` of tables: where things lie and run,
and what people are told of them, does not change what is decided.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from kaizen import codec
from kaizen.canonical import digest
from kaizen.errors import MissingDependency, SpecError

Reason = Literal["first", "drift", "decay", "data", "schedule", "person"]

_LABEL = re.compile(r"(?P<column>\w+)\s*(?P<test>>=|<=|==|>|<)\s*(?P<number>-?\d+(\.\d+)?)")


@dataclass(frozen=True)
class ClockSpec:
    """Whose time cooldowns, delays and partitions count in."""

    of: Literal["data", "wall"] = "wall"
    timezone: str = "UTC"


@dataclass(frozen=True)
class ProblemSpec:
    """What is predicted for whom, and when its truth is known.

    Attributes:
        target: name of the label column.
        label: how the target is made from an outcome, ``"COLUMN > NUMBER"`` (1 if true, 0 if not); without it
            the target is a column of the labels table.
        entity: columns that identify a row. timestamp: the column that dates it; everything known later is an outcome.
        features: columns that a model may see; without it all columns that are not outcomes or the timestamp.
            Columns of joined tables are called ``TABLE_COLUMN``.
        group: columns whose values (a patient, a machine) may not be on both sides of a comparison.
    """

    task: Literal["classification", "regression"]
    target: str
    entity: tuple[str, ...]
    timestamp: str
    label: str = ""
    positive: int = 1
    label_delay: timedelta = timedelta(0)
    features: tuple[str, ...] = ()
    group: tuple[str, ...] = field(default=(), metadata=codec.LATER)


@dataclass(frozen=True)
class RiskSpec:
    """Likelihood and impact of a wrong model: recorded with every promotion."""

    likelihood: Literal["low", "medium", "high"] = "low"
    impact: Literal["low", "medium", "high"] = "low"


TIMED = ("day", "month", "year")
"""Partitions that are cut by the timestamp."""


@dataclass(frozen=True)
class FillSpec:
    """A value to put where there is none."""

    fill: Any


@dataclass(frozen=True)
class LimitsSpec:
    """What a number may be, and what becomes of another one: ``missing`` takes it away.

    The limits are fixed numbers. Quantiles of a partition would let the same row pass in one partition and not in the
    next, and those of all rows would look into the future.
    """

    policy: Literal["clip", "missing", "drop_row"]
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class CleanSpec:
    """What validate mends before the suite looks, in this order: duplicates, outliers, missing values.

    Attributes:
        duplicates: of rows with the same keys: none may come (ingest refuses them), the first stays, or the last.
        outliers, missing: by column.
    """

    duplicates: Literal["refuse", "keep_first", "keep_last"] | None = None
    outliers: dict[str, LimitsSpec] = field(default_factory=dict)
    missing: dict[str, Literal["drop_row"] | FillSpec] = field(default_factory=dict)


@dataclass(frozen=True)
class ColumnAbout:
    """What a column holds, and in which unit."""

    meaning: str = ""
    unit: str = ""


@dataclass(frozen=True)
class AboutSpec:
    """What people should know of a table; nothing is decided by it, so it is not part of the spec's digest.

    Attributes:
        owner: who answers for it. source: where it comes from, in words. licence: SPDX name, or words.
        retention: how long its versions are to be kept.
    """

    meaning: str = ""
    owner: str = ""
    source: str = ""
    licence: str = ""
    retention: timedelta | None = None
    columns: dict[str, ColumnAbout] = field(default_factory=dict)


@dataclass(frozen=True)
class TableSpec:
    """Where a table lands.

    Attributes:
        uri: what delivers it, see ``kaizen.sources``: a path or glob, ``package:NAME/PATH``, ``s3://...``, a database.
        partition: ``day``, ``month``, ``year`` by the timestamp in the clock's zone; ``file``; ``by COLUMN``; without
            it each delivery is a new version of one partition.
        role: ``labels`` holds outcomes by entity. join: the main table's columns that look rows up here.
        columns: which columns to take (default: all). types: of columns, where they are not as before or as they look.
        format, encoding: of files, where their names do not tell. max_expanded: what a packed file may become.
        on_change: what comes for a partition that is there: refused, added to it, or in its place.
        new_columns: whether a column that was not there before is taken.
        select: of a database, a table or a query. watermark: its column that grows with new rows. lag: how much later
            than others a row may come, in time or in the watermark's numbers. secret: the name of its password.
        asset: another team's Airflow asset that rings when the source has something.
        asof: for a look-up: since when a row holds; of the rows with the same ``join`` the newest that is not later
            than the prediction is joined, if it is not older than ``max_age``.
        time: for labels: when the outcome happened. A row to predict has the newest outcome of its entity (or
            ``join``) from its own time on, until ``horizon`` later (default: ``problem.label_delay``).
        known: for labels with ``time``: when the outcome became known; later than ``label_delay`` does not count.
    """

    uri: str
    partition: str | None = None
    role: Literal["features", "labels"] = "features"
    join: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    min_rows: int = 1
    about: AboutSpec = field(default_factory=AboutSpec, metadata=codec.LATER)
    types: dict[str, Literal["int", "float", "text", "bool", "date", "time"]] = field(
        default_factory=dict, metadata=codec.LATER
    )
    format: Literal["parquet", "csv", "jsonl", "arrow"] | None = field(default=None, metadata=codec.LATER)
    encoding: str = field(default="utf-8", metadata=codec.LATER)
    max_expanded: str = field(default="16g", metadata=codec.LATER)
    on_change: Literal["refuse", "append", "replace"] = field(default="refuse", metadata=codec.LATER)
    new_columns: Literal["accept", "refuse"] = field(default="accept", metadata=codec.LATER)
    select: str = field(default="", metadata=codec.LATER)
    watermark: str = field(default="", metadata=codec.LATER)
    lag: float | timedelta | None = field(default=None, metadata=codec.LATER)
    secret: str = field(default="", metadata=codec.LATER)
    asset: str = field(default="", metadata=codec.LATER)
    asof: str = field(default="", metadata=codec.LATER)
    max_age: timedelta | None = field(default=None, metadata=codec.LATER)
    time: str = field(default="", metadata=codec.LATER)
    known: str = field(default="", metadata=codec.LATER)
    horizon: timedelta | None = field(default=None, metadata=codec.LATER)
    clean: CleanSpec | None = field(default=None, metadata=codec.LATER)

    @property
    def timed(self) -> bool:
        """Whether its partitions are times."""
        return self.partition in TIMED

    @property
    def serves_any(self) -> bool:
        """Whether a row of any time may find something in any partition: not cut by time, or looked up as of one."""
        return not self.timed or bool(self.asof)

    @property
    def key_column(self) -> str:
        """The column that it is cut by, "" if it is cut otherwise."""
        return self.partition.removeprefix("by ") if self.partition and self.partition.startswith("by ") else ""

    @property
    def own_time(self) -> str:
        """The table's own time column: it is cut by that; "" if it has the timestamp of the rows to predict."""
        return self.asof or self.time


@dataclass(frozen=True)
class AcceptanceSpec:
    """Rows that are set aside when the first outcomes have come: a floor, which nothing is trained or tuned on.

    Attributes:
        share: of the values of ``columns`` (default ``problem.group``, else the entity), by a hash of each.
        partitions: out of so many of the first labelled ones.
    """

    share: float = 0.05
    columns: tuple[str, ...] = ()
    partitions: int = 1


@dataclass(frozen=True)
class DataSpec:
    """Tables, their expectation suites, what may never be a feature, and what is private.

    Attributes:
        private: what becomes of a column, whatever table it is in, before anything is written; see ``kaizen.privacy``.
        private_key: the secret that hashes are keyed with; without one a key is made in the loop's home.
        detect: what happens when a column that is not declared looks private. ``refuse`` only refuses when it is sure.
        public: columns that are known not to be private, and not looked at.
    """

    tables: dict[str, TableSpec]
    suite: dict[str, str] = field(default_factory=dict)
    on_invalid: Literal["quarantine", "refuse"] = "quarantine"
    max_quarantined: float = 0.05
    outcomes: tuple[str, ...] = ()
    private: dict[str, Any] = field(default_factory=dict, metadata=codec.LATER)
    private_key: str = field(default="", metadata=codec.LATER)
    detect: Literal["refuse", "warn", "off"] = field(default="refuse", metadata=codec.LATER)
    public: tuple[str, ...] = field(default=(), metadata=codec.LATER)
    acceptance: AcceptanceSpec | None = field(default=None, metadata=codec.LATER)


Wall = Literal["user", "capabilities", "privileges", "root", "network", "pids", "memory", "cpu", "init"]
"""What stands around a container: not root, no capabilities, no new privileges, a read-only root, no network, limits of
processes, memory and CPU, and an init process that reaps and hands on signals."""


@dataclass(frozen=True)
class PlaceSpec:
    """Where stages read rows and open models: this process, another environment's interpreter, or containers.

    Attributes:
        interpreter: for ``python``: its Python. image: for ``docker``: a reference, pinned once per training.
        engine: URL of the Docker engine; default DOCKER_HOST, else the machine's own.
        memory, cpus, pids, tmp, shm: limits of a container; sizes as ``512m`` or ``8g``. tmp is that of ``/tmp``.
        user: ``UID:GID``. network: a network of the engine. stop_timeout: between SIGTERM and SIGKILL.
        opened: walls that are not put up, by name.
        gpus: how many GPUs of the engine, ``all``, or a list of their numbers or UUIDs. They are leased, so that no two
            containers get the same one. fallback: ``cpu`` runs without where the engine has none.
        secrets: names of what a training in a container finds as files; never values.
    """

    mode: Literal["in_process", "python", "docker"] = "in_process"
    interpreter: str = ""
    timeout: timedelta = timedelta(hours=2)
    image: str = ""
    engine: str = ""
    memory: str = "4g"
    cpus: float = 2.0
    pids: int = 512
    tmp: str = "1g"
    shm: str = "64m"
    user: str = "65532:65532"
    network: str = "none"
    stop_timeout: timedelta = timedelta(seconds=10)
    opened: tuple[Wall, ...] = ()
    gpus: Any = 0
    fallback: Literal["none", "cpu"] = "none"
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class ValidationSpec:
    """Rows of the training window that user code gets as ``validation`` instead of among its ``examples``.

    Attributes:
        by: ``time``: the newest rows. ``group``: whole groups, so many that they have the share of the rows.
            ``hash``: each entity's side is its own for good, whatever else is there.
        share: of the rows, but of the entities by hash. last: by time, the newest rows of so long, instead of a share.
        columns: the group or entity; default ``problem.group``, and by hash then the entity.
    """

    by: Literal["time", "group", "hash"]
    share: float = 0.2
    last: timedelta | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainSpec:
    """Whose code trains, on what.

    Attributes:
        runner: an entry point of the group ``kaizen.runners``.
        pipeline: for ``kedro``: the registered pipeline. function: for ``callable``: ``"package.module:function"``.
        window: ``all``, or ``last N`` partitions. min_partitions: labelled partitions before the first training.
        trusted_types: classes that a stored model may hold besides the plain ones.
    """

    runner: str
    pipeline: str = ""
    function: str = ""
    window: str = "all"
    min_partitions: int = 1
    seed: int = 0
    trusted_types: tuple[str, ...] = ()
    validation: ValidationSpec | None = field(default=None, metadata=codec.LATER)


@dataclass(frozen=True)
class ParameterSpec:
    """What a search may set one parameter of the training to: a number from ``low`` to ``high``, or a choice.

    Attributes:
        default: what the training uses by itself; it says the type, too: a whole number is searched in whole numbers.
        low, high: both ends are tried. step: the distance between two tries. log: equal factors instead of distances.
        choices: texts, numbers, true or false.
    """

    default: Any
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class TuneSpec:
    """A search for the training's parameters before each training: so many ``trials``, the default among them.

    Attributes:
        parameters: by the names under which the runner hands them to user code.
        time: of all trials together. gpu_hours: GPUs times hours of all trials together.
    """

    parameters: dict[str, ParameterSpec]
    trials: int = 20
    time: timedelta | None = None
    gpu_hours: float | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        """The configuration that is always a trial."""
        return {name: parameter.default for name, parameter in self.parameters.items()}


@dataclass(frozen=True)
class GateSpec:
    """One condition of promotion: a floor (``at_least``/``at_most``), ``against: champion``, or slices of it.

    ``rows: acceptance`` is a floor on the rows that were set aside (``data.acceptance``) instead of the gate's.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    against: Literal["champion"] | None = None
    margin: float = 0.0
    confidence: float = 0.95
    """Of the intervals: the same for all gates, since they are computed once."""
    slices: tuple[str, ...] = ()
    max_drop: float | None = None
    rows: Literal["gate", "acceptance"] = field(default="gate", metadata=codec.LATER)


@dataclass(frozen=True)
class EvaluateSpec:
    """The gate's rows: the newest labelled ``window``, later than every row trained on."""

    window: timedelta = timedelta(days=7)
    max_auc_of_one_feature: float = 0.85
    """A single feature with more power than this is an outcome in disguise (classification)."""
    max_correlation_of_one_feature: float = field(default=0.999, metadata=codec.LATER)
    """A single feature whose ranks follow the target's more closely than this is a copy of it (regression)."""


@dataclass(frozen=True)
class DeploySpec:
    """How the champion serves."""

    mode: Literal["batch"] = "batch"


@dataclass(frozen=True)
class DriftSpec:
    """A feature drifted if its PSI is at least ``psi`` and the shift is more than chance allows."""

    psi: float = 0.2
    min_rows: int = 200
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True)
class PerformanceSpec:
    """Decay: the metric on new labelled rows is worse than the gate saw by more than ``max_drop``, beyond chance."""

    max_drop: float = 0.02
    min_labelled: float = 0.5


@dataclass(frozen=True)
class MonitorSpec:
    """What is watched, and how many false alarms a year (365 days) of quiet partitions may bring in all."""

    drift: DriftSpec = field(default_factory=DriftSpec)
    performance: PerformanceSpec = field(default_factory=PerformanceSpec)
    false_alarms_per_year: float = 0.5
    max_missing: float = 0.5
    """A feature whose share of missing values grows by more than this is an incident, not drift."""


@dataclass(frozen=True)
class BudgetSpec:
    """At most ``retrains`` in any ``per``."""

    retrains: int = 4
    per: timedelta = timedelta(days=30)


@dataclass(frozen=True)
class RetrainSpec:
    """When a turn may start, and for which reasons. A person's wish ignores the cooldown, not the budget."""

    cooldown: timedelta = timedelta(days=7)
    budget: BudgetSpec = field(default_factory=BudgetSpec)
    reasons: tuple[Reason, ...] = ("drift", "decay", "person")
    every: timedelta | None = None
    """For the reason ``schedule``: the longest time between two trainings."""


@dataclass(frozen=True)
class EnvironmentSpec:
    """Roots of this environment; the variables KAIZEN_HOME, KAIZEN_LEDGER_URL and MLFLOW_TRACKING_URI outrank it.

    Attributes:
        remote: the folder or ``s3://BUCKET/PREFIX`` that has this loop's data below its name; KAIZEN_DATA_REMOTE.
    """

    home: str = ""
    ledger: str = ""
    tracking: str = ""
    remote: str = field(default="", metadata=codec.LATER)


@dataclass(frozen=True)
class Spec:
    """A whole ``kaizen.yml``."""

    version: Literal[1]
    loop: str
    problem: ProblemSpec
    data: DataSpec
    train: TrainSpec
    gates: tuple[GateSpec, ...]
    clock: ClockSpec = field(default_factory=ClockSpec)
    risk: RiskSpec = field(default_factory=RiskSpec)
    place: PlaceSpec = field(default_factory=PlaceSpec)
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    deploy: DeploySpec = field(default_factory=DeploySpec)
    monitor: MonitorSpec = field(default_factory=MonitorSpec)
    retrain: RetrainSpec = field(default_factory=RetrainSpec)
    environment: EnvironmentSpec = field(default_factory=EnvironmentSpec)
    tune: TuneSpec | None = field(default=None, metadata=codec.LATER)

    @property
    def digest(self) -> str:
        """Identity of what the loop decides by: all keys but ``environment``, ``place`` and ``about`` of tables."""
        values = codec.encode(self)
        tables = {n: {k: v for k, v in t.items() if k != "about"} for n, t in values["data"]["tables"].items()}
        decides = {k: v for k, v in values.items() if k not in ("environment", "place")}
        return digest(decides | {"data": values["data"] | {"tables": tables}})

    @property
    def timezone(self) -> ZoneInfo:
        """The zone in which partitions are cut."""
        return ZoneInfo(self.clock.timezone)

    @property
    def main(self) -> str:
        """The table whose rows are predicted: the one with features that is joined to nothing."""
        return next(n for n, t in self.data.tables.items() if t.role == "features" and not t.join)

    @property
    def labels(self) -> str | None:
        """The table that holds outcomes; None if the main table does. Of several, the first: when it comes, they do."""
        return next(iter(self.label_tables), None)

    @property
    def label_tables(self) -> tuple[str, ...]:
        """All sources of labels, in the spec's order."""
        return tuple(n for n, t in self.data.tables.items() if t.role == "labels")

    @property
    def joined(self) -> tuple[str, ...]:
        """Tables that rows of the main table look up, in the spec's order."""
        return tuple(n for n, t in self.data.tables.items() if t.join and t.role == "features")

    def time_of(self, table: str) -> str:
        """The column that a table is cut by."""
        return self.data.tables[table].own_time or self.problem.timestamp

    def keys_of(self, table: str) -> tuple[str, ...]:
        """The columns of which a table has each combination once; of a table with times of its own, with them."""
        found = self.data.tables[table]
        own = [name for name in (found.own_time, found.known) if name]
        return tuple(dict.fromkeys([*(found.join or self.problem.entity), *own]))

    def refuses_twice(self, table: str, *, grown: bool = False) -> bool:
        """Whether ingest refuses repeated keys: by ``clean.duplicates``, else of what is joined by its keys.

        Rows to predict are held to it where rows were added to others (``grown``). With a suite it is validate that may
        quarantine repeats.
        """
        found = self.data.tables[table]
        if found.clean and found.clean.duplicates:
            return found.clean.duplicates == "refuse"
        return (grown or table != self.main) and table not in self.data.suite

    def horizon_of(self, table: str) -> timedelta:
        """How long after a row an outcome of this labels table may happen to be the row's."""
        found = self.data.tables[table].horizon
        return self.problem.label_delay if found is None else found

    @property
    def truth(self) -> str:
        """The column that labels are made from."""
        rule = parse_label(self.problem.label)
        return rule.column if rule else self.problem.target

    @property
    def validation_columns(self) -> tuple[str, ...]:
        """The columns that ``train.validation`` keeps together; () by time."""
        wanted = self.train.validation
        if wanted is None or wanted.by == "time":
            return ()
        return wanted.columns or self.problem.group or (self.problem.entity if wanted.by == "hash" else ())

    @property
    def acceptance_columns(self) -> tuple[str, ...]:
        """The columns by which ``data.acceptance`` sets rows aside; () without it."""
        wanted = self.data.acceptance
        return (wanted.columns or self.problem.group or self.problem.entity) if wanted else ()

    @property
    def confidence(self) -> float:
        """Of every interval: that of the gates that look at one."""
        return next((gate.confidence for gate in self.gates if gate.against or gate.slices), 0.95)

    @property
    def metric(self) -> str:
        """The metric of the first gate: what people look at, and what decay is judged by."""
        return self.gates[0].metric


@dataclass(frozen=True)
class Label:
    """``problem.label`` taken apart."""

    column: str
    test: str
    number: float


def parse_label(text: str) -> Label | None:
    """``"arr_delay > 15"`` as a ``Label``; None for ""; ``ValueError`` for anything else."""
    if not text:
        return None
    match = _LABEL.fullmatch(text.strip())
    if not match:
        raise ValueError(text)
    return Label(match["column"], match["test"], float(match["number"]))


def train_partitions(window: str) -> int | None:
    """How many partitions ``train.window`` takes: None for ``all``; ``ValueError`` for anything else."""
    if window == "all":
        return None
    match = re.fullmatch(r"last ([1-9]\d*)", window)
    if not match:
        raise ValueError(window)
    return int(match[1])


def load_spec(path: Path, env: str | None = None) -> Spec:
    """Read, merge, check. Raises ``SpecError`` (KZ30x) for the first thing that is wrong; nothing else happens."""
    values = _read_yaml(path)
    overlay = overlay_path(path, env) if env else None
    if overlay is not None and overlay.exists():
        values = _merge(values, _read_yaml(overlay))
    elif overlay is not None and env != "local" and not (path.parent.name == "base" and overlay.parent.is_dir()):
        raise SpecError(
            "KZ312",
            "no such environment",
            where=str(path),
            value=env,
            limit=f"an overlay {overlay.name} or a folder {overlay.parent.name}/ for it",
            action="correct the name, or create the overlay; an empty mapping is enough",
        )
    return parse_spec(values, str(path))


def overlay_path(path: Path, env: str) -> Path:
    """Where the overlay of ``env`` lies: a sibling of ``base/``, else ``STEM.ENV.yml`` beside the file."""
    if path.parent.name == "base":
        return path.parent.parent / env / path.name
    return path.with_name(f"{path.stem}.{env}{path.suffix}")


def parse_spec(values: dict[str, Any], where: str) -> Spec:
    """A spec from JSON values (YAML read, or compiled). Raises ``SpecError``; ``where`` names the file in it."""
    try:
        spec = codec.decode(Spec, values)
    except codec.DecodeError as error:
        raise not_decoded(error, where) from None
    from kaizen.spec_problems import problems

    for p in problems(spec):
        raise SpecError(p.code, p.what, where=f"{where}: {p.key}", value=p.value, limit=p.limit, action=p.action)
    return spec


def not_decoded(error: codec.DecodeError, where: str) -> SpecError:
    """What the codec found wrong in what ``where`` names, as the refusal of a spec."""
    codes = {"unknown key": "KZ303", "missing key": "KZ305"}
    action = f"did you mean {error.hint!r}?" if error.hint else "correct the key; docs/reference/spec.md lists all"
    return SpecError(
        codes.get(error.what, "KZ304"),
        error.what,
        where=f"{where}: {error.path}",
        # Somebody may have written a value there.
        value=None if error.path.startswith(("place.secrets", "data.private_key")) else error.value,
        limit=error.limit,
        action=action,
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        from kaizen.adapters.strict_yaml import StrictYamlError, read_mapping
    except ImportError:
        raise MissingDependency("PyYAML", "all") from None
    try:
        return read_mapping(path)
    except OSError as error:
        limit = "a readable file"
        raise SpecError(
            "KZ301", "spec cannot be read", where=str(path), value=error.strerror, limit=limit, action="check the path"
        ) from error
    except StrictYamlError as error:
        raise SpecError(
            "KZ302",
            "spec is not plain YAML",
            where=f"{path}, line {error.line}",
            value=error.problem,
            limit="a UTF-8 mapping without tags, aliases or duplicate keys",
            action="correct that line",
        ) from error


def _merge(base: Any, over: Any) -> Any:
    """``over`` on ``base`` (RFC 7396): mappings merge key by key, null removes its key, everything else replaces."""
    if not isinstance(over, dict):
        return over
    under = base if isinstance(base, dict) else {}
    merged = under | {k: _merge(under.get(k), v) for k, v in over.items()}
    return {k: v for k, v in merged.items() if k not in over or v is not None}
