"""A stage in a container: one volume holds request, data and result; the result is read after the exit, never a log.

A container is found by its name, so a later attempt at the same task adopts it, running or ended, and returns its
result. Whoever holds its lease may touch it. After a failure it is removed and its volume stays for the next attempt;
after a success both stay until the caller says that the result was kept.
"""

from __future__ import annotations

import json
import logging
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import Any

from kaizen import bridge, codec
from kaizen.adapters.docker_engine import Ended, Engine, Wanted, parse_result
from kaizen.adapters.docker_gpus import HeldGpus, has_runtime, keep_gpus, lease_gpus, present_gpus
from kaizen.adapters.docker_runs import (
    acquire,
    attend,
    end_stale,
    find_adoptable,
    forget,
    keep_run,
    lease_time,
    start_or_adopt,
    told_as_refusals,
    until_made,
)
from kaizen.adapters.docker_secrets import give, secrets_of
from kaizen.bridge import OUTPUT_FILES, REQUEST, RESULT, ModelFolder, Request
from kaizen.canonical import canonical_json, digest
from kaizen.causes import Cause
from kaizen.containers import (
    LABEL,
    MOUNT,
    SECRETS,
    Caller,
    GpuWish,
    format_size,
    gpu_settings,
    gpus_of,
    host_config,
    labels,
    parse_gpus,
    user_ids,
    why_ended,
    work_name,
)
from kaizen.errors import KaizenError, LedgerError, StageFailed
from kaizen.faults import fault_point
from kaizen.images import CODE, code_of
from kaizen.ledger import Lease
from kaizen.publish import verify_file
from kaizen.records import ContainerRun
from kaizen.secret_files import FOLDER
from kaizen.secrets import Secrets
from kaizen.spec import PlaceSpec
from kaizen.trials import MAX_REPORTS, REPORTS, STOP, Watch

MAX_RESULT = 16 * 1024**2
"""Bytes of a result file."""
CHECKPOINTS = "checkpoints"
"""Folder of the volume that outlives its containers."""
MAX_OUTPUTS = 8 * 1024**3
"""Bytes of all files that a stage leaves."""

_ENVIRONMENT = ["HOME=/tmp", "MPLCONFIGDIR=/tmp", "PYTHONUNBUFFERED=1"]
"""What every container gets: nothing of the caller's."""

log = logging.getLogger(__name__)


@told_as_refusals()
def run(request: Request, place: PlaceSpec, caller: Caller, watch: Watch | None = None) -> dict[str, Any]:
    """``bridge.run`` in a container: its outputs, with the files in ``request.folder``.

    Raises:
        KaizenError: what the stage refused; ``StageFailed`` KZ702 to KZ719, by what ended the container.
        LeaseHeld: KZ503 somebody else follows it, KZ504 a later attempt took it over.
        UsageError: KZ260 a secret is not there, KZ261 it cannot be one.
    """
    secrets, place, caller = secrets_of(request, place, caller)
    engine = Engine(place.engine)
    work = work_digest(request, place)
    name = work_name(caller.owner, work)
    lease = acquire(caller, engine, name)
    with until_made(caller, engine, lease):
        end_stale(engine, caller, name, place.stop_timeout)
        found = find_adoptable(engine, caller, name, set_aside=lambda told: engine.remove(told["Id"]))
        wanted, gpus = _wanted(engine, request, place, caller, name, work, found)
        told = replace(request, secrets=place.secrets, patience=lease_time(caller).total_seconds())
        container = start_or_adopt(engine, wanted, found, prepare=lambda made: _fill(engine, made, told, place))
    ready = partial(give, engine, container, place, secrets)
    ended = None
    try:
        beat = _beat(engine, container, gpus, place, watch)
        ended = attend(engine, container, caller, lease, place.timeout, place.stop_timeout, beat, ready)
        gpus.release()
        outputs = _read(engine, ended, request, place, secrets)
    except KaizenError as error:
        # A later attempt has it; or it goes on; or of an engine that does not answer nobody knows what became of it.
        if isinstance(error, LedgerError) or Cause.NO_ENGINE.of(error) or Cause.INTERRUPTED.of(error):
            raise
        keep_run(caller, container, _record(request, wanted, place, ended, gpus, error.code))
        fault_point("containers.after_failure")
        # Its volume stays for the next attempt.
        engine.remove(container)
        gpus.release()
        caller.ledger.release(lease, caller.clock.now())
        raise
    keep_run(caller, container, _record(request, wanted, place, ended, gpus, ""))
    fault_point("containers.after_read")
    caller.finished.append(lambda: forget(engine, caller, lease, name))
    return outputs


