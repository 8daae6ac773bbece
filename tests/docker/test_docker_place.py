"""``place: docker`` on a real engine: one container per work, its own result, walls, causes, a log told once."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.docker.attempts import Training
from tests.docker.conftest import make_stage_image
from tests.docker.watch import watch

from kaizen import bridge
from kaizen.adapters import docker_engine as docker_engine_module
from kaizen.adapters.docker_engine import Engine
from kaizen.adapters.docker_orphans import remove_orphans
from kaizen.adapters.docker_place import work_digest
from kaizen.bridge import InputFile, Request
from kaizen.canonical import file_digests
from kaizen.clock import WallClock
from kaizen.containers import LABEL, Call, Caller, Interrupted, Log, Mark, Owner, labels, work_name
from kaizen.errors import KaizenError, LeaseHeld, StageFailed
from kaizen.ledger import open_ledger
from kaizen.records import ContainerRun, Window
from kaizen.spec import PlaceSpec
from kaizen.trials import parse_reports


@pytest.fixture
def place(docker_engine, stage_image):
    return PlaceSpec(mode="docker", image=stage_image, engine=docker_engine.host, memory="128m", tmp="16m", cpus=1.0)


class Told:
    """A log that keeps what it was told, over several attempts."""

    def __init__(self):
        self.lines, self.mark = [], Mark()

    def tell(self, name, line, mark):
        self.lines.append(line)
        self.mark = mark

    @property
    def log(self):
        return Log(self.tell, lambda _: self.mark)

    @property
    def texts(self):
        return [line.text for line in self.lines]


@pytest.fixture
def told():
    return Told()


def caller_of(ledger, log, **owner):
    call = Call(Owner("airflow:dag/run/train/-1", supersedes=True, **owner), getattr(log, "log", log))
    return Caller(call, ledger, WallClock(), "a/loop")


def request_of(folder, **do):
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "rows.parquet"
    rows.write_text("rows")
    inputs = (InputFile("rows", "2013-01", str(rows), file_digests(rows)[1]["sha256"]),)
    paths = {"folder": str(folder / "out"), "checkpoints": "wherever the place keeps them"}
    return Request("train", do, "local", "/nowhere", inputs=inputs, window=Window(None, None), turn="turn-1", **paths)


def test_a_stage_runs_behind_its_walls_and_leaves_its_own_result(tmp_path, ledger, place, told, api, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary")
    caller = caller_of(ledger, told)
    outputs = bridge.run(request_of(tmp_path, lines=3), place, caller)
    assert told.texts == ["line 0", "line 1", "line 2"]
    assert outputs["seen"] == {"rows": "rows"}
    assert Path(outputs["model"], "weights").read_text().startswith("weights of")
    assert json.loads(Path(outputs["profile"]).read_text()) == {}
    me = outputs["me"]
    assert (me["uid"], me["root"], me["tmp"]) == (65532, False, True)
    assert "canary" not in str(me["environment"])
    assert "CapEff:\t0000000000000000" in outputs["status"]
    assert "NoNewPrivs:\t1" in outputs["status"]
    (container,) = api.containers(all=True, filters={"label": f"{LABEL}.turn=turn-1"})
    facts = api.inspect_container(container["Id"])
    config = facts["HostConfig"]
    assert "canary" not in json.dumps(facts)
    assert (config["Memory"], config["MemorySwap"], config["PidsLimit"]) == (128 << 20, 128 << 20, 512)
    assert (config["NanoCpus"], config["NetworkMode"], config["Init"]) == (10**9, "none", True)
    assert not config["Privileged"]
    assert [m["Type"] for m in facts["Mounts"]] == ["volume"]
    # Only when the result has been kept does anything go.
    caller.settle()
    assert api.containers(all=True) == []
    assert api.volumes()["Volumes"] == []
    assert ledger.lease(f"container/{api.info()['ID']}/{facts['Name'].lstrip('/')}") is None
    (event,) = ledger.events("a/loop", kind="ContainerRun")
    record = ContainerRun.from_json(event.payload)
    assert (record.exit_code, record.cause, record.opened, record.image_id) == (0, "", (), facts["Image"])


def test_a_container_knows_the_commit_that_its_image_was_built_from(tmp_path, ledger, place, told, docker_engine, api):
    labels = "LABEL io.kaizen.dirty=true org.opencontainers.image.revision=4f1c"
    built = replace(place, image=make_stage_image(docker_engine, [labels]))
    found = bridge.run(request_of(tmp_path / "1"), built, caller_of(ledger, told))
    assert found["me"]["environment"]["KAIZEN_CODE"] == "4f1c-dirty"
    plain = bridge.run(request_of(tmp_path / "2"), place, caller_of(ledger, told))
    assert "KAIZEN_CODE" not in plain["me"]["environment"]


def test_each_wall_can_be_opened_by_name_and_the_record_says_so(tmp_path, ledger, place, told, api):
    opened = replace(place, opened=("root", "capabilities", "privileges", "user"), user="0:0")
    outputs = bridge.run(request_of(tmp_path), opened, caller_of(ledger, told))
    assert (outputs["me"]["uid"], outputs["me"]["root"]) == (0, True)
    assert "CapEff:\t0000000000000000" not in outputs["status"]
    assert "NoNewPrivs:\t0" in outputs["status"]
    (event,) = ledger.events("a/loop", kind="ContainerRun")
    assert event.payload["opened"] == ["capabilities", "privileges", "root", "user"]


def test_a_later_attempt_adopts_the_running_container_and_goes_on_with_its_log(tmp_path, ledger, place, told, api):
    request = request_of(tmp_path / "1", lines=40, every=0.05)

    def tell(name, line, mark):
        told.tell(name, line, mark)
        if len(told.lines) == 10:
            raise SystemExit  # As if it had been killed here.

    with pytest.raises(SystemExit):
        bridge.run(request, place, first := caller_of(ledger, Log(tell), attempt=1))
    (before,) = api.containers()
    second = caller_of(ledger, told, attempt=2)
    outputs = bridge.run(replace(request, folder=str(tmp_path / "2")), place, second)
    assert told.texts == [f"line {n}" for n in range(40)]
    (after,) = api.containers(all=True)
    assert after["Id"] == before["Id"]
    assert Path(outputs["model"]).parent == tmp_path / "2"
    third = caller_of(ledger, told, attempt=3)
    again = bridge.run(replace(request, folder=str(tmp_path / "3")), place, third)
    assert Path(again["model"], "weights").read_text() == Path(outputs["model"], "weights").read_text()
    assert len(told.lines) == 40
    # The earlier attempt, should it live on, has no say any more.
    with pytest.raises(LeaseHeld, match="KZ503"):
        bridge.run(request, place, first)


@pytest.mark.fault("F02", "cleared: other work for the same task", "I1 I2")
def test_a_task_that_starts_over_ends_what_ran_before_it(tmp_path, ledger, place, told, api):
    def stop(name, line, mark):
        raise SystemExit

    with pytest.raises(SystemExit):
        bridge.run(request_of(tmp_path / "1", lines=1, sleep=60, deaf=True), place, caller_of(ledger, Log(stop)))
    quick = replace(place, stop_timeout=timedelta(seconds=0))
    over = caller_of(ledger, told, base=2, attempt=2)
    bridge.run(request_of(tmp_path / "2", lines=2), quick, over)
    assert told.texts == ["line 0", "line 1"]
    over.settle()
    assert api.containers(all=True) == []
    assert api.volumes()["Volumes"] == []


CAUSES = {
    "out of memory": ({"eat": True}, "KZ702", "limit 128m"),
    "refused": ({"refuse": True}, "KZ420", "no labelled rows"),
    "bug": ({"raise": "a bug"}, "KZ701", "a bug"),
    "no result": ({"lines": 2, "exit": 3}, "KZ703", "line 1"),
    "no space": ({"fill": 32}, "KZ710", "No space left"),
    "not a number": ({"metric": "nan"}, "KZ718", "finite"),
    "a forged number": (
        {"forge": '{"protocol": 1, "outputs": {"metric": NaN}, "error": null, "files": {}}'},
        "KZ718",
        "NaN",
    ),
    "a torn result": ({"forge": '{"protocol": 1, "outp'}, "KZ718", "JSONDecodeError"),
    "an empty result": ({"forge": "{}"}, "KZ705", "protocol 1"),
    "a result that is too long": ({"forge": "long"}, "KZ718", "more than 16m"),
    "a file that is elsewhere": (
        {"forge": '{"protocol": 1, "outputs": {"model": "/etc"}, "error": null, "files": {}}'},
        "KZ718",
        "/etc",
    ),
    "a file that leads out": (
        {"forge": '{"protocol": 1, "outputs": {"model": "FOLDER/../../etc"}, "error": null, "files": {}}'},
        "KZ718",
        "not a name",
    ),
    "a file that it does not list": (
        {
            "leave": "model/extra",
            "forge": '{"protocol": 1, "outputs": {"model": "FOLDER/model"}, "error": null, "files": {}}',
        },
        "KZ718",
        "'model/extra' is not in its list",
    ),
    "other bytes than were promised": (
        {"forge": '{"protocol": 1, "outputs": {}, "error": null, "files": {"x": {"size": 1, "sha256": "0"}}}'},
        "KZ612",
        "x",
    ),
    "a link": ({"link": True}, "KZ718", "link"),
    "command not found": ({"exit": 127}, "KZ708", "127"),
}


NUMBERS = {"out of memory": "F13", "no space": "F48", "a torn result": "F48"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.fault(NUMBERS[n], n, "I1 I2 I3")) if n in NUMBERS else n for n in CAUSES],
)
def test_what_ended_a_container_is_told_by_cause_and_nothing_stays(tmp_path, ledger, place, told, api, name):
    do, code, said = CAUSES[name]
    with pytest.raises(KaizenError, match=code) as thrown:
        bridge.run(request_of(tmp_path, **do), place, caller_of(ledger, told))
    assert said in str(thrown.value)
    assert api.containers(all=True) == []
    (event,) = ledger.events("a/loop", kind="ContainerRun")
    assert event.payload["cause"] == code


@pytest.fixture
def full(tmp_path):
    """A disk of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.fault("F48", "the disk of the outputs is full", "I1 I2 I3")
