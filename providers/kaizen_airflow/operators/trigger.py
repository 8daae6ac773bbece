"""trigger: retrain or not, and why; rings the loop's retrain. The rules are in ``kaizen.trigger``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kaizen.errors import UsageError
from kaizen_airflow.operators.stage import StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from kaizen.stages import Order

LONGEST_WISH = 500


class TriggerOperator(StageOperator):
    """Decide and keep the decision. Skipped, after that, if the answer is no: then nothing follows.

    The DAG run's parameter ``because`` is a person's wish to retrain now.
    """

    stage = "trigger"

    def order(self, context: Context) -> Order:
        """With the wish of the person who started the DAG run, if one did. Raises ``UsageError`` (KZ243)."""
        because = context["params"].get("because", "")
        if not isinstance(because, str) or len(because) > LONGEST_WISH or not because.isprintable():
            raise UsageError(
                "KZ243",
                "the wish to retrain is no sentence",
                where="parameter because of the DAG run",
                value=f"{type(because).__name__} of {len(str(because))} characters",
                limit=f"printable text of at most {LONGEST_WISH} characters",
                action="start the DAG run again with a shorter one",
            )
        return replace(super().order(context), because=because)
