"""Columns that hold identifiers of people, and columns that look as if: made anew from a seed, nobody's values.

``corpus(seed)`` gives two hundred, half of them private. Check digits are computed here by other means than in
``kaizen.identifiers``, which is what the columns test.
"""

from __future__ import annotations

import hashlib
import random
import string
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column; ``kind`` is what it holds of people, "" if nothing."""

    name: str
    kind: str
    what: str
    values: pa.Array


Make = Callable[[random.Random], Callable[[int], str | int | float]]
"""What makes a column's i-th value, after it has chosen what all of them have in common."""


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _grouped(text: str, sizes: tuple[int, ...], mark: str) -> str:
    parts, start = [], 0
    for size in sizes:
        parts.append(text[start : start + size])
        start += size
    return mark.join(parts)


def _completed(start: str, passes: Callable[[str], bool], endings: Iterator[str]) -> str:
    """``start`` with the first ending that a check accepts."""
    return next(start + ending for ending in endings if passes(start + ending))


# Check digits, as their standards are explained to people.


def luhn_sum(text: str) -> int:
    doubled = {0: 0, 1: 2, 2: 4, 3: 6, 4: 8, 5: 1, 6: 3, 7: 5, 8: 7, 9: 9}
    return sum(doubled[int(c)] if i % 2 else int(c) for i, c in enumerate(text[::-1]))


def with_luhn(start: str) -> str:
    return _completed(start, lambda t: luhn_sum(t) % 10 == 0, iter(string.digits))


def with_iban_check(country: str, account: str) -> str:
    number = "".join(str(string.digits.find(c)) if c.isdigit() else str(ord(c) - 55) for c in f"{account}{country}00")
    return f"{country}{98 - int(number) % 97:02d}{account}"


def with_aadhaar_check(start: str) -> str:
    """By the group itself: rotations 0 to 4 and reflections 5 to 9 of a pentagon."""

    def times(a: int, b: int) -> int:
        if a < 5:
            return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
        return 5 + (a - b) % 5 if b < 5 else (a - b) % 5

    def turned(digit: int, count: int) -> int:
        for _ in range(count):
            digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
        return digit

    check = 0
    for place, c in enumerate(start[::-1], 1):
        check = times(check, turned(int(c), place % 8))
    return start + str(next(d for d in range(10) if times(check, d) == 0))


# What is private.


def emails(rng: random.Random) -> Callable[[int], str]:
    hosts = rng.sample(["example.com", "mail.example.org", "post.example.net", "uni.edu", "firma.de", "web.co.uk"], 3)
    firsts, lasts = ("anna", "li", "omar", "zoë"[:2], "jean-luc", "o'neil", "maria"), ("rossi", "wu", "haddad", "smith")
    case = rng.choice([str.lower, str.title])

    def make(i: int) -> str:
        mark, tag = rng.choice(".-_"), f"+{rng.randrange(9)}" if rng.random() < 0.1 else ""
        return f"{case(rng.choice(firsts))}{mark}{case(rng.choice(lasts))}{rng.randrange(999)}{tag}@{rng.choice(hosts)}"

    return make


def _american(rng: random.Random) -> str:
    def code() -> str:
        return next(c for _ in range(99) if not (c := f"{rng.randint(2, 9)}{_digits(rng, 2)}").endswith("11"))

    return code() + code() + _digits(rng, 4)


def phones(rng: random.Random) -> Callable[[int], str]:
    forms = (
        lambda: f"+1{_american(rng)}",
        lambda: "+1 (" + _grouped(_american(rng), (3, 3, 4), ") ").replace(") ", "-", 2).replace("-", ") ", 1),
        lambda: "({}) {}-{}".format(*_grouped(_american(rng), (3, 3, 4), " ").split()),
        lambda: _grouped(_american(rng), (3, 3, 4), rng_mark),
        lambda: f"+39 3{_digits(rng, 2)} {_digits(rng, 7)}",
        lambda: f"+44 20 7{_digits(rng, 3)} {_digits(rng, 4)}",
        lambda: f"+49 (0)171 {_digits(rng, 7)}",
        lambda: f"+33 6 {_grouped(_digits(rng, 8), (2, 2, 2, 2), ' ')}",
        lambda: f"06 {_grouped(_digits(rng, 8), (2, 2, 2, 2), ' ')}",
        lambda: f"(11) 9{_digits(rng, 4)}-{_digits(rng, 4)}",
        lambda: f"0049171{_digits(rng, 7)}",
        lambda: f"+91 9{_digits(rng, 4)} {_digits(rng, 5)}",
    )
    rng_mark = rng.choice("-. ")
    form = rng.choice(forms)
    return lambda i: form()


