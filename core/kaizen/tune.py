"""tune: before a training, find its parameters by trials on rows that are older than the gate's.

A trial trains in the loop's place on the rows before the selection's, and is measured on those: the newest labelled
``evaluate.window`` before the gate's. The best configuration is then trained on all rows before the gate's, and that
model is the candidate. The study is kept in SQL by the process that runs the stage; a place knows nothing of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.util import find_spec
from typing import Any

from kaizen.bridge import PlacedStage, Request
from kaizen.canonical import digest
from kaizen.causes import Cause
from kaizen.errors import MissingDependency, StageFailed
from kaizen.faults import fault_point
from kaizen.loop import Loop
from kaizen.measures import MEASURES
from kaizen.ports import Run, Study
from kaizen.records import ContainerRun, Search, TrainingSet, Trial, TrialState, Window
from kaizen.spec import TuneSpec
from kaizen.trials import Spool, parse_reports
from kaizen.tune_page import write_page

_STAGE: PlacedStage = "trial"
_CODE_FAILED = ("KZ701", Cause.NO_RESULT.code)
"""Training code raised, or took its process with it: of the default configuration that is the code's fault."""
SURVIVED = (*_CODE_FAILED, Cause.OUT_OF_MEMORY.code, Cause.OUT_OF_TIME.code, Cause.OUT_OF_GPU_MEMORY.code)
"""What a configuration may do to its own trial; the search goes on with the next."""
_ENDED = (Cause.ENDED_FROM_OUTSIDE.code, Cause.NO_RESULT.code)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spent:
    """What the trials of a study have used: how many, seconds, and seconds times GPUs."""

    trials: int
    seconds: float
    gpu_seconds: float


def why_over(tune: TuneSpec, spent: Spent) -> str:
    """The budget that is used up, "" if none is. The first trial, the default configuration, is always due."""
    if spent.trials == 0:
        return ""
    if spent.trials >= tune.trials:
        return "trials"
    if tune.time is not None and spent.seconds >= tune.time.total_seconds():
        return "time"
    if tune.gpu_hours is not None and spent.gpu_seconds >= tune.gpu_hours * 3600:
        return "gpu_hours"
    return ""


def require_optuna() -> None:
    """Refuse before anything is decided: ``MissingDependency`` where a search could not be kept."""
    if find_spec("optuna") is None:
        raise MissingDependency("Optuna", "tune")


def selection(loop: Loop, examples: TrainingSet) -> tuple[Window, Window]:
    """The rows that trials train on, and those that they are measured on: the newest of the training set."""
    return examples.window.cut(loop.spec.evaluate.window, loop.spec.timezone)


def find_parameters(loop: Loop, examples: TrainingSet, key: str, turn: str) -> dict[str, Any]:
    """The best configuration; {} without ``tune`` in the spec. A retry goes on where the attempt before stopped.

    Args:
        key: idempotency key of the training that they are for.
    """
    if loop.spec.tune is None:
        return {}
    if (found := loop.find(Search, key)) is None:
        found = _search(loop, loop.spec.tune, examples, key, turn)
        loop.append(f"candidate/{turn}", found, key, turn=turn)
    _show_page(loop, found, turn)
    return dict(found.parameters)


def _search(loop: Loop, tune: TuneSpec, examples: TrainingSet, key: str, turn: str) -> Search:
    higher = MEASURES[loop.spec.metric].higher_is_better
    with loop.open_study(f"{loop.name}/{key[:16]}", tune, higher_is_better=higher) as study:
        # Of an attempt before: it may have died before it showed its last.
        for trial in study.trials():
            if trial.state != "running":
                _show(loop, study, trial, turn)
        while not (reason := why_over(tune, spent := _spent(loop, tune, study, turn))):
            trial = _try_next(loop, tune, spent, study, examples, turn)
            _tell(loop, study, trial)
            _show(loop, study, trial, turn)
            fault_point("tune.after_trial")
        if left := study.unfinished():
            study.tell(left.number, "failed", 0.0, reason=f"the budget of {reason} is used up")
        return _found(loop, study, examples, reason)


def _found(loop: Loop, study: Study, examples: TrainingSet, reason: str) -> Search:
    """The record of a study that has ended."""
    trials = study.trials()
    best = best_trial(trials, higher_is_better=MEASURES[loop.spec.metric].higher_is_better)
    if best is None:
        raise _nothing_works(trials)
    return Search(
        study=study.name,
        training_set=examples.digest,
        metric=loop.spec.metric,
        window=selection(loop, examples)[1],
        trials=tuple(trials),
        best=best.number,
        parameters=best.parameters,
        importance=study.importance(),
        ended_by=reason,
    )


