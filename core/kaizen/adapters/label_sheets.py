"""Sheets of rows to label: which rows go out, as a CSV that people fill, and what they wrote, row by row.

Two things make a row worth a label. The champion is *uncertain*: its probability is near one half. Or the row is
*drifted*: it lies where a feature has become more frequent than it was at the champion's training, by the bins of the
reference profile (the missing are a bin, too). The best of both go out in turn; of the drifted, those of every feature.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from kaizen.adapters.examples import Examples, assemble, label_rows, make_label
from kaizen.adapters.history import read_inputs
from kaizen.adapters.tables import read_parquet, write_parquet
from kaizen.canonical import file_digests
from kaizen.errors import DataRefused
from kaizen.loop import Loop
from kaizen.records import Asked, FeatureProfile, LabelRequest, Profile, ScoredBatch, Window
from kaizen.score import unseen_from
from kaizen.spec import ProblemSpec

_NOTABLE = 2.0
"""A part of a feature's range that is so many times as frequent as at training makes a row a drifted one."""
_SHOWN = 5
_PERSON = "labelled_by"


def choose(
    loop: Loop, batches: Sequence[ScoredBatch], taken: Collection[tuple[str, int]], count: int
) -> tuple[tuple[Asked, ...], Callable[[Path], None]]:
    """At most ``count`` rows of ``batches`` without a label and not among ``taken``, and what writes their sheet."""
    if not batches:
        return (), partial(_write_csv, pd.DataFrame())
    promotion = loop.promotion(batches[-1].champion)
    profile = loop.store.file(loop.model(promotion).profile).read_text(encoding="utf-8")
    window = Window(unseen_from(loop, promotion), None)
    parts = [_open(loop, batch, window, taken) for batch in batches]
    features = pd.concat([examples.features for _, examples in parts], ignore_index=True)
    rows = pd.concat([frame for frame, _ in parts], ignore_index=True)
    ignored = loop.spec.monitor.drift.ignore
    ranked = rank(rows, features, Profile.from_json(json.loads(profile)), loop.spec.problem, ignored)
    best = ranked[ranked["open"]].head(count).sort_values(["partition", "row"], kind="stable")
    asked = tuple(
        Asked(str(partition), str(batch), tuple(int(row) for row in group["row"]))
        for (partition, batch), group in best.groupby(["partition", "batch"], sort=False)
    )
    columns = [*_keys(loop.spec.problem), "prediction", "reason"]
    sheet = best[columns].assign(prediction=best["prediction"].round(4), **{loop.spec.truth: ""})
    return asked, partial(_write_csv, sheet)


def rank(
    rows: pd.DataFrame, features: pd.DataFrame, reference: Profile, problem: ProblemSpec, ignored: Sequence[str] = ()
) -> pd.DataFrame:
    """``rows`` (with ``prediction`` and ``open``), those most worth a label first, each with its ``reason``.

    ``open`` rows are ranked among themselves; how frequent something is, all of them tell.
    """
    times, names = _growth(features, reference, ignored)
    found = rows.assign(_times=times, _name=names)
    found = found[found["open"]]
    notable = found["_times"] >= (_NOTABLE if problem.task == "classification" else 0)
    drifted = found[notable].groupby("_name")["_times"].rank(method="first", ascending=False).reindex(found.index)
    uncertain = pd.Series(np.nan, index=found.index)
    if problem.task == "classification":
        uncertain = (found["prediction"] - 0.5).abs().rank(method="first")
    by_drift = drifted.fillna(np.inf) <= uncertain.fillna(np.inf)
    reason = [
        f"drifted: {name}, {grown:.1f} times as frequent as at training" if drift else "uncertain"
        for name, grown, drift in zip(found["_name"], found["_times"], by_drift, strict=True)
    ]
    best = pd.concat([drifted, uncertain], axis="columns").min(axis="columns")
    order = pd.DataFrame({"best": best, "drifted": ~by_drift}).sort_values(["best", "drifted"], kind="stable").index
    return found.assign(reason=reason).loc[order].drop(columns=["_times", "_name"])


