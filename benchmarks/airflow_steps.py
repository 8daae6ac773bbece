"""What a step of the loop costs on Airflow beside an empty step: the same Airflow, settings and number of tasks.

Both DAGs have five tasks in a row. Ours are ingest, validate, score, monitor, trigger of a small loop with nothing due:
what they still do (open the loop, fold the ledger) is told apart, as the tasks measure it. Seconds; the first
run of each is shown and not counted. Goal: at most 1.5 times the empty DAG plus the stages' own work.

    python benchmarks/airflow_steps.py [--runs 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "core"), str(ROOT / "providers")]

from demo.airflow_service import AirflowService  # noqa: E402
from tests.loops import MONTHS, make_loop  # noqa: E402

STAGES = ("ingest", "validate", "score", "monitor", "trigger")
DAGS = f"""
from airflow.sdk import DAG, BaseOperator
from kaizen_airflow import LoopTaskGroup

class Empty(BaseOperator):
    def execute(self, context):
        return {{"seconds": {{"imports": 0.0, "work": 0.0}}}}

with DAG("empty", schedule=None) as empty:
    before = None
    for stage in {STAGES!r}:
        step = Empty(task_id=stage)
        before >> step if before else None
        before = step

with DAG("loop", schedule=None) as loop:
    LoopTaskGroup("rail/kaizen.yml", stages={STAGES!r}, prefix_group_id=False)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kaizen-steps-") as folder:
        home = Path(folder)
        (home / "dags").mkdir()
        (home / "dags" / "steps.py").write_text(DAGS)
        project = make_loop(home / "rail")
        project.land_month(MONTHS[0])
        settings = {"kaizen.projects": folder, "kaizen.preload": "True", "core.dags_are_paused_at_creation": "False"}
        with AirflowService(home / "airflow", home / "dags", settings, template=ROOT / "build/airflow-template") as it:
            it.wait_for_dags(["empty", "loop"])
            spent = {dag: [seconds(it, dag) for _ in range(arguments.runs + 1)] for dag in ("empty", "loop")}
    return show(spent)


def seconds(airflow: AirflowService, dag: str) -> tuple[float, float]:
    """Of one run: from its start to its end, and of that what the tasks spent in their stage."""
    run_id = airflow.trigger(dag)
    airflow.wait_idle(180)
    (run,) = [r for r in airflow.dag_runs(dag) if r["dag_run_id"] == run_id]
    if run["state"] != "success":
        sys.exit(f"{dag} {run_id}: {run['state']}")
    whole = datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["start_date"])
    own = [airflow.xcom(dag, run_id, stage)["seconds"] for stage in STAGES]
    return whole.total_seconds(), sum(s["imports"] + s["work"] for s in own)


def show(spent: dict[str, list[tuple[float, float]]]) -> int:
    print(f"{'':8} {'first run':>10} {'median run':>11} {'stage work':>11} {'per step':>9}")
    per_step = {}
    for dag, runs in spent.items():
        whole, own = (statistics.median(values) for values in zip(*runs[1:], strict=True))
        per_step[dag] = (whole - own) / len(STAGES)
        print(f"{dag:8} {runs[0][0]:>9.2f}s {whole:>10.2f}s {own:>10.2f}s {per_step[dag]:>8.3f}s")
    print(f"a step of ours, without its stage's work, costs {per_step['loop'] / per_step['empty']:.2f} of an empty one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