def test_outputs_that_find_no_space_are_none(tmp_path, ledger, place, told, api, full, saw):
    request, caller = request_of(tmp_path, weigh=16), caller_of(ledger, told)
    volume = work_name(caller.owner, work_digest(request, place))
    facts = {"loop": "a/loop", "stage": "train", "turn": "turn-1", "work": work_digest(request, place)}
    image = Engine(place.engine).pin(place.image)
    where = {"type": "none", "o": "bind", "device": str(full)}
    api.create_volume(volume, driver_opts=where, labels=labels(caller.owner, image=image, **facts))
    with pytest.raises(StageFailed, match="KZ710") as thrown:
        bridge.run(request, place, caller)
    assert thrown.value.may_pass
    assert "space" in thrown.value.what
    published = list(Path(request.folder).glob("*"))
    saw(published=len(published))
    assert published == []
    (event,) = ledger.events("a/loop", kind="ContainerRun")
    assert event.payload["cause"] == "KZ710"


@pytest.mark.fault("F52", "a person kills the container", "I1 I2")
def test_ended_from_outside_is_told_apart_from_out_of_memory_and_may_be_retried(tmp_path, ledger, place, told, api):
    def kill(name, line, mark):
        api.kill(name)

    with pytest.raises(StageFailed, match="KZ707") as thrown:
        bridge.run(request_of(tmp_path / "1", lines=1, sleep=60), place, caller_of(ledger, Log(kill)))
    assert thrown.value.may_pass
    bridge.run(request_of(tmp_path / "2", lines=1), place, second := caller_of(ledger, told))
    assert told.texts == ["line 0"]
    second.settle()


