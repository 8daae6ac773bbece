"""What may be compared on which rows: no gate window that the champion was trained in, and an acceptance set for good.

The acceptance set is taken from the first partitions whose outcomes have come, by a hash of each row's key, and kept
by address: neither a corrected partition nor another spec changes it.
"""

from __future__ import annotations

import shutil
from datetime import datetime
from functools import partial

from kaizen.errors import DataRefused, KeyConflict
from kaizen.loop import Loop
from kaizen.records import AcceptanceSet, TrainingSet, Window


def refuse_seen(loop: Loop, gate: Window) -> None:
    """Raise ``DataRefused`` (KZ429) if the champion was trained, or tuned, on rows of the gate's window."""
    champion = loop.champion()
    if champion is None:
        return
    promotion, model = champion
    trained = loop.by_digest(TrainingSet, f"candidate/{promotion.turn}", model.training_set).window
    if not reaches_into(trained, gate):
        return
    raise DataRefused(
        "KZ429",
        "the champion has seen rows of the gate's window",
        where=f"champion {promotion.champion}, trained in turn {promotion.turn}",
        value=f"trained on rows before {trained.end}; the gate begins {gate.start}",
        limit="a gate that begins where the training of every compared model ended, or later",
        action="wait for newer outcomes, or shorten evaluate.window",
    )


def reaches_into(trained: Window, gate: Window) -> bool:
    """Whether ``trained`` ends after ``gate`` begins: then what came between may be in both."""
    if trained.end is None or gate.start is None:
        return True
    return datetime.fromisoformat(trained.end) > datetime.fromisoformat(gate.start)


def acceptance_set(loop: Loop) -> AcceptanceSet | None:
    """The rows that were set aside; None if nobody asks for any. Raises ``DataRefused`` (KZ491) if they are not yet."""
    found = loop.acceptance()
    if found is None and loop.spec.data.acceptance:
        raise DataRefused(
            "KZ491",
            "no rows are set aside yet",
            where="data.acceptance",
            value=f"{len(loop.with_outcomes())} partitions with outcomes",
            limit=f"at least {loop.spec.data.acceptance.partitions} (data.acceptance.partitions)",
            action="run validate: it sets them aside when the first outcomes have come",
        )
    return found


def set_aside(loop: Loop) -> AcceptanceSet | None:
    """Take the acceptance set as soon as there are partitions to take it from; what was taken once stays.

    Raises ``DataRefused``: KZ490 no row would be in it, KZ493 a column of its key is missing.
    """
    wanted, found = loop.spec.data.acceptance, loop.acceptance()
    if wanted is None or found is not None:
        return found
    partitions = loop.with_outcomes()[: wanted.partitions]
    if len(partitions) < wanted.partitions:
        return None
    made = _take(loop, partitions, wanted.share)
    try:
        loop.append("acceptance", made, "acceptance")
    except KeyConflict:
        # Somebody else took it first, perhaps before a partition was corrected.
        return loop.acceptance()
    return made


def _take(loop: Loop, partitions: list[str], share: float) -> AcceptanceSet:
    from kaizen.adapters.acceptance import write_members

    spec, store, salt = loop.spec, loop.store, f"{loop.name}/acceptance"
    columns, inputs = spec.acceptance_columns, loop.inputs_for(partitions, labels=True)
    own = [i for i in inputs if i.table == spec.main]
    with store.scratch() as folder:
        drafts = {i.partition: folder / i.partition for i in own}
        rows = sum(write_members(store.file(i.address), drafts[i.partition], columns, share, salt) for i in own)
        if rows == 0:
            raise DataRefused(
                "KZ490",
                "the acceptance set would be empty",
                where=f"data.acceptance: {spec.main}/{', '.join(partitions)}",
                value="0 rows",
                limit=f"at least 1; share is {share:g} of the values of {', '.join(columns)}",
                action="raise data.acceptance.share or partitions",
            )
        members = tuple(
            store.put_file(f"acceptance/{spec.main}/{partition}", partial(shutil.copyfile, draft))
            for partition, draft in drafts.items()
        )
    return AcceptanceSet(spec.main, columns, share, salt, inputs, members, rows)
