"""Checkpoints: the newest good one is found, whatever happened while another was saved."""

from __future__ import annotations

import pytest

from kaizen.checkpoints import Checkpoints


def saved(text):
    return lambda folder: (folder / "weights").write_text(text)


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def weights(checkpoints):
    found = checkpoints.latest()
    return found and (found.step, (found.folder / "weights").read_text())


def test_the_newest_is_found_and_only_a_few_are_kept(checkpoints):
    assert checkpoints.latest() is None
    for step in (1, 2, 10):
        checkpoints.save(step, saved(f"after {step}"))
        assert weights(checkpoints) == (step, f"after {step}")
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step-000000000002", "step-000000000010"]
    checkpoints.save(10, saved("again"))
    assert weights(checkpoints) == (10, "again")


def test_one_that_raises_while_it_is_saved_is_none(checkpoints):
    checkpoints.save(1, saved("good"))

    def fail(folder):
        saved("half")(folder)
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        checkpoints.save(2, fail)
    assert weights(checkpoints) == (1, "good")
    checkpoints.save(3, saved("better"))
    assert [p.name for p in checkpoints.folder.glob(".*")] == []


@pytest.mark.parametrize("damage", ["weights are cut", "weights are gone", "manifest is cut", "manifest is gone"])
def test_a_damaged_one_is_skipped(checkpoints, damage):
    checkpoints.save(1, saved("good"))
    newest = checkpoints.save(2, saved("damaged"))
    what, how = damage.split(" ")[0], damage.split(" ")[-1]
    path = newest.folder / {"weights": "weights", "manifest": "manifest.json"}[what]
    path.unlink() if how == "gone" else path.write_text(path.read_text()[:-1])
    assert weights(checkpoints) == (1, "good")


@pytest.mark.parametrize("point", ["publish.folder.before_manifest", "checkpoints.before_rename"])
def test_killed_while_it_saves_the_one_before_is_there(checkpoints, monkeypatch, point):
    checkpoints.save(1, saved("good"))
    monkeypatch.setenv("KAIZEN_FAULT", f"{point}:raise")
    with pytest.raises(OSError, match="fault point"):
        checkpoints.save(2, saved("half"))
    assert weights(checkpoints) == (1, "good")
