"""History as a backtest needs it: read whole, cut, shuffled, landed again; and predictions beside labels."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa

from kaizen.adapters import landing, tables
from kaizen.adapters.examples import Examples, assemble_wide, default_features, label_rows
from kaizen.adapters.masking import Mask
from kaizen.calendar import bounds
from kaizen.deliveries import WHOLE
from kaizen.errors import UsageError
from kaizen.loop import Loop
from kaizen.privacy import parse_policies
from kaizen.publish import publish_file
from kaizen.records import Input, ScoredBatch
from kaizen.sources import Item, Wanted, Whence, find_items
from kaizen.spec import Spec, TableSpec

History = dict[str, dict[str, pd.DataFrame]]
"""Table to partition to rows; a table that is not cut has the one partition ``all``."""

Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Label, the loop's prediction, the never-retrained model's, and day: four arrays of the labelled rows' length."""


def read_history(spec: Spec, path: Path) -> History:
    """All that the sources hold now, cut into partitions."""
    history: History = {}
    # What is replayed is landed again; nothing private leaves this function, and this key is forgotten.
    mask = Mask(parse_policies(spec.data.private), secrets.token_bytes(), spec.clock.timezone)
    for name, table in spec.data.tables.items():
        parts: dict[str, list[pd.DataFrame]] = {}
        for item in find_items(table, Whence(path.parent, name=name)):
            with tempfile.TemporaryDirectory() as scratch:
                item.identity(Path(scratch))
                for key, rows in _read(spec, table, item, mask).items():
                    parts.setdefault(key, []).append(rows)
        history[name] = {key: _joined(frames) for key, frames in sorted(parts.items())}
    if len(history[spec.main]) < spec.train.min_partitions + 2:
        raise UsageError(
            "KZ220",
            "too little history to replay",
            where=str(path),
            value=f"{len(history[spec.main])} partitions of {spec.main}",
            limit=f"at least {spec.train.min_partitions + 2} (train.min_partitions and two to score)",
            action="let more data land, or lower train.min_partitions",
        )
    return history


def _read(spec: Spec, table: TableSpec, item: Item, mask: Mask) -> dict[str, pd.DataFrame]:
    wanted = Wanted(
        item.where,
        table.columns,
        types=table.types,
        private=spec.data.private,
        format=table.format or "",
        encoding=table.encoding,
    )
    timestamp, first, batches = table.own_time or spec.problem.timestamp, 1, []
    for batch in item.batches(wanted):
        timed = landing.with_time(batch, timestamp, wanted, first) if table.timed else batch
        batches.append(mask.apply(timed, item.where))
        first += batch.num_rows
    cut = (
        landing.by_time(timestamp, table.partition or "", spec.clock.timezone) if table.timed else landing.whole(WHOLE)
    )
    return tables.cut_frames(iter(batches), cut)


def _cut(spec: Spec, table: TableSpec, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of a timed table by partition."""
    time = table.own_time or spec.problem.timestamp
    keys = landing.by_time(time, table.partition or "", spec.clock.timezone)
    rows = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None).combine_chunks()
    return tables.cut_frames(iter(rows.to_batches()), keys)


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def shuffle_history(spec: Spec, history: History, seed: int) -> tuple[Spec, History]:
    """The same rows with everything but their time shuffled: a stationary twin, and the spec that reads it.

    Look-ups are joined first, so that each row keeps its own; a row number becomes the entity.
    """
    problem = spec.problem
    everything = {name: pd.concat(parts.values(), ignore_index=True) for name, parts in history.items() if parts}
    wide, outcomes = assemble_wide(spec, everything)
    features = problem.features or default_features(spec, wide)
    order = np.random.default_rng(seed).permutation(len(wide))
    times = wide[problem.timestamp].iloc[order].reset_index(drop=True)
    rows = np.arange(len(wide))
    main = wide.assign(**{problem.timestamp: times, "row": rows})
    truth = outcomes.assign(**{problem.timestamp: main[problem.timestamp], "row": rows})
    names = (spec.main, spec.labels or "outcomes")
    read = {
        names[0]: replace(spec.data.tables[spec.main], columns=()),
        names[1]: TableSpec(uri="", partition=spec.data.tables[spec.main].partition, role="labels"),
    }
    suite = {t: s for t, s in spec.data.suite.items() if t == spec.main}
    twin = replace(
        spec,
        problem=replace(problem, entity=("row",), features=tuple(features)),
        data=replace(spec.data, tables=read, suite=suite),
    )
    cut = {name: _cut(twin, read[name], frame) for name, frame in zip(names, (main, truth), strict=True)}
    return twin, cut


def land(folder: Path, names: list[str], history: History, partition: str = WHOLE) -> None:
    """Deliver one partition of some tables as Parquet files below ``folder``; what does not exist is not delivered."""
    for name in names:
        rows = history[name].get(partition)
        if rows is not None:
            publish_file(folder / name / f"{partition}.parquet", partial(tables.write_parquet, rows))


def land_until(folder: Path, names: list[str], history: History, end: datetime, zone: ZoneInfo) -> None:
    """Deliver the partitions of some tables that end by then and were not delivered yet."""
    for name in names:
        for partition in history[name]:
            if bounds(partition, zone)[1] <= end and not (folder / name / f"{partition}.parquet").exists():
                land(folder, [name], history, partition)


def paired_predictions(loop: Loop, scored: ScoredBatch) -> Part:
    """Label, the loop's prediction, the never-retrained model's, and day, for the labelled rows of a partition."""
    ours = tables.read_parquet(loop.store.file(scored.predictions))
    static = ours if scored.champion == 1 else _predict_static(loop, scored)
    label = label_rows(loop.spec, ours, read_inputs(loop, loop.labels_for(scored.partition)))
    known = ~np.isnan(label)
    days = Examples(ours, ours).days(loop.spec.problem.timestamp, loop.spec.clock.timezone)
    return label[known], ours["prediction"].to_numpy()[known], static["prediction"].to_numpy()[known], days[known]


def read_inputs(loop: Loop, inputs: Iterable[Input]) -> dict[str, pd.DataFrame]:
    """The rows of some partitions, by table."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for item in inputs:
        parts.setdefault(item.table, []).append(tables.read_parquet(loop.store.file(item.address)))
    return {name: _joined(frames) for name, frames in parts.items()}


def _predict_static(loop: Loop, scored: ScoredBatch) -> pd.DataFrame:
    """The never-retrained model's predictions from what the champion's were made from: look-ups may be newer now."""
    request = loop.request("score", "static", inputs=scored.inputs, models={"champion": loop.model(loop.promotion(1))})
    return tables.read_parquet(Path(loop.run(request)["predictions"]))
