"""Real services for tests: found on the machine, started for the session, stopped by their own process id."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterator


class NotInstalledError(Exception):
    """Why a service cannot be started here."""


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a database of one's own; without PostgreSQL the test is skipped, or fails if KAIZEN_NO_SKIPS=1."""
    import pytest

    try:
        with fresh_postgres() as url:
            yield url
    except NotInstalledError as reason:
        if os.environ.get("KAIZEN_NO_SKIPS") == "1":
            pytest.fail(str(reason))
        pytest.skip(str(reason))


@contextmanager
def fresh_postgres(fsync: bool = False) -> Iterator[str]:
    """A new database on the server of KAIZEN_TEST_POSTGRES, else on a private one. Raises ``NotInstalledError``.

    ``fsync`` is the private one's: tests do not need to survive a power cut, a benchmark must pay for it.
    """
    given = os.environ.get("KAIZEN_TEST_POSTGRES")
    if given:
        with fresh_database(given) as url:
            yield url
    else:
        with _private_cluster(fsync) as server, fresh_database(server) as url:
            yield url


@contextmanager
def fresh_database(server: str) -> Iterator[str]:
    """The URL of an empty database beside the one of ``server``; dropped at the end."""
    name = f"kaizen_{uuid.uuid4().hex}"
    _administer(server, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    try:
        yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


def _administer(server: str, statement: str) -> None:
    url = sa.make_url(server).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)


@contextmanager
def _private_cluster(fsync: bool) -> Iterator[str]:
    programs = _find_programs()
    folder = Path(tempfile.mkdtemp(prefix="kaizen-pg-"))
    data, log = folder / "data", folder / "log"
    port = _free_port()
    user = _unprivileged_user()
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)

    def run(program: str, *arguments: str) -> None:
        # PostgreSQL refuses to run as root, and its working directory must be open to it.
        as_user: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        command = [str(programs / program), *arguments]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **as_user)
        if done.returncode:
            told = done.stderr.decode() + (log.read_text() if log.exists() else "")
            raise RuntimeError(f"{program} exits with {done.returncode}: {told}")

    try:
        run("initdb", "-D", str(data), "-U", "kaizen", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        options = (
            f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync={'on' if fsync else 'off'}"
        )
        run("pg_ctl", "start", "-w", "-D", str(data), "-l", str(log), "-o", options)
        try:
            yield f"postgresql://kaizen@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(data))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of a local S3 server, a process of its own."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _await_port(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}") from None
            time.sleep(0.05)
        else:
            return


def _find_programs() -> Path:
    found = shutil.which("initdb")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in candidates:
        if all((folder / program).exists() for program in ("initdb", "pg_ctl", "postgres")):
            return folder
    raise NotInstalledError(
        "PostgreSQL is not installed: no initdb on PATH; install it (apt-get install postgresql) "
        "or set KAIZEN_TEST_POSTGRES=postgresql://user@host/database"
    )


def _unprivileged_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    known = {user.pw_name: user for user in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
