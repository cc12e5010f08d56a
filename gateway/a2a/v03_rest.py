"""HTTP+JSON of A2A 0.3: its routes under `/v1/`, and bodies that are protobuf messages of 0.3 written as JSON.

Its interface has the same URL as that of 1.0: with `A2A-Version` empty or 0.3 a path is read by `route_of_03`, with
1.0 `/v1/..` would be the tenant `v1`. Unlike JSON-RPC, bodies of requests may be in snake_case, bytes of files are
Base64 twice, and a push configuration is named `tasks/{task}/pushNotificationConfigs/{id}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from gateway.a2a.v03_cards import card_from_03, card_to_dual
from gateway.a2a.v03_objects import PROTO
from gateway.a2a.v03_requests import METHODS, UnknownMethod, request_to_03, upgraded, with_config_id
from gateway.a2a.v03_shapes import (
    MAX_COUNT,
    TEXT,
    Kind,
    Member,
    NotConvertible,
    Shape,
    entries,
    listed,
    snake_case,
)

_ID: Final = r"(?P<id>[^/]+?)"
_CONFIG_ID: Final = r"(?P<pushNotificationConfigId>[^/]+)"
_ROUTES: Final = tuple(
    (verbs, re.compile(pattern), method)
    for verbs, pattern, method in (
        (("POST",), "/v1/message:send", "message/send"),
        (("POST",), "/v1/message:stream", "message/stream"),
        (("POST",), f"/v1/tasks/{_ID}:cancel", "tasks/cancel"),
        (("GET", "POST"), f"/v1/tasks/{_ID}:subscribe", "tasks/resubscribe"),
        (("GET",), f"/v1/tasks/{_ID}", "tasks/get"),
        (("POST",), f"/v1/tasks/{_ID}/pushNotificationConfigs", "tasks/pushNotificationConfig/set"),
        (("GET",), f"/v1/tasks/{_ID}/pushNotificationConfigs", "tasks/pushNotificationConfig/list"),
        (("GET",), f"/v1/tasks/{_ID}/pushNotificationConfigs/{_CONFIG_ID}", "tasks/pushNotificationConfig/get"),
        (("DELETE",), f"/v1/tasks/{_ID}/pushNotificationConfigs/{_CONFIG_ID}", "tasks/pushNotificationConfig/delete"),
        (("GET",), "/v1/card", "agent/getAuthenticatedExtendedCard"),
    )
)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CUSTOM_VERB = re.compile(r":(cancel|subscribe)$")
_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class RestCall:
    """A request to an agent of 0.3: `path` follows the interface's URL, `body` is `None` where there is none."""

    verb: str
    path: str
    query: Mapping[str, str]
    body: dict[str, object] | None


def route_of_03(verb: str, path: str) -> tuple[str, dict[str, str]] | None:
    """The JSON-RPC method of 0.3 that a route is, with the `params` that its path gives; `None` when there is none.

    `path` is what follows the agent's own path in the request line, still percent-encoded.
    """
    for verbs, pattern, method in _ROUTES:
        match = pattern.fullmatch(path) if verb in verbs else None
        if match is not None:
            return _decoded(method, match.groupdict())
    return None


def verbs_of_03(path: str) -> tuple[str, ...]:
    """What may be done with a path (`Allow` of a 405); empty when nothing is there."""
    return tuple(sorted({verb for verb in ("DELETE", "GET", "POST") if route_of_03(verb, path) is not None}))


def _decoded(method: str, written: Mapping[str, str]) -> tuple[str, dict[str, str]] | None:
    ids: dict[str, str] = {}
    for name, segment in written.items():
        try:
            ids[name] = unquote_to_bytes(segment.encode("ascii")).decode()
        except UnicodeError:
            return None
        if "/" in ids[name] or _BAD_ESCAPE.search(segment):
            return None
    if method == "tasks/get" and _CUSTOM_VERB.search(ids["id"]):
        return None  # a custom verb that is asked for with another method than its own is no id
    return method, ids