def remarks(rng: random.Random) -> Callable[[int], str]:
    email = emails(rng)
    return lambda i: f"please write to {email(i)}, thank you" if rng.random() < 0.4 else rng.choice(["ok", "no reply"])


def contacts(rng: random.Random) -> Callable[[int], str]:
    make = emails(rng), phones(rng)
    return lambda i: rng.choice(make)(i)


def local_phones(rng: random.Random) -> Callable[[int], str]:
    """Digits that mean something only under the right name."""
    return lambda i: f"0{rng.randint(1, 9)}{_digits(rng, 9)}"


def cards(rng: random.Random) -> Callable[[int], str | int]:
    mark, whole = rng.choice(["", "", " ", "-"]), rng.random() < 0.3

    def make(i: int) -> str | int:
        if not whole and rng.random() < 0.15:
            plain = with_luhn(rng.choice(["34", "37"]) + _digits(rng, 12))
            return _grouped(plain, (4, 6, 5), mark)
        plain = with_luhn(
            rng.choice(["4" + _digits(rng, 3), f"5{rng.randint(1, 5)}{_digits(rng, 2)}", "6011"]) + _digits(rng, 11)
        )
        return int(plain) if whole else _grouped(plain, (4, 4, 4, 4), mark)

    return make


def ibans(rng: random.Random) -> Callable[[int], str]:
    countries = {"DE": 18, "FR": 23, "ES": 20, "NL": 14, "IT": 23, "GB": 18, "BE": 12}
    some, spaced = rng.sample(sorted(countries), rng.randint(1, 4)), rng.random() < 0.5

    def make(i: int) -> str:
        country = rng.choice(some)
        account = _digits(rng, countries[country])
        banks = {"NL": "INGB" + account[4:], "GB": "NWBK" + account[4:], "IT": "X" + account[1:]}
        account = banks.get(country, account)
        plain = with_iban_check(country, account)
        return " ".join(plain[k : k + 4] for k in range(0, len(plain), 4)) if spaced else plain

    return make


def addresses(rng: random.Random) -> Callable[[int], str]:
    firsts = rng.sample([5, 31, 62, 78, 81, 93, 141, 151, 178, 185, 203, 212], 8)
    return lambda i: ".".join(map(str, (rng.choice(firsts), *(rng.randrange(256) for _ in range(3)))))


def addresses_at_home(rng: random.Random) -> Callable[[int], str]:
    return lambda i: f"192.168.{rng.randrange(4)}.{rng.randrange(1, 255)}"


def long_addresses(rng: random.Random) -> Callable[[int], str]:
    start = rng.choice(["2001:db9:", "2a02:8109:", "2607:f8b0:"])
    short = rng.random() < 0.5

    def groups(count: int) -> str:
        return ":".join(f"{rng.getrandbits(16):x}" for _ in range(count))

    return lambda i: f"{start}{groups(2)}::{groups(1)}" if short else start + groups(6)


def social_security(rng: random.Random) -> Callable[[int], str]:
    mark, areas = rng.choice("- "), [*range(1, 666), *range(667, 900)]
    return lambda i: f"{rng.choice(areas):03d}{mark}{rng.randint(1, 99):02d}{mark}{rng.randint(1, 9999):04d}"


def fiscal_codes(rng: random.Random) -> Callable[[int], str]:
    odd = "BAKPLCQDREVOSFTGUHMINJWZYX"
    upper = rng.random() < 0.8

    def make(i: int) -> str:
        letters = "".join(rng.choices("BCDFGLMNPRSTVZ", k=6))
        born = f"{rng.randrange(100):02d}{rng.choice('ABCDEHLMPRST')}{rng.choice([*range(1, 32), *range(41, 72)]):02d}"
        start = f"{letters}{born}{rng.choice('ABCDEFGHIL')}{_digits(rng, 3)}"
        total = 0
        for place, c in enumerate(start):
            value = int(c) if c.isdigit() else ord(c) - 65
            total += odd.index(chr(65 + value)) if place % 2 == 0 else value
        text = start + chr(65 + total % 26)
        return text if upper else text.lower()

    return make


