"""deploy: bring the champion into service, proving first that it opens there; if it does not, roll back.

In mode ``batch`` being in service means that score uses it from now on.
"""

from __future__ import annotations

from kaizen.errors import IntegrityError, ModelRefused, StageFailed
from kaizen.faults import fault_point
from kaizen.loop import Loop
from kaizen.ports import Run
from kaizen.promote import move_champion
from kaizen.records import Deployment, Promotion


def deploy(loop: Loop, promotion: Promotion, turn: str) -> Deployment:
    """Open the champion in the place and compare its predictions on its own example with those at training.

    A champion that does not open or answers otherwise is replaced by the one before it, as a promotion of its own.
    """
    key = f"{promotion.champion}/{promotion.candidate}"
    found = loop.find(Deployment, key)
    if found is None:
        check = _prove(loop, promotion, turn)
        found = Deployment(
            promotion.digest, promotion.champion, loop.spec.deploy.mode, not check, check or "parity holds"
        )
        fault_point("deploy.before_append")
        loop.append("deployment", found, key, turn=turn)
    if not found.live:
        _roll_back(loop, promotion, turn, found.check)
    loop.log(turn, Run("deploy", tags={"kaizen.live": str(found.live).lower(), "kaizen.check": found.check[:500]}))
    return found


def _prove(loop: Loop, promotion: Promotion, turn: str) -> str:
    """Why the model cannot serve, or ""."""
    model = loop.model(promotion)
    try:
        outputs = loop.run(loop.request("deploy", turn, models={"champion": model}))
    except (IntegrityError, ModelRefused, StageFailed) as error:
        return f"{error.code}: {error.what}"
    if outputs["parity"] != model.parity:
        return f"predictions on the model's own example differ: {outputs['parity'][:12]}, not {model.parity[:12]}"
    return ""


def _roll_back(loop: Loop, promotion: Promotion, turn: str, reason: str) -> None:
    """Make the champion before ``promotion`` champion again; the first one has nothing to go back to."""
    if promotion.replaces is None:
        return
    previous = loop.promotion(promotion.replaces)
    back = Promotion(
        champion=promotion.champion + 1,
        turn=previous.turn,
        candidate=previous.candidate,
        model=previous.model,
        decision=previous.decision,
        replaces=promotion.champion,
        gain_seen=None,
        reason=f"rolled back from {promotion.champion}: {reason}",
    )
    move_champion(loop, back, turn)
