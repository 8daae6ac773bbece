"""The loop on a real Airflow (LocalExecutor, REST, triggerer): it ends where ``kaizen turn`` does, whatever happens.

``state`` is compared without exception: all records but their times, ids and actors, the registry, the data's commits,
all files. Both sides ask trigger once more after a turn, as new champions ring the bells again.
"""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest
from demo.airflow_client import ApiRefused
from tests.airflow_loops import (
    BACKFILL,
    KEYED,
    KINDS,
    MARCH,
    PATIENCE,
    YEAR,
    LoopOnAirflow,
    explain,
    land_bad_march,
    land_months,
    loop_on_airflow,
    outcomes_of,
    rows_of,
)
from tests.loops import MONTHS

pytest.importorskip("airflow", reason="Airflow is not installed: pip install 'kaizen-mlops[airflow]'")

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("ingest", "validate", "train", "evaluate", "promote", "deploy", "score", "monitor", "trigger")

# Where March's deliveries pass: its rows, then its outcomes, which make the champion decay.
POINTS = (
    (rows_of, ("ingest.after_publish", "validate.before_append", "score.before_append")),
    (
        outcomes_of,
        (
            "monitor.before_append",
            "trigger.before_append",
            "train.before_append",
            "evaluate.before_append",
            "promote.after_append",
            "deploy.before_append",
        ),
    ),
)

FEW = ((rows_of, ("validate.before_append",)), (outcomes_of, ("promote.after_append",)))
"""One in the DAG of the data, one in that of the model: each restart of a scheduler costs seconds."""


@pytest.fixture(scope="module")
def loop(processes, tmp_path_factory):
    folder, template = tmp_path_factory.mktemp("airflow"), ROOT / "build" / "airflow-template"
    with loop_on_airflow(folder, processes, template) as found:
        yield found


def assert_ends_as(loop: LoopOnAirflow, name: str) -> None:
    """Nothing is missing, and nothing is there twice."""
    found, expected = loop.state(), loop.references.states[name]
    assert found == expected, explain(found, expected)


def test_months_in_a_pause_and_after_it_lead_to_the_records_of_kaizen_turn(loop):
    loop.begin("nothing")
    # The whole loop is paused while the first two months come. Airflow takes a paused DAG's watcher away when it reads
    # the DAG's file next, and gives it back in the same way; a watcher that starts anew rings for what is there.
    for kind in KINDS:
        loop.airflow.pause(loop.dag(kind))
    loop.reparse(watched=False)
    YEAR[0](loop.project)
    assert loop.runs("ingest") == []
    with loop.bell():
        for kind in KINDS:
            loop.airflow.unpause(loop.dag(kind))
        loop.reparse(watched=True)
    assert_ends_as(loop, "february")
    # The next one comes in two parts.
    for step in YEAR[1:]:
        loop.deliver(step)
    assert_ends_as(loop, "march")
    assert loop.outcomes() == {"success"}
    assert loop.tries() == {}
    assert loop.references.states["march"]["registry"]["aliases"] == {"rail.delays": {"champion": 2}}
    # The first decision, and the one because of decay; whoever is rung for them again finds them carried out.
    trained = [run for run in loop.runs("training") if loop.tasks("training", run)["train"]["state"] == "success"]
    assert len(trained) == 2
    # The button on a task's page, and the page behind it.
    links = loop.airflow.links(loop.dag("monitoring"), loop.runs("monitoring")[-1]["dag_run_id"], "monitor")
    path = "/kaizen/reports/rail.delays"
    assert (links["Report"], links["MLflow run"] or "") == (f"{loop.airflow.url}{path}", "")
    assert "Loop rail/delays" in loop.airflow.page(path)


@pytest.mark.long
def test_a_task_killed_in_each_stage_is_tried_again_and_nothing_is_doubled(loop):
    loop.begin("february")
    for step, points in POINTS:
        with loop.bell():
            loop.arm(f"{points[0]}:kill")
            step(MARCH)(loop.project)
            for following in (*points[1:], ""):
                loop.wait_taken()
                if following:
                    loop.arm(f"{following}:kill")
    assert_ends_as(loop, "march")
    assert loop.outcomes() == {"success"}
    assert loop.tries() == {stage: [2] for stage in STAGES}