def spanish(rng: random.Random) -> Callable[[int], str]:
    letters = "TRWAGMYFPDXBNJZSQVHLCKE"
    dashed, foreign = rng.choice(["", "-"]), rng.choice([0, 0.2])

    def make(i: int) -> str:
        if rng.random() < foreign:
            first, rest = rng.randrange(3), _digits(rng, 7)
            return f"{'XYZ'[first]}{rest}{dashed}{letters[int(f'{first}{rest}') % 23]}"
        number = _digits(rng, 8)
        return f"{number}{dashed}{letters[int(number) % 23]}"

    return make


def french(rng: random.Random) -> Callable[[int], str]:
    spaced = rng.random() < 0.5

    def make(i: int) -> str:
        place = "2A" if rng.random() < 0.02 else f"{rng.randint(1, 95):02d}"
        born = f"{rng.choice('12')}{rng.randrange(100):02d}{rng.randint(1, 12):02d}"
        start = f"{born}{place}{rng.randint(1, 990):03d}{rng.randint(1, 999):03d}"
        text = f"{start}{97 - int(start.replace('2A', '19')) % 97:02d}"
        return _grouped(text, (1, 2, 2, 2, 3, 3, 2), " ") if spaced else text

    return make


def dutch(rng: random.Random) -> Callable[[int], str | int]:
    whole = rng.random() < 0.4

    def passes(text: str) -> bool:
        return (sum(int(text[i]) * (9 - i) for i in range(8)) - int(text[8])) % 11 == 0

    def make(i: int) -> str | int:
        while True:
            start = rng.choice("123456789") + _digits(rng, 7)
            for last in string.digits:
                if passes(start + last):
                    return int(start + last) if whole else start + last

    return make


def brazilian(rng: random.Random) -> Callable[[int], str]:
    marked = rng.random() < 0.6

    def check(text: str) -> str:
        rest = sum(int(c) * weight for c, weight in zip(text, range(len(text) + 1, 1, -1), strict=True)) % 11
        return "0" if rest < 2 else str(11 - rest)

    def make(i: int) -> str:
        text = _digits(rng, 9)
        text += check(text)
        text += check(text)
        return f"{text[:3]}.{text[3:6]}.{text[6:9]}-{text[9:]}" if marked else text

    return make


def indian(rng: random.Random) -> Callable[[int], str]:
    mark = rng.choice(["", " "])
    return lambda i: _grouped(with_aadhaar_check(rng.choice("23456789") + _digits(rng, 10)), (4, 4, 4), mark)


PRIVATE: tuple[tuple[str, int, Make, tuple[str, ...]], ...] = (
    ("e-mail", 13, emails, ("email", "contact", "user", "c7", "mailAddress")),
    ("e-mail", 2, remarks, ("remark", "note")),
    ("e-mail", 2, contacts, ("contact", "reached_by")),
    ("phone", 12, phones, ("phone", "contact", "tel_1", "field_12", "reached_at")),
    ("phone", 4, local_phones, ("mobile", "phone_number", "telephone", "tel")),
    ("phone", 2, local_phones, ("c2", "contact")),
    ("card", 10, cards, ("card_number", "pan", "payment", "ref", "number")),
    ("IBAN", 10, ibans, ("iban", "account", "bank", "c3")),
    ("IPv4", 6, addresses, ("ip", "client", "host", "src")),
    ("IPv4", 2, addresses_at_home, ("ip", "address")),
    ("IPv6", 5, long_addresses, ("ip", "client", "peer")),
    ("US social security number", 6, social_security, ("ssn", "social", "member", "key")),
    ("codice fiscale", 5, fiscal_codes, ("codice_fiscale", "cf", "code")),
    ("DNI or NIE", 5, spanish, ("dni", "documento", "id")),
    ("NIR", 4, french, ("nir", "numero", "insured")),
    ("BSN", 4, dutch, ("bsn", "nummer", "person")),
    ("CPF", 4, brazilian, ("cpf", "documento", "c1")),
    ("Aadhaar", 4, indian, ("aadhaar", "uid", "holder")),
)


# What only looks like it.


def _plain(make: Callable[[random.Random, int], str | int | float]) -> Make:
    return lambda rng: lambda i: make(rng, i)


