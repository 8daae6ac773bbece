"""The training with checkpoints that the documentation shows: interrupted, it goes on."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from kaizen.checkpoints import Checkpoints
from kaizen.runners import Training, run_callable

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/containers.md"


class Stop(Exception):
    pass


def test_the_documented_training_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    pd = pytest.importorskip("pandas", reason="the example needs pandas: pip install 'kaizen-mlops[data,mlflow]'")
    pytest.importorskip("skops", reason="the example needs skops: pip install 'kaizen-mlops[mlflow]'")
    blocks = PAGE.read_text().split("```python\n")
    code = next(block for block in blocks if "checkpoints.latest()" in block).split("```")[0]
    (tmp_path / "documented.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    examples = pd.DataFrame({"a": range(40), "b": [n % 7 for n in range(40)], "late": [n % 2 for n in range(40)]})
    saved = Checkpoints(tmp_path / "checkpoints")
    save, steps = Checkpoints.save, []

    def interrupted(self, step, write):
        found = save(self, step, write)
        steps.append(step)
        if step == 3 and len(steps) == 3:
            raise Stop
        return found

    monkeypatch.setattr(Checkpoints, "save", interrupted)
    spec = SimpleNamespace(function="documented:fit", seed=0)
    training = Training(examples, "late", spec, tmp_path, "local", saved)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ten rounds are not meant to converge.
        with pytest.raises(Stop):
            run_callable(training)
        model = run_callable(training)
    assert steps == [*range(1, 21)]
    assert len(model.predict(examples[["a", "b"]])) == len(examples)
    assert saved.latest().step == 20
