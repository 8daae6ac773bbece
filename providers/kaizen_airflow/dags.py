"""DAGs of a loop from its spec alone, and its stages as a task group for a team's own DAGs.

    landing -> IngestDag -> data -> ScoringDag -> scores -> MonitoringDag -> retrain -> TrainingDag -> champion -.
                                        ^                                                                        |
                                        '------------------------------------------------------------------------'

The words between the DAGs are assets (see ``kaizen_airflow.assets``). Parsing reads a loop's snapshot
(``kaizen compile``), or its YAML where there is none, and imports no library of a stage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache, reduce
from itertools import pairwise
from operator import or_
from typing import Any

from airflow.sdk import DAG, Asset, AssetAlias, TaskGroup

from kaizen.snapshot import Snapshot, read_snapshot
from kaizen_airflow.assets import (
    champion_asset,
    data_asset,
    delivery_asset,
    landing_asset,
    partitions_asset,
    retrain_asset,
    scores_asset,
)
from kaizen_airflow.operators.deploy import DeployOperator
from kaizen_airflow.operators.evaluate import EvaluateOperator
from kaizen_airflow.operators.ingest import IngestOperator
from kaizen_airflow.operators.monitor import MonitorOperator
from kaizen_airflow.operators.promote import PromoteOperator
from kaizen_airflow.operators.reconcile import ReconcileOperator
from kaizen_airflow.operators.score import ScoreOperator
from kaizen_airflow.operators.stage import StageOperator
from kaizen_airflow.operators.train import TrainOperator
from kaizen_airflow.operators.trigger import TriggerOperator
from kaizen_airflow.operators.validate import ValidateOperator
from kaizen_airflow.settings import environment_name, landing_poll, spec_path

OPERATORS: dict[str, type[StageOperator]] = {
    "ingest": IngestOperator,
    "validate": ValidateOperator,
    "train": TrainOperator,
    "evaluate": EvaluateOperator,
    "promote": PromoteOperator,
    "deploy": DeployOperator,
    "score": ScoreOperator,
    "monitor": MonitorOperator,
    "trigger": TriggerOperator,
}
BELLS = {"validate": data_asset, "deploy": champion_asset, "score": scores_asset, "trigger": retrain_asset}
"""The stages that ring, and the asset of a loop that each rings."""


class LoopTaskGroup(TaskGroup):
    """Stages of a loop, one after the other, to stand in a team's own DAG.

    Args:
        spec: path of ``kaizen.yml``; a relative one lies below ``[kaizen] projects``.
        stages: words of the loop's sentence, in the order in which they shall run.
        env, kaizen_conn_id: as ``StageOperator`` takes them.
        group: what ``TaskGroup`` takes; ``group_id`` is the loop's name by default, ``project_loop``.
    """

    def __init__(
        self,
        spec: str,
        stages: Sequence[str],
        *,
        env: str | None = None,
        kaizen_conn_id: str = "kaizen_default",
        **group: Any,
    ) -> None:
        loop = loop_name(spec, env)
        super().__init__(**{"group_id": re.sub(r"[^\w-]", "_", loop), **group})
        with self:
            add_stages(loop, stages, spec=spec, env=env, kaizen_conn_id=kaizen_conn_id)


def add_stages(loop: str, stages: Sequence[str], **arguments: Any) -> None:
    """Add one operator per stage to the DAG or group that is being built, each after the one before it."""
    tasks = [
        OPERATORS[stage](
            task_id=stage,
            outlets=_outlets(loop, stage, arguments["spec"], arguments.get("env")),
            # What follows a stage that had nothing to hand on still looks for itself, but a turn needs its decision.
            trigger_rule="none_failed" if stage in ("score", "monitor") else "all_success",
            **arguments,
        )
        for stage in stages
    ]
    for before, after in pairwise(tasks):
        before >> after


def _outlets(loop: str, stage: str, spec: str, env: str | None) -> list[Asset]:
    tables = loop_snapshot(spec, env).tables if stage == "validate" else {}
    bells = [BELLS[stage](loop)] if stage in BELLS else []
    return [*bells, *(partitions_asset(loop, table) for table in tables)]


class LoopDag(DAG):
    """What the five DAGs share; see them for what each does.

    Args:
        spec: path of ``kaizen.yml``; a relative one lies below ``[kaizen] projects``.
        env, kaizen_conn_id: as ``StageOperator`` takes them.
        dag: what ``DAG`` takes. By default one run at a time, two retries of what may pass, no catching up.
    """

    kind: str
    stages: tuple[str, ...]

    def __init__(
        self, spec: str, *, env: str | None = None, kaizen_conn_id: str = "kaizen_default", **dag: Any
    ) -> None:
        self.loop = loop_name(spec, env)
        given = {
            "dag_id": f"{dag_prefix(self.loop)}_{self.kind}",
            "schedule": self.bells(spec, env),
            "max_active_runs": 1,
            "catchup": False,
            "tags": ["kaizen", self.loop],
            "doc_md": self.page(loop_snapshot(spec, env)),
            **dag,
        }
        given["default_args"] = {"retries": 2, "retry_delay": timedelta(seconds=30), **given.get("default_args", {})}
        super().__init__(**given)
        with self:
            self.build(spec=spec, env=env, kaizen_conn_id=kaizen_conn_id)

    def bells(self, spec: str, env: str | None) -> Any:
        """What starts a run, unless ``schedule`` says otherwise."""
        raise NotImplementedError

    def build(self, **arguments: Any) -> None:
        """Add the tasks."""
        add_stages(self.loop, self.stages, **arguments)

    def page(self, snapshot: Snapshot) -> str:
        """The DAG's page in Airflow, as Markdown."""
        steps = " → ".join(f"**{stage}**" for stage in self.stages)
        rules = "\n".join(f"- {stage}: the rule is `kaizen.{stage}`" for stage in self.stages)
        return f"{type(self).__doc__}\n\nLoop `{self.loop}`: {steps}\n\n{rules}"


