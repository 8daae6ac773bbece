"""Identifiers of people, as they are written: e-mail, phone, card, IBAN, IP, and numbers of seven countries' citizens.

``read`` says of one text which kinds it has the form of, and of which it is one by their rules: check digits where
there are some, else ranges. Nothing here remembers a value.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of identifier.

    Attributes:
        form: what a text looks like that might be one. holds: whether it is one.
        chance: how often something else of that form passes ``holds``.
        least: the share of a column's values that must be of that form before the column is one.
        named: what a column is called that holds it. bare: a form that only such a column gives a meaning.
    """

    name: str
    form: re.Pattern[str]
    holds: Callable[[str], bool]
    chance: float
    least: float
    named: re.Pattern[str]
    bare: re.Pattern[str] | None = None


def read(text: str) -> dict[str, str]:
    """Kinds that ``text`` has the form of: ``holds``, ``fails``, or ``bare`` (holds, if its column says so, too).

    Of a longer text, ``inside``: an e-mail address is one of its words.
    """
    text = text.strip()
    found: dict[str, str] = {}
    # What every identifier has: most values are told apart from all of them by this alone.
    if "@" not in text and text.count(":") < 2 and text.count(".") < 3 and sum(map(text.count, "0123456789")) < 7:
        return found
    for kind in () if len(text) > LONGEST else _NUMBERS if text.isdigit() else KINDS:
        if kind.form.fullmatch(text):
            found[kind.name] = "holds" if kind.holds(text) else "fails"
        elif kind.bare and kind.bare.fullmatch(text) and kind.holds(text):
            found[kind.name] = "bare"
    if not found and "@" in text and any(_is_email(word) for word in _WORDS.split(text)):
        found["e-mail"] = "inside"
    return found


def _is_email(word: str) -> bool:
    (email,) = (kind for kind in KINDS if kind.name == "e-mail")
    return email.form.fullmatch(word.rstrip(".")) is not None and email.holds(word.rstrip("."))


LONGEST = 254
"""Characters of the longest identifier: an e-mail address."""


def holds_one(text: str) -> bool:
    """Whether an identifier stands anywhere in a text: as a whole, as one of its words, or in groups of digits."""
    if any("holds" in read(word).values() for word in (text, *_WORDS.split(text[:10_000]))):
        return True
    return any("holds" in read(group[0]).values() for group in _GROUPS.finditer(text[:10_000]))


_WORDS = re.compile(r"[\s,;|\"'<>()\[\]{}=]+")
_GROUPS = re.compile(r"\+?[0-9A-Z]{2,}(?:[ -][0-9A-Z]{2,}){2,}")


def _digits(text: str) -> str:
    return text if text.isdigit() else re.sub(r"\D", "", text)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: the sum with every second digit from the right doubled is a multiple of 10."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


_D5 = ("0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
       "5987604321", "6598710432", "7659821043", "8765932104", "9876543210")  # fmt: skip
_P8 = ("0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258")


def verhoeff(digits: str) -> bool:
    """Verhoeff's check over the dihedral group D5 (1969): the last digit belongs to those before it."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = int(_D5[check][int(_P8[place % 8][int(digit)])])
    return check == 0


def _email(text: str) -> bool:
    local, _, domain = text.rpartition("@")
    if local.startswith(".") or local.endswith(".") or ".." in text or len(local) > 64:
        return False
    last = domain.rpartition(".")[2].lower()
    return len(last) == 2 or last in _TOP_LEVEL


_COMMON = (
    "com org net edu gov mil int info biz name pro museum aero coop jobs mobi travel asia cat tel post app dev cloud "
    "xyz online shop site store tech email blog live news agency company digital group world today life health bank "
    "insurance london berlin paris nyc amsterdam wien bayern example"
)
_TOP_LEVEL = frozenset(_COMMON.split())
"""The common ones that are no country's; those have two letters."""