def rest_request_from_03(
    method: str, ids: Mapping[str, str], query: Mapping[str, str], body: object
) -> tuple[str, dict[str, object]]:
    """The operation of 1.0 and its request. `query` is without `A2A-Version`; `body` is `None` when it is empty."""
    name = METHODS[method]
    if query and (method != "tasks/get" or [snake_case(key) for key in query] != ["history_length"]):
        raise NotConvertible("query: only one historyLength, and only to get a task, is known to A2A 0.3")
    if name in ("SendMessage", "SendStreamingMessage"):
        return name, PROTO.send.up(body, "", True)
    if name == "CreateTaskPushNotificationConfig":
        return name, _created(ids["id"], body)
    _check_bodiless(ids, body)
    length = {"historyLength": _number(*query.values())} if query else {}
    return name, upgraded(name, {**ids, **length})


def _number(value: str) -> int:
    if not _NUMBER.fullmatch(value) or int(value) > MAX_COUNT:
        raise NotConvertible("historyLength: must be a whole number")
    return int(value)


def _check_bodiless(ids: Mapping[str, str], body: object) -> None:
    """Nothing but the name of what the path names may stand in the body (POST with `body: "*"`)."""
    found = _NAMED.up({} if body is None else body, "", True)
    if found and not (ids and found == {"name": f"tasks/{ids['id']}"}):
        raise NotConvertible("name: is not the task of the path")


def _created(task_id: str, body: object) -> dict[str, object]:
    found = _CREATE.up(_enveloped(body), "", True)
    outer = entries(found["config"], "config")
    config = dict(entries(outer["pushNotificationConfig"], "config"))
    said = found.get("configId") or config.get("id")
    if said and config.get("id", said) not in (said, ""):
        raise NotConvertible("configId: is not the id of the configuration")
    if found.get("parent") not in (None, "", f"tasks/{task_id}"):
        raise NotConvertible("parent: is not the task of the path")
    made = with_config_id({**config, "taskId": task_id, **({"id": said} if said else {})})
    accepted = (None, "", f"tasks/{task_id}/pushNotificationConfigs/{made['id']}")
    if outer.get("name") not in (*accepted, f"tasks/{task_id}", f"tasks/{task_id}/pushNotificationConfigs/"):
        raise NotConvertible("config.name: is not the configuration of the path")
    return made


def _enveloped(body: object) -> object:
    """The route's body is the request's `config` alone; some clients send all of the request, and some that."""
    bare = isinstance(body, Mapping) and any(snake_case(str(key)) == "push_notification_config" for key in body)
    return {"config": body} if bare else body


def rest_request_to_03(name: str, params: object) -> RestCall:
    """The HTTP request of 0.3 for a request of 1.0 in canonical form (without `tenant`)."""
    method, old = request_to_03(name, params)
    if method in ("message/send", "message/stream"):
        return RestCall("POST", "/v1/" + method.replace("/", ":"), {}, PROTO.send.down(params, "", True))
    if method == "tasks/pushNotificationConfig/set":
        return _creating(PROTO.task_push.down(params, "", True))
    length = old.get("historyLength")
    query = {} if length is None else {"historyLength": str(length)}
    verb, template = _PATHS[method]
    ids = {key: _segment(value, key) for key, value in old.items() if isinstance(value, str)}
    try:
        return RestCall(verb, template.format_map(ids), query, None)
    except KeyError as exc:
        raise NotConvertible(f"{exc.args[0]}: is required") from exc


def _creating(config: object) -> RestCall:
    named = entries(config, "")
    task, _, config_id = str(named["name"]).removeprefix("tasks/").partition("/pushNotificationConfigs/")
    body: dict[str, object] = {"parent": f"tasks/{task}", "configId": config_id, "config": dict(named)}
    return RestCall("POST", f"/v1/tasks/{_segment(task, 'taskId')}/pushNotificationConfigs", {}, body)


def _segment(value: str, name: str) -> str:
    """An id as a segment of a path. `.` and `..` would be taken for steps."""
    if value in ("", ".", ".."):
        raise NotConvertible(f"{name}: cannot stand in a path")
    return quote(value, safe="")