def _growth(features: pd.DataFrame, reference: Profile, ignored: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """For each of n rows, by how much what it is like has become more frequent, and in which feature that is so."""
    times = np.ones(len(features))
    names = np.full(len(features), "", dtype=object)
    for known in reference.features:
        if known.feature not in features.columns or known.feature in ignored:
            continue
        position = _bins(features[known.feature], known)
        before = np.array([*(b.count for b in known.bins), known.missing])
        now = np.bincount(position, minlength=len(before))
        # Half a row in every bin: one that was empty at training is rare, not impossible.
        share = [(counts + 0.5) / (counts.sum() + len(counts) / 2) for counts in (before, now)]
        grown = (share[1] / share[0])[position]
        names = np.where(grown > times, known.feature, names)
        times = np.maximum(times, grown)
    return times, names


def _bins(values: pd.Series, reference: FeatureProfile) -> np.ndarray:
    """The bin of each value: the reference's in their order, then that of the missing."""
    missing = values.isna().to_numpy()
    if reference.numeric:
        edges = np.array([b.upper for b in reference.bins[:-1]], dtype=float)
        found = np.searchsorted(edges, values.to_numpy(dtype=float, na_value=np.nan), "left")
    else:
        # The last bin is of all that has none of its own.
        places = {str(b.upper): place for place, b in enumerate(reference.bins[:-1])}
        found = values.astype(str).map(places).fillna(len(reference.bins) - 1).to_numpy(dtype=int)
    return np.where(missing, len(reference.bins), found)


def _open(
    loop: Loop, batch: ScoredBatch, window: Window, taken: Collection[tuple[str, int]]
) -> tuple[pd.DataFrame, Examples]:
    """A batch's predictions, each with whether it may be asked about, and the features they were made from."""
    spec, predicted = loop.spec, read_parquet(loop.store.file(batch.predictions))
    examples = assemble(spec, read_inputs(loop, batch.inputs), labels=False).in_window(spec.problem.timestamp, window)
    label = label_rows(spec, predicted, read_inputs(loop, loop.labels_for(batch.partition)))
    free = np.array([(batch.digest, row) not in taken for row in range(len(predicted))], dtype=bool)
    found = predicted.assign(
        partition=batch.partition, batch=batch.digest, row=np.arange(len(predicted)), open=free & np.isnan(label)
    )
    return found, examples


def _keys(problem: ProblemSpec) -> list[str]:
    return list(dict.fromkeys([*problem.entity, problem.timestamp]))


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False)


# What comes back.


@dataclass(frozen=True)
class Answers:
    """The new labels of a sheet, typed as the rows that they are of.

    ``frame`` has the rows' keys, the label, and who labelled if the sheet says so. ``digest`` is the sheet's sha256.
    """

    frame: pd.DataFrame
    known: int
    empty: int
    digest: str

    @property
    def labels(self) -> int:
        """How many there are."""
        return len(self.frame)

    def write(self, path: Path, suffix: str) -> None:
        """As CSV or Parquet."""
        if suffix == ".csv":
            self.frame.to_csv(path, index=False)
        else:
            write_parquet(self.frame, path)


def read_answers(loop: Loop, sheet: Path, requests: Sequence[LabelRequest]) -> Answers:
    """The labels in a filled sheet. Raises ``DataRefused`` KZ485, KZ486; see ``labelling.take``."""
    keys, truth = _keys(loop.spec.problem), loop.spec.truth
    sheet_rows = _read_sheet(sheet, [*keys, truth])
    filled = sheet_rows[sheet_rows[truth] != ""]
    asked = _asked(loop, requests, keys)
    places = {text: place for place, text in enumerate(_texts(asked, keys))}
    found = [places.get(text) for text in _texts(filled, keys, like=asked)]
    label = pd.to_numeric(filled[truth], errors="coerce").to_numpy(dtype=float)
    wrong = _what_is_wrong(found, label, _classes(loop))
    _refuse(sheet, {int(filled.index[at]): why for at, why in wrong.items()})
    rows = asked.iloc[[place for place in found if place is not None]].reset_index(drop=True).assign(**{truth: label})
    known, contradicted = _compare(loop, rows)
    _refuse(sheet, {int(filled.index[at]): why for at, why in contradicted.items()})
    if _PERSON in filled.columns:
        rows[_PERSON] = filled[_PERSON].to_numpy()
    left = rows[~known].drop(columns=["partition", "batch", "row"]).reset_index(drop=True)
    return Answers(left, int(known.sum()), len(sheet_rows) - len(filled), file_digests(sheet)[1]["sha256"])


def _read_sheet(sheet: Path, needed: Sequence[str]) -> pd.DataFrame:
    """The sheet's rows as text, numbered from 1."""
    try:
        found = pd.read_csv(sheet, dtype=str, keep_default_na=False, encoding="utf-8-sig", skip_blank_lines=False)
    except (OSError, ValueError) as error:
        raise _no_sheet(sheet, str(error).splitlines()[0][:120]) from error
    missing = [name for name in needed if name not in found.columns]
    if missing:
        raise _no_sheet(sheet, "no column " + ", ".join(missing))
    found = found.apply(lambda values: values.str.strip())
    return found.set_axis(range(1, len(found) + 1))


