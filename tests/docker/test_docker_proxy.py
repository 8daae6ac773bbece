"""The Docker proxy before a real engine: what the core asks passes, nobody becomes root, strangers are not touched."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from docker.errors import APIError, NotFound

import docker
from kaizen import bridge
from kaizen.adapters.docker_engine import Engine
from kaizen.bridge import Request
from kaizen.clock import WallClock
from kaizen.containers import Call, Caller, Log, Owner
from kaizen.errors import StageFailed
from kaizen.ledger import open_ledger
from kaizen.records import Window
from kaizen.spec import PlaceSpec

ROOT = Path(__file__).parents[2]
OURS = {"io.kaizen": "1"}
REFUSED = "kaizen's Docker proxy: "


@contextmanager
def proxy_of(engine: str, **variables: str):
    """The address of a proxy before the engine at a Unix socket, and its process."""
    command = [sys.executable, str(ROOT / "stack/docker_proxy.py"), "--listen", "127.0.0.1:0", "--engine", engine]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables}) as process:
        try:
            told = process.stderr.readline()
            (address,) = re.findall(r"listening on (127\.0\.0\.1:\d+)", told) or [pytest.fail(told + "?")]
            yield address, process
        finally:
            process.terminate()
            process.stderr.read()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of the host that containers may see."""
    made = tmp_path_factory.mktemp("landing")
    (made / "rows.csv").write_text("rows")
    return made


@pytest.fixture(scope="module")
def proxy(docker_engine, folder):
    socket_path = docker_engine.host.removeprefix("unix://")
    with proxy_of(socket_path, KAIZEN_DOCKER_BINDS=str(folder), KAIZEN_DOCKER_NETWORKS="training") as started:
        yield started


@pytest.fixture(scope="module")
def address(proxy):
    return proxy[0]


@pytest.fixture
def client(address):
    with docker.APIClient(base_url=f"tcp://{address}", version="auto", timeout=30) as found:
        yield found


@pytest.fixture
def engine(api):
    """The engine itself, beside the proxy."""
    return api


@pytest.fixture
def stranger(engine, stage_image):
    """A running container that is not ours."""
    body = {"Image": stage_image, "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none", "Init": True}}
    found = engine.create_container_from_config(body, "postgres")
    engine.start(found)
    return found["Id"]


def body_of(image, *command, host=None, **more):
    host = {"NetworkMode": "none", "Init": True, **(host or {})}
    return {"Image": image, "Cmd": list(command or ("sleep", "600")), "Labels": OURS, "HostConfig": host, **more}


def post(address, path, body, **more):
    return requests.post(f"http://{address}/v1.41{path}", json=body, timeout=30, **more)


# What the core does.


def test_a_stage_runs_in_a_container_through_it(address, engine, stage_image, tmp_path):
    told = []
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        place = PlaceSpec(mode="docker", image=stage_image, engine=f"tcp://{address}", memory="128m", tmp="16m")
        call = Call(Owner("airflow:dag/run/train/-1", supersedes=True), Log(lambda _, line, __: told.append(line.text)))
        caller = Caller(call, ledger, WallClock(), "a/loop")
        request = Request("train", {"lines": 3}, "local", "/nowhere", str(tmp_path / "out"), (), Window(None, None))
        (tmp_path / "out").mkdir()
        outputs = bridge.run(request, place, caller)
        assert (Path(outputs["model"]) / "weights").read_text().startswith("weights of")
        assert [line for line in told if line.startswith("line ")] == ["line 0", "line 1", "line 2"]
        caller.settle()
    assert (engine.containers(all=True), engine.volumes()["Volumes"] or []) == ([], [])


def test_every_call_of_the_core_passes(address, client, engine, stage_image):
    core = Engine(f"tcp://{address}")
    assert core.volume_labels("ours", OURS) == OURS
    mounts = [{"Type": "volume", "Source": "ours", "Target": "/kaizen"}]
    found = client.create_container_from_config(body_of(stage_image, "cat", host={"Mounts": mounts}), "ours")
    entry = tarfile.TarInfo("deep.txt")
    entry.size = 5
    core.put(found["Id"], "/kaizen", [(entry, b"bytes")])
    assert [each["Id"] for each in core.ours()] == [found["Id"]]
    client.start(found)
    assert core.read_file(found["Id"], "/kaizen/deep.txt", 100) == b"bytes"
    assert client.wait(found)["StatusCode"] == 0
    client.rename(found, "renamed")
    core.remove("renamed")
    assert core.find("renamed") is None
    core.remove("renamed")
    core.remove_volume("ours")
    assert engine.volumes()["Volumes"] in (None, [])


