"""What passes between stages: small frozen records, JSON both ways, each with a version and a digest.

A record of a stage names the digests of what it was made from, so that any prediction can be walked back to its
source. Records hold facts only: no times of the machine, no paths; ``at`` and ``actor`` are the ledger's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, Self
from zoneinfo import ZoneInfo

from kaizen import codec
from kaizen.calendar import days_later
from kaizen.canonical import digest
from kaizen.errors import IntegrityError

Verdict = Literal["passed", "quarantined", "refused"]
Health = Literal["ok", "alarm", "unknown"]


@dataclass(frozen=True)
class Record:
    """Base of all records. ``version`` is that of the JSON form; it grows when an older reader would go wrong."""

    version: ClassVar[int] = 1
    not_identity: ClassVar[tuple[str, ...]] = ()
    """Fields that name where something was kept, not what it is."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, with its ``kind`` and ``version``."""
        return {"kind": type(self).__name__, "version": self.version, **codec.encode(self)}

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON without ``not_identity``: the same facts have it in every environment."""
        return digest({k: v for k, v in self.to_json().items() if k not in self.not_identity})

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The record of ``value``. Raises ``IntegrityError`` (KZ601) if it is another kind, newer, or damaged."""
        kind, version = value.get("kind"), value.get("version")
        if kind != cls.__name__ or version != cls.version:
            raise IntegrityError(
                "KZ601",
                "not a record that this release can read",
                where=f"{kind} version {version}",
                limit=f"{cls.__name__} version {cls.version}",
                action="read it with the release of Kaizen that wrote it, or a newer one",
            )
        try:
            return codec.decode(cls, {k: v for k, v in value.items() if k not in ("kind", "version")})
        except codec.DecodeError as error:
            raise IntegrityError(
                "KZ602",
                f"damaged record: {error.what}",
                where=f"{kind}.{error.path}",
                value=error.value,
                limit=error.limit,
            ) from error


@dataclass(frozen=True)
class Source:
    """Where a partition came from: ``uri`` as the spec names it, ``sha256`` of the delivered file."""

    uri: str
    sha256: str


@dataclass(frozen=True)
class DataVersion(Record):
    """One immutable partition of a table. Left by ingest.

    Attributes:
        address: ``store:TABLE/PARTITION@sha256:HEX`` of the Parquet bytes. md5: the same bytes, for DVC.
        columns: name to type, in file order.
        commit: commit of the loop's data repository that holds the pointer.
        private: what became of private columns by name; a hash names its key's fingerprint.
    """

    not_identity: ClassVar[tuple[str, ...]] = ("commit",)

    table: str
    partition: str
    address: str
    md5: str
    size: int
    rows: int
    columns: dict[str, str]
    source: Source
    commit: str
    labels: dict[str, int] = field(default_factory=dict)
    """For classification labels: rows per class."""
    change: Literal["", "grew", "replaced"] = field(default="", metadata=codec.LATER)
    """What became of the version before: rows were added to it, or it was put aside."""
    previous: str = field(default="", metadata=codec.LATER)
    """Digest of the version before."""
    added: tuple[str, ...] = field(default=(), metadata=codec.LATER)
    """Columns that no version of the table had before."""
    private: dict[str, str] = field(default_factory=dict, metadata=codec.LATER)


def data_path(table: str, partition: str) -> str:
    """Where a partition lies in the data repository."""
    return f"{table}/{partition.removesuffix('.parquet')}.parquet"


@dataclass(frozen=True)
class Delivery(Record):
    """A delivery was taken, and these partitions came out of it. Left by ingest: the same one again is no work."""

    table: str
    source: Source
    partitions: tuple[str, ...]
    watermark: str = field(default="", metadata=codec.LATER)
    """How far the source had come: the next delivery begins behind it."""


@dataclass(frozen=True)
class Finding:
    """One expectation that did not hold. ``rows`` is None for expectations about the whole table."""

    expectation: str
    column: str
    rows: int | None
    broken: bool = False
    """True if the check itself raised: a broken check is not bad data."""
    first: tuple[int, ...] = field(default=(), metadata=codec.LATER)
    """Numbers, from 1, of the first rows that it found, where they are told."""


@dataclass(frozen=True)
class Cleaned:
    """What one rule of cleaning did: ``rule`` as the spec names it, in which column, to how many rows."""

    rule: str
    column: str
    rows: int


@dataclass(frozen=True)
class ValidationReport(Record):
    """What validate found. ``valid`` is the address of the rows that passed, cleaned (None if refused).

    ``rows == valid_rows + quarantined_rows + dropped_rows`` unless the verdict is ``refused`` (then all three are 0).
    ``cleaned`` is what the table's rules of cleaning did to the rows as they were delivered, in their order.
    """

    table: str
    partition: str
    data: str
    suite: str
    verdict: Verdict
    rows: int
    valid_rows: int
    quarantined_rows: int
    expectations: int
    findings: tuple[Finding, ...]
    valid: str | None
    quarantine: str | None
    reason: str = ""
    dropped_rows: int = field(default=0, metadata=codec.LATER)
    cleaned: tuple[Cleaned, ...] = field(default=(), metadata=codec.LATER)


