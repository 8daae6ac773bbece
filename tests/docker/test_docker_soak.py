"""A training whose task is killed at random moments: one container, its own result, every line once and in order."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from tests.docker.attempts import Training, leaks, ledger_url
from tests.docker.watch import counted, watch

from kaizen.adapters.docker_engine import Engine
from kaizen.adapters.docker_orphans import remove_orphans
from kaizen.clock import WallClock
from kaizen.ledger import open_ledger
from kaizen.spec import PlaceSpec

# Seed, SIGKILLs, seconds of the training.
FEW = [pytest.param(1, 4, 5, id="seed-1")]
MANY = [pytest.param(seed, 8, 20, id=f"seed-{seed}", marks=pytest.mark.soak) for seed in range(2, 30)]


@pytest.mark.fault("F01", "the task is killed at random moments", "I1 I2 I3 I10 I11")
@pytest.mark.parametrize(("seed", "kills", "seconds"), [*FEW, *MANY])
def test_killed_at_random_moments_it_is_one_container_with_its_own_result(
    processes, tmp_path, docker_engine, stage_image, api, saw, seed, kills, seconds
):
    dice, lines = random.Random(seed), seconds * 10
    place = PlaceSpec(mode="docker", image=stage_image, engine=docker_engine.host, memory="128m", cpus=1.0)
    training = Training(processes, tmp_path, place, lines=lines, every=0.1, metric=dice.random())
    with watch(api) as engine:
        killed = sum(kill_once(training, dice.uniform(0, 0.8 * seconds / kills)) for _ in range(kills))
        while_it_runs = leaks(api, tmp_path)
        assert training.attempt() == 0, training.errors(training.attempts).read_text()
    running = len(api.containers())
    with open_ledger(ledger_url(tmp_path)) as ledger:
        reconciled = list(remove_orphans(Engine(docker_engine.host), ledger, WallClock(), lambda _: True))
    # One that was made and never started is made anew; what has run once does not run again.
    (started,) = engine.started
    wrong = training.kept() != {"weights": f"weights of {started[:12]}", "metric": training.do["metric"]}
    told, leaked = counted(training.told(), lines), {*while_it_runs, *leaks(api, tmp_path)}
    saw(kills=killed, orphans=running, reconciled=len(reconciled), wrong=int(wrong), leaks=len(leaked), **told)
    assert leaked == set()
    assert told == {"lines": lines, "doubled": 0, "missing": 0, "out of order": 0}
    assert (running, wrong, api.containers(all=True)) == (0, False, [])


def kill_once(training, seconds):
    """Whether an attempt was still at work so many seconds after it had begun."""
    running = training.begin()
    while not training.begun().exists():
        assert Path(f"/proc/{running.pid}").exists(), running.wait().err
        time.sleep(0.01)
    time.sleep(seconds)
    return training.kill(running)
