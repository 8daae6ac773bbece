"""A profile of rows in a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from kaizen.publish import publish_json
from kaizen.records import Profile


class ProfileDataset(AbstractDataset[Profile, Profile]):
    """Counts per bin of every feature (``kaizen.records.Profile``): what drift is measured against.

    Example in ``catalog.yml``:

    ```yaml
    reference_profile:
      type: kedro_kaizen.datasets.ProfileDataset
      filepath: data/08_reporting/profile.json
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

    def load(self) -> Profile:
        """The profile. Raises ``DatasetError`` for a missing file, or another record (KZ601) or damage (KZ602)."""
        return Profile.from_json(json.loads(self._path.read_text(encoding="utf-8")))

    def save(self, data: Profile) -> None:
        """Publish ``data``. Raises ``DatasetError`` for anything that is no profile."""
        if not isinstance(data, Profile):
            raise DatasetError(f"{type(data).__name__} is not a Profile: {self._path} is left as it was")
        publish_json(self._path, data.to_json())

    def describe(self) -> str:
        """The saved profile for people: rows, and per feature its kind, bins and share of missing values."""
        profile = self.load()
        lines = [
            f"{f.feature}: {'numbers' if f.numeric else 'categories'} in {len(f.bins)} bins,"
            f" {f.missing / max(1, profile.rows):.1%} missing"
            for f in profile.features
        ]
        return "\n".join([f"{profile.rows} rows", *lines])

    def _exists(self) -> bool:
        return self._path.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}