_CALLING = {
    "1": (10, 10), "7": (10, 10), "20": (8, 10), "27": (9, 9), "30": (10, 10), "31": (9, 9), "32": (8, 9), "33": (9, 9),
    "34": (9, 9), "36": (8, 9), "39": (6, 11), "40": (9, 9), "41": (9, 9), "43": (7, 13), "44": (9, 10), "45": (8, 8),
    "46": (7, 10), "47": (8, 8), "48": (9, 9), "49": (7, 11), "51": (8, 9), "52": (10, 10), "54": (10, 11),
    "55": (10, 11), "56": (9, 9), "57": (10, 10), "60": (8, 10), "61": (9, 9), "62": (8, 12), "63": (8, 10),
    "64": (8, 10), "65": (8, 8), "66": (8, 9), "81": (9, 10), "82": (8, 10), "84": (9, 10), "86": (10, 11),
    "90": (10, 10), "91": (10, 10), "92": (9, 10), "94": (9, 9), "98": (10, 10), "212": (9, 9), "213": (8, 9),
    "216": (8, 8), "233": (9, 9), "234": (8, 10), "254": (9, 9), "351": (9, 9), "352": (6, 9), "353": (7, 9),
    "354": (7, 9), "358": (6, 11), "359": (7, 9), "370": (8, 8), "371": (8, 8), "372": (7, 8), "380": (9, 9),
    "381": (8, 9), "385": (8, 9), "386": (8, 8), "420": (9, 9), "421": (9, 9), "852": (8, 8), "880": (8, 10),
    "886": (8, 9), "966": (9, 9), "971": (8, 9), "972": (8, 9),
}  # fmt: skip
"""Country calling codes (E.164) and how many digits of a subscriber follow."""


def _north_american(digits: str) -> bool:
    # Area code and exchange begin with 2 to 9 and do not end in 11.
    return len(digits) == 10 and all(p[0] not in "01" and p[1:] != "11" for p in (digits[:3], digits[3:6]))


def _phone(text: str) -> bool:
    digits = _digits(text)
    if text.startswith(("+", "00")):
        return _international(digits.removeprefix("00"), "(0)" in text)
    if text.isdigit() or text.startswith(("0", "(0")):
        return 9 <= len(digits) <= 12 and digits[:2] != "00"
    if _BRAZILIAN.fullmatch(text):
        return True
    return _north_american(digits.removeprefix("1") if len(digits) == 11 else digits)


_BRAZILIAN = re.compile(r"\([1-9][1-9]\) ?(?:9[0-9]{4}|[2-5][0-9]{3})-[0-9]{4}")


def _international(digits: str, with_zero: bool) -> bool:
    for length in (1, 2, 3):
        low, high = _CALLING.get(digits[:length], (0, 0))
        if high:
            rest = digits[length:].removeprefix("0") if with_zero else digits[length:]
            return low <= len(rest) <= high and (digits[0] != "1" or _north_american(rest))
    return False


def _card(text: str) -> bool:
    digits = _digits(text)
    lengths = next((lengths for low, high, lengths in _ISSUERS if low <= digits[: len(low)] <= high), ())
    return len(digits) in lengths and luhn(digits) and len(set(digits)) > 1


_ISSUERS = (
    ("4", "4", (13, 16, 19)), ("51", "55", (16,)), ("2221", "2720", (16,)), ("34", "34", (15,)), ("37", "37", (15,)),
    ("6011", "6011", (16, 19)), ("644", "649", (16, 19)), ("65", "65", (16, 19)), ("300", "305", (14,)),
    ("36", "36", (14,)), ("38", "39", (14,)), ("3528", "3589", (16, 19)), ("62", "62", (16, 17, 18, 19)),
)  # fmt: skip
"""First digits of Visa, Mastercard, American Express, Discover, Diners, JCB, UnionPay, and lengths of their numbers."""


