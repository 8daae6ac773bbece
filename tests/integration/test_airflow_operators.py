"""Operators in DAGs of a small loop, run by ``dag.test``; hook, links, policy, trigger and notifier for themselves."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow", reason="apache-airflow is not installed: pip install 'kaizen-mlops[airflow]'")

from tests.airflow_home import PROJECTS, asset_events, load_dags, make_database, partition_events, run_dag
from tests.loops import MONTHS, Project, make_loop

from kaizen.adapters.tables import read_parquet
from kaizen.cli import main
from kaizen.errors import DataRefused, LedgerError, RegistryError, UsageError
from kaizen.ledger import open_ledger
from kaizen.stages import StageResult

FILE = """
from airflow.sdk import DAG
from kaizen_airflow import IngestDag, LoopTaskGroup, MonitoringDag, ReconcileDag, ScoringDag, TrainingDag

SPEC = "rail/kaizen.yml"
dags = [kind(SPEC, default_args={"retries": 0})
        for kind in (IngestDag, ScoringDag, MonitoringDag, TrainingDag, ReconcileDag)]

with DAG("nightly", schedule=None, default_args={"retries": 0}) as nightly:
    LoopTaskGroup(SPEC, stages=["ingest", "validate", "score", "monitor", "trigger", "train"])
"""


@pytest.fixture(scope="module")
def project() -> Project:
    """The loop in Airflow's projects folder, with nothing delivered yet."""
    make_database()
    about = {
        "meaning": "trains | that leave",
        "owner": "ada",
        "columns": {"distance": {"meaning": "to go", "unit": "km"}},
    }
    return make_loop(PROJECTS / "rail", {"data": {"tables": {"schedules": {"about": about}}}})


@pytest.fixture(scope="module")
def dags(project: Project) -> dict[str, Any]:
    return load_dags("rail", FILE)


@pytest.fixture(autouse=True)
def own_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's own tracking store, as for a user who names none."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


def kinds(project: Project) -> list[str]:
    with open_ledger(f"sqlite:///{project.home}/ledger.db") as ledger:
        return [e.kind for e in ledger.events("rail/delays")]


def test_the_year_begins_and_each_task_hands_on_references(project: Project, dags: dict[str, Any]) -> None:
    for month in MONTHS[:2]:
        project.land_month(month)
    ingested = run_dag(dags["rail.delays_ingest"])
    assert ingested.tasks == {"ingest": "success", "validate": "success"}
    assert ingested.values["ingest"]["count"] == 5
    assert ingested.values["ingest"]["records"][0] | {"digest": ""} == {
        "kind": "DataVersion",
        "subject": "data/schedules/2024-01",
        "digest": "",
    }
    assert len(json.dumps(ingested.values["ingest"])) < 4096
    bells = asset_events("kaizen/rail/delays/")
    assert [name for name, _ in bells] == ["kaizen/rail/delays/data"]
    assert bells[0][1]["spec"] == ingested.values["ingest"]["spec"]
    # Whoever schedules by partitions hears of each table's by their keys.
    assert partition_events("kaizen/rail/delays/data/partitions/") == [
        *(("kaizen/rail/delays/data/partitions/outcomes", month) for month in MONTHS[:2]),
        *(("kaizen/rail/delays/data/partitions/schedules", month) for month in MONTHS[:2]),
        ("kaizen/rail/delays/data/partitions/stations", "all"),
    ]


def test_a_decision_wakes_training_and_a_champion_is_rung(project: Project, dags: dict[str, Any]) -> None:
    assert run_dag(dags["rail.delays_scoring"]).tasks == {"score": "success"}
    assert run_dag(dags["rail.delays_monitoring"]).tasks == {"monitor": "success", "trigger": "success"}
    trained = run_dag(dags["rail.delays_training"])
    assert set(trained.tasks.values()) == {"success"}
    assert trained.values["deploy"]["turn"] == trained.values["train"]["turn"]
    names = [name.rpartition("/")[2] for name, _ in asset_events("kaizen/rail/delays/")]
    assert names == ["data", "scores", "retrain", "champion"]


