"""backtest: what the loop would have done. History lands again, partition by partition, on a virtual clock.

Per partition the rows to predict land first and are validated and scored; then the outcomes land and become labels;
the monitor looks, the trigger decides, a retraining trains, the gates decide: all through the same stages, into a
scratch ledger and store. A second replay of the same rows, shuffled across partitions and hence stationary, shows how
often the loop would retrain for nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaizen import bridge
from kaizen.calendar import bounds
from kaizen.clock import VirtualClock
from kaizen.errors import UsageError
from kaizen.ingest import find_files
from kaizen.loop import Loop, open_loop
from kaizen.measures import MEASURES
from kaizen.publish import publish_file, publish_json, publish_text
from kaizen.records import (
    Estimate,
    EvaluationReport,
    HealthReport,
    Promotion,
    PromotionDecision,
    ScoredBatch,
    TriggerDecision,
    TurnRecord,
    ValidationReport,
    Window,
)
from kaizen.spec import Spec, TableSpec, load_spec
from kaizen.trigger import turn_id
from kaizen.turn import advance

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CONFIDENCE = 0.95
MIN_GAIN = 0.02
MAX_PROMISED_TOO_MUCH = 0.02
MAX_RETRAINS_WHEN_STATIONARY = 1

Progress = Callable[[str], None]
History = dict[str, dict[str, "pd.DataFrame"]]
"""Table to partition to rows; a table that is not cut has the one partition ``all``."""


@dataclass(frozen=True)
class Replay:
    """One replay: a row per scored partition, and the predictions of loop and static model on the same labels."""

    months: list[dict[str, Any]]
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    retrains: int
    seconds: float


def backtest(
    path: Path, out: Path, *, env: str | None = None, seed: int = 0, progress: Progress = print
) -> dict[str, Any]:
    """Replay the history that a spec's sources hold; write ``summary.json`` and ``report.html`` to ``out``.

    Args:
        path: the spec. out: a folder; ``out/replay`` and ``out/shuffled`` are made anew.
        seed: of the shuffle. progress: told one line per step.

    Returns:
        The summary, as ``kaizen.report`` describes it; ``checks`` says whether the loop was worth it.

    Raises:
        UsageError: KZ220: too little history to replay.
    """
    from kaizen import report

    started = time.monotonic()
    spec = load_spec(path, env)
    history = read_history(spec, path)
    progress(f"history: {len(history[spec.main])} partitions of {spec.main}")
    real = _replay(spec, path, history, out / "replay", progress)
    twin_spec, twin = shuffle_history(spec, history, seed)
    progress("again, with the rows shuffled across partitions")
    shuffled = _replay(twin_spec, path, twin, out / "shuffled", progress)
    summary = _summarise(spec, real, shuffled)
    summary["seconds"] = round(time.monotonic() - started, 1)
    publish_json(out / "summary.json", summary)
    publish_text(out / "report.html", report.html(summary))
    publish_text(out / "auc.svg", report.plot_auc(summary))
    return summary


def read_history(spec: Spec, path: Path) -> History:
    """All that the sources hold now, cut into partitions."""
    from kaizen.adapters import tables

    history: History = {}
    for name, table in spec.data.tables.items():
        parts: dict[str, list[pd.DataFrame]] = {}
        for file in find_files(table.uri, path.parent):
            for key, rows in _cut(spec, table, tables.read_source(file, table.columns), str(file)).items():
                parts.setdefault(key, []).append(rows)
        history[name] = {key: _joined(frames) for key, frames in sorted(parts.items())}
    if len(history[spec.main]) < spec.train.min_partitions + 2:
        raise UsageError(
            "KZ220",
            "too little history to replay",
            where=str(path),
            value=f"{len(history[spec.main])} partitions of {spec.main}",
            limit=f"at least {spec.train.min_partitions + 2} (train.min_partitions and two to score)",
            action="let more data land, or lower train.min_partitions",
        )
    return history


def _cut(spec: Spec, table: TableSpec, frame: pd.DataFrame, where: str) -> dict[str, pd.DataFrame]:
    from kaizen.adapters import tables

    if table.partition is None:
        return {"all": frame}
    timed = tables.with_time(frame, spec.problem.timestamp, where)
    return tables.split(timed, spec.problem.timestamp, table.partition, spec.clock.timezone)


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def shuffle_history(spec: Spec, history: History, seed: int) -> tuple[Spec, History]:
    """The same rows with everything but their time shuffled: a stationary twin, and the spec that reads it.

    Look-ups are joined first, so that each row keeps its own; a row number becomes the entity.
    """
    import numpy as np
    import pandas as pd

    from kaizen.adapters.examples import assemble_wide, default_features

    problem = spec.problem
    everything = {name: pd.concat(parts.values(), ignore_index=True) for name, parts in history.items() if parts}
    wide, outcomes = assemble_wide(spec, everything)
    features = problem.features or default_features(spec, wide)
    order = np.random.default_rng(seed).permutation(len(wide))
    times = wide[problem.timestamp].iloc[order].reset_index(drop=True)
    rows = np.arange(len(wide))
    main = wide.assign(**{problem.timestamp: times, "row": rows})
    truth = outcomes.assign(**{problem.timestamp: main[problem.timestamp], "row": rows})
    names = (spec.main, spec.labels or "outcomes")
    tables = {
        names[0]: replace(spec.data.tables[spec.main], columns=()),
        names[1]: TableSpec(uri="", partition=spec.data.tables[spec.main].partition, role="labels"),
    }
    suite = {t: s for t, s in spec.data.suite.items() if t == spec.main}
    twin = replace(
        spec,
        problem=replace(problem, entity=("row",), features=tuple(features)),
        data=replace(spec.data, tables=tables, suite=suite),
    )
    cut = {name: _cut(twin, tables[name], frame, name) for name, frame in zip(names, (main, truth), strict=True)}
    return twin, cut


def _replay(spec: Spec, path: Path, history: History, folder: Path, progress: Progress) -> Replay:
    """Land the history partition by partition and let the loop do what is due each time."""
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    landing = folder / "landing"
    tables = {n: replace(t, uri=str(landing / n / "*.parquet"), columns=()) for n, t in spec.data.tables.items()}
    landed = replace(spec, data=replace(spec.data, tables=tables))
    partitions = list(history[spec.main])
    clock = VirtualClock(bounds(partitions[0], spec.timezone)[0])
    months: list[dict[str, Any]] = []
    parts = []
    with open_loop(path, spec=landed, home=folder / "home", clock=clock) as loop:
        first = _features_of(spec, history)
        for table, rows in first:
            _land(landing, table, "all", rows)
        for partition in partitions:
            begin, end = bounds(partition, spec.timezone)
            clock.move_to(max(begin, clock.now()))
            for table in _tables(spec, labels=False):
                _land(landing, table, partition, history[table].get(partition))
            progress(f"{partition}  rows landed")
            advance(loop)
            scored = loop.head(ScoredBatch, f"score/{partition}")
            clock.move_to(end + spec.problem.label_delay)
            for table in _tables(spec, labels=True):
                _land(landing, table, partition, history[table].get(partition))
            done = advance(loop)
            if scored:
                months.append(_row(loop, partition, scored))
                parts.append(_predictions(loop, partition, scored))
            progress(f"{partition}  {_one_line(months[-1] if scored else None, done.decision, done.turn)}")
        _fill_realised(months, loop)
        _fill_values(loop, months, parts)
        retrains = sum(1 for d in _decisions(loop) if d.retrain and "first" not in d.causes)
    return Replay(months, parts, retrains, round(time.monotonic() - started, 1))


def _features_of(spec: Spec, history: History) -> Iterator[tuple[str, pd.DataFrame]]:
    """Tables that are not cut: there from the beginning."""
    for name, table in spec.data.tables.items():
        if table.partition is None and history[name]:
            yield name, history[name]["all"]


def _tables(spec: Spec, *, labels: bool) -> list[str]:
    """Cut tables of one role."""
    return [n for n, t in spec.data.tables.items() if t.partition and (t.role == "labels") == labels]


def _land(landing: Path, table: str, partition: str, rows: pd.DataFrame | None) -> None:
    from kaizen.adapters.tables import write_parquet

    if rows is not None:
        publish_file(landing / table / f"{partition}.parquet", lambda path: write_parquet(rows, path))


def _decisions(loop: Loop) -> list[TriggerDecision]:
    events = loop.ledger.events(loop.name, subject="trigger", kind="TriggerDecision")
    return [TriggerDecision.from_json(e.payload) for e in events]


def _row(loop: Loop, partition: str, scored: ScoredBatch) -> dict[str, Any]:
    """What happened with one partition, as the report shows it."""
    health = loop.head(HealthReport, f"health/{partition}")
    decision = next((d for d in reversed(_decisions(loop)) if d.partition == partition and d.health), None)
    record = loop.find(TurnRecord, turn_id(decision)) if decision and decision.retrain else None
    verdict = (
        loop.by_digest(PromotionDecision, f"candidate/{record.turn}", record.promotion_decision) if record else None
    )
    reports = [loop.head(ValidationReport, f"validation/{table}/{partition}") for table in loop.spec.data.tables]
    champion = loop.champion()
    return {
        "partition": partition,
        "rows": scored.rows,
        "quarantined": sum(r.quarantined_rows for r in reports if r),
        "labelled": health.performance.rows if health else 0,
        "champion": scored.champion,
        "champion_after": champion[0].champion if champion else None,
        "drift": health.drift if health else "unknown",
        "drifted": [f.feature for f in health.features if f.status == "alarm"] if health else [],
        "features": {f.feature: {"psi": f.psi, "status": f.status} for f in health.features} if health else {},
        "performance": health.performance.status if health else "unknown",
        "retrain": bool(decision and decision.retrain),
        "causes": list(decision.causes) if decision else [],
        "suppressed": decision.suppressed if decision else "",
        "reason": decision.reason if decision else "",
        "gate": None if verdict is None else "promoted" if verdict.promote else "refused",
        "gate_reasons": [g.reason for g in verdict.gates] if verdict else [],
        **_gain_seen(loop, record, verdict),
        "gain_realised": None,
    }


def _gain_seen(loop: Loop, record: TurnRecord | None, verdict: PromotionDecision | None) -> dict[str, float | None]:
    if record is None or verdict is None:
        return {"gain_seen": None, "gain_seen_low": None}
    evaluation = loop.by_digest(EvaluationReport, f"candidate/{record.turn}", verdict.evaluation)
    found = next(
        (c.gain for c in evaluation.comparisons if c.metric == loop.spec.metric and not c.slice and c.gain), None
    )
    return {"gain_seen": found.value if found else None, "gain_seen_low": found.low if found else None}


def _fill_realised(months: list[dict[str, Any]], loop: Loop) -> None:
    """A promotion's gain comes true in the next partition; it belongs beside what the gate saw."""
    for row, following in zip(months, months[1:], strict=False):
        report = loop.head(HealthReport, f"health/{following['partition']}")
        if row["gate"] == "promoted" and report:
            row["gain_realised"] = report.gain_realised