def _no_sheet(sheet: Path, value: str) -> DataRefused:
    return DataRefused(
        "KZ485",
        "not a sheet of the labelling queue",
        where=str(sheet),
        value=value,
        limit="the CSV that `kaizen label queue` wrote, with labels filled in",
        action="fill in that file; `kaizen label queue --again N` writes it anew",
    )


def _asked(loop: Loop, requests: Sequence[LabelRequest], keys: Sequence[str]) -> pd.DataFrame:
    """Every row that ever went out, typed as it was scored."""
    rows: dict[str, set[int]] = {}
    partitions = {}
    for asked in (asked for request in requests for asked in request.asked):
        rows.setdefault(asked.batch, set()).update(asked.rows)
        partitions[asked.batch] = asked.partition
    parts = []
    for digest, partition in partitions.items():
        batch = loop.by_digest(ScoredBatch, f"score/{partition}", digest)
        some = read_parquet(loop.store.file(batch.predictions))[list(keys)].iloc[sorted(rows[digest])]
        parts.append(some.assign(partition=partition, batch=digest, row=some.index))
    empty = pd.DataFrame(columns=[*keys, "partition", "batch", "row"])
    return pd.concat(parts, ignore_index=True) if parts else empty


def _texts(frame: pd.DataFrame, keys: Sequence[str], like: pd.DataFrame | None = None) -> list[tuple[str, ...]]:
    """The keys of rows as comparable text; what is a time in ``like`` may be written in any way."""
    columns = []
    for key in keys:
        values = frame[key]
        if like is not None and pd.api.types.is_datetime64_any_dtype(like[key]):
            values = pd.to_datetime(values, utc=True, errors="coerce", format="mixed")
        if pd.api.types.is_datetime64_any_dtype(values):
            values = values.dt.strftime("%Y-%m-%dT%H:%M:%S.%f")
        columns.append(values.astype(str).where(values.notna(), ""))
    return list(zip(*columns, strict=True))


def _what_is_wrong(found: Sequence[int | None], label: np.ndarray, classes: Collection[float]) -> dict[int, str]:
    """What is wrong with filled rows, by their positions."""
    wrong: dict[int, str] = {}
    seen: set[int] = set()
    for at, (place, value) in enumerate(zip(found, label, strict=True)):
        if place is None:
            wrong[at] = "was not asked about"
        elif place in seen:
            wrong[at] = "is there twice"
        elif not np.isfinite(value):
            wrong[at] = "has a label that is no number"
        elif classes and value not in classes:
            wrong[at] = f"has the label {value:g}, which is none of {', '.join(f'{c:g}' for c in sorted(classes))}"
        if place is not None:
            seen.add(place)
    return wrong


def _classes(loop: Loop) -> set[float]:
    """The classes that labels had so far; none where every number is a label, or where none has come."""
    if loop.spec.problem.task == "regression" or loop.spec.problem.label:
        return set()
    versions = [v for table in loop.spec.label_tables for v in loop.versions(table).values()]
    return {float(name) for version in versions for name in version.labels}


def _compare(loop: Loop, rows: pd.DataFrame) -> tuple[np.ndarray, dict[int, str]]:
    """Which rows have that very label already, and which have another one, with who says so."""
    known = np.zeros(len(rows), dtype=bool)
    other: dict[int, str] = {}
    answer = make_label(loop.spec, rows)
    for partition in dict.fromkeys(rows["partition"]):
        here = np.flatnonzero(rows["partition"] == partition)
        for table, outcomes in read_inputs(loop, loop.labels_for(partition)).items():
            label = label_rows(loop.spec, rows.iloc[here], {table: outcomes})
            known[here] |= label == answer[here]
            for at in here[~np.isnan(label) & (label != answer[here])]:
                other[int(at)] = f"has another label in table {table}"
    return known, other


def _refuse(sheet: Path, wrong: Mapping[int, str]) -> None:
    if not wrong:
        return
    shown = "; ".join(f"row {number} {why}" for number, why in sorted(wrong.items())[:_SHOWN])
    raise DataRefused(
        "KZ486",
        "labels that cannot be taken",
        where=str(sheet),
        value=f"{len(wrong)} rows: {shown}",
        limit="rows that were asked about, each once, with a label that the loop knows and nobody contradicts",
        action="correct these rows, or leave their labels empty; nothing was taken",
    )
