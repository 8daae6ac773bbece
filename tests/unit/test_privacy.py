"""Policies, what messages may show, and the key: whose it is and what happens to it."""

from __future__ import annotations

import io
import subprocess
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizen.errors import DataRefused, UsageError
from kaizen.privacy import HIDDEN, Policy, parse_policies, parser_message, refuse_misspelt, shape, show
from kaizen.private_key import FILE, find_key, fingerprint


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        ("drop", Policy("drop")),
        ("hash", Policy("hash")),
        ({"truncate": 3}, Policy("truncate", 3)),
        ({"truncate": "month"}, Policy("truncate", "month")),
        ({"generalise": 10}, Policy("generalise", 10)),
        ({"generalise": 0.5}, Policy("generalise", 0.5)),
        ({"generalise": [0, 18, 65]}, Policy("generalise", (0, 18, 65))),
    ],
)
def test_policies(written: Any, policy: Policy) -> None:
    assert parse_policies({"c": written}) == {"c": policy}


@pytest.mark.parametrize(
    "written",
    [
        *("keep", "", None, True, 3, [], ["hash"], {}, {"hash": 1}, {"truncate": 3, "generalise": 3}),
        *({"truncate": w} for w in (0, -1, True, 2.5, "hour", None, [3])),
        *({"generalise": w} for w in (0, -5, True, "10", None, [], [3, 3], [3, 1], [1, "x"], [0, float("inf")])),
        {"generalise": float("nan")},
    ],
)
def test_what_is_no_policy(written: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- the spec says what is wrong
        parse_policies({"c": written})


def test_a_private_column_under_another_spelling_is_refused() -> None:
    for came in ("Email", "e-mail", "E_MAIL", " email"):
        with pytest.raises(DataRefused, match="KZ415") as thrown:
            refuse_misspelt({"email": "hash"}, ["id", came], "orders.csv")
        assert came.strip() in str(thrown.value)
    refuse_misspelt({"email": "hash"}, ["id", "email", "Email"], "orders.csv")
    refuse_misspelt({"email": "hash"}, ["id", "mail"], "orders.csv")


# What a message may show.


def test_values_are_shown_only_where_nothing_is_private() -> None:
    assert show("yesterday", "departs") == "yesterday"
    assert show("x" * 100) == "x" * 40
    assert show(5, "departs") == "5"
    assert show("anna", "name", {"name": "hash"}) == HIDDEN
    # What is refused may have slipped into another column.
    assert show("Anna Rossi 7", "departs", {"name": "hash"}) == "aaaa aaaaa 9"
    assert show("anna.rossi@example.org", "departs") == "aaaa.aaaaa@aaaaaaa.aaa"
    assert show("4111 1111 1111 1111", "departs") == "9999 9999 9999 9999"


@given(st.text(), st.text())
def test_a_shape_has_no_letter_and_no_digit_of_the_text(text: str, other: str) -> None:
    assert set(shape(text)) - set("a9?") <= {c for c in text if c.isascii() and not c.isalnum()}
    assert len(shape(text)) == min(40, len(text))


EMAIL = "anna.rossi@example.org"


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (
            lambda: pa.csv.read_csv(io.BytesIO(f"a,b\n1,2\n{EMAIL},x,y\n".encode())),
            "ArrowInvalid: CSV parse error, Expected 2 columns, got 3",
        ),
        (
            lambda: pa.csv.read_csv(
                io.BytesIO(f"a,b\n{EMAIL},2\n".encode()),
                convert_options=pa.csv.ConvertOptions(column_types={"a": pa.int64()}),
            ),
            "ArrowInvalid: column #0, conversion error to int64",
        ),
        (
            lambda: pa.json.read_json(io.BytesIO(f'{{"a": "{EMAIL}" "b": 1}}\n'.encode())),
            "ArrowInvalid: JSON parse error, Missing a comma or , row 0",
        ),
        (lambda: pa.array([EMAIL]).cast(pa.timestamp("us")), "ArrowInvalid"),
        (lambda: int(EMAIL), "ValueError"),
        (lambda: EMAIL.encode("utf-16").decode(), "UnicodeDecodeError: byte 0, position 0"),
    ],
)
def test_what_a_parser_says_is_told_without_the_row(read: Any, said: str) -> None:
    with pytest.raises((ValueError, pa.ArrowException)) as thrown:
        read()
    assert parser_message(thrown.value).startswith(said)
    assert "anna" not in parser_message(thrown.value)