def test_a_training_without_a_decision_is_skipped_as_a_whole(project: Project, dags: dict[str, Any]) -> None:
    before = kinds(project)
    again = run_dag(dags["rail.delays_training"])
    assert again.state == "success"
    assert set(again.tasks.values()) == {"skipped"}
    assert kinds(project) == before


def test_no_reason_to_retrain_is_a_skipped_trigger_with_its_record(project: Project, dags: dict[str, Any]) -> None:
    looked = run_dag(dags["rail.delays_monitoring"])
    assert looked.tasks == {"monitor": "success", "trigger": "skipped"}
    assert looked.values["trigger"]["records"][0]["kind"] == "TriggerDecision"


def test_a_wish_that_is_no_sentence_is_refused(dags: dict[str, Any]) -> None:
    assert run_dag(dags["rail.delays_monitoring"], because="x" * 501).tasks["trigger"] == "failed"


def test_stages_stand_in_a_dag_of_ones_own(project: Project, dags: dict[str, Any]) -> None:
    project.land_schedules(MONTHS[2])
    ran = run_dag(dags["nightly"])
    assert ran.tasks == {
        "rail_delays.ingest": "success",
        "rail_delays.validate": "success",
        "rail_delays.score": "success",
        "rail_delays.monitor": "success",
        "rail_delays.trigger": "skipped",
        "rail_delays.train": "skipped",
    }


def test_reconcile_rings_for_work_that_waits(project: Project, dags: dict[str, Any]) -> None:
    project.land_outcomes(MONTHS[2])
    assert run_dag(dags["rail.delays_ingest"]).state == "success"
    # Nobody has heard the data's bell: the monitor has yet to look at March by its labels.
    assert rung_by_reconcile(dags) == ["scores"]
    # It looks, and the task after it dies: a decision is due.
    assert main(["stage", "monitor", str(project.spec)]) == 0
    assert rung_by_reconcile(dags) == ["scores"]
    assert main(["stage", "trigger", str(project.spec)]) == 0
    assert rung_by_reconcile(dags) == ["retrain"]


def rung_by_reconcile(dags: dict[str, Any]) -> list[str]:
    before = len(asset_events("kaizen/rail/delays/"))
    assert run_dag(dags["rail.delays_reconcile"]).state == "success"
    return [name.rpartition("/")[2] for name, _ in asset_events("kaizen/rail/delays/")[before:]]


def test_the_report_lies_where_the_api_server_shows_it(dags: dict[str, Any]) -> None:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from kaizen_airflow.plugin import KaizenPlugin
    from kaizen_airflow.settings import report_file

    run_dag(dags["rail.delays_monitoring"])
    assert "Loop rail/delays" in report_file("rail.delays").read_text()
    (given,) = KaizenPlugin().fastapi_apps
    outer = FastAPI()
    outer.mount(given["url_prefix"], given["app"])
    assert TestClient(outer).get("/kaizen/reports/rail.delays").status_code == 401


def test_the_page_of_data_lies_beside_it_and_tasks_lead_there(dags: dict[str, Any]) -> None:
    from kaizen_airflow.settings import report_file

    assert "Data of rail/delays" in report_file("rail.delays.data").read_text()
    for task in ("ingest", "validate"):
        operator = dags["rail.delays_ingest"].get_task(task)
        links = {link.name: link for link in operator.operator_extra_links}
        operator.result = StageResult("rail/delays", task, "")
        assert links["Data report"].get_link(operator, ti_key=None).endswith("/kaizen/reports/rail.delays.data")
        assert links["Report"].get_link(operator, ti_key=None).endswith("/kaizen/reports/rail.delays")


