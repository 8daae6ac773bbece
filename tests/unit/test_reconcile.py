"""What killed processes leave behind is removed when it is old, and only then."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kaizen.reconcile import LEFT_ALONE, sweep

NOW = datetime(2024, 5, 1, tzinfo=UTC)


def leave(path: Path, age: timedelta, *, folder: bool = False) -> Path:
    """A leftover that was last touched ``age`` before ``NOW``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        path.mkdir()
        (path / "half").write_text("half")
    else:
        path.write_text("half")
    moment = (NOW - age).timestamp()
    os.utime(path, (moment, moment))
    return path


def test_old_leftovers_are_removed_and_named(tmp_path: Path) -> None:
    old = LEFT_ALONE + timedelta(minutes=1)
    scratch = leave(tmp_path / "store" / ".scratch-a", old, folder=True)
    draft = leave(tmp_path / "store" / "files" / "ab" / ".publish-b", old)
    run = leave(tmp_path / "runs" / "2024-02-abc", old, folder=True)
    said = list(sweep(tmp_path, NOW))
    assert not any(path.exists() for path in (scratch, draft, run))
    assert sorted(said) == [
        "removed leftover runs/2024-02-abc",
        "removed leftover store/.scratch-a",
        "removed leftover store/files/ab/.publish-b",
    ]


def test_what_somebody_may_be_working_on_stays(tmp_path: Path) -> None:
    young = leave(tmp_path / "store" / ".scratch-a", LEFT_ALONE / 2, folder=True)
    published = leave(tmp_path / "store" / "files" / "ab" / "abc", LEFT_ALONE * 2)
    assert list(sweep(tmp_path, NOW)) == []
    assert young.exists()
    assert published.exists()


def test_sweeping_twice_finds_nothing(tmp_path: Path) -> None:
    leave(tmp_path / "runs" / "one", LEFT_ALONE * 2, folder=True)
    assert len(list(sweep(tmp_path, NOW))) == 1
    assert list(sweep(tmp_path, NOW)) == []
