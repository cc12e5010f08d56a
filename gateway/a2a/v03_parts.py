"""Parts: text, a file or data, told apart by `kind` in 0.3 and by the member that is there in 1.0."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.a2a.v03_shapes import (
    BASE64,
    FREE,
    TEXT,
    Kind,
    Member,
    NotConvertible,
    Shape,
    below,
    entries,
)

WRAPPED: Final = "data_part_compat"
"""In a part's metadata: its data is no object in 1.0, and stands in the member `value` (as a2a-sdk 1.x does it)."""


@dataclass(frozen=True, slots=True)
class Parts:
    """How one dialect of 0.3 writes parts."""

    file: Shape
    tagged: bool
    nested: bool
    """Whether data stands one level deeper (`{"data": {"data": ..}}`)."""

    @property
    def kind(self) -> Kind:
        """To be used in tables."""
        return Kind(self.up, self.down)

    def up(self, value: object, where: str, strict: bool) -> object:
        """The part of 1.0."""
        source = entries(value, where)
        content = _content(source, ("text", "file", "data"), where)
        if self.tagged and source.get("kind", content) != content:
            raise NotConvertible(f"{below(where, 'kind')}: must be {content!r} for a part that has {content!r}")
        if content == "text":
            return _TEXT_PART.up(source, where, strict)
        if content == "file":
            return self._file_up(source, where, strict)
        return self._data_up(source, where, strict)

    def down(self, value: object, where: str, strict: bool) -> object:
        """The part of 0.3. The names and media types of parts that are no files are left out: 0.3 has no place."""
        source = entries(value, where)
        content = _content(source, ("text", "raw", "url", "data"), where)
        if content == "text":
            out = _TEXT_PART.down(source, where, strict)
        elif content == "data":
            out = self._data_down(source, where, strict)
        else:
            out = _without(_ANY_PART.down(source, where, strict), ("kind", "file"))
            out["file"] = self._file_down(source, where)
        kind = "file" if content in ("raw", "url") else content
        return {**({"kind": kind} if self.tagged else {}), **_without(out, ("kind",))}

    def _file_up(self, source: Mapping[str, object], where: str, strict: bool) -> object:
        file = self.file.up(source["file"], below(where, "file"), strict)
        if ("raw" in file) == ("url" in file):
            raise NotConvertible(f"{below(where, 'file')}: must hold either the bytes of the file or where it is")
        outer = _ANY_PART.up(_without(source, ("file",)), where, strict)
        return {**outer, **_without(file, ("text", "data", "metadata"))}

    def _file_down(self, source: Mapping[str, object], where: str) -> object:
        held = {name: source[name] for name in ("raw", "url", "mediaType", "filename") if name in source}
        return self.file.down(held, where, strict=True)

    def _data_up(self, source: Mapping[str, object], where: str, strict: bool) -> object:
        out = _ANY_PART.up(_without(source, ("data",)), where, strict)
        data = entries(source["data"], below(where, "data"))
        if self.nested:
            data = entries(_only(data, "data", below(where, "data"), strict), below(where, "data.data"))
        out["data"] = data
        metadata = out.get("metadata")
        if isinstance(metadata, Mapping) and metadata.get(WRAPPED) is True:
            out["data"] = _only(data, "value", below(where, "data"), strict=True)
            out["metadata"] = _without(metadata, (WRAPPED,))
        return out if out.get("metadata") != {} else _without(out, ("metadata",))

    def _data_down(self, source: Mapping[str, object], where: str, strict: bool) -> dict[str, object]:
        out = _ANY_PART.down(_without(source, ("data",)), where, strict)
        data = source["data"]
        metadata = entries(out.get("metadata", {}), below(where, "metadata"))
        if WRAPPED in metadata:
            raise NotConvertible(f"{below(where, 'metadata')}: {WRAPPED!r} has a meaning of its own in 0.3")
        if not isinstance(data, Mapping):
            data = {"value": data}
            out["metadata"] = {**metadata, WRAPPED: True}
        out["data"] = {"data": data} if self.nested else data
        return out


def _content(source: Mapping[str, object], names: tuple[str, ...], where: str) -> str:
    """The one content that a part has. `null` is a value only of 1.0 data."""
    found = [name for name in names if source.get(name) is not None]
    if not found and "data" in source and "raw" in names:
        return "data"
    if len(found) != 1:
        raise NotConvertible(f"{where}: a part has exactly one of {', '.join(names)}")
    return found[0]


def _only(source: Mapping[str, object], name: str, where: str, strict: bool) -> object:
    if name not in source or (strict and len(source) > 1):
        raise NotConvertible(f"{where}: must be an object with the one member {name!r}")
    return source[name]


def _without(source: Mapping[str, object], names: tuple[str, ...]) -> dict[str, object]:
    return {name: value for name, value in source.items() if name not in names}


def _twice_up(value: object, where: str, strict: bool) -> object:
    """Base64 of Base64, which is what the libraries of 0.3 make of bytes when a body is a protobuf message."""
    try:
        inner = base64.b64decode(str(BASE64.up(value, where, strict)), validate=True).decode("ascii")
    except (binascii.Error, ValueError) as exc:
        raise NotConvertible(f"{where}: must be the Base64 of Base64") from exc
    return BASE64.up(inner, where, strict)


def _twice_down(value: object, where: str, strict: bool) -> object:
    return base64.b64encode(str(BASE64.down(value, where, strict)).encode()).decode("ascii")


def _unread(_value: object, _where: str, _strict: bool) -> object:
    return None


_METADATA: Final = Member("metadata", FREE)
_FILE_WORDS: Final = {"mediaType": TEXT.down, "filename": TEXT.down}
_OTHERS_OLD: Final = {"kind": _unread, "text": _unread, "data": _unread, "file": _unread}
_OTHERS_NEW: Final = {**_FILE_WORDS, "text": _unread, "data": _unread, "raw": _unread, "url": _unread}
_TEXT_PART: Final = Shape(
    (Member("text", TEXT, need=True), _METADATA), only_old=_OTHERS_OLD, only_new={**_OTHERS_NEW, "text": TEXT.down}
)
_ANY_PART: Final = Shape((_METADATA,), only_old=_OTHERS_OLD, only_new=_OTHERS_NEW)

_FILE: Final = Shape(
    (
        Member("bytes", BASE64, "raw"),
        Member("uri", TEXT, "url"),
        Member("mimeType", TEXT, "mediaType"),
        Member("name", TEXT, "filename"),
    )
)
_PROTO_FILE: Final = Shape(
    (
        Member("fileWithBytes", Kind(_twice_up, _twice_down), "raw"),
        Member("fileWithUri", TEXT, "url"),
        Member("mimeType", TEXT, "mediaType"),
        Member("name", TEXT, "filename"),
    ),
    snake=True,
)

PART: Final = Parts(_FILE, tagged=True, nested=False).kind
"""In the JSON of 0.3."""
PROTO_PART: Final = Parts(_PROTO_FILE, tagged=False, nested=True).kind
"""In the bodies of 0.3's HTTP+JSON, which are protobuf messages."""
