"""What a worker's memory grows to while a container writes 1 GiB of lines: our follower beside the Docker operator's.

Ours is `Engine.follow`, which the stages in containers and `DurableDockerOperator` use. The peer is what the operator
of apache-airflow-providers-docker does: attach, `fetch_logs`, which keeps every line. Both hand each line to the same
logger. Each follower is a process of its own that says by how much it has grown since it began to follow, and how fast
it read; the third line is how fast the engine gives a log to somebody who only throws it away. Goal: flat.

    python benchmarks/log_memory.py [--mib 1024] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import json
import logging
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "core")]

from tests.docker_engine import DockerEngine, build_base_image  # noqa: E402
from tests.services import NotInstalledError  # noqa: E402

from kaizen.adapters.docker_engine import Engine  # noqa: E402
from kaizen.clock import WallClock  # noqa: E402
from kaizen.containers import Call, Caller, Log, Owner  # noqa: E402
from kaizen.ledger import open_ledger  # noqa: E402

LINE = 99
"""Characters of a line, without its end."""
WRITE = f"""
import os
block = (b"x" * {LINE} + b"\\n") * 1000
for _ in range({{lines}} // 1000):
    left = block
    while left:
        left = left[os.write(1, left):]
"""


class Watch(logging.Handler):
    """Counts the lines of a log, and notes at each step by how much this process has grown."""

    def __init__(self, steps: list[int]) -> None:
        super().__init__()
        self.steps = [(mib << 20) // (LINE + 1) for mib in steps]
        self.lines, self.grown = 0, list[float]()
        self.base, self.began, self.worked = memory(), time.perf_counter(), time.process_time()

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()
        self.lines += 1
        if self.steps and self.lines >= self.steps[0]:
            del self.steps[0]
            self.grown.append(memory() - self.base)

    def facts(self) -> dict[str, object]:
        """MiB grown at each step, MiB of lines per second, CPU seconds."""
        rate = self.lines * (LINE + 1) / (time.perf_counter() - self.began) / (1 << 20)
        return {"rate": rate, "cpu": time.process_time() - self.worked, "grown": self.grown}


def memory() -> float:
    """This process's resident MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def ours(host: str, image: str, steps: list[int], log: logging.Logger) -> None:
    engine = Engine(host)
    with tempfile.TemporaryDirectory() as folder, open_ledger(f"sqlite:///{folder}/ledger.db") as ledger:
        call = Call(Owner("bench"), Log(lambda name, line, mark: log.info("%s", line.text)))
        caller = Caller(call, ledger, WallClock(), "a/loop")
        lease = ledger.acquire("container/bench", caller.owner.holder, timedelta(seconds=60), caller.clock.now())
        made = engine.api.create_container_from_config(container(image, steps), "ours")["Id"]
        engine.api.start(made)
        engine.follow(made, caller, lease, timedelta(seconds=60), None, lambda container, ttl: None)


def peer(host: str, image: str, steps: list[int], log: logging.Logger) -> None:
    from airflow.providers.docker.operators.docker import fetch_logs

    engine = Engine(host)
    made = engine.api.create_container_from_config(container(image, steps), "peer")["Id"]
    stream = engine.slow.attach(container=made, stdout=True, stderr=True, stream=True)
    engine.api.start(made)
    kept = fetch_logs(stream, log)
    engine.slow.wait(made)
    del kept


def container(image: str, steps: list[int]) -> dict[str, object]:
    program = WRITE.format(lines=(steps[-1] << 20) // (LINE + 1) + 1000)
    return {"Image": image, "Cmd": ["python3", "-c", program], "HostConfig": {"NetworkMode": "none"}}


def child(way: str, host: str, image: str, steps: list[int], profiled: bool) -> None:
    """Follow one container, and print what was seen."""
    log = logging.getLogger("bench")
    log.propagate = False
    log.setLevel(logging.INFO)
    if way == "peer":
        import airflow.providers.docker.operators.docker  # noqa: F401 - imported before anything is measured
    log.addHandler(watch := Watch(steps))
    follower = {"ours": ours, "peer": peer}[way]
    profile = cProfile.Profile()
    if profiled:
        profile.runcall(follower, host, image, steps, log)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(20)
    else:
        follower(host, image, steps, log)
    print(json.dumps(watch.facts()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--profile", action="store_true", help="where ours spends its time")
    parser.add_argument("--child", nargs=3, metavar=("WAY", "HOST", "IMAGE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    steps = [asked.mib // 16, asked.mib // 4, asked.mib]
    if asked.child:
        child(*asked.child, steps, asked.profile)
        return 0
    try:
        with DockerEngine() as engine:
            return compare(engine.host, build_base_image(engine), steps, asked)
    except NotInstalledError as reason:
        print(f"skipped: {reason}")
        return 0


def compare(host: str, image: str, steps: list[int], asked: argparse.Namespace) -> int:
    print(f"{'grown after':16}" + "".join(f"{mib:>8} MiB" for mib in steps) + f"{'read':>15}{'CPU':>9}")
    found = {}
    for way, name in (("ours", "ours"), ("peer", "Docker operator")):
        if way == "peer" and find_spec("airflow") is None:
            print(f"{name:16} skipped: pip install 'kaizen-mlops[airflow-docker]'")
            continue
        command = [sys.executable, __file__, "--child", way, host, image, "--mib", str(asked.mib)]
        command += ["--profile"] if asked.profile and way == "ours" else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[way] = facts = json.loads(done.stdout.splitlines()[-1])
        grown = "".join(f"{mib:>8.1f} MiB" for mib in facts["grown"])
        print(f"{name:16}{grown}{facts['rate']:>9.1f} MiB/s{facts['cpu']:>8.1f}s")
    print(f"{'the engine alone':16}{'':{12 * len(steps)}}{floor(host, asked.mib):>9.1f} MiB/s")
    first, *_, last = found["ours"]["grown"]
    print(f"goal, at most 16 MiB more at the last step than at the first: {'met' if last - first <= 16 else 'missed'}")
    return 0


def floor(host: str, mib: int) -> float:
    """MiB of lines per second of the log that ours has read, thrown away by curl."""
    url = "http://engine/containers/ours/logs?stdout=1&stderr=1&timestamps=1"
    began = time.perf_counter()
    socket = host.removeprefix("unix://")
    subprocess.run(["curl", "--silent", "--unix-socket", socket, url, "--output", "/dev/null"], check=True)
    return mib / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