def test_a_strangers_container_of_that_name_is_left_alone_and_named(tmp_path, ledger, place, told, api):
    request, caller = request_of(tmp_path), caller_of(ledger, told)
    name = work_name(caller.owner, work_digest(request, place))
    stranger = api.create_container(place.image, ["true"], name=name, labels={"whose": "a stranger's"})
    with pytest.raises(StageFailed, match="KZ717") as thrown:
        bridge.run(request, place, caller)
    assert name in str(thrown.value)
    assert "a stranger's" in str(thrown.value)
    assert not thrown.value.may_pass
    (found,) = api.containers(all=True)
    assert (found["Id"], found["State"]) == (stranger["Id"], "created")
    assert ledger.leases("container/") == []


@pytest.mark.fault("F52", "a person removes the container", "I1 I2")
def test_a_removed_container_is_not_waited_for(tmp_path, ledger, place, told, api):
    def remove(name, line, mark):
        api.remove_container(name, force=True)

    with pytest.raises(StageFailed, match="KZ707"):
        bridge.run(request_of(tmp_path, lines=1, sleep=60), place, caller_of(ledger, Log(remove)))


@pytest.mark.fault("F49", "place.timeout; it ignores SIGTERM", "I1 I2")
def test_a_deaf_container_ends_at_its_time_limit(tmp_path, ledger, place, told, api, monkeypatch):
    monkeypatch.setattr(docker_engine_module, "HEARTBEAT", 0.5)
    short = replace(place, timeout=timedelta(seconds=1))
    with pytest.raises(StageFailed, match="KZ704"):
        bridge.run(request_of(tmp_path, sleep=60, deaf=True), short, caller_of(ledger, told))
    assert api.containers(all=True) == []


