"""Secrets: where they are looked for, what is refused without being shown, and how they are masked."""

from __future__ import annotations

import io
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizen.errors import UsageError
from kaizen.secret_files import CUT_OFF, await_secrets, packed, receive
from kaizen.secrets import LONGEST, Secrets, find_secrets, is_name

AWKWARD = 'p"a\\ss/w ö\trd'


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("password", True),
        ("s3_key", True),
        ("file", True),
        ("file_name", True),
        ("token_file", False),
        ("Password", False),
        ("3key", False),
        ("_key", False),
        ("key-id", False),
        ("../x", False),
        ("", False),
        ("ö", False),
        ("x" * 64, False),
    ],
)
def test_names(name: str, fits: bool) -> None:
    assert is_name(name) is fits


def test_what_is_given_outranks_a_variable_which_outranks_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from a file\n")
    variables = {"KAIZEN_SECRET_TOKEN_FILE": str(tmp_path / "token")}
    assert find_secrets(["token"], {}, variables).values == {"token": "from a file"}
    variables["KAIZEN_SECRET_TOKEN"] = "from a variable"
    assert find_secrets(["token"], {}, variables).values == {"token": "from a variable"}
    assert find_secrets(["token"], {"token": "given to it"}, variables).values == {"token": "given to it"}
    assert find_secrets([], {"token": "given to it"}, variables).values == {}


def test_what_is_missing_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="KZ260") as thrown:
        find_secrets(["token"], {"other": "value"}, {})
    assert "KAIZEN_SECRET_TOKEN_FILE" in str(thrown.value)
    (tmp_path / "token").write_bytes(b"\xff\xfe secret")
    with pytest.raises(UsageError, match="KZ260") as thrown:
        find_secrets(["token"], {}, {"KAIZEN_SECRET_TOKEN_FILE": str(tmp_path / "token")})
    assert str(tmp_path / "token") in str(thrown.value)
    assert "not UTF-8" in str(thrown.value)


@pytest.mark.parametrize(
    "value", ["", "s3cr!", " " * 20, "     ab     ", "x" * (LONGEST + 1), "ö" * LONGEST, "secret\udcff"]
)
def test_what_cannot_be_masked_or_is_too_long_is_refused_without_its_value(value: str) -> None:
    with pytest.raises(UsageError, match="KZ261") as thrown:
        find_secrets(["token"], {"token": value}, {})
    assert f"{len(value.encode(errors='replace'))} bytes" in str(thrown.value)
    assert not value.strip() or value not in str(thrown.value)


def test_values_are_in_no_repr() -> None:
    assert "hunter22" not in repr(Secrets({"token": "hunter22"}))


@pytest.mark.parametrize(
    "shown",
    [
        AWKWARD,
        repr(AWKWARD),
        json.dumps(AWKWARD),
        json.dumps(AWKWARD, ensure_ascii=False),
        f"https://user:{quote(AWKWARD, safe='')}@host/",
        json.dumps({"nested": json.dumps("x") + "a" * 9000 + AWKWARD}),
    ],
)
def test_a_value_is_masked_as_programs_write_it(shown: str) -> None:
    masked = Secrets({"password": AWKWARD}).mask(shown)
    assert "***" in masked
    assert "ss/w" not in masked
    assert "ss%2Fw" not in masked


def test_of_a_value_of_several_lines_each_is_masked() -> None:
    key = "-----BEGIN KEY-----\n  MIIEpAIBAAKCAQEA\n==\n-----END KEY-----\n"
    secrets = Secrets({"key": key})
    assert secrets.mask(f"the key is {key}.") == "the key is ***."
    assert [secrets.mask(line) for line in key.splitlines()] == ["***", "  ***", "==", "***"]


def test_of_values_that_hold_each_other_the_longer_is_masked_as_a_whole() -> None:
    secrets = Secrets({"short": "abcdef", "long": "abcdefghij", "inner": "cdefgh"})
    assert secrets.mask("abcdefghij abcdefg") == "*** ***g"


def test_without_secrets_nothing_is_changed() -> None:
    value = {"a": ["", 1.5, None, True]}
    assert Secrets().mask("text") == "text"
    assert Secrets().mask_all(value) == value


def test_every_text_of_a_value_is_masked() -> None:
    secrets = Secrets({"token": "hunter22"})
    value = {"hunter22": ["x hunter22", {"a": ("hunter22", 1, None)}]}
    assert secrets.mask_all(value) == {"***": ["x ***", {"a": ["***", 1, None]}]}


# A mask is made of asterisks, and beside others it may look like a value of them.
VALUES = st.text(min_size=6, max_size=40).filter(lambda text: len(text.strip()) >= 6 and "*" not in text)


@given(VALUES, st.text(), st.text())
def test_no_text_shows_a_value(value: str, before: str, after: str) -> None:
    assert value not in Secrets({"x": value}).mask(before + value + after)


SECRETS = Secrets({"password": AWKWARD, "key": "line 1\nline 2\n"})


def test_what_is_packed_arrives_as_files_that_only_their_owner_can_read(tmp_path: Path, monkeypatch) -> None:
    # Behind it may come whatever: a connection is not closed.
    assert receive(tmp_path, io.BytesIO(packed(SECRETS) + b"more")) == 0
    assert {path.name: f"{path.stat().st_mode:o}" for path in tmp_path.iterdir()} == {
        "password": "100400",
        "key": "100400",
    }
    monkeypatch.setenv("KAIZEN_SECRETS", str(tmp_path))
    assert await_secrets(("password", "key"), 0.0).values == SECRETS.values
    # Given again, and with another value.
    assert receive(tmp_path, io.BytesIO(packed(Secrets({"password": "another one"})))) == 0
    assert await_secrets(("password",), 0.0).values == {"password": "another one"}


def test_what_is_cut_off_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    whole = packed(SECRETS)
    for length in range(len(whole)):
        assert receive(tmp_path, io.BytesIO(whole[:length])) == CUT_OFF
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_waited_for_where_no_secret_is_named(monkeypatch) -> None:
    monkeypatch.delenv("KAIZEN_SECRETS", raising=False)
    assert await_secrets((), 0.0).values == {}
