"""A DockerOperator whose containers cannot be lost: change one import, keep the arguments.

    from kaizen_airflow.operators.docker import DurableDockerOperator as DockerOperator

Needs the Docker provider: ``pip install 'kaizen-mlops[airflow-docker]'``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.docker.exceptions import DockerContainerFailedException, DockerContainerFailedSkipException
from airflow.sdk import conf
from airflow.sdk.definitions.retry_policy import RetryDecision
from airflow.sdk.exceptions import AirflowTaskTimeout, TaskDeferralError, TaskDeferralTimeout

from kaizen.adapters.docker_engine import Ended, Engine
from kaizen.adapters.docker_runs import (
    acquire,
    attend,
    end_stale,
    find_adoptable,
    find_held,
    keep_run,
    lease_time,
    start_or_adopt,
    told_as_refusals,
    until_made,
)
from kaizen.causes import Cause
from kaizen.clock import WallClock
from kaizen.containers import (
    LABEL,
    Caller,
    Interrupted,
    lease_resource,
    why_ended,
)
from kaizen.errors import StageFailed
from kaizen.ledger import open_ledger
from kaizen.records import ContainerRun
from kaizen_airflow.containers import call_of
from kaizen_airflow.engines import EngineAddress
from kaizen_airflow.hooks.kaizen import KaizenHook
from kaizen_airflow.operators.planned import PlannedDockerOperator
from kaizen_airflow.operators.stage import RefusalPolicy
from kaizen_airflow.triggers.container import OVERDUE, ContainerTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from kaizen.ledger import Lease, Ledger

PERMANENT = (Cause.BAD_IMAGE, Cause.OTHER_MACHINE, Cause.NO_IMAGE, Cause.NO_GPU, Cause.STRANGERS_NAME)
"""What no retry mends."""

_MARGIN = timedelta(seconds=20)
"""What a triggerer may be late by."""


class DurableContainerFailed(DockerContainerFailedException):
    """A container failed: ``cause`` says why, with a code."""

    def __init__(self, cause: StageFailed, logs: list[str | bytes]) -> None:
        super().__init__(f"Docker container failed: {cause}", logs=logs)
        self.cause = cause


class CausePolicy(RefusalPolicy):
    """Fail at once with what no retry mends; go by the task's ``retries`` with everything else."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        if isinstance(exception, DurableContainerFailed) and any(cause.of(exception.cause) for cause in PERMANENT):
            return RetryDecision.fail(reason=f"{exception.cause.code}: {exception.cause.what}")
        return super().evaluate(exception, try_number, max_tries, context)


