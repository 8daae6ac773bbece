"""A record, or a list of records, in a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from kaizen.publish import publish_json
from kaizen.records import Record, read_record

Records = Record | list[Record]


class RecordDataset(AbstractDataset[Records, Records]):
    """What a stage left (``kaizen.records``), with its kind and version. Readers never see half a file.

    Example in ``catalog.yml``:

    ```yaml
    kaizen_verdict:
      type: kedro_kaizen.datasets.RecordDataset
      filepath: data/08_reporting/verdict.json
    ```
    """

    def __init__(self, *, filepath: str | Path, metadata: dict[str, Any] | None = None) -> None:
        """Name the file.

        Args:
            filepath: a path of this machine; its folder is made on saving.
            metadata: kept for other plugins, not looked at.
        """
        self._path = Path(filepath)
        self.metadata = metadata

    def load(self) -> Records:
        """The record, or the list of records, that was saved last.

        Raises:
            DatasetError: the file is missing, no JSON, or no record that this release reads (KZ601, KZ602).
        """
        value = json.loads(self._path.read_text(encoding="utf-8"))
        return [read_record(each) for each in value] if isinstance(value, list) else read_record(value)

    def save(self, data: Records) -> None:
        """Publish ``data``. Raises ``DatasetError`` for anything that is no record."""
        records = data if isinstance(data, list) else [data]
        for record in records:
            if not isinstance(record, Record):
                raise DatasetError(f"{type(record).__name__} is not a record of Kaizen: {self._path} is left as it was")
        values = [record.to_json() for record in records]
        publish_json(self._path, values if isinstance(data, list) else values[0])

    def _exists(self) -> bool:
        return self._path.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}