def _predictions(
    loop: Loop, partition: str, scored: ScoredBatch
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Label, the loop's prediction, the never-retrained model's, and day, for the labelled rows of a partition."""
    import numpy as np

    from kaizen.adapters import tables
    from kaizen.adapters.examples import Examples, join_labels

    first = Promotion.from_json(next(loop.ledger.events(loop.name, subject="champion", limit=1)).payload)
    request = loop.request(
        "score",
        "static",
        inputs=loop.inputs_for([partition], labels=False),
        window=Window(None, None),
        models={"champion": loop.model(first)},
    )
    static = tables.read_parquet(Path(bridge.run(request, loop.spec.place)["predictions"]))
    ours = tables.read_parquet(loop.store.file(scored.predictions))
    truth = loop.inputs_for([partition], labels=True)[-1]
    outcomes = ours if loop.spec.labels is None else tables.read_parquet(loop.store.file(truth.address))
    label = join_labels(loop.spec, ours, outcomes)
    known = ~np.isnan(label)
    days = Examples(ours, ours).days(loop.spec.problem.timestamp, loop.spec.clock.timezone)
    return label[known], ours["prediction"].to_numpy()[known], static["prediction"].to_numpy()[known], days[known]


def _fill_values(loop: Loop, months: list[dict[str, Any]], parts: list[Any]) -> None:
    from kaizen.adapters import estimates

    for row, (label, ours, static, day) in zip(months, parts, strict=True):
        for name, prediction in (("value_loop", ours), ("value_static", static)):
            found = estimates.compare(loop.spec.metric, label, {"candidate": prediction}, day, CONFIDENCE)
            row[name] = found.candidate.value if found else None


def _one_line(row: dict[str, Any] | None, decision: TriggerDecision | None, turn: TurnRecord | None) -> str:
    if row is None:
        return f"outcomes landed; {turn.outcome}: first champion" if turn else "outcomes landed; no champion yet"
    what = f"{row['gate']}" if row["gate"] else "no retraining"
    return f"champion {row['champion']}, drift {row['drift']}; {what}: {row['reason'][:80]}"


def _summarise(spec: Spec, real: Replay, shuffled: Replay) -> dict[str, Any]:
    """Averages leave out the first scored partition: there the loop's model is the never-retrained one."""
    from kaizen.adapters import estimates

    months = real.months[1:]
    difference = estimates.mean_difference(spec.metric, real.parts[1:], CONFIDENCE)
    measure = MEASURES[spec.metric]
    if not measure.higher_is_better and difference.low is not None and difference.high is not None:
        difference = Estimate(-difference.value, -difference.high, -difference.low)
    both = [m for m in real.months if m["gain_seen"] is not None and m["gain_realised"] is not None]
    seen, realised = (_mean([m[key] for m in both]) for key in ("gain_seen", "gain_realised"))
    by_monitor = sum(m["retrain"] and bool({"drift", "decay"} & set(m["causes"])) for m in real.months)
    summary = {
        "loop": spec.loop,
        "spec": spec.digest,
        "metric": spec.metric,
        "higher_is_better": measure.higher_is_better,
        "months": real.months,
        "mean_auc_loop": _mean([m["value_loop"] for m in months]),
        "mean_auc_static": _mean([m["value_static"] for m in months]),
        "difference": difference.value,
        "difference_interval": [difference.low, difference.high],
        "confidence": CONFIDENCE,
        "retrains": real.retrains,
        "promotions": sum(m["gate"] == "promoted" for m in real.months),
        "gain_seen": seen,
        "gain_realised": realised,
        "shuffled": {"retrains": shuffled.retrains, "months": shuffled.months, "seconds": shuffled.seconds},
    }
    too_much = seen - realised if seen is not None and realised is not None else None
    summary["checks"] = [
        _check(
            "the loop is better than never retraining by at least",
            difference.value,
            MIN_GAIN,
            difference.value >= MIN_GAIN,
        ),
        _check(
            "gain seen minus gain realised is at most",
            too_much,
            MAX_PROMISED_TOO_MUCH,
            too_much is not None and too_much <= MAX_PROMISED_TOO_MUCH,
        ),
        _check("retrainings started by the monitor, at least", by_monitor, 1, by_monitor >= 1),
        _check(
            "retrainings on shuffled rows, at most",
            shuffled.retrains,
            MAX_RETRAINS_WHEN_STATIONARY,
            shuffled.retrains <= MAX_RETRAINS_WHEN_STATIONARY,
        ),
    ]
    return summary


def _check(name: str, value: float | None, limit: float, passed: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "limit": limit, "passed": bool(passed)}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
