"""Attempts at one training, each a process with a log file of its own, as a scheduler starts them one after another.

``main`` is one attempt: it runs the stage, keeps its result in the ledger as a stage does, and only then lets the
container go.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

from kaizen import bridge, codec
from kaizen.clock import WallClock
from kaizen.containers import Log, Mark
from kaizen.ledger import open_ledger
from kaizen.spec import PlaceSpec

LOOP = "a/loop"
CANARY = "canary-5b1e"
"""What an attempt's process knows, and nobody else may."""


class Training:
    """Its attempts, and what they left."""

    def __init__(self, processes, folder, place, **do):
        self.processes, self.folder, self.place, self.do = processes, folder, place, do
        self.attempts = 0

    def begin(self, fault=""):
        """The process of the next attempt; it has begun when there is its file ``attempt-NUMBER.begun``."""
        self.attempts += 1
        own = {"KAIZEN_FAULT": fault, "MLFLOW_TRACKING_TOKEN": CANARY}
        given = [str(self.folder), self.attempts, self.do, codec.encode(self.place)]
        return self.processes.start("tests.docker.attempts:main", *given, env=own)

    def end(self, running):
        """Wait for the end of an attempt, whose number is that of the newest: its exit code."""
        ended = running.wait()
        self.errors(self.attempts).write_text(ended.err)
        return ended.code

    def attempt(self, fault=""):
        """One attempt from its beginning to its end: its exit code."""
        return self.end(self.begin(fault))

    def kill(self, running):
        """SIGKILL. False if there was nothing left to kill."""
        with suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGKILL)
        return self.end(running) == -signal.SIGKILL

    def begun(self):
        """The file that the newest attempt makes when it has begun."""
        return self.folder / f"attempt-{self.attempts}.begun"

    def errors(self, number):
        return self.folder / f"attempt-{number}.err"

    def told(self):
        """The lines in the logs of all attempts, joined."""
        return [line for n in range(1, self.attempts + 1) for line, *_ in told_by(self.folder, n)]

    def kept(self):
        """The result that was kept; None if there is none."""
        with open_ledger(ledger_url(self.folder)) as ledger:
            found = ledger.find(LOOP, "Kept", "training")
        return found.payload if found else None


def leaks(api, *folders):
    """Files below the folders, and containers, that tell the canary."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    told = [str(path) for path in files if CANARY.encode() in path.read_bytes()]
    return told + [c["Id"] for c in api.containers(all=True) if CANARY in json.dumps(api.inspect_container(c["Id"]))]


def ledger_url(folder):
    return f"sqlite:///{folder / 'ledger.db'}"


def told_by(folder, number):
    """What an attempt told: text, time and number of each whole line."""
    path = folder / f"attempt-{number}.log"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def attempt_log(folder, number):
    """The log of one attempt, which goes on where the attempts before it ended."""
    path = folder / f"attempt-{number}.log"

    def tell(name, line, mark):
        with path.open("a") as log:
            log.write(json.dumps([line.text, *mark]) + "\n")

    def resume(name):
        lines = [line for n in range(1, number + 1) for line in told_by(folder, n)]
        return Mark(*lines[-1][1:]) if lines else Mark()

    return Log(tell, resume)


def main(where, number, do, place):
    """One attempt."""
    from tests.docker.test_docker_place import caller_of, request_of

    folder = Path(where)
    with open_ledger(ledger_url(folder)) as ledger:
        caller = caller_of(ledger, attempt_log(folder, number), attempt=number)
        (folder / f"attempt-{number}.begun").touch()
        if ledger.find(LOOP, "Kept", "training") is None:
            outputs = bridge.run(request_of(folder / str(number), **do), codec.decode(PlaceSpec, place), caller)
            result = {"weights": (Path(outputs["model"]) / "weights").read_text(), "metric": outputs["metric"]}
            ledger.append(LOOP, "kept", "Kept", "training", result, turn="", at=WallClock().now(), actor="test")
        caller.settle()
