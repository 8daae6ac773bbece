"""ingest: land each delivery as immutable partitions, exactly once. The rules are in ``kaizen.ingest``."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from kaizen.errors import UsageError
from kaizen.stages import Order
from kaizen_airflow.links.stage import DataReportLink
from kaizen_airflow.operators.stage import StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class IngestOperator(StageOperator):
    """Land each delivery as immutable partitions, exactly once.

    The parameters ``since`` and ``until`` of a DAG run take a range of partitions, and a run with a partition key takes
    that one: a backfill.
    """

    stage = "ingest"
    operator_extra_links = (*StageOperator.operator_extra_links, DataReportLink())

    def order(self, context: Context) -> Order:
        """Take what the run asks for; all that is there, if it does not say."""
        since, until = (_moment(name, context["params"].get(name)) for name in ("since", "until"))
        return replace(super().order(context), since=since, until=until, partition=context.get("partition_key") or "")


def _moment(name: str, text: object) -> datetime | None:
    """A parameter of the DAG run as a moment. Raises ``UsageError`` (KZ245)."""
    if text in ("", None):
        return None
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        raise UsageError(
            "KZ245",
            "not a time",
            where=f"parameter {name} of the DAG run",
            value=ascii(text)[:40],
            limit="ISO 8601, e.g. 2013-03-01",
            action="start the DAG run again with a date, or without",
        ) from None
