"""The identity of a definition: which of its parts a model or a person acts on, and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, cast

from gateway import codec
from gateway.types import FrozenDict

Kind: TypeAlias = Literal["tool", "prompt", "resource", "template"]
KINDS: Final[tuple[Kind, ...]] = ("tool", "prompt", "resource", "template")

MAX_DEFINITION_BYTES: Final = 256 * 1024
MAX_DEFINITION_DEPTH: Final = 64

_PINNED_FIELDS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "tool": ("name", "title", "description", "inputSchema", "outputSchema", "annotations", "icons"),
    "prompt": ("name", "title", "description", "arguments", "icons"),
    "resource": ("uri", "name", "title", "description", "mimeType", "annotations", "icons"),
    "template": ("uriTemplate", "name", "title", "description", "mimeType", "annotations", "icons"),
}


class Unusable(ValueError):
    """A definition cannot be offered; the text says why and quotes none of it."""


def freeze_definition(value: Mapping[str, object]) -> FrozenDict:
    """A deep-frozen copy. Raises `Unusable` beyond 64 levels: a schema so deep is an attack on whoever reads it."""
    return cast("FrozenDict", _freeze(dict(value), 0))


def _freeze(value: object, depth: int) -> object:
    if not isinstance(value, (dict, list, tuple)):
        return value
    if depth >= MAX_DEFINITION_DEPTH:
        raise Unusable(f"nested deeper than {MAX_DEFINITION_DEPTH} levels")
    if isinstance(value, dict):
        return FrozenDict({str(key): _freeze(item, depth + 1) for key, item in value.items()})
    return tuple([_freeze(item, depth + 1) for item in value])


def pinned_part(kind: Kind, definition: Mapping[str, object]) -> bytes:
    """Canonical JSON of the parts that a pin covers: those a model or a person decides by.

    Besides the fields of the kind these are the user-interface keys of `_meta` (SEP-1865). An absent and a `null`
    member are the same. A resource's `annotations.lastModified` and its `size` are left out: they change with the data.
    """
    part = {field: definition[field] for field in _PINNED_FIELDS[kind] if definition.get(field) is not None}
    if kind in {"resource", "template"}:
        part = _without_last_modified(part)
    interface = _interface(definition.get("_meta"))
    if interface:
        part["_meta"] = interface
    return codec.canonical(part)


def _without_last_modified(part: dict[str, object]) -> dict[str, object]:
    annotations = part.get("annotations")
    if not isinstance(annotations, dict):
        return part
    return {**part, "annotations": {key: value for key, value in annotations.items() if key != "lastModified"}}


def _interface(meta: object) -> dict[str, object]:
    if not isinstance(meta, dict):
        return {}
    return {key: value for key, value in meta.items() if key == "ui" or key.startswith("ui/")}


def digest_of(part: bytes) -> str:
    """`sha256:` and the hexadecimal hash of a pinned part."""
    return "sha256:" + hashlib.sha256(part).hexdigest()
