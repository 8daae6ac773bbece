"""monitor: is the champion still fit for the rows that come? Drift, decay, broken data, or honestly unknown.

Rules are pure functions of profiles and estimates. An alarm needs an effect that matters *and* more than chance: the
yearly false-alarm budget of the spec is shared out over looks, over drift and decay, and over features (Bonferroni).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kaizen import codec
from kaizen.calendar import LOOKS_PER_YEAR
from kaizen.canonical import digest
from kaizen.faults import fault_point
from kaizen.loop import Loop
from kaizen.measures import MEASURES
from kaizen.records import (
    Comparison,
    Estimate,
    EvaluationReport,
    FeatureDrift,
    FeatureProfile,
    Health,
    HealthReport,
    Input,
    Performance,
    Profile,
    Promotion,
    ScoredBatch,
    TrainedModel,
    Window,
)
from kaizen.score import unseen_from
from kaizen.spec import DriftSpec, MonitorSpec, PerformanceSpec
from kaizen.statistics import jensen_shannon, kolmogorov_smirnov, psi, psi_p_value, standard_error, upper_tail


def alarm_level(budget_per_year: float, looks_per_year: float) -> float:
    """Chance of a false alarm that one look, at drift or at decay, may take of the yearly budget."""
    return min(0.5, budget_per_year / looks_per_year / 2)


def judge_drift(
    reference: Profile, current: Profile, spec: MonitorSpec, level: float
) -> tuple[Health, tuple[FeatureDrift, ...], tuple[str, ...]]:
    """Overall status, each feature's, and incidents (data that broke rather than moved)."""
    then = {f.feature: f for f in reference.features}
    watched = [f for f in current.features if f.feature not in spec.drift.ignore]
    each = level / max(1, len(watched))
    drifts = tuple(
        _judge_feature(then.get(f.feature), f, reference.rows, current.rows, spec.drift, each) for f in watched
    )
    grown = [d for d in drifts if d.missing_current - d.missing_reference > spec.max_missing]
    incidents = tuple(
        f"{d.feature}: {d.missing_current:.0%} missing, {d.missing_reference:.0%} at training" for d in grown
    )
    return _sum_up(drifts), drifts, incidents


def _judge_feature(
    then: FeatureProfile | None, now: FeatureProfile, rows_then: int, rows_now: int, spec: DriftSpec, level: float
) -> FeatureDrift:
    missing = now.missing / max(1, rows_now)
    if then is None:
        return FeatureDrift(now.feature, "unknown", None, None, missing, missing)
    missing_then = then.missing / max(1, rows_then)
    if min(rows_then, rows_now) < max(1, spec.min_rows):
        return FeatureDrift(now.feature, "unknown", None, None, missing_then, missing)
    # Missing rows are a bin of their own: a null rate that moves is drift too.
    before = [b.count for b in then.bins] + [then.missing]
    after = [b.count for b in now.bins] + [now.missing]
    value = psi(before, after)
    chance = psi_p_value(value, len(before), rows_then, rows_now)
    status: Health = "alarm" if value >= spec.psi and chance < level else "ok"
    js = jensen_shannon(before, after)
    ks = kolmogorov_smirnov(before[:-1], after[:-1]) if then.numeric else None
    return FeatureDrift(now.feature, status, value, chance, missing_then, missing, js, ks)


def _sum_up(drifts: Sequence[FeatureDrift]) -> Health:
    if any(d.status == "alarm" for d in drifts):
        return "alarm"
    return "unknown" if not drifts or any(d.status == "unknown" for d in drifts) else "ok"


@dataclass(frozen=True)
class Measured:
    """The champion on newly labelled rows, and what the gate saw of it."""

    metric: str
    current: Estimate
    reference: Estimate
    confidence: float
    labelled: int
    rows: int


def judge_performance(measured: Measured | None, spec: PerformanceSpec, level: float, metric: str) -> Performance:
    """Decay: worse than the gate saw by more than ``max_drop``, at one-sided level ``level``; else ok or unknown."""
    if measured is None:
        return Performance("unknown", metric, None, None, 0.0, 0, "no labels yet")
    m, share = measured, measured.labelled / max(1, measured.rows)
    facts = (metric, m.current, m.reference.value, share, m.labelled)
    if share < spec.min_labelled:
        return Performance("unknown", *facts, f"only {share:.0%} of {m.rows} rows are labelled")
    errors = [standard_error(e, m.confidence) for e in (m.current, m.reference)]
    if None in errors:
        return Performance("unknown", *facts, "too few days for an interval")
    spread = sum(e**2 for e in errors if e is not None) ** 0.5
    drop = -MEASURES[metric].gain(m.current.value, m.reference.value)
    chance = upper_tail((drop - spec.max_drop) / spread) if spread else float(drop <= spec.max_drop)
    status: Health = "alarm" if chance < level else "ok"
    return Performance(
        status, *facts, f"{metric} {m.current.value:.4f}, {m.reference.value:.4f} at the gate (p {chance:.2g})"
    )


