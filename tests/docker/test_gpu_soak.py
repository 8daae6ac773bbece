"""Eight processes, two GPUs, SIGKILL at random: never two holders, first come first served, all free in the end."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from datetime import timedelta
from itertools import pairwise

import pytest
from tests.docker.gpu_users import GPUS, Containers, use

from kaizen.adapters import docker_gpus
from kaizen.clock import WallClock
from kaizen.containers import Call, Caller, Log, Owner
from kaizen.ledger import LEASES, open_ledger

PROCESSES = multiprocessing.get_context("forkserver")
# Seed, SIGKILLs, seconds between two of them at most.
FEW = pytest.param(1, 20, 0.5, id="seed-1")
MANY = pytest.param(2, 500, 1.0, id="seed-2", marks=pytest.mark.soak)


class Users:
    """Processes in eight places; who ends, or is killed, is followed by another."""

    def __init__(self, folder, dice):
        self.folder, self.dice = folder, dice
        self.begun, self.kills = 0, 0
        self.places = [self.begin() for _ in range(8)]

    def begin(self, count=0):
        self.begun += 1
        count = count or self.dice.choice([1, 1, 2])
        given = (self.folder, f"user-{self.begun}", count, self.dice.uniform(0.05, 0.5))
        process = PROCESSES.Process(target=use, args=given)
        process.start()
        return process

    def kill_one(self, pause):
        """Some time passes, somebody is killed; whoever has ended meanwhile is followed as well."""
        time.sleep(self.dice.uniform(0, pause))
        place = self.dice.randrange(len(self.places))
        self.places[place].kill()
        for number, process in enumerate(self.places):
            if number == place or not process.is_alive():
                process.join()
                self.kills += process.exitcode == -9
                assert process.exitcode in (0, -9)
                self.places[number] = self.begin()


@pytest.fixture(autouse=True)
def warm(monkeypatch):
    """Processes start with everything imported."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    PROCESSES.set_forkserver_preload(["tests.docker.gpu_users", "kaizen.adapters.sql_databases"])


@pytest.mark.fault("F12", "8 processes want 2 GPUs, and are killed at random", "I1 I2")
@pytest.mark.parametrize(("seed", "kills", "pause"), [FEW, MANY])
def test_a_gpu_has_one_holder_whoever_is_killed_and_everybody_gets_one_in_turn(tmp_path, saw, seed, kills, pause):
    users = Users(tmp_path, random.Random(seed))
    while users.kills < kills:
        users.kill_one(pause)
    for survivor in users.places:
        survivor.join(60)
        assert survivor.exitcode == 0, "somebody waits for ever"
    last = [users.begin() for _ in range(8)]
    time.sleep(users.dice.uniform(0.5, 1.5))
    for process in last:
        process.kill()
    heir = users.begin(count=2)
    heir.join(30)
    assert heir.exitcode == 0, "not all GPUs are free again"
    served, doubled, late = Containers(tmp_path).ran(), overlaps(tmp_path), out_of_turn(tmp_path)
    lapsed = sum(container["lapsed"] for container in served)
    saw(kills=users.kills, served=len(served), lapsed=lapsed)
    saw(**{"two holders": len(doubled), "out of turn": len(late)})
    assert (doubled, late) == ([], [])
    assert {gpu for container in served for gpu in container["gpus"]} == set(GPUS)


def overlaps(folder):
    """Pairs of containers that had one GPU at the same time."""
    found = []
    for gpu in GPUS:
        mine = sorted((c for c in Containers(folder).ran() if gpu in c["gpus"]), key=lambda c: c["from"])
        found += [(before, after) for before, after in pairwise(mine) if after["from"] < before["until"]]
    return found


def out_of_turn(folder):
    """Pairs of which the second had asked first, and was given all that it asked for last.

    Who stood still for so long that its ticket ran out has lost its place, and is no such second.
    """
    served = {container["name"]: container["lapsed"] for container in Containers(folder).ran()}
    asked, given = {}, {}
    with open_ledger(f"sqlite:///{folder / 'ledger.db'}") as ledger:
        for event in ledger.events(LEASES):
            if event.kind == "LeaseReleased":
                continue
            holder = event.payload["holder"]
            if event.subject.startswith("lease/gpu-ticket/"):
                asked.setdefault(holder, event.position)
            elif holder in served:
                given[holder] = event.position
    turns = [(asked[holder], served[holder]) for holder in sorted(given, key=given.__getitem__)]
    return [(before, after) for (before, _), (after, lapsed) in pairwise(turns) if before > after and not lapsed]


def test_a_ticket_that_ran_out_while_its_holder_stood_still_is_no_way_to_the_head_of_the_queue(tmp_path):
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        caller = Caller(Call(Owner("late"), Log(lambda *_: None)), ledger, WallClock(), "a/loop")
        for name, seconds in (("first", 60), ("late", 0)):
            ticket = ledger.acquire(f"gpu-ticket/engine/{name}", name, timedelta(seconds=seconds), caller.clock.now())
        assert docker_gpus._ahead(Containers(tmp_path), caller, ticket) == "first"
