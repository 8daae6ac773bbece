"""What an engine did with our containers, from its own events: nobody has to look at the right moment."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from kaizen.containers import LABEL


class Watched:
    """Filled when the watch ends.

    Attributes:
        made: ids of containers that were made for a task. stages: how many of them, by stage.
        started: ids of those that ran. at_once: the most that ran at once for one of the tasks.
        left: how many there are at the end.
    """

    def __init__(self):
        self.made, self.started, self.stages = [], [], Counter()
        self.at_once = self.left = 0

    @property
    def facts(self):
        """For the table."""
        return {"made": len(self.made), "started": len(self.started), "at once": self.at_once, "left": self.left}


@contextmanager
def watch(api) -> Iterator[Watched]:
    """Watch the engine of a client. It keeps 256 events: enough for a test, not for several."""
    watched, since = Watched(), time.time()
    yield watched
    period = {"since": f"{since:.9f}", "until": f"{time.time():.9f}"}
    filters = {"type": "container", "label": f"{LABEL}.owner", "event": ["create", "start", "die"]}
    running = defaultdict(set)
    for event in api.events(decode=True, filters=filters, **period):
        labels = event["Actor"]["Attributes"]
        mine = running[labels[f"{LABEL}.owner"]]
        if event["Action"] == "create":
            watched.made.append(event["id"])
            watched.stages[labels[f"{LABEL}.stage"]] += 1
        elif event["Action"] == "start":
            watched.started.append(event["id"])
            mine.add(event["id"])
        else:
            mine.discard(event["id"])
        watched.at_once = max(watched.at_once, len(mine))
    watched.left = len(api.containers(all=True, filters={"label": f"{LABEL}.owner"}))


def counted(found, count):
    """Facts of the lines ``line 0`` to ``line COUNT-1``, as the logs of all attempts have them, joined."""
    wanted = [f"line {n}" for n in range(count)]
    return {
        "lines": len(found),
        "doubled": len(found) - len(set(found)),
        "missing": len(set(wanted) - set(found)),
        "out of order": sum(before > after for before, after in pairwise(map(_number, found))),
    }


def _number(line):
    return int(line.removeprefix("line "))
