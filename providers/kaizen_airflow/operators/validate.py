"""validate: a verdict for every new partition; rings the loop's data. The rules are in ``kaizen.validate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaizen_airflow.assets import PARTITIONS
from kaizen_airflow.links.stage import DataReportLink
from kaizen_airflow.operators.stage import StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class ValidateOperator(StageOperator):
    """A verdict for every new partition; rings the loop's data, and each table's by the keys of its partitions."""

    stage = "validate"
    page = "data"
    operator_extra_links = (*StageOperator.operator_extra_links, DataReportLink())

    def ring(self, context: Context, value: dict[str, Any]) -> None:
        """Besides the loop's data, ring a table's asset for each of its partitions that has a verdict now."""
        records = self.result.records if self.result else ()
        rung = []
        for asset in self.outlets:
            table = asset.name.partition(PARTITIONS)[2]
            prefix = f"validation/{table}/"
            keys = [r.subject.removeprefix(prefix) for r in records if table and r.subject.startswith(prefix)]
            if keys:
                context["outlet_events"][asset].add_partitions(keys)
            if keys or not table:
                rung.append(asset)
        # Airflow rings every outlet, and one without a key by that of the run: there is no such partition of its table.
        self.outlets = rung
        super().ring(context, value)