def _ean(rng: random.Random, count: int, start: str = "") -> str:
    text = start + _digits(rng, count - 1 - len(start))
    total = sum(int(c) * (3 if i % 2 == 0 else 1) for i, c in enumerate(text[::-1]))
    return f"{text}{-total % 10}"


def _isbn10(rng: random.Random, i: int) -> str:
    text = _digits(rng, 9)
    rest = -sum(int(c) * (10 - k) for k, c in enumerate(text)) % 11
    return text + ("X" if rest == 10 else str(rest))


def _moment(rng: random.Random) -> datetime:
    return datetime(2015, 1, 1, tzinfo=UTC) + timedelta(seconds=rng.randrange(300_000_000))


def _lei(rng: random.Random, i: int) -> str:
    start = "".join(rng.choices(string.digits + string.ascii_uppercase, k=18))
    number = int("".join(str(int(c, 36)) for c in start + "00"))
    return f"{start}{98 - number % 97:02d}"


def _isin(rng: random.Random, i: int) -> str:
    start = rng.choice(["US", "DE", "FR", "GB"]) + _digits(rng, 9)
    plain = "".join(str(int(c, 36)) for c in start)
    return start + next(d for d in string.digits if luhn_sum(plain + d) % 10 == 0)


def _choice(*texts: str) -> Make:
    return _plain(lambda rng, i: rng.choice(texts))


