"""`make demo`: the flights of 2013 through a real Airflow, month by month, and the backtest's decisions beside it.

Months land as files: the schedules, then, when Airflow has scored them, the outcomes. Nothing else is triggered from
outside. It passes if every DAG run succeeded and every decision is the one that the backtest made.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from demo.airflow_service import AirflowService, sigterm_exits
from kaizen import report
from kaizen.adapters.history import History, land, read_history
from kaizen.backtest import Replay, replay
from kaizen.loop import Loop, open_loop
from kaizen.publish import publish_json, publish_text
from kaizen.records import Promotion
from kaizen.review import differences, review, summarise
from kaizen.snapshot import write_snapshot
from kaizen.spec import Spec, load_spec
from kaizen.stages import due

ROOT = Path(__file__).resolve().parents[1]
DAGS = {kind: f"nyc.flights_{kind}" for kind in ("ingest", "scoring", "monitoring", "training", "reconcile")}
PATIENCE = 180.0
"""Seconds for what one landing sets off."""


def main() -> int:
    """Run the year; the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "demo")
    parser.add_argument("--months", type=int, default=12, help="how many of the year's months land")
    parser.add_argument(
        "--apart",
        metavar="PYTHON",
        # Not resolved: the Python of a virtual environment is a link, and known by its own name.
        type=lambda path: str(Path(path).absolute()),
        help="run Airflow by this Python, which needs only kaizen-mlops[airflow]; stages run by the present one",
    )
    parser.add_argument("--image", help="run stages in containers of this image, made by `kaizen image build`")
    parser.add_argument("--engine", default="", metavar="URL", help="of the Docker engine; default: this machine's")
    parser.add_argument("--ui", action="store_true", help="leave Airflow running until Ctrl-C")
    arguments = parser.parse_args()
    with sigterm_exits():
        return demo(
            arguments.out.resolve(), arguments.months, _place(arguments), ui=arguments.ui, apart=arguments.apart
        )


def _place(arguments: argparse.Namespace) -> dict[str, str]:
    if arguments.image:
        return {"mode": "docker", "image": arguments.image, "engine": arguments.engine}
    return {"mode": "python", "interpreter": sys.executable} if arguments.apart else {"mode": "in_process"}


def demo(out: Path, months: int, place: dict[str, str], *, ui: bool = False, apart: str | None = None) -> int:
    """Land ``months`` months below ``out`` while a real Airflow works; 0 if all went as in the backtest."""
    began = time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    spec_file, history = _make_project(out, months, place)
    spec = load_spec(spec_file, "local")
    with _replaying(spec_file, out / "backtest", months) as twin, _airflow(out, apart or sys.executable) as airflow:
        _say(f"Airflow is up at {airflow.url} after {time.monotonic() - began:.0f} s")
        airflow.wait_for_dags(DAGS.values())
        started = time.monotonic()
        _live_through(airflow, spec, spec_file, history)
        seconds = time.monotonic() - started
        runs = airflow.dag_runs()
        spent = _where_time_went(airflow, runs, seconds)
        _say("waiting for the backtest of the same months") if not twin.done() else None
        summary = _summarise(spec, spec_file, runs, spent, twin.result())
        summary["seconds"] = round(time.monotonic() - began, 1)
        publish_json(out / "summary.json", summary)
        publish_text(out / "report.html", report.html(summary))
        print(report.table(summary))
        print(f"\nreport: {out / 'report.html'}  facts: {out / 'summary.json'}")
        if ui:
            _stay(airflow)
    return 0 if all(check["passed"] for check in summary["checks"]) else 1


def _make_project(out: Path, months: int, place: dict[str, str]) -> tuple[Path, History]:
    """A new project from the starter whose tables land as files; and what will land, by table and month."""
    config = out / "flights.yml"
    values = {"project_name": "Flights", "repo_name": "flights", "python_package": "flights", "output_dir": str(out)}
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    kedro = [str(Path(sys.executable).with_name("kedro")), "new", "--starter=kaizen-flights", "--config", str(config)]
    subprocess.run([*kedro, "--telemetry", "no"], check=True, stdout=subprocess.DEVNULL)
    spec_file = out / "flights" / "conf" / "base" / "kaizen.yml"
    template = load_spec(spec_file)
    history = read_history(template, spec_file)
    kept = sorted(history[template.main])[:months]
    tables = {n: {"uri": f"../../landing/{n}/*.parquet", "columns": None} for n in template.data.tables}
    overlay = out / "flights" / "conf" / "local" / "kaizen.yml"
    overlay.write_text(yaml.safe_dump({"data": {"tables": tables}, "place": place}), encoding="utf-8")
    write_snapshot(spec_file, "local")
    whole = {n for n, t in template.data.tables.items() if not t.timed}
    return spec_file, {n: p if n in whole else {k: p[k] for k in kept if k in p} for n, p in history.items()}