@dataclass(frozen=True)
class Input:
    """One validated partition as training, evaluation and scoring take it."""

    table: str
    partition: str
    data: str
    """Digest of the ``DataVersion``."""
    verdict: str
    """Digest of the ``ValidationReport``."""
    address: str


@dataclass(frozen=True)
class Window:
    """Rows whose timestamp lies in ``[start, end)``; ISO 8601 with offset; None is open."""

    start: str | None
    end: str | None

    def cut(self, newest: timedelta, zone: ZoneInfo) -> tuple[Window, Window]:
        """The window before its ``newest`` so many days in ``zone``, and those; its end must be known."""
        if self.end is None:
            raise ValueError("an open window has no newest part")
        end = datetime.fromisoformat(self.end).astimezone(zone)
        start = days_later(end, -newest.total_seconds() / 86400).isoformat()
        return Window(self.start, start), Window(start, self.end)


@dataclass(frozen=True)
class TrainingSet(Record):
    """What a training may see: partitions by digest, and the window that ends where the gate's rows begin."""

    inputs: tuple[Input, ...]
    window: Window
    gate: Window


@dataclass(frozen=True)
class AcceptanceSet(Record):
    """Rows that nothing is ever trained, tuned or compared on: a floor. Left by validate, once in a loop's life.

    Attributes:
        table: the main one. columns: a row with the values that a member has in them is kept out wherever it comes.
        share, salt: members are the keys whose salted hash lies below ``share``.
        inputs: what it was taken from, with the look-ups and labels as they were.
        members: addresses of the members' rows, one for each partition of ``table`` among the inputs, in order.
    """

    table: str
    columns: tuple[str, ...]
    share: float
    salt: str
    inputs: tuple[Input, ...]
    members: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class Environment:
    """What code ran where: enough to run it again."""

    python: str
    packages: str
    """Digest of the sorted ``name==version`` list of the place."""
    code: str
    """Git commit of the project, or "" outside a repository."""
    dirty: bool


@dataclass(frozen=True)
class TrainedModel(Record):
    """A candidate. Left by train.

    Attributes:
        model: address of the model folder. features: raw columns that it takes, with types, as in its signature.
        profile: address of the reference profile of the rows it was trained on.
        parity: digest of its predictions on its own input example; every place must reproduce it.
        parameters: its plain settings, as the tracking server shows them.
        warnings: what was odd about the rows, and no reason to refuse them.
    """

    training_set: str
    model: str
    features: dict[str, str]
    rows: int
    runner: str
    seed: int
    environment: Environment
    profile: str
    parity: str
    parameters: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = field(default=(), metadata=codec.LATER)


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; low and high are None where too few blocks (days) allow none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One metric of candidate and champion on the same rows. ``gain`` > 0 means that the candidate is better."""

    metric: str
    candidate: Estimate
    champion: Estimate | None = None
    gain: Estimate | None = None
    rows: int = 0
    slice: str = ""
    """``column=value``, or "" for all rows."""


@dataclass(frozen=True)
class EvaluationReport(Record):
    """Candidate and champion measured on the newest labelled window, later than any row either was trained on."""

    candidate: str
    """Digest of the ``TrainedModel``."""
    champion: int | None
    window: Window
    inputs: tuple[Input, ...]
    rows: int
    blocks: int
    """Days in the window: the unit that is resampled."""
    confidence: float
    comparisons: tuple[Comparison, ...]
    acceptance_set: str = field(default="", metadata=codec.LATER)
    """Digest of the ``AcceptanceSet``, "" without one."""
    acceptance: tuple[Comparison, ...] = field(default=(), metadata=codec.LATER)
    """The candidate alone on the acceptance set: an older champion may have seen it, were it set aside later."""


@dataclass(frozen=True)
class GateResult:
    """One gate's answer: the value it looked at, the limit, and the sentence for people."""

    gate: str
    passed: bool
    value: float | None
    limit: float
    reason: str


@dataclass(frozen=True)
class PromotionDecision(Record):
    """Yes or no, with a reason for each gate. ``evaluation`` binds it to data, model, code and environment."""

    evaluation: str
    candidate: str
    champion: int | None
    promote: bool
    gates: tuple[GateResult, ...]