def _beat(
    engine: Engine, container: str, gpus: HeldGpus, place: PlaceSpec, watch: Watch | None
) -> Callable[[str, timedelta], None]:
    """What is done at every heartbeat of a running container."""
    if watch is None:
        return gpus.beat
    spool = VolumeSpool(engine, container, place)

    def beat(name: str, ttl: timedelta) -> None:
        gpus.beat(name, ttl)
        watch(spool)

    return beat


class VolumeSpool:
    """The spool of a trial on its container's volume."""

    def __init__(self, engine: Engine, container: str, place: PlaceSpec) -> None:
        self.engine, self.container, self.place = engine, container, place
        found = engine.find(container)
        self.folder = found["Config"]["Labels"][f"{LABEL}.folder"] if found else ""

    def reports(self) -> bytes:
        """The reports so far."""
        return self.engine.read_file(self.container, f"{MOUNT}/{self.folder}/{REPORTS}", MAX_REPORTS) or b""

    def stop(self) -> None:
        """Leave the stop file."""
        uid, gid = user_ids(self.place.user)
        self.engine.put(self.container, MOUNT, [(_file(f"{self.folder}/{STOP}", 0, uid, 0o400, gid), b"")])

    def end(self) -> None:
        """SIGTERM, and SIGKILL for one that does not hear it."""
        self.engine.stop(self.container, self.place.stop_timeout)


def work_digest(request: Request, place: PlaceSpec) -> str:
    """Identity of what a container is to do: the request without the places where things lie, and the image's name."""
    facts = codec.encode(
        replace(
            request,
            folder="",
            project="",
            checkpoints="",
            inputs=tuple(replace(i, path="") for i in request.inputs),
            models={role: replace(m, path="") for role, m in request.models.items()},
            reference=bool(request.reference) * "reference",
        )
    )
    return digest([facts, place.image])


def _wanted(
    engine: Engine,
    request: Request,
    place: PlaceSpec,
    caller: Caller,
    name: str,
    work: str,
    found: dict[str, Any] | None,
) -> tuple[Wanted, HeldGpus]:
    """What is to be made, and the GPUs that are held for it; or what is there, with those that it was given.

    The image is the one that the first attempt found: the volume remembers it.
    """
    described = {"loop": caller.loop, "stage": request.stage, "turn": request.turn, "work": work}
    runtime, leases = False, list[Lease]()
    if found:
        image = str(found["Config"]["Labels"][f"{LABEL}.image"])
        if found["State"]["Running"]:
            leases = keep_gpus(engine, caller, gpus_of(found["Config"]["Labels"]), name)
    else:
        wish = parse_gpus(place.gpus)
        if wish:
            wish, runtime = _preflight(engine, place, wish)
        mine = labels(caller.owner, **described, image=engine.pin(place.image))
        image = engine.volume_labels(name, mine).get(f"{LABEL}.image", mine[f"{LABEL}.image"])
        if wish:
            leases = lease_gpus(engine, caller, wish, present_gpus(engine, image), name)
    gpus = HeldGpus(engine, caller, leases)
    settings, variables = gpu_settings(gpus.gpus, runtime=runtime)
    variables += [f"{FOLDER}={SECRETS}"] if place.secrets else []
    variables += [f"{CODE}={code}"] if (code := code_of(engine.image_labels(image))) else []
    # Each container has a folder of its own on the volume: the result of an earlier one is never read as its own.
    folder = f"run-{token_hex(8)}"
    own = {f"{LABEL}.folder": folder, **({f"{LABEL}.gpus": ",".join(gpus.gpus)} if gpus.gpus else {})}
    wanted = Wanted(
        name=name,
        labels={**labels(caller.owner, **described, image=image), **own},
        config={
            "Image": image,
            "Entrypoint": [],
            "Cmd": ["python", "-m", "kaizen.bridge", f"{MOUNT}/{folder}"],
            "User": place.user,
            "Env": [*_ENVIRONMENT, *variables],
            "HostConfig": {**host_config(place, name), **settings},
        },
    )
    return wanted, gpus


def _preflight(engine: Engine, place: PlaceSpec, wish: GpuWish) -> tuple[GpuWish, bool]:
    """Whether the engine can give GPUs at all, before anything is pulled; and by its runtime or not."""
    try:
        return wish, has_runtime(engine)
    except StageFailed as error:
        if place.fallback != "cpu":
            raise
        log.warning("%s; going on without, as place.fallback says", error.what)
        return GpuWish(0), False


def _fill(engine: Engine, made: dict[str, Any], request: Request, place: PlaceSpec) -> None:
    folder = made["Config"]["Labels"][f"{LABEL}.folder"]
    engine.put(made["Id"], MOUNT, list(_files(request, place, folder)))


