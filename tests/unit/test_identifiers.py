"""What identifiers of people look like: examples from the standards, each with one that is almost the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizen.identifiers import KINDS, holds_one, luhn, read, verhoeff


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("e-mail", "anna.rossi+kaizen@mail.example.org", "anna.rossi@mail.example.4"),
        ("e-mail", "o'neil@uni.edu", "getty@tty1.service"),
        ("phone", "+1 (212) 555-0123", "+1 (112) 555-0123"),
        ("phone", "212-555-0123", "212-155-0123"),
        ("phone", "+39 347 1234567", "+39 347"),
        ("phone", "+49 (0)171 1234567", "+00 171 1234567"),
        ("phone", "06 12 34 56 78", "96 12 34 56 78"),
        ("phone", "020 7946 0958", "320 7946 0958"),
        ("phone", "(11) 91234-5678", "(01) 91234-5678"),
        ("phone", "0044 20 7946 0958", "0044 20"),
        ("card", "4111 1111 1111 1111", "4111 1111 1111 1112"),
        ("card", "378282246310005", "388282246310005"),
        ("card", "3782-822463-10005", "3782-822463-10006"),
        ("IBAN", "DE89 3704 0044 0532 0130 00", "DE88 3704 0044 0532 0130 00"),
        ("IBAN", "GB82WEST12345698765432", "GB82WEST1234569876543"),
        ("IPv4", "151.12.7.30", "151.12.7.300"),
        ("IPv4", "8.8.8.8", "192.168.0.1"),
        ("IPv6", "2a02:8109:9440::7", "00:11:22:33:44:55:66:77"),
        ("US social security number", "123-45-6789", "666-45-6789"),
        ("codice fiscale", "RSSMRA85T10A562S", "RSSMRA85T10A562T"),
        ("DNI or NIE", "12345678Z", "12345678A"),
        ("DNI or NIE", "X1234567L", "X1234567M"),
        ("NIR", "2 55 08 14 168 025 38", "2 55 08 14 168 025 39"),
        ("BSN", "111222333", "111222334"),
        ("CPF", "529.982.247-25", "529.982.247-26"),
        ("Aadhaar", "2341 2341 2346", "2341 2341 2347"),
    ],
)
def test_one_that_is_and_one_that_is_not(kind: str, right: str, wrong: str) -> None:
    assert read(right).get(kind) == "holds"
    assert read(f"  {right}\n").get(kind) == "holds"
    assert read(wrong).get(kind) != "holds"


def test_digits_that_only_a_name_gives_a_meaning_are_bare() -> None:
    assert read("2125550123") == {"phone": "bare"}
    assert read("123456789")["US social security number"] == "bare"


@pytest.mark.parametrize("digits", ["79927398713", "4539578763621486"])
def test_luhn(digits: str) -> None:
    assert luhn(digits)
    assert not luhn(digits[:-1] + str((int(digits[-1]) + 1) % 10))


def test_verhoeff_finds_every_wrong_digit_and_every_swap_of_neighbours() -> None:
    assert verhoeff("2363")
    number = "234123412346"
    for place, digit in enumerate(number):
        for other in set("0123456789") - {digit}:
            assert not verhoeff(number[:place] + other + number[place + 1 :])
        swapped = number[:place] + number[place : place + 2][::-1] + number[place + 2 :]
        assert swapped == number or not verhoeff(swapped)


@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    assert set(read(text)) <= {kind.name for kind in KINDS}
    holds_one(text)


@given(st.from_regex("|".join(f"(?:{kind.form.pattern.replace('(?i:', '(?:')})" for kind in KINDS[:1]), fullmatch=True))
def test_what_has_a_form_can_be_read(text: str) -> None:
    assert "e-mail" in read(text) or len(text.strip()) > 254


@pytest.mark.parametrize(
    "text",
    [
        "invalid value 'anna.rossi@example.org'",
        "4111 1111 1111 1111 was refused",
        "id=DE89370400440532013000;",
        "DE89 3704 0044 0532 0130 00 of Anna",
        "call +39 347 1234567",
    ],
)
def test_identifiers_inside_a_text_are_found(text: str) -> None:
    assert holds_one(text)


@pytest.mark.parametrize("text", ["", "yesterday", "2013-01-01 10:00", "row 12 of 4000", "N14228", "1.2.3"])
def test_plain_texts_hold_none(text: str) -> None:
    assert not holds_one(text)
