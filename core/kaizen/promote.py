"""promote: say yes or no, with a reason for every gate; move the champion by compare-and-set.

``decide_promotion`` is the whole rule. What it cannot know (too few rows for an interval, no champion to compare with
where one is asked for) is never a yes.
"""

from __future__ import annotations

from collections.abc import Sequence

from kaizen.errors import HeadMoved
from kaizen.faults import fault_point
from kaizen.loop import Loop
from kaizen.ports import Run
from kaizen.records import Comparison, EvaluationReport, GateResult, Promotion, PromotionDecision, TrainedModel
from kaizen.spec import GateSpec
from kaizen.store import split_address


def decide_promotion(evaluation: EvaluationReport, gates: Sequence[GateSpec]) -> PromotionDecision:
    """Every gate must pass. Without a champion, gates against it have nothing to say and pass."""
    results = tuple(result for gate in gates for result in _judge(gate, evaluation))
    return PromotionDecision(
        evaluation=evaluation.digest,
        candidate=evaluation.candidate,
        champion=evaluation.champion,
        promote=all(r.passed for r in results),
        gates=results,
    )


def _judge(gate: GateSpec, evaluation: EvaluationReport) -> list[GateResult]:
    held = gate.rows == "acceptance"
    measured = evaluation.acceptance if held else evaluation.comparisons
    found = [c for c in measured if c.metric == gate.metric]
    whole = next((c for c in found if not c.slice), None)
    if gate.slices:
        return _judge_slices(gate, evaluation, found)
    name = f"{gate.metric} against champion" if gate.against else f"{gate.metric} floor"
    name += " on the acceptance set" if held else ""
    limit = gate.margin if gate.against else (gate.at_least if gate.at_least is not None else gate.at_most) or 0.0
    if whole is None:
        rows = "the acceptance set" if held else f"{evaluation.rows} labelled rows"
        return [GateResult(name, False, None, limit, f"unknown: {rows} cannot be measured")]
    if gate.against:
        return [_judge_gain(gate, evaluation, whole, name)]
    value = whole.candidate.value
    passed = value >= limit if gate.at_least is not None else value <= limit
    sign = "at least" if gate.at_least is not None else "at most"
    where = f" on {whole.rows} rows set aside" if held else ""
    return [GateResult(name, passed, value, limit, f"{gate.metric} {value:.4f}{where}, {sign} {limit:g} asked")]


def _judge_gain(gate: GateSpec, evaluation: EvaluationReport, whole: Comparison, name: str) -> GateResult:
    if evaluation.champion is None:
        return GateResult(name, True, None, gate.margin, "no champion yet")
    if whole.gain is None or whole.gain.low is None or whole.gain.high is None:
        reason = f"unknown: {evaluation.blocks} days are too few for an interval"
        return GateResult(name, False, whole.gain.value if whole.gain else None, gate.margin, reason)
    gain = whole.gain
    reason = f"gain {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}], lower end above {gate.margin:g} asked"
    return GateResult(name, whole.gain.low > gate.margin, gain.value, gate.margin, reason)


def _judge_slices(gate: GateSpec, evaluation: EvaluationReport, found: list[Comparison]) -> list[GateResult]:
    """No slice may be worse than ``max_drop`` beyond chance. Small slices say nothing; one at least must speak."""
    drop = gate.max_drop or 0.0
    results = []
    for column in gate.slices:
        name = f"{gate.metric} by {column}"
        gains = [(c.slice, c.gain) for c in found if c.slice.startswith(f"{column}=") and c.gain]
        known = [(s, g) for s, g in gains if g.high is not None]
        worse = [(s, g) for s, g in known if g.high is not None and g.high < -drop]
        value = min((g.value for _, g in gains), default=None)
        if worse:
            slice_name, gain = min(worse, key=lambda item: item[1].value)
            reason = f"{slice_name} is worse by {-gain.value:.4f}, at most {drop:g} asked"
            results.append(GateResult(name, False, gain.value, drop, reason))
        elif evaluation.champion is not None and not known:
            results.append(GateResult(name, False, value, drop, f"unknown: no slice of {len(gains)} has an interval"))
        else:
            results.append(GateResult(name, True, value, drop, f"no slice of {len(known)} is worse beyond chance"))
    return results


