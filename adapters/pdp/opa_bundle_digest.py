"""The digest of one file of a bundle, as OPA computes it.

Of a JSON or YAML document the values count and not how they are written (OPA's `bundle/hash.go`); of any other file
each byte.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from adapters.pdp.engine import read_yaml
from adapters.pdp.opa_bundle_archive import refused

HASH: Final = "SHA-256"

_DIGESTS: Final[Mapping[str, Callable[[], hashlib._Hash]]] = {
    "SHA-256": hashlib.sha256,
    "SHA-384": hashlib.sha384,
    "SHA-512": hashlib.sha512,
    "SHA-512-256": lambda: hashlib.new("sha512_256"),
}
"""Of those that OPA knows, the ones that nobody can find a second file for."""
_STRUCTURED: Final = frozenset({"data.json", "data.yaml", ".manifest"})
MAX_DEPTH: Final = 200


class _Literal(str):
    """A number as it is written: its digest is that of its digits."""

    __slots__ = ()


def digest_of(name: str, content: bytes, algorithm: str) -> str:
    """As OPA computes it: of a JSON document the values count and not how they are written, of others each byte."""
    make = _DIGESTS.get(algorithm)
    if make is None:
        known = ", ".join(_DIGESTS)
        raise refused(f"has a digest of the kind {algorithm[:20]!r}; known are {known}", name)
    digest = make()
    base = name.rpartition("/")[2]
    if base in _STRUCTURED:
        for part in _walked(_document(name, content)):
            digest.update(part.encode())
    else:
        digest.update(content)
    return digest.hexdigest()


def _document(name: str, content: bytes) -> object:
    try:
        text = content.decode()
        if name.endswith(".yaml"):
            return read_yaml(text)
        return json.loads(
            text,
            object_pairs_hook=_without_repetition,
            parse_int=_Literal,
            parse_float=_Literal,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as exc:
        raise refused(
            "is not JSON, or holds a name twice" if not name.endswith(".yaml") else "is not YAML", name
        ) from exc


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _walked(value: object, depth: int = 0) -> Iterator[str]:
    """The texts whose digest is that of the value (OPA's `bundle/hash.go`)."""
    if depth > MAX_DEPTH:
        raise refused(f"is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        yield "{"
        for index, name in enumerate(sorted(value, key=lambda each: str(each).encode("utf-8", "surrogatepass"))):
            yield f"{',' if index else ''}{_primitive(str(name))}:"
            yield from _walked(value[name], depth + 1)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for index, item in enumerate(value):
            yield "," if index else ""
            yield from _walked(item, depth + 1)
        yield "]"
    else:
        yield _primitive(value)


_ESCAPES: Final = str.maketrans(
    {**{code: f"\\u{code:04x}" for code in (*range(0x20), 0x2028, 0x2029)},
     0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f", 0x0D: "\\r", 0x22: '\\"', 0x5C: "\\\\"}
)  # fmt: skip


def _primitive(value: object) -> str:
    """As Go's encoder writes it, without the escapes for HTML."""
    if isinstance(value, _Literal):
        return str(value)
    if isinstance(value, str):
        if any(0xD800 <= ord(each) <= 0xDFFF for each in value):
            raise refused("holds half of a character, which no two readers see alike")
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, float) and not math.isfinite(value):
        raise refused("holds a number that is none")
    return json.dumps(value)
