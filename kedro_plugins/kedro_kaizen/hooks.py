"""What Kedro tells Kaizen. Only a run of Kaizen's own pipelines notices anything of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl


class KaizenHooks:
    """What a session needs beyond its project's own files. Decides nothing."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: Any) -> None:
        """Remember the session's loop: what its pipelines look like depends on the environment's ``place``."""
        from kedro_kaizen.project import SESSION, loop_of

        SESSION.set(loop_of(Path(context.project_path), context.env))

    @hook_impl
    def after_catalog_created(self, catalog: Any) -> None:
        """Give the project's own training what a training gets: its examples, and more that it may ask for."""
        from kedro_kaizen.project import TRAINING

        training = TRAINING.get()
        if training is not None:
            catalog["examples"] = training.examples
            catalog["checkpoints"] = training.checkpoints
            catalog["report"] = training.report
            if training.validation is not None:
                catalog["validation"] = training.validation

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Any, catalog: Any) -> None:
        """Give a turn its loop and its records; a bad spec is refused here, before any node runs."""
        if "kaizen_loop" not in pipeline.inputs():
            return
        from kedro_kaizen.pipelines.turn import add_datasets
        from kedro_kaizen.project import loop_of

        add_datasets(loop_of(Path(run_params["project_path"]), run_params["env"]), pipeline, catalog)


hooks = KaizenHooks()