@dataclass(frozen=True)
class Promotion(Record):
    """The champion moved. ``champion`` counts the champions of a loop from 1; ``replaces`` is the one before."""

    champion: int
    turn: str
    """The turn that trained it: its records are in ``candidate/TURN``."""
    candidate: str
    """Digest of the ``TrainedModel``."""
    model: str
    """Address of its folder."""
    decision: str
    replaces: int | None
    gain_seen: float | None
    reason: str = ""


@dataclass(frozen=True)
class Deployment(Record):
    """The champion in service, or why it could not be: then the one before stays."""

    promotion: str
    champion: int
    mode: str
    live: bool
    check: str


@dataclass(frozen=True)
class ScoredBatch(Record):
    """Predictions of one champion for one partition: a Parquet file of entity, timestamp and prediction."""

    partition: str
    champion: int
    model: str
    inputs: tuple[Input, ...]
    rows: int
    predictions: str
    profile: str


@dataclass(frozen=True)
class Asked:
    """Rows of a scored partition, by their positions (from 0) in the predictions of ``batch`` (a digest)."""

    partition: str
    batch: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class LabelRequest(Record):
    """Rows went out to be labelled; until ``expires`` they do not go out again. Left by ``kaizen label queue``.

    Attributes:
        moment, expires: in the loop's own time, ISO 8601. generation: counts the requests of a loop from 1.
        champion: whose predictions were asked about. sheet: address of what went out; it lists the rows of ``asked``.
    """

    moment: str
    expires: str
    generation: int
    champion: int
    asked: tuple[Asked, ...]
    sheet: str


@dataclass(frozen=True)
class FeatureDrift:
    """How far one feature moved from the champion's training rows. ``status`` is never a bare number.

    Attributes:
        psi, p_value: what the status rests on. js: Jensen-Shannon distance. ks: Kolmogorov-Smirnov distance over the
            bins, for numbers only. All None where unknown.
    """

    feature: str
    status: Health
    psi: float | None
    p_value: float | None
    missing_reference: float
    missing_current: float
    js: float | None = None
    ks: float | None = None


@dataclass(frozen=True)
class Performance:
    """The champion on rows whose labels have come, against what the gate saw; ``labelled`` is the share of rows."""

    status: Health
    metric: str
    current: Estimate | None
    reference: float | None
    labelled: float
    rows: int
    reason: str


@dataclass(frozen=True)
class HealthReport(Record):
    """What monitor says of a partition. ``drift`` sums up the features; unknown is neither ok nor an alarm."""

    # The same health leads to the same decision, from whichever deliveries its labels came.
    not_identity: ClassVar[tuple[str, ...]] = ("labels",)

    partition: str
    champion: int
    drift: Health
    features: tuple[FeatureDrift, ...]
    performance: Performance
    incidents: tuple[str, ...]
    """Broken data (a column that vanished, a flood of nulls): blocks retraining instead of starting it."""
    gain_realised: float | None
    """What the last promotion brought on the first rows after it: champion minus the one it replaced."""
    report: str = ""
    labels: tuple[Input, ...] = field(default=(), metadata=codec.LATER)
    """Where the labels came from. When others come, monitor looks again."""


@dataclass(frozen=True)
class TriggerDecision(Record):
    """Retrain or not, and why. ``causes`` are the reasons found; ``suppressed`` names what held them back."""

    moment: str
    """The loop's own time at which it was decided, ISO 8601: cooldown and budget count from it."""
    partition: str
    retrain: bool
    causes: tuple[str, ...]
    suppressed: str
    reason: str
    health: str | None
    generation: int
    """How many decisions to retrain came before, plus one: a deliberate repeat is another training."""


@dataclass(frozen=True)
class TurnRecord(Record):
    """One turn of the loop, from its trigger decision to a deployment or a refusal; digests of its records."""

    turn: str
    spec: str
    decision: str
    training_set: str
    candidate: str
    evaluation: str
    promotion_decision: str
    promotion: str | None
    deployment: str | None
    outcome: Literal["deployed", "refused", "rolled_back"]


@dataclass(frozen=True)
class Bin:
    """One bin of a profile: a category, or an upper edge (``None`` for the last, open bin)."""

    upper: float | str | None
    count: int


@dataclass(frozen=True)
class FeatureProfile:
    """The distribution of one feature. Numeric bins are ``(previous upper, upper]``; categories are by name."""

    feature: str
    numeric: bool
    missing: int
    bins: tuple[Bin, ...] = field(default=())


@dataclass(frozen=True)
class Profile(Record):
    """Counts per bin of every feature over some rows; what drift is measured against."""

    rows: int
    features: tuple[FeatureProfile, ...]


EXACTLY = 4096
"""Up to so many different values of a column are counted, beyond that their number is estimated."""

ColumnKind = Literal["number", "time", "category", "private", "other"]


