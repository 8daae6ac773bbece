"""What befalls networks and engines: the container's state decides, nothing doubles."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.docker.conftest import make_stage_image
from tests.docker.faulty_socket import FaultySocket
from tests.docker.test_docker_place import Later, Told, caller_of, request_of
from tests.docker.watch import counted
from tests.docker_engine import DockerEngine, Registry, build_base_image

from kaizen import bridge
from kaizen.adapters import docker_engine as engine_module
from kaizen.adapters.docker_engine import Engine, Wanted
from kaizen.adapters.docker_orphans import remove_orphans
from kaizen.adapters.docker_runs import acquire, start_or_adopt
from kaizen.clock import WallClock
from kaizen.containers import Call, Caller, Interrupted, Log, Owner, labels
from kaizen.errors import StageFailed
from kaizen.spec import PlaceSpec


@pytest.fixture
def between(docker_engine):
    with FaultySocket(docker_engine.host) as found:
        yield found


@pytest.fixture
def place(between, stage_image):
    return PlaceSpec(mode="docker", image=stage_image, engine=between.host, memory="128m", cpus=1.0)


pytestmark = pytest.mark.usefixtures("api")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """What takes seconds for people takes less here."""
    monkeypatch.setattr(engine_module, "HEARTBEAT", 1.0)
    monkeypatch.setattr(engine_module, "CALL_TIMEOUT", 2.0)


FAULTS = {
    "the log is cut": ("F03", [("GET .*/logs", "cut:700"), ("GET .*/logs", "cut:900"), ("GET .*/logs", "cut:1")]),
    "the log is refused": ("F03", [("GET .*/logs", "500"), ("GET .*/logs", "500")]),
    "the log hangs": ("F03", [("GET .*/logs", "hang")]),
    "the result is cut on its way": ("F03", [("GET .*/archive", "cut:300")]),
    "the answer to create is lost": ("F18", [("POST .*/containers/create", "lose")]),
    "the answer to start is lost": ("F18", [("POST .*/start", "lose")]),
    "the answer to inspect is lost": ("F18", [("GET .*/json", "lose"), ("GET .*/json", "hang")]),
    "the data is lost on its way": ("F18", [("PUT .*/archive", "lose")]),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.fault(number, n, "I1 I2 I3")) for n, (number, _) in FAULTS.items()]
)
def test_a_fault_on_the_way_changes_neither_result_nor_log(tmp_path, ledger, place, between, docker_engine, name, saw):
    told = Told()
    between.faults = list(FAULTS[name][1])
    caller = caller_of(ledger, told)
    outputs = bridge.run(request_of(tmp_path, lines=20, every=0.03), place, caller)
    assert between.faults == []
    assert told.texts == [f"line {n}" for n in range(20)]
    assert outputs["metric"] == 0.5
    assert len(docker_engine.client.api.containers(all=True)) == 1
    caller.settle()
    assert docker_engine.client.api.containers(all=True) == []
    saw(wrong=int(outputs["metric"] != 0.5), **counted(told.texts, 20))


@pytest.mark.fault("F19", "attach is refused", "I1 I2")
def test_nothing_is_attached_so_an_attach_that_fails_changes_nothing(tmp_path, ledger, place, between, saw):
    told = Told()
    between.faults = [("POST .*/attach", "500")]
    bridge.run(request_of(tmp_path, lines=5), place, caller := caller_of(ledger, told))
    caller.settle()
    assert between.happened == []
    assert told.texts == [f"line {n}" for n in range(5)]
    saw(attached=len(between.happened), **counted(told.texts, 5))


@pytest.mark.fault("F51", "dockerd hangs (SIGSTOP), and goes on", "I1 I2")
def test_an_engine_that_hangs_is_said_to_and_nothing_doubles_when_it_goes_on(
    tmp_path, ledger, place, docker_engine, monkeypatch, saw
):
    told = Told()
    request = request_of(tmp_path / "1", lines=40, every=0.1)

    class Hung(Told):
        def tell(self, name, line, mark):
            told.tell(name, line, mark)
            if len(told.lines) == 5:
                docker_engine.pause()

    place = replace(place, engine=docker_engine.host)
    began = time.monotonic()
    monkeypatch.setattr(engine_module, "PATIENCE", 3.0)
    try:
        with pytest.raises(StageFailed, match="KZ715") as thrown:
            bridge.run(request, place, caller_of(ledger, Hung(), attempt=1))
    finally:
        docker_engine.resume()
    assert thrown.value.may_pass
    assert time.monotonic() - began < 30
    second = caller_of(ledger, told, attempt=2)
    bridge.run(replace(request, folder=str(tmp_path / "2")), place, second)
    assert told.texts == [f"line {n}" for n in range(40)]
    assert len(docker_engine.client.api.containers(all=True)) == 1
    second.settle()
    saw(**counted(told.texts, 40))


@pytest.fixture(scope="module")
def other_engine(stage_image):
    with DockerEngine(live_restore=True) as engine:
        engine.client.api.tag(make_stage_image(engine), *stage_image.split(":"))
        yield engine


@pytest.mark.fault("F50", "dockerd is killed, and starts again", "I1 I2")
def test_an_engine_that_is_killed_and_comes_back_loses_nothing(tmp_path, ledger, place, other_engine, saw):
    told = Told()

    class Killed(Told):
        def tell(self, name, line, mark):
            told.tell(name, line, mark)
            if len(told.lines) == 5:
                other_engine.kill()
                threading.Timer(1, other_engine.start).start()

    caller = caller_of(ledger, Killed())
    caller = replace(caller, call=replace(caller.call, log=replace(caller.call.log, resume=lambda _: told.mark)))
    outputs = bridge.run(request_of(tmp_path, lines=40, every=0.1), replace(place, engine=other_engine.host), caller)
    assert told.texts == [f"line {n}" for n in range(40)]
    assert outputs["metric"] == 0.5
    (container,) = other_engine.client.api.containers(all=True)
    assert outputs["me"]["environment"]["HOSTNAME"] == container["Id"][:12]
    caller.settle()
    assert other_engine.client.api.containers(all=True) == []
    saw(made=1, **counted(told.texts, 40))


@pytest.mark.fault("F05", "a retry comes to another engine", "I1")
def test_a_task_has_its_container_on_one_engine(tmp_path, ledger, place, docker_engine, other_engine, saw):
    here, there = replace(place, engine=docker_engine.host), replace(place, engine=other_engine.host)
    request = request_of(tmp_path / "1", lines=3, sleep=60)
    with pytest.raises(SystemExit):
        bridge.run(request, here, caller_of(ledger, Log(leave), attempt=1))
    refused = []
    # Whether it is the same work, or another: after a clear nobody over there can end what runs here.
    for number, again in ((2, request), (3, request_of(tmp_path / "2", lines=4))):
        with pytest.raises(StageFailed, match="KZ729") as thrown:
            bridge.run(again, there, caller_of(ledger, Told(), base=number - 2, attempt=number))
        assert thrown.value.may_pass
        assert docker_engine.client.api.info()["ID"] in thrown.value.value
        refused.append(thrown.value)
    assert other_engine.client.api.containers(all=True) == []
    # Where it is it is found; and when nobody holds it any more, another engine will do.
    with pytest.raises(SystemExit):
        bridge.run(request, here, caller_of(ledger, Log(leave), attempt=4))
    list(remove_orphans(Engine(docker_engine.host), ledger, Later(minutes=2), lambda _: False))
    later = replace(caller_of(ledger, Told(), attempt=5), clock=Later(minutes=2))
    bridge.run(request_of(tmp_path / "3", lines=1), there, later)
    later.settle()
    saw(refused=len(refused))


@pytest.mark.fault("F05", "two attempts come to two engines at once", "I1")
def test_of_two_attempts_at_two_engines_at_once_one_goes_on_at_most(ledger, docker_engine, other_engine, saw):
    engines = [Engine(docker_engine.host), Engine(other_engine.host)]
    both = threading.Barrier(2)

    def goes_on(engine, task, attempt):
        caller = Caller(Call(Owner(task, attempt=attempt, supersedes=True), Told().log), ledger, WallClock(), "a/loop")
        both.wait()
        with suppress(StageFailed):
            return bool(acquire(caller, engine, f"kaizen-{task}"))
        return False

    with ThreadPoolExecutor(2) as threads:
        rounds = [list(threads.map(goes_on, engines, [f"task-{n}"] * 2, [1, 2])) for n in range(20)]
    assert max(map(sum, rounds)) == 1
    saw(rounds=len(rounds), refused=sum(not found for each in rounds for found in each))


def leave(name, line, mark):
    """As if the task had been killed here."""
    raise SystemExit


@pytest.mark.fault("F15", "a tag moves; an image, or its registry, is gone", "I1 I2")
def test_a_pull_tells_its_own_reason_and_a_tag_that_moves_changes_no_run(tmp_path, ledger, place, docker_engine):
    api = docker_engine.client.api
    with Registry() as registry:
        name = f"{registry.address}/train:1"
        api.tag(place.image, *name.rsplit(":", 1))
        list(api.push(name, stream=True, decode=True))
        pinned = api.inspect_image(name)["Id"]
        api.remove_image(name)
        told = Told()
        place = replace(place, image=name)
        request = request_of(tmp_path / "1", lines=10, every=0.1, exit=1)
        with pytest.raises(StageFailed, match="KZ703"):
            bridge.run(request, place, caller_of(ledger, told, attempt=1))
        api.tag(build_base_image(docker_engine), *name.rsplit(":", 1))
        with pytest.raises(StageFailed, match="KZ703"):
            bridge.run(request, place, caller_of(ledger, told, attempt=2))
        runs = [e.payload["image_id"] for e in ledger.events("a/loop", kind="ContainerRun")]
        assert runs == [pinned, pinned]
        with pytest.raises(StageFailed, match="KZ714") as missing:
            bridge.run(request, replace(place, image=f"{registry.address}/train:2"), caller_of(ledger, told, base=3))
        assert "manifest" in str(missing.value)
    gone = f"{registry.address}/other:1"
    with pytest.raises(StageFailed, match="KZ713") as refused:
        bridge.run(request, replace(place, image=gone), caller_of(ledger, told, base=4))
    assert "connection refused" in str(refused.value)
    assert "No such image" not in str(refused.value)


@pytest.mark.fault("F18", "40 attempts create the same container at once", "I1")
def test_of_forty_that_create_a_container_at_once_one_makes_it_and_the_others_adopt(ledger, place, docker_engine, saw):
    described = {"loop": "a/loop", "stage": "train", "turn": "", "work": "work", "image": place.image}
    marks = labels(Owner("airflow:dag/run/train/-1"), **described)
    wanted = Wanted("kaizen-forty", marks, {"Image": place.image, "Cmd": ["sleep", "60"]})
    engines = [Engine(docker_engine.host) for _ in range(40)]
    together = threading.Barrier(len(engines))

    def attempt(engine):
        together.wait()
        return start_or_adopt(engine, wanted, None, prepare=lambda made: None)

    with ThreadPoolExecutor(len(engines)) as threads:
        found = list(threads.map(attempt, engines))
    (container,) = docker_engine.client.api.containers(all=True)
    assert set(found) == {container["Id"]}
    assert container["State"] == "running"
    Engine(docker_engine.host).remove(container["Id"])
    saw(attempts=len(found), adopted=len(found) - len(set(found)))


@pytest.mark.fault("F05", "an old attempt is told to end after another has adopted", "I1")
def test_a_late_signal_to_an_old_attempt_leaves_the_adopted_container_alone(tmp_path, ledger, place, saw):
    told, following, adopted = Told(), threading.Event(), threading.Event()

    def wait_and_end(name, line, mark):
        following.set()
        assert adopted.wait(30)
        raise Interrupted

    def adopt(name, line, mark):
        told.tell(name, line, mark)
        adopted.set()

    old = caller_of(ledger, Log(wait_and_end), attempt=1)
    # As if Airflow had said of the task, at the wrong moment, that it is over.
    old = replace(old, call=replace(old.call, ends=lambda _: True))
    request = request_of(tmp_path / "1", lines=30, every=0.1)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(bridge.run, request, place, old)
        assert following.wait(30)
        new = caller_of(ledger, Log(adopt), attempt=2)
        outputs = bridge.run(replace(request, folder=str(tmp_path / "2")), place, new)
        with pytest.raises(StageFailed, match="KZ720") as late:
            first.result(30)
    assert "it goes on" in late.value.what
    assert outputs["metric"] == 0.5
    new.settle()
    saw(**counted(told.texts, 30))
    assert told.texts == [f"line {n}" for n in range(30)]
