"""Reads the card of an upstream agent as the hostile text that it can be (specification, section 4.4.1)."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias, cast
from urllib.parse import SplitResult, urlsplit

from gateway import codec
from gateway.a2a.card_shape import core_of
from gateway.a2a.directory import Interface
from gateway.a2a.operations import LEGACY_VERSION, VERSION
from gateway.codec import JsonObject, JsonValue
from gateway.errors import UpstreamProtocolError
from gateway.types import MAX_DEPTH, FrozenDict

Card: TypeAlias = Mapping[str, object]

MAX_CARD_BYTES: Final = 256 * 1024
MAX_INTERFACES: Final = 64
MAX_SKILLS: Final = 1_000
MAX_SIGNATURES: Final = 16
MAX_NAME: Final = 256
MAX_URL: Final = 2_048

_BINDINGS: Final = ("JSONRPC", "HTTP+JSON", "GRPC")
_VERSION: Final = re.compile(r"(0\.3|1\.0)(?:\.[0-9]{1,4})?")
_GRPC_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DECEPTIVE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
"""Control characters, changes of the writing direction and invisible letters: text that shows other than it is."""


class CardRefused(UpstreamProtocolError):
    """The card cannot be used; says what is wrong with it."""


def read_card(raw: bytes) -> JsonObject:
    """The card as plain JSON. Raises `CardRefused` for anything that two readers could read differently."""
    if len(raw) > MAX_CARD_BYTES:
        raise CardRefused(f"the card is larger than {MAX_CARD_BYTES} bytes")
    try:
        codec.loads(raw)  # strict first: the standard library takes NaN and lone surrogates
        value: JsonValue = json.loads(raw, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as exc:
        raise CardRefused(f"the card is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise CardRefused("the card is not a JSON object")
    _check_values(value, ("card",))
    return value


def check_card(card: Card) -> None:
    """Raises `CardRefused` unless this has what a card of 1.0 must have, with the right types."""
    _check_label(card, "name", "card")
    for name in ("description", "version", "documentationUrl", "iconUrl"):
        _check_type(card, name, str, "a text")
    for name in ("capabilities", "provider", "securitySchemes"):
        _check_type(card, name, Mapping, "an object")
    for name in ("defaultInputModes", "defaultOutputModes"):
        _check_texts(card, name, "card")
    _check_capabilities(card.get("capabilities", {}))
    _check_skills(_objects(card, "skills", MAX_SKILLS))
    _objects(card, "supportedInterfaces", MAX_INTERFACES)


def interfaces_of(card: Card) -> tuple[Interface, ...]:
    """Those of a 1.0 card that the gateway can use, in the card's order. Raises `CardRefused` when there is none."""
    found = usable_interfaces(card)
    if not found:
        offered, known = len(_objects(card, "supportedInterfaces", MAX_INTERFACES)), ", ".join(_BINDINGS)
        raise CardRefused(f"none of the {offered} interfaces of the card can be used: needs {known} in 1.0 or 0.3")
    return found


def usable_interfaces(card: Card) -> tuple[Interface, ...]:
    """The same, where there may be none."""
    offered = _objects(card, "supportedInterfaces", MAX_INTERFACES)
    return tuple(interface for each in offered if (interface := _interface(each)) is not None)


def check_echoes(card: Card) -> None:
    """Raises `CardRefused` when members of 0.3, outside a signature, lead elsewhere than the signed interfaces."""
    signed = {interface.get("url") for interface in _objects(core_of(card), "supportedInterfaces", MAX_INTERFACES)}
    extra = [interface.get("url") for interface in _objects(card, "additionalInterfaces", MAX_INTERFACES)]
    for url in (card.get("url"), *extra):
        if url is not None and url not in signed:
            raise CardRefused("the signature does not cover an address of the card, which is none of the signed ones")


def is_legacy(card: Card) -> bool:
    """Whether this is a card of 0.3 alone."""
    return "supportedInterfaces" not in card and isinstance(card.get("url"), str)


