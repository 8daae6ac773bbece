"""SIGKILL at every fault point of the source; after the same command again nothing tells that anybody died."""

from __future__ import annotations

import ast
import itertools
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.loops import MONTHS, Ended, Project, WarmProcesses, make_loop, print_state

import kaizen

SOURCES = [Path(kaizen.__file__).parents[2] / folder for folder in ("core", "kedro_plugins", "providers")]

# What a turn is killed in: the first one, a retraining that replaces the champion, one that is rolled back.
FIRST, RETRAINING, ROLL_BACK = "first", "retraining", "roll back"

# Point: the scenarios and at which pass; soak has all of both. Only a place of its own passes bridge.before_result.
POINTS: dict[str, list[tuple[str, int]]] = {
    "ingest.while_reading": [(FIRST, 1)],
    "ingest.after_read": [(RETRAINING, 2)],
    "ingest.after_publish": [(FIRST, 1)],
    "ingest.after_commit": [(FIRST, 1)],
    "ingest.after_append": [(FIRST, 2)],
    "data.commit.before_remote": [(FIRST, 1)],
    "data.commit.before_workspace": [(FIRST, 1)],
    "data.commit.before_git": [(RETRAINING, 1)],
    "data.commit.after_git": [(FIRST, 2)],
    "publish.file.before_rename": [(RETRAINING, 9)],
    "publish.link.before_sync": [(RETRAINING, 1)],
    "publish.folder.before_manifest": [(FIRST, 1)],
    "publish.folder.before_rename": [(FIRST, 1)],
    "ledger.append.before_commit": [(FIRST, 12)],
    "ledger.append.after_commit": [(RETRAINING, 9)],
    "validate.before_append": [(FIRST, 3)],
    "trigger.before_append": [(RETRAINING, 1)],
    "bridge.before_run": [(FIRST, 2)],
    "bridge.after_run": [(RETRAINING, 4)],
    "bridge.before_result": [],
    "train.before_append": [(FIRST, 1)],
    "evaluate.before_append": [(RETRAINING, 1)],
    "promote.after_decision": [(RETRAINING, 1)],
    "promote.before_append": [(RETRAINING, 1), (ROLL_BACK, 2)],
    "promote.after_append": [(FIRST, 1), (ROLL_BACK, 2)],
    "registry.log_stage.before_finish": [(RETRAINING, 2)],
    "registry.register.before_version": [(FIRST, 1)],
    "registry.register.after_version": [(FIRST, 1)],
    "registry.alias.before_set": [(ROLL_BACK, 2)],
    "deploy.before_append": [(ROLL_BACK, 1)],
    "turn.before_append": [(RETRAINING, 1)],
    "score.before_append": [(FIRST, 1)],
    "monitor.before_append": [(RETRAINING, 1)],
}
# Drilled where their place, their folder or their study is: tests/docker/test_docker_place.py,
# tests/unit/test_checkpoints.py, tests/integration/test_tune.py.
ELSEWHERE = {
    *(f"containers.{point}" for point in ("takeover", "before_create", "after_create", "before_start", "after_start")),
    *(f"containers.{point}" for point in ("after_failure", "after_read")),
    "checkpoints.before_rename",
    *(f"tune.{point}" for point in ("after_ask", "before_tell", "after_trial")),
}
CASES = [(point, scenario, nth) for point, passes in POINTS.items() for scenario, nth in passes]


@dataclass
class Drill:
    """The project, saved before each scenario; and the states that undisturbed runs end in."""

    project: Project
    processes: WarmProcesses
    states: dict[str, dict[str, object]]

    def turn(self, scenario: str, *, fault: str = "", env: str = "local") -> Ended:
        """``kaizen turn`` from where the project is."""
        arguments = (scenario, str(self.project.spec), env)
        return self.processes.start("tests.faults.test_kill:turn", *arguments, env={"KAIZEN_FAULT": fault}).wait()

    def settle(self, scenario: str) -> dict[str, object]:
        """Turn until nothing is due any more; the state then."""
        ended = self.processes.start("tests.faults.test_kill:settle", scenario, str(self.project.spec)).wait()
        assert ended.code == 0, ended.err
        found: dict[str, object] = json.loads(ended.out.splitlines()[-1])
        return found

    def undisturbed(self, scenario: str) -> dict[str, object]:
        """The state that a scenario ends in if nobody dies."""
        if scenario not in self.states:
            self.project.restore(scenario)
            self.states[scenario] = self.settle(scenario)
        return self.states[scenario]


