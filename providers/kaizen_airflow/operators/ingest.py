"""ingest: land each delivered file as immutable partitions, exactly once. The rules are in ``kaizen.ingest``."""

from __future__ import annotations

from kaizen_airflow.operators.stage import StageOperator


class IngestOperator(StageOperator):
    """Land each delivered file as immutable partitions, exactly once."""

    stage = "ingest"
