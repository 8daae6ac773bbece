"""What a task says of its containers: whose they are, where its log was left, and what a signal means."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace

import pytest

pytest.importorskip("airflow", reason="Airflow is not installed: pip install 'kaizen-mlops[airflow]'")

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from kaizen.containers import Interrupted, LogLine, Mark
from kaizen_airflow.containers import call_of, is_deferred, is_over, owner_of


def task_instance(**facts):
    given = {"dag_id": "dag", "run_id": "manual__2026-11-25T00:00:00+00:00", "task_id": "group.train", "map_index": -1}
    return SimpleNamespace(**{**given, "try_number": 2, "max_tries": 2, **facts})


@pytest.fixture
def task():
    return BaseOperator(task_id="train", retries=2, retry_delay=timedelta(seconds=30))


@pytest.fixture
def states(monkeypatch):
    """What Airflow says of tasks, and what it was asked."""
    known, asked = {}, []

    def get_task_states(**question):
        asked.append(question)
        if known.get("broken"):
            raise RuntimeError("no API server")
        return {question["run_ids"][0]: known}

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(get_task_states))
    return SimpleNamespace(known=known, asked=asked)


def test_a_retry_is_another_attempt_and_a_clear_another_base(task):
    first = owner_of(task, task_instance(try_number=1))
    retried = owner_of(task, task_instance(try_number=2))
    # Airflow moves max_tries when a task is cleared after its second try.
    cleared = owner_of(task, task_instance(try_number=3, max_tries=4))
    assert first.name == "airflow:dag/manual__2026-11-25T00%3A00%3A00%2B00%3A00/group.train/-1" == cleared.name
    assert [(o.base, o.attempt) for o in (first, retried, cleared)] == [(0, 1), (0, 2), (2, 3)]
    assert retried.may_take_over(first.holder)
    assert cleared.may_take_over(retried.holder)
    assert not retried.may_take_over(cleared.holder)
    assert owner_of(task, task_instance(map_index=3)).name.endswith("/3")


def test_a_lease_waits_for_the_next_attempt(task):
    assert owner_of(task, task_instance()).patience == timedelta(seconds=300 + 30 + 60)
    slow = BaseOperator(task_id="slow", retries=3, retry_delay=60, retry_exponential_backoff=2.0)
    assert owner_of(slow, task_instance()).patience == timedelta(seconds=300 + 60 * 8 + 60)
    capped = BaseOperator(
        task_id="capped", retries=9, retry_delay=60, retry_exponential_backoff=2.0, max_retry_delay=timedelta(minutes=5)
    )
    assert owner_of(capped, task_instance()).patience == timedelta(seconds=300 + 300 + 60)


@pytest.mark.parametrize(
    ("state", "ends"),
    [
        ("failed", True),
        ("success", True),
        ("skipped", True),
        ("removed", True),
        ("restarting", True),
        ("running", False),
        ("up_for_retry", False),
        ("queued", False),
        ("scheduled", False),
        (None, False),
    ],
)
def test_a_signal_ends_a_container_only_if_airflow_says_so(task, states, state, ends):
    states.known["group.train"] = state
    call = call_of(task, {"ti": task_instance()})
    assert call.ends(Interrupted()) is ends
    assert states.asked[0]["task_ids"] == ["group.train"]


def test_where_airflow_cannot_be_asked_the_container_goes_on(task, states):
    states.known["broken"] = True
    call = call_of(task, {"ti": task_instance()})
    assert call.ends(Interrupted()) is False
    assert is_over(call.owner.name) is False


def test_a_timeout_ends_it_and_an_error_of_ours_does_not(task, states):
    call = call_of(task, {"ti": task_instance()})
    assert call.ends(AirflowTaskTimeout()) is True
    assert call.ends(ValueError()) is False
    assert states.asked == []


def test_the_reconciler_asks_for_a_task_by_its_owners_name(task, states):
    states.known.update({"group.train": "failed", "group.train_3": "running"})
    assert is_over(owner_of(task, task_instance()).name) is True
    assert is_over(owner_of(task, task_instance(map_index=3)).name) is False
    assert states.asked[1]["map_index"] == 3
    assert is_over("shell:nyc/flights") is False
    assert is_over("airflow:broken") is False


def test_the_reconciler_asks_whether_a_task_waits_for_a_trigger(task, states):
    name = owner_of(task, task_instance()).name
    states.known["group.train"] = "deferred"
    assert (is_deferred(name), is_over(name)) == (True, False)
    states.known["group.train"] = "queued"
    assert is_deferred(name) is False
    assert is_deferred("shell:nyc/flights") is False


def test_a_log_is_found_where_the_last_attempt_that_told_some_left_it(task, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path))
    ti = task_instance(try_number=3)
    folder = tmp_path / "dag_id=dag" / f"run_id={ti.run_id}" / "task_id=group.train"
    folder.mkdir(parents=True)
    resume = call_of(task, {"ti": ti}).log.resume
    assert resume("kaizen-1") == Mark()
    lines = [
        {"event": f"line {n}" * 500, "container": "kaizen-1", "at": "2026-11-25T00:00:01Z", "nth": n} for n in range(40)
    ]
    other = {"event": "x", "container": "kaizen-2", "at": "2026-11-25T00:00:02Z", "nth": 1}
    text = "\n".join(json.dumps(line) for line in [{"event": "Task started"}, *lines, other, "text", {"event": "end"}])
    (folder / "attempt=1.log").write_text(text + '\n{"event": "torn, "cont')
    (folder / "attempt=2.log").write_text(json.dumps({"event": "died before it said anything"}) + "\n")
    assert resume("kaizen-1") == Mark("2026-11-25T00:00:01Z", 39)
    assert resume("kaizen-2") == Mark("2026-11-25T00:00:02Z", 1)


def test_a_line_is_told_with_what_another_attempt_needs(task, capsys):
    from structlog.testing import capture_logs

    with capture_logs() as told:
        log = call_of(task, {"ti": task_instance()}).log
        log.tell("kaizen-1", LogLine("t", True, "hello"), Mark("t", 2))
    assert told == [
        {"event": "hello", "container": "kaizen-1", "at": "t", "nth": 2, "stream": "stderr", "log_level": "info"}
    ]
