"""GPUs: leased one by one, in order, freed on any death. The engine's GPUs are a stand-in's: what nvidia-smi prints."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from tests.docker.conftest import clear, make_stage_image, write_file
from tests.docker.test_docker_place import Later, Told, request_of
from tests.docker_engine import DockerEngine

from kaizen import bridge
from kaizen.adapters import docker_engine as engine_module
from kaizen.adapters import docker_gpus
from kaizen.adapters.docker_engine import Engine
from kaizen.adapters.docker_orphans import remove_orphans
from kaizen.clock import WallClock
from kaizen.containers import Call, Caller, Log, Owner
from kaizen.errors import StageFailed
from kaizen.records import ContainerRun
from kaizen.spec import PlaceSpec

ONE, TWO = "GPU-11111111", "GPU-22222222"
# Of the GPUs that a container was given it tells how busy they are, as the real one does.
NVIDIA_SMI = f"""#!/bin/sh
[ -e /tmp/lost ] && echo "Unable to determine the device handle: GPU is lost" && exit 15
[ "$NVIDIA_VISIBLE_DEVICES" = all ] && NVIDIA_VISIBLE_DEVICES={ONE},{TWO}
[ "$NVIDIA_VISIBLE_DEVICES" = void ] && echo "No devices were found" && exit 6
for gpu in $(echo $NVIDIA_VISIBLE_DEVICES | tr , " "); do echo "$gpu, 50, 1024"; done
"""


@pytest.fixture(scope="module")
def gpu_engine(docker_engine):
    # docker_engine says why there is none where there can be none.
    with DockerEngine(runtimes=["nvidia"]) as engine:
        yield engine


@pytest.fixture(scope="module")
def gpu_image(gpu_engine):
    path = "/usr/bin/nvidia-smi"
    return make_stage_image(gpu_engine, [write_file(path, NVIDIA_SMI), f"RUN chmod 755 {path}"])


@pytest.fixture
def place(gpu_engine, gpu_image, monkeypatch):
    monkeypatch.setattr(engine_module, "HEARTBEAT", 1.0)
    monkeypatch.setattr(docker_gpus, "POLL", 0.2)
    yield PlaceSpec(mode="docker", image=gpu_image, engine=gpu_engine.host, memory="128m", gpus=1)
    clear(gpu_engine.client.api)


def caller_of(ledger, name, log=None, **owner):
    return Caller(
        Call(Owner(f"airflow:{name}", supersedes=True, **owner), log or Told().log), ledger, WallClock(), "a/loop"
    )


def gpus_of(outputs):
    return outputs["me"]["environment"]["NVIDIA_VISIBLE_DEVICES"]


@pytest.mark.fault("F12", "four runs want two GPUs", "I1")
def test_two_runs_never_get_one_gpu_and_a_third_waits_for_its_turn(tmp_path, ledger, place, caplog):
    caplog.set_level("INFO")
    begun = []

    def run(name):
        log = Log(lambda *_: begun.append(name))
        outputs = bridge.run(request_of(tmp_path / name, lines=1, sleep=4), place, caller_of(ledger, name, log))
        return gpus_of(outputs)

    with ThreadPoolExecutor(4) as threads:
        runs = {}
        for name, tickets in (("first", 0), ("second", 0), ("third", 1), ("fourth", 2)):
            runs[name] = threads.submit(run, name)
            # Each works, or has its place in the queue, before the next comes.
            until(lambda n=name, t=tickets: n in begun or (t and len(ledger.leases("gpu-ticket/")) == t))
        given = {name: run.result(60) for name, run in runs.items()}
    assert {given["first"], given["second"]} == {ONE, TWO}
    assert {given["third"], given["fourth"]} == {ONE, TWO}
    assert begun == ["first", "second", "third", "fourth"]
    assert any("waiting for a GPU: kaizen-" in record.getMessage() for record in caplog.records)
    assert ledger.leases("gpu") == []
    records = [ContainerRun.from_json(e.payload) for e in ledger.events("a/loop", kind="ContainerRun")]
    assert {record.gpus for record in records} == {(ONE,), (TWO,)}
    assert {(record.gpu_use, record.gpu_memory) for record in records} == {(0.5, 1 << 30)}


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_the_engine_does_not_have_is_refused_with_the_fix_before_anything_is_pulled(
    tmp_path, ledger, place, docker_engine, stage_image
):
    # Each with what would be pulled.
    without = replace(place, engine=docker_engine.host, image="no-such-image:1")
    with pytest.raises(StageFailed, match="KZ716") as refused:
        bridge.run(request_of(tmp_path / "1"), without, caller_of(ledger, "without"))
    assert "nvidia-ctk" in str(refused.value)
    assert not refused.value.may_pass
    for wish, said in (([7], "7"), (3, "3 of 2"), (["GPU-33333333"], "GPU-33333333")):
        with pytest.raises(StageFailed, match="KZ716") as refused:
            bridge.run(request_of(tmp_path / "2"), replace(place, gpus=wish), caller_of(ledger, "none"))
        assert f"value: {said}" in str(refused.value)
        assert f"1: {TWO}" in str(refused.value)
    cpu = replace(without, image=stage_image, fallback="cpu")
    outputs = bridge.run(request_of(tmp_path / "3"), cpu, caller_of(ledger, "cpu"))
    assert gpus_of(outputs) == "void"


def test_all_named_and_none(tmp_path, ledger, place):
    for wish, given in (("all", f"{ONE},{TWO}"), ([1], TWO), ([ONE], ONE), (0, "void")):
        outputs = bridge.run(
            request_of(tmp_path, seen=str(wish)), replace(place, gpus=wish), caller_of(ledger, str(wish))
        )
        assert gpus_of(outputs) == given


@pytest.mark.fault("F11", "the GPU is lost in mid-run", "I1 I2")
def test_a_gpu_that_is_lost_ends_the_container_and_may_be_tried_again(tmp_path, ledger, place, gpu_engine):
    with pytest.raises(StageFailed, match="KZ712") as lost:
        bridge.run(request_of(tmp_path, lines=1, lose=True), place, caller_of(ledger, "loser"))
    assert lost.value.may_pass
    assert gpu_engine.client.api.containers(all=True) == []
    assert ledger.leases("gpu") == []


@pytest.mark.fault("F12", "a dead caller's container still has the GPU", "I1 I2")
def test_a_dead_callers_gpu_is_its_containers_until_that_is_gone(tmp_path, ledger, place, gpu_engine):
    def stop(*_):
        raise SystemExit

    dead = caller_of(ledger, "dead", Log(stop), attempt=1)
    with pytest.raises(SystemExit):
        bridge.run(request := request_of(tmp_path / "1", lines=3, sleep=60), replace(place, gpus="all"), dead)
    # The leases have run out, the container goes on.
    for lease in ledger.leases("gpu/"):
        ledger.release(lease, WallClock().now())
    waiting = threading.Thread(target=lambda: bridge.run(request_of(tmp_path / "2"), place, caller_of(ledger, "next")))
    waiting.start()
    until(lambda: ledger.leases("gpu-ticket/"))
    time.sleep(1)
    assert len(gpu_engine.client.api.containers()) == 1
    assert ledger.leases("gpu/") == []
    done = list(remove_orphans(Engine(gpu_engine.host), ledger, Later(minutes=5), lambda _: False))
    assert "its lease ran out" in done[0]
    waiting.join(30)
    assert not waiting.is_alive()
    assert request.spec["sleep"] == 60
