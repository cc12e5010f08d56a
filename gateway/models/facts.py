"""What a listener reads off a request for policy and for routing, without judging whether it can be translated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from gateway.codec import JsonObject, JsonValue
from gateway.models.neutral import Api

_PLAIN: Final = frozenset({"function", "custom"})
"""Kinds of tools that the caller runs; of all others the kind says what they do."""
_KEPT: Final = ("previous_response_id", "conversation", "prompt", "container")
_STORED: Final = ("file_id", "file_ids", "vector_store_ids", "container_id")
"""By which a part of a message or a tool names what the provider keeps."""
_HOLDERS: Final = ("content", "output", "outputs", "source", "file")
"""Members of a message that hold its parts, of these what tools gave back, and of documents what they are made of."""
_PICTURES: Final = ("image", "image_url", "input_image", "computer_screenshot", "image_generation_call")
_READ: Final = frozenset({
    "model", "models", "fallbacks", "messages", "input", "system", "instructions", "stream", "n", "max_tokens",
    "max_completion_tokens", "max_output_tokens", "n_predict", "background", "inference_geo", "service_tier", "speed",
    "store", "user", "tools", "functions", "mcp_servers", "web_search_options", "plugins", "function", "custom", "name",
    "type", "role", "text", "image_url", "audio", "environment", "input_image_mask", *_KEPT, *_STORED, *_HOLDERS,
})  # fmt: skip
"""Members that the gateway reads, to tell policy and budgets of them or to set them itself."""
_FOLDED: Final = frozenset(name.replace("_", "") for name in _READ)


def facts_of(api: Api, params: Mapping[str, object]) -> JsonObject:
    """`tools`, `tools_count`, `stream`, `messages` (`count`, `roles`), `images` and `unseen` of a request."""
    roles = [role for role, _ in turns(api, params)]
    shown: list[JsonValue] = [*tool_names(params)]
    seen: list[JsonValue] = [*sorted(set(roles))]
    kept: list[JsonValue] = [*unseen(params)]
    return {
        "tools": shown,
        "tools_count": sum(1 for _ in _tools(params)),
        "stream": params.get("stream") is True,
        "messages": {"count": len(roles), "roles": seen},
        "images": any(_is_picture(found) for found in _parts(params)),
        "unseen": kept,
    }


def tool_names(params: Mapping[str, object]) -> Sequence[str]:
    """What the tools that are offered to the model go by; a provider's own by its type (`web_search`) as well.

    Every name that any server could read stands here, for policy must not be shown another one than it.
    """
    return tuple(dict.fromkeys(name for tool in _tools(params) for name in _names(tool)))


def _tools(params: Mapping[str, object]) -> Iterator[object]:
    """Whatever offers a tool, wherever it stands."""
    for name in ("tools", "functions"):
        yield from _flat(params.get(name))
    for server in _array(params.get("mcp_servers")):
        yield {**server, "type": "mcp"} if isinstance(server, dict) else "mcp"
    if params.get("web_search_options") is not None:
        yield "web_search"
    for plugin in _array(params.get("plugins")):  # OpenRouter's
        yield {"type": plugin.get("id")} if isinstance(plugin, dict) else plugin
    for item in (*_array(params.get("input")), *_array(params.get("messages"))):
        if isinstance(item, dict):  # `additional_tools`, what a search has found, and vLLM's of a developer's message
            yield from _flat(item.get("tools"))


def _flat(tools: object) -> Iterator[object]:
    for tool in _array(tools):
        yield tool
        if isinstance(tool, dict):
            yield from _flat(tool.get("tools"))


def _names(tool: object) -> Iterator[str]:
    if not isinstance(tool, dict):
        yield str(tool)
        return
    kind = tool.get("type")
    if isinstance(kind, str) and kind not in _PLAIN:
        yield kind
    for holder in (tool, tool.get("function"), tool.get("custom")):
        name = holder.get("name") if isinstance(holder, dict) else None
        if isinstance(name, str):
            yield name


def unseen(params: Mapping[str, object]) -> Iterator[str]:
    """The members by which the provider adds to the request what it keeps, and policy cannot be shown."""
    yield from (name for name in _KEPT if params.get(name))
    if any(_refers(item) for item in _array(params.get("input"))):
        yield "item_reference"
    yield from dict.fromkeys(name for found in (*_parts(params), *_of_tools(params)) for name in _stored(found))


def _refers(item: object) -> bool:
    """Whether it stands for an item that the provider keeps; such a one need not say its type."""
    if not isinstance(item, dict):
        return False
    kind = item.get("type")
    if kind == "image_generation_call":
        return not item.get("result")
    return kind == "item_reference" or (kind is None and "role" not in item and "id" in item)


def _of_tools(params: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """The tools, and where they run: of their schemas nothing, which name what the caller likes."""
    for tool in _tools(params):
        if isinstance(tool, dict):
            yield tool
            within = [tool.get(name) for name in ("function", "custom", "environment", "input_image_mask")]
            yield from (found for found in within if isinstance(found, dict))
            place = tool.get("container")
            yield place if isinstance(place, dict) else {"container_id": place}


def disguised(params: Mapping[str, object]) -> str:
    """A member that some servers take for another, which the gateway reads; empty where there is none.

    Those in Go and in .NET do not mind capitals, those with Protobuf's JSON no `maxTokens`, and litellm has what
    stands in `extra_body` override what stands beside it.
    """
    for found in (params, *_parts(params), *_of_tools(params)):
        for name in found:
            if name not in _READ and _is_read(name):
                return name
    extra = params.get("extra_body")
    return next((f"extra_body.{name}" for name in extra if _is_read(name)), "") if isinstance(extra, dict) else ""


def _is_read(name: str) -> bool:
    return name.casefold().replace("_", "") in _FOLDED


def _stored(found: Mapping[str, object]) -> Iterator[str]:
    yield from (name for name in _STORED if found.get(name))
    audio = found.get("audio")
    if isinstance(audio, dict) and audio.get("id"):  # of an answer that was spoken
        yield "audio"


def _parts(params: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Every object of the conversation: messages and items, their parts, and what these are made of."""
    for name in ("system", "instructions", "messages", "input"):
        yield from _objects(params.get(name))


