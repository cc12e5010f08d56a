"""What came of an operation, as the content of a tool result. Each output is a block of its own, so none can pose."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from gateway import codec
from gateway.builtin import payload_of
from gateway.types import Result
from sandboxes.code.replies import shown

Block = Mapping[str, object]

_NOT_STRUCTURED: Final = frozenset({"operation", "images", "data", "text"})
_MOST_LISTED: Final = 50


def tool_result(result: Result) -> Result:
    """The result of a tool call from that of the operation, which policy may have redacted meanwhile."""
    value = payload_of(result, "sandbox")
    failed = result.outcome != "ok"
    problem = value.get("problem")
    if isinstance(problem, str):
        answer: dict[str, object] = {"content": [_text_block(_with_session(problem, value))]}
    else:
        structured = {key: item for key, item in value.items() if key not in _NOT_STRUCTURED}
        answer = {"content": _blocks(value), "structuredContent": structured}
    answer |= {"isError": failed, "resultType": "complete"}
    return Result(codec.dumps(answer), "tool_error" if failed else "ok", result.labels)


def session_in(result: Result) -> str:
    """The session that the operation worked in."""
    return _text(payload_of(result, "sandbox"), "session")


def _blocks(value: Mapping[str, object]) -> list[Block]:
    match value.get("operation"):
        case "run_code":
            return _run_blocks(value)
        case "read_file":
            return [_text_block(_with_session(_file_summary(value), value)), *_file_blocks(value)]
        case "write_file":
            path, size = shown(_text(value, "path")), value.get("size")
            return [_text_block(_with_session(f"wrote {path} ({size} bytes now)", value))]
        case "list_files":
            return [_text_block(_with_session(_listing(value), value))]
        case _:
            return [_text_block(f"session {_text(value, 'session')} has ended; its files are gone")]


def _run_blocks(value: Mapping[str, object]) -> list[Block]:
    how = "killed at its time limit" if value.get("timed_out") is True else "over"
    lines = [f"exit status {value.get('exit_status')}, {how} after {value.get('duration_s')} s"]
    if not value.get("stdout") and not value.get("stderr"):
        lines.append("it wrote nothing")
    images = [image for image in map(_image, _objects(value, "images")) if image is not None]
    files = _objects(value, "files")
    lines += [_file_line(file) for file in files[:_MOST_LISTED]]
    more = len(files[_MOST_LISTED:]) + (_number(value, "more_files"))
    lines += [f"and {more} more files"] if more else []
    blocks = [_text_block(_with_session("\n".join(lines), value))]
    blocks += [_text_block(f"{name}:\n{_text(value, name)}") for name in ("stdout", "stderr") if value.get(name)]
    return blocks + images


def _file_line(file: Mapping[str, object]) -> str:
    return f"{_text(file, 'change')} file {shown(_text(file, 'path'))} ({file.get('size')} bytes)"


def _file_summary(value: Mapping[str, object]) -> str:
    end = _number(value, "offset") + _number(value, "bytes")
    place = f"bytes {value.get('offset')} to {end} of {value.get('size')}"
    following = value.get("next_offset")
    rest = f"; go on with offset {following}" if following is not None else ""
    return f"{shown(_text(value, 'path'))}: {place}, {_text(value, 'mime_type')}{rest}"


def _file_blocks(value: Mapping[str, object]) -> list[Block]:
    if "text" in value:
        return [_text_block(_text(value, "text"))]
    kind, data = _text(value, "mime_type"), _text(value, "data")
    if not _is_base64(data):
        return []
    if kind.startswith("image/"):
        return [{"type": "image", "data": data, "mimeType": kind}]
    uri = f"sandbox://{quote(_text(value, 'session'))}/{quote(_text(value, 'path').lstrip('/'))}"
    return [{"type": "resource", "resource": {"uri": uri, "mimeType": kind, "blob": data}}]


def _listing(value: Mapping[str, object]) -> str:
    entries = _objects(value, "entries")
    lines = [f"{_text(entry, 'type')} {shown(_text(entry, 'path'))} ({entry.get('size')} bytes)" for entry in entries]
    if value.get("complete") is not True:
        lines.append("and more; list a directory below")
    return "\n".join(lines) or "there are no files"


def _image(image: Mapping[str, object]) -> Block | None:
    data = _text(image, "data")
    return {"type": "image", "data": data, "mimeType": _text(image, "mime_type")} if _is_base64(data) else None


def _is_base64(data: str) -> bool:
    """Whether policy left it whole."""
    try:
        base64.b64decode(data.encode(), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _with_session(text: str, value: Mapping[str, object]) -> str:
    new = "a new session; pass its id on to go on in it" if value.get("new_session") is True else "session"
    return f"{text}\n({new}: {_text(value, 'session')})"


def _text_block(text: str) -> Block:
    return {"type": "text", "text": text}


def _text(value: Mapping[str, object], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""


def _number(value: Mapping[str, object], name: str) -> int:
    found = value.get(name)
    return found if type(found) is int else 0


def _objects(value: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    found = value.get(name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
