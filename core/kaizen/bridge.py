"""One stage, any place: a request goes in, one result file comes out.

trigger (its look at the rows), train, evaluate, deploy (its proof that a model opens) and score run where the loop's
``place`` says. The caller writes ``request.json`` into a folder of its own, starts ``python -m kaizen.bridge FOLDER``
there (or calls ``perform`` in process), and reads ``result.json``, which is published last. Nothing is ever read out of
logs. A place has no ledger, registry or Airflow credentials: only the variables named in ``PASSED_ON`` reach it.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from kaizen import codec
from kaizen.canonical import file_digests
from kaizen.causes import Cause
from kaizen.containers import NO_SPACE, Caller
from kaizen.errors import KaizenError, MissingDependency, StageFailed
from kaizen.faults import fault_point
from kaizen.publish import publish_json
from kaizen.records import Window
from kaizen.secret_files import await_secrets
from kaizen.secrets import Secrets
from kaizen.spec import PlaceSpec
from kaizen.trials import FolderSpool, Spool, Watch

PROTOCOL = 1
REQUEST, RESULT, LOG = "request.json", "result.json", "log.txt"
LOOK = 0.5
"""Seconds between two looks at a stage that runs on this machine."""
OUTPUT_FILES = ("model", "profile", "predictions")
"""Outputs that are paths of files or folders below the request's folder."""
PASSED_ON = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE")
PASSED_ON_PREFIXES = ("OMP_", "OPENBLAS_", "MKL_", "KAIZEN_FAULT", "CUDA_", "NVIDIA_")


PlacedStage = Literal["trigger", "trial", "train", "evaluate", "deploy", "score"]
"""What reads rows or opens models, and therefore runs in the place: stages, and the trials of a training."""


@dataclass(frozen=True)
class InputFile:
    """One partition's validated rows: where they lie for this place, and what they must be.

    ``acceptance``: it belongs to the acceptance set: of the main table the members alone.
    """

    table: str
    partition: str
    path: str
    sha256: str
    acceptance: bool = field(default=False, metadata=codec.LATER)


@dataclass(frozen=True)
class ModelFolder:
    """A published model folder and the digest of its manifest."""

    path: str
    digest: str


@dataclass(frozen=True)
class Request:
    """What a place needs to run one stage.

    Attributes:
        spec: the compiled spec, for the environment ``env``. project: the folder whose code is imported.
        inputs: partitions. window: only rows with a time in it. labelled: only rows whose label is known.
        models: by role: ``candidate``, ``champion``. reference: path of the profile to bin by.
        folder: where outputs and the result go. turn: the turn that it belongs to.
        checkpoints: a folder that outlives the attempts at a training, "" where there is none.
        parameters: for user code, as a search chose them. selection: of a trial, the rows that it is measured on; of
            trigger, those of the gate. held_by: the columns by which rows of the acceptance set are known.
        secrets: names of what is handed in after the start. patience: for how many seconds they are waited for.
    """

    stage: PlacedStage
    spec: dict[str, Any]
    env: str
    project: str
    folder: str
    inputs: tuple[InputFile, ...]
    window: Window
    models: dict[str, ModelFolder] = field(default_factory=dict)
    reference: str = ""
    turn: str = ""
    checkpoints: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    selection: Window | None = None
    secrets: tuple[str, ...] = ()
    patience: float = 0.0
    protocol: int = PROTOCOL
    held_by: tuple[str, ...] = field(default=(), metadata=codec.LATER)


