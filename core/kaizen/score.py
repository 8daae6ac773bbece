"""score: the champion predicts rows it has never seen; predictions are kept with what they were made from."""

from __future__ import annotations

import shutil
from pathlib import Path

from kaizen.calendar import bounds
from kaizen.canonical import digest
from kaizen.faults import fault_point
from kaizen.loop import Loop
from kaizen.records import Promotion, ScoredBatch, TrainedModel, TrainingSet, Window


def score(loop: Loop) -> list[ScoredBatch]:
    """Score every partition that is due; the batches that were added."""
    champion = loop.champion()
    return [score_partition(loop, partition, champion) for partition in unscored(loop)] if champion else []


def unscored(loop: Loop) -> list[str]:
    """Partitions that nobody has scored and that hold rows after the champion's training window.

    Without a champion there is nothing to score with; that is no error.
    """
    champion = loop.champion()
    if champion is None:
        return []
    after = unseen_from(loop, champion[0])
    scored = loop.heads(ScoredBatch, "score/")
    return [
        partition
        for partition in loop.validated(loop.spec.main)
        if partition not in scored and bounds(partition, loop.spec.timezone)[1].isoformat() > after
    ]


def unseen_from(loop: Loop, promotion: Promotion) -> str:
    """The moment from which on the champion has seen no rows (ISO 8601)."""
    model = loop.model(promotion)
    examples = loop.by_digest(TrainingSet, f"candidate/{promotion.turn}", model.training_set)
    return examples.window.end or ""


def score_partition(loop: Loop, partition: str, champion: tuple[Promotion, TrainedModel]) -> ScoredBatch:
    """Predict one partition in the place and keep the predictions. A retry finds the batch that is there."""
    promotion, model = champion
    inputs = loop.inputs_for([partition], labels=False)
    key = digest([partition, promotion.champion, [i.data for i in inputs]])
    if found := loop.find(ScoredBatch, key):
        return found
    window = Window(unseen_from(loop, promotion), None)
    request = loop.request(
        "score", promotion.turn, inputs=inputs, window=window, models={"champion": model}, reference=model.profile
    )
    outputs = loop.run(request)
    predictions, profile = Path(outputs["predictions"]), Path(outputs["profile"])
    batch = ScoredBatch(
        partition=partition,
        champion=promotion.champion,
        model=model.model,
        inputs=inputs,
        rows=outputs["rows"],
        predictions=loop.store.put_file(f"predictions/{partition}", lambda path: shutil.copyfile(predictions, path)),
        profile=loop.store.put_file(f"profile/{partition}", lambda path: shutil.copyfile(profile, path)),
    )
    fault_point("score.before_append")
    loop.append(f"score/{partition}", batch, key, turn=promotion.turn)
    return batch
