"""What a stage in a container costs through `place: docker` beside `docker` by hand: same image, command, walls, files.

By hand twice: a volume that is filled, read and removed (create, cp, start --attach, cp, rm), and one `docker run
--rm` on a folder of this machine. Rounds are interleaved; the first is shown and not counted. Ours besides takes and
gives back a lease, looks for what earlier attempts left, keeps a record and checks what comes back. Goal: at most
0.5 s over `docker run`.

The last line is for data: it is pushed into the volume of each run, here 1 GiB, beside `docker cp`.

    python benchmarks/container_overhead.py [--rounds 9] [--mib 1024] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "core")]

from tests.docker.conftest import make_stage_image  # noqa: E402
from tests.docker_engine import DockerEngine, build_base_image  # noqa: E402
from tests.services import NotInstalledError  # noqa: E402

from kaizen import bridge, codec  # noqa: E402
from kaizen.adapters.docker_engine import Engine  # noqa: E402
from kaizen.bridge import Request  # noqa: E402
from kaizen.clock import WallClock  # noqa: E402
from kaizen.containers import MOUNT, Call, Caller, Log, Owner, host_config  # noqa: E402
from kaizen.ledger import Ledger, open_ledger  # noqa: E402
from kaizen.records import Window  # noqa: E402
from kaizen.spec import PlaceSpec  # noqa: E402

OUTPUTS = ("model", "profile.json", "result.json")
NUMBERS = count()


class Bench:
    """An engine, an image, a ledger, and the three ways to run one stage with them."""

    def __init__(self, engine: DockerEngine, image: str, ledger: Ledger, folder: Path) -> None:
        self.engine, self.image, self.ledger, self.folder = engine, image, ledger, folder
        self.place = PlaceSpec(mode="docker", image=image, engine=engine.host, memory="128m", tmp="16m", cpus=1.0)

    def request(self, folder: str, number: int) -> Request:
        return Request("train", {"lines": 3, "number": number}, "local", "", folder, (), Window(None, None))

    def ours(self) -> None:
        number = next(NUMBERS)
        call = Call(Owner(f"bench/{number}"), Log(lambda name, line, mark: None))
        caller = Caller(call, self.ledger, WallClock(), "a/loop")
        bridge.run(self.request(str(self.folder / str(number)), number), self.place, caller)
        caller.settle()

    def volume(self) -> None:
        name = f"by-hand-{next(NUMBERS)}"
        self.docker("volume", "create", name)
        self.docker("create", "--name", name, "--volume", f"{name}:{MOUNT}", *self.asked())
        self.docker("cp", "-", f"{name}:{MOUNT}", given=self.archive())
        self.docker("start", "--attach", name)
        for output in OUTPUTS:
            self.docker("cp", f"{name}:{MOUNT}/run/{output}", str(self.folder))
        self.docker("rm", name)
        self.docker("volume", "rm", name)

    def bind(self) -> None:
        folder = self.folder / f"by-hand-{next(NUMBERS)}"
        with tarfile.open(fileobj=io.BytesIO(self.archive())) as archive:
            archive.extractall(folder, filter="fully_trusted")
        self.docker("run", "--rm", "--volume", f"{folder}:{MOUNT}", *self.asked())
        if not all((folder / "run" / output).exists() for output in OUTPUTS):
            sys.exit("docker run left no result")

    def asked(self) -> list[str]:
        """The same walls and command."""
        walls = "--network=none --read-only --tmpfs=/tmp --init --cap-drop=ALL --security-opt=no-new-privileges"
        limits = "--memory=128m --memory-swap=128m --cpus=1 --pids-limit=512 --user=65532:65532 --env=HOME=/tmp"
        return [*walls.split(), *limits.split(), self.image, "python", "-m", "kaizen.bridge", f"{MOUNT}/run"]

    def archive(self) -> bytes:
        """The request in a folder that the container's user may fill."""
        body = json.dumps(codec.encode(self.request(f"{MOUNT}/run", next(NUMBERS)))).encode()
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as tar:
            for name, kind, content in (("run", tarfile.DIRTYPE, b""), ("run/request.json", tarfile.REGTYPE, body)):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode, entry.uid, entry.gid, entry.size = kind, 0o700, 65532, 65532, len(content)
                tar.addfile(entry, io.BytesIO(content))
        return made.getvalue()

    def docker(self, *arguments: str, given: bytes = b"") -> None:
        env = {**os.environ, "DOCKER_HOST": self.engine.host}
        done = subprocess.run(["docker", *arguments], input=given, env=env, capture_output=True, check=False)
        if done.returncode:
            sys.exit(f"docker {' '.join(arguments[:2])}: {done.stderr.decode()}")

    def push(self, mib: int) -> tuple[float, float]:
        """Seconds of our ``put`` of so much data into a volume, and of `docker cp`."""
        data, block = self.folder / "data", os.urandom(1 << 20)
        with data.open("wb") as file:
            file.writelines(block for _ in range(mib))
        engine, entry = Engine(self.engine.host), tarfile.TarInfo("data")
        entry.size = data.stat().st_size
        engine.volume_labels("pushed", {})
        config = {"Image": self.image, "Cmd": ["true"], "HostConfig": host_config(self.place, "pushed")}
        engine.api.create_container_from_config(config, "pushed")
        ways = (
            lambda: engine.put("pushed", MOUNT, [(entry, data)]),
            lambda: self.docker("cp", str(data), f"pushed:{MOUNT}"),
        )
        ours, by_hand = (seconds(way) for way in ways)
        engine.remove("pushed")
        engine.remove_volume("pushed")
        return ours, by_hand


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mib", type=int, default=1024, help="how much data to push")
    parser.add_argument("--profile", action="store_true", help="where ours spends its time, by call")
    asked = parser.parse_args()
    try:
        with DockerEngine() as engine, tempfile.TemporaryDirectory(prefix="kaizen-bench-") as folder:
            build_base_image(engine)
            with open_ledger(f"sqlite:///{folder}/ledger.db") as ledger:
                return measure(Bench(engine, make_stage_image(engine), ledger, Path(folder)), asked)
    except NotInstalledError as reason:
        print(f"skipped: {reason}")
        return 0


def measure(bench: Bench, asked: argparse.Namespace) -> int:
    ways = {"docker run": bench.bind, "docker, a volume": bench.volume, "place: docker": bench.ours}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(asked.rounds + 1):
        for name, way in ways.items():
            spent[name].append(seconds(way))
    show(spent)
    if asked.profile:
        profile = cProfile.Profile()
        profile.runcall(bench.ours)
        pstats.Stats(profile).sort_stats("cumulative").print_stats(40)
    ours, by_hand = bench.push(asked.mib)
    print(f"{asked.mib} MiB of data into a volume: ours {ours:.2f} s, docker cp {by_hand:.2f} s; each run pays that")
    return 0


def show(spent: dict[str, list[float]]) -> None:
    print(f"{'':18}{'first':>8}{'median':>8}{'least':>8}{'most':>8}{'over docker run':>17}")
    base = statistics.median(spent["docker run"][1:])
    for name, values in spent.items():
        counted = values[1:]
        facts = [values[0], statistics.median(counted), min(counted), max(counted)]
        print(f"{name:18}" + "".join(f"{v:>7.2f}s" for v in facts) + f"{statistics.median(counted) - base:>+16.2f}s")
    over = statistics.median(spent["place: docker"][1:]) - base
    print(f"goal, at most 0.5 s over docker run: {'met' if over <= 0.5 else 'missed'}")


if __name__ == "__main__":
    sys.exit(main())
