"""monitor: is the champion still fit for the rows that come? The rules are in ``kaizen.monitor``."""

from __future__ import annotations

from kaizen_airflow.operators.stage import StageOperator


class MonitorOperator(StageOperator):
    """Report on every scored partition whose picture is new."""

    stage = "monitor"