@pytest.mark.soak
def test_a_task_whose_supervisor_dies_too_is_tried_again(loop):
    loop.begin("february")
    loop.deliver(rows_of(MARCH))
    with loop.bell():
        loop.arm("train.before_append:hold")
        loop.project.land_outcomes(MARCH)
        task = loop.wait_held()
        supervisor = int(Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(supervisor, signal.SIGKILL)
        os.kill(task, signal.SIGKILL)
        loop.release()
    assert_ends_as(loop, "march")
    assert loop.outcomes() == {"success"}
    assert loop.tries() == {"train": [2]}


@pytest.mark.long
def test_two_runs_wait_for_each_other_and_lost_or_repeated_bells_change_nothing(loop):
    loop.begin("february")
    airflow = loop.airflow

    # Two runs of the ingest DAG.
    with loop.bell():
        loop.arm("ingest.after_publish:hold")
        loop.project.land_schedules(MARCH)
        loop.wait_held()
        second = loop.trigger("ingest")
        states = {run["dag_run_id"]: run["state"] for run in loop.runs("ingest")}
        assert states.pop(second) == "queued"
        assert list(states.values()) == ["running"]
        loop.release()
    assert_one_after_the_other(loop.runs("ingest"))

    # Bells that are lost: files come while nobody listens, a decision is taken while nobody trains.
    airflow.pause(loop.dag("training"))
    airflow.pause(loop.dag("ingest"))
    events = loop.landing_events()
    loop.project.land_outcomes(MARCH)
    loop.until(lambda: loop.landing_events() > events, "the bell that nobody hears")
    with loop.bell("reconcile"):
        loop.trigger("reconcile")
    # It sees what has landed; but for a paused DAG it rings in vain as well.
    assert loop.landing_events(by="reconcile") == 1
    assert not loop.is_taken()
    airflow.unpause(loop.dag("ingest"))
    airflow.wait_idle(PATIENCE)
    assert not loop.is_taken()
    with loop.bell("reconcile"):
        loop.trigger("reconcile")
    assert loop.is_taken()
    airflow.unpause(loop.dag("training"))
    airflow.wait_idle(PATIENCE)
    assert loop.runs("training") == []

    # Reconcile rings for the decision; meanwhile somebody starts the training DAG as well.
    with loop.bell("training"):
        loop.arm("train.before_append:hold")
        loop.trigger("reconcile")
        loop.wait_held()
        again = loop.trigger("training")
        loop.release()
    runs = {run["dag_run_id"]: run for run in loop.runs("training")}
    assert_one_after_the_other(list(runs.values()))
    assert set(states_of(loop, "training", again).values()) == {"skipped"}
    del runs[again]
    assert_ends_as(loop, "march")
    assert loop.outcomes() == {"success"}

    # A cleared task, a cleared run.
    (trained,) = runs
    clear = {"dry_run": False, "only_failed": False, "dag_run_id": trained, "task_ids": ["promote"]}
    airflow.api("POST", f"/dags/{loop.dag('training')}/clearTaskInstances", clear)
    airflow.wait_idle(PATIENCE)
    assert loop.tries() == {"promote": [2]}
    assert states_of(loop, "training", trained) == {
        "train": "success",
        "evaluate": "success",
        "promote": "skipped",
        "deploy": "success",
    }
    assert_ends_as(loop, "march")
    airflow.api("POST", f"/dags/{loop.dag('training')}/dagRuns/{trained}/clear", {"dry_run": False})
    airflow.wait_idle(PATIENCE)
    assert loop.tries()["train"] == [2]
    assert set(states_of(loop, "training", trained).values()) == {"skipped"}
    assert_ends_as(loop, "march")

    # One bell, five times; Airflow may make one run of them or five.
    with loop.bell("monitoring"):
        for _ in range(5):
            airflow.api("POST", "/assets/events", {"asset_id": loop.asset("scores")["id"], "extra": {}})
    assert_ends_as(loop, "march")
    assert loop.outcomes() == {"success"}


def test_a_backfill_of_three_months_takes_all_in_its_first_run(loop):
    loop.begin("nothing")
    loop.airflow.pause(loop.dag("ingest"))
    loop.reparse(watched=False)
    land_months(*MONTHS[:3])(loop.project)
    interval = {"dag_id": BACKFILL, "from_date": "2024-01-01T00:00:00Z", "to_date": "2024-03-01T00:00:00Z"}
    with loop.bell("backfill"):
        loop.airflow.api("POST", "/backfills", {**interval, "max_active_runs": 1})
    counts = [loop.airflow.xcom(BACKFILL, run["dag_run_id"], "ingest")["count"] for run in loop.runs("backfill")]
    assert len(counts) == 3
    assert sorted(counts)[:2] == [0, 0]
    assert_ends_as(loop, "at once")
    with loop.bell():
        loop.airflow.unpause(loop.dag("ingest"))
        loop.reparse(watched=True)
    assert_ends_as(loop, "at once")
    assert loop.outcomes() == {"success"}


@pytest.mark.long
def test_what_is_refused_fails_at_once_and_the_loop_goes_on_when_it_is_mended(loop):
    loop.begin("february")
    # A month that its suite refuses.
    loop.deliver(land_bad_march)
    (refused,) = loop.runs("ingest")
    tasks = loop.tasks("ingest", refused)
    assert {name: (t["state"], t["try_number"]) for name, t in tasks.items()} == {
        "ingest": ("success", 1),
        "validate": ("failed", 1),
    }
    log = loop.airflow.task_log(loop.dag("ingest"), refused["dag_run_id"], "validate")
    assert log.count("KZ450: validation refused the partition") == 1, log
    assert [loop.runs(kind) for kind in ("scoring", "monitoring", "training")] == [[], [], []]
    # The correction, under the same name.
    loop.deliver(rows_of(MARCH))
    assert [run["state"] for run in loop.runs("ingest")] == ["failed", "success"]

    # A spec that is edited while train is at work.
    with loop.bell():
        loop.arm("train.before_append:hold")
        loop.project.land_outcomes(MARCH)
        loop.wait_held()
        loop.project.write_spec({"retrain": {"cooldown": "8d"}})
        loop.release()
    (stopped,) = loop.runs("training")
    tasks = loop.tasks("training", stopped)
    assert {name: (t["state"], t["try_number"]) for name, t in tasks.items()} == {
        "train": ("success", 1),
        "evaluate": ("failed", 1),
        "promote": ("upstream_failed", 0),
        "deploy": ("upstream_failed", 0),
    }
    log = loop.airflow.task_log(loop.dag("training"), stopped["dag_run_id"], "evaluate")
    assert "KZ313: the spec changed since this run began" in log
    # The spec as it was, and the failed tasks cleared.
    loop.project.write_spec()
    clear = {"dry_run": False, "only_failed": True, "dag_run_id": stopped["dag_run_id"]}
    loop.airflow.api("POST", f"/dags/{loop.dag('training')}/clearTaskInstances", clear)
    loop.airflow.wait_idle(PATIENCE)
    assert_ends_as(loop, "corrected")
    assert [run["state"] for run in loop.runs("training")] == ["success"]


def test_a_run_is_asked_for_a_range_or_by_its_key_for_one_partition(loop):
    loop.begin("nothing")
    # Nothing else takes what lands, and no turn follows what is taken.
    loop.airflow.pause(loop.dag("monitoring"))
    loop.airflow.pause(loop.dag("ingest"))
    loop.reparse(watched=False)
    land_months(*MONTHS[:4])(loop.project)
    loop.airflow.unpause(loop.dag("ingest"))

    with loop.bell("scoring"):
        asked = loop.airflow.trigger(loop.dag("ingest"), {"since": "2024-02-01", "until": "2024-04-01"})
    assert loop.taken("schedules") == loop.taken("outcomes") == [MONTHS[1], MONTHS[2]]
    assert loop.keys("data/partitions/schedules", asked) == [MONTHS[1], MONTHS[2]]
    assert loop.keys("data", asked) == [None]

    # Airflow has keys for DAGs that are scheduled by partitions only.
    with pytest.raises(ApiRefused, match="not a partitioned Dag"):
        loop.airflow.trigger(loop.dag("ingest"), partition_key=MONTHS[3])
    scored = loop.runs("scoring")
    with loop.bell("keyed"):
        keyed = loop.airflow.trigger(KEYED, partition_key=MONTHS[3])
    assert loop.taken("schedules") == loop.taken("outcomes") == [MONTHS[1], MONTHS[2], MONTHS[3]]
    assert loop.keys("data/partitions/schedules", keyed) == [MONTHS[3]]
    assert loop.keys("data/partitions/stations", keyed) == []
    # The key is that of all events of the run, and a DAG that is scheduled by plain ones does not hear them.
    assert loop.keys("data", keyed) == [MONTHS[3]]
    assert loop.runs("scoring") == scored
    assert loop.outcomes() == {"success"}


@pytest.mark.long
@pytest.mark.parametrize("points", [FEW, pytest.param(POINTS, marks=pytest.mark.soak)], ids=["few", "each stage"])
def test_a_scheduler_killed_while_a_stage_is_at_work_changes_nothing(loop, points):
    """While a task is held in its stage; the task goes on beside the scheduler's successor.

    The last one here: successors start fast, and preload nothing.
    """
    loop.begin("february")
    for step, passed in points:
        with loop.bell():
            loop.arm(f"{passed[0]}:hold")
            step(MARCH)(loop.project)
            for following in (*passed[1:], ""):
                loop.wait_held()
                loop.airflow.kill("scheduler")
                loop.airflow.start("scheduler", {"kaizen.preload": "False"})
                if following:
                    loop.arm(f"{following}:hold")
                loop.release()
    assert_ends_as(loop, "march")
    assert loop.outcomes() == {"success"}


def assert_one_after_the_other(runs):
    """Each began when the one before it had ended."""
    spans = sorted((run["start_date"], run["end_date"]) for run in runs)
    assert len(spans) > 1
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), spans


def states_of(loop, kind, run_id):
    """A run's task states, by task."""
    return {name: task["state"] for name, task in loop.tasks(kind, {"dag_run_id": run_id}).items()}