def test_a_log_is_harmless_bounded_and_marked(tmp_path, ledger, place, told, api):
    text = "10%\r50%\r100%\n\x1b[31mred\x1b[0m\n" + "x" * 40_000 + "\nlast"
    bridge.run(request_of(tmp_path, print=text), place, caller_of(ledger, told))
    bar, red, long, last = told.texts
    assert (bar, red, last) == ("100%", "\\x1b[31mred\\x1b[0m", "last")
    assert long.startswith("xxx")
    assert long.endswith("(31808 more characters)")
    bridge.run(request_of(tmp_path / "2", lines=1, stderr=True), place, caller_of(ledger, loud := Told()))
    assert [line.stderr for line in loud.lines] == [True]


def test_an_image_that_is_nowhere_is_named_and_nothing_is_left(tmp_path, ledger, place, told, api):
    with pytest.raises(StageFailed, match="KZ713") as thrown:
        bridge.run(request_of(tmp_path), replace(place, image="no-such-image:1"), caller_of(ledger, told))
    assert "no-such-image" in str(thrown.value)
    assert api.containers(all=True) == []
    assert ledger.leases("container/") == []


def test_a_caller_that_is_told_to_end_leaves_the_container_or_ends_it_as_it_knows_best(
    tmp_path, ledger, place, told, api
):
    def interrupt(name, line, mark):
        told.tell(name, line, mark)
        raise Interrupted

    request = request_of(tmp_path / "1", lines=1, sleep=60, deaf=True)
    for ends, left in ((False, 1), (True, 0)):
        caller = caller_of(ledger, Log(interrupt))
        caller = replace(caller, call=replace(caller.call, ends=lambda _, ends=ends: ends))
        with pytest.raises(StageFailed, match="KZ720") as thrown:
            bridge.run(request, place, caller)
        assert thrown.value.may_pass
        assert len(api.containers()) == left
    assert api.containers(all=True) == []


class Later(WallClock):
    """The wall's clock, some time from now."""

    def __init__(self, **later):
        self.later = timedelta(**later)

    def now(self):
        return super().now() + self.later