_PATHS: Final[Mapping[str, tuple[str, str]]] = {
    "tasks/get": ("GET", "/v1/tasks/{id}"),
    "tasks/cancel": ("POST", "/v1/tasks/{id}:cancel"),
    "tasks/resubscribe": ("POST", "/v1/tasks/{id}:subscribe"),
    "tasks/pushNotificationConfig/get": ("GET", "/v1/tasks/{id}/pushNotificationConfigs/{pushNotificationConfigId}"),
    "tasks/pushNotificationConfig/list": ("GET", "/v1/tasks/{id}/pushNotificationConfigs"),
    "tasks/pushNotificationConfig/delete": (
        "DELETE",
        "/v1/tasks/{id}/pushNotificationConfigs/{pushNotificationConfigId}",
    ),
    "agent/getAuthenticatedExtendedCard": ("GET", "/v1/card"),
}


def rest_result_to_03(name: str, result: object) -> object:
    """The body of 0.3 for the result of an operation of 1.0."""
    if name == "DeleteTaskPushNotificationConfig":
        return {}
    if name == "GetExtendedAgentCard":
        return card_to_dual(result)
    return _one(_result(name).down(result, "", False), name)


def rest_result_from_03(name: str, result: object) -> object:
    """The result of an operation of 1.0 for the body of an agent of 0.3."""
    if name == "DeleteTaskPushNotificationConfig":
        return {}
    if name == "GetExtendedAgentCard":
        return card_from_03(result)
    return _one(_result(name).up(result, "", False), name)


def rest_event_to_03(event: object) -> object:
    """What a stream of 0.3 has as data, for a `StreamResponse` of 1.0."""
    return _one(_EVENT.down(event, "", False), "SendMessage")


def rest_event_from_03(event: object) -> object:
    """The `StreamResponse` of 1.0 for the data of a stream of 0.3."""
    return _one(_EVENT.up(event, "", False), "SendMessage")


def _result(name: str) -> Kind:
    if name not in _RESULTS:
        raise UnknownMethod(f"{name} has no result in A2A 0.3")
    return _RESULTS[name]


def _one(value: object, name: str) -> object:
    """Of wrapped results, the one that a response may hold."""
    if name != "SendMessage":
        return value
    found = [member for member in entries(value, "") if member in _PAYLOADS]
    if len(found) != 1:
        raise NotConvertible(f"must have exactly one of {', '.join(_PAYLOADS)}")
    return value


_PAYLOADS: Final = ("task", "message", "statusUpdate", "artifactUpdate")
_TASK: Final = Kind(PROTO.task.up, PROTO.task.down)
_REPLY: Final = (Member("task", _TASK), Member("message", Kind(PROTO.message.up, PROTO.message.down), also=("msg",)))
_RESPONSE: Final = Shape(_REPLY, snake=True)
_EVENT: Final = Shape(
    (
        *_REPLY,
        Member("statusUpdate", PROTO.status_update),
        Member("artifactUpdate", Kind(PROTO.artifact_update.up, PROTO.artifact_update.down)),
    ),
    snake=True,
)
_CONFIGS: Final = Shape((Member("configs", listed(PROTO.task_push)), Member("nextPageToken", TEXT)), snake=True)
_RESULTS: Final[Mapping[str, Kind]] = {
    "SendMessage": Kind(_RESPONSE.up, _RESPONSE.down),
    "GetTask": _TASK,
    "CancelTask": _TASK,
    "CreateTaskPushNotificationConfig": PROTO.task_push,
    "GetTaskPushNotificationConfig": PROTO.task_push,
    "ListTaskPushNotificationConfigs": Kind(_CONFIGS.up, _CONFIGS.down),
}

_NAMED: Final = Shape((Member("name", TEXT),))
_CONFIG: Final = Shape(
    (Member("name", TEXT), Member("pushNotificationConfig", Kind(PROTO.push.up, PROTO.push.down), need=True)),
    snake=True,
)
_CREATE: Final = Shape(
    (Member("parent", TEXT), Member("configId", TEXT), Member("config", Kind(_CONFIG.up, _CONFIG.down), need=True)),
    snake=True,
)