def run(request: Request, place: PlaceSpec, caller: Caller, watch: Watch | None = None) -> dict[str, Any]:
    """Run one stage in ``place`` and return its outputs (JSON values; files by their names in ``request.folder``).

    ``watch`` looks at it every few seconds while it runs.

    Raises:
        KaizenError: what the stage refused, with its own code; ``StageFailed`` KZ701 (user code raised), KZ702 (out of
            memory), KZ703 (the place died without a result), KZ704 (timeout), KZ705 (protocol).
    """
    fault_point("bridge.before_run")
    folder = Path(request.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if place.mode == "in_process":
        with _watching(watch, FolderSpool(folder)):
            outputs = perform(request)
    elif place.mode == "docker":
        outputs = _containers().run(request, place, caller, watch)
    else:
        publish_json(folder / REQUEST, codec.encode(request))
        passed = {k: v for k, v in os.environ.items() if k in PASSED_ON or k.startswith(PASSED_ON_PREFIXES)}
        command = [place.interpreter, "-m", "kaizen.bridge", str(folder)]
        outputs = call(command, folder, passed, log=folder / LOG, timeout=place.timeout, watch=watch)
    fault_point("bridge.after_run")
    return outputs


@contextmanager
def _watching(watch: Watch | None, spool: Spool) -> Iterator[None]:
    """Let ``watch`` look at ``spool`` from a thread until the block ends; what it raises is raised then."""
    if watch is None:
        yield
        return
    done, failed = threading.Event(), list[Exception]()

    def look() -> None:
        try:
            while not done.wait(LOOK):
                watch(spool)
        except Exception as error:  # noqa: BLE001 - raised again where somebody sees it
            failed.append(error)

    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failed:
        raise failed[0]


def _containers() -> ModuleType:
    try:
        from kaizen.adapters import docker_place
    except ImportError:
        raise MissingDependency("docker", "docker") from None
    return docker_place


def call(
    command: Sequence[str],
    folder: Path,
    variables: Mapping[str, str],
    *,
    log: Path | None,
    timeout: timedelta | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Run a command that leaves its result in ``folder``, and return the result's outputs.

    The command ends with its caller, however that ends: by a signal to its process group, or when its standard input,
    a pipe that only the caller holds open, comes to its end (see ``end_with_caller``).

    Args:
        variables: the command's whole environment. log: where its output goes; None is the caller's own.
        watch: looks at it while it runs.

    Raises:
        StageFailed: KZ703 (no result), KZ704 (timeout), KZ705 (protocol), KZ706 (cannot be started).
        KaizenError: the error in the result.
    """
    (folder / RESULT).unlink(missing_ok=True)
    with ExitStack() as files:
        output = files.enter_context(log.open("ab")) if log else None
        try:
            child = subprocess.Popen(
                command,
                env=dict(variables),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            raise StageFailed(
                "KZ706",
                "the place cannot be started",
                where="place.interpreter",
                value=f"{command[0]}: {error.strerror}",
                limit="a Python with kaizen-mlops and the project's libraries",
                action="correct place.interpreter; `kaizen doctor` checks it",
            ) from error
        with _watching(watch, FolderSpool(folder, terminate=child.terminate)):
            ended = _wait(child, str(log or "the task's own log"), timeout)
    return read_result(folder, ended, str(log or "the task's own log"))


def _wait(child: subprocess.Popen[bytes], log: str, timeout: timedelta | None) -> int:
    """A child's exit code (negative: the signal that ended it)."""
    try:
        return child.wait(timeout=timeout.total_seconds() if timeout else None)
    except subprocess.TimeoutExpired as error:
        limit = codec.format_duration(timeout or timedelta(0))
        raise Cause.OUT_OF_TIME.error(
            where=log,
            value=f"more than {limit}",
            limit=f"place.timeout: {limit}",
            action="raise place.timeout, or train on less",
        ) from error
    finally:
        # Also when this process is interrupted: whatever the place started ends with it.
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if child.stdin:
            child.stdin.close()


def end_with_caller() -> None:
    """End this process, and its group if it leads one, when standard input is a pipe and its other end is gone.

    A caller that is killed by SIGKILL can end nobody; its retry would run beside what it had started.
    """
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def wait() -> None:
        while os.read(0, 1024):
            pass
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="end-with-caller", daemon=True).start()


def read_result(folder: Path, ended: int, log: str = "") -> dict[str, Any]:
    """The outputs in a finished run's ``result.json``, or the error that it holds, raised."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        value = f"killed by signal {-ended}" if ended < 0 else f"exit code {ended}"
        raise Cause.NO_RESULT.error(
            where=log or str(folder / LOG),
            value=value,
            limit=f"a {RESULT} of protocol {PROTOCOL}",
            action="read the end of the log; signal 9 is most often the memory limit; then retry",
        ) from error
    if result.get("protocol") != PROTOCOL:
        raise _protocol_mismatch(result.get("protocol"), str(folder / RESULT))
    if result.get("error"):
        raise KaizenError.from_json(result["error"])
    outputs: dict[str, Any] = result["outputs"]
    return outputs


def perform(request: Request, secrets: Secrets | None = None) -> dict[str, Any]:
    """Run the stage in this process. Whatever user code raises becomes ``StageFailed`` KZ701 or KZ702.

    ``secrets`` are masked in what it raises, before that is cut to a length that shows a part of one.
    """
    secrets = secrets or Secrets()
    from kaizen.adapters import place

    try:
        return place.STAGES[request.stage](request)
    except KaizenError:
        raise
    except MemoryError as error:
        raise Cause.OUT_OF_MEMORY.error(
            where=f"stage {request.stage}",
            action="give the place more memory, or train on less",
        ) from error
    except Exception as error:
        for cause, means in _CAUSES:
            if means(error):
                raise cause.error(where=_last_frame(error), value=secrets.mask(str(error))[:300]) from error
        raise StageFailed(
            "KZ701",
            f"user code failed in {request.stage}",
            where=f"{_last_frame(error)}; traceback in {_keep_traceback(request, error, secrets)}",
            value=secrets.mask(f"{type(error).__name__}: {error}")[:500],
            limit="a stage that ends without an exception",
            action="correct the project's code at that line and retry",
        ) from error


def _is_cuda_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch")


def _is_lost_gpu(error: Exception) -> bool:
    said = str(error)
    return any(text in said for text in ("GPU is lost", "Failed to initialize NVML", "CUDA error: unknown error"))


def _is_no_space(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


_CAUSES: tuple[tuple[Cause, Callable[[Exception], bool]], ...] = (
    (Cause.OUT_OF_GPU_MEMORY, _is_cuda_memory),
    (Cause.GPU_LOST, _is_lost_gpu),
    (Cause.NO_SPACE, _is_no_space),
)
"""Exceptions of user code that are not its fault."""


def _keep_traceback(request: Request, error: BaseException, secrets: Secrets) -> Path:
    path = Path(request.folder) / LOG
    with path.open("a", encoding="utf-8") as log:
        log.write(secrets.mask("".join(traceback.format_exception(error))))
    return path


def _last_frame(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


def _protocol_mismatch(found: object, where: str) -> StageFailed:
    return StageFailed(
        "KZ705",
        "caller and place speak different protocols",
        where=where,
        value=found,
        limit=f"protocol {PROTOCOL}",
        action="install the same release of kaizen-mlops in both",
    )


def main(folder: Path) -> int:
    """The place's side: read the request, perform, publish the result. Returns the exit code."""
    secrets = Secrets()

    def work() -> dict[str, Any]:
        nonlocal secrets
        values = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
        if values.get("protocol") != PROTOCOL:
            raise _protocol_mismatch(values.get("protocol"), str(folder / REQUEST))
        try:
            request = codec.decode(Request, values)
        except codec.DecodeError as error:
            # A key that this release does not know comes from a caller of another one.
            raise _protocol_mismatch(f"{error.path}: {error.what}", str(folder / REQUEST)) from error
        if not request.project:
            # In an image the project lies where the image says.
            request = replace(request, project=os.environ.get("KAIZEN_PROJECT", str(Path.cwd())))
        secrets = await_secrets(request.secrets, request.patience)
        return perform(request, secrets)

    return leave_result(folder, work, show=lambda result: masked(result, secrets))


def masked(result: dict[str, Any], secrets: Secrets) -> dict[str, Any]:
    """A result without the values of secrets, wherever the stage put them; but paths, which are read or refused."""
    outputs = result.get("outputs") or {}
    paths = {name: outputs[name] for name in OUTPUT_FILES if name in outputs}
    files = {"files": result["files"]} if "files" in result else {}
    shown: dict[str, Any] = secrets.mask_all(result)
    if paths:
        shown["outputs"] |= paths
    return {**shown, **files}


def leave_result(
    folder: Path,
    work: Callable[[], dict[str, Any]],
    show: Callable[[dict[str, Any]], dict[str, Any]] = lambda result: result,
) -> int:
    """Publish what ``work`` returns, or the refusal that it raises, as the result in ``folder``; the exit code.

    ``show`` takes out of a result what is not for those who read it.
    """
    result: dict[str, Any] = {"protocol": PROTOCOL, "outputs": None, "error": None, "files": {}}
    code = 0
    try:
        result["outputs"] = outputs = work()
        result["files"] = _output_files(folder, outputs)
    except KaizenError as error:
        result["error"], code = error.to_json(), error.exit_code
    fault_point("bridge.before_result")
    try:
        publish_json(folder / RESULT, show(result))
    except ValueError as error:
        refusal = Cause.DAMAGED_RESULT.error(
            what="the result is no JSON",
            where=str(folder / RESULT),
            value=str(error)[:300],
            limit="finite numbers, texts, lists and mappings of them",
            action="metrics must be finite",
        )
        publish_json(folder / RESULT, {**result, "outputs": None, "files": {}, "error": refusal.to_json()})
        return refusal.exit_code
    except OSError as error:
        if not _is_no_space(error):
            raise
        return NO_SPACE
    return code


def _output_files(folder: Path, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Size and sha256 of every file that the outputs name, by its path below ``folder``."""
    named = [Path(outputs[name]) for name in OUTPUT_FILES if name in outputs]
    files = [f for path in named for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()]
    found = {file.relative_to(folder).as_posix(): file_digests(file) for file in sorted(files)}
    return {name: {"size": size, **digests} for name, (size, digests) in found.items()}


if __name__ == "__main__":
    end_with_caller()
    sys.exit(main(Path(sys.argv[1])))