def test_a_log_is_followed_while_it_is_written(client, engine, stage_image):
    code = "import sys, time; [print(n, flush=True) or time.sleep(0.2) for n in range(5)]"
    found = client.create_container_from_config(body_of(stage_image, "python3", "-c", code))
    client.start(found)
    seen = []
    for line in client.logs(found, stream=True, follow=True):
        seen.append((line, client.inspect_container(found)["State"]["Running"]))
    assert [line for line, _ in seen] == [b"%d\n" % n for n in range(5)]
    assert seen[0][1]


def test_a_secret_goes_into_a_running_container_by_exec(client, engine, stage_image):
    found = client.create_container_from_config(body_of(stage_image, host={"Tmpfs": {"/run": ""}}))
    client.start(found)
    command = client.exec_create(found, ["sh", "-c", "cat > /run/secret; echo taken; wc -c /run/secret"], stdin=True)
    stream = client.exec_start(command, socket=True)
    stream._sock.sendall(b"s3cret" * 50_000)
    stream._sock.shutdown(socket.SHUT_WR)
    told = stream.read()
    assert b"taken" in told
    assert b"300000 /run/secret" in told
    assert client.exec_inspect(command)["ExitCode"] == 0


def test_an_archive_is_passed_on_in_pieces_in_both_directions(proxy, client, engine, stage_image):
    _, process = proxy
    found = client.create_container_from_config(body_of(stage_image))
    size = 200 << 20

    def pieces():
        entry = tarfile.TarInfo("big")
        entry.size = size
        yield entry.tobuf()
        for _ in range(200):
            yield bytes(1 << 20)
        yield bytes(2 * 512)

    assert client.put_archive(found, "/tmp", pieces())
    stream, facts = client.get_archive(found, "/tmp/big")
    assert facts["size"] == size
    assert sum(map(len, stream)) >= size
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert int(peak) < 80_000


def test_an_engine_refusal_reaches_the_client_though_it_is_still_sending(client, engine, stage_image):
    found = client.create_container_from_config(body_of(stage_image))
    with pytest.raises(NotFound, match="nowhere"):
        client.put_archive(found, "/nowhere", iter([bytes(1 << 20)] * 30))


def test_a_client_that_leaves_a_log_leaves_no_connection_behind(proxy, address, client, engine, stage_image):
    _, process = proxy
    found = client.create_container_from_config(body_of(stage_image))
    client.start(found)
    before = settled_descriptors(process.pid)
    url = f"http://{address}/v1.41/containers/{found['Id']}/logs?follow=1&stdout=1"
    followers = [requests.get(url, stream=True, timeout=10) for _ in range(5)]
    assert descriptors(process.pid) >= before + 10
    for each in followers:
        each.close()
    deadline = time.monotonic() + 10
    while descriptors(process.pid) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert descriptors(process.pid) <= before


