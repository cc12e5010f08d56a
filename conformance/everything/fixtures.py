"""The exact values that the official suite looks for in what a server answers."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Final

from mcp_types import AudioContent, EmbeddedResource, ImageContent, TextContent, TextResourceContents


def _png() -> bytes:
    """One red pixel: the smallest truecolour PNG (RFC 2083)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\x00\xff\x00\x00")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def _wav() -> bytes:
    """Two samples of silence: mono, 8 kHz, 16 bit PCM."""
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", 4) + b"\x00" * 4
    return b"RIFF" + struct.pack("<I", len(body)) + body


PNG: Final = base64.b64encode(_png()).decode()
WAV: Final = base64.b64encode(_wav()).decode()

SIMPLE_TEXT: Final = "This is a simple text response for testing."
STATIC_TEXT: Final = "This is the content of the static text resource."

OBJECT_SCHEMA: Final[dict[str, object]] = {"type": "object", "properties": {}}


def object_schema(**properties: dict[str, object]) -> dict[str, object]:
    """A JSON Schema object that requires every one of `properties`."""
    return {"type": "object", "properties": properties, "required": list(properties)}


NAME_FORM: Final = object_schema(name={"type": "string"})
CONFIRM_FORM: Final = object_schema(ok={"type": "boolean"})
COLOR_FORM: Final = object_schema(color={"type": "string"})
CONTEXT_FORM: Final = object_schema(context={"type": "string"})
USER_FORM: Final = object_schema(
    username={"type": "string", "description": "User's response"},
    email={"type": "string", "description": "User's email address"},
)

# SEP-1034: every primitive type with a default.
DEFAULTS_FORM: Final[dict[str, object]] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    },
}


def _titled(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"const": value, "title": title} for value, title in pairs]


# SEP-1330: the five ways to write an enumeration.
ENUMS_FORM: Final[dict[str, object]] = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {"type": "string", "oneOf": _titled(("value1", "First Option"), ("value2", "Second Option"))},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        "titledMulti": {
            "type": "array",
            "items": {"anyOf": _titled(("value1", "First Choice"), ("value2", "Second Choice"))},
        },
    },
}

# SEP-1613 and SEP-2106: keywords that must survive tools/list.
JSON_SCHEMA_2020_12: Final[dict[str, object]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

# SEP-2243: an argument that clients mirror into the `Mcp-Param-Region` header.
HEADER_SCHEMA: Final[dict[str, object]] = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
}


def text(value: str) -> TextContent:
    """A text block."""
    return TextContent(text=value)


def image() -> ImageContent:
    """A one-pixel image block."""
    return ImageContent(data=PNG, mime_type="image/png")


def audio() -> AudioContent:
    """A block of silence."""
    return AudioContent(data=WAV, mime_type="audio/wav")


def embedded(uri: str, value: str, mime_type: str = "text/plain") -> EmbeddedResource:
    """A block that carries a text resource."""
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=value))
