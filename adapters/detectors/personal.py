"""Personal data in a text: mail addresses, IBANs, payment cards, telephone numbers in international form.

Numbers count only when what can be checked about them is right: check digits, the issuer's range and length of a
card, the country's length of an IBAN, and a numbering plan for telephones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from adapters.detectors.telephones import is_number
from gateway.authz.patterns import EMAIL, card_candidates
from gateway.ports import Detector, Spotted

_NO_DOMAINS: Final = frozenset(
    {"bmp", "css", "gif", "html", "ico", "jpeg", "jpg", "js", "json", "md", "mp4", "pdf", "png", "py", "svg", "webp"}
)
"""Ends of file names such as `logo@2x.png`; none of them is mail."""
_USERINFO: Final = re.compile(r"://[A-Za-z0-9._~%+\-:]*\Z")
"""What may stand before the name in a URL; after a comma, a slash or a line's end it is no part of one any more."""
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])(?P<country>[A-Z]{2})[0-9]{2}(?=[ ]?[A-Z0-9])")
_IBAN_LENGTHS: Final = {
    country: int(length)
    for length, countries in {
        "15": "NO",
        "16": "BE",
        "18": "DK FI FO GL NL FK",
        "19": "MK SI",
        "20": "AT BA EE KZ LT LU XK MN",
        "21": "CH HR LI LV",
        "22": "BG BH CR DE GB GE IE ME RS VA",
        "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG",
        "25": "LY PT ST",
        "26": "IS TR",
        "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO GT HU LB NI PL SV",
        "29": "BR EG PS QA UA",
        "30": "JO KW MU YE",
        "31": "MT SC",
        "32": "LC",
        "33": "RU",
    }.items()
    for country in countries.split()
}
"""Country -> characters of its IBANs (the registry of ISO 13616)."""
_CARD: Final = re.compile(
    r"""4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})                                     # Visa
      | (?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}  # Mastercard
      | 3[47][0-9]{13}                                                         # American Express
      | 3(?:0[0-5]|[68][0-9])[0-9]{11}                                         # Diners Club
      | (?:6011|65[0-9]{2}|64[4-9][0-9])[0-9]{12}                              # Discover
      | 35(?:2[89]|[3-8][0-9])[0-9]{12}                                        # JCB
      | 62[0-9]{14,17}                                                         # UnionPay
    """,
    re.VERBOSE,
)
_PHONE: Final = re.compile(r"(?<![\w+])\+[1-9](?:[ ().\-/]{0,2}[0-9]){6,14}(?![0-9])")


class PersonalData:
    """Finds what leads to a person or their money."""

    @property
    def kind(self) -> str:
        return "personal_data"

    def find(self, text: str, name: str = "") -> Sequence[Spotted]:
        """As the port says; the name of the member says nothing here."""
        return [*_mails(text), *_cards(text), *_ibans(text), *_phones(text)]


def _mails(text: str) -> Iterator[Spotted]:
    if "@" not in text:
        return
    for match in EMAIL.finditer(text):
        local, _, domain = match[0].partition("@")
        end = domain.rpartition(".")[2].lower()
        if end.isalpha() and len(end) >= 2 and end not in _NO_DOMAINS and not _is_login(text, match, local):
            yield Spotted(match.start(), match.end(), "email")


def _is_login(text: str, match: re.Match[str], local: str) -> bool:
    """`git@host:path`, and the part of a URL before its host, are how to reach a machine."""
    if local == "git" or _USERINFO.search(text[max(0, match.start() - 80) : match.start()]):
        return True
    return match.end() + 1 < len(text) and text[match.end()] == ":" and text[match.end() + 1] in "/~"


def _cards(text: str) -> Iterator[Spotted]:
    for start, end in card_candidates(text):
        digits = re.sub(r"[ -]", "", text[start:end])
        stands_alone = not re.search(r"[A-Za-z0-9_.]\Z", text[max(0, start - 1) : start]) and not re.match(
            r"[A-Za-z0-9_]", text[end : end + 1]
        )
        if stands_alone and _CARD.fullmatch(digits):
            yield Spotted(start, end, "payment_card")


def _ibans(text: str) -> Iterator[Spotted]:
    for match in _IBAN.finditer(text):
        end = _end_of_iban(text, match.start(), _IBAN_LENGTHS.get(match["country"], 0))
        if end and _checks(text[match.start() : end].replace(" ", "")):
            yield Spotted(match.start(), end, "iban")


def _end_of_iban(text: str, start: int, length: int) -> int:
    """Where so many letters and digits end, single spaces between them allowed; 0 where they do not stand alone."""
    at, seen = start, 0
    while seen < length and at < len(text):
        if text[at].isascii() and (text[at].isdigit() or text[at].isupper()):
            seen += 1
        elif text[at] != " " or text[at - 1] == " ":
            return 0
        at += 1
    following = text[at : at + 1]
    return at if length and seen == length and not (following.isascii() and following.isalnum()) else 0


def _checks(iban: str) -> bool:
    """The check digits of ISO 7064, MOD 97-10."""
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 == 1


def _phones(text: str) -> Iterator[Spotted]:
    for match in _PHONE.finditer(text):
        if is_number(match[0]):
            yield Spotted(match.start(), match.end(), "phone")


_: type[Detector] = PersonalData
