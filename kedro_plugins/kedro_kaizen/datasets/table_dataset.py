"""A table of the loop, as its stages see it: the rows that passed validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError

if TYPE_CHECKING:
    import pandas as pd


class TableDataset(AbstractDataset[None, "pd.DataFrame"]):
    """The validated rows of a table of the project's loop, for notebooks and nodes that look at data. Cannot be saved.

    Example in ``catalog.yml``:

    ```yaml
    flights:
      type: kedro_kaizen.datasets.TableDataset
      table: flights
      metadata: {kaizen: "${_kaizen.flights}"}
    ```
    """

    def __init__(self, *, table: str, partition: str = "", metadata: dict[str, Any] | None = None) -> None:
        """Name the rows.

        Args:
            table: of ``data.tables``. partition: one of it; default all, in their order.
            metadata: what people should know of it; not looked at.
        """
        self._table, self._partition = table, partition
        self.metadata = metadata

    def load(self) -> pd.DataFrame:
        """The rows. Raises ``DatasetError`` if there are none, or (with the reason) if the loop cannot be opened."""
        import pandas as pd

        from kaizen.adapters.memory_registry import MemoryRegistry
        from kaizen.adapters.tables import read_parquet
        from kaizen.loop import open_loop
        from kedro_kaizen.project import session_loop

        loop_of_session = session_loop()
        with open_loop(loop_of_session.path, env=loop_of_session.env, registry=MemoryRegistry()) as loop:
            inputs = loop.validated(self._table)
            chosen = [i for name, i in inputs.items() if self._partition in ("", name)]
            if not chosen:
                raise DatasetError(f"no validated rows of {self._table}/{self._partition or '*'}: run a turn first")
            return pd.concat([read_parquet(loop.store.file(i.address)) for i in chosen], ignore_index=True)

    def save(self, data: None) -> None:
        """Refused: only ingest adds to a table."""
        raise DatasetError(f"table {self._table} is written by ingest alone")

    def _describe(self) -> dict[str, Any]:
        return {"table": self._table, "partition": self._partition}
