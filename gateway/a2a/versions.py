"""Which version of A2A a request is in, and which extensions it asks for (specification, sections 3.2.6 and 3.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.a2a.errors import VERSION_NOT_SUPPORTED, A2aError
from gateway.a2a.operations import LEGACY_VERSION, SUPPORTED_VERSIONS

VERSION_HEADER: Final = "a2a-version"
EXTENSIONS_HEADER: Final = "a2a-extensions"
LEGACY_EXTENSIONS_HEADER: Final = "x-a2a-extensions"
"""What 0.3 calls it."""

MAX_EXTENSIONS: Final = 64
MAX_URI: Final = 1_024


def negotiate(header_values: Sequence[bytes], query_value: str | None) -> str:
    """`1.0` or `0.3`, from the `A2A-Version` headers and the query parameter of that name. Saying nothing means 0.3.

    Raises `A2aError` for all else, contradictions included. A patch number is refused: it "SHOULD NOT be used in
    requests", and a peer that sends one would have it considered, which section 3.6 forbids.
    """
    said = [_text(value) for value in header_values]
    if query_value is not None:
        said.append(query_value.strip())
    if len(header_values) > 1 or len(set(said)) > 1:
        raise _refused("the request names its A2A version more than once")
    version = said[0] if said else ""
    if not version:
        return LEGACY_VERSION
    if version not in SUPPORTED_VERSIONS:
        raise _refused("this A2A version is not supported")
    return version


def requested_extensions(header_values: Sequence[bytes]) -> tuple[str, ...]:
    """The URIs of the extensions that the client declares, each once, in its order. What is no URI is left out."""
    found: dict[str, None] = {}
    for value in header_values:
        for uri in _text(value).split(","):
            if len(found) == MAX_EXTENSIONS:
                return tuple(found)
            if _is_uri(uri.strip()):
                found[uri.strip()] = None
    return tuple(found)


def missing_required(card: Mapping[str, object], requested: Sequence[str]) -> tuple[str, ...]:
    """The extensions that the card requires and the client did not declare (section 3.3.4)."""
    capabilities = card.get("capabilities")
    declared = capabilities.get("extensions") if isinstance(capabilities, Mapping) else None
    if not isinstance(declared, (list, tuple)):
        return ()
    required = (item.get("uri") for item in declared if isinstance(item, Mapping) and item.get("required") is True)
    return tuple(uri for uri in required if isinstance(uri, str) and uri not in requested)


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip()


def _is_uri(value: str) -> bool:
    return 0 < len(value) <= MAX_URI and value.isascii() and value.isprintable() and " " not in value


def _refused(why: str) -> A2aError:
    supported = ", ".join(SUPPORTED_VERSIONS)
    message = f"{why}; send A2A-Version with one of: {supported}"
    return A2aError(VERSION_NOT_SUPPORTED, message, {"supportedVersions": supported})