@contextmanager
def _replaying(spec_file: Path, folder: Path, months: int) -> Iterator[Future[Replay]]:
    """The backtest of the same months, in a process beside, which takes the time that Airflow leaves."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as beside:
        try:
            yield beside.submit(_replay, spec_file, folder, months)
        except BaseException:
            for process in list(beside._processes.values()):
                process.terminate()
            raise


def _replay(spec_file: Path, folder: Path, months: int) -> Replay:
    os.nice(19)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    spec = load_spec(spec_file)
    history = read_history(spec, spec_file)
    kept = sorted(history[spec.main])[:months]
    whole = {n for n, t in spec.data.tables.items() if not t.timed}
    some = {n: p if n in whole else {k: p[k] for k in kept if k in p} for n, p in history.items()}
    return replay(spec, spec_file, some, folder, lambda _: None)


def _airflow(out: Path, python: str) -> AirflowService:
    """The four processes of an Airflow of its own, with warm workers and all DAGs awake."""
    return AirflowService(
        home=out / "airflow",
        dags=ROOT / "dags",
        settings={
            "core.dags_are_paused_at_creation": "False",
            # The DAG files do not change.
            "dag_processor.min_file_process_interval": "600",
            "kaizen.projects": str(out),
            "kaizen.landing_poll": "0.2",
            "kaizen.preload": "True",
        },
        env={
            "KAIZEN_ENV": "local",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "GX_ANALYTICS_ENABLED": "false",
        },
        template=ROOT / "build" / "airflow-template",
        python=python,
    )


def _live_through(airflow: AirflowService, spec: Spec, spec_file: Path, history: History) -> None:
    """Let the year happen."""
    landing = spec_file.parents[2] / "landing"
    tables = spec.data.tables.items()
    rows = [n for n, t in tables if t.timed and t.role == "features"]
    outcomes = [n for n, t in tables if t.role == "labels"]
    land(landing, [n for n, t in tables if not t.timed], history)
    with open_loop(spec_file, env="local") as loop:
        for month in sorted(history[spec.main]):
            began, before = time.monotonic(), airflow.count_runs()
            land(landing, rows, history, month)
            # Outcomes may only come when the month has been predicted.
            _wait_until_done(airflow, loop, rows, month, ("score",))
            land(landing, outcomes, history, month)
            _wait_until_done(airflow, loop, outcomes, month, ("score", "monitor", "trigger", "train"))
            airflow.wait_idle(PATIENCE)
            runs, seconds = airflow.count_runs() - before, time.monotonic() - began
            _say(f"{month}  {runs} DAG runs in {seconds:.1f} s; {_champion(loop)}")


def _wait_until_done(airflow: AirflowService, loop: Loop, tables: list[str], month: str, stages: Sequence[str]) -> None:
    """Wait until a month of ``tables`` has its verdict and nothing of ``stages`` is due any more.

    Raises SystemExit if a DAG run fails, or after PATIENCE.
    """
    deadline = time.monotonic() + PATIENCE
    judged = [f"validation/{table}/{month}" for table in tables]
    while not all(loop.ledger.head(loop.name, each) for each in judged) or due(loop, stages):
        if time.monotonic() > deadline:
            raise SystemExit(f"{month} has not come through within {PATIENCE:.0f} s of its landing")
        time.sleep(0.5)
        if failed := airflow.dag_runs(states=["failed"]):
            raise SystemExit(_why_failed(airflow, failed[0]))


def _champion(loop: Loop) -> str:
    promotion = loop.head(Promotion, "champion")
    return f"champion {promotion.champion}" if promotion else "no champion yet"


def _why_failed(airflow: AirflowService, run: dict[str, Any]) -> str:
    """A failed run and the end of its failed task's log."""
    tasks = airflow.task_instances(run["dag_id"], run["dag_run_id"])
    failed = next((t for t in tasks if t["state"] == "failed"), tasks[0])
    log = airflow.task_log(run["dag_id"], run["dag_run_id"], failed["task_id"], max(1, failed["try_number"]))
    return f"{run['dag_id']} {run['dag_run_id']} failed in {failed['task_id']}:\n" + "\n".join(log.splitlines()[-30:])


def _where_time_went(airflow: AirflowService, runs: list[dict[str, Any]], seconds: float) -> dict[str, float]:
    """Seconds of the year: in stages, in imports, and the rest: Airflow's own, and waiting for it."""
    spent: Counter[str] = Counter()
    for run in runs:
        for task in airflow.task_instances(run["dag_id"], run["dag_run_id"]):
            if task["try_number"]:  # else it was skipped with the task before it
                spent.update(airflow.xcom(run["dag_id"], run["dag_run_id"], task["task_id"])["seconds"])
    return {
        "stage work": round(spent["work"], 1),
        "imports": round(spent["imports"], 1),
        "Airflow": round(seconds - spent["work"] - spent["imports"], 1),
    }


def _summarise(
    spec: Spec, spec_file: Path, runs: list[dict[str, Any]], spent: dict[str, float], twin: Replay
) -> dict[str, Any]:
    """The table's facts as the backtest has them; DAG runs and time; and where the two decided otherwise."""
    with open_loop(spec_file, env="local") as loop:
        found = review(loop)
    states = Counter(run["state"] for run in runs)
    differ = differences(found.months, twin.found.months)
    checks = [
        _check("DAG runs that did not succeed, at most", len(runs) - states["success"], 0),
        _check("decisions other than the backtest's, at most", len(differ), 0),
        _check("months missing from the table, at most", len(twin.found.months) - len(found.months), 0),
    ]
    return {
        **summarise(spec, found.months, found.parts, found.retrains),
        "dag_runs": dict(states),
        "time": spent,
        "differences": differ,
        "checks": checks,
    }


def _check(name: str, value: int, limit: int) -> dict[str, Any]:
    return {"name": name, "value": value, "limit": limit, "passed": value <= limit}


def _stay(airflow: AirflowService) -> None:
    user, password = airflow.login
    print(f"\nAirflow: {airflow.url}   user: {user}   password: {password}\nCtrl-C ends it.", flush=True)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("ending Airflow")


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
