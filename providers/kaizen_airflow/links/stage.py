"""Links on a stage's page. Each is computed where the task ran, and kept with the task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink, conf

from kaizen_airflow.settings import report_name

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator


class TrackingRunLink(BaseOperatorLink):
    """The turn's run on the MLflow server; nothing where tracking has no server."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Address of the run of the turn that the task belonged to."""
        result = getattr(operator, "result", None)
        return result.run if result else ""


class ReportLink(BaseOperatorLink):
    """The loop's newest report, which monitor writes."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Address of the page that the API server shows to those who may see DAGs."""
        return _report(operator, "")


class DataReportLink(BaseOperatorLink):
    """What there is to see of the loop's data: the page that validate writes."""

    name = "Data report"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Address of the page that the API server shows to those who may see DAGs."""
        return _report(operator, "data")


def _report(operator: BaseOperator, page: str) -> str:
    result = getattr(operator, "result", None)
    base = conf.get("api", "base_url", fallback="").rstrip("/")
    return f"{base}/kaizen/reports/{report_name(result.loop, page)}" if result else ""
