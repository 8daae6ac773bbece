"""What the Docker provider's operator would make, written down instead of made; by option with walls and a result."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from airflow.providers.docker.operators.docker import DockerOperator
from docker.types import Mount

from kaizen.adapters.docker_engine import Ended, Engine, Wanted, parse_result
from kaizen.bridge import RESULT
from kaizen.canonical import digest
from kaizen.causes import Cause
from kaizen.containers import LABEL, MOUNT, Caller, format_size, labels, work_name
from kaizen.spec import PlaceSpec
from kaizen.walls import put_up, read_walls

if TYPE_CHECKING:
    from docker import APIClient

_KEPT = {"never": "ended", "success": "failed", "force": ""}
"""By ``auto_remove``, which containers stay for somebody to look at."""
RESULT_VARIABLE = "KAIZEN_RESULT"
"""Names the file, inside the container, in which a result is expected."""

MAX_XCOM = 64 * 1024
"""Bytes of a result file: it goes into Airflow's database."""


class PlannedDockerOperator(DockerOperator):
    """``DockerOperator`` up to the call by which it would create its container.

    Args:
        walls: keys of ``place`` in ``kaizen.yml``, such as ``{"memory": "8g", "opened": ["network"]}``: the container
            runs behind the walls of ``place: {mode: docker}``, with these; {} for its defaults. None: without.
        result_file: the XCom value is the JSON in the file that the variable KAIZEN_RESULT names inside the container,
            instead of what the log says. A container that leaves none has failed.
    """

    def __init__(self, *, walls: Mapping[str, Any] | None = None, result_file: bool = False, **kwargs: Any) -> None:
        if walls is not None:
            # The parent's folder for large files is one of the host's.
            kwargs.setdefault("mount_tmp_dir", False)
        super().__init__(**kwargs)
        self.walls = walls
        self.result_file = result_file
        self._planner: _Planner | None = None

    @property
    def cli(self) -> APIClient:
        """The parent's client; while a container is planned, one that only takes down what the parent would make."""
        return self._planner or super().cli

    def wanted(self, engine: Engine, caller: Caller) -> Wanted:
        """The container that does this task's work for this owner."""
        config = self._plan(engine, None)
        # Values of secrets are left out: a digest of a short one would tell it.
        asked = {**config, "Env": sorted(f"{k}={v}" for k, v in self.environment.items())}
        work = digest([str(self.image), asked, *self.options])
        name = self.container_name or work_name(caller.owner, work)
        if self.mount_tmp_dir:
            # It lives as long as the container, not as long as this process.
            folder = self.tmp_dir_of(name)
            folder.mkdir(mode=0o700, exist_ok=True)
            config = self._plan(engine, folder)
        if self.force_pull and engine.find(name) is None:
            engine.pull(str(self.image))
        config["Image"] = engine.pin(str(self.image))
        config["HostConfig"].setdefault("Init", True)
        if self.walls is not None:
            config = put_up(config, self.place, name, self.task_id)
        own = self._add_result(config, name) if self.result_file else {}
        described = {"loop": caller.loop, "stage": self.task_id, "turn": "", "work": work, "image": config["Image"]}
        ours = {**labels(caller.owner, **described), f"{LABEL}.keep": _KEPT[self.auto_remove]}
        if self.options:
            engine.volume_labels(name, ours)
        given = self.labels if isinstance(self.labels, dict) else dict.fromkeys(self.labels or [], "")
        return Wanted(name, {**given, **ours, **own}, config)

    @property
    def place(self) -> PlaceSpec:
        """The walls; what the parent's arguments ask for must fit into them."""
        asked = {"memory": self.mem_limit, "network": self.network_mode, "user": self.user}
        given = {name: str(value) for name, value in asked.items() if value}
        return read_walls({**given, **(self.walls or {})}, str(self.image), self.task_id)

    @property
    def options(self) -> list[Any]:
        """What makes the container another one than the parent's; it has a volume of its own then."""
        return [self.walls, self.result_file] if self.walls is not None or self.result_file else []

    def _add_result(self, config: dict[str, Any], name: str) -> dict[str, str]:
        """Tell the container where its result goes, a folder of its own on the volume; the label that remembers it."""
        folder = f"run-{token_hex(8)}"
        config["Env"] = [*(config.get("Env") or []), f"{RESULT_VARIABLE}={MOUNT}/{folder}/{RESULT}"]
        host = config["HostConfig"]
        if self.walls is None:
            host["Mounts"] = [*(host.get("Mounts") or []), {"Type": "volume", "Source": name, "Target": MOUNT}]
        return {f"{LABEL}.folder": folder}

    def prepare(self, engine: Engine, made: dict[str, Any]) -> None:
        """Make the folder of the result, for whoever the container runs as."""
        if self.result_file:
            folder = tarfile.TarInfo(made["Config"]["Labels"][f"{LABEL}.folder"])
            # Who that is an image may say by a name; the folder is the container's alone in any case.
            folder.type, folder.mode = tarfile.DIRTYPE, 0o777
            engine.put(made["Id"], MOUNT, [(folder, b"")])

    def _plan(self, engine: Engine, tmp_dir: Path | None) -> dict[str, Any]:
        """The body of the call by which the parent would create its container."""
        mounts = [*self.mounts, *([Mount(self.tmp_dir, str(tmp_dir), "bind")] if tmp_dir else [])]
        self._planner = _Planner(engine.api)
        try:
            self._run_image_with_mounts(mounts, add_tmp_variable=tmp_dir is not None)
        except _PlannedError as planned:
            given = planned.given
        finally:
            self._planner = None
        for name in ("name", "labels"):
            given.pop(name)
        return dict(engine.api.create_container_config(**given))

    def tmp_dir_of(self, name: str) -> Path:
        """The parent's folder for large files, for a container of this name."""
        return Path(self.host_tmp_dir or tempfile.gettempdir()) / f"airflowtmp-{name}"

    def read_result(self, engine: Engine, ended: Ended) -> dict[str, Any]:
        """The JSON that the container left. Raises ``StageFailed`` KZ703 there is none, KZ718 it is damaged."""
        path = f"{MOUNT}/{ended.labels[f'{LABEL}.folder']}/{RESULT}"
        where, limit = f"container {ended.name}: {path}", f"a JSON object of at most {format_size(MAX_XCOM)}"
        try:
            data = engine.read_file(ended.id, path, MAX_XCOM)
            if data is not None:
                return parse_result(data)
        except ValueError as error:
            raise Cause.DAMAGED_RESULT.error(where=where, value=str(error)[:300], limit=limit) from error
        raise Cause.NO_RESULT.error(
            where=where, value="exit code 0, and no such file", limit=limit, action=f"write it to ${RESULT_VARIABLE}"
        )


class _PlannedError(Exception):
    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__()
        self.given = given


class _Planner:
    """Stands where the parent has its client, up to the call that would create a container."""

    def __init__(self, api: APIClient) -> None:
        self.create_host_config = api.create_host_config

    def create_container(self, **given: Any) -> None:
        raise _PlannedError(given)