def best_trial(trials: list[Trial], *, higher_is_better: bool) -> Trial | None:
    """The one whose value is best; of equal ones the first, so that the default wins unless something beats it."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    sign = -1 if higher_is_better else 1
    return min(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)


def _spent(loop: Loop, tune: TuneSpec, study: Study, turn: str) -> Spent:
    trials = [trial for trial in study.trials() if trial.state != "running"]
    gpu_seconds = _gpu_seconds(loop, turn) if tune.gpu_hours is not None else 0.0
    return Spent(len(trials), sum(trial.seconds for trial in trials), gpu_seconds)


def _gpu_seconds(loop: Loop, turn: str) -> float:
    """Of every container that ran a trial of this turn, also of those that failed."""
    runs = [
        ContainerRun.from_json(event.payload)
        for event in loop.ledger.events(loop.name, kind=ContainerRun.__name__)
        if event.turn == turn
    ]
    return sum(run.seconds * len(run.gpus) for run in runs if run.stage == _STAGE)


def _try_next(loop: Loop, tune: TuneSpec, spent: Spent, study: Study, examples: TrainingSet, turn: str) -> Trial:
    """Run one trial to its end: that which an earlier attempt left unfinished, else a new one."""
    trial = study.unfinished() or study.ask()
    fault_point("tune.after_ask")
    log.info("trial %d of %d: %s", trial.number + 1, tune.trials, _words(trial.parameters))
    watch = _Watch(study, trial.number, loop.spec.place.stop_timeout, loop)
    left = tune.time and tune.time - timedelta(seconds=spent.seconds)
    begun = loop.caller.clock.now()
    try:
        outputs = loop.run(_request(loop, examples, trial, turn), watch=watch, limit=left)
    except StageFailed as error:
        seconds = (loop.caller.clock.now() - begun).total_seconds()
        state = _state_of(error, watch, is_default=trial.parameters == tune.defaults)
        if state is None:
            raise
        log.warning("trial %d %s: %s", trial.number + 1, state, error)
        study.tell(trial.number, state, seconds, reason=f"{error.code}: {error.what}")
    else:
        study.report(trial.number, [(int(step), float(value)) for step, value in outputs["reports"]])
        state = "pruned" if outputs["stopped"] else "complete"
        fault_point("tune.before_tell")
        study.tell(trial.number, state, outputs["seconds"], value=outputs["value"])
    return next(ended for ended in study.trials() if ended.number == trial.number)


def _state_of(error: StageFailed, watch: _Watch, *, is_default: bool) -> TrialState | None:
    """What a failure makes of a trial; None if it says nothing about the configuration, and the stage fails with it."""
    if watch.stopped is not None and error.code in _ENDED:
        return "pruned"
    if error.code not in SURVIVED or (is_default and error.code in _CODE_FAILED):
        return None
    return "failed"


def _request(loop: Loop, examples: TrainingSet, trial: Trial, turn: str) -> Request:
    trained, measured = selection(loop, examples)
    return loop.request(
        _STAGE,
        turn,
        inputs=examples.inputs,
        window=trained,
        parameters=trial.parameters,
        selection=measured,
        checkpoints=f"checkpoints-{digest(trial.parameters)[:16]}",
    )


class _Watch:
    """Hands a running trial's reports to the study; asks it to stop when the study says so, and then ends it."""

    def __init__(self, study: Study, number: int, grace: timedelta, loop: Loop) -> None:
        self.study, self.number, self.grace, self.clock = study, number, grace, loop.caller.clock
        self.stopped: datetime | None = None
        """When it was asked to stop."""

    def __call__(self, spool: Spool) -> None:
        """One look."""
        if self.stopped is not None:
            if self.clock.now() - self.stopped > self.grace:
                spool.end()
            return
        if self.study.report(self.number, parse_reports(spool.reports())):
            log.info("trial %d is not worth more time", self.number + 1)
            spool.stop()
            self.stopped = self.clock.now()


def _words(parameters: Mapping[str, Any]) -> str:
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in parameters.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _tell(loop: Loop, study: Study, trial: Trial) -> None:
    """Say how a trial went."""
    best = best_trial(study.trials(), higher_is_better=MEASURES[loop.spec.metric].higher_is_better)
    value = "no value" if trial.value is None else f"{loop.spec.metric} {trial.value:.4f}"
    so_far = f"; best {best.value:.4f}, trial {best.number + 1}" if best and best.value is not None else ""
    log.info("trial %d: %s, %s%s", trial.number + 1, trial.state, value, so_far)


def _show(loop: Loop, study: Study, trial: Trial, turn: str) -> None:
    """Show a trial on the tracking server; again is nothing."""
    loop.log(
        turn,
        Run(
            stage=f"trial-{trial.number + 1:03}",
            parent="train",
            params={name: str(value) for name, value in trial.parameters.items()},
            metrics={} if trial.value is None else {loop.spec.metric: trial.value},
            history={f"{loop.spec.metric}_so_far": study.reports(trial.number)},
            tags={"kaizen.trial": trial.state, **({"kaizen.reason": trial.reason} if trial.reason else {})},
        ),
    )


def _show_page(loop: Loop, search: Search, turn: str) -> None:
    """The search as a page, beside its trials on the tracking server."""
    page = loop.home / "runs" / turn / "tune.html"
    write_page(search, page)
    loop.log(
        turn,
        Run(
            stage="tune",
            parent="train",
            params={name: str(value) for name, value in search.parameters.items()},
            metrics={"trials": float(len(search.trials))},
            tags={"kaizen.search": search.digest},
            artifacts=[page],
        ),
    )


def _nothing_works(trials: list[Trial]) -> StageFailed:
    reasons = dict.fromkeys(trial.reason for trial in trials if trial.reason)
    return StageFailed(
        "KZ730",
        "no trial of the search came to its end",
        where=f"{len(trials)} trials",
        value="; ".join(reasons)[:500],
        limit="at least one that is trained and measured",
        action="correct what the reasons name; a retry begins after the trials that there were",
    )