def descriptors(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def settled_descriptors(pid):
    """As many as stay when what was asked before is over."""
    seen = -1
    while seen != (now := descriptors(pid)):
        seen = now
        time.sleep(1)
    return now


def test_a_gpu_may_be_asked_for(client, engine, stage_image):
    request = {"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
    found = client.create_container_from_config(body_of(stage_image, host={"DeviceRequests": [request]}))
    assert engine.inspect_container(found)["HostConfig"]["DeviceRequests"][0]["Capabilities"] == [["gpu"]]


@pytest.mark.parametrize(
    "host",
    [{"Runtime": "nvidia"}, {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-1"]}]}],
    ids=["runtime", "cdi"],
)
def test_a_gpu_may_be_asked_for_in_the_other_ways(address, engine, stage_image, host):
    """This engine has neither: what it says is its own word."""
    answer = post(address, "/containers/create", body_of(stage_image, host=host))
    assert answer.status_code != 403, answer.text


def test_a_folder_on_the_list_is_seen_read_only(client, engine, stage_image, folder):
    mounts = [{"Type": "bind", "Source": str(folder), "Target": "/data", "ReadOnly": True}]
    host = {"Mounts": mounts, "Binds": [f"{folder}/rows.csv:/rows.csv:ro"]}
    code = "cat /data/rows.csv /rows.csv; touch /data/new"
    found = client.create_container_from_config(body_of(stage_image, "sh", "-c", code, host=host))
    client.start(found)
    assert client.wait(found)["StatusCode"] != 0
    assert client.logs(found, stderr=False) == b"rowsrows"
    assert not (folder / "new").exists()


def test_a_client_that_has_said_all_gets_its_answer_whatever_is_collected(address, client, engine, stage_image):
    """Python's collector runs while such a client waits: its connection is in use all the same."""
    code = "import time; time.sleep(2); print('late')"
    found = client.create_container_from_config(body_of(stage_image, "python3", "-c", code))
    stream = client.attach_socket(found, {"stdout": 1, "stream": 1})
    stream._sock.shutdown(socket.SHUT_WR)
    client.start(found)
    for _ in range(300):
        client.inspect_container(found)
    assert b"late" in stream.read()


def test_the_docker_command_line_works_through_it(address, engine, stage_image):
    command = ["docker", "--host", f"tcp://{address}", "run", "--rm", "--network=none", "--label=io.kaizen=1"]
    done = subprocess.run([*command, stage_image, "echo", "hello"], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("hello\n", 0), done.stderr


# What is refused.

HOST = {
    "privileged": {"Privileged": True},
    "the host's processes": {"PidMode": "host"},
    "another container's processes": {"PidMode": "container:postgres"},
    "the host's memory": {"IpcMode": "host"},
    "another container's memory": {"IpcMode": "container:postgres"},
    "the host's network": {"NetworkMode": "host"},
    "another container's network": {"NetworkMode": "container:postgres"},
    "the stack's network": {"NetworkMode": "kaizen_default"},
    "the host's name": {"UTSMode": "host"},
    "the host's users": {"UsernsMode": "host"},
    "the host's cgroups": {"CgroupnsMode": "host"},
    "a cgroup of its choice": {"CgroupParent": "/"},
    "a capability": {"CapAdd": ["SYS_ADMIN"]},
    "a device": {"Devices": [{"PathOnHost": "/dev/vda", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}]},
    "a device's cgroup": {"DeviceCgroupRules": ["a *:* rwm"]},
    "devices that are no GPU": {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["vendor.com/device=disk"]}]},
    "devices of no name": {"DeviceRequests": [{"Driver": "cdi"}]},
    "devices of no kind": {"DeviceRequests": [{"Driver": "", "Count": -1}]},
    "no seccomp": {"SecurityOpt": ["seccomp=unconfined"]},
    "no AppArmor": {"SecurityOpt": ["no-new-privileges", "apparmor:unconfined"]},
    "unmasked paths": {"MaskedPaths": ["/nothing"]},
    "other containers' volumes": {"VolumesFrom": ["postgres"]},
    "links": {"Links": ["postgres:db"]},
    "kernel settings": {"Sysctls": {"kernel.msgmax": "1"}},
    "another runtime": {"Runtime": "io.containerd.runhcs"},
    "a group": {"GroupAdd": ["docker"]},
    "not to be killed": {"OomScoreAdj": -1000},
    "a port of the host": {"PortBindings": {"80/tcp": [{"HostPort": "80"}]}},
    "every port": {"PublishAllPorts": True},
    "to come back": {"RestartPolicy": {"Name": "always"}},
    "its log sent away": {"LogConfig": {"Type": "syslog", "Config": {"syslog-address": "tcp://somewhere"}}},
    "the root": {"Binds": ["/:/host"]},
    "the engine's socket": {"Binds": ["/var/run/docker.sock:/var/run/docker.sock:ro"]},
    "a folder beside": {"Binds": ["{folder}-beside:/x:ro"]},
    "a folder above": {"Binds": ["{folder}/../..:/x:ro"]},
    "an allowed folder writable": {"Binds": ["{folder}:/x"]},
    "an allowed folder shared": {"Binds": ["{folder}:/x:ro,rshared"]},
    "the root as mount": {"Mounts": [{"Type": "bind", "Source": "/", "Target": "/host", "ReadOnly": True}]},
    "an allowed mount writable": {"Mounts": [{"Type": "bind", "Source": "{folder}", "Target": "/x"}]},
    "a shared mount": {
        "Mounts": [
            {
                "Type": "bind",
                "Source": "{folder}",
                "Target": "/x",
                "ReadOnly": True,
                "BindOptions": {"Propagation": "rshared"},
            }
        ]
    },
    "a folder dressed as a volume": {
        "Mounts": [
            {
                "Type": "volume",
                "Target": "/x",
                "VolumeOptions": {"DriverConfig": {"Name": "local", "Options": {"type": "none", "device": "/"}}},
            }
        ]
    },
    "a pipe": {"Mounts": [{"Type": "npipe", "Source": "/x", "Target": "/x"}]},
    "a volume of a stranger": {"Mounts": [{"Type": "volume", "Source": "theirs", "Target": "/x"}]},
    "a volume of a stranger by name": {"Binds": ["theirs:/x"]},
    "an odd volume": {"Binds": ["../../x:/x"]},
    "something new": {"Annotations": {"a": "b"}},
}


@pytest.mark.parametrize("host", HOST.values(), ids=HOST)
def test_a_container_may_not_have(address, engine, stage_image, folder, host):
    engine.create_volume("theirs")
    host = json.loads(json.dumps(host).replace("{folder}", str(folder)))
    answer = post(address, "/containers/create", body_of(stage_image, host=host))
    assert (answer.status_code, answer.json()["message"].startswith(REFUSED)) == (403, True), answer.text
    assert engine.containers(all=True) == []


def test_a_volume_that_is_not_there_is_not_made_by_the_way(address, engine, stage_image):
    answer = post(address, "/containers/create", body_of(stage_image, host={"Binds": ["new:/x"]}))
    assert (answer.status_code, answer.json()) == (404, {"message": "No such volume: new"})
    assert not engine.volumes()["Volumes"]


LABELS = [None, {}, [], {"io.kaizen": ""}, {"io.kaizen.loop": "x"}, OURS | {"com.docker.compose.project": "kaizen"}]


@pytest.mark.parametrize("labels", LABELS, ids=range(len(LABELS)))
def test_a_container_without_the_label_is_refused(address, engine, stage_image, labels):
    answer = post(address, "/containers/create", body_of(stage_image, Labels=labels))
    assert answer.status_code == 403
    assert "label" in answer.json()["message"]


# The engine's JSON ignores case, folds some letters that are not ASCII, and lets later keys win.
DISGUISES = [
    '{%s, "hostconfig": {"privileged": true}}',
    '{%s, "HostConfig": {}, "HOSTCONFIG": {"Privileged": true}}',
    '{%s, "HostConfig": {"Privileged": false, "pRivileged": true}}',
    '{%s, "Ho\\u017ftConfig": {"Privileged": true}}',
    '{%s, "HostConfig": {"Networ\\u212aMode": "host"}}',
    '{%s, "HostConfig": [{"Privileged": true}]}',
    '{%s, "HostConfig": {"Binds": "/:/host"}}',
    "[{%s}]",
    "{%s",
    "[" * 100_000 + "%s",
]


def post_text(address, image, text):
    text = text % f'"Image": "{image}", "Labels": {{"io.kaizen": "1"}}'
    headers = {"Content-Type": "application/json"}
    return requests.post(f"http://{address}/v1.41/containers/create", text.encode(), headers=headers, timeout=30)


@pytest.mark.parametrize("text", DISGUISES, ids=range(len(DISGUISES)))
def test_json_is_read_as_the_engine_reads_it(address, engine, stage_image, text):
    assert post_text(address, stage_image, text).status_code == 403
    assert engine.containers(all=True) == []


def test_what_is_passed_on_is_what_was_checked(address, engine, stage_image):
    """A key twice: the engine would merge both, and gets the one that was read."""
    text = '{%s, "HostConfig": {"Privileged": true}, "HostConfig": {"Memory": 9000000}}'
    answer = post_text(address, stage_image, text)
    assert answer.status_code == 201
    host = engine.inspect_container(answer.json()["Id"])["HostConfig"]
    assert (host["Privileged"], host["Memory"]) == (False, 9000000)


VOLUMES = [
    {"Name": "x", "Labels": OURS, "DriverOpts": {"type": "none", "o": "bind", "device": "/"}},
    {"Name": "x", "Labels": OURS, "driveropts": {"type": "none", "o": "bind", "device": "/"}},
    {"Name": "x", "Labels": OURS, "Driver": "sshfs"},
    {"Name": "x", "Labels": {}},
    {"Name": "x"},
]


@pytest.mark.parametrize("body", VOLUMES, ids=range(len(VOLUMES)))
def test_only_plain_volumes_with_the_label_are_made(address, engine, body):
    assert post(address, "/volumes/create", body).status_code == 403
    assert not engine.volumes()["Volumes"]


def test_a_command_in_a_container_has_no_more_rights_than_it(client, engine, stage_image):
    found = client.create_container_from_config(body_of(stage_image))
    client.start(found)
    with pytest.raises(APIError, match=r"exec\.Privileged is not allowed"):
        client.exec_create(found, ["id"], privileged=True)


OTHERS = [
    ("POST", "/build"),
    ("POST", "/commit?container=ours"),
    ("POST", "/swarm/init"),
    ("GET", "/swarm"),
    ("GET", "/services"),
    ("GET", "/nodes"),
    ("GET", "/tasks"),
    ("GET", "/plugins"),
    ("POST", "/plugins/pull?remote=x"),
    ("GET", "/secrets"),
    ("POST", "/secrets/create"),
    ("GET", "/configs"),
    ("GET", "/networks"),
    ("POST", "/networks/create"),
    ("POST", "/networks/bridge/connect"),
    ("POST", "/containers/ours/update"),
    ("POST", "/containers/ours/restart"),
    ("GET", "/containers/ours/export"),
    ("GET", "/containers/ours/attach/ws"),
    ("POST", "/containers/prune"),
    ("POST", "/volumes/prune"),
    ("GET", "/images/json"),
    ("GET", "/images/x/get"),
    ("POST", "/images/load"),
    ("POST", "/images/x/push"),
    ("POST", "/images/x/tag"),
    ("DELETE", "/images/x"),
    ("POST", "/images/create?fromSrc=http://somewhere/x.tar"),
    ("POST", "/images/create?fromImage=a&fromImage=b"),
    ("GET", "/events"),
    ("GET", "/system/df"),
    ("POST", "/session"),
    ("POST", "/grpc"),
    ("POST", "/auth"),
    ("GET", "/distribution/x/json"),
    ("GET", "/containers/../swarm/json"),
    ("GET", "/images/../containers/postgres/json"),
    ("GET", "/images/%2e%2e/containers/postgres/json"),
    ("GET", "//containers/json"),
    ("GET", "/_ping/"),
    ("GET", ""),
]


@pytest.mark.parametrize(("method", "path"), OTHERS)
def test_nothing_else_is_passed_on(address, engine, stage_image, method, path):
    engine.create_container_from_config(body_of(stage_image), "ours")
    answer = raw(address, f"{method} /v1.41{path or '/'} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 "), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["message"].startswith(REFUSED)


def test_an_old_api_is_refused(address, engine, stage_image):
    """There, starting a container took the rights that it is to have."""
    found = engine.create_container_from_config(body_of(stage_image))
    url = f"http://{address}/v1.23/containers/{found['Id']}/start"
    assert requests.post(url, json={"Privileged": True}, timeout=30).status_code == 403
    newer = post(address, f"/containers/{found['Id']}/start", {"Privileged": True})
    assert (newer.status_code, "takes no body" in newer.text) == (403, True)


# Strangers.

TOUCHES = [
    ("GET", "/containers/postgres/json"),
    ("GET", "/containers/{id}/json"),
    ("GET", "/containers/{short}/json"),
    ("GET", "/containers/postgres/logs?stdout=1"),
    ("GET", "/containers/postgres/stats?stream=0"),
    ("GET", "/containers/postgres/archive?path=/etc/passwd"),
    ("PUT", "/containers/postgres/archive?path=/"),
    ("POST", "/containers/postgres/start"),
    ("POST", "/containers/postgres/stop"),
    ("POST", "/containers/postgres/kill"),
    ("POST", "/containers/postgres/wait"),
    ("POST", "/containers/postgres/rename?name=mine"),
    ("POST", "/containers/postgres/attach?stream=1&stdin=1"),
    ("POST", "/containers/postgres/exec"),
    ("DELETE", "/containers/postgres?force=1"),
    ("POST", "/exec/{exec}/start"),
    ("GET", "/exec/{exec}/json"),
    ("GET", "/volumes/theirs"),
    ("DELETE", "/volumes/theirs"),
]


def test_strangers_cannot_be_touched(address, engine, stranger):
    engine.create_volume("theirs")
    prepared = engine.exec_create(stranger, ["touch", "/touched"])["Id"]
    for method, path in TOUCHES:
        path = path.format(id=stranger, short=stranger[:12], exec=prepared)
        answer = requests.request(method, f"http://{address}/v1.41{path}", timeout=30)
        assert (answer.status_code, answer.json()["message"].startswith(REFUSED)) == (403, True), (method, path)
    state = engine.inspect_container(stranger)
    assert (state["State"]["Running"], state["Name"]) == (True, "/postgres")
    assert engine.volumes()["Volumes"][0]["Name"] == "theirs"


def test_lists_show_only_what_is_ours(client, engine, stranger, stage_image):
    engine.create_volume("theirs")
    engine.create_volume("ours", labels=OURS)
    ours = client.create_container_from_config(body_of(stage_image))["Id"]
    assert [each["Id"] for each in client.containers(all=True)] == [ours]
    assert [each["Id"] for each in client.containers(all=True, filters={"status": "running"})] == []
    assert client.containers(all=True, filters={"label": ["io.kaizen.loop=x"]}) == []
    assert [each["Name"] for each in client.volumes()["Volumes"]] == ["ours"]
    assert [each["Name"] for each in client.volumes(filters={"dangling": True})["Volumes"]] == ["ours"]


# The wire.


def raw(address, *parts):
    """All that is answered to these bytes."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for part in parts:
            connection.sendall(part.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


AMBIGUOUS = [
    "GET /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "GET /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "GET /_ping HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "GET /_ping HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n",
    "GET /_ping HTTP/1.1\r\nHost : x\r\n\r\n",
    "GET /_ping HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
    "GET /_ping HTTP/1.1\nHost: x\r\n\r\n",
    "GET /_ping HTTP/1.0\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\n",
    "GET /_ping HTTP/1.1\r\nX: " + "x" * 100_000 + "\r\n\r\n",
]


@pytest.mark.parametrize("text", AMBIGUOUS, ids=range(len(AMBIGUOUS)))
def test_a_request_that_could_be_read_in_two_ways_is_refused(address, text):
    assert raw(address, text).startswith(b"HTTP/1.1 400 ")


def test_a_second_request_in_the_first_is_not_passed_on(address, engine, stranger):
    first = "GET /v1.41/_ping HTTP/1.1\r\nHost: x\r\n\r\n"
    second = "DELETE /v1.41/containers/postgres?force=1 HTTP/1.1\r\nHost: x\r\n\r\n"
    assert raw(address, first + second).count(b"HTTP/1.1 ") <= 1
    upgraded = "POST /v1.41/exec/none/start HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    assert raw(address, upgraded + "Content-Length: 2\r\n\r\n{}" + second).count(b"HTTP/1.1 ") == 1
    assert engine.inspect_container(stranger)["State"]["Running"]


def test_an_upgrade_that_the_engine_declines_passes_nothing_more_on(address, client, engine, stranger, stage_image):
    found = client.create_container_from_config(body_of(stage_image))
    second = "DELETE /v1.41/containers/postgres?force=1 HTTP/1.1\r\nHost: x\r\n\r\n"
    head = f"POST /v1.41/containers/{found['Id']}/attach?stream=x HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\n"
    raw(address, head + "Content-Length: 0\r\n\r\n" + second)
    assert engine.inspect_container(stranger)["State"]["Running"]


def test_an_engine_that_is_away_looks_like_one(tmp_path):
    with proxy_of(f"{tmp_path}/none.sock") as (address, _):
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://{address}/_ping", timeout=30)
        with pytest.raises(StageFailed, match="does not answer"):
            Engine(f"tcp://{address}", patience=0.1)
        assert requests.get(f"http://{address}/swarm", timeout=30).status_code == 403
