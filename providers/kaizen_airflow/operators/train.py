"""train: the user's training on validated partitions, in the loop's place. The rules are in ``kaizen.train``."""

from __future__ import annotations

from kaizen_airflow.operators.stage import StageOperator


class TrainOperator(StageOperator):
    """Carry out the open decision to retrain. Skipped if there is none: another run was faster."""

    stage = "train"