class IngestDag(LoopDag):
    """Takes what landed and gives it a verdict. Started by what comes, by other teams' assets, or by any ``schedule``.

    A person backfills a range by a run's configuration, `{"since": "2013-02-01", "until": "2013-04-01"}`: partitions
    that begin and end within. A run with a partition key takes that partition alone; Airflow gives keys to runs of a
    DAG whose `schedule` is by partitions only.
    """

    kind, stages = "ingest", ("ingest", "validate")

    def page(self, snapshot: Snapshot) -> str:
        """The DAG's page, with what people should know of each table."""
        return "\n\n".join([super().page(snapshot), *map(table_page, snapshot.catalogue.values())])

    def bells(self, spec: str, env: str | None) -> Any:
        landed: Any = landing_asset(self.loop, spec, environment_name(env), landing_poll())
        tables = loop_snapshot(spec, env).tables.values()
        others = dict.fromkeys(asset for table in tables if (asset := table.get("asset")))
        return reduce(or_, map(delivery_asset, others), landed)


class ScoringDag(LoopDag):
    """Predicts what the champion has not seen. Started by new data, and by a new champion."""

    kind, stages = "scoring", ("score",)

    def bells(self, spec: str, env: str | None) -> Any:
        return data_asset(self.loop) | champion_asset(self.loop)


class MonitoringDag(LoopDag):
    """Looks after the champion, and decides whether to retrain. Started whenever scoring has ended, or by a person.

    A person starts it with the parameter `because`: why the loop should retrain now.
    """

    kind, stages = "monitoring", ("monitor", "trigger")

    def __init__(self, spec: str, **arguments: Any) -> None:
        super().__init__(spec, **{"params": {"because": ""}, **arguments})

    def bells(self, spec: str, env: str | None) -> list[Asset]:
        return [scores_asset(self.loop)]


class TrainingDag(LoopDag):
    """Carries out a decision to retrain, up to a new champion or a refusal. Started by the decision."""

    kind, stages = "training", ("train", "evaluate", "promote", "deploy")

    def bells(self, spec: str, env: str | None) -> list[Asset]:
        return [retrain_asset(self.loop)]


class ReconcileDag(LoopDag):
    """Mends what killed processes and lost events left behind. Started by the clock."""

    kind, stages = "reconcile", ()

    def bells(self, spec: str, env: str | None) -> str:
        # A container that nobody owns holds memory, or a GPU.
        return "* * * * *" if loop_snapshot(spec, env).place["mode"] == "docker" else "@hourly"

    def build(self, **arguments: Any) -> None:
        """One task; it rings whichever bell was lost."""
        ReconcileOperator(task_id="reconcile", outlets=[AssetAlias(f"kaizen/{self.loop}/reconcile")], **arguments)


def table_page(about: Mapping[str, Any]) -> str:
    """A table of a loop, as Markdown, from its entry in the catalogue."""
    words = {"owner": "owner", "source": "source", "licence": "licence", "partition": "cut by", "uri": "lands at"}
    facts = "; ".join(f"{word} {about[key].removeprefix('by ')}" for key, word in words.items() if key in about)
    lines = [f"### {about['table']}", *([about["meaning"]] if "meaning" in about else []), facts]
    columns = [_column_row(name, column) for name, column in about.get("columns", {}).items()]
    if columns:
        lines.append("\n".join(["| column | unit | meaning | masked |", "|---|---|---|---|", *columns]))
    return "\n\n".join(lines)


def _column_row(name: str, column: Mapping[str, str]) -> str:
    cells = (name, column.get("unit", ""), column.get("meaning", ""), column.get("private", ""))
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def loop_name(spec: str, env: str | None) -> str:
    """``project/loop`` of a spec."""
    return loop_snapshot(spec, env).loop


@cache
def loop_snapshot(spec: str, env: str | None) -> Snapshot:
    """The snapshot of a spec; five DAGs in one file ask for it."""
    return read_snapshot(spec_path(spec), environment_name(env))


def dag_prefix(loop: str) -> str:
    """How the DAG ids of a loop begin: Airflow allows no slash in them."""
    return loop.replace("/", ".")
