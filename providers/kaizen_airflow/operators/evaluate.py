"""evaluate: candidate and champion on the same unseen rows. The rules are in ``kaizen.evaluate``."""

from __future__ import annotations

from kaizen_airflow.operators.stage import StageOperator


class EvaluateOperator(StageOperator):
    """Candidate and champion on the same unseen rows."""

    stage = "evaluate"
