"""backtest: what the loop would have done. History lands again, partition by partition, on a virtual clock.

Per partition the rows to predict land first and are validated and scored; then the outcomes land and become labels;
the monitor looks, the trigger decides, a retraining trains, the gates decide: all through the same stages, into a
scratch ledger and store. A second replay of the same rows, shuffled across partitions and hence stationary, shows how
often the loop would retrain for nothing.
"""

from __future__ import annotations

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
from kaizen.loop import open_loop
from kaizen.publish import publish_json, publish_text
from kaizen.records import ScoredBatch
from kaizen.review import Review, review, summarise
from kaizen.spec import Spec, load_spec
from kaizen.turn import Advance, advance

if TYPE_CHECKING:
    from kaizen.adapters.history import History

MIN_GAIN = 0.02
MAX_PROMISED_TOO_MUCH = 0.02
MAX_RETRAINS_WHEN_STATIONARY = 1

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Replay:
    """One replay: what the loop did, and how long it took."""

    found: Review
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
    summary = _summarise(spec, real.found, shuffled)
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
    from kaizen.adapters.history import land, land_until

    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    landing = folder / "landing"
    tables = {n: replace(t, uri=str(landing / n / "*.parquet"), columns=()) for n, t in spec.data.tables.items()}
    whole, rows, outcomes = _by_role(spec)
    dated, happened = ([n for n, t in tables.items() if t.timed and getattr(t, kind)] for kind in ("asof", "time"))
    clock = VirtualClock(bounds(next(iter(history[spec.main])), spec.timezone)[0])
    landed = replace(spec, data=replace(spec.data, tables=tables))
    with open_loop(path, env=env, spec=landed, home=folder / "home", clock=clock) as loop:
        land(landing, whole, history)
        for partition in history[spec.main]:
            begin, end = bounds(partition, spec.timezone)
            clock.move_to(max(begin, clock.now()))
            land(landing, rows, history, partition)
            # What is looked up as of a row's time was there before the row.
            land_until(landing, dated, history, end, spec.timezone)
            progress(f"{partition}  rows landed")
            advance(loop)
            scored = loop.head(ScoredBatch, f"score/{partition}")
            clock.move_to(end + spec.problem.label_delay)
            land(landing, outcomes, history, partition)
            land_until(landing, happened, history, clock.now(), spec.timezone)
            done = advance(loop)
            progress(f"{partition}  {_one_line(scored, done)}")
        found = review(loop)
    return Replay(found, round(time.monotonic() - started, 1))


def _by_role(spec: Spec) -> tuple[list[str], list[str], list[str]]:
    """Tables that are there from the beginning; those that bring rows to predict; those that bring outcomes.

    Without those that are cut by a time of their own.
    """
    tables = [(n, t) for n, t in spec.data.tables.items() if not (t.timed and t.own_time)]
    whole = [n for n, t in tables if not t.timed]
    outcomes = [n for n, t in tables if t.timed and t.role == "labels"]
    return whole, [n for n, t in tables if t.timed and t.role == "features"], outcomes


def _one_line(scored: ScoredBatch | None, done: Advance) -> str:
    """What the outcomes of a partition led to, as far as it is at hand: the review comes at the end."""
    if scored is None:
        return f"outcomes landed; {f'{done.turn.outcome}: first champion' if done.turn else 'no champion yet'}"
    drift = next((r.drift for r in reversed(done.health) if r.partition == scored.partition), "unknown")
    gate = ("promoted" if done.turn.promotion else "refused") if done.turn else "no retraining"
    reason = done.decision.reason if done.decision else ""
    return f"champion {scored.champion}, drift {drift}; {gate}: {reason[:80]}"


def _summarise(spec: Spec, real: Review, shuffled: Replay) -> dict[str, Any]:
    summary = summarise(spec, real.months, real.parts, real.retrains)
    twin = shuffled.found
    summary["shuffled"] = {"retrains": twin.retrains, "months": twin.months, "seconds": shuffled.seconds}
    summary["checks"] = _checks(summary)
    return summary


def _checks(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What makes the loop worth it, each with what was found."""
    gain, seen, realised = (summary[key] for key in ("difference", "gain_seen", "gain_realised"))
    by_monitor = sum(m["retrain"] and bool({"drift", "decay"} & set(m["causes"])) for m in summary["months"])
    for_nothing = summary["shuffled"]["retrains"]
    too_much = seen - realised if seen is not None and realised is not None else None
    return [
        _check(
            "the loop is better than never retraining by at least",
            gain,
            MIN_GAIN,
            gain is not None and gain >= MIN_GAIN,
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
            for_nothing,
            MAX_RETRAINS_WHEN_STATIONARY,
            for_nothing <= MAX_RETRAINS_WHEN_STATIONARY,
        ),
    ]


def _check(name: str, value: float | None, limit: float, passed: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "limit": limit, "passed": bool(passed)}