@given(st.text(min_size=6, alphabet=st.characters(categories=["L"])))
def test_no_word_of_a_row_is_told(word: str) -> None:
    told = parser_message(ValueError(f"CSV parse error: Row #3: Expected 3 columns, got 4: x,{word},y"))
    assert told.casefold() == "valueerror: csv parse error, row #3, expected 3 columns, got 4"


# The key.


def test_without_a_name_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    home = tmp_path / "loops" / "rail"
    key = find_key("", home, {}, {})
    assert len(key) == 64
    assert find_key("", home, {}, {}) == key
    assert {path.name: f"{path.stat().st_mode:o}" for path in home.iterdir()} == {
        FILE: "100600",
        ".gitignore": "100644",
    }
    assert find_key("", tmp_path / "other", {}, {}) != key


def test_of_several_that_make_a_key_at_once_all_have_the_same(tmp_path: Path) -> None:
    start, found = threading.Barrier(8), []

    def make() -> None:
        start.wait()
        found.append(find_key("", tmp_path, {}, {}))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {FILE, ".gitignore"}


def test_a_key_that_was_made_is_not_added_to_git(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    find_key("", tmp_path / ".kaizen" / "loops" / "rail", {}, {})
    subprocess.run(["git", "-C", str(tmp_path), "add", "."], check=True)
    added = subprocess.run(["git", "-C", str(tmp_path), "ls-files"], check=True, capture_output=True, text=True)
    assert added.stdout.split() == [".kaizen/loops/rail/.gitignore"]


def test_a_key_by_name_is_a_secret_and_none_is_made(tmp_path: Path) -> None:
    value = "0123456789abcdef"
    assert find_key("pii", tmp_path, {"pii": value}, {}) == value.encode()
    assert find_key("pii", tmp_path, {}, {"KAIZEN_SECRET_PII": f" {value}\n"}) == value.encode()
    with pytest.raises(UsageError, match="KZ260") as thrown:
        find_key("pii", tmp_path, {}, {})
    assert "data.private_key: pii" in str(thrown.value)
    assert list(tmp_path.iterdir()) == []


def test_the_made_key_can_become_the_secret(tmp_path: Path) -> None:
    made = find_key("", tmp_path, {}, {})
    variables = {"KAIZEN_SECRET_PII_FILE": str(tmp_path / FILE)}
    assert find_key("pii", tmp_path, {}, variables) == made


def test_a_short_key_is_refused_without_being_shown(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="KZ262") as thrown:
        find_key("pii", tmp_path, {"pii": "open sesame"}, {})
    assert "sesame" not in str(thrown.value)


@pytest.mark.parametrize(
    "spoil", [lambda p: p.chmod(0o644), lambda p: p.write_text("x"), lambda p: p.write_bytes(b"\xff" * 64)]
)
def test_a_key_that_others_can_read_or_that_is_damaged_is_refused(tmp_path: Path, spoil: Any) -> None:
    find_key("", tmp_path, {}, {})
    spoil(tmp_path / FILE)
    with pytest.raises(UsageError, match="KZ263"):
        find_key("", tmp_path, {}, {})


def test_a_fingerprint_tells_keys_apart_and_is_no_part_of_them() -> None:
    key = b"0123456789abcdef"
    assert len(fingerprint(key)) == 8
    assert fingerprint(key) != fingerprint(b"0123456789abcdeg")