def turn(scenario: str, spec: str, env: str = "local") -> int:
    """``kaizen turn``; to be rolled back, the champion answers otherwise when it is to serve."""
    from kaizen.adapters import place
    from kaizen.cli import main

    if scenario == ROLL_BACK:
        place.STAGES["deploy"] = lambda request: {"parity": "another"}
    return main(["turn", spec, "--env", env])


def settle(scenario: str, spec: str) -> int:
    """Two turns, of which the second finds nothing to do but to say so; then the state."""
    code = turn(scenario, spec) or turn(scenario, spec)
    print_state(str(Path(spec).with_name(".kaizen")))
    return code


@pytest.fixture(scope="module")
def drill(processes, tmp_path_factory):
    project = make_loop(tmp_path_factory.mktemp("kill") / "project")
    project.write_spec({"place": {"mode": "python", "interpreter": sys.executable}}, env="python")
    # Databases and data repository are there: that their making survives a kill is tested where it is done.
    assert processes.kaizen("turn", project.spec).code == 0
    for month in MONTHS[:2]:
        project.land_month(month)
    project.save(FIRST)
    drill = Drill(project, processes, {})
    drill.undisturbed(FIRST)
    project.land_month(MONTHS[2])
    project.save(RETRAINING)
    project.save(ROLL_BACK)
    return drill


def test_every_fault_point_of_the_source_has_a_drill():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for root in SOURCES for path in root.rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [c for c in calls if getattr(c.func, "id", getattr(c.func, "attr", "")) == "fault_point"]
    assert {ast.literal_eval(call.args[0]) for call in named} == set(POINTS) | ELSEWHERE


@pytest.mark.parametrize(("point", "scenario", "nth"), CASES)
def test_a_killed_turn_ends_where_an_undisturbed_one_does(drill, point, scenario, nth):
    expected = drill.undisturbed(scenario)
    drill.project.restore(scenario)
    ended = drill.turn(scenario, fault=f"{point}:kill:{nth}")
    assert ended.code == -signal.SIGKILL, ended.err
    assert drill.settle(scenario) == expected


@pytest.mark.soak
@pytest.mark.parametrize("scenario", [FIRST, RETRAINING, ROLL_BACK])
@pytest.mark.parametrize("point", [point for point, passes in POINTS.items() if passes])
def test_a_kill_at_any_pass_changes_nothing(drill, point, scenario):
    expected = drill.undisturbed(scenario)
    for nth in itertools.count(1):
        drill.project.restore(scenario)
        ended = drill.turn(scenario, fault=f"{point}:kill:{nth}")
        if ended.code == 0:
            return
        assert ended.code == -signal.SIGKILL, ended.err
        assert drill.settle(scenario) == expected, f"pass {nth}"


def test_the_scenarios_are_what_they_are_called(drill):
    outcomes = {}
    for scenario in (FIRST, RETRAINING, ROLL_BACK):
        turns = [e[6]["outcome"] for e in drill.undisturbed(scenario)["ledger"] if e[3] == "TurnRecord"]
        champions = [e[6]["champion"] for e in drill.states[scenario]["ledger"] if e[3] == "Promotion"]
        outcomes[scenario] = (turns, champions, drill.states[scenario]["registry"]["aliases"])
    assert outcomes == {
        FIRST: (["deployed"], [1], {"rail.delays": {"champion": 1}}),
        RETRAINING: (["deployed", "deployed"], [1, 2], {"rail.delays": {"champion": 2}}),
        ROLL_BACK: (["deployed", "rolled_back"], [1, 2, 3], {"rail.delays": {"champion": 1}}),
    }


def test_a_place_killed_before_its_result_is_a_failed_stage_and_can_be_repeated(drill):
    expected = drill.undisturbed(FIRST)
    drill.project.restore(FIRST)
    ended = drill.turn(FIRST, fault="bridge.before_result:kill", env="python")
    assert_place_died(ended)
    # Where a stage runs is no part of what it is: the state is that of the turn in one process.
    assert drill.settle(FIRST) == expected


def test_a_place_killed_in_training_is_a_failed_stage_and_can_be_repeated(drill):
    expected = drill.undisturbed(FIRST)
    drill.project.restore(FIRST)
    hold, held = drill.project.folder / "hold", drill.project.folder / "held"
    hold.touch()
    arguments = ["turn", str(drill.project.spec), "--env", "python"]
    running = drill.processes.start("kaizen.cli:main", arguments)
    while not held.exists() or not held.read_text():
        time.sleep(0.05)
    os.kill(int(held.read_text()), signal.SIGKILL)
    assert_place_died(running.wait())
    hold.unlink()
    assert drill.settle(FIRST) == expected


def assert_place_died(ended: Ended) -> None:
    assert ended.code == 7
    assert "KZ703: the place ended without a result" in ended.err
    assert "value: killed by signal 9" in ended.err
