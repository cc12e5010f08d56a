"""What policy may know of an A2A request besides its parameters: read from the canonical form, values only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from gateway import codec

_KINDS: Final = ("text", "raw", "url", "data")
_UNLABELLED: Final[Mapping[str, str]] = {"text": "text/plain", "data": "application/json"}
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|[0-9a-f:.]*:[0-9a-f:.]*")
_PLAIN_URL = re.compile(r"[!-\[\]-~]+")  # printable ASCII without the backslash, at which parsers differ


def facts_of(operation: str, params: Mapping[str, object]) -> dict[str, object]:
    """The facts for an operation of `OPERATIONS`. What cannot be told is "", -1 or false, and never what allows."""
    if operation in {"SendMessage", "SendStreamingMessage"}:
        return _of_message(params)
    if operation == "CreateTaskPushNotificationConfig":
        return {"task_id": _text(params, "taskId"), **_of_push(params)}
    task = _text(params, "taskId") or ("" if operation == "ListTasks" else _text(params, "id"))
    return {
        "task_id": task,
        "context_id": _text(params, "contextId"),
        "history_length": _number(params, "historyLength"),
    }


def _of_message(params: Mapping[str, object]) -> dict[str, object]:
    message, configuration = _object(params, "message"), _object(params, "configuration")
    parts = [part for part in _list(message, "parts") if isinstance(part, Mapping)]
    kinds = [_kind(part) for part in parts]
    urls = [part["url"] for part, kind in zip(parts, kinds, strict=True) if kind == "url"]
    return {
        "role": _text(message, "role"),
        "parts": len(parts),
        "part_kinds": sorted(set(kinds)),
        "media_types": sorted({_media_type(part, kind) for part, kind in zip(parts, kinds, strict=True)}),
        "bytes": sum(_size(part, kind) for part, kind in zip(parts, kinds, strict=True)),
        "has_url_parts": bool(urls),
        "url_hosts": sorted({host_of(url)[1] for url in urls}),
        "task_id": _text(message, "taskId"),
        "context_id": _text(message, "contextId"),
        "reference_task_ids": list(_list(message, "referenceTaskIds")),
        "accepted_output_modes": list(_list(configuration, "acceptedOutputModes")),
        "return_immediately": configuration.get("returnImmediately") is True,
        "history_length": _number(configuration, "historyLength"),
        **_of_push(_object(configuration, "taskPushNotificationConfig")),
    }


def _of_push(config: Mapping[str, object]) -> dict[str, object]:
    """Where notifications are to go. `push` tells an unreadable address from none."""
    scheme, host = host_of(config.get("url"))
    return {"push": "url" in config, "push_scheme": scheme, "push_host": host}


def host_of(url: object) -> tuple[str, str]:
    """Scheme and host, in lower case. Both are empty where parsers might not agree on them."""
    if not isinstance(url, str) or not _PLAIN_URL.fullmatch(url):
        return "", ""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return "", ""
    return (parts.scheme, host) if _HOST.fullmatch(host) else ("", "")


def _kind(part: Mapping[str, object]) -> str:
    return next((kind for kind in _KINDS if kind in part), "")


def _media_type(part: Mapping[str, object], kind: str) -> str:
    """The media type that the sender claims, without its parameters; what the kind implies when none is claimed."""
    claimed = _text(part, "mediaType").partition(";")[0].strip().lower()
    return claimed or _UNLABELLED.get(kind, "application/octet-stream")


def _size(part: Mapping[str, object], kind: str) -> int:
    """Bytes of content: decoded for `raw`, as JSON for `data`; a `url` brings none."""
    value = part.get(kind)
    if kind == "data":
        return len(codec.dumps(value))
    if not isinstance(value, str):
        return 0
    if kind == "raw":
        return len(value) // 4 * 3 - value[-2:].count("=")
    return len(value.encode()) if kind == "text" else 0


def _object(params: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = params.get(name)
    return value if isinstance(value, Mapping) else {}


def _list(params: Mapping[str, object], name: str) -> tuple[object, ...]:
    value = params.get(name)
    return tuple(value) if isinstance(value, (list, tuple)) else ()


def _text(params: Mapping[str, object], name: str) -> str:
    value = params.get(name)
    return value if isinstance(value, str) else ""


def _number(params: Mapping[str, object], name: str) -> int:
    value = params.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1
