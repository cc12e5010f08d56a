"""What a listener reads off a request for policy and for routing, without judging whether it can be translated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from gateway.codec import JsonObject, JsonValue
from gateway.models.neutral import Api

_PLAIN: Final = frozenset({"function", "custom"})
"""Kinds of tools that the caller runs; of all others the kind says what they do."""
_KEPT: Final = ("previous_response_id", "conversation", "prompt", "container")


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
        "images": any(_pictured(content) for _, content in turns(api, params)),
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
    for item in _array(params.get("input")):
        if isinstance(item, dict):  # `additional_tools`, and what a search for tools has found
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


def _refers(item: object) -> bool:
    """Whether it stands for an item that the provider keeps; such a one need not say its type."""
    if not isinstance(item, dict):
        return False
    return item.get("type") == "item_reference" or (item.get("type") is None and "role" not in item and "id" in item)


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


def _pictured(content: object) -> bool:
    kinds = ("image", "image_url", "input_image")  # no set: what stands there may have no hash
    return any(
        isinstance(part, dict) and (part.get("type") in kinds or _pictured(part.get("content")))
        for part in _array(content)
    )


def _array(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list | tuple) else ()


def with_model(params: Mapping[str, object], model: str) -> dict[str, object]:
    """The request for another model."""
    return {**params, "model": model}
