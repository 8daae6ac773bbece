"""The rules of containers: pure functions of plain values."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizen.adapters.docker_engine import _regular_files
from kaizen.containers import (
    GpuWish,
    LogLine,
    Mark,
    Owner,
    clean_line,
    format_size,
    gpu_settings,
    host_config,
    parse_gpus,
    parse_size,
    user_ids,
    why_ended,
    work_name,
)
from kaizen.spec import PlaceSpec

TASK = Owner("airflow:dag/run/task/-1", base=1, attempt=3, supersedes=True)
PLACE = PlaceSpec(mode="docker", image="train", memory="2g")


@pytest.mark.parametrize(
    ("holder", "may"),
    [
        (replace(TASK, attempt=2), True),
        (TASK, True),
        (replace(TASK, attempt=4), False),
        (replace(TASK, base=0, attempt=9), True),
        (replace(TASK, base=2, attempt=1), False),
        (replace(TASK, name="airflow:dag/run/task/-10"), False),
    ],
)
def test_a_later_attempt_takes_over_and_an_earlier_one_never_does(holder, may):
    assert TASK.may_take_over(holder.holder) is may
    assert not replace(TASK, supersedes=False).may_take_over(holder.holder)


def test_strange_holders_are_left_alone():
    for holder in (
        "",
        "reconcile",
        "airflow:dag/run/task/-1",
        "airflow:dag/run/task/-1#x.1",
        "airflow:dag/run/task/-1#1",
    ):
        assert not TASK.may_take_over(holder)


def test_a_name_changes_with_owner_base_and_work_and_with_nothing_else():
    name = work_name(TASK, "work")
    assert work_name(replace(TASK, attempt=9, patience=timedelta(hours=1)), "work") == name
    others = {
        work_name(replace(TASK, base=2), "work"),
        work_name(replace(TASK, name="x"), "work"),
        work_name(TASK, "w"),
    }
    assert len(others | {name}) == 4


@pytest.mark.parametrize(
    ("text", "size"),
    [("512m", 512 << 20), ("8g", 8 << 30), ("1.5g", 3 << 29), ("100", 100), ("1k", 1024), ("2t", 2 << 40)],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0m", "8gb", "8GiB", "8 g", "-1", "1e9", "g", "1.2345g", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match=r".*"):
        parse_size(text)


@given(st.integers(1, 1 << 50))
def test_a_size_for_people_is_read_as_about_the_same(size):
    assert parse_size(format_size(size)) == pytest.approx(size, rel=1e-3, abs=1)


def test_users_are_numbers():
    assert user_ids("1000:100") == (1000, 100)
    assert user_ids("1000") == (1000, 1000)
    with pytest.raises(ValueError, match="app"):
        user_ids("app")


def test_every_wall_stands_unless_it_is_opened_by_name():
    config = host_config(PLACE, "volume")
    assert config == {
        "NetworkMode": "none",
        "IpcMode": "private",
        "ShmSize": 64 << 20,
        "Tmpfs": {"/tmp": "rw,nosuid,nodev,mode=1777,size=1073741824"},
        "Mounts": [{"Type": "volume", "Source": "volume", "Target": "/kaizen"}],
        "LogConfig": {"Type": "json-file", "Config": {}},
        "RestartPolicy": {"Name": "no"},
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": True,
        "PidsLimit": 512,
        "Memory": 2 << 30,
        "MemorySwap": 2 << 30,
        "NanoCpus": 2_000_000_000,
        "Init": True,
    }
    walls = {
        "capabilities": {"CapDrop"},
        "privileges": {"SecurityOpt"},
        "root": {"ReadonlyRootfs"},
        "pids": {"PidsLimit"},
        "memory": {"Memory", "MemorySwap"},
        "cpu": {"NanoCpus"},
        "init": {"Init"},
    }
    for wall, keys in walls.items():
        assert config.keys() - host_config(replace(PLACE, opened=(wall,)), "volume").keys() == keys


def test_secrets_have_a_memory_of_their_own_and_only_where_there_are_some():
    tmpfs = host_config(replace(PLACE, secrets=("password", "token"), user="1000:100"), "volume")["Tmpfs"]
    assert tmpfs.pop("/run/kaizen") == "rw,noexec,nosuid,nodev,mode=0700,uid=1000,gid=100,size=393216"
    assert tmpfs == host_config(PLACE, "volume")["Tmpfs"]


@pytest.mark.parametrize(
    ("state", "code", "passes"),
    [
        ({"ExitCode": 137, "OOMKilled": True}, "KZ702", False),
        ({"ExitCode": 0, "OOMKilled": True}, "KZ702", False),
        ({"ExitCode": 137, "OOMKilled": False}, "KZ707", True),
        ({"ExitCode": 143}, "KZ707", True),
        ({"ExitCode": 127}, "KZ708", False),
        ({"ExitCode": 126}, "KZ708", False),
        ({"ExitCode": 28}, "KZ710", True),
        ({"ExitCode": 1}, "KZ703", True),
        ({"ExitCode": 0}, "KZ703", True),
        ({}, "KZ703", True),
    ],
)
def test_the_end_of_a_container_without_a_result_has_a_cause(state, code, passes):
    error = why_ended(state, "2g", "train", name="kaizen-1", peak=3 << 29, tail=["last words"])
    assert (error.code, error.may_pass) == (code, passes)
    if code == "KZ702":
        assert "limit 2g, 1.5g seen at most" in str(error)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain", "plain"),
        ("tab\tstays", "tab\tstays"),
        ("10%\r50%\r100%\r\n", "100%"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("one\x00two", "one\\x00two"),
        ("safe\u202etxt.exe", "safe\\u202etxt.exe"),
        ("two\u2028lines", "two\\u2028lines"),
        ("ä€😀", "ä€😀"),
    ],
)
def test_a_line_is_made_harmless(raw, shown):
    assert clean_line(raw) == shown


@given(st.text())
def test_no_line_can_forge_another(text):
    shown = clean_line(text)
    assert shown.isprintable() or "\t" in shown or any(not c.isprintable() and c not in "\r\n\x1b\x9b" for c in shown)
    assert len(shown.splitlines()) <= 1


def test_a_mark_counts_the_lines_of_one_moment():
    mark = Mark()
    for at, expected in (("1", ("1", 1)), ("1", ("1", 2)), ("2", ("2", 1))):
        mark = mark.after(LogLine(at, False, ""))
        assert mark == expected


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        (0, GpuWish(0)),
        (2, GpuWish(2)),
        ("all", GpuWish(None)),
        ([0, 1], GpuWish(0, ("0", "1"))),
        (["GPU-8a56a4bc-e184-a047-2620-be19fdf913d5"], GpuWish(0, ("GPU-8a56a4bc-e184-a047-2620-be19fdf913d5",))),
    ],
)
def test_wishes_for_gpus_are_read(wish, found):
    assert parse_gpus(wish) == found
    assert bool(found) is (wish != 0)


@pytest.mark.parametrize("wish", [-1, True, "two", "", [], [0, 0], ["; rm"], [None], None, 1.5, {"count": 1}])
def test_what_is_no_wish_for_gpus_is_refused(wish):
    with pytest.raises(ValueError, match=r".*"):
        parse_gpus(wish)


def test_no_gpus_means_none_even_for_an_image_that_takes_all():
    assert gpu_settings((), runtime=True) == ({}, ["NVIDIA_VISIBLE_DEVICES=void"])
    assert gpu_settings(("GPU-1",), runtime=True)[0] == {"Runtime": "nvidia"}
    (request,) = gpu_settings(("GPU-1", "GPU-2"), runtime=False)[0]["DeviceRequests"]
    assert request == {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=GPU-2"]}


def frame(stream, text):
    data = text.encode()
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def test_frames_are_read_as_lines_also_when_parts_of_long_ones_are_mixed():
    pytest.importorskip("docker", reason="the adapter needs the Docker SDK: pip install 'kaizen-mlops[docker]'")
    from kaizen.adapters.docker_engine import read_frames, read_lines

    data = frame(1, "1 long ") + frame(2, "2 error\n") + frame(1, "3 line\n") + frame(1, "4 end")
    found = list(read_frames([data], ended=True))
    assert found == [LogLine("2", True, "error"), LogLine("3", False, "long line"), LogLine("4", False, "end")]
    assert list(read_frames([data[n : n + 3] for n in range(0, len(data), 3)], ended=True)) == found
    # Cut anywhere while the process runs, it tells no part of a line.
    for end in range(len(data) + 1):
        told = list(read_frames([data[:end]], ended=False))
        assert told == found[: len(told)]
        assert len(told) < 3
    lines = b"1 one\r\n2 two"
    assert list(read_lines([lines], ended=False)) == [LogLine("1", False, "one")]
    assert list(read_lines([lines], ended=True))[1:] == [LogLine("2", False, "two")]


@pytest.mark.parametrize("tty", [False, True])
def test_of_an_endless_line_only_so_much_is_kept(tty):
    pytest.importorskip("docker", reason="the adapter needs the Docker SDK: pip install 'kaizen-mlops[docker]'")
    from kaizen.adapters.docker_engine import read_frames, read_lines

    def pieces(text="x" * (1 << 20)):
        yield b"1 " if tty else b""
        for _ in range(32):
            yield text.encode() if tty else frame(1, f"1 {text}")
        yield b"\n" if tty else frame(1, "2 end\n")

    tracemalloc.start()
    try:
        (line,) = (read_lines if tty else read_frames)(pieces(), ended=True)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert line.text.endswith("more characters)")
    assert most < 20 << 20


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "model/../../up"])
def test_a_file_of_an_archive_that_leads_out_of_it_is_refused(name):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model/weights"))
        archive.addfile(tarfile.TarInfo(name))
    packed.seek(0)
    found = _regular_files(packed, "/kaizen/model", 1024)
    assert next(found)[0] == "model/weights"
    with pytest.raises(ValueError, match="leads out of it"):
        next(found)
