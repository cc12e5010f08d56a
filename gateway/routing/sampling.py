"""`sampling/createMessage` of an MCP server, answered by a model of ours instead of the client's.

The question was permitted as the call that it is; the model is asked as another one, which policy sees as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway import codec
from gateway.codec import JsonObject
from gateway.errors import InvalidCall, UpstreamProtocolError
from gateway.models import Alias, parse_name
from gateway.ports import Relay, Upstream
from gateway.types import Authorized, Resource, Result

METHOD: Final = "sampling/createMessage"
ACTION: Final = "model.call"
API: Final = "messages"
_STOPS: Final[Mapping[str, str]] = {
    "end_turn": "endTurn", "stop_sequence": "stopSequence", "max_tokens": "maxTokens", "tool_use": "toolUse",
}  # fmt: skip
_PRIORITIES: Final = (("costPriority", "cheap"), ("speedPriority", "fast"))
"""What a server may wish for. How good the answer must be is the route's affair: a server does not pay for it."""


class Sampler:
    """The `Upstream` of `mcp.sampling.create` while `model()` names a model or a route."""

    def __init__(self, model: Callable[[], str], resolve: Callable[[str], Resource]) -> None:
        self._model, self._resolve = model, resolve

    def __call__(self, method: str) -> Upstream | None:
        """Itself, for what it carries out now."""
        return self if method == METHOD and self._model() else None

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """Ask the model, and answer as a client would."""
        params = authorized.call.params
        name = _named(self._model(), params)
        result = await relay.act(ACTION, API, self._resolve(name), request_of(params, name))
        return Result(codec.dumps(answer_of(result.payload)), labels=result.labels)


def _named(name: str, params: Mapping[str, object]) -> str:
    """The model, or the route with what the server prefers, where we prefer nothing."""
    wishes, parsed = params.get("modelPreferences"), parse_name(name)
    if not isinstance(wishes, Mapping) or not isinstance(parsed, Alias) or str(parsed) != parsed.route:
        return name
    numbers = {key: value for key, value in wishes.items() if isinstance(value, int | float)}
    most = max(numbers.values(), default=0)
    for key, word in _PRIORITIES:
        if numbers.get(key, 0) == most and most > 0.5:
            return f"{name}:{word}"
    return name


def request_of(params: Mapping[str, object], model: str) -> JsonObject:
    """The question as a body of the Messages API. Raises `InvalidCall`."""
    most = params.get("maxTokens")
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise InvalidCall("maxTokens is not a whole number above 0")
    body: JsonObject = {"model": model, "max_tokens": most}
    body["messages"] = [_message(item) for item in _objects(params.get("messages"), "messages")]
    for theirs, ours in (("systemPrompt", "system"), ("temperature", "temperature")):
        value = params.get(theirs)
        if isinstance(value, str | int | float):
            body[ours] = value
    stops = params.get("stopSequences")
    if isinstance(stops, list | tuple) and stops:
        body["stop_sequences"] = [str(stop) for stop in stops]
    if params.get("tools"):
        body["tools"] = [_tool(item) for item in _objects(params.get("tools"), "tools")]
        body["tool_choice"] = _choice(params.get("toolChoice"))
    return body


def _objects(value: object, name: str) -> Sequence[Mapping[str, object]]:
    items = value if isinstance(value, list | tuple) else ()
    found = [item for item in items if isinstance(item, Mapping)]
    if not found or len(found) != len(items):
        raise InvalidCall(f"{name} is not a list of objects")
    return found


def _message(item: Mapping[str, object]) -> JsonObject:
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "assistant"):
        raise InvalidCall("the role of a message is user or assistant")
    parts = content if isinstance(content, list | tuple) else (content,)
    return {"role": str(role), "content": [_block(part) for part in parts]}


def _block(part: object) -> JsonObject:
    kind = part.get("type") if isinstance(part, Mapping) else None
    match kind, part:
        case "text", {"text": str(text)}:
            return {"type": "text", "text": text}
        case "image", {"data": str(data), "mimeType": str(media)}:
            return {"type": "image", "source": {"type": "base64", "media_type": media, "data": data}}
        case "tool_use", {"id": str(id_), "name": str(name), "input": Mapping() as given}:
            return {"type": "tool_use", "id": id_, "name": name, "input": _plain(given)}
        case "tool_result", {"toolUseId": str(id_), "content": list() | tuple() as inner}:
            failed = isinstance(part, Mapping) and part.get("isError") is True
            said: JsonObject = {"type": "tool_result", "tool_use_id": id_, "content": [_block(each) for each in inner]}
            return {**said, "is_error": True} if failed else said
    raise InvalidCall(f"the model cannot be shown content of type {str(kind)[:32]!r}")


def _tool(item: Mapping[str, object]) -> JsonObject:
    schema = item.get("inputSchema")
    return {
        "name": str(item.get("name", "")),
        "description": str(item.get("description", "")),
        "input_schema": _plain(schema) if isinstance(schema, Mapping) else {"type": "object"},
    }


def _choice(value: object) -> JsonObject:
    mode = value.get("mode", "auto") if isinstance(value, Mapping) else "auto"
    return {"type": {"required": "any", "none": "none"}.get(str(mode), "auto")}


def _plain(value: Mapping[str, object]) -> JsonObject:
    found = codec.loads(codec.dumps(value))
    return found if isinstance(found, dict) else {}


def answer_of(payload: bytes) -> JsonObject:
    """An answer of the Messages API as MCP's. Raises `UpstreamProtocolError`."""
    answer = codec.loads(payload)
    blocks = answer.get("content") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(blocks, list):
        raise UpstreamProtocolError("the model's answer is not one that a server can be given")
    content: list[JsonObject] = []
    for block in blocks:
        match block:
            case {"type": "text", "text": str(text)}:
                content.append({"type": "text", "text": text})
            case {"type": "tool_use", "id": str(id_), "name": str(name), "input": dict(given)}:
                content.append({"type": "tool_use", "id": id_, "name": name, "input": given})
    content = content or [{"type": "text", "text": ""}]
    stop = str(answer.get("stop_reason") or "end_turn")
    return {
        "role": "assistant",
        "content": content[0] if len(content) == 1 else [*content],
        "model": str(answer.get("model") or "unknown"),
        "stopReason": _STOPS.get(stop, stop),
    }


_: type[Upstream] = Sampler
