"""score: the champion predicts what is new to it; rings the loop's scores. The rules are in ``kaizen.score``."""

from __future__ import annotations

from kaizen_airflow.operators.stage import StageOperator


class ScoreOperator(StageOperator):
    """The champion predicts what is new to it; rings the loop's scores."""

    stage = "score"
