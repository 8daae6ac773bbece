"""Ingest beside `dvc add` + `dvc push`, beside the bare hash of the same bytes, and beside `cp`.

The same bytes on the same disk, one after the other in one run: a Parquet file of 1 GiB, and 1,000 Parquet files of
1 MiB; then once more after one of them has changed. Ours is `ingest` in a process that has its imports and an open
loop; DVC's commands are whole processes, beside them with what `dvc version` costs taken off. The hash is one plain
pass by one thread, md5 and sha256. `cp` is not made durable, nor is anything of DVC's; ours is. Goals: first add of
1 GiB at most 1.3 times that pass plus `cp`, and the copy to the remote besides, which DVC's push makes too; re-add at
most 0.15 s. Each of the 1,000 files becomes a version of its own with a commit of its own, where DVC makes one of the
folder: they have no goal but DVC's time. Memory is what a process has of its own at its peak, looked at all the time:
ours has this benchmark's imports besides.

Last, a file of 3 GiB is cut into months by `kaizen stage ingest` in a process whose memory is limited to 256 MiB by a
control group (as root; elsewhere its peak is only printed).

    python benchmarks/ingest.py [--mib 1024] [--files 1000] [--large 3072]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "core")]

from kaizen.adapters.memory_registry import MemoryRegistry  # noqa: E402
from kaizen.ingest import ingest  # noqa: E402
from kaizen.loop import open_loop  # noqa: E402

LIMIT = 256
"""MiB that the process of the large file has."""
COLUMNS = 16
_TOUCHED = 5 << 30
"""Bytes of memory that are used before something is measured; see ``settle``."""
QUIET = {**os.environ, "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="of the one file")
    parser.add_argument("--files", type=int, default=1000, help="of 1 MiB each")
    parser.add_argument("--large", type=int, default=3072, help="MiB of the file that is cut; 0 leaves it out")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="ingest-") as name:
        folder = Path(name).resolve()
        import_all(folder)
        base = seconds_of(["dvc", "version"], folder)
        print(
            f"{'':34}{'ours':>9}{'dvc':>9}{'dvc-start':>11}{'ours MiB':>10}{'dvc MiB':>9}{'hash':>8}{'cp':>8}"
            "   ours / (hash + 2 cp)   dvc / ours"
        )
        compare("one file", folder / "one", [arguments.mib], base)
        compare(f"{arguments.files} files", folder / "many", [1] * arguments.files, base)
        if arguments.large:
            cut_large(folder / "large", arguments.large)
    return 0


def import_all(folder: Path) -> None:
    """One small delivery: what follows does not pay for imports."""
    with loop_of(folder / "warm") as (loop, landing):
        write(landing / "a.parquet", 1, 0)
        ingest(loop)


def compare(name: str, folder: Path, sizes: list[int], base: float) -> None:
    with loop_of(folder / "ours") as (loop, landing):
        files = [landing / f"part-{i:05}.parquet" for i in range(len(sizes))]
        for i, (path, size) in enumerate(zip(files, sizes, strict=True)):
            write(path, size, i)
        theirs = dvc_repository(folder / "dvc", landing)
        settle()
        hashed = timed(lambda: [hash_plainly(path) for path in files])
        # It stays: whoever makes files after many were removed may wait for the file system.
        copied = timed(lambda: shutil.copytree(landing, folder / "copy"))
        settle()
        ours = measured(lambda: taken(ingest(loop), len(files)))
        settle()
        dvc = measured(lambda: dvc_add(theirs))
        tell(f"{name}, first", ours, dvc, 2 * base, hashed, copied)
        write(files[0], sizes[0], len(files))
        shutil.copyfile(files[0], theirs / "data" / files[0].name)
        settle()
        changed = [files[0]]
        hashed = timed(lambda: [hash_plainly(path) for path in changed])
        copied = timed(lambda: [shutil.copyfile(path, folder / "copied") for path in changed])
        ours = measured(lambda: taken(ingest(loop), 1))
        dvc = measured(lambda: dvc_add(theirs))
        tell(f"{name}, one changed", ours, dvc, 2 * base, hashed, copied)
        ours = measured(lambda: taken(ingest(loop), 0))
        dvc = measured(lambda: dvc_add(theirs))
        tell(f"{name}, nothing changed", ours, dvc, 2 * base)


def taken(versions: list[object], count: int) -> None:
    if len(versions) != count:
        raise SystemExit(f"{len(versions)} versions, {count} were delivered")


def tell(name: str, ours: Spent, dvc: Spent, start: float, hashed: float = 0.0, copied: float = 0.0) -> None:
    # DVC, too, has a copy in its cache and one in the remote.
    least = hashed + 2 * copied
    floor = f"{hashed:8.2f}{copied:8.2f}{ours.seconds / least:17.2f}" if least else " " * 33
    print(
        f"{name:34}{ours.seconds:9.2f}{dvc.seconds:9.2f}{dvc.seconds - start:11.2f}{ours.mib:10.0f}{dvc.mib:9.0f}"
        f"{floor}{dvc.seconds / ours.seconds:19.1f}",
        flush=True,
    )


def cut_large(folder: Path, mib: int) -> None:
    """Cut one file into months, in a process with little memory."""
    with loop_of(folder, cut=True) as (loop, landing):
        write_timed(landing / "all.parquet", mib)
        spec = loop.path
    size = (landing / "all.parquet").stat().st_size / 2**20
    command = [sys.executable, "-m", "kaizen.cli", "stage", "ingest", str(spec)]
    began = time.perf_counter()
    with control_group() as group:
        child = subprocess.Popen(command, env={**QUIET, "PYTHONPATH": str(ROOT / "core")}, preexec_fn=joining(group))
        peak = 0.0
        while child.poll() is None:
            peak = max(peak, resident(child.pid))
            time.sleep(0.05)
    taken_for = time.perf_counter() - began
    if child.returncode:
        raise SystemExit(f"ingest of {size:.0f} MiB ended with {child.returncode}")
    limit = f"limited to {LIMIT} MiB" if group else "not limited: no control group can be made here"
    print(f"\n{size:.0f} MiB cut into months: {taken_for:.1f} s, peak {peak:.0f} MiB resident, {limit}")


@contextmanager
def control_group() -> Iterator[Path | None]:
    """A control group with little memory and no swap, if one can be made here."""
    roots = [(Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max")]
    group = None
    for root, name in roots:
        made = root / f"kaizen-ingest-{os.getpid()}"
        try:
            made.mkdir()
            (made / name).write_text(str(LIMIT << 20))
            group = made
            break
        except OSError:
            if made.exists():
                made.rmdir()
    try:
        yield group
    finally:
        if group:
            time.sleep(0.2)
            group.rmdir()


def joining(group: Path | None) -> object:
    return (lambda: (group / "cgroup.procs").write_text(str(os.getpid()))) if group else None


def resident(pid: int) -> float:
    """MiB that are a process's own: pages of files that it has mapped are the system's to keep or to drop."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return int(lines["RssAnon"].split()[0]) / 1024
    except (OSError, KeyError):
        return 0.0


