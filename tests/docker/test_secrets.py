"""Secrets of a training in a container: they reach its code, whatever happens on the way, and nothing shows them."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import create_engine, inspect, text
from tests.docker.attempts import Training
from tests.docker.conftest import make_stage_image
from tests.docker.faulty_socket import FaultySocket
from tests.docker.test_docker_place import Told, caller_of, request_of
from tests.docker.test_docker_proxy import proxy_of
from tests.loops import make_loop

from kaizen import bridge, codec, faults
from kaizen.adapters import docker_engine as engine_module
from kaizen.adapters.docker_secrets import secrets_of
from kaizen.cli import main
from kaizen.containers import LABEL, Interrupted, Log
from kaizen.errors import StageFailed, UsageError
from kaizen.loop import open_loop
from kaizen.spec import PlaceSpec

CANARY = 'canary-7f3a"b\\c'
"""With what JSON, Python and URLs write in another way."""
PIECES = ("canary-7f3a", "canary%2D7f3a")


@pytest.fixture
def place(docker_engine, stage_image):
    given = {"memory": "128m", "tmp": "16m", "cpus": 1.0, "secrets": ("password",)}
    return PlaceSpec(mode="docker", image=stage_image, engine=docker_engine.host, **given)


@pytest.fixture(autouse=True)
def given(monkeypatch):
    monkeypatch.setenv("KAIZEN_SECRET_PASSWORD", CANARY)


@pytest.fixture
def told():
    return Told()


def dump(ledger_file):
    """Everything in a database, as text."""
    engine = create_engine(f"sqlite:///{ledger_file}")
    with engine.connect() as connection:
        tables = inspect(engine).get_table_names()
        return "\n".join(str(row) for table in tables for row in connection.execute(text(f'SELECT * FROM "{table}"')))


def assert_clean(**places):
    """No piece of the canary is in any of these texts."""
    for where, content in places.items():
        content = content if isinstance(content, str) else json.dumps(content, default=str)
        assert [piece for piece in PIECES if piece in content] == [], where


def test_a_secret_lies_in_memory_where_only_the_stage_can_read_it(tmp_path, ledger, place, told, api):
    outputs = bridge.run(request_of(tmp_path, secret="password"), place, caller_of(ledger, told))
    assert told.texts == ["the secret is ***"]
    facts = outputs["secrets"]
    assert facts["kind"] == "tmpfs"
    assert {"rw", "noexec", "nosuid", "nodev"} <= set(facts["options"])
    assert facts["modes"] == {"kaizen": "40700 65532", "password": "100400 65532"}
    assert outputs["me"]["environment"]["KAIZEN_SECRETS"] == "/run/kaizen"
    assert outputs["parameters"] == {"password": "***", "url": "https://user:***@host/"}


def test_nothing_that_others_see_shows_a_secret(tmp_path, ledger, place, api):
    seen, told = {}, Told()

    def tell(name, line, mark):
        told.tell(name, line, mark)
        seen["inspect"] = api.inspect_container(name)
        seen["commands"] = [api.exec_inspect(each) for each in seen["inspect"]["ExecIDs"] or []]
        seen["volume"] = b"".join(api.get_archive(name, "/kaizen")[0]).decode("latin-1")

    caller = caller_of(ledger, Log(tell))
    outputs = bridge.run(request_of(tmp_path, secret="password", lines=3), place, caller)
    assert "/run/kaizen" in json.dumps(seen["inspect"])
    assert '"secrets":["password"]' in seen["volume"]
    assert_clean(**seen, log=told.texts, outputs=outputs, history=api.history(place.image))
    assert_clean(result=(tmp_path / "out/result.json").read_text(), ledger=dump(tmp_path / "ledger.db"))
    # After its end the memory is gone, and the volume has what came of it.
    (ended,) = api.containers(all=True, filters={"label": LABEL})
    left = b"".join(api.get_archive(ended["Id"], "/kaizen")[0]).decode("latin-1")
    assert '"password":"***"' in left
    assert_clean(left=left)


def test_a_secret_in_an_exception_is_masked_before_it_is_cut(tmp_path, ledger, place, told, api):
    # The value ends in the middle of what a message may have.
    padding = "x" * (500 - len("ValueError: ") - 10)
    with pytest.raises(StageFailed, match="KZ701") as thrown:
        bridge.run(request_of(tmp_path, secret="password", **{"raise": padding}), place, caller_of(ledger, told))
    assert str(thrown.value).count("***") == 1
    assert_clean(error=str(thrown.value), ledger=dump(tmp_path / "ledger.db"), log=told.texts)
    (volume,) = api.volumes()["Volumes"]
    probe = api.create_container_from_config(
        {
            "Image": place.image,
            "HostConfig": {"Mounts": [{"Type": "volume", "Source": volume["Name"], "Target": "/kaizen"}]},
        }
    )
    left = b"".join(api.get_archive(probe, "/kaizen")[0]).decode("latin-1")
    assert "Traceback" in left
    assert_clean(left=left)


def test_a_secret_at_the_end_of_a_log_or_cut_by_its_limit_is_masked(tmp_path, ledger, place, told, api):
    text = "y" * 8185 + CANARY + "\n" + f"{{'password': {CANARY!r}}}\nlast {CANARY}"
    with pytest.raises(StageFailed, match="KZ703") as thrown:
        bridge.run(request_of(tmp_path, print=text, exit=3), place, caller_of(ledger, told))
    assert told.texts[1:] == ["{'password': '***'}", "last ***"]
    assert "last ***" in str(thrown.value)
    assert_clean(log=told.texts, error=str(thrown.value))


MISSING = {
    "nothing": ({}, "KZ260", "KAIZEN_SECRET_PASSWORD"),
    "no file": ({"KAIZEN_SECRET_PASSWORD_FILE": "/no/such/file"}, "KZ260", "No such file"),
    "short": ({"KAIZEN_SECRET_PASSWORD": "tiny"}, "KZ261", "4 bytes"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_secret_that_is_missing_is_refused_before_anything_is_made(
    tmp_path, ledger, place, told, api, monkeypatch, name
):
    variables, code, said = MISSING[name]
    monkeypatch.delenv("KAIZEN_SECRET_PASSWORD")
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    for stage in ("trigger", "train"):
        with pytest.raises(UsageError, match=code) as thrown:
            bridge.run(replace(request_of(tmp_path), stage=stage), place, caller_of(ledger, told))
        assert said in str(thrown.value)
        assert "tiny" not in str(thrown.value)
        assert not thrown.value.may_pass
    assert (api.containers(all=True), api.volumes()["Volumes"] or []) == ([], [])
    assert list(ledger.leases("container/")) == []


def test_doctor_says_which_secret_is_missing(tmp_path, place, capsys, monkeypatch):
    values = {"mode": "docker", "image": place.image, "engine": place.engine, "secrets": ["password"]}
    project = make_loop(tmp_path / "loop", {"place": values})

    def finding():
        capsys.readouterr()
        main(["doctor", str(project.spec), "--json"])
        return next(f for f in json.loads(capsys.readouterr().out) if f["name"] == "secrets")

    assert (finding()["status"], finding()["found"]) == ("ok", "password")
    monkeypatch.delenv("KAIZEN_SECRET_PASSWORD")
    assert finding()["status"] == "missing"
    assert "KZ260: the secret 'password'" in finding()["found"]


def test_a_place_is_not_told_where_ledger_and_tracking_server_are(tmp_path):
    own = {"ledger": f"sqlite:///{tmp_path}/{PIECES[0]}.db", "tracking": f"sqlite:///{tmp_path}/{PIECES[0]}.db"}
    project = make_loop(tmp_path / "loop", {"environment": own})
    with open_loop(project.spec) as loop:
        assert PIECES[0] in loop.spec.environment.ledger
        assert_clean(request=json.dumps(codec.encode(loop.request("train", "turn"))))


def test_what_opens_a_model_gets_no_secret_and_needs_none(tmp_path, ledger, place, told, monkeypatch):
    monkeypatch.delenv("KAIZEN_SECRET_PASSWORD")
    for stage in ("evaluate", "deploy", "score"):
        secrets, found, _ = secrets_of(replace(request_of(tmp_path), stage=stage), place, caller_of(ledger, told))
        assert (dict(secrets.values), found.secrets) == ({}, ())


def test_an_attempt_that_is_killed_between_start_and_secret_is_followed_by_one_that_gives_it(
    processes, tmp_path, place, api
):
    training = Training(processes, tmp_path, place, secret="password", lines=3)
    assert training.attempt("containers.after_start:kill") == -9, training.errors(1).read_text()
    (waiting,) = api.containers()
    assert training.attempt() == 0, training.errors(2).read_text()
    assert training.kept()["weights"].startswith("weights of")
    assert training.told() == ["the secret is ***", "line 0", "line 1", "line 2"]
    assert_clean(error=training.errors(2).read_text())
    assert waiting["State"] == "running"
    assert api.containers(all=True) == []


def test_a_running_container_is_given_its_secrets_by_every_attempt(tmp_path, ledger, place, told, api):
    def tell(name, line, mark):
        told.tell(name, line, mark)
        raise Interrupted

    request = request_of(tmp_path / "1", secret="password", lines=20, every=0.1)
    first = caller_of(ledger, Log(tell), attempt=1)
    first = replace(first, call=replace(first.call, ends=lambda _: False))
    with pytest.raises(StageFailed, match="KZ720"):
        bridge.run(request, place, first)
    bridge.run(replace(request, folder=str(tmp_path / "2")), place, caller_of(ledger, told, attempt=2))
    assert told.texts == ["the secret is ***", *(f"line {n}" for n in range(20))]
    assert len(api.containers(all=True)) == 1


def test_a_container_does_not_wait_for_ever_and_the_retry_starts_a_new_one(
    tmp_path, ledger, place, told, api, monkeypatch
):
    monkeypatch.setattr(engine_module, "HEARTBEAT", 0.5)
    monkeypatch.setattr("kaizen.adapters.docker_runs.HEARTBEAT", 0.5)
    monkeypatch.setattr(faults, "_seen", {})
    monkeypatch.setenv("KAIZEN_FAULT", "containers.after_start:raise")
    quick = {"patience": timedelta(seconds=1)}
    request = request_of(tmp_path / "1", secret="password")
    with pytest.raises(OSError, match="after_start"):
        bridge.run(request, place, caller_of(ledger, told, attempt=1, **quick))
    (waiting,) = api.containers()
    assert api.wait(waiting, timeout=30)["StatusCode"] == 7
    with pytest.raises(StageFailed, match="KZ725") as thrown:
        bridge.run(request, place, caller_of(ledger, told, attempt=2, **quick))
    assert thrown.value.may_pass
    assert "password" in str(thrown.value)
    bridge.run(request, place, caller_of(ledger, told, attempt=3, **quick))
    assert told.texts == ["the secret is ***"]


def test_a_container_that_cannot_take_its_secrets_says_why_and_is_removed(
    tmp_path, ledger, place, told, docker_engine, api
):
    file = "/usr/lib/python3/dist-packages/kaizen/secret_files.py"
    broken = f"RUN sed -i 's/^    sys.exit(.*/    sys.exit(sys.stdin.buffer.read1(99).decode())/' {file}"
    place = replace(place, image=make_stage_image(docker_engine, [broken]))
    with pytest.raises(StageFailed, match="KZ726") as thrown:
        bridge.run(request_of(tmp_path, secret="password"), place, caller_of(ledger, told))
    assert thrown.value.may_pass
    assert '{"password": "***"}' in str(thrown.value)
    assert_clean(error=str(thrown.value), ledger=dump(tmp_path / "ledger.db"))
    assert api.containers(all=True) == []
    (event,) = ledger.events("a/loop", kind="ContainerRun")
    assert event.payload["cause"] == "KZ726"


FAULTS = {
    "the command is not made": [("POST .*/containers/.*/exec", "hang")],
    "the answer to its making is lost": [("POST .*/containers/.*/exec", "lose")],
    "the answer to its start is lost": [("POST .*/exec/.*/start", "lose")],
    "its start hangs": [("POST .*/exec/.*/start", "hang")],
    "its start is cut": [("POST .*/exec/.*/start", "cut:10")],
    "what came of it is lost": [("GET .*/exec/.*/json", "lose")],
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_on_the_way_of_a_secret_changes_nothing(
    tmp_path, ledger, place, told, docker_engine, api, monkeypatch, name
):
    monkeypatch.setattr(engine_module, "CALL_TIMEOUT", 2.0)
    with FaultySocket(docker_engine.host) as between:
        between.faults = list(FAULTS[name])
        caller = caller_of(ledger, told)
        bridge.run(request_of(tmp_path, secret="password"), replace(place, engine=between.host), caller)
        assert between.faults == []
    assert told.texts == ["the secret is ***"]
    assert len(api.containers(all=True)) == 1


def test_a_secret_passes_through_the_stacks_proxy(tmp_path, ledger, place, told, docker_engine, api):
    with proxy_of(docker_engine.host.removeprefix("unix://")) as (address, _):
        outputs = bridge.run(
            request_of(tmp_path, secret="password"), replace(place, engine=f"tcp://{address}"), caller_of(ledger, told)
        )
    assert outputs["parameters"]["password"] == "***"


@pytest.mark.skipif(not shutil.which("openssl"), reason="certificates are made by openssl, which is not on PATH")
def test_a_secret_passes_over_tls(tmp_path, ledger, place, told, docker_engine, api, monkeypatch):
    for bundle in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        # They outrank the engine's own authority.
        monkeypatch.delenv(bundle, raising=False)
    with tls_before(docker_engine.host.removeprefix("unix://"), tmp_path) as port:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://localhost:{port}")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
        request = request_of(tmp_path, secret="password")
        outputs = bridge.run(request, replace(place, engine=""), caller_of(ledger, told))
    assert outputs["parameters"]["password"] == "***"


@contextmanager
def tls_before(engine, folder):
    """The port of a TLS server with certificates in ``folder``, as Docker names them, before a Unix socket."""
    subject = ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", *subject, *files], check=True, capture_output=True
    )
    (folder / "ca.pem").write_text((folder / "cert.pem").read_text())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, context, engine), daemon=True).start()
        yield listener.getsockname()[1]


def _accept(listener, context, engine):
    with suppress(OSError):
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=_join, args=(plain, context, engine), daemon=True).start()


def _join(plain, context, engine):
    with (
        suppress(OSError),
        context.wrap_socket(plain, server_side=True) as client,
        socket.socket(socket.AF_UNIX) as inner,
    ):
        inner.connect(engine)
        threading.Thread(target=_copy, args=(inner, client), daemon=True).start()
        _copy(client, inner)


def _copy(source, target):
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