_IBAN = {
    country: int(length)
    for country, length in re.findall(
        "([A-Z]{2})([0-9]{2})",
        "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28EE20EG29ES24FI18FK18FO18FR27GB22"
        "GE22GI23GL18GR27GT28HN28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MN20"
        "MR27MT31MU30NI28NL18NO15OM23PK24PL28PS29PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27SO23ST25SV28TL23TN24TR26"
        "UA29VA22VG24XK20YE30",
    )
}
"""Characters of a country's IBAN (SWIFT's registry)."""


def _iban(text: str) -> bool:
    plain = text.replace(" ", "").upper()
    if _IBAN.get(plain[:2]) != len(plain):
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _ipv4(text: str) -> bool:
    # Of the internet: what is reserved names no person, and versions look like it.
    octets = text.split("/")[0].split(".")
    if any(int(octet) > 255 or (octet != "0" and octet.startswith("0")) for octet in octets):
        return False
    address = ipaddress.IPv4Address(".".join(octets))
    return address.is_global and not address.is_multicast


def _ipv6(text: str) -> bool:
    try:
        address = ipaddress.IPv6Address(text.split("/")[0].split("%")[0])
    except ValueError:
        return False
    # Addresses of hardware are written in eight groups of two, too.
    return address.is_global and ("::" in text or any(len(group) > 2 for group in text.split(":")))


def _ssn(text: str) -> bool:
    digits = _digits(text)
    return digits[:3] not in ("000", "666") and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


_ODD = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", (
    1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22,
    25, 24, 23,
), strict=True))  # fmt: skip
"""What a character at an odd place counts in the check letter of a codice fiscale (D.M. 23 December 1976)."""


def _codice_fiscale(text: str) -> bool:
    text = text.upper()
    even = sum(int(c) if c.isdigit() else ord(c) - ord("A") for c in text[1:15:2])
    return chr(ord("A") + (sum(_ODD[c] for c in text[0:15:2]) + even) % 26) == text[15]


def _dni(text: str) -> bool:
    plain = re.sub(r"[ .-]", "", text.upper())
    number = plain[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == plain[-1]


def _nir(text: str) -> bool:
    plain = re.sub(r"\s", "", text.upper())
    month = int(plain[3:5])
    number = int(plain[:13].replace("2A", "19").replace("2B", "18"))
    return (1 <= month <= 12 or 20 <= month <= 42 or month >= 50) and 97 - number % 97 == int(plain[13:])


def _bsn(text: str) -> bool:
    digits = _digits(text).zfill(9)
    total = sum(int(digit) * weight for digit, weight in zip(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1), strict=True))
    return total % 11 == 0 and len(set(digits)) > 1


def _cpf(text: str) -> bool:
    digits = _digits(text)
    for length in (9, 10):
        rest = sum(int(d) * (length + 1 - i) for i, d in enumerate(digits[:length])) * 10 % 11 % 10
        if rest != int(digits[length]):
            return False
    return len(set(digits)) > 1


def _kind(
    name: str, form: str, holds: Callable[[str], bool], chance: float, least: float, named: str, bare: str = ""
) -> Kind:
    # What comes last says what a column holds: client_ip does, phone_changed_at does not.
    words = re.compile(rf"(?:^|[^a-z])(?:{named})(?:[^a-z]*(?:no|nr|num|number|id|home|work|raw))?[^a-z]*$")
    return Kind(name, re.compile(form), holds, chance, least, words, re.compile(bare) if bare else None)