OTHER: tuple[tuple[str, Make, tuple[str, ...]], ...] = (
    ("order number of 16 digits", _plain(lambda r, i: _digits(r, 16)), ("order", "reference")),
    ("order number of 16 digits after a 4", _plain(lambda r, i: "4" + _digits(r, 15)), ("order", "number")),
    ("identifier of 16 digits in a row", _plain(lambda r, i: 4_000_000_000_000_000 + i), ("id", "card_id")),
    ("identifier of 19 digits", _plain(lambda r, i: 10**18 + r.randrange(8 * 10**18)), ("snowflake", "id")),
    ("ISBN-13", _plain(lambda r, i: _ean(r, 13, "978")), ("isbn", "book")),
    ("ISBN-10", _plain(_isbn10), ("isbn", "book")),
    ("EAN-13", _plain(lambda r, i: _ean(r, 13, r.choice(["4", "50", "87"]))), ("ean", "article")),
    ("UPC", _plain(lambda r, i: _ean(r, 12)), ("upc", "sku")),
    ("GTIN-14", _plain(lambda r, i: _ean(r, 14, r.choice(["30", "36", "1"]))), ("gtin", "pack")),
    ("IMEI", _plain(lambda r, i: with_luhn("35" + _digits(r, 12))), ("imei", "device")),
    ("SIM card", _plain(lambda r, i: with_luhn("8939" + _digits(r, 14))), ("iccid", "sim")),
    ("seconds since 1970", _plain(lambda r, i: int(_moment(r).timestamp())), ("ts", "phone_changed_at")),
    ("milliseconds since 1970", _plain(lambda r, i: int(_moment(r).timestamp() * 1000)), ("ts", "created")),
    ("microseconds since 1970", _plain(lambda r, i: int(_moment(r).timestamp() * 1e6) + i), ("ts", "card_used")),
    ("time of ISO 8601", _plain(lambda r, i: _moment(r).isoformat()), ("at", "time_hour")),
    ("time of day", _plain(lambda r, i: f"{_moment(r):%H:%M:%S}"), ("at", "ip_seen")),
    ("date", _plain(lambda r, i: f"{_moment(r):%d.%m.%Y}"), ("day", "born")),
    ("date as a number", _plain(lambda r, i: int(f"{_moment(r):%Y%m%d}")), ("day", "bsn_since")),
    (
        "version of three numbers",
        _plain(lambda r, i: f"{r.randrange(9)}.{r.randrange(30)}.{r.randrange(99)}"),
        ("version",),
    ),
    (
        "version of four numbers",
        _plain(lambda r, i: f"{r.randrange(1, 20)}.{r.randrange(10)}.{r.randrange(60)}.{r.randrange(250)}"),
        ("version", "build"),
    ),
    (
        "version of a browser",
        _plain(lambda r, i: f"{r.randrange(90, 130)}.0.{r.randrange(4000, 7000)}.{r.randrange(250)}"),
        ("browser",),
    ),
    (
        "firmware of four small numbers",
        _plain(lambda r, i: f"{r.randrange(1, 4)}.{r.randrange(30)}.{r.randrange(255)}.{r.randrange(255)}"),
        ("firmware", "release"),
    ),
    ("object identifier", _plain(lambda r, i: f"1.3.6.1.4.1.{r.randrange(9999)}.{r.randrange(9)}"), ("oid",)),
    ("md5", _plain(lambda r, i: hashlib.md5(_digits(r, 9).encode()).hexdigest()), ("email_hash", "digest")),
    ("sha256", _plain(lambda r, i: hashlib.sha256(_digits(r, 9).encode()).hexdigest()), ("digest", "iban")),
    ("latitude", _plain(lambda r, i: round(r.uniform(-90, 90), 6)), ("lat", "phone_lat")),
    (
        "place of ISO 6709",
        _plain(lambda r, i: f"{r.uniform(-90, 90):+09.5f}{r.uniform(-180, 180):+010.5f}/"),
        ("place",),
    ),
    ("latitude and longitude", _plain(lambda r, i: f"{r.uniform(-90, 90):.4f},{r.uniform(-180, 180):.4f}"), ("place",)),
    ("flight number", _plain(lambda r, i: r.randrange(1, 8500)), ("flight",)),
    (
        "flight number with carrier",
        _plain(lambda r, i: f"{r.choice(['UA', 'B6', 'DL'])}{r.randrange(1, 8500)}"),
        ("flight",),
    ),
    ("tail number", _plain(lambda r, i: f"N{r.randrange(100, 999)}{r.choice(['AA', 'UA', 'JB', 'MQ'])}"), ("tailnum",)),
    ("price", _plain(lambda r, i: round(r.uniform(1, 9999), 2)), ("price", "credit")),
    ("price as text", _plain(lambda r, i: f"{r.uniform(1, 9999):.2f} EUR"), ("price",)),
    ("German postal code", _plain(lambda r, i: f"{r.randrange(1000, 99999):05d}"), ("plz", "phone_area")),
    ("ZIP+4", _plain(lambda r, i: f"{_digits(r, 5)}-{_digits(r, 4)}"), ("zip", "ssn")),
    (
        "British postcode",
        _plain(lambda r, i: f"{r.choice(['SW1A', 'M1', 'EC2R'])} {r.randrange(10)}{r.choice('ABD')}{r.choice('XYZ')}"),
        ("postcode",),
    ),
    ("UUID", _plain(lambda r, i: str(uuid.UUID(int=r.getrandbits(128), version=4))), ("id", "customer")),
    ("MAC address", _plain(lambda r, i: ":".join(f"{r.getrandbits(8):02x}" for _ in range(6))), ("mac", "ipv6")),
    ("EUI-64", _plain(lambda r, i: ":".join(f"{r.getrandbits(8):02x}" for _ in range(8))), ("wwn",)),
    ("number of 9 digits", _plain(lambda r, i: r.randrange(10**8, 10**9)), ("id", "bsn")),
    ("number of 9 digits in a row", _plain(lambda r, i: 123_456_000 + i), ("id", "social")),
    ("number of 10 digits", _plain(lambda r, i: r.randrange(2 * 10**9, 10**10)), ("id", "account")),
    ("number of 11 digits", _plain(lambda r, i: _digits(r, 11)), ("id", "cpf")),
    ("number of 12 digits", _plain(lambda r, i: r.choice("23456789") + _digits(r, 11)), ("id", "aadhaar")),
    ("number of 15 digits", _plain(lambda r, i: r.choice("12") + _digits(r, 14)), ("id", "nir")),
    ("number of 9 digits as 3-2-4", _plain(lambda r, i: _grouped(_digits(r, 9), (3, 2, 4), "-")), ("part", "lot")),
    ("number of 10 digits as 3-3-4", _plain(lambda r, i: _grouped(_digits(r, 10), (3, 3, 4), "-")), ("part", "ticket")),
    ("number with zeros in front", _plain(lambda r, i: f"{r.randrange(10**7):013d}"), ("batch", "document")),
    ("8 digits and a letter", _plain(lambda r, i: _digits(r, 8) + r.choice(string.ascii_uppercase)), ("part", "dni")),
    (
        "licence of 16 letters and digits",
        _plain(lambda r, i: "".join(r.choices(string.ascii_uppercase + string.digits, k=16))),
        ("licence", "cf"),
    ),
    (
        "codice fiscale without its letter",
        _plain(
            lambda r, i: (
                "".join(r.choices("BCDFGH", k=6))
                + f"{r.randrange(100):02d}{r.choice('ABC')}{r.randint(10, 31)}H{_digits(r, 3)}"
                + r.choice(string.ascii_uppercase)
            )
        ),
        ("code",),
    ),
    ("IBAN without its check", _plain(lambda r, i: f"DE{_digits(r, 20)}"), ("reference", "iban")),
    ("LEI", _plain(_lei), ("lei", "issuer")),
    ("ISIN", _plain(_isin), ("isin", "paper")),
    ("VAT number", _plain(lambda r, i: f"NL{_digits(r, 9)}B{_digits(r, 2)}"), ("vat", "tax_code")),
    ("signed number", _plain(lambda r, i: f"{r.randrange(-(10**9), 10**9):+d}"), ("delta", "fax")),
    ("offset from UTC", _plain(lambda r, i: f"+{r.randrange(12):02d}:{r.choice(['00', '30'])}"), ("offset",)),
    (
        "package and version",
        _plain(
            lambda r, i: f"{r.choice(['react', 'vue', 'lodash'])}@{r.randrange(20)}.{r.randrange(20)}.{r.randrange(20)}"
        ),
        ("package", "email"),
    ),
    ("handle", _plain(lambda r, i: f"@{r.choice(['anna', 'omar'])}{r.randrange(999)}"), ("handle",)),
    ("image for two screens", _plain(lambda r, i: f"logo{r.randrange(999)}@2x.png"), ("file",)),
    (
        "repository address",
        _plain(lambda r, i: f"git@example.org:team/{r.choice(['a', 'b'])}{r.randrange(999)}.git"),
        ("remote",),
    ),
    ("unit of systemd", _plain(lambda r, i: f"getty@tty{r.randrange(64)}.service"), ("unit",)),
    ("web address", _plain(lambda r, i: f"https://www.example.org/p/{r.randrange(10**9)}"), ("url",)),
    ("port of this machine", _plain(lambda r, i: f"127.0.0.{r.randrange(1, 255)}"), ("listens",)),
    ("colour", _plain(lambda r, i: f"#{r.getrandbits(24):06x}"), ("colour",)),
    ("card hidden but for its end", _plain(lambda r, i: f"**** **** **** {_digits(r, 4)}"), ("card",)),
    ("category", _choice("north", "south", "east", "west"), ("email", "origin")),
    ("yes or no", _choice("yes", "no"), ("phone_verified",)),
    ("sentence", _choice("the train was late", "call again tomorrow", "40 of 60 seats taken"), ("note",)),
    ("count", _plain(lambda r, i: r.randrange(500)), ("phones", "cards")),
    ("measurement", _plain(lambda r, i: r.gauss(0, 1)), ("ip", "x")),
    ("gap in whole numbers", _plain(lambda r, i: float(r.randrange(1400, 2400))), ("dep_time",)),
)


def corpus(seed: int) -> list[Column]:
    """Two hundred columns of 30 to 1,000 rows: nulls in most, and a few values of no kind in some."""
    rng = random.Random(seed)
    columns = [
        _column(rng, kind, kind, make, rng.choice(names)) for kind, count, make, names in PRIVATE for _ in range(count)
    ]
    assert len(columns) == 100
    others = [*OTHER, *rng.sample(OTHER, 100 - len(OTHER))]
    return columns + [_column(rng, "", what, make, rng.choice(names)) for what, make, names in others]


def _column(rng: random.Random, kind: str, what: str, make: Make, name: str) -> Column:
    value = make(rng)
    rows: list[str | int | float | None] = [value(i) for i in range(rng.randint(30, 1000))]
    missing, odd = rng.choice([0, 0.05, 0.4]), rng.choice([0, 0, 0.01])
    for i in range(len(rows)):
        if rng.random() < missing:
            rows[i] = None
        elif isinstance(rows[i], str) and rng.random() < odd:
            rows[i] = rng.choice(["", "unknown", "n/a", "-"])
    return Column(name, kind, what, pa.array(rows))
