"""promote: yes or no, with a reason for every gate; the champion moves. The rules are in ``kaizen.promote``."""

from __future__ import annotations

from kaizen_airflow.operators.stage import StageOperator


class PromoteOperator(StageOperator):
    """Yes or no, with a reason for every gate; the champion moves."""

    stage = "promote"