@pytest.mark.fault("F01", "the task is killed, and nobody comes: an orphan", "I2")
def test_an_orphan_is_removed_and_nobody_elses_container(tmp_path, ledger, place, api, docker_engine, saw):
    def stop(name, line, mark):
        raise SystemExit

    with pytest.raises(SystemExit):
        bridge.run(request_of(tmp_path, lines=1, sleep=60, deaf=True), place, caller_of(ledger, Log(stop)))
    (ours,) = api.containers()
    stranger = docker_engine.client.containers.create(place.image, labels=ours["Labels"], command="true")
    engine = Engine(docker_engine.host)
    never = lambda _: False  # noqa: E731
    assert list(remove_orphans(engine, ledger, WallClock(), never)) == []
    assert list(remove_orphans(engine, ledger, Later(seconds=61), never, lambda _: True)) == []
    done = list(remove_orphans(engine, ledger, Later(seconds=61), never))
    assert [line.partition(" (")[0] for line in done] == [f"removed container {ours['Names'][0][1:]} of a/loop"]
    assert "its lease ran out" in done[0]
    assert [c["Id"] for c in api.containers(all=True)] == [stranger.id]
    saw(**{"strangers left": 1})
    assert len(api.volumes()["Volumes"]) == 1
    (gone,) = remove_orphans(engine, ledger, Later(days=2), never)
    assert gone.startswith("removed volume")
    assert api.volumes()["Volumes"] == []


@pytest.mark.fault("F01", "the task is killed, and over: an orphan at once", "I2")
def test_the_container_of_a_task_that_is_over_does_not_wait_for_its_lease(tmp_path, ledger, place, api, docker_engine):
    def stop(name, line, mark):
        raise SystemExit

    with pytest.raises(SystemExit):
        bridge.run(request_of(tmp_path, lines=1, sleep=60), place, caller_of(ledger, Log(stop)))
    asked = []
    (done,) = remove_orphans(Engine(docker_engine.host), ledger, WallClock(), lambda o: asked.append(o) or True)
    assert "its task airflow:dag/run/train/-1 is over" in done
    assert asked == ["airflow:dag/run/train/-1"]
    assert api.containers(all=True) == []


@pytest.mark.fault("F53", "killed while a checkpoint is saved", "I1 I2 I3")
def test_a_fresh_container_goes_on_from_the_last_good_checkpoint(tmp_path, ledger, place, told, api, saw):
    with pytest.raises(StageFailed, match="KZ707"):
        bridge.run(request_of(tmp_path / "1", steps=5), place, caller_of(ledger, told, attempt=1))
    assert api.containers(all=True) == []
    second = caller_of(ledger, told, attempt=2)
    outputs = bridge.run(request_of(tmp_path / "2", steps=5), place, second)
    assert outputs["began"] == 2
    saw(**{"went on from": f"step {outputs['began']}"})
    second.settle()
    assert api.volumes()["Volumes"] == []
    # Starting over starts from nothing.
    third = caller_of(ledger, told, base=3, attempt=3)
    with pytest.raises(StageFailed, match="KZ707"):
        bridge.run(request_of(tmp_path / "3", steps=5), place, third)


def trial_of(folder, **do):
    return replace(request_of(folder, **do), stage="trial", parameters={"value": 0.25})


def test_a_trial_in_a_container_is_watched_and_hears_when_to_stop(tmp_path, ledger, place, told, api, monkeypatch):
    monkeypatch.setattr(docker_engine_module, "HEARTBEAT", 0.5)
    seen = []

    def watch(spool):
        seen.append(parse_reports(spool.reports()))
        if seen[-1]:
            spool.stop()

    caller = caller_of(ledger, told)
    outputs = bridge.run(trial_of(tmp_path), place, caller, watch)
    assert outputs["stopped"]
    reported = [tuple(report) for report in outputs["reports"]]
    assert reported[0] == (0, 0.25)
    early = next(reports for reports in seen if reports)
    assert early == reported[: len(early)]
    caller.settle()
    assert api.containers(all=True) == []