@contextmanager
def loop_of(folder: Path, *, cut: bool = False) -> Iterator[tuple[object, Path]]:
    """A loop whose table takes Parquet files, each a partition, or cut into months."""
    landing = folder / "landing"
    landing.mkdir(parents=True)
    table = {"uri": str(landing / "*.parquet"), "on_change": "replace"}
    tables = {
        "rows": {"uri": "none/*.parquet", "partition": "month"},
        "files": {**table, "partition": "file", "join": ["key"]},
    }
    spec = {
        "version": 1,
        "loop": "benchmark/ingest",
        "problem": {"task": "regression", "target": "x0", "entity": ["key"], "timestamp": "at"},
        "data": {"tables": {"rows": {**table, "partition": "month"}} if cut else tables},
        "train": {"runner": "callable", "function": "none:none"},
        "gates": [{"metric": "mae", "at_most": 1.0}],
    }
    path = folder / "kaizen.yml"
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    with open_loop(path, home=None, registry=MemoryRegistry()) as loop:
        yield loop, landing


def write(path: Path, mib: int, seed: int) -> None:
    """A Parquet file of about so many MiB that nobody can pack."""
    rng, rows = np.random.default_rng(seed), (mib << 20) // (8 * (COLUMNS + 1))
    with pq.ParquetWriter(path, schema(), compression="none", use_dictionary=False) as writer:
        for start in range(0, rows, 1 << 18):
            count = min(1 << 18, rows - start)
            writer.write_table(numbers(rng, start, count))
    now = time.time()
    # As if it had come a while ago.
    os.utime(path, (now - 60, now - 60))