@dataclass(frozen=True)
class ColumnProfile:
    """One column of a table's version. Of a private one there are counts, and no values.

    Attributes:
        type: as its file has it. missing: nulls and NaN. infinite: infinities, which no other number counts.
        distinct: different values; below ``EXACTLY`` counted, from there on estimated.
        minimum, maximum: of all rows; of times as ISO 8601. mean, deviation: of all rows, the latter of a sample (n-1).
        quantiles: at 0.05, 0.25, 0.5, 0.75 and 0.95, of the profile's sampled rows.
        bins: what is drawn, of the sampled rows: categories, or ``(previous upper, upper]`` up to the maximum.
        deciles: of numbers: inner deciles and an open bin, that another version can be counted in.
    """

    column: str
    type: str
    kind: ColumnKind
    missing: int
    distinct: int
    infinite: int = 0
    minimum: float | str | None = None
    maximum: float | str | None = None
    mean: float | None = None
    deviation: float | None = None
    quantiles: tuple[float | str, ...] = ()
    bins: tuple[Bin, ...] = ()
    deciles: tuple[Bin, ...] = ()


@dataclass(frozen=True)
class DataProfile(Record):
    """Statistics of one version of a partition. ``data`` is its address; ``sampled`` says what quantiles rest on."""

    table: str
    partition: str
    data: str
    rows: int
    sampled: int
    columns: tuple[ColumnProfile, ...]


PEARSON, POINT_BISERIAL, RATIO, CRAMER = "Pearson's r", "point-biserial r", "correlation ratio", "Cramér's V"
"""What an ``Association`` may be measured by."""


@dataclass(frozen=True)
class Association:
    """How closely a feature goes with the target: -1 to 1 for numbers, 0 to 1 for categories; None if unknown."""

    feature: str
    measure: str
    value: float | None
    rows: int


@dataclass(frozen=True)
class TargetProfile(Record):
    """Features of a partition beside the outcomes that have come, as a model would see them.

    Attributes:
        inputs: addresses of the partitions that it was made from. rows: looked at. labelled: of them with an outcome.
        mean: of the target; of a class the share of rows that have it. reason: why nothing is known, or "".
    """

    partition: str
    target: str
    inputs: tuple[str, ...]
    rows: int
    labelled: int
    mean: float | None
    associations: tuple[Association, ...]
    reason: str = ""


@dataclass(frozen=True)
class ContainerRun(Record):
    """One container that worked for a stage. Left by the place, when it has ended.

    Attributes:
        container: its name, the same for all attempts at one task. image: as the spec names it. image_id: what ran.
        opened: walls that were not put up. exit_code: -1 if nobody can know.
        cause: code of the refusal that its end means, "" if it left a result.
        peak_memory: bytes seen at most, 0 if it was too short to look. seconds: from its start to its end.
        gpus: UUIDs of those that it was given. gpu_use: mean of the samples of their utilisation, 0 to 1.
        gpu_memory: bytes of their memory used at most.
    """

    container: str
    stage: str
    turn: str
    image: str
    image_id: str
    opened: tuple[str, ...]
    exit_code: int
    cause: str
    peak_memory: int
    seconds: float
    gpus: tuple[str, ...] = ()
    gpu_use: float = 0.0
    gpu_memory: int = 0


TrialState = Literal["running", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """One configuration that a search tried. ``value`` is its metric on the selection's rows, if it came that far."""

    number: int
    parameters: dict[str, Any]
    state: TrialState
    value: float | None = None
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Search(Record):
    """How the parameters of a training were found. Left by train before it trains, if the spec has ``tune``.

    Attributes:
        study: its name where the trials are kept. training_set: digest of the training's.
        metric, window: what the trials were measured by, on which rows: older than the gate's.
        best: number of the best trial. parameters: its configuration, which the candidate is trained with.
        importance: the share of each parameter in the differences between trials. ended_by: the budget that ran out.
    """

    study: str
    training_set: str
    metric: str
    window: Window
    trials: tuple[Trial, ...]
    best: int
    parameters: dict[str, Any]
    importance: dict[str, float]
    ended_by: str


KINDS: dict[str, type[Record]] = {
    kind.__name__: kind
    for kind in (
        DataVersion,
        Delivery,
        ValidationReport,
        TrainingSet,
        TrainedModel,
        EvaluationReport,
        PromotionDecision,
        Promotion,
        Deployment,
        ScoredBatch,
        HealthReport,
        TriggerDecision,
        TurnRecord,
        Profile,
        DataProfile,
        TargetProfile,
        ContainerRun,
        Search,
        LabelRequest,
        AcceptanceSet,
    )
}


def read_record(value: dict[str, Any]) -> Record:
    """The record of ``value`` by its ``kind``. Raises ``IntegrityError`` (KZ601) for a kind nobody knows."""
    kind = KINDS.get(str(value.get("kind")), Record)
    return kind.from_json(value)