def _files(request: Request, place: PlaceSpec, folder: str) -> Iterator[tuple[tarfile.TarInfo, Path | bytes]]:
    """What is put on the volume: the request, and what it names, read-only; and a folder that the stage may fill."""
    uid, gid = user_ids(place.user)
    inside, copies = _inside(request, folder)
    for directory in dict.fromkeys(p.as_posix() for _, target in copies for p in reversed(target.parents[:-1])):
        yield _directory(directory, 0, 0o755), b""
    for source, target in copies:
        yield _file(target.as_posix(), source.stat().st_size, 0, 0o444), source
    yield _directory(folder, uid, 0o700, gid), b""
    if inside.checkpoints:
        yield _directory(CHECKPOINTS, uid, 0o700, gid), b""
    body = canonical_json(codec.encode(inside)).encode()
    yield _file(f"{folder}/{REQUEST}", len(body), uid, 0o400, gid), body


def _inside(request: Request, folder: str) -> tuple[Request, list[tuple[Path, PurePosixPath]]]:
    """The request with the paths that hold inside, and what to copy where (relative to the volume)."""
    data = PurePosixPath(f"{folder}-data")
    copies: list[tuple[Path, PurePosixPath]] = []

    def copied(source: str, name: str) -> str:
        copies.append((Path(source), data / name))
        return f"{MOUNT}/{data / name}"

    inputs = tuple(
        replace(i, path=copied(i.path, f"inputs/{n}{Path(i.path).suffix}")) for n, i in enumerate(request.inputs)
    )
    models = {}
    for role, model in request.models.items():
        root = Path(model.path)
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            copied(str(path), f"models/{role}/{path.relative_to(root).as_posix()}")
        models[role] = ModelFolder(f"{MOUNT}/{data}/models/{role}", model.digest)
    reference = copied(request.reference, "reference.json") if request.reference else ""
    inside = replace(request, folder=f"{MOUNT}/{folder}", project="", inputs=inputs, models=models, reference=reference)
    # The same folder for every container on this volume.
    return replace(inside, checkpoints=f"{MOUNT}/{CHECKPOINTS}" if request.checkpoints else ""), copies


def _directory(name: str, uid: int, mode: int, gid: int | None = None) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, mode, uid, uid if gid is None else gid
    return info


def _file(name: str, size: int, uid: int, mode: int, gid: int | None = None) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uid, info.gid = size, mode, uid, uid if gid is None else gid
    return info


def _read(engine: Engine, ended: Ended, request: Request, place: PlaceSpec, secrets: Secrets) -> dict[str, Any]:
    """The outputs of a container's own result, its files verified and in ``request.folder``."""
    inside = f"{MOUNT}/{ended.labels[f'{LABEL}.folder']}"
    folder = Path(request.folder)
    try:
        data = engine.read_file(ended.id, f"{inside}/{RESULT}", MAX_RESULT)
        if data is None:
            raise why_ended(ended.state, place.memory, place.image, name=ended.name, peak=ended.peak, tail=ended.tail)
        # Masked in there already, if that is the image's own result.
        result = bridge.masked(parse_result(data), secrets)
        (folder / RESULT).write_text(json.dumps(result), encoding="utf-8")
        outputs = bridge.read_result(folder, int(ended.state["ExitCode"]))
        for output in (o for o in OUTPUT_FILES if o in outputs):
            path = str(outputs[output])
            name = PurePosixPath(path).relative_to(inside)
            if len(name.parts) != 1 or ".." in name.parts:
                # It would lead out of the request's folder, over here.
                raise ValueError(f"{path!a} is not a name in the folder of the request")
            if unlisted := sorted(engine.read_tree(ended.id, path, folder, MAX_OUTPUTS) - result["files"].keys()):
                raise ValueError(f"{unlisted[0]!a} is not in its list of files")
            outputs[output] = str(folder / name)
        for name, facts in result["files"].items():
            verify_file(folder / name, facts["sha256"], facts["size"])
    except (ValueError, KeyError, TypeError) as error:
        raise Cause.DAMAGED_RESULT.error(
            where=f"container {ended.name}: {inside}/{RESULT}",
            value=f"{type(error).__name__}: {error}"[:300],
            limit=f"JSON numbers, at most {format_size(MAX_RESULT)}, and regular files below {inside}",
            action="metrics must be finite; results must lie in the folder of the request",
        ) from error
    return outputs


def _record(
    request: Request, wanted: Wanted, place: PlaceSpec, ended: Ended | None, gpus: HeldGpus, cause: str
) -> ContainerRun:
    """What ran, behind which walls, and how it ended."""
    return ContainerRun(
        container=wanted.name,
        stage=request.stage,
        turn=request.turn,
        image=place.image,
        image_id=wanted.config["Image"],
        opened=tuple(sorted(place.opened)),
        exit_code=int(ended.state["ExitCode"]) if ended else -1,
        cause=cause,
        peak_memory=ended.peak if ended else 0,
        seconds=ended.seconds if ended else 0.0,
        gpus=gpus.gpus,
        gpu_use=round(gpus.use, 3),
        gpu_memory=gpus.memory,
    )
