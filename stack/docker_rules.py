"""What may be asked of a Docker engine through the proxy: rules of method, path, query and body. They do no I/O.

Everything that is not allowed here is refused. A body is never passed on as it came: it is read, checked field by
field, and written anew, so that the engine sees what was checked (its JSON ignores case, and later keys win).
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

LABEL = "io.kaizen"
"""What containers and volumes of ours carry."""
OLDEST = (1, 40)
"""Before it, the API took other bodies in other places: `start` took a HostConfig."""

Json = dict[str, Any]


class Refused(Exception):
    """What is not allowed, in words."""


class Missing(Exception):
    """What the engine does not have, in its own words."""


@dataclass(frozen=True)
class Policy:
    """What a host allows beyond the rules.

    Attributes:
        binds: folders of the host that containers may see, read-only.
        networks: networks that they may join, besides none and the engine's own bridge.
    """

    binds: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Route:
    """One request that may be made.

    Attributes:
        owner: what must carry the label before the request is made: a container, volume or exec; "" for nothing.
        body: how the body is checked and written anew; None if there must be none.
        stream: the body is an archive that is passed on as it comes.
        upgrade: the connection may become a plain stream.
    """

    method: str
    path: str
    owner: str = ""
    body: Callable[[Any, Policy], Checked] | None = None
    stream: bool = False
    upgrade: bool = False


@dataclass(frozen=True)
class Checked:
    """A body written anew, and the volumes that must carry the label if it is to be passed on."""

    content: Json
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """A request that a route allows; ``name`` is what the route's owner names, and a part of ``path``."""

    route: Route
    path: str
    query: str
    name: str = ""
    version: str = ""

    def target(self, name: str = "") -> str:
        """What is asked of the engine; the owner is named by ``name``, its id, once that is known."""
        path = self.path.replace("{name}", name or self.name)
        return self.version + quote(path, safe="/:@") + (f"?{self.query}" if self.query else "")


def classify(method: str, target: str) -> Asked:
    """The route that allows a request. Raises ``Refused``."""
    raw, _, query = target.partition("?")
    path = unquote(raw)
    version = re.match(r"/v(\d{1,3})\.(\d{1,3})(?=/)", path)
    if version:
        path = path[version.end() :]
        if (int(version[1]), int(version[2])) < OLDEST:
            raise Refused(f"API version {version[0][2:]} is older than {OLDEST[0]}.{OLDEST[1]}")
    if path.isascii() and path.isprintable() and posixpath.normpath(path) == path:
        for route in ROUTES:
            if route.method == method and (found := re.fullmatch(route.path, path)):
                return _asked(route, found, path, query, version[0] if version else "")
    raise Refused(f"{method} {path!a} is not on this proxy's list")


def _asked(route: Route, found: re.Match[str], path: str, query: str, version: str) -> Asked:
    pairs = parse_qsl(query, keep_blank_values=True)
    given = dict(pairs)
    if len(given) != len(pairs):
        raise Refused("a parameter is given twice")
    if route.path in ("/containers/json", "/volumes"):
        given["filters"] = _only_ours(given.get("filters", ""))
    if route.path == "/images/create" and (more := given.keys() - {"fromImage", "tag", "platform"}):
        raise Refused(f"images are pulled by name only, not with {', '.join(sorted(more))}")
    name = found["name"] if "name" in found.re.groupindex else ""
    if name:
        start, end = found.span("name")
        path = f"{path[:start]}{{name}}{path[end:]}"
    return Asked(route, path, urlencode(given), name, version)


def _only_ours(filters: str) -> str:
    """The filters of a list, narrowed to what carries the label."""
    given = read_json(filters.encode()) if filters else {}
    labels = given.get("label") or []
    # Older clients write {"a=b": true} for ["a=b"].
    wanted = [k for k, v in labels.items() if v] if isinstance(labels, dict) else list(labels)
    return json.dumps({**given, "label": [*wanted, LABEL]})


def read_json(data: bytes) -> Json:
    """A body that is one JSON object. Raises ``Refused``."""
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refused("the body is not JSON") from error
    if not isinstance(found, dict):
        raise Refused("the body is not a JSON object")
    return found


# Bodies.


def check_container(body: Json, policy: Policy) -> Checked:
    """A container that may be made. Raises ``Refused``."""
    config = _fields(body, _CONFIG, "")
    _require_label(config, "the container")
    host = _fields(config.get("HostConfig"), [*_HOST_FREE, *_HOST_CHECKED], "HostConfig.")
    volumes: list[str] = []
    for name, check in _HOST_CHECKED.items():
        if not _is_empty(given := host.pop(name, None)):
            host[name] = check(given, policy, volumes)
    return Checked({**config, "HostConfig": host}, tuple(volumes))


def check_exec(body: Json, policy: Policy) -> Checked:
    """A command in a running container of ours; it has no more rights than the container."""
    # Clients repeat the container here; the engine takes it from the path.
    return Checked(_fields({k: v for k, v in body.items() if k != "Container"}, _EXEC, "exec."))