def schema() -> pa.Schema:
    return pa.schema([("key", pa.int64()), *((f"x{i}", pa.float64()) for i in range(COLUMNS))])


def numbers(rng: np.random.Generator, start: int, count: int) -> pa.Table:
    columns = [pa.array(np.arange(start, start + count)), *(pa.array(rng.random(count)) for _ in range(COLUMNS))]
    return pa.Table.from_arrays(columns, schema=schema())


def write_timed(path: Path, mib: int) -> None:
    """A Parquet file whose rows come in no order of time, over twelve months."""
    rng, rows = np.random.default_rng(0), (mib << 20) // (8 * (COLUMNS + 2))
    begin, year = np.datetime64("2023-01-01T00:00:00", "us"), 365 * 86_400 * 10**6
    at = pa.field("at", pa.timestamp("us", "UTC"))
    with pq.ParquetWriter(path, pa.schema([at, *schema()]), compression="none", use_dictionary=False) as writer:
        for start in range(0, rows, 1 << 18):
            count = min(1 << 18, rows - start)
            times = pa.array(begin + rng.integers(0, year, count).astype("timedelta64[us]"), at.type)
            writer.write_table(numbers(rng, start, count).add_column(0, at, times))


def dvc_repository(folder: Path, files: Path) -> Path:
    """A DVC repository with a folder of the same files, and a remote on the same disk."""
    folder.mkdir()
    shutil.copytree(files, folder / "data")
    run(["git", "init", "--quiet"], folder)
    run(["dvc", "init", "--quiet"], folder)
    run(["dvc", "remote", "add", "--quiet", "--default", "store", str(folder / "remote")], folder)
    return folder


def dvc_add(folder: Path) -> None:
    run(["dvc", "add", "--quiet", "data"], folder)
    run(["dvc", "push", "--quiet"], folder)


def seconds_of(command: list[str], folder: Path) -> float:
    """Of the second of two runs."""
    run(command, folder)
    return timed(lambda: run(command, folder))


def run(command: list[str], folder: Path) -> None:
    program = Path(sys.executable).with_name(command[0])
    first = str(program) if program.exists() else command[0]
    child = subprocess.Popen([first, *command[1:]], cwd=folder, env=QUIET, stdout=subprocess.DEVNULL)
    _watched.append(child.pid)
    if child.wait():
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")


def hash_plainly(path: Path) -> list[str]:
    """md5 and sha256 of a file, in one pass by one thread."""
    digests, buffer = [hashlib.md5(usedforsecurity=False), hashlib.sha256()], memoryview(bytearray(1 << 18))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            for digest in digests:
                digest.update(buffer[:count])
    return [digest.hexdigest() for digest in digests]


def settle() -> None:
    """What was written before is on disk: it costs nothing that is measured.

    Memory for pages of files has been used before: a virtual machine is given it anew at the first touch, which costs
    more than the copying, and whoever comes later pays it.
    """
    os.sync()
    np.ones(_TOUCHED // 8)


@dataclass(frozen=True)
class Spent:
    """Seconds, and the most memory of its own that the process at work had: this one, or those that it started."""

    seconds: float
    mib: float


_watched: list[int] = []
"""The processes that are at work, the newest last."""


def measured(work: object) -> Spent:
    peaks, ended = {os.getpid(): 0.0}, threading.Event()
    _watched[:] = peaks

    def look() -> None:
        while not ended.wait(0.02):
            peaks[_watched[-1]] = max(peaks.get(_watched[-1], 0.0), resident(_watched[-1]))

    beside = threading.Thread(target=look)
    beside.start()
    try:
        seconds = timed(work)
    finally:
        ended.set()
        beside.join()
    started = [peak for pid, peak in peaks.items() if pid != os.getpid()]
    return Spent(seconds, max(started or peaks.values()))


def timed(work: object) -> float:
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