def test_a_trial_in_a_container_that_does_not_hear_is_ended(tmp_path, ledger, place, told, api, monkeypatch):
    monkeypatch.setattr(docker_engine_module, "HEARTBEAT", 0.5)
    with pytest.raises(StageFailed, match="KZ707"):
        bridge.run(trial_of(tmp_path, deaf=True), place, caller_of(ledger, told), lambda spool: spool.end())
    assert api.containers(all=True) == []


def test_a_trial_is_other_work_than_one_with_other_parameters(tmp_path, place):
    one, other = trial_of(tmp_path), replace(trial_of(tmp_path), parameters={"value": 0.5})
    assert work_digest(one, place) != work_digest(other, place)
    assert work_digest(one, place) == work_digest(replace(one, folder="/elsewhere"), place)


POINTS = ("takeover", "before_create", "after_create", "before_start", "after_start", "after_failure", "after_read")


@pytest.mark.fault("F01", "the task is killed at each point of a container's life", "I1 I2 I3 I11")
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_the_next_attempt_gets_the_one_result(processes, tmp_path, place, api, saw, point):
    fault, fails = f"containers.{point}:kill", {"exit": 3} if point == "after_failure" else {}
    training = Training(processes, tmp_path, place, lines=5, **fails)
    with watch(api) as engine:
        first = fault if point != "takeover" else "containers.after_start:kill"
        assert training.attempt(first) == -9, training.errors(1).read_text()
        if point == "takeover":
            assert training.attempt(fault) == -9
        assert training.attempt() == (1 if fails else 0)
    # What failed and was told is tried again, in another container; nothing else runs twice.
    assert training.told() == [f"line {n}" for n in range(5)] * (2 if fails else 1)
    assert len(engine.started) == (2 if fails else 1)
    if fails:
        assert "KZ703" in training.errors(2).read_text()
    else:
        assert training.kept()["weights"] == f"weights of {engine.started[-1][:12]}"
    assert api.containers(all=True) == []
    saw(kills=training.attempts - 1, lines=len(training.told()))


def test_the_shell_lists_containers_mends_and_examines_the_engine(tmp_path, place, api, capsys, monkeypatch):
    from tests.loops import make_loop

    from kaizen.cli import main

    values = {"mode": "docker", "image": place.image, "engine": place.engine}
    project = make_loop(tmp_path / "loop", {"place": values}).spec
    monkeypatch.setenv("KAIZEN_LEDGER_URL", ledger_url := f"sqlite:///{tmp_path / 'shell.db'}")

    def stop(name, line, mark):
        raise SystemExit

    with open_ledger(ledger_url) as ledger, pytest.raises(SystemExit):
        bridge.run(request_of(tmp_path / "1", lines=1, sleep=60), place, caller_of(ledger, Log(stop)))
    # A handler of Kedro's may have shown what was logged until here.
    capsys.readouterr()
    assert main(["containers", str(project), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["stage"], found["state"], found["owner"]) == ("train", "running", "airflow:dag/run/train/-1")
    assert found["held_by"] == "airflow:dag/run/train/-1#0.1"
    assert main(["containers", str(project)]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["NAME", "LOOP", "STAGE"]
    assert row.split()[:4] == [found["name"], "a/loop", "train", "running"]
    with open_ledger(ledger_url) as ledger:
        for lease in ledger.leases("container/"):
            ledger.release(lease, WallClock().now())
    assert main(["reconcile", str(project)]) == 0
    assert f"removed container {found['name']}" in capsys.readouterr().out
    assert api.containers(all=True) == []
    main(["doctor", str(project), "--json"])
    findings = {f["name"]: f for f in json.loads(capsys.readouterr().out)}
    assert findings["place"]["status"] == "ok"
    assert place.image in findings["place"]["found"]