def http_url(text: str) -> SplitResult | None:
    """The parts of an absolute http(s) URL that names a host and no user; `None` for anything else."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return None
    plain = text.isascii() and text.isprintable() and " " not in text and "\\" not in text
    usable = parts.scheme in {"http", "https"} and bool(host) and "@" not in parts.netloc and not parts.fragment
    return parts if plain and usable and len(text) <= MAX_URL else None


def frozen(card: Card) -> FrozenDict:
    """A deep-frozen copy; its size and depth are bounded by `read_card`."""
    return cast("FrozenDict", _frozen(card))


def _frozen(value: object) -> object:
    if isinstance(value, Mapping):
        return FrozenDict({name: _frozen(inner) for name, inner in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_frozen(inner) for inner in value)
    return value


def _once_each(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a member stands twice in one object")
    return value


def _check_values(value: object, path: tuple[str, ...]) -> None:
    if len(path) > MAX_DEPTH:
        raise CardRefused(f"the card is nested deeper than {MAX_DEPTH} levels")
    for name, inner in _children(value):
        _check_text(name, path)
        _check_values(inner, (*path, name))
    if isinstance(value, str):
        _check_text(value, path)
    if isinstance(value, int) and abs(value) > codec.MAX_EXACT:
        raise CardRefused(f"{_dotted(path)} is a number that not every reader has exactly: write it as a text")


def _children(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list):
        yield from ((str(position), inner) for position, inner in enumerate(value))


def _check_text(text: str, path: tuple[str, ...]) -> None:
    if _DECEPTIVE.search(text):
        raise CardRefused(f"{_dotted(path)} holds characters that cannot be seen")


def _check_label(value: Card, name: str, where: str) -> None:
    label = value.get(name)
    if not isinstance(label, str) or not label.strip() or len(label) > MAX_NAME or not label.isprintable():
        raise CardRefused(f"{where}.{name} must be a line of 1 to {MAX_NAME} characters")


def _check_type(value: Card, name: str, kind: type, words: str) -> None:
    if name in value and value[name] is not None and not isinstance(value[name], kind):
        raise CardRefused(f"card.{name} must be {words}")


def _check_texts(value: Card, name: str, where: str) -> None:
    texts = value.get(name)
    if texts is None:
        return
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise CardRefused(f"{where}.{name} must be a list of texts")


def _check_capabilities(value: object) -> None:
    capabilities = value if isinstance(value, Mapping) else {}
    for name in ("streaming", "pushNotifications", "extendedAgentCard"):
        if not isinstance(capabilities.get(name), bool | None):
            raise CardRefused(f"card.capabilities.{name} must be true or false")
    for extension in _objects(capabilities, "extensions", MAX_INTERFACES):
        _check_label(extension, "uri", "card.capabilities.extensions")


def _check_skills(skills: Sequence[Card]) -> None:
    ids: set[object] = set()
    for skill in skills:
        for name in ("id", "name"):
            _check_label(skill, name, "card.skills")
        for name in ("tags", "examples", "inputModes", "outputModes"):
            _check_texts(skill, name, "card.skills")
        if skill["id"] in ids:
            raise CardRefused("card.skills has two of one id")
        ids.add(skill["id"])


def _objects(value: Card, name: str, most: int) -> Sequence[Card]:
    items = value.get(name)
    if items is None:
        return ()
    if not isinstance(items, list | tuple) or len(items) > most:
        raise CardRefused(f"card.{name} must be a list of at most {most}")
    if not all(isinstance(item, Mapping) for item in items):
        raise CardRefused(f"card.{name} must be a list of objects")
    return items


def _interface(value: Card) -> Interface | None:
    url, binding, tenant = value.get("url"), value.get("protocolBinding"), value.get("tenant", "")
    version = _VERSION.fullmatch(str(value.get("protocolVersion", "")))
    if not isinstance(url, str) or binding not in _BINDINGS or version is None or not isinstance(tenant, str):
        return None
    if not (_is_grpc(url) if binding == "GRPC" else http_url(url) is not None) or _leads_nowhere_good(url):
        return None
    if len(tenant) > MAX_NAME or not tenant.isprintable():
        return None
    return Interface(url, binding, VERSION if version[1] == VERSION else LEGACY_VERSION, tenant)


def _is_grpc(url: str) -> bool:
    return _GRPC_AUTHORITY.fullmatch(url) is not None or http_url(url) is not None


def _leads_nowhere_good(url: str) -> bool:
    """Link-local is where clouds keep their machines' credentials; no agent is there, nor at many or no addresses."""
    host = host_of(url)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _NUMERIC.fullmatch(host.rpartition(".")[2]) is not None  # an address in disguise (`inet_aton`)
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped else address
    return inner.is_link_local or inner.is_multicast or inner.is_unspecified


def host_of(url: str) -> str:
    """The host of an interface, in lower case: of a URL, or of the `host:port` that gRPC writes. Empty for neither."""
    try:
        return (urlsplit(url if "://" in url else f"//{url}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path) if all(part.isprintable() for part in path) else path[0]
