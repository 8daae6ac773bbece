"""Processes that lease GPUs, use them for a while, and may be killed at any moment. No engine is needed for that.

A container of theirs is a line in a file: it has its GPUs until the time that it names, also if who started it is dead.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kaizen.adapters import docker_gpus
from kaizen.clock import WallClock
from kaizen.containers import LABEL, Call, Caller, GpuWish, Log, Owner
from kaizen.ledger import open_ledger

GPUS = ("GPU-11111111", "GPU-22222222")
PATIENCE = timedelta(seconds=4)
TICKET = timedelta(seconds=3)


class Containers:
    """What leases ask of an engine: its id, and what runs on it."""

    id = "engine"

    def __init__(self, folder: Path):
        self._history = folder / "history"
        self._history.touch()

    def run(self, name, gpus, seconds, *, lapsed):
        """Start one: a whole line or nothing."""
        now = time.time()
        facts = {"name": name, "gpus": gpus, "from": now, "until": now + seconds, "lapsed": lapsed}
        with self._history.open("a") as history:
            history.write(json.dumps(facts) + "\n")

    def ran(self):
        """All that ever ran, in order."""
        return [json.loads(line) for line in self._history.read_text().splitlines()]

    def ours(self):
        return [
            {"Names": [f"/{c['name']}"], "Labels": {f"{LABEL}.gpus": ",".join(c["gpus"])}, "State": "running"}
            for c in self.ran()[-20:]
            if c["until"] > time.time()
        ]


class Watched:
    """A ledger that notices when a lease ran out before it was renewed or given back: a ticket's place is lost then."""

    def __init__(self, ledger):
        self._ledger, self.lapsed = ledger, False

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    def renew(self, lease, ttl, now):
        renewed = self._ledger.renew(lease, ttl, now)
        self._look(lease)
        return renewed

    def release(self, lease, now):
        self._ledger.release(lease, now)
        self._look(lease)

    def _look(self, lease):
        self.lapsed |= datetime.now(UTC) > lease.expires_at


def use(folder: Path, name: str, count: int, seconds: float) -> None:
    """Wait for GPUs, use them, give them back."""
    docker_gpus.POLL, docker_gpus.TICKET = 0.2, TICKET
    engine = Containers(folder)
    with open_ledger(f"sqlite:///{folder / 'ledger.db'}") as ledger:
        call = Call(Owner(name, patience=PATIENCE), Log(lambda *_: None))
        caller = Caller(call, watched := Watched(ledger), WallClock(), "a/loop")
        held = docker_gpus.lease_gpus(engine, caller, GpuWish(count), GPUS, name)
        gpus = docker_gpus.HeldGpus(engine, caller, held)
        engine.run(name, gpus.gpus, seconds, lapsed=watched.lapsed)
        time.sleep(seconds)
        gpus.release()
