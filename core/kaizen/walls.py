"""Walls around a container that somebody else configured: what would go around them is refused by its name.

Pure functions of the engine's own configuration; ``containers.host_config`` is what the walls are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any

from kaizen import codec
from kaizen.containers import host_config
from kaizen.errors import SpecError
from kaizen.spec import PlaceSpec, not_decoded
from kaizen.spec_problems import place_problems

_HOSTS = ("host", "container:")
"""Beginnings of a namespace that is somebody else's."""


_OF_THE_HOST = tuple(map(PurePosixPath, ("/dev", "/proc", "/run", "/sys", "/var/run")))
"""Folders in which a host has its sockets, devices and processes."""


def _is_shared(value: str) -> bool:
    return value.startswith(_HOSTS)


def _goes_around(mount: Mapping[str, Any]) -> bool:
    """A folder of the host that can be written, or has its sockets or itself; a volume with a driver's options."""
    if mount.get("Type") != "bind":
        return bool(mount.get("VolumeOptions"))
    source = PurePosixPath(normpath(str(mount.get("Source") or "/")))
    # To what can only be read one can still connect: neither a folder with sockets, nor what it lies in.
    inside = any(source.is_relative_to(folder) or folder.is_relative_to(source) for folder in _OF_THE_HOST)
    return not mount.get("ReadOnly") or inside or source.suffix == ".sock"


_DENIED: dict[str, Callable[[Any], bool]] = {
    "Privileged": bool,
    "CapAdd": bool,
    "Devices": bool,
    "Binds": bool,
    "VolumesFrom": bool,
    "Sysctls": bool,
    "SecurityOpt": bool,
    "CgroupParent": bool,
    "PortBindings": bool,
    "PidMode": _is_shared,
    "UTSMode": _is_shared,
    "UsernsMode": _is_shared,
    "IpcMode": _is_shared,
    "NetworkMode": _is_shared,
    "Mounts": lambda mounts: any(_goes_around(mount) for mount in mounts),
}
"""Settings of the host configuration, and which of their values go around the walls."""


def read_walls(walls: Mapping[str, Any], image: str, where: str) -> PlaceSpec:
    """``walls``, keys of ``place`` in ``kaizen.yml``, as the place that they describe. Raises ``SpecError``."""
    try:
        place = codec.decode(PlaceSpec, {**walls, "mode": "docker", "image": image})
    except codec.DecodeError as error:
        raise not_decoded(error, where) from None
    for p in place_problems(place):
        raise SpecError(p.code, p.what, where=f"{where}: {p.key}", value=p.value, limit=p.limit, action=p.action)
    return place


def put_up(config: Mapping[str, Any], place: PlaceSpec, volume: str, where: str) -> dict[str, Any]:
    """``config``, the body of a call that creates a container, behind the walls of ``place``; it keeps its mounts.

    Raises ``SpecError`` KZ319 for a setting that would go around them.
    """
    asked = config.get("HostConfig") or {}
    for name, goes_around in _DENIED.items():
        if asked.get(name) and goes_around(asked[name]):
            raise SpecError(
                "KZ319",
                "a setting goes around the walls",
                where=f"{where}: {name}",
                value=str(asked[name])[:200],
                limit="mounts of volumes, or of the host's folders read-only; no rights besides",
                action="take it away, or the walls: with walls=None the task is as the Docker provider makes it",
            )
    walls = host_config(place, volume)
    mounts = [*(asked.get("Mounts") or []), *walls["Mounts"]]
    return {**config, "User": place.user, "HostConfig": {**asked, **walls, "Mounts": mounts}}
