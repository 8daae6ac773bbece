"""A task's containers: whose they are, where their log goes, what a kill means. The rules are ``kaizen.containers``.

Airflow tells a task to end by one bare signal, whatever the reason. So the signal decides nothing: Airflow is asked for
the task's state. Where it cannot be asked the container goes on under its lease.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import structlog
from airflow.sdk import conf
from airflow.sdk.exceptions import AirflowTaskTimeout

from kaizen.containers import Call, Interrupted, Log, LogLine, Mark, Owner

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""States that no attempt follows."""
_ENDS = OVER | {"restarting"}
"""States in which the container of the attempt before is not wanted any more: a restarting task starts over."""
_MARGIN = timedelta(seconds=60)

_log = logging.getLogger(__name__)


def call_of(task: BaseOperator, context: Context) -> Call:
    """What a task says of its containers."""
    ti: Any = context["ti"]
    log = Log(_tell, lambda name: _told_before(name, ti))
    return Call(owner_of(task, ti), log, lambda why: _ends(why, ti), is_over, is_deferred)


def owner_of(task: BaseOperator, ti: Any) -> Owner:
    """The task instance as an owner: a retry is another attempt, a clear moves the base."""
    parts = (quote(part, safe="") for part in (ti.dag_id, ti.run_id, ti.task_id))
    return Owner(
        name=f"airflow:{'/'.join(parts)}/{ti.map_index}",
        base=max(0, ti.max_tries - task.retries),
        attempt=ti.try_number,
        supersedes=True,
        patience=_longest_pause(task) + _MARGIN,
    )


def _longest_pause(task: BaseOperator) -> timedelta:
    """From the last sign of life of an attempt to the beginning of the next."""
    missed = timedelta(seconds=conf.getint("scheduler", "task_instance_heartbeat_timeout", fallback=300))
    if not task.retries:
        return missed
    delay = _duration(task.retry_delay)
    if task.retry_exponential_backoff:
        delay = _duration(task.max_retry_delay) if task.max_retry_delay else delay * 2**task.retries
    return missed + delay


def _duration(value: timedelta | float) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=value)


def is_over(owner: str) -> bool:
    """True if Airflow says that a task instance has ended for good; False also if it does not say."""
    return _state_of(owner) in OVER


def is_deferred(owner: str) -> bool:
    """True if Airflow says that a task instance waits for a trigger; False also if it does not say."""
    return _state_of(owner) == "deferred"


def _state_of(owner: str) -> str | None:
    scheme, _, rest = owner.partition(":")
    parts = rest.split("/")
    if scheme != "airflow" or len(parts) != 4:
        return None
    return _state(*(unquote(part) for part in parts))


def _ends(why: BaseException, ti: Any) -> bool:
    """Whether an interruption of a task ends its container."""
    if isinstance(why, AirflowTaskTimeout):
        return True
    if not isinstance(why, Interrupted):
        return False
    return _state(ti.dag_id, ti.run_id, ti.task_id, str(ti.map_index)) in _ENDS


def _state(dag_id: str, run_id: str, task_id: str, map_index: str) -> str | None:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    try:
        states = RuntimeTaskInstance.get_task_states(
            dag_id=dag_id, task_ids=[task_id], run_ids=[run_id], map_index=int(map_index)
        )
    except Exception as error:  # noqa: BLE001 - whatever it is: nobody knows the state
        _log.warning("Airflow does not tell the state of %s/%s/%s: %s", dag_id, run_id, task_id, error)
        return None
    name = task_id if int(map_index) < 0 else f"{task_id}_{map_index}"
    state: str | None = states.get(run_id, {}).get(name)
    return state


def _tell(name: str, line: LogLine, mark: Mark) -> None:
    """One line into the task's log, with what another attempt needs to go on after it."""
    stream = {"stream": "stderr"} if line.stderr else {}
    structlog.get_logger("kaizen.container").info(line.text, container=name, at=mark.at, nth=mark.lines, **stream)


def _told_before(name: str, ti: Any) -> Mark:
    """Where the logs of earlier attempts end. The log itself is asked: nothing else dies at the same moment as it."""
    for attempt in range(ti.try_number, 0, -1):
        for fields in _backwards(_log_file(ti, attempt)):
            if fields.get("container") == name and "nth" in fields:
                return Mark(str(fields["at"]), int(fields["nth"]))
    return Mark()


def _log_file(ti: Any, attempt: int) -> Path:
    folder = Path(conf.get("logging", "base_log_folder")) / f"dag_id={ti.dag_id}" / f"run_id={ti.run_id}"
    folder /= f"task_id={ti.task_id}"
    return (folder / f"map_index={ti.map_index}" if ti.map_index >= 0 else folder) / f"attempt={attempt}.log"


def _backwards(path: Path, chunk: int = 1 << 16) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file from its end; none if it is elsewhere, and then a log is told from its beginning."""
    try:
        stream = path.open("rb")
    except OSError:
        return
    with stream:
        end, rest = stream.seek(0, os.SEEK_END), b""
        while end > 0:
            begin = max(0, end - chunk)
            stream.seek(begin)
            lines = (stream.read(end - begin) + rest).split(b"\n")
            # The first line may begin in the chunk before.
            rest = lines.pop(0) if begin else b""
            yield from _parsed(reversed(lines))
            end = begin


def _parsed(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict):
            yield fields