class DurableDockerOperator(PlannedDockerOperator):
    """``DockerOperator`` with one container through any kill: a retry adopts it, goes on with its log, has its result.

    Arguments, connection and defaults are the parent's. So is its XCom value, but taken from the log as it is after the
    exit, fetched again. ``auto_remove="success"`` keeps a container that failed.

    Args:
        kaizen_conn_id: connection that names the ledger, where leases of containers are; without one KAIZEN_LEDGER_URL,
            else a file below AIRFLOW_HOME.
        stop_timeout: seconds between SIGTERM and SIGKILL when the container is to end.
        deferrable: wait for the container in the triggerer, without a worker's slot.
        walls, result_file: see ``PlannedDockerOperator``.
    """

    def __init__(
        self,
        *,
        kaizen_conn_id: str = KaizenHook.default_conn_name,
        stop_timeout: float = 10.0,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("retry_policy", CausePolicy())
        super().__init__(**kwargs)
        self.kaizen_conn_id = kaizen_conn_id
        self.stop_timeout = stop_timeout
        self.deferrable = deferrable
        # Only when Airflow knows of the success may the container go: a task that dies before is tried again.
        self.on_success_callback = [*_as_list(self.on_success_callback), _remove_ended]
        self._ended_name = ""
        self._following = False

    @told_as_refusals()
    def execute(self, context: Context) -> Any:
        """Make the container or adopt it, attend it to its end, and return what it said."""
        self._normalize_mounts()
        with self._at_work(context) as (engine, caller):
            wanted = self.wanted(engine, caller)
            lease = acquire(caller, engine, wanted.name)
            with until_made(caller, engine, lease):
                end_stale(engine, caller, wanted.name, self._grace)
                found = find_adoptable(engine, caller, wanted.name, set_aside=partial(self._set_aside, engine))
                container = start_or_adopt(engine, wanted, found, prepare=partial(self.prepare, engine))
            if self.deferrable and engine.runs(container):
                self._defer(context, caller, lease, wanted.name, container)
            return self._outcome(engine, caller, lease, self._attend(engine, caller, lease, container))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """As the parent does. A trigger that failed, or whose triggerer is away, is a bell like any other."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            return self.resume(context, {"why": OVERDUE})
        except TaskDeferralError as failed:
            self.log.warning("no triggerer can wait for the container, so the task does: %s", failed)
            return self.resume(context, {"why": str(failed)})

    @told_as_refusals()
    def resume(self, context: Context, event: dict[str, str]) -> Any:
        """Go on after a deferral: tell the log, and take what came of the container, as if it had been attended."""
        with self._at_work(context) as (engine, caller):
            container, name = find_held(engine, caller)
            lease = acquire(caller, engine, name)
            overdue = event["why"] == OVERDUE and engine.runs(container)
            if overdue:
                engine.stop(container, self._grace)
            ended = self._attend(engine, caller, lease, container)
            if overdue:
                self._give_back(engine, caller.ledger, lease, remove=True)
                raise AirflowTaskTimeout(f"execution_timeout: {self.execution_timeout}; container {name} was ended")
            return self._outcome(engine, caller, lease, ended)

    def _attend(self, engine: Engine, caller: Caller, lease: Lease, container: str) -> Ended:
        self.container = {"Id": container}
        with self._interruptible():
            return attend(engine, container, caller, lease, None, self._grace)

    def _defer(self, context: Context, caller: Caller, lease: Lease, name: str, container: str) -> NoReturn:
        """Give the worker's slot back until there is something to do; the log is told then."""
        self.log.info("deferred; the log is told when the container has ended. Until then: docker logs -f %s", name)
        deadline = context["ti"].start_date + self.execution_timeout if self.execution_timeout else None
        trigger = ContainerTrigger(
            engine=asdict(EngineAddress.of(self)),
            kaizen_conn_id=self.kaizen_conn_id,
            container=container,
            name=name,
            resource=lease.resource,
            holder=lease.holder,
            epoch=lease.epoch,
            patience=lease_time(caller).total_seconds(),
            grace=self.stop_timeout,
            deadline=deadline.isoformat() if deadline else None,
        )
        # Airflow's own limit, for when no triggerer is there to keep the deadline.
        timeout = deadline + _MARGIN - datetime.now(UTC) if deadline else None
        self.defer(trigger=trigger, method_name="resume", timeout=timeout)

    @property
    def _grace(self) -> timedelta:
        return timedelta(seconds=self.stop_timeout)

    def on_kill(self) -> None:
        """A signal says nothing: whoever follows a container asks Airflow what is meant."""
        if self._following:
            raise Interrupted

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        self._following = True
        try:
            yield
        finally:
            self._following = False

    @contextmanager
    def _at_work(self, context: Context) -> Iterator[tuple[Engine, Caller]]:
        engine = EngineAddress.of(self).open()
        with self._ledger() as ledger:
            yield engine, Caller(call_of(self, context), ledger, WallClock(), f"airflow/{self.dag_id}")

    def _ledger(self) -> AbstractContextManager[Ledger]:
        return open_ledger(KaizenHook(self.kaizen_conn_id).ledger_url())

    def _set_aside(self, engine: Engine, ended: dict[str, Any]) -> None:
        """Free the name of a container that failed before."""
        if self.auto_remove == "force":
            engine.remove(ended["Id"])
        else:
            engine.rename(ended["Id"], f"{ended['Name'].lstrip('/')}-{ended['Id'][:12]}")

    # What came of it.

    def _outcome(self, engine: Engine, caller: Caller, lease: Lease, ended: Ended) -> Any:
        code = int(ended.state["ExitCode"])
        failure, value = self._failure(ended) if code else None, None
        if failure is None:
            try:
                value = self._value(engine, ended)
            except StageFailed as error:
                failure = error
        keep_run(caller, ended.id, self._record(ended, failure))
        if failure is None:
            self._ended_name = ended.name
            return value
        said: list[str | bytes] = list(self._log_lines(engine, ended.id))
        self._give_back(engine, caller.ledger, lease, remove=self.auto_remove == "force")
        if code in self.skip_on_exit_code:
            raise DockerContainerFailedSkipException(
                f"Docker container returned exit code {code}. Skipping.", logs=said
            )
        raise DurableContainerFailed(failure, said)

    def clean_up(self) -> None:
        """Give back what a container that succeeded held; Airflow knows of the success."""
        if not self._ended_name:
            return
        engine = EngineAddress.of(self).open(patience=10)
        with self._ledger() as ledger:
            lease = ledger.lease(lease_resource(engine.id, self._ended_name))
            if lease is not None:
                self._give_back(engine, ledger, lease, remove=self.auto_remove != "never")

    def _give_back(self, engine: Engine, ledger: Ledger, lease: Lease, *, remove: bool) -> None:
        name = lease.resource.rpartition("/")[2]
        if remove:
            engine.remove(name)
            if self.options:
                engine.remove_volume(name)
            shutil.rmtree(self.tmp_dir_of(name), ignore_errors=True)
        ledger.release(lease, WallClock().now())

    def _record(self, ended: Ended, failure: StageFailed | None) -> ContainerRun:
        return ContainerRun(
            container=ended.name,
            stage=self.task_id,
            turn="",
            image=str(self.image),
            image_id=ended.labels[f"{LABEL}.image"],
            opened=tuple(sorted(self.walls.get("opened", ()))) if self.walls is not None else (),
            exit_code=int(ended.state["ExitCode"]),
            cause=failure.code if failure else "",
            peak_memory=ended.peak,
            seconds=ended.seconds,
        )

    def _failure(self, ended: Ended) -> StageFailed:
        memory = str(self.mem_limit or "of the engine") if self.walls is None else self.place.memory
        return why_ended(ended.state, memory, str(self.image), name=ended.name, peak=ended.peak, tail=ended.tail)

    def _value(self, engine: Engine, ended: Ended) -> Any:
        if self.result_file:
            return self.read_result(engine, ended)
        if self.retrieve_output:
            found: list[str] | str | None = self._attempt_to_retrieve_result()  # type: ignore[no-untyped-call]
            return found
        if not self.do_xcom_push:
            return None
        lines = self._log_lines(engine, ended.id)
        if self.xcom_all:
            return lines
        return lines[-1] if lines else None

    def _log_lines(self, engine: Engine, container: str) -> list[str]:
        """The container's whole log as the engine has it now, or its last line if no more is wanted."""
        tail: int | str = "all" if self.xcom_all else 20
        text = engine.ask(engine.slow.logs, container, stdout=True, stderr=True, tail=tail).decode("utf-8", "replace")
        return [line.rstrip() for line in text.rstrip("\n").split("\n")] if text else []


def _remove_ended(context: Context) -> None:
    task = context["task"]
    if isinstance(task, DurableDockerOperator):
        task.clean_up()


def _as_list(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, list | tuple | set) else [callbacks]