def monitor(loop: Loop) -> list[HealthReport]:
    """Report on every scored partition whose picture is new: first without labels, again when they have come."""
    return [monitor_partition(loop, batch, labelled=labelled) for batch, labelled in unjudged(loop)]


def unjudged(loop: Loop) -> Iterator[tuple[ScoredBatch, bool]]:
    """Scored partitions whose picture is new, each with whether its labels have come."""
    labelled = set(loop.labelled())
    for partition, batch in loop.heads(ScoredBatch, "score/").items():
        if judgement(loop, batch, labelled=partition in labelled) is None:
            yield batch, partition in labelled


def judgement(loop: Loop, batch: ScoredBatch, *, labelled: bool) -> HealthReport | None:
    """What monitor has said of this very picture, if it has: of these rows, by these labels."""
    return loop.find(HealthReport, _key(loop, batch, _labels(loop, batch, labelled)))


def _labels(loop: Loop, batch: ScoredBatch, labelled: bool) -> tuple[Input, ...]:
    return loop.labels_for(batch.partition) if labelled else ()


def _key(loop: Loop, batch: ScoredBatch, labels: tuple[Input, ...]) -> str:
    # Labels that come late are another version of their partition, and another picture.
    return digest([batch.digest, [i.verdict for i in labels], loop.spec.digest])


def monitor_partition(loop: Loop, batch: ScoredBatch, *, labelled: bool) -> HealthReport:
    """Judge one scored partition and keep the report."""
    promotion = loop.promotion(batch.champion)
    model, spec = loop.model(promotion), loop.spec.monitor
    cut = loop.spec.data.tables[loop.spec.main].partition or "month"
    labels = _labels(loop, batch, labelled)
    level = alarm_level(spec.false_alarms_per_year, LOOKS_PER_YEAR[cut])
    drift, features, incidents = judge_drift(_profile(loop, model.profile), _profile(loop, batch.profile), spec, level)
    measured, realised = _measure(loop, batch, promotion, model) if labelled else (None, None)
    report = HealthReport(
        partition=batch.partition,
        champion=batch.champion,
        drift=drift,
        features=features,
        performance=judge_performance(measured, spec.performance, level, loop.spec.metric),
        incidents=incidents,
        gain_realised=realised,
        labels=labels,
    )
    fault_point("monitor.before_append")
    loop.append(f"health/{batch.partition}", report, _key(loop, batch, labels), turn=promotion.turn)
    return report


def _measure(
    loop: Loop, batch: ScoredBatch, promotion: Promotion, model: TrainedModel
) -> tuple[Measured | None, float | None]:
    """The champion on the labelled rows that it has not seen; the first time, beside the one that it replaced."""
    first = promotion.replaces is not None and _is_first_after(loop, batch, promotion)
    before = loop.promotion(promotion.replaces) if first and promotion.replaces else None
    models = {"candidate": model, **({"champion": loop.model(before)} if before else {})}
    window = Window(unseen_from(loop, promotion), None)
    inputs = loop.inputs_for([batch.partition], labels=True)
    outputs = loop.run(loop.request("evaluate", promotion.turn, inputs=inputs, window=window, models=models))
    found: tuple[Comparison, ...] = codec.decode(tuple[Comparison, ...], outputs["comparisons"])
    whole = next((c for c in found if c.metric == loop.spec.metric and not c.slice), None)
    if whole is None:
        return None, None
    seen = _seen_at_gate(loop, promotion)
    measured = Measured(whole.metric, whole.candidate, seen[0], seen[1], outputs["rows"], batch.rows) if seen else None
    return measured, whole.gain.value if whole.gain else None


def _seen_at_gate(loop: Loop, promotion: Promotion) -> tuple[Estimate, float] | None:
    """The champion's estimate in the evaluation that made it champion, and that report's confidence."""
    for event in loop.ledger.events(
        loop.name, subject=f"candidate/{promotion.turn}", kind="EvaluationReport", newest_first=True
    ):
        report = EvaluationReport.from_json(event.payload)
        for c in report.comparisons:
            if c.metric == loop.spec.metric and not c.slice:
                return c.candidate, report.confidence
    return None


def _is_first_after(loop: Loop, batch: ScoredBatch, promotion: Promotion) -> bool:
    """True if no earlier partition was scored by this champion: what came true is told once per promotion."""
    others = loop.heads(ScoredBatch, "score/")
    return min(p for p, b in others.items() if b.champion == promotion.champion) == batch.partition


def _profile(loop: Loop, text: str) -> Profile:
    return Profile.from_json(json.loads(loop.store.file(text).read_text(encoding="utf-8")))
