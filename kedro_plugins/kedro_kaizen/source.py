"""The entry point ``kedro`` of ``kaizen.sources``: ``kedro:NAME`` is a dataset of the project's catalog."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaizen.errors import SpecError
from kaizen.loop import project_folder
from kedro_kaizen.runner import logging_left_alone

if TYPE_CHECKING:
    import pyarrow as pa

    from kaizen.sources import Item, Wanted, Whence
    from kaizen.spec import TableSpec


@dataclass
class DatasetItem:
    """What a dataset holds when it is loaded: only its rows tell whether that is anything new."""

    project: Path
    env: str
    name: str

    @property
    def where(self) -> str:
        return f"kedro:{self.name}"

    def stamp(self) -> str:
        return ""

    def settled(self) -> bool:
        return False

    def identity(self, scratch: Path) -> str:
        return ""

    def batches(self, wanted: Wanted) -> Iterator[pa.RecordBatch]:
        from kaizen.adapters.readers import read_tables

        return read_tables(_parts(self._load()), wanted)

    def refuse_changed(self, identity: str) -> None:
        """Nothing can: what was loaded is what is taken."""

    def original(self) -> Path | None:
        return None

    def watermark(self) -> str:
        return ""

    def _load(self) -> Any:
        with logging_left_alone():
            from kedro.framework.session import KedroSession
            from kedro.framework.startup import bootstrap_project
            from kedro.io import DatasetError

            bootstrap_project(self.project)
            with KedroSession.create(self.project, env=self.env) as session:
                try:
                    # Kedro's protocol of a session leaves out what every session has.
                    return session.load_context().catalog.load(self.name)  # type: ignore[attr-defined]
                except DatasetError as error:
                    raise SpecError(
                        "KZ338",
                        "dataset cannot be loaded",
                        where=self.where,
                        value=str(error).splitlines()[0][:200],
                        limit="a dataset of the project's catalog that loads a table",
                        action="correct the name, or see that `kedro catalog` has it",
                        # Not from the error: what it was made from may quote a row.
                    ) from None


def find_datasets(table: TableSpec, whence: Whence) -> list[Item]:
    """The one dataset that ``table.uri`` names."""
    return [DatasetItem(project_folder(whence.base / "kaizen.yml"), whence.env, table.uri.partition(":")[2])]


def _parts(loaded: Any) -> Iterator[Any]:
    """A table, or the partitions of a partitioned dataset, which are loaded one by one."""
    if not isinstance(loaded, Mapping):
        yield loaded
        return
    for _, part in sorted(loaded.items()):
        yield part() if callable(part) else part
