"""The loop as Kedro pipelines: one module per stage, and ``turn``, which composes them around a project's training."""