KINDS: tuple[Kind, ...] = (
    _kind(
        "e-mail", r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)+[a-zA-Z]{2,24}",
        _email, 0.05, 0.3, r"e?-?mails?|e-?mail_?addr\w*",
    ),
    _kind(
        "phone",
        r"(?:\+|00)[1-9](?:[ .()/-]{0,2}[0-9]){6,14}"
        r"|\([0-9]{3}\) ?[0-9]{3}[ .-][0-9]{4}|(?:1[ .-])?[0-9]{3}([ .-])[0-9]{3}\1[0-9]{4}"
        r"|\([1-9][1-9]\) ?9?[0-9]{4}-[0-9]{4}"
        r"|0[1-9](?:([ .-])[0-9]{2})(?:\2[0-9]{2}){3}|\(?0[1-9][0-9]{1,3}\)? [0-9]{3,4}[ -]?[0-9]{3,5}",
        _phone, 0.8, 0.9, r"(?:tele)?phones?|tel|mobile|cell|fax|msisdn|telefono?|handy|whatsapp|contact_number",
        r"0?[1-9][0-9]{8,10}|0[1-9][0-9]{1,3}[-/ ]?[0-9]{5,8}",
    ),
    _kind(
        "card",
        r"[0-9]{13,19}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?|3[0-9]{3}[ -][0-9]{6}[ -][0-9]{4,5}",
        _card, 0.1, 0.9, r"card|cc|pan|credit|debit|card_?(?:no|num|number)|cardnumber|creditcard",
    ),
    _kind("IBAN", r"[A-Za-z]{2}[0-9]{2}(?: ?[0-9A-Za-z]){11,30}", _iban, 1 / 97, 0.3, r"iban|bank_?account|account"),
    _kind("IPv4", r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?:/32)?", _ipv4, 0.9, 0.9,
          r"ip|ipv4|ip_?addr\w*|remote_addr|client_ip|x_forwarded_for|host_?ip"),
    _kind("IPv6", r"(?=.*:.*:)[0-9A-Fa-f:.]{2,45}(?:%\w+)?(?:/128)?", _ipv6, 0.05, 0.5,
          r"ip|ipv6|ip_?addr\w*|remote_addr|client_ip"),
    _kind("US social security number", r"[0-9]{3}([ -])[0-9]{2}\1[0-9]{4}", _ssn, 0.89, 0.95,
          r"ssn|social_?security\w*|itin|taxpayer_?id", r"[0-9]{9}"),
    _kind(
        "codice fiscale",
        r"(?i:[A-Z]{6}[0-9LMNPQRSTUV]{2}[ABCDEHLMPRST][0-9LMNPQRSTUV]{2}[A-Z][0-9LMNPQRSTUV]{3}[A-Z])",
        _codice_fiscale, 1 / 26, 0.3, r"codice_?fiscale|cf|tax_?code",
    ),
    _kind("DNI or NIE", r"(?i:(?:[0-9]{8}|[XYZ][ -]?[0-9]{7})[ -]?[A-HJ-NP-TV-Z])|[0-9]{2}\.[0-9]{3}\.[0-9]{3}-[A-Z]",
          _dni, 1 / 23, 0.9, r"dni|nie|nif"),
    _kind("NIR", r"[1-478] ?[0-9]{2} ?[0-9]{2} ?(?:[0-9]{2}|2[ABab]) ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", _nir, 1 / 97, 0.9,
          r"nir|insee|secu|securite_?sociale|numero_?secu"),
    _kind("BSN", r"[0-9]{9}|[0-9]{4}[. ][0-9]{2}[. ][0-9]{3}", _bsn, 1 / 11, 0.95, r"bsn|burgerservicenummer|sofi"),
    _kind("CPF", r"[0-9]{11}|[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", _cpf, 1 / 100, 0.9, r"cpf"),
    _kind("Aadhaar", r"[2-9][0-9]{11}|[2-9][0-9]{3}([ -])[0-9]{4}\1[0-9]{4}",
          lambda text: verhoeff(_digits(text)), 1 / 10, 0.95, r"aadhaar|aadhar|uidai?"),
)  # fmt: skip
"""All of them. Forms differ, but for digits alone: what passes two checks by chance passes neither in every row."""

_OF_DIGITS = ("phone", "card", "US social security number", "NIR", "BSN", "CPF", "Aadhaar")
_NUMBERS = tuple(kind for kind in KINDS if kind.name in _OF_DIGITS)
"""Those that may be written in digits alone."""
