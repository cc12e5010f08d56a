"""The `Mcp-*` request headers of MCP 2026-07-28, both written and checked (basic/transports/streamable-http).

Own code rather than the SDK's helper: this is on the path of every call, and importing the SDK would cost the
gateway 40 MB and a second of start. A test holds it against the SDK's.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, cast

ParamHeaders: TypeAlias = "tuple[tuple[tuple[str, ...], str, str], ...]"

PARAM_PREFIX: Final = "mcp-param-"

_SENTINEL = re.compile(r"=\?base64\?(.*)\?=", re.DOTALL)
_PLAIN = re.compile(r"[\x20-\x7e]*")
_SENDABLE = re.compile(r"[\t\x20-\x7e]*")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DECIMAL = re.compile(r"-?[0-9]{1,400}(?:\.0{1,400})?")
_TYPES: Final = frozenset({"string", "integer", "boolean"})
_MAX_SCHEMA_NODES: Final = 10_000


def encode_value(value: str) -> str:
    """A header value that survives HTTP: as it is, or wrapped in the Base64 sentinel (section "Value Encoding")."""
    if _PLAIN.fullmatch(value) and value == value.strip() and not _SENTINEL.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode('ascii')}?="


def decode_value(value: str) -> str | None:
    """The text that a header value stands for; `None` for a malformed one, which then equals nothing.

    Visible ASCII, space and tab are all that may stand there (section "Value Encoding").
    """
    if not _SENDABLE.fullmatch(value):
        return None
    match = _SENTINEL.fullmatch(value)
    if match is None:
        return value
    try:
        raw = base64.b64decode(match.group(1), validate=True)
        if base64.b64encode(raw).decode("ascii") != match.group(1):
            return None
        return raw.decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None


def annotations_of(schema: object) -> ParamHeaders:
    """The `x-mcp-header` annotations of a tool's input schema (section "Custom Headers from Tool Parameters").

    Raises `ValueError` with the reason when one is invalid: the tool must then be left out of every list.
    """
    found: list[tuple[tuple[str, ...], str, str]] = []
    tokens: set[str] = set()
    for path, node in _positions(schema):
        if "x-mcp-header" not in node:
            continue
        token, kind = _annotation(path, node)
        if token.lower() in tokens:
            raise ValueError(f"x-mcp-header {token!r} is used twice")
        tokens.add(token.lower())
        found.append((cast("tuple[str, ...]", path), token, kind))
    return tuple(found)


def _annotation(path: tuple[str, ...] | None, node: Mapping[str, object]) -> tuple[str, str]:
    token, kind = node["x-mcp-header"], node.get("type")
    if not path:
        raise ValueError("x-mcp-header stands where no chain of properties leads")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise ValueError(f"property {'.'.join(path)!r}: x-mcp-header is not an HTTP token")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"property {'.'.join(path)!r}: x-mcp-header needs type string, integer or boolean")
    return token, kind


_SINGLE: Final = (
    "items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames",
    "unevaluatedProperties", "not", "if", "then", "else", "contentSchema",
)  # fmt: skip
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS: Final = ("patternProperties", "dependentSchemas", "$defs", "definitions")


def _positions(root: object) -> Sequence[tuple[tuple[str, ...] | None, Mapping[str, object]]]:
    """Every schema position with its chain of `properties` keys, `None` once another keyword was crossed."""
    result: list[tuple[tuple[str, ...] | None, Mapping[str, object]]] = []
    stack: list[tuple[tuple[str, ...] | None, object]] = [((), root)]
    while stack:
        path, node = stack.pop()
        if not isinstance(node, Mapping):
            continue
        if len(result) >= _MAX_SCHEMA_NODES:
            raise ValueError("the input schema is too large")
        result.append((path, node))
        stack.extend(_children(path, node))
    return result


def _children(path: tuple[str, ...] | None, node: Mapping[str, object]) -> list[tuple[tuple[str, ...] | None, object]]:
    children: list[tuple[tuple[str, ...] | None, object]] = []
    properties = node.get("properties")
    if isinstance(properties, Mapping):
        children += [((*path, str(key)) if path is not None else None, sub) for key, sub in properties.items()]
    children += [(None, node[key]) for key in _SINGLE if key in node]
    for key in _LISTS:
        value = node.get(key)
        children += [(None, sub) for sub in value] if isinstance(value, list | tuple) else []
    for key in _MAPS:
        value = node.get(key)
        children += [(None, sub) for sub in value.values()] if isinstance(value, Mapping) else []
    return children


def param_headers(annotations: ParamHeaders, arguments: Mapping[str, object]) -> list[tuple[bytes, bytes]]:
    """The `Mcp-Param-*` headers that mirror these arguments."""
    headers = []
    for path, token, _ in annotations:
        rendered = _rendered(_value_at(arguments, path))
        if rendered is not None:
            headers.append((f"Mcp-Param-{token}".encode(), encode_value(rendered).encode()))
    return headers


def param_mismatch(
    annotations: ParamHeaders, arguments: Mapping[str, object], headers: Mapping[str, str]
) -> str | None:
    """What disagrees between the `Mcp-Param-*` headers (lower-case names) and the arguments, or `None`.

    Every recognised header must be there exactly when its argument is, and say the same.
    """
    for path, token, kind in annotations:
        sent = headers.get(PARAM_PREFIX + token.lower())
        value = _value_at(arguments, path)
        rendered = _rendered(value)
        if rendered is None:
            if sent is not None:
                return f"Mcp-Param-{token} is present but the argument {'.'.join(path)!r} is not"
            continue
        if sent is None:
            return f"Mcp-Param-{token} is missing but the argument {'.'.join(path)!r} is present"
        decoded = decode_value(sent)
        if decoded is None or not _same(kind, value, rendered, decoded):
            return f"Mcp-Param-{token} does not match the argument {'.'.join(path)!r}"
    return None


def _same(kind: str, value: object, rendered: str, decoded: str) -> bool:
    if kind == "integer" and isinstance(value, int | float) and not isinstance(value, bool):
        return bool(_DECIMAL.fullmatch(decoded)) and value == int(decoded.partition(".")[0])
    return decoded == rendered


def _rendered(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    return None


def _value_at(arguments: Mapping[str, object], path: tuple[str, ...]) -> object:
    node: object = arguments
    for key in path:
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return node