def promote(
    loop: Loop, evaluation: EvaluationReport, candidate: TrainedModel, turn: str
) -> tuple[PromotionDecision, Promotion | None]:
    """Keep the decision; if it is yes, register the model and move the champion.

    Raises:
        HeadMoved: KZ501: another promotion came first; evaluate against the new champion.
    """
    decision = decide_promotion(evaluation, loop.spec.gates)
    loop.append(f"candidate/{turn}", decision, f"{turn}/{evaluation.digest}", turn=turn)
    fault_point("promote.after_decision")
    register(loop, candidate, turn)
    if not decision.promote:
        heal_aliases(loop)
        _show(loop, decision, turn)
        return decision, None
    promotion = _promotion(evaluation, decision, candidate, turn, loop.spec.metric)
    move_champion(loop, promotion, turn)
    _show(loop, decision, turn)
    return decision, promotion


def _promotion(
    evaluation: EvaluationReport, decision: PromotionDecision, candidate: TrainedModel, turn: str, metric: str
) -> Promotion:
    seen = next((c.gain.value for c in evaluation.comparisons if c.metric == metric and not c.slice and c.gain), None)
    return Promotion(
        champion=(evaluation.champion or 0) + 1,
        turn=turn,
        candidate=candidate.digest,
        model=candidate.model,
        decision=decision.digest,
        replaces=evaluation.champion,
        gain_seen=seen,
    )


def move_champion(loop: Loop, promotion: Promotion, turn: str) -> None:
    """Append to ``champion`` what replaces the head that was evaluated against; then let the alias follow."""
    fault_point("promote.before_append")
    try:
        # The chain holds one promotion per champion, so the number replaced is the sequence expected.
        key = f"{promotion.replaces or 0}/{promotion.candidate}/{promotion.reason}"
        loop.append("champion", promotion, key, turn=turn, expect=promotion.replaces or 0)
    except HeadMoved as error:
        error.action = "evaluate the candidate against the new champion: start a new turn"
        raise
    fault_point("promote.after_append")
    heal_aliases(loop)


def register(loop: Loop, model: TrainedModel, turn: str) -> int:
    """The registry's version of a trained model, made if there is none."""
    run_id = loop.registry.open_turn(loop.name, turn)
    _, identity = split_address(model.model)
    tags = {"kaizen.candidate": model.digest, "kaizen.turn": turn}
    return loop.registry.register(
        registry_name(loop), loop.store.folder(model.model), identity, run_id=run_id, tags=tags
    )


def registry_name(loop: Loop) -> str:
    """The name of the loop's registered model; the registry accepts no slash."""
    return loop.name.replace("/", ".")


def heal_aliases(loop: Loop) -> list[str]:
    """Make ``champion`` and ``challenger`` show what the ledger says; what was mended, in words."""
    name, mended = registry_name(loop), []
    for alias, wanted in _wanted_aliases(loop).items():
        version = register(loop, wanted[0], wanted[1]) if wanted else None
        found = loop.registry.alias(name, alias)
        if found != version:
            loop.registry.set_alias(name, alias, version)
            mended.append(f"{alias}: {found} -> {version}")
    return mended


def _wanted_aliases(loop: Loop) -> dict[str, tuple[TrainedModel, str] | None]:
    """champion: the head. challenger: the newest candidate that was refused since."""
    champion = loop.champion()
    newest = next(loop.ledger.events(loop.name, kind="PromotionDecision", newest_first=True, limit=1), None)
    challenger = None
    if newest:
        decision = PromotionDecision.from_json(newest.payload)
        if not decision.promote:
            model = loop.by_digest(TrainedModel, newest.subject, decision.candidate)
            challenger = (model, newest.turn)
    return {"champion": (champion[1], champion[0].turn) if champion else None, "challenger": challenger}


def _show(loop: Loop, decision: PromotionDecision, turn: str) -> None:
    reasons = {f"gate.{i}": result.reason for i, result in enumerate(decision.gates, 1)}
    loop.log(turn, Run("promote", tags={"kaizen.promote": str(decision.promote).lower(), **reasons}))
