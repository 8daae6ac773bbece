"""Parsing DAG files: 1 and 1,000 loops beside bare DAGs with the same number of tasks. Goal: 1.2 times bare.

A loop is five DAGs with ten tasks; a bare one is scheduled in the same way, has as many tasks, bells, parameters and
default arguments, and no work. CPU seconds, since parsing does nothing but compute. Each number comes from a process of
its own that has imported Airflow before the clock starts, and parses one file three times; the fastest counts. "yaml"
is what one loop without a snapshot costs.

    python benchmarks/dag_parse.py [--loops 1000] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("dvc", "great_expectations", "kedro", "mlflow", "pandas", "polars", "sklearn", "torch")

SPEC = """
version: 1
loop: fleet/{name}
problem: {{task: classification, target: late, entity: [train], timestamp: departs}}
data:
  tables:
    schedules: {{uri: "landing/schedules/*.parquet", partition: month}}
    outcomes: {{uri: "landing/outcomes/*.parquet", partition: month, role: labels}}
  outcomes: [delay]
train: {{runner: callable, function: "fleet.training:train"}}
gates: [{{metric: roc_auc, at_least: 0.6}}]
"""
OURS = """
from kaizen_airflow import IngestDag, MonitoringDag, ReconcileDag, ScoringDag, TrainingDag

dags = [
    kind(f"{folder}/{{number}}/kaizen.yml")
    for number in range({loops})
    for kind in (IngestDag, ScoringDag, MonitoringDag, TrainingDag, ReconcileDag)
]
"""
BARE = """
from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetWatcher, BaseOperator
from airflow.triggers.base import BaseEventTrigger


class Watch(BaseEventTrigger):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def serialize(self):
        return ("bare.Watch", {{"folder": self.folder}})

    async def run(self):
        yield


def bell(kind, number, **more):
    return Asset(name=f"{{kind}}/{{number}}", uri=f"x-bare://{{kind}}/{{number}}", group="bare", **more)


TASKS = {{"ingest": 2, "scoring": 1, "monitoring": 2, "training": 4, "reconcile": 1}}
dags = []
for number in range({loops}):
    watcher = AssetWatcher(name=f"landing {{number}}", trigger=Watch(f"landing/{{number}}"))
    schedules = {{
        "ingest": [bell("landing", number, watchers=[watcher])],
        "scoring": bell("data", number) | bell("champion", number),
        "monitoring": [bell("scores", number)],
        "training": [bell("retrain", number)],
        "reconcile": "@hourly",
    }}
    for kind, tasks in TASKS.items():
        with DAG(f"bare_{{number}}_{{kind}}", schedule=schedules[kind], max_active_runs=1, catchup=False,
            default_args={{"retries": 2, "retry_delay": timedelta(seconds=30)}}, tags=["bare"], doc_md="Bare.",
            params={{"because": ""}} if kind == "monitoring" else {{}}) as dag:
            before = None
            for task in range(tasks):
                outlets = [bell(f"out/{{kind}}", number)] if task == tasks - 1 else []
                step = BaseOperator(task_id=f"step_{{task}}", outlets=outlets)
                before >> step if before else None
                before = step
        dags.append(dag)
"""
CHILD = """
import gc, json, resource, runpy, sys, time
import airflow.sdk
import airflow.triggers.base
from airflow.sdk.definitions import asset
imported = time.process_time()
{first}
first = time.process_time() - imported
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
seconds = []
for _ in range(3):
    found = None
    gc.collect()
    began = time.process_time()
    found = runpy.run_path(sys.argv[1])
    seconds.append(time.process_time() - began)
after = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
heavy = sorted({{name.partition(".")[0] for name in sys.modules}} & set({heavy!r}))
facts = dict(seconds=min(seconds), first=first, bytes=after - before, heavy=heavy, dags=len(found["dags"]),
    tasks=sum(len(d.tasks) for d in found["dags"]))
print(json.dumps(facts))
"""


def measure(file: Path, first: str = "") -> dict[str, object]:
    """Parse ``file`` in a fresh process; ``first`` is imported before the clock starts."""
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        program = CHILD.format(first=first, heavy=HEAVY)
        done = subprocess.run([sys.executable, "-c", program, str(file)], env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for loops in (1, arguments.loops):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compare(Path(folder), loops))
    if arguments.json:
        print(json.dumps(rows))
        return 0
    names = ("loops", "DAGs", "tasks", "bare", "ours", "ratio", "yaml", "bare MiB", "ours MiB")
    print(" ".join(f"{name:>9}" for name in names))
    for row in rows:
        seconds = [f"{row[name]:.3f}s" for name in ("bare", "ours")]
        rest = [f"{row['ratio']:.2f}", f"{row['yaml']:.3f}s", f"{row['bare_mib']:.1f}", f"{row['ours_mib']:.1f}"]
        print(" ".join(f"{cell:>9}" for cell in (row["loops"], row["dags"], row["tasks"], *seconds, *rest)))
    print(f"once per process, importing kaizen_airflow after Airflow: {rows[0]['import']:.3f} s")
    print(f"heavy modules imported: {', '.join(rows[-1]['heavy']) or 'none'}; goal: ratio at most 1.2")
    return 0


def compare(folder: Path, loops: int) -> dict[str, object]:
    """One row of the table."""
    sys.path[:0] = [str(ROOT / "core")]
    from kaizen.snapshot import write_snapshot

    for number in range(loops):
        spec = folder / str(number) / "kaizen.yml"
        spec.parent.mkdir()
        spec.write_text(SPEC.format(name=f"loop{number}"))
    files = {"ours": OURS.format(folder=folder, loops=loops), "bare": BARE.format(loops=loops)}
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    face = "import kaizen_airflow.dags"
    (folder / "one.py").write_text(OURS.format(folder=folder, loops=1))
    yaml = measure(folder / "one.py", face)
    for number in range(loops):
        write_snapshot(folder / str(number) / "kaizen.yml", "local")
    bare, ours = measure(folder / "bare.py"), measure(folder / "ours.py", face)
    assert (bare["dags"], bare["tasks"]) == (ours["dags"], ours["tasks"])
    return {
        "loops": loops,
        "dags": ours["dags"],
        "tasks": ours["tasks"],
        "bare": bare["seconds"],
        "ours": ours["seconds"],
        "ratio": float(str(ours["seconds"])) / float(str(bare["seconds"])),
        "yaml": yaml["seconds"],
        "import": ours["first"],
        "bare_mib": int(str(bare["bytes"])) / 2**20,
        "ours_mib": int(str(ours["bytes"])) / 2**20,
        "heavy": ours["heavy"],
    }


if __name__ == "__main__":
    sys.exit(main())
