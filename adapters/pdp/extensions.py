"""Built-in functions of OPA that the embedded engine lacks, or has with another meaning, as OPA has them.

Only what is cheap, pure and equal to OPA for every input that both accept; whatever else is missing is refused
when a policy is loaded. `tests/parity` holds each to a real OPA.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable
from typing import Final, TypeAlias

Extension: TypeAlias = tuple[str, int, Callable[..., object]]

_CIDR: Final = re.compile(r"[0-9a-fA-F.:]+/[0-9]{1,3}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a string is needed here")
    return value


def _digest(algorithm: str) -> Callable[[object], object]:
    def digest(text: object) -> object:
        return hashlib.new(algorithm, _text(text).encode(), usedforsecurity=False).hexdigest()

    return digest


def _keyed_digest(algorithm: str) -> Callable[[object, object], object]:
    def digest(text: object, key: object) -> object:
        return hmac.new(_text(key).encode(), _text(text).encode(), algorithm).hexdigest()

    return digest


def _equal_digests(left: object, right: object) -> object:
    return hmac.compare_digest(_text(left).encode(), _text(right).encode())


def _network(value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    text = _text(value)
    if not _CIDR.fullmatch(text) or text.lower().startswith("::ffff:"):  # Go reads the latter as IPv4, Python does not
        raise ValueError("a CIDR such as 10.0.0.0/8 is needed here")
    return ipaddress.ip_network(text, strict=False)


def _cidr_intersects(left: object, right: object) -> object:
    one, other = _network(left), _network(right)
    return one.version == other.version and one.overlaps(other)


def _flatten(items: object) -> object:
    if not isinstance(items, list):
        raise TypeError("an array is needed here")
    flat: list[object] = []
    for item in items:
        flat.extend(item if isinstance(item, list) else [item])
    return flat


def _split_n(text: object, delimiter: object, limit: object) -> object:
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError("a whole number is needed here")
    between = _text(delimiter)
    parts = _text(text).split(between) if between else list(_text(text))
    return parts[:limit] if limit >= 0 else parts[limit:]


def _upper(text: object) -> object:
    """Letter by letter, as Go does it: a letter whose capital is several letters stays as it is."""
    given = _text(text)
    if given.isascii():
        return given.upper()
    return "".join(each.upper() if len(each.upper()) == 1 else each for each in given)


def _lower(text: object) -> object:
    given = _text(text)
    return given.lower() if given.isascii() else "".join(each.lower()[0] for each in given)


EXTENSIONS: Final[tuple[Extension, ...]] = (
    ("array.flatten", 1, _flatten),
    ("crypto.hmac.equal", 2, _equal_digests),
    ("crypto.hmac.md5", 2, _keyed_digest("md5")),
    ("crypto.hmac.sha1", 2, _keyed_digest("sha1")),
    ("crypto.hmac.sha256", 2, _keyed_digest("sha256")),
    ("crypto.hmac.sha512", 2, _keyed_digest("sha512")),
    ("crypto.md5", 1, _digest("md5")),
    ("crypto.sha1", 1, _digest("sha1")),
    ("crypto.sha256", 1, _digest("sha256")),
    ("lower", 1, _lower),
    ("net.cidr_intersects", 2, _cidr_intersects),
    ("strings.split_n", 3, _split_n),
    ("upper", 1, _upper),
)