def test_the_page_of_the_ingest_dag_tells_what_tables_hold(dags: dict[str, Any]) -> None:
    page = dags["rail.delays_ingest"].doc_md
    assert "### schedules\n\ntrains | that leave\n\nowner ada; cut by month; lands at landing/schedules/*" in page
    assert "| column | unit | meaning | masked |\n|---|---|---|---|\n| distance | km | to go |  |" in page
    assert "### outcomes" in page
    assert "schedules" not in dags["rail.delays_training"].doc_md


@contextmanager
def connection(monkeypatch: pytest.MonkeyPatch, name: str, **facts: Any) -> Iterator[None]:
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(facts))
    yield


def test_a_connection_outranks_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    from kaizen_airflow.hooks.kaizen import KaizenHook

    extra = {"ledger": "postgresql://loop@db/ledger", "tracking": "http://mlflow:5000"}
    with connection(monkeypatch, "production", conn_type="kaizen", password="open sesame", extra=extra):
        roots = KaizenHook("production").get_conn()
    assert roots.ledger == "postgresql://loop:open%20sesame@db/ledger"
    assert (roots.tracking, roots.home) == ("http://mlflow:5000", "")


def test_a_connection_has_the_secrets_of_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.log import redact

    from kaizen_airflow.hooks.kaizen import KaizenHook

    extra = {"secrets": {"password": "canary-7f3a"}}
    with connection(monkeypatch, "production", conn_type="kaizen", extra=extra):
        assert KaizenHook("production").get_secrets() == {"password": "canary-7f3a"}
    assert "canary" not in str(redact("it is canary-7f3a"))
    assert KaizenHook().get_secrets() == {}


