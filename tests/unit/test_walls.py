"""Walls around a container that somebody else configured."""

from __future__ import annotations

import pytest

from kaizen.errors import SpecError
from kaizen.walls import put_up, read_walls

ASKED = {"Image": "trainer:1", "User": "", "HostConfig": {"ShmSize": 1, "DeviceRequests": [{"Count": 1}]}}
VOLUME = {"Type": "volume", "Source": "run", "Target": "/kaizen"}


def behind(host=None, **walls):
    config = {**ASKED, "HostConfig": {**ASKED["HostConfig"], **(host or {})}}
    return put_up(config, read_walls(walls, "trainer:1", "task fit"), "run", "task fit")


def test_the_walls_are_those_of_the_place():
    config = behind(memory="8g", opened=["network"], network="bridge")
    host = config["HostConfig"]
    assert config["User"] == "65532:65532"
    assert (host["CapDrop"], host["SecurityOpt"], host["ReadonlyRootfs"]) == (["ALL"], ["no-new-privileges"], True)
    assert (host["Memory"], host["MemorySwap"], host["NetworkMode"]) == (8 << 30, 8 << 30, "bridge")
    assert host["DeviceRequests"] == [{"Count": 1}]
    assert host["Mounts"] == [VOLUME]


def test_mounts_that_harm_nobody_stay():
    mounts = [
        {"Type": "volume", "Source": "features", "Target": "/features"},
        {"Type": "bind", "Source": "/srv/rows", "Target": "/rows", "ReadOnly": True},
    ]
    assert behind({"Mounts": mounts})["HostConfig"]["Mounts"] == [*mounts, VOLUME]


@pytest.mark.parametrize(
    "asked",
    [
        {"Privileged": True},
        {"CapAdd": ["SYS_ADMIN"]},
        {"Devices": [{"PathOnHost": "/dev/sda"}]},
        {"Binds": ["/etc:/etc"]},
        {"VolumesFrom": ["another"]},
        {"Sysctls": {"kernel.shmmax": "1"}},
        {"SecurityOpt": ["seccomp=unconfined"]},
        {"CgroupParent": "/another"},
        {"PortBindings": {"80/tcp": [{"HostPort": "80"}]}},
        *({name: "host"} for name in ("PidMode", "UTSMode", "UsernsMode", "IpcMode", "NetworkMode")),
        {"NetworkMode": "container:another"},
        {"Mounts": [{"Type": "bind", "Source": "/srv", "Target": "/srv", "ReadOnly": False}]},
        *(
            {"Mounts": [{"Type": "bind", "Source": source, "Target": "/host", "ReadOnly": True}]}
            for source in ("/", "/var", "/run", "/var/run", "/var/run/docker.sock", "/srv/../run", "/srv/my.sock")
        ),
        {"Mounts": [{"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": {"DriverConfig": {}}}]},
    ],
    ids=lambda asked: "-".join(asked),
)
def test_what_goes_around_the_walls_is_refused_by_its_name(asked):
    with pytest.raises(SpecError, match="KZ319") as refused:
        behind(asked)
    assert f"task fit: {next(iter(asked))}" in str(refused.value)


@pytest.mark.parametrize(
    ("walls", "code", "told"),
    [
        ({"memroy": "8g"}, "KZ303", "'memory'"),
        ({"memory": "much"}, "KZ304", "place.memory"),
        ({"network": "bridge"}, "KZ315", "opened: [network]"),
        ({"user": "0:0"}, "KZ315", "opened: [user]"),
    ],
)
def test_walls_are_read_as_strictly_as_a_spec(walls, code, told):
    with pytest.raises(SpecError, match=code) as refused:
        read_walls(walls, "trainer:1", "task fit")
    assert told in str(refused.value)
