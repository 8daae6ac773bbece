"""What a deferred task leaves to the triggerer: when the bell rings, and what it does for the container until then."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

pytest.importorskip("airflow.providers.docker", reason="pip install 'kaizen-mlops[airflow-docker]'")

from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from kaizen.ledger import open_ledger
from kaizen_airflow.engines import EngineAddress
from kaizen_airflow.operators.docker import DurableDockerOperator
from kaizen_airflow.triggers import container as module
from kaizen_airflow.triggers.container import RESUMED_WITHIN, ContainerTrigger, why_ring

HOLDER = "airflow:dag/run/train/-1#0.1"
PATIENCE = timedelta(minutes=6)


@pytest.mark.parametrize(
    ("running", "silent", "overdue", "why"),
    [
        (True, 0, False, ""),
        (True, 0, True, "overdue"),
        (False, 0, False, "ended"),
        # What has ended in time is not overdue because nobody looked.
        (False, 0, True, "ended"),
        (None, 59, False, ""),
        (None, 61, False, "silent"),
        (None, 0, True, "overdue"),
    ],
)
def test_a_bell_rings_only_where_the_task_has_to_look(running, silent, overdue, why):
    assert why_ring(running, silent=silent, overdue=overdue) == why


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("KAIZEN_LEDGER_URL", url := f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setattr(module.KaizenHook, "ledger_url", lambda self: url)
    with open_ledger(url) as opened:
        yield opened


@pytest.fixture
def lease(ledger):
    return ledger.acquire("container/engine/kaizen-1", HOLDER, PATIENCE, datetime.now(UTC))


@pytest.fixture
def engine(monkeypatch):
    """An engine with one container, and what was done to it."""
    known = SimpleNamespace(running=True, done=[], patience=0)
    known.runs = lambda container: known.running
    known.stop = lambda container, grace: known.done.append(("stop", container, grace))
    known.remove = lambda container: known.done.append(("remove", container))
    monkeypatch.setattr(EngineAddress, "open", lambda self, patience=None: known)
    return known


@pytest.fixture
def state(monkeypatch):
    """What Airflow says of the task."""
    told = SimpleNamespace(is_now="deferred")
    monkeypatch.setattr(
        RuntimeTaskInstance, "get_task_states", staticmethod(lambda **_: {"run": {"train": told.is_now}})
    )
    return told


def trigger_of(lease, **facts):
    given = {
        "engine": dict.fromkeys(EngineAddress.__dataclass_fields__) | {"docker_url": "unix:///nowhere"},
        "kaizen_conn_id": "kaizen_default",
        "container": "c0ffee",
        "name": "kaizen-1",
        "resource": lease.resource,
        "holder": lease.holder,
        "epoch": lease.epoch,
        "patience": PATIENCE.total_seconds(),
        "grace": 10.0,
        "deadline": None,
    }
    return ContainerTrigger(**{**given, **facts})


def bell(trigger):
    async def first():
        return [event.payload async for event in trigger.run()]

    return asyncio.run(first())


def test_a_trigger_is_made_again_from_what_the_database_keeps_of_it(lease):
    path, arguments = trigger_of(lease, deadline="2026-11-27T12:00:00+00:00").serialize()
    assert path == f"{ContainerTrigger.__module__}.{ContainerTrigger.__qualname__}"
    assert ContainerTrigger(**arguments).serialize() == (path, arguments)


def test_from_the_bell_on_the_lease_waits_for_a_free_worker(lease, ledger, engine):
    engine.running = False
    assert bell(trigger_of(lease)) == [{"why": "ended"}]
    left = ledger.lease(lease.resource).expires_at - datetime.now(UTC)
    assert PATIENCE < left <= RESUMED_WITHIN


def test_while_the_container_works_the_lease_is_kept(lease, ledger, engine, monkeypatch):
    async def ends(seconds):
        engine.running = False

    monkeypatch.setattr(asyncio, "sleep", ends)
    kept = []
    trigger = trigger_of(lease)
    monkeypatch.setattr(trigger, "_keep", kept.append)
    assert bell(trigger) == [{"why": "ended"}]
    assert kept == [PATIENCE, RESUMED_WITHIN]


def test_a_lease_that_cannot_be_kept_and_an_engine_that_does_not_answer_are_no_end(lease, ledger, monkeypatch):
    ledger.release(lease, datetime.now(UTC))
    trigger = trigger_of(lease)
    trigger._keep(PATIENCE)
    assert ledger.lease(lease.resource) is None
    monkeypatch.setattr(EngineAddress, "open", lambda self, patience: 1 / 0)
    assert trigger._runs() is None


def test_the_time_of_a_task_is_up_however_long_the_triggerer_was_away(lease, ledger, engine):
    assert bell(trigger_of(lease, deadline="2020-01-01T00:00:00+00:00")) == [{"why": "overdue"}]


def test_a_person_who_ends_the_task_ends_its_container(lease, ledger, engine, state):
    state.is_now = "failed"
    asyncio.run(trigger_of(lease).on_kill())
    assert engine.done == [("stop", "c0ffee", timedelta(seconds=2)), ("remove", "c0ffee")]
    assert ledger.lease(lease.resource) is None


@pytest.mark.parametrize("now", ["deferred", "scheduled", "queued", "running", None])
def test_a_trigger_that_another_triggerer_has_leaves_the_container_alone(lease, ledger, engine, state, now):
    state.is_now = now
    asyncio.run(trigger_of(lease).on_kill())
    assert engine.done == []


def test_a_trigger_whose_lease_another_attempt_has_leaves_the_container_alone(lease, ledger, engine, state):
    state.is_now = "failed"
    ledger.release(lease, datetime.now(UTC))
    ledger.acquire(lease.resource, "airflow:dag/run/train/-1#1.2", PATIENCE, datetime.now(UTC))
    asyncio.run(trigger_of(lease).on_kill())
    assert engine.done == []


def test_an_engine_is_reached_as_the_operator_was_told():
    given = {"docker_url": "tcp://engine:2376", "docker_conn_id": "registry", "tls_ca_cert": "ca.pem"}
    address = EngineAddress.of(DurableDockerOperator(task_id="train", image="x", **given))
    assert {name: getattr(address, name) for name in given} == given


def test_whether_it_defers_is_the_settings_unless_it_is_said():
    assert DurableDockerOperator(task_id="train", image="x").deferrable is False
    assert DurableDockerOperator(task_id="train", image="x", deferrable=True).deferrable is True
