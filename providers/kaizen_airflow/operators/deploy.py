"""deploy: the new champion proves that it opens; rings the loop's champion. The rules are in ``kaizen.deploy``."""

from __future__ import annotations

from kaizen_airflow.operators.stage import StageOperator


class DeployOperator(StageOperator):
    """Bring a promoted candidate into service and end the turn. Skipped, after that, if promote said no."""

    stage = "deploy"
