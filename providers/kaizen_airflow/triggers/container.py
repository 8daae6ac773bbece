"""container: the one that a deferred task waits for has ended, or has to be looked at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from kaizen.adapters.docker_engine import HEARTBEAT, PATIENCE, Engine
from kaizen.adapters.docker_runs import QUICK, end_held
from kaizen.clock import WallClock
from kaizen.ledger import Lease, open_ledger
from kaizen_airflow.containers import is_over
from kaizen_airflow.engines import EngineAddress
from kaizen_airflow.hooks.kaizen import KaizenHook

OVERDUE = "overdue"
"""Why a bell rings before the container has ended: the task's time is up."""
RESUMED_WITHIN = timedelta(days=1)
"""How long the lease waits, from the bell on, for a worker that is free to take the task up again."""


class ContainerTrigger(BaseTrigger):
    """Rings when a task has to look at its container, and keeps the container's lease until then.

    The bell does not say what came of it: the container's own state does. So a triggerer may be killed, come back, or
    ring twice. What a trigger is given lies in Airflow's database: there is no secret in it.

    Args:
        engine: an ``EngineAddress``, as a dictionary.
        kaizen_conn_id: connection that names the ledger.
        container, name: the container's id and its name.
        resource, holder, epoch: its lease.
        patience, grace: seconds that the lease lasts; between SIGTERM and SIGKILL if the container is to end.
        deadline: when the task's time is up, in ISO format; None if it has as long as it likes.
    """

    def __init__(
        self,
        *,
        engine: dict[str, Any],
        kaizen_conn_id: str,
        container: str,
        name: str,
        resource: str,
        holder: str,
        epoch: int,
        patience: float,
        grace: float,
        deadline: str | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.address = EngineAddress(**engine)
        self.kaizen_conn_id = kaizen_conn_id
        self.container, self.name = container, name
        self.lease = Lease(resource, holder, epoch, datetime.now(UTC))
        self.patience, self.grace, self.deadline = patience, grace, deadline
        self._engine: Engine | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where the triggerer finds this class, and its arguments."""
        arguments = {
            "engine": asdict(self.address),
            "kaizen_conn_id": self.kaizen_conn_id,
            "container": self.container,
            "name": self.name,
            "resource": self.lease.resource,
            "holder": self.lease.holder,
            "epoch": self.lease.epoch,
            "patience": self.patience,
            "grace": self.grace,
            "deadline": self.deadline,
        }
        return ("kaizen_airflow.triggers.container.ContainerTrigger", arguments)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event, when there is no more to wait for."""
        due = datetime.fromisoformat(self.deadline) if self.deadline else datetime.max.replace(tzinfo=UTC)
        heard, kept = time.monotonic(), float("-inf")
        while True:
            running = await asyncio.to_thread(self._runs)
            now = time.monotonic()
            heard = heard if running is None else now
            if why := why_ring(running, silent=now - heard, overdue=datetime.now(UTC) >= due):
                break
            if now - kept > self.patience / 4:
                await asyncio.to_thread(self._keep, timedelta(seconds=self.patience))
                kept = now
            await asyncio.sleep(HEARTBEAT)
        await asyncio.to_thread(self._keep, RESUMED_WITHIN)
        yield TriggerEvent({"why": why})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Somebody acted on the task, or another triggerer has it: Airflow's word on the task decides which."""
        await asyncio.to_thread(self._end)

    def _runs(self) -> bool | None:
        """Whether the container works; None if its engine does not say, for which it has the time of one call."""
        try:
            self._engine = self._engine or self.address.open(patience=0)
            return self._engine.runs(self.container)
        except Exception as error:  # noqa: BLE001 - whatever it is: nobody knows the container's state
            self.log.warning("the engine does not say what container %s does: %s", self.name, error)
            return None

    def _keep(self, ttl: timedelta) -> None:
        try:
            with open_ledger(KaizenHook(self.kaizen_conn_id).ledger_url()) as ledger:
                ledger.renew(self.lease, ttl, datetime.now(UTC))
        except Exception as error:  # noqa: BLE001 - whatever it is: a deferred task's container is no orphan without it
            self.log.warning("the lease of container %s is not renewed: %s", self.name, error)

    def _end(self) -> None:
        if not is_over(self.lease.holder.rpartition("#")[0]):
            self.log.info("container %s goes on: its task is not over", self.name)
            return
        engine, grace = self.address.open(QUICK.total_seconds()), timedelta(seconds=self.grace)
        with open_ledger(KaizenHook(self.kaizen_conn_id).ledger_url()) as ledger:
            ended = end_held(engine, self.container, ledger, self.lease, WallClock(), grace)
        self.log.info("container %s %s", self.name, "was ended" if ended else "goes on: another attempt has it")


def why_ring(running: bool | None, *, silent: float, overdue: bool) -> str:
    """Why a task is to look at its container; "" while there is no reason.

    Args:
        running: None if the engine does not say. silent: seconds for which it has not.
        overdue: the task's time is up.
    """
    if running is False:
        return "ended"
    if overdue:
        return OVERDUE
    return "silent" if silent > PATIENCE else ""