@pytest.mark.parametrize("mode", ["in_process", "python"])
def test_a_connection_has_the_key_of_private_columns(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    from kaizen.adapters.masking import KeyedHash
    from kaizen.containers import Call, Log, Owner
    from kaizen.loop import open_loop
    from kaizen.stages import Order
    from kaizen_airflow.hooks.kaizen import KaizenHook

    changes = {"data": {"private": {"train": "hash"}, "private_key": "pii"}, "place": {"mode": mode}}
    changes["place"] |= {"interpreter": sys.executable} if mode == "python" else {}
    project = make_loop(PROJECTS / f"masked_{mode}", changes)
    project.land_schedules(MONTHS[0])
    call = Call(Owner("test"), Log(print))

    def ingest() -> None:
        KaizenHook("masked").run_stage("ingest", str(project.spec), "local", Order(), actor="test", call=call)

    with connection(monkeypatch, "masked", conn_type="kaizen", extra={}), pytest.raises(UsageError, match="KZ260"):
        ingest()
    with connection(monkeypatch, "masked", conn_type="kaizen", extra={"secrets": {"pii": "the connection's own key"}}):
        ingest()
    with open_loop(project.spec) as loop:
        file = loop.store.file(loop.versions("schedules")[MONTHS[0]].address)
    hashed = KeyedHash(b"the connection's own key")
    assert set(read_parquet(file)["train"]) == {hashed.value(f"T{i}") for i in range(5)}


@pytest.mark.parametrize("given", ["canary-7f3a", ["canary-7f3a"], {"password": ["canary-7f3a"]}])
def test_a_connections_secrets_that_cannot_be_read_are_refused(monkeypatch: pytest.MonkeyPatch, given: Any) -> None:
    from kaizen_airflow.hooks.kaizen import KaizenHook

    facts = {"conn_type": "kaizen", "extra": {"secrets": given}}
    with connection(monkeypatch, "production", **facts), pytest.raises(UsageError, match="KZ244") as refused:
        KaizenHook("production").get_secrets()
    assert "connection production" in str(refused.value)
    assert "canary" not in str(refused.value)


def test_without_the_default_connection_the_spec_decides_but_a_named_one_must_exist() -> None:
    from airflow.sdk.exceptions import AirflowNotFoundException

    from kaizen_airflow.hooks.kaizen import KaizenHook

    assert KaizenHook().get_conn().ledger == ""
    with pytest.raises(AirflowNotFoundException):
        KaizenHook("missing").get_conn()


def test_the_connection_can_be_tested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from kaizen_airflow.hooks.kaizen import KaizenHook

    with connection(monkeypatch, "here", conn_type="kaizen", extra={"ledger": f"sqlite:///{tmp_path}/ledger.db"}):
        assert KaizenHook("here").test_connection() == (True, "The ledger answers; loops: none yet.")
    with connection(monkeypatch, "there", conn_type="kaizen", extra={"ledger": "mongodb://nowhere/x"}):
        works, why = KaizenHook("there").test_connection()
    assert not works
    assert "KZ510" in why


def test_workers_on_many_hosts_refuse_a_ledger_in_a_file(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    from kaizen.stages import Order
    from kaizen_airflow.hooks.kaizen import KaizenHook

    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    with pytest.raises(UsageError, match="KZ241"):
        KaizenHook().run_stage("score", "rail/kaizen.yml", "local", Order(), actor="test")
    # The spec itself may name one that every host reaches; then it is asked, and nobody answers here.
    project.write_spec({"environment": {"ledger": "postgresql://loop@127.0.0.1:1/ledger"}}, env="many")
    with pytest.raises(LedgerError, match="KZ506"):
        KaizenHook().run_stage("score", "rail/kaizen.yml", "many", Order(), actor="test")


def test_what_cannot_pass_is_not_retried() -> None:
    from airflow.sdk.definitions.retry_policy import RetryAction

    from kaizen_airflow.operators.stage import RefusalPolicy

    policy = RefusalPolicy()
    assert policy.evaluate(DataRefused("KZ450", "refused"), 1, 2).action == RetryAction.FAIL
    assert policy.evaluate(RegistryError("KZ801", "unreachable"), 1, 2).action == RetryAction.DEFAULT
    assert policy.evaluate(OSError("disk"), 1, 2).action == RetryAction.DEFAULT


def test_files_ring_once_when_they_have_come_to_rest(project: Project, tmp_path: Path) -> None:
    from kaizen_airflow.triggers.landing import LandingTrigger

    other = make_loop(tmp_path / "other")
    trigger = LandingTrigger(spec=str(other.spec), env="local", poll=0.05)
    path, arguments = trigger.serialize()
    assert path == "kaizen_airflow.triggers.landing.LandingTrigger"
    assert arguments == {"spec": str(other.spec), "env": "local", "poll": 0.05}

    async def watch() -> list[int]:
        rung: list[int] = []

        async def listen() -> None:
            async for event in trigger.run():
                rung.append(event.payload["items"])

        task = asyncio.create_task(listen())
        await _until(lambda: len(rung) == 1)
        other.land_month(MONTHS[0])
        await _until(lambda: len(rung) >= 2 and rung[-1] == 3)
        task.cancel()
        return rung

    rung = asyncio.run(watch())
    assert (rung[0], rung[-1]) == (1, 3)


async def _until(reached: Any, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not reached():
            await asyncio.sleep(0.02)


def test_the_notifier_posts_its_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from kaizen_airflow.notifications.webhook import WebhookNotifier

    got: list[bytes] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/hook"
        with connection(monkeypatch, "chat", conn_type="http", password=address):
            WebhookNotifier("chat", text="{{ what }} happened").notify({})
            WebhookNotifier("chat", text="{{ what }} happened")({"what": "promotion"})
    finally:
        server.shutdown()
    assert [json.loads(body)["text"] for body in got] == ["{{ what }} happened", "promotion happened"]


def test_an_address_that_is_none_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from kaizen_airflow.notifications.webhook import WebhookNotifier

    with connection(monkeypatch, "chat", conn_type="http", password="hunter2"), pytest.raises(UsageError) as refused:
        WebhookNotifier("chat").notify({})
    assert refused.value.code == "KZ242"
    assert "hunter2" not in str(refused.value)
