"""What the operators of all stages share: run the stage by its word, hand on what it left, ring its bell."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowSkipException

from kaizen.containers import Interrupted
from kaizen.errors import KaizenError
from kaizen.publish import publish_text
from kaizen.snapshot import read_snapshot
from kaizen.stages import Order, StageResult
from kaizen_airflow.containers import call_of
from kaizen_airflow.hooks.kaizen import KaizenHook
from kaizen_airflow.links.stage import ReportLink, TrackingRunLink
from kaizen_airflow.settings import environment_name, report_file, report_name, spec_path
from kaizen_airflow.timing import measured

if TYPE_CHECKING:
    from airflow.sdk import Context

SHOWN = 20
"""How many records a task names in its XCom: their list is the ledger's."""


class RefusalPolicy(RetryPolicy):
    """Retry what may pass by itself; fail at once with what somebody has to change."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """A refusal that cannot pass ends the task; everything else goes by the task's ``retries``."""
        if isinstance(exception, KaizenError) and not exception.may_pass:
            return RetryDecision.fail(reason=f"{exception.code}: {exception.what}")
        return RetryDecision.default()


class StageOperator(BaseOperator):
    """Runs one stage of a loop. Subclasses name the stage, and say when there is nothing to hand on.

    Its XCom value is what the stage left: the spec's digest, the turn, kind, subject and digest of records, and the
    seconds that it spent importing and working. A stage refuses to go on with another spec than the stages before it in
    the same DAG run.

    Args:
        spec: path of ``kaizen.yml``; a relative one lies below ``[kaizen] projects``.
        env: overlay on the spec; default KAIZEN_ENV, else ``local``.
        kaizen_conn_id: connection that names ledger, tracking server and store.
    """

    stage: ClassVar[str]
    page: ClassVar[str] = ""
    """Which of the loop's reports the stage writes: the main one, or ``data``."""
    template_fields = ("spec", "env", "kaizen_conn_id")
    operator_extra_links: Collection[BaseOperatorLink] = (TrackingRunLink(), ReportLink())
    ui_color = "#e8f1ea"

    def __init__(
        self,
        *,
        spec: str,
        env: str | None = None,
        kaizen_conn_id: str = KaizenHook.default_conn_name,
        retry_policy: RetryPolicy | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(retry_policy=retry_policy or RefusalPolicy(), **kwargs)
        self.spec = spec
        self.env = env
        self.kaizen_conn_id = kaizen_conn_id
        self.result: StageResult | None = None
        self._at_work = False

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the stage, tell what it left, and skip what follows if there is nothing to hand on."""
        ti = context["ti"]
        with measured() as spent, self._interruptible():
            result = KaizenHook(self.kaizen_conn_id).run_stage(
                self.stage,
                self.spec,
                environment_name(self.env),
                self.order(context),
                actor=f"airflow:{ti.dag_id}/{ti.run_id}/{ti.task_id}",
                call=call_of(self, context),
            )
        self.result, value = result, {**summary(result), "seconds": vars(spent)}
        if result.report:
            show_report(report_name(result.loop, self.page), Path(result.report))
        for line in (*result.notes, *(f"{r.kind} {r.subject} {r.digest[:12]}" for r in result.records[:SHOWN])):
            self.log.info("%s", line)
        self.ring(context, value)
        if result.idle:
            ti.xcom_push(key="return_value", value=value)
            raise AirflowSkipException(result.idle)
        return value

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Within it a signal to end ends the stage where it stands, instead of being noted only."""
        self._at_work = read_snapshot(spec_path(self.spec), environment_name(self.env)).place["mode"] == "docker"
        try:
            yield
        finally:
            self._at_work = False

    def on_kill(self) -> None:
        """A signal says nothing: whoever follows a container asks Airflow what is meant."""
        if self._at_work:
            raise Interrupted

    def order(self, context: Context) -> Order:
        """What this task asks of the stage."""
        return Order(began_with=began_with(context))

    def ring(self, context: Context, value: dict[str, Any]) -> None:
        """Put what the stage left into the events of the task's assets; Airflow sends them if the task succeeds."""
        for asset in self.outlets:
            context["outlet_events"][asset].extra = value


def began_with(context: Context) -> str:
    """Digest of the spec that the tasks before this one went by, "" for a first task."""
    ti, upstream = context["ti"], sorted(context["task"].upstream_task_ids)
    values = ti.xcom_pull(task_ids=upstream) if upstream else []
    return next((v["spec"] for v in values or [] if isinstance(v, dict) and "spec" in v), "")


def show_report(name: str, report: Path) -> None:
    """Put a loop's newest report where the API server finds it by its name."""
    publish_text(report_file(name), report.read_text(encoding="utf-8"))


def summary(result: StageResult) -> dict[str, Any]:
    """What passes between tasks: a few references, never data."""
    records = [vars(reference) for reference in result.records[:SHOWN]]
    return {"spec": result.spec, "turn": result.turn, "records": records, "count": len(result.records)}
