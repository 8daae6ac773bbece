"""backtest: what the loop would have done. History lands again, partition by partition, on a virtual clock.

Per partition the rows to predict land first and are validated and scored; then the outcomes land and become labels;
the monitor looks, the trigger decides, a retraining trains, the gates decide: all through the same stages, into a
scratch ledger and store. A second replay of the same rows, shuffled across partitions and hence stationary, shows how
often the loop would retrain for nothing.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaizen import report
from kaizen.calendar import bounds
from kaizen.clock import VirtualClock
from kaizen.loop import Loop, open_loop
from kaizen.measures import MEASURES
from kaizen.publish import publish_json, publish_text
from kaizen.records import (
    Estimate,
    EvaluationReport,
    HealthReport,
    PromotionDecision,
    ScoredBatch,
    TriggerDecision,
    TurnRecord,
    ValidationReport,
)
from kaizen.spec import Spec, load_spec
from kaizen.trigger import turn_id
from kaizen.turn import advance

if TYPE_CHECKING:
    from kaizen.adapters.history import History, Part

CONFIDENCE = 0.95
MIN_GAIN = 0.02
MAX_PROMISED_TOO_MUCH = 0.02
MAX_RETRAINS_WHEN_STATIONARY = 1

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Replay:
    """One replay: a row per scored partition, and the predictions of loop and static model on the same labels."""

    months: list[dict[str, Any]]
    parts: list[Part]
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
    from kaizen.adapters.history import read_history

    started = time.monotonic()
    out = out.resolve()
    spec = load_spec(path, env)
    history = read_history(spec, path)
    progress(f"history: {len(history[spec.main])} partitions of {spec.main}")
    # The twin is replayed beside, by a process of its own: most of a stage keeps one core busy, not two.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as beside:
        twin = beside.submit(_replay_shuffled, path, out / "shuffled", env, seed)
        real = replay(spec, path, history, out / "replay", progress, env=env)
        if not twin.done():
            progress("waiting for the replay of the same rows, shuffled across partitions")
        shuffled = twin.result()
    summary = _summarise(spec, real, shuffled)
    summary["seconds"] = round(time.monotonic() - started, 1)
    publish_json(out / "summary.json", summary)
    publish_text(out / "report.html", report.html(summary))
    publish_text(out / "auc.svg", report.plot_auc(summary))
    return summary


def _replay_shuffled(path: Path, folder: Path, env: str | None, seed: int) -> Replay:
    """Replay the stationary twin: the same rows, shuffled across partitions."""
    # Threads that wait for each other would take the cores from the replay beside.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from kaizen.adapters.history import read_history, shuffle_history

    spec = load_spec(path, env)
    twin, history = shuffle_history(spec, read_history(spec, path), seed)
    return replay(twin, path, history, folder, lambda _: None, env=env)


def replay(
    spec: Spec, path: Path, history: History, folder: Path, progress: Progress, *, env: str | None = None
) -> Replay:
    """Land ``history`` partition by partition below ``folder`` and let the loop do what is due each time."""
    from kaizen.adapters.history import land, paired_predictions

    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    landing = folder / "landing"
    tables = {n: replace(t, uri=str(landing / n / "*.parquet"), columns=()) for n, t in spec.data.tables.items()}
    whole, rows, outcomes = _by_role(spec)
    clock = VirtualClock(bounds(next(iter(history[spec.main])), spec.timezone)[0])
    months: list[dict[str, Any]] = []
    parts: list[Part] = []
    landed = replace(spec, data=replace(spec.data, tables=tables))
    with open_loop(path, env=env, spec=landed, home=folder / "home", clock=clock) as loop:
        land(landing, whole, history)
        for partition in history[spec.main]:
            begin, end = bounds(partition, spec.timezone)
            clock.move_to(max(begin, clock.now()))
            land(landing, rows, history, partition)
            progress(f"{partition}  rows landed")
            advance(loop)
            scored = loop.head(ScoredBatch, f"score/{partition}")
            clock.move_to(end + spec.problem.label_delay)
            land(landing, outcomes, history, partition)
            done = advance(loop)
            if scored:
                parts.append(paired_predictions(loop, partition, scored))
                months.append(_row(loop, partition, scored, parts[-1]))
            progress(f"{partition}  {_one_line(months[-1] if scored else None, done.turn)}")
        _fill_realised(loop, months)
        retrains = sum(d.retrain and "first" not in d.causes for d in _decisions(loop))
    return Replay(months, parts, retrains, round(time.monotonic() - started, 1))


def _by_role(spec: Spec) -> tuple[list[str], list[str], list[str]]:
    """Tables that are there from the beginning; those that bring rows to predict; those that bring outcomes."""
    tables = spec.data.tables.items()
    whole = [n for n, t in tables if t.partition is None]
    outcomes = [n for n, t in tables if t.partition and t.role == "labels"]
    return whole, [n for n, t in tables if t.partition and t.role == "features"], outcomes


def _decisions(loop: Loop) -> list[TriggerDecision]:
    events = loop.ledger.events(loop.name, subject="trigger", kind="TriggerDecision")
    return [TriggerDecision.from_json(e.payload) for e in events]


def _row(loop: Loop, partition: str, scored: ScoredBatch, part: Part) -> dict[str, Any]:
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
        **_values(loop.spec.metric, part),
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


def _fill_realised(loop: Loop, months: list[dict[str, Any]]) -> None:
    """A promotion's gain comes true in the next partition; it belongs beside what the gate saw."""
    for row, following in itertools.pairwise(months):
        report = loop.head(HealthReport, f"health/{following['partition']}")
        if row["gate"] == "promoted" and report:
            row["gain_realised"] = report.gain_realised


def _values(metric: str, part: Part) -> dict[str, float | None]:
    """The metric of the loop's champion and of the never-retrained model on the same rows."""
    from kaizen.adapters.estimates import compare

    label, ours, static, day = part
    found = {
        n: compare(metric, label, {"candidate": p}, day, CONFIDENCE) for n, p in (("loop", ours), ("static", static))
    }
    return {f"value_{name}": c.candidate.value if c else None for name, c in found.items()}


def _one_line(row: dict[str, Any] | None, turn: TurnRecord | None) -> str:
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
