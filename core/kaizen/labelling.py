"""The labelling queue: rows go out to people, uncertain and drifted ones first; labels come in as one more source.

A row that went out does not go out again until its request has expired; one with a label never does. What went out
is the ledger's: a ``LabelRequest`` of positions, no values. What comes back lands beside the other files of a labels
table, and ingest takes it from there.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from kaizen.calendar import days_later
from kaizen.errors import SpecError, UsageError
from kaizen.loop import Loop
from kaizen.publish import publish_file
from kaizen.records import LabelRequest, ScoredBatch

SUBJECT = "label"
LASTS = timedelta(days=30)
"""How long a row that went out is waited for."""


@dataclass(frozen=True)
class Taken:
    """What a filled sheet brought: ``labels`` that are new, rows ``known`` before, rows left ``empty``.

    ``path`` is the file that landed, None if nothing is new. ``table`` is whose.
    """

    table: str
    path: Path | None
    labels: int
    known: int
    empty: int


def queue(loop: Loop, rows: int = 100, lasts: timedelta = LASTS) -> LabelRequest | None:
    """Choose the ``rows`` that are most worth a label, and keep the request; None if there are none.

    They are chosen from what the newest champion that scored anything has predicted.

    Raises ``LedgerError``: KZ501 somebody else asked at the same moment; ask again.
    """
    from kaizen.adapters.label_sheets import choose

    now, earlier = loop.moment(), list(requests(loop))
    waited_for = {(a.batch, row) for r in earlier if _lasts(r, now) for a in r.asked for row in a.rows}
    batches = _batches(loop)
    asked, write = choose(loop, batches, waited_for, rows)
    if not asked:
        return None
    generation = len(earlier) + 1
    request = LabelRequest(
        moment=now.isoformat(),
        expires=days_later(now, lasts.total_seconds() / 86400).isoformat(),
        generation=generation,
        champion=batches[-1].champion,
        asked=asked,
        sheet=loop.store.put_file(f"label/{generation}", write),
    )
    # Two people who ask at once would choose the same rows: a key of its own lets only one of them have them.
    loop.append(SUBJECT, request, f"{generation}/{secrets.token_hex(8)}", expect=len(earlier))
    return request


def requests(loop: Loop) -> Iterator[LabelRequest]:
    """All that went out, oldest first."""
    for event in loop.ledger.events(loop.name, subject=SUBJECT, kind="LabelRequest"):
        yield LabelRequest.from_json(event.payload)


def write_sheet(loop: Loop, generation: int, path: Path) -> LabelRequest:
    """Write the sheet of a request again. Raises ``UsageError`` KZ296 if there was none."""
    found = next((r for r in requests(loop) if r.generation == generation), None)
    if found is None:
        raise UsageError(
            "KZ296",
            "no such request for labels",
            where=loop.name,
            value=generation,
            limit=f"1 to {len(list(requests(loop)))}",
            action="kaizen ledger show --kind LabelRequest lists them",
        )
    publish_file(path, lambda draft: shutil.copyfile(loop.store.file(found.sheet), draft), mode=0o644)
    return found


def take(loop: Loop, sheet: Path, table: str = "") -> Taken:
    """Land the labels of a filled sheet in a labels table: ``table``, or the last one that takes answers.

    Raises:
        DataRefused: KZ485 not a sheet of ours, KZ486 rows with something wrong, named by their numbers; nothing lands.
        SpecError: KZ357 no table for them, KZ358 its ``uri`` is not a folder of this machine.
    """
    from kaizen.adapters.label_sheets import read_answers

    table = _table(loop, table)
    landing = _landing(loop, table)
    answers = read_answers(loop, sheet, list(requests(loop)))
    if not answers.labels:
        return Taken(table, None, 0, answers.known, answers.empty)
    path = landing.with_name(landing.name.replace("*", f"labels-{answers.digest[:12]}", 1).replace("*", ""))
    publish_file(path, lambda draft: answers.write(draft, path.suffix), mode=0o644)
    return Taken(table, path, answers.labels, answers.known, answers.empty)


def _lasts(request: LabelRequest, now: datetime) -> bool:
    return datetime.fromisoformat(request.expires) > now


def _batches(loop: Loop) -> list[ScoredBatch]:
    """What the newest champion that scored anything has scored, oldest first."""
    found = list(loop.heads(ScoredBatch, "score/").values())
    return [batch for batch in found if batch.champion == found[-1].champion]


def _table(loop: Loop, name: str) -> str:
    """The labels table that takes answers: one whose rows are found by entity alone; the last, if none is named."""
    found = [n for n in loop.spec.label_tables if not loop.spec.data.tables[n].time]
    if found and (not name or name in found):
        return name or found[-1]
    raise SpecError(
        "KZ357",
        "no table for these labels",
        where="data.tables",
        value=name or "none is named",
        limit=", ".join(found) or "a table of role labels without time",
        action="name one of them" if found else "add one: {uri: landing/asked/*, role: labels, ...}",
    )


def _landing(loop: Loop, table: str) -> Path:
    """Where files of a table lie: a path with a star in its name, and with a suffix."""
    uri, given = loop.spec.data.tables[table].uri, loop.spec.data.tables[table].format
    path = loop.path.parent / uri
    path = path if path.suffix else path.with_name(f"{path.name}.{given or 'parquet'}")
    here = not (":" in uri or any(sign in str(path.parent) for sign in "*?["))
    kind = path.suffix.removeprefix(".")
    if not here or "*" not in path.name or kind not in ("csv", "parquet") or given not in (None, kind):
        raise SpecError(
            "KZ358",
            "labels cannot be delivered there",
            where=f"data.tables.{table}.uri",
            value=uri,
            limit="a folder of this machine: PATH/*, PATH/*.parquet or PATH/*.csv",
            action="deliver the filled sheet there by other means: it is a file like any other",
        )
    return path
