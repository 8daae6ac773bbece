"""Whether what is kept is what was committed: the data repository's copies, and the ledger's word for them."""

from __future__ import annotations

from collections.abc import Callable

from kaizen.loop import Loop
from kaizen.ports import Wrong
from kaizen.records import DataVersion, data_path
from kaizen.store import split_address


def verify(loop: Loop, tell: Callable[[str], object], *, repair: bool = False) -> list[Wrong]:
    """Everything that is wrong with any copy of any version, and every version of the ledger that has no commit.

    ``repair`` replaces copies from those that are whole; the ledger is never changed.
    """
    wrong = loop.data.verify(tell, repair=repair)
    history = {(kept.commit, kept.path): kept for kept in loop.data.versions()}
    for event in loop.ledger.events(loop.name, kind=DataVersion.__name__):
        version = DataVersion.from_json(event.payload)
        path = data_path(version.table, version.partition)
        kept = history.get((version.commit, path))
        if kept is None:
            wrong.append(Wrong(path, version.commit, version.md5, "ledger", "no such commit in the history"))
        elif kept.md5 != version.md5:
            wrong.append(Wrong(path, version.commit, version.md5, "ledger", f"the commit has md5 {kept.md5}"))
        elif kept.meta.get("sha256", split_address(version.address)[1]) != split_address(version.address)[1]:
            wrong.append(Wrong(path, version.commit, version.md5, "ledger", f"sha256 {kept.meta['sha256']}"))
    return wrong