def _objects(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, dict):
        yield value
        for name in _HOLDERS:
            yield from _objects(value.get(name))
    for inner in _array(value):
        yield from _objects(inner)


def _is_picture(found: Mapping[str, object]) -> bool:
    """By its type, or where some servers need none (vLLM), by what it holds."""
    return found.get("type") in _PICTURES or found.get("image_url") is not None


def turns(api: Api, params: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Who says what, in order: (role, content). Roles are `system`, `user`, `assistant` and `tool`."""
    for name in ("system", "instructions"):
        if params.get(name):
            yield "system", params[name]
    said = params.get("messages" if api in {"chat.completions", "messages"} else "input")
    if isinstance(said, str):
        yield "user", said
        return
    for item in _array(said):
        if isinstance(item, dict):
            yield _role(item), item.get("content", item.get("output", item.get("arguments")))


def _role(item: Mapping[str, object]) -> str:
    role = item.get("role")
    if isinstance(role, str):
        return {"developer": "system", "function": "tool"}.get(role, role[:32])
    kind = str(item.get("type", ""))
    return "tool" if kind.endswith("_output") else "assistant"


def last_user_text(api: Api, params: Mapping[str, object]) -> str:
    """What the user said last: what a route is chosen by."""
    said = [content for role, content in turns(api, params) if role == "user"]
    for content in reversed(said):
        text = "\n".join(texts_in(content))
        if text:
            return text
    return ""


def texts_in(content: object) -> Iterator[str]:
    """The texts of a message's content."""
    if isinstance(content, str):
        yield content
    for part in _array(content):
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            yield text


def _array(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list | tuple) else ()


def with_model(params: Mapping[str, object], model: str) -> dict[str, object]:
    """The request for another model."""
    return {**params, "model": model}
