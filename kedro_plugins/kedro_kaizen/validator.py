"""validate, in a Kedro catalog: a dataset's expectation suite, checked by Kedro on every load (or save)."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kaizen.adapters.great_expectations_suite import check, read_suite
from kaizen.adapters.tables import write_parquet
from kaizen.errors import DataRefused, SpecError, UsageError
from kaizen.publish import publish_file
from kaizen.verdict import decide_verdict

_log = logging.getLogger(__name__)


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False)


_WRITERS = {".parquet": write_parquet, ".csv": _write_csv}


class GreatExpectations:
    """Hands on the rows that their suite accepts, keeps the others in a file, refuses a table that is too bad.

    In ``catalog.yml``::

        flights:
          type: pandas.ParquetDataset
          filepath: data/01_raw/flights.parquet
          validator:
            class: kedro_kaizen.GreatExpectations
            "on": load
            options:
              suite: conf/base/expectations/flights.json
              quarantine: data/02_intermediate/flights_quarantine.parquet
              max_quarantined: 0.05

    With ``severity: warn`` Kedro logs a refusal and hands on all rows, the bad ones too.

    Args:
        suite: JSON file of Great Expectations. Relative paths start at the current folder (`kedro run`: the project's).
        quarantine: ``.parquet`` or ``.csv`` file for the rows that the latest check left out (none: an empty table).
            Without it nothing is left out: any bad row is a refusal.
        max_quarantined: largest share of bad rows, 0 to 1, that is quarantined instead of refused.

    Raises:
        SpecError: KZ320-KZ326 for the suite, KZ327 for another option.
    """

    def __init__(self, suite: str, quarantine: str | None = None, max_quarantined: float = 0.05) -> None:
        self.suite_path = Path(suite)
        self.suite = read_suite(self.suite_path)
        self.quarantine = Path(quarantine) if quarantine else None
        self.max_quarantined = max_quarantined
        if self.quarantine and self.quarantine.suffix not in _WRITERS:
            raise _refuse_option("quarantine", quarantine, "a file name that ends in " + " or ".join(_WRITERS))
        if not 0 <= max_quarantined <= 1:
            raise _refuse_option("max_quarantined", max_quarantined, "a share of the rows, from 0 to 1")

    def validate(self, data: Any) -> pd.DataFrame:
        """The rows of ``data`` that the suite accepts, with their index; ``data`` itself if it accepts all.

        Raises:
            DataRefused: KZ451 the whole table failed, or too many rows did; no file is written.
            UsageError: KZ211 ``data`` is not a pandas frame.
        """
        if not isinstance(data, pd.DataFrame):
            raise UsageError(
                "KZ211",
                "this dataset cannot be validated",
                where=f"suite {self.suite_path}",
                value=f"{type(data).__module__}.{type(data).__name__}",
                limit="a pandas DataFrame",
                action="load it with a pandas dataset, or remove the validator",
            )
        result = check(data, self.suite)
        verdict, reason = decide_verdict(
            len(data), result, "quarantine" if self.quarantine else "refuse", self.max_quarantined
        )
        if verdict == "refused":
            raise DataRefused(
                "KZ451",
                "validation refused the data",
                where=f"suite {self.suite_path}",
                value=reason,
                limit=f"quarantine: {self.quarantine}, max_quarantined: {self.max_quarantined}",
                action="mend the source, or correct the suite",
            )
        return self._split(data, list(result.bad_rows), reason)

    def _split(self, data: pd.DataFrame, bad_rows: list[int], reason: str) -> pd.DataFrame:
        if self.quarantine:
            write = partial(_WRITERS[self.quarantine.suffix], data.iloc[bad_rows])
            publish_file(self.quarantine, write)
        if not bad_rows:
            return data
        _log.warning("%s; they are in %s", reason, self.quarantine)
        keep = np.ones(len(data), dtype=bool)
        keep[bad_rows] = False
        return data[keep]


def _refuse_option(name: str, value: Any, limit: str) -> SpecError:
    where = f"options.{name} of kedro_kaizen.GreatExpectations"
    action = "correct the option in catalog.yml"
    return SpecError("KZ327", "validator option cannot be used", where=where, value=value, limit=limit, action=action)