def check_exec_start(body: Json, policy: Policy) -> Checked:
    """How a command is attached to."""
    return Checked(_fields(body, ("Detach", "Tty", "ConsoleSize"), "exec."))


def check_volume(body: Json, policy: Policy) -> Checked:
    """A plain volume: with options of its driver it could be any folder of the host."""
    volume = _fields(body, ("Name", "Labels", "Driver"), "volume.")
    _require_label(volume, "the volume")
    _one_of("", "local")(volume.get("Driver") or "", policy, [])
    return Checked(volume)


def _fields(value: Any, known: Iterable[str], where: str) -> Json:
    """The known fields of an object, under their exact names; what is unknown must be empty, and is left out."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused(f"{where.rstrip('.') or 'the body'} is not an object")
    names = {name.lower(): name for name in known}
    found: Json = {}
    for given, content in value.items():
        name = names.get(given.lower())
        if name in found:
            raise Refused(f"{where}{name} is given twice")
        if name:
            found[name] = content
        elif not _is_empty(content):
            raise Refused(f"{where}{given[:100]!a} is not allowed".replace("'", ""))
    return found


def _is_empty(value: Any) -> bool:
    """Whether it says nothing that the engine would not do by itself."""
    if isinstance(value, dict):
        return all(_is_empty(each) for each in value.values())
    return not value


def _require_label(value: Json, what: str) -> None:
    labels = value.get("Labels")
    if not isinstance(labels, dict) or not labels.get(LABEL):
        raise Refused(f"{what} has no label {LABEL}")
    if strange := [name for name in labels if name.lower().startswith("com.docker.")]:
        raise Refused(f"label {strange[0]!a} is docker-compose's own")


Check = Callable[[Any, Policy, list[str]], Any]


def _one_of(*allowed: str) -> Check:
    def check(value: Any, policy: Policy, volumes: list[str]) -> Any:
        if value not in allowed:
            raise Refused(f"{value!a} is not allowed here; {' or '.join(repr(a) for a in allowed)} is")
        return value

    return check


def _network(value: Any, policy: Policy, volumes: list[str]) -> Any:
    return _one_of("none", "default", "bridge", *policy.networks)(value, policy, volumes)


def _security(value: Any, policy: Policy, volumes: list[str]) -> Any:
    if strange := [v for v in _items(value) if v not in _NO_NEW_PRIVILEGES]:
        raise Refused(f"HostConfig.SecurityOpt {strange[0]!a} is not allowed")
    return value


def _binds(value: Any, policy: Policy, volumes: list[str]) -> Any:
    for bind in _items(value):
        source, _, rest = str(bind).partition(":")
        modes = set(filter(None, rest.partition(":")[2].split(",")))
        if source.startswith("/"):
            _require_bind(source, read_only=modes == {"ro"}, policy=policy)
        elif modes <= {"ro", "rw", "nocopy"}:
            volumes.append(_volume_name(source))
        else:
            raise Refused(f"HostConfig.Binds {bind!a}: only ro, rw and nocopy are allowed")
    return value


def _mounts(value: Any, policy: Policy, volumes: list[str]) -> Any:
    found = []
    for each in _items(value):
        mount = _fields(each, _MOUNT, "HostConfig.Mounts.")
        options = {"bind": ("Propagation",), "volume": ("NoCopy", "Labels", "Subpath"), "tmpfs": ("SizeBytes", "Mode")}
        kind = _one_of(*options)(mount.get("Type"), policy, volumes)
        for name in ("BindOptions", "VolumeOptions", "TmpfsOptions"):
            known = options[kind] if name == f"{kind.capitalize()}Options" else ()
            chosen = _fields(mount.pop(name, None), known, f"HostConfig.Mounts.{name}.")
            mount |= {name: chosen} if chosen else {}
        if kind == "bind":
            _one_of("", "rprivate")(mount.get("BindOptions", {}).get("Propagation") or "", policy, volumes)
            _require_bind(mount.get("Source"), read_only=mount.get("ReadOnly") is True, policy=policy)
        elif kind == "volume" and mount.get("Source"):
            volumes.append(_volume_name(mount["Source"]))
        found.append(mount)
    return found


def _require_bind(source: Any, *, read_only: bool, policy: Policy) -> None:
    path = str(source).rstrip("/")
    inside = any(path == folder or path.startswith(f"{folder}/") for folder in policy.binds)
    if not inside or posixpath.normpath(path) != path:
        raise Refused(f"the host's folder {str(source)[:200]!a} may not be mounted; allowed: {list(policy.binds)}")
    if not read_only:
        raise Refused(f"the host's folder {path!a} may be mounted read-only, without further options")


def _volume_name(source: Any) -> str:
    if not re.fullmatch(_NAME, str(source)):
        raise Refused(f"{str(source)[:200]!a} is no name of a volume")
    return str(source)


def _devices(value: Any, policy: Policy, volumes: list[str]) -> Any:
    found = []
    for each in _items(value):
        request = _fields(each, ("Driver", "Count", "DeviceIDs", "Capabilities"), "HostConfig.DeviceRequests.")
        if request.get("Driver") == "cdi":
            names = _items(request.get("DeviceIDs"))
            gpus = bool(names) and all(str(name).startswith("nvidia.com/gpu=") for name in names)
        else:
            _one_of("", "nvidia")(request.get("Driver") or "", policy, volumes)
            wanted = _items(request.get("Capabilities"))
            gpus = bool(wanted) and all("gpu" in _items(together) for together in wanted)
        if not gpus:
            raise Refused("HostConfig.DeviceRequests: only GPUs may be asked for")
        found.append(request)
    return found


def _logging(value: Any, policy: Policy, volumes: list[str]) -> Any:
    config = _fields(value, ("Type", "Config"), "HostConfig.LogConfig.")
    _one_of("", "json-file", "local", "none")(config.get("Type") or "", policy, volumes)
    return config


def _restart(value: Any, policy: Policy, volumes: list[str]) -> Any:
    found = _fields(value, ("Name", "MaximumRetryCount"), "HostConfig.RestartPolicy.")
    _one_of("", "no")(found.get("Name") or "", policy, volumes)
    return found


def _items(value: Any) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise Refused("a list is expected")
    return value or []


_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}"
_NO_NEW_PRIVILEGES = ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true")
_CONFIG = (
    *("Image", "Cmd", "Entrypoint", "Env", "Labels", "User", "WorkingDir", "HostConfig", "Hostname", "Domainname"),
    *("Tty", "OpenStdin", "StdinOnce", "AttachStdin", "AttachStdout", "AttachStderr", "StopSignal", "StopTimeout"),
    *("Healthcheck", "NetworkDisabled", "Volumes"),
)
_HOST_FREE = (
    *("Memory", "MemorySwap", "MemoryReservation", "MemorySwappiness", "NanoCpus", "CpuShares", "CpuPeriod"),
    *("CpuQuota", "CpusetCpus", "CpusetMems", "BlkioWeight", "PidsLimit", "ShmSize", "Ulimits", "Init", "Tmpfs"),
    *("ReadonlyRootfs", "CapDrop", "AutoRemove", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts", "ConsoleSize"),
)
_HOST_CHECKED: Mapping[str, Check] = {
    "NetworkMode": _network,
    "IpcMode": _one_of("private", "none"),
    "CgroupnsMode": _one_of("private"),
    "Isolation": _one_of("default"),
    "Runtime": _one_of("runc", "nvidia"),
    "SecurityOpt": _security,
    "Binds": _binds,
    "Mounts": _mounts,
    "DeviceRequests": _devices,
    "LogConfig": _logging,
    "RestartPolicy": _restart,
}
_MOUNT = ("Type", "Source", "Target", "ReadOnly", "Consistency", "BindOptions", "VolumeOptions", "TmpfsOptions")
_EXEC = (
    *("Cmd", "Env", "User", "WorkingDir", "Tty", "AttachStdin", "AttachStdout", "AttachStderr", "DetachKeys"),
    "ConsoleSize",
)
_CONTAINER, _VOLUME = f"/containers/(?P<name>{_NAME})", f"/volumes/(?P<name>{_NAME})"
_RUN = f"/exec/(?P<name>{_NAME})"
ROUTES = (
    Route("GET", "/_ping"),
    Route("HEAD", "/_ping"),
    Route("GET", "/version"),
    Route("GET", "/info"),
    Route("GET", r"/images/[a-zA-Z0-9][\w.:@/-]*/json"),
    Route("POST", "/images/create"),
    # The label is asked for in the query of a list.
    Route("GET", "/containers/json"),
    Route("POST", "/containers/create", body=check_container),
    Route("GET", f"{_CONTAINER}/(json|logs|stats|archive)", "container"),
    Route("HEAD", f"{_CONTAINER}/archive", "container"),
    Route("PUT", f"{_CONTAINER}/archive", "container", stream=True),
    Route("POST", f"{_CONTAINER}/(start|kill|stop|wait|resize|rename)", "container"),
    Route("POST", f"{_CONTAINER}/attach", "container", upgrade=True),
    Route("POST", f"{_CONTAINER}/exec", "container", body=check_exec),
    Route("DELETE", _CONTAINER, "container"),
    Route("POST", f"{_RUN}/start", "exec", body=check_exec_start, upgrade=True),
    Route("POST", f"{_RUN}/resize", "exec"),
    Route("GET", f"{_RUN}/json", "exec"),
    Route("GET", "/volumes"),
    Route("POST", "/volumes/create", body=check_volume),
    Route("GET", _VOLUME, "volume"),
    Route("DELETE", _VOLUME, "volume"),
)
