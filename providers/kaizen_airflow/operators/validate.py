"""validate: a verdict for every new partition; rings the loop's data. The rules are in ``kaizen.validate``."""

from __future__ import annotations

from kaizen_airflow.operators.stage import StageOperator


class ValidateOperator(StageOperator):
    """A verdict for every new partition; rings the loop's data."""

    stage = "validate"
