"""Where a loop stands, now or as of a moment: one fold over the heads of its subjects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kaizen.ledger import Event, Ledger
from kaizen.records import (
    AcceptanceSet,
    HealthReport,
    Promotion,
    TrainedModel,
    TriggerDecision,
    TurnRecord,
    ValidationReport,
)

_TIME = re.compile(r"\d{4}(-\d\d){0,2}")


def status(ledger: Ledger, loop: str, as_of: datetime | None = None) -> dict[str, Any]:
    """The state of ``loop`` as JSON values: champion and why, data, health, last decision, last turn."""
    heads = ledger.heads(loop, as_of=as_of)
    return {
        "loop": loop,
        "as_of": as_of.isoformat() if as_of else None,
        "champion": _champion(heads.get("champion"), ledger, loop),
        "acceptance": _acceptance(heads.get("acceptance")),
        "data": _data(heads),
        "health": _health(heads),
        "decision": _decision(heads.get("trigger")),
        "turn": _turn(heads.get("turn")),
    }


def render(state: dict[str, Any]) -> str:
    """``status`` for people: a few lines, unknown said as unknown."""
    champion, health, decision, turn = (state[key] for key in ("champion", "health", "decision", "turn"))
    lines = [f"loop      {state['loop']}" + (f"  as of {state['as_of']}" if state["as_of"] else "")]
    if champion:
        gain = "" if champion["gain_seen"] is None else f", gain seen {champion['gain_seen']:+.4f}"
        lines.append(f"champion  {champion['champion']} since {champion['since']} (turn {champion['turn']}{gain})")
        if champion["reason"]:
            lines.append(f"          {champion['reason']}")
        lines += [f"          warning: {warning}" for warning in champion["warnings"]]
    else:
        lines.append("champion  none yet")
    if held := state["acceptance"]:
        shown = ", ".join(held["partitions"])
        lines.append(f"set aside {held['rows']} rows of {shown} by {', '.join(held['columns'])}: a floor only")
    for table, facts in state["data"].items():
        lines.append(
            f"data      {table}: {facts['partitions']} partitions{_until(facts['newest'])}, {facts['rows']} rows"
            f", {facts['quarantined']} quarantined, {len(facts['refused'])} refused"
        )
        lines += [f"          refused {name}: {reason}" for name, reason in facts["refused"].items()]
    if health:
        lines.append(f"health    {health['partition']}: drift {health['drift']}, performance {health['performance']}")
        lines.append(f"          {health['reason']}")
    else:
        lines.append("health    unknown: nothing scored yet")
    if decision:
        lines.append(f"trigger   {'retrain' if decision['retrain'] else 'no retraining'}: {decision['reason']}")
    if turn:
        lines.append(f"turn      {turn['turn']}: {turn['outcome']}")
    return "\n".join(lines)


def _until(newest: str) -> str:
    return f" to {newest}" if _TIME.fullmatch(newest) else ""


def _acceptance(event: Event | None) -> dict[str, Any] | None:
    if event is None:
        return None
    held = AcceptanceSet.from_json(event.payload)
    partitions = [i.partition for i in held.inputs if i.table == held.table]
    return {"rows": held.rows, "columns": list(held.columns), "partitions": partitions}


def _champion(event: Event | None, ledger: Ledger, loop: str) -> dict[str, Any] | None:
    if event is None:
        return None
    p = Promotion.from_json(event.payload)
    trained = ledger.events(loop, subject=f"candidate/{p.turn}", kind=TrainedModel.__name__)
    models = [TrainedModel.from_json(e.payload) for e in trained]
    return {
        "champion": p.champion,
        "since": event.at.isoformat(timespec="seconds"),
        "by": event.actor,
        "turn": p.turn,
        "model": p.model,
        "replaces": p.replaces,
        "gain_seen": p.gain_seen,
        "reason": p.reason,
        "warnings": [warning for m in models if m.digest == p.candidate for warning in m.warnings],
    }


def _data(heads: dict[str, Event]) -> dict[str, Any]:
    tables: dict[str, dict[str, Any]] = {}
    came: dict[str, dict[str, int]] = {}
    for subject, event in heads.items():
        area, _, name = subject.partition("/")
        table, _, partition = name.partition("/")
        if area == "data":
            facts = tables.setdefault(
                table, {"partitions": 0, "newest": "", "rows": 0, "quarantined": 0, "refused": {}}
            )
            facts["partitions"] += 1
            came.setdefault(table, {})[partition] = event.position
            facts["rows"] += event.payload["rows"]
        elif area == "validation":
            report = ValidationReport.from_json(event.payload)
            tables[table]["quarantined"] += report.quarantined_rows
            if report.verdict == "refused":
                tables[table]["refused"][name] = report.reason
    for table, partitions in came.items():
        tables[table]["newest"] = _newest(partitions)
    return tables


def _newest(came: Mapping[str, int]) -> str:
    """The latest partition; of those that are no times, the one that came last. ``came``: positions by partition."""
    return max(came) if all(map(_TIME.fullmatch, came)) else max(came, key=lambda partition: came[partition])


def _health(heads: dict[str, Event]) -> dict[str, Any] | None:
    reports = [HealthReport.from_json(e.payload) for s, e in heads.items() if s.startswith("health/")]
    if not reports:
        return None
    r = reports[-1]
    return {
        "partition": r.partition,
        "champion": r.champion,
        "drift": r.drift,
        "drifted": [f.feature for f in r.features if f.status == "alarm"],
        "performance": r.performance.status,
        "reason": r.performance.reason,
        "incidents": list(r.incidents),
        "gain_realised": r.gain_realised,
    }


def _decision(event: Event | None) -> dict[str, Any] | None:
    if event is None:
        return None
    d = TriggerDecision.from_json(event.payload)
    return {
        "retrain": d.retrain,
        "causes": list(d.causes),
        "suppressed": d.suppressed,
        "reason": d.reason,
        "moment": d.moment,
        "at": event.at.isoformat(timespec="seconds"),
    }


def _turn(event: Event | None) -> dict[str, Any] | None:
    if event is None:
        return None
    t = TurnRecord.from_json(event.payload)
    return {"turn": t.turn, "outcome": t.outcome, "at": event.at.isoformat(timespec="seconds")}
