"""The door: every batch of a delivery goes through it before anything else sees its rows."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from kaizen.adapters.detector import ROWS, Detector
from kaizen.adapters.masking import Mask, hashes
from kaizen.adapters.rows_digest import RowsDigest
from kaizen.errors import DataRefused, KaizenError
from kaizen.loop import Loop
from kaizen.privacy import parse_policies, refuse_misspelt, refuse_sure
from kaizen.private_key import find_key, fingerprints
from kaizen.spec import Spec

_THOROUGH, BRIEF = 16, 64
"""So many deliveries of a table are looked at thoroughly; of the batches of others, fewer rows."""


def mask_of(loop: Loop) -> Mask:
    """The loop's policies with its key, which is only looked for where a policy needs one.

    Raises ``UsageError`` KZ260 to KZ264: there is no key that can be used.
    """
    spec, key = loop.spec, b""
    policies = parse_policies(spec.data.private)
    if hashes(policies):
        versions = (v for table in spec.data.tables for v in loop.versions(table).values())
        used = fingerprints(version.private for version in versions)
        key = find_key(spec.data.private_key, loop.home, loop.caller.call.secrets, os.environ, used)
    return Mask(policies, key, spec.clock.timezone)


@dataclass
class Earlier:
    """What one call of ingest has seen of a table: how many deliveries, and which columns somebody was told of."""

    deliveries: int = 0
    told: set[str] = field(default_factory=set)


class Door:
    """One delivery's rows on their way in: masked, and looked at for what nobody declared.

    Args:
        where: the delivery, for people. tell: told what only may be private.
        digest: take one of the rows as they come, for a source whose bytes have none.
        earlier: of this table in the same call: what came late is looked at more briefly, and told once.

    Attributes:
        said: what becomes of private columns, for the record.
    """

    def __init__(
        self,
        spec: Spec,
        mask: Mask,
        where: str,
        tell: Callable[[str], object],
        *,
        digest: bool = False,
        earlier: Earlier | None = None,
    ) -> None:
        self.said: dict[str, str] = {}
        self._digest = RowsDigest() if digest and mask.hashes else None
        self._mask, self._detect, self._where, self._tell = mask, spec.data.detect, where, tell
        self._earlier = earlier or Earlier()
        rows = ROWS if self._earlier.deliveries < _THOROUGH else BRIEF
        self._earlier.deliveries += 1
        self._detector = Detector({*mask.policies, *spec.data.public}, rows=rows)
        self._looked = self._rows = 0

    def names(self, names: Sequence[str]) -> list[str]:
        """The columns that are left of these. Raises ``DataRefused`` KZ415 for a misspelt private one."""
        refuse_misspelt(self._mask.policies, names, self._where)
        self.said = self._mask.said(list(names))
        return [name for name in names if self.said.get(name) != "drop"]

    def take(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch as it may be kept. Raises ``DataRefused``: KZ414, KZ480, KZ481."""
        if self._digest:
            self._digest.add(batch)
        masked = self._mask.apply(batch, self._where, self._rows + 1)
        self._rows += batch.num_rows
        self.look(masked)
        return masked

    @property
    def identity(self) -> str:
        """Of the rows as they came, so that another key does not make them others; "" if what is kept tells as well."""
        return self._digest.hexdigest() if self._digest else ""

    def close(self) -> None:
        """Say of the whole delivery what looks private. Raises ``DataRefused`` KZ414."""
        suspicions = self._detector.suspicions()
        if self._detect == "refuse":
            refuse_sure(suspicions, self._where)
        new = [suspicion for suspicion in suspicions if suspicion.column not in self._earlier.told]
        self._earlier.told.update(suspicion.column for suspicion in new)
        for suspicion in new:
            self._tell(f"{self._where}: {suspicion}; data.private or data.public may say what it is")

    def look(self, batch: pa.RecordBatch) -> None:
        """See a batch that is kept as it is. Raises ``DataRefused`` KZ414."""
        if self._detect == "off":
            return
        self._detector.look(batch)
        self._looked += 1
        # What is sure is so after a few rows: nobody waits for the end of a large delivery to hear it.
        if self._detect == "refuse" and self._looked & (self._looked - 1) == 0:
            refuse_sure(self._detector.suspicions(), self._where)


@contextmanager
def nothing_quoted(spec: Spec, where: str) -> Iterator[None]:
    """Where rows are as they came: an error that nobody foresaw may quote one, so it is told without its text.

    Raises ``DataRefused`` KZ483 in its place, if the spec has private columns.
    """
    try:
        yield
    except KaizenError:
        raise
    except Exception as error:
        if not spec.data.private:
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise DataRefused(
            "KZ483",
            "rows cannot be read",
            where=where,
            value=f"{type(error).__name__} at {Path(frame.filename).name}, line {frame.lineno}",
            limit="rows that can be read",
            action="its text may quote a row: read the delivery where that may be seen; if it is sound, report this",
        ) from None
