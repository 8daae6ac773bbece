"""evaluate: candidate and champion on the same rows: the newest labelled window, unseen by both."""

from __future__ import annotations

from datetime import datetime

from kaizen import codec
from kaizen.calendar import bounds
from kaizen.canonical import digest
from kaizen.faults import fault_point
from kaizen.loop import Loop
from kaizen.ports import Run
from kaizen.records import Comparison, EvaluationReport, Input, TrainedModel, TrainingSet
from kaizen.windows import refuse_seen


def evaluate(loop: Loop, examples: TrainingSet, candidate: TrainedModel, turn: str) -> EvaluationReport:
    """Measure in the place, by the gates' metrics and slices. A retry finds the report that is there.

    Raises ``DataRefused`` (KZ429) if the champion, who may be another than when this was trained, has seen the rows.
    """
    if earlier := _earlier(loop, candidate, turn):
        # The attempt that left it may have died in between.
        _show(loop, earlier, turn)
        return earlier
    refuse_seen(loop, examples.gate)
    champion = loop.champion()
    number = champion[0].champion if champion else None
    key = digest([candidate.digest, number, examples.gate.start, examples.gate.end, loop.spec.digest, turn])
    models = {"candidate": candidate, **({"champion": champion[1]} if champion else {})}
    inputs = _inputs_of_gate(loop, examples)
    request = loop.request("evaluate", turn, inputs=inputs, window=examples.gate, models=models)
    outputs = loop.run(request)
    held = loop.acceptance()
    report = EvaluationReport(
        candidate=candidate.digest,
        champion=number,
        window=examples.gate,
        inputs=inputs,
        rows=outputs["rows"],
        blocks=outputs["blocks"],
        confidence=loop.spec.confidence,
        comparisons=codec.decode(tuple[Comparison, ...], outputs["comparisons"]),
        acceptance_set=held.digest if held else "",
        acceptance=codec.decode(tuple[Comparison, ...], outputs.get("acceptance", [])),
    )
    fault_point("evaluate.before_append")
    loop.append(f"candidate/{turn}", report, key, turn=turn)
    _show(loop, report, turn)
    return report


def _show(loop: Loop, report: EvaluationReport, turn: str) -> None:
    whole = [c for c in report.comparisons if not c.slice]
    metrics = {
        f"{role}_{c.metric}": e.value for c in whole for role in ("candidate", "champion") if (e := getattr(c, role))
    }
    metrics |= {f"acceptance_{c.metric}": c.candidate.value for c in report.acceptance}
    gains = {f"gain_{c.metric}": c.gain.value for c in whole if c.gain}
    loop.log(turn, Run("evaluate", metrics={**metrics, **gains, "rows": float(report.rows)}))


def _inputs_of_gate(loop: Loop, examples: TrainingSet) -> tuple[Input, ...]:
    """The partitions that reach into the gate's window, and what its rows may know of."""
    start, zone, tables = datetime.fromisoformat(examples.gate.start or ""), loop.spec.timezone, loop.spec.data.tables
    return tuple(i for i in examples.inputs if tables[i.table].serves_any or bounds(i.partition, zone)[1] > start)


def _earlier(loop: Loop, candidate: TrainedModel, turn: str) -> EvaluationReport | None:
    """The report of an earlier attempt at this turn, if it still compares with the right champion.

    That is today's, or the one that this very turn has replaced.
    """
    for event in loop.ledger.events(loop.name, subject=f"candidate/{turn}", kind="EvaluationReport", newest_first=True):
        report = EvaluationReport.from_json(event.payload)
        if report.candidate != candidate.digest:
            continue
        champion, own = loop.champion(), loop.promotion_in(turn)
        against = own.replaces if own else champion[0].champion if champion else None
        return report if report.champion == against else None
    return None
