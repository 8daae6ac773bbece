"""doctor: what is installed, reachable and missing, and the fix for each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from kaizen.errors import KaizenError
from kaizen.loop import Loop, open_loop
from kaizen.privacy import parse_policies
from kaizen.private_key import FILE, find_key, fingerprint, fingerprints
from kaizen.promote import registry_name
from kaizen.reconcile import open_engine
from kaizen.secrets import find_secrets

SUPPORTED = {
    "kedro": ("1.7", "kedro"),
    "great-expectations": ("1.20", "great-expectations"),
    "mlflow": ("3.15", "mlflow"),
    "dvc": ("3.67", "dvc"),
    "pandas": ("2.2", "data"),
    "pyarrow": ("18.0", "data"),
    "scikit-learn": ("1.6", "mlflow"),
    "skops": ("0.13", "mlflow"),
    "psycopg": ("3.2", "postgres"),
    "optuna": ("4.5", "tune"),
}
"""Oldest supported version, and the extra that installs it."""

_TELEMETRY = {
    "KEDRO_DISABLE_TELEMETRY": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``missing`` is optional; ``broken`` must be mended before a turn."""

    name: str
    status: Literal["ok", "missing", "broken"]
    found: str
    fix: str = ""


def examine(path: Path | None, env: str | None = None) -> list[Finding]:
    """Look at this environment, and at the loop of the spec at ``path`` if there is one."""
    return [*_python(), *_packages(), *_programs(), *_telemetry(), *(_loop(path, env) if path else ())]


def _python() -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(
        "python", "ok" if supported else "broken", found, "" if supported else "use Python 3.11, 3.12 or 3.13"
    )


def _packages() -> Iterator[Finding]:
    for name, (oldest, extra) in SUPPORTED.items():
        install = f"pip install 'kaizen-mlops[{extra}]'"
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "missing", "not installed", install)
            continue
        recent = _numbers(found) >= _numbers(oldest)
        yield Finding(name, "ok" if recent else "broken", found, "" if recent else f"{oldest} or newer: {install}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _programs() -> Iterator[Finding]:
    path = shutil.which("git")
    yield Finding(
        "git", "ok" if path else "broken", path or "not on PATH", "" if path else "install git: DVC keeps history in it"
    )


def _telemetry() -> Iterator[Finding]:
    for name, off in _TELEMETRY.items():
        quiet = os.environ.get(name) == off or os.environ.get("DO_NOT_TRACK") == "1"
        yield Finding(
            f"telemetry {name}",
            "ok" if quiet else "missing",
            os.environ.get(name, "not set"),
            "" if quiet else f"export {name}={off}",
        )


def _loop(path: Path, env: str | None) -> Iterator[Finding]:
    try:
        with open_loop(path, env=env) as loop:
            yield Finding("spec", "ok", f"{loop.name}, digest {loop.spec.digest[:12]}")
            yield Finding("ledger", "ok", f"{sum(1 for _ in loop.ledger.heads(loop.name))} subjects")
            yield _tracking(loop.registry.alias, registry_name(loop))
            yield _remote(loop)
            if loop.spec.place.mode == "python":
                yield _place(loop.spec.place.interpreter)
            elif loop.spec.place.mode == "docker":
                yield _engine(loop)
                if loop.spec.place.secrets:
                    yield _secrets(loop)
            yield from _privacy(loop)
    except KaizenError as error:
        yield Finding(error.where or "loop", "broken", f"{error.code}: {error.what}", error.action)


def _tracking(alias: object, name: str) -> Finding:
    try:
        champion = alias(name, "champion")  # type: ignore[operator]
    except KaizenError as error:
        return Finding("tracking", "broken", f"{error.code}: {error.what}", error.action)
    return Finding("tracking", "ok", f"champion alias at version {champion}")


def _remote(loop: Loop) -> Finding:
    try:
        loop.data.probe()
    except KaizenError as error:
        return Finding("data remote", "broken", f"{error.code}: {error.what}: {error.value}", error.action)
    return Finding("data remote", "ok", "can be written")


def _engine(loop: Loop) -> Finding:
    """The engine answers, has GPUs if they are asked for, and the image."""
    place = loop.spec.place
    try:
        engine = open_engine(loop)
        if engine is None:
            raise ValueError(f"place.mode is {place.mode}")
        if place.gpus:
            from kaizen.adapters.docker_gpus import has_runtime

            has_runtime(engine)
        image = engine.image(place.image)
    except KaizenError as error:
        return Finding("place", "broken", f"{error.code}: {error.what}", error.action)
    if image is None:
        return Finding(
            "place", "missing", f"{place.image} is not on the engine", "kaizen image build; else it is pulled"
        )
    return Finding("place", "ok", f"engine {engine.version}, image {place.image} ({image})")


def _secrets(loop: Loop) -> Finding:
    """Whether this shell has them; on Airflow they may be in a connection."""
    names = loop.spec.place.secrets
    try:
        find_secrets(names, {}, os.environ)
    except KaizenError as error:
        return Finding("secrets", "missing", f"{error.code}: {error.what}", error.action)
    return Finding("secrets", "ok", ", ".join(names))


def _privacy(loop: Loop) -> Iterator[Finding]:
    """The key of hashed columns, and whether it is the one that hashed them; private columns that never came."""
    data = loop.spec.data
    versions = [version for table in data.tables for version in loop.versions(table).values()]
    if any(policy.how == "hash" for policy in parse_policies(data.private).values()):
        yield _private_key(loop, fingerprints(version.private for version in versions))
    came = {column for version in versions for column in (*version.columns, *version.private)}
    absent = [column for column in data.private if column not in came]
    if versions and absent:
        yield Finding("private columns", "missing", f"in no table: {', '.join(absent)}", "correct data.private")


def _private_key(loop: Loop, used: set[str]) -> Finding:
    """Whether this shell has the key; on Airflow it may be in a connection."""
    name, path = loop.spec.data.private_key, loop.home / FILE
    if not (name or used or path.exists()):
        return Finding("private key", "ok", f"{path} is made by the first ingest; back it up")
    try:
        mine = fingerprint(find_key(name, loop.home, {}, os.environ, used))
    except KaizenError as error:
        return Finding("private key", "missing" if name else "broken", f"{error.code}: {error.what}", error.action)
    if others := sorted(used - {mine}):
        found = f"{name or path}: {mine}, but there is data of {', '.join(others)}"
        return Finding("private key", "missing", found, "deliver again what is joined with new rows, as another table")
    return Finding("private key", "ok", f"{name or path}: {mine}")


def _place(interpreter: str) -> Finding:
    command = [interpreter, "-c", "import kaizen, mlflow, skops, pandas; print(kaizen.__version__)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("place", "broken", f"{interpreter}: {error}", "correct place.interpreter")
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        return Finding("place", "broken", "".join(last), f"{interpreter} -m pip install 'kaizen-mlops[mlflow,data]'")
    return Finding("place", "ok", f"{interpreter}: kaizen {done.stdout.strip()}")
