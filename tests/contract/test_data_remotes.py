"""A bucket as the remote: the same promises as a folder's, on a real S3 server."""

from __future__ import annotations

import json
import os
import sys
import uuid
from datetime import UTC, datetime

import dvc.api
import pytest
from tests.data_bench import FLIGHTS, WEATHER, Bench
from tests.services import s3_server

from kaizen.adapters.data_places import Content, Folder, ObjectStore, open_place
from kaizen.adapters.dvc_repository import DvcRepository
from kaizen.canonical import file_digests
from kaizen.errors import DataRefused, IntegrityError, MissingDependency
from kaizen.ports import NewFile

SECRET = "canary-5f1c"


@pytest.fixture(scope="module")
def server():
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(server, monkeypatch):
    """A new bucket, and the standard variables that lead to it."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"lake-{uuid.uuid4().hex[:8]}"
    s3(name).mkdir(name)
    return name


def s3(bucket):
    return ObjectStore("remote", f"s3://{bucket}")._s3


@pytest.fixture
def lake(bench, bucket):
    """The bench with the bucket as its remote."""
    bench.url = f"s3://{bucket}/flights"
    bench.repository = DvcRepository(bench.root, bench.url, bench.store)
    return bench


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path):
    """Each kind of place, empty."""
    if request.param == "folder":
        return open_place("remote", tmp_path / "remote")
    return open_place("remote", f"s3://{request.getfixturevalue('bucket')}/a/b")


def content_of(path):
    size, digests = file_digests(path, "md5", "sha256")
    return Content(digests["md5"], size, digests["sha256"])


@pytest.mark.parametrize("data", [b"", b"april", os.urandom(9_000_001)], ids=["empty", "small", "large"])
def test_what_is_put_is_there_whole_and_can_be_fetched(place, tmp_path, data):
    source = tmp_path / "source"
    source.write_bytes(data)
    content = content_of(source)
    assert (place.problem(content), place.has(content)) == ("gone", False)
    assert place.fetch(content, tmp_path / "fetched") is False
    place.probe()
    place.put(content, source)
    place.put(content, source)
    assert (place.problem(content), place.has(content)) == ("", True)
    assert [(md5, size) for md5, size, _ in place.objects()] == [(content.md5, len(data))]
    assert place.fetch(content, tmp_path / "fetched") is True
    assert (tmp_path / "fetched").read_bytes() == data


def damage(place, content, data):
    if isinstance(place, Folder):
        path = place.path(content)
        path.chmod(0o644)
        path.write_bytes(data)
        path.chmod(0o444)
    else:
        place._s3.pipe_file(f"{place._base}/{content.key}", data)


@pytest.mark.parametrize("data", [b"", b"apr", b"apriL"])
def test_what_is_damaged_there_is_told_not_fetched_and_replaced(place, tmp_path, data):
    source = tmp_path / "source"
    source.write_bytes(b"april")
    content = content_of(source)
    place.put(content, source)
    damage(place, content, data)
    assert place.problem(content)
    assert place.fetch(content, tmp_path / "fetched") is False
    assert not (tmp_path / "fetched").exists()
    place.put(content, source)
    assert place.problem(content) == ""


@pytest.mark.parametrize("before", [b"", bytes(9_000_000)], ids=["small", "large"])
def test_a_source_that_changed_is_not_taken(place, tmp_path, before):
    source = tmp_path / "source"
    source.write_bytes(before + b"april")
    content = content_of(source)
    source.write_bytes(before + b"apriL")
    with pytest.raises(IntegrityError) as refusal:
        place.put(content, source)
    assert refusal.value.code == "KZ642"


def test_an_object_sent_in_parts_is_checked_by_the_digests_of_its_parts(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("kaizen.adapters.data_places._PART", 5 << 20)
    place = open_place("remote", f"s3://{bucket}/parts")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(16 << 20))
    content = content_of(source)
    monkeypatch.setattr(place, "problem", lambda *_: pytest.fail("read again"))
    place.put(content, source)
    assert place._facts(content)["ETag"].strip('"').endswith("-4")


def test_a_bucket_holds_what_dvc_looks_for(lake, bucket, server):
    pointer = lake.commit(FLIGHTS, b"april")
    assert s3(bucket).find(bucket) == [f"{bucket}/flights/files/md5/{pointer.md5[:2]}/{pointer.md5[2:]}"]
    config = (lake.root / ".dvc" / "config").read_text()
    assert f"url = {lake.url}" in config
    assert f"endpointurl = {server}" in config
    assert SECRET not in config
    assert lake.git("status", "--porcelain") == ""
    assert lake.repository.verify(print) == []


def test_people_read_a_bucket_with_plain_dvc(lake, bucket, server, tmp_path, monkeypatch):
    pointers = [lake.commit(FLIGHTS, content) for content in (b"april", b"april and more")]
    lake.commit(WEATHER, b"rain")
    clone = tmp_path / "clone"
    lake.git("clone", "--quiet", str(lake.root), str(clone))
    lake.dvc("fetch", "--quiet", root=clone)
    assert lake.dvc("status", "--cloud", root=clone) == "Cache and remote 'store' are in sync."
    lake.dvc("pull", "--quiet", root=clone)
    assert [(clone / path).read_bytes() for path in (FLIGHTS, WEATHER)] == [b"april and more", b"rain"]
    changes = json.loads(lake.dvc("diff", "--json", pointers[0].commit, pointers[1].commit, root=clone))
    assert [entry["path"] for entry in changes["modified"]] == [FLIGHTS]
    # What the clone has not fetched comes from the bucket, where the name of its endpoint leads.
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    for pointer, content in zip(pointers, (b"april", b"april and more"), strict=True):
        with dvc.api.open(FLIGHTS, repo=str(clone), rev=pointer.commit, mode="rb") as stream:
            assert stream.read() == content


def test_people_who_reach_the_bucket_by_another_endpoint_say_so_in_their_clone(lake, server, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    lake.repository.open()
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    lake.commit(FLIGHTS, b"april")
    clone = tmp_path / "clone"
    lake.git("clone", "--quiet", str(lake.root), str(clone))
    assert "endpointurl = http://127.0.0.1:9" in (clone / ".dvc" / "config").read_text()
    lake.dvc("remote", "modify", "--local", "store", "endpointurl", server, root=clone)
    lake.dvc("pull", "--quiet", root=clone)
    assert (clone / FLIGHTS).read_bytes() == b"april"
    assert lake.git("status", "--porcelain", root=clone) == ""


def test_what_is_damaged_in_the_bucket_is_pulled_when_it_is_mended(lake, tmp_path):
    pointer = lake.commit(FLIGHTS, b"april")
    damage(lake.repository.remote, Content(pointer.md5, pointer.size), b"apriL")
    clone = tmp_path / "clone"
    lake.git("clone", "--quiet", str(lake.root), str(clone))
    assert lake.run_dvc("pull", root=clone).returncode
    assert not (clone / FLIGHTS).exists()
    lake.repository.verify(print, repair=True)
    lake.dvc("pull", "--quiet", root=clone)
    assert (clone / FLIGHTS).read_bytes() == b"april"


def test_a_bit_flipped_in_the_bucket_is_found_and_repaired(lake):
    pointer = lake.commit(FLIGHTS, b"april")
    content = Content(pointer.md5, pointer.size)
    damage(lake.repository.remote, content, b"apriL")
    (wrong,) = lake.repository.verify(print)
    assert (wrong.path, wrong.commit, wrong.place, wrong.repaired) == (FLIGHTS, pointer.commit, "remote", False)
    assert [w.repaired for w in lake.repository.verify(print, repair=True)] == [True]
    assert lake.repository.verify(print) == []


def refused(url, bench: Bench, code="KZ442"):
    source = bench.source(b"april")
    with pytest.raises(DataRefused) as refusal:
        DvcRepository(bench.root, url, bench.store).commit([NewFile(FLIGHTS, source, "deliver")])
    assert not bench.root.exists()
    assert SECRET not in str(refusal.value)
    assert refusal.value.code == code
    return refusal.value


def test_a_bucket_that_is_not_there_is_refused_before_anything_is_written(bench, bucket):
    error = refused(f"s3://{bucket}-gone/x", bench)
    assert "bucket" in str(error.value).lower()


def test_no_credentials_are_refused(bench, bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert refused(f"s3://{bucket}/x", bench).value == "NoCredentialsError"


def test_without_s3fs_the_extra_is_named(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingDependency) as refusal:
        DvcRepository(bench.root, "s3://bucket/x", bench.store).probe()
    assert refusal.value.action == "pip install 'kaizen-mlops[s3]'"


def test_a_store_that_is_out_of_reach_is_refused(bench, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert refused(f"s3://{bucket}/x", bench).value == "EndpointConnectionError"


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (403, "SignatureDoesNotMatch"), (403, "RequestTimeTooSkewed"), (403, "InvalidAccessKeyId")],
)
def test_what_the_store_refuses_is_refused_by_its_name(bench, bucket, monkeypatch, status, code):
    with refusing_server(status, code) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        error = refused(f"s3://{bucket}/x", bench)
    assert error.value == code
    assert error.where == f"s3://{bucket}/x"


def test_a_store_that_went_away_is_told_by_whoever_reads_it(lake, monkeypatch, tmp_path):
    lake.commit(FLIGHTS, b"april")
    lake.repository.backup(str(tmp_path / "second"), print)
    away = DvcRepository(lake.root, lake.url, lake.store)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for read in (
        lambda: away.verify(print),
        lambda: list(away.reconcile(datetime.now(UTC))),
        lambda: away.restore(str(tmp_path / "second"), print),
        lambda: away.backup(lake.url + "-2", print),
    ):
        with pytest.raises(DataRefused) as refusal:
            read()
        assert (refusal.value.code, refusal.value.value) == ("KZ442", "EndpointConnectionError")
    assert away.checkout("main", tmp_path / "out", print)


@pytest.mark.parametrize(
    "url", ["s3://key:canary-5f1c@bucket/x", "s3:///x", "gs://bucket/x", "s3://bucket/x?secret=canary-5f1c"]
)
def test_another_url_is_refused_without_what_it_says(bench, url):
    refused(url, bench, "KZ449")


def test_two_loops_share_a_bucket_by_prefix(bench, bucket, tmp_path):
    first = DvcRepository(bench.root, f"s3://{bucket}/a", bench.store)
    second = DvcRepository(tmp_path / "other", f"s3://{bucket}/b", bench.store)
    first.commit([NewFile(FLIGHTS, bench.source(b"april"), "x")])
    second.commit([NewFile(WEATHER, bench.source(b"rain"), "x")])
    assert len(list(first.remote.objects())) == len(list(second.remote.objects())) == 1


class refusing_server:  # noqa: N801 - used like a function
    """An S3 server that answers every request with one error; its text holds what must not be shown."""

    def __init__(self, status, code):
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()

        class Refuse(BaseHTTPRequestHandler):
            def answer(self):
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Refuse)

    def __enter__(self):
        from threading import Thread

        self.thread = Thread(target=self.server.serve_forever)
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
