"""A modern-only server (2026-07-28): asks in rounds (`input_required`), serves `subscriptions/listen`, caching hints.

    python -m tests.servers.modern_asker stdio [--record FILE] [--page-size N] [--ttl-ms N] [--arrays]
    python -m tests.servers.modern_asker http --port N [...]

It refuses `initialize`, sessions and requests whose headers disagree with the body. `--record` keeps what it saw as
JSON lines: `called`, `notified`, `cancelled`, `listening`.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import uvicorn

from tests.servers.requests import PREFIX, VERSION, Asked, over_http, over_stdio, plain
from tests.servers.wire import INVALID_PARAMS, METHOD_NOT_FOUND, Journal, Message, Refused, mapping, notice, text, tool

LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
MAX_SLOW_S: Final = 600.0
STREAMED_TOOLS: Final = frozenset({"log", "progress", "slow", "exit"})
KINDS: Final = {"tools": "toolsListChanged", "prompts": "promptsListChanged", "resources": "resourcesListChanged"}

NAME_FORM: Final = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
COLOR_FORM: Final = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}


@dataclass(eq=False)
class Listener:
    """One open `subscriptions/listen` stream."""

    asked: Asked
    filter: Mapping[str, object]
    ended: anyio.Event = field(default_factory=anyio.Event)

    def tell(self, method: str, params: Mapping[str, object]) -> None:
        """Send a notification tagged with the subscription's id."""
        self.asked.emit(notice(method, {**params, "_meta": {PREFIX + "subscriptionId": self.asked.id}}))


@dataclass
class ModernAsker:
    """The server's state."""

    journal: Journal = field(default_factory=Journal)
    page_size: int = 100
    ttl_ms: int = 60_000
    key: bytes = field(default_factory=lambda: os.urandom(32))
    arrays: bool = False
    changes: int = 0
    listeners: list[Listener] = field(default_factory=list)

    def streams(self, asked: Asked) -> bool:
        """Only what takes time or lasts is streamed."""
        called = asked.method == "tools/call" and asked.params.get("name") in STREAMED_TOOLS
        return called or asked.method == "subscriptions/listen"

    async def serve(self, asked: Asked) -> Mapping[str, object]:
        """Dispatch one request."""
        seen: Message = {"meta": dict(asked.meta), "params": dict(asked.params), "headers": dict(asked.headers)}
        self.journal.note("called", method=asked.method, id=asked.id, name=asked.params.get("name"), **seen)
        handler = METHODS.get(asked.method)
        if handler is None:
            raise Refused(METHOD_NOT_FOUND, f"Method not found: {asked.method}", status=404)
        result = await handler(self, asked)
        return {"resultType": "complete", **result}

    def seal(self, state: object) -> str:
        """State for the client to carry, with a tag that shows whether it was changed."""
        body = json.dumps(state)
        return body + "#" + hmac.new(self.key, body.encode(), hashlib.sha256).hexdigest()

    def open(self, asked: Asked) -> Mapping[str, object]:
        """The state that came back; empty when there is none. Raises `Refused` when it was changed."""
        sealed = asked.params.get("requestState")
        if sealed is None:
            return {}
        body, _, tag = str(sealed).rpartition("#")
        if not hmac.compare_digest(tag, hmac.new(self.key, body.encode(), hashlib.sha256).hexdigest()):
            raise Refused(INVALID_PARAMS, "requestState was changed", status=400)
        return mapping(json.loads(body))


def _caching(server: ModernAsker, scope: str = "public") -> Message:
    return {"ttlMs": server.ttl_ms, "cacheScope": scope}


def _ask(state: str | None = None, **requests: Message) -> Message:
    carried: Message = {} if state is None else {"requestState": state}
    return {"resultType": "input_required", "inputRequests": requests, **carried}


def _form(message: str, schema: Mapping[str, object]) -> Message:
    params = {"mode": "form", "message": message, "requestedSchema": dict(schema)}
    return {"method": "elicitation/create", "params": params}


def _sample(prompt: str) -> Message:
    messages = [{"role": "user", "content": {"type": "text", "text": prompt}}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": 100}}


async def _discover(server: ModernAsker, asked: Asked) -> Message:
    return {
        "supportedVersions": [VERSION],
        "capabilities": {
            "tools": {"listChanged": True},
            "prompts": {"listChanged": True},
            "resources": {"listChanged": True, "subscribe": True},
            "logging": {},
            "completions": {},
        },
        "instructions": "Ask in rounds.",
        "_meta": {PREFIX + "serverInfo": {"name": "modern-asker", "version": "1.0.0"}},
        **_caching(server),
    }


def _page(server: ModernAsker, asked: Asked, key: str, items: list[Message]) -> Message:
    cursor = asked.params.get("cursor", "0")
    if not isinstance(cursor, str) or not cursor.isdecimal() or int(cursor) > len(items):
        raise Refused(INVALID_PARAMS, "Invalid cursor", status=400)
    start, end = int(cursor), int(cursor) + server.page_size
    page: Message = {key: items[start:end], **_caching(server)}
    return {**page, "nextCursor": str(end)} if end < len(items) else page


async def _list_tools(server: ModernAsker, asked: Asked) -> Message:
    extra = [tool(f"extra_{number}", "appeared later") for number in range(server.changes)]
    arrays = [tool("array", "Answers an array", outputSchema={"type": "array"})] if server.arrays else []
    return _page(server, asked, "tools", [definition for definition, _ in TOOLS.values()] + arrays + extra)


async def _call_tool(server: ModernAsker, asked: Asked) -> Message:
    name = str(asked.params.get("name"))
    if name.startswith("extra_"):
        return text(name)
    if name == "array" and server.arrays:
        return {**text("[1, 2, 3]"), "structuredContent": [1, 2, 3]}
    if name not in TOOLS:
        raise Refused(INVALID_PARAMS, f"Unknown tool: {name}", status=400)
    return await TOOLS[name][1](server, asked)


async def _list_prompts(server: ModernAsker, asked: Asked) -> Message:
    arguments = [{"name": "who", "required": True}]
    prompts: list[Message] = [
        {"name": "greet", "description": "A greeting", "arguments": arguments},
        {"name": "greet_asked", "description": "A greeting for whoever the user names"},
    ]
    return _page(server, asked, "prompts", prompts)


async def _get_prompt(server: ModernAsker, asked: Asked) -> Message:
    who = asked.arguments.get("who")
    if asked.params.get("name") == "greet_asked":
        asked.need("elicitation")
        content = mapping(mapping(asked.responses.get("who")).get("content"))
        if "name" not in content:
            return _ask(who=_form("Whom?", NAME_FORM))
        who = content["name"]
    elif asked.params.get("name") != "greet":
        raise Refused(INVALID_PARAMS, "Unknown prompt", status=400)
    return {"messages": [{"role": "user", "content": {"type": "text", "text": f"Greet {who}"}}]}


async def _list_resources(server: ModernAsker, asked: Asked) -> Message:
    uris = ("note://one", "note://private", "note://asked")
    return _page(server, asked, "resources", [{"uri": uri, "name": uri[7:], "mimeType": "text/plain"} for uri in uris])


async def _list_templates(server: ModernAsker, asked: Asked) -> Message:
    return _page(server, asked, "resourceTemplates", [{"uriTemplate": "note://{name}", "name": "note"}])


async def _read(server: ModernAsker, asked: Asked) -> Message:
    uri = str(asked.params.get("uri"))
    if uri not in {"note://one", "note://private", "note://asked"}:
        raise Refused(INVALID_PARAMS, "Resource not found", data={"uri": uri}, status=400)
    if uri == "note://asked" and "why" not in asked.responses:
        asked.need("elicitation")
        return _ask(why=_form("Why do you read this?", NAME_FORM))
    content = {"uri": uri, "mimeType": "text/plain", "text": f"{uri}, version {server.changes}"}
    return {"contents": [content], **_caching(server, "private" if uri == "note://private" else "public")}


async def _complete(server: ModernAsker, asked: Asked) -> Message:
    typed = str(mapping(asked.params.get("argument")).get("value", ""))
    values = [name for name in ("alice", "albert", "bob") if name.startswith(typed)]
    return {"completion": {"values": values, "total": len(values), "hasMore": False}}


async def _listen(server: ModernAsker, asked: Asked) -> Message:
    listener = Listener(asked, mapping(asked.params.get("notifications")))
    listener.tell("notifications/subscriptions/acknowledged", {"notifications": dict(listener.filter)})
    server.listeners.append(listener)
    server.journal.note("listening", id=asked.id, filter=dict(listener.filter))
    try:
        await listener.ended.wait()
    finally:
        server.listeners.remove(listener)
    return {"_meta": {PREFIX + "subscriptionId": asked.id}}


Handler = Callable[[ModernAsker, Asked], Awaitable[Message]]

METHODS: Final[dict[str, Handler]] = {
    "server/discover": _discover,
    "tools/list": _list_tools,
    "tools/call": _call_tool,
    "prompts/list": _list_prompts,
    "prompts/get": _get_prompt,
    "resources/list": _list_resources,
    "resources/templates/list": _list_templates,
    "resources/read": _read,
    "completion/complete": _complete,
    "subscriptions/listen": _listen,
}


async def _echo(server: ModernAsker, asked: Asked) -> Message:
    kept: Message = {"_meta": {"example.org/kept": 1}, "x-unknown": {"kept": True}}
    return {**text(str(asked.arguments.get("text", ""))), **kept}


def _content(asked: Asked, key: str) -> Mapping[str, object] | None:
    reply = mapping(asked.responses.get(key))
    return reply if "action" in reply else None


async def _ask_user(server: ModernAsker, asked: Asked) -> Message:
    asked.need("elicitation")
    reply = _content(asked, "name")
    if reply is None:
        return _ask(name=_form("What is your name?", NAME_FORM))
    return text(json.dumps({"action": reply["action"], "content": reply.get("content")}))


async def _ask_twice(server: ModernAsker, asked: Asked) -> Message:
    asked.need("elicitation")
    known = server.open(asked)
    name = known.get("name") or mapping((_content(asked, "first") or {}).get("content")).get("name")
    if name is None:
        return _ask(server.seal({"round": 1}), first=_form("Your name?", NAME_FORM))
    color = mapping((_content(asked, "second") or {}).get("content")).get("color")
    if color is None:
        return _ask(server.seal({"round": 2, "name": name}), second=_form("Your color?", COLOR_FORM))
    return text(json.dumps([{"name": name}, {"color": color}]))


async def _ask_model(server: ModernAsker, asked: Asked) -> Message:
    asked.need("sampling")
    reply = mapping(asked.responses.get("model"))
    if "content" not in reply:
        return _ask(model=_sample(str(asked.arguments.get("prompt", "What is the capital of France?"))))
    return text(json.dumps({"model": reply.get("model"), "content": reply["content"]}))


async def _ask_roots(server: ModernAsker, asked: Asked) -> Message:
    asked.need("roots")
    reply = mapping(asked.responses.get("roots"))
    if "roots" not in reply:
        return _ask(roots={"method": "roots/list", "params": {}})
    return text(json.dumps(reply["roots"]))


async def _ask_all(server: ModernAsker, asked: Asked) -> Message:
    if {"user", "model", "roots"} <= asked.responses.keys():
        server.open(asked)
        return text("all three answered")
    user = _form("What is your name?", NAME_FORM)
    roots: Message = {"method": "roots/list", "params": {}}
    return _ask(server.seal({"round": 1}), user=user, model=_sample("Say hello"), roots=roots)


async def _log(server: ModernAsker, asked: Asked) -> Message:
    least = asked.meta.get(PREFIX + "logLevel")
    wanted = LEVELS[LEVELS.index(str(least)) :] if least in LEVELS else ()
    for level in wanted:
        asked.notify("notifications/message", {"level": level, "logger": "asker", "data": f"at {level}"})
    return text("logged")


async def _progress(server: ModernAsker, asked: Asked) -> Message:
    token, steps = asked.meta.get("progressToken"), 3
    for step in range(1, steps + 1):
        if token is not None:
            asked.notify("notifications/progress", {"progressToken": token, "progress": step, "total": steps})
        await anyio.lowlevel.checkpoint()
    return text(f"{steps} steps")


async def _slow(server: ModernAsker, asked: Asked) -> Message:
    server.journal.note("waiting", id=asked.id, name="slow")
    seconds = asked.arguments.get("seconds", MAX_SLOW_S)
    await anyio.sleep(min(seconds, MAX_SLOW_S) if isinstance(seconds, int | float) else MAX_SLOW_S)
    return text("done waiting")


async def _change(server: ModernAsker, asked: Asked) -> Message:
    server.changes += 1
    for listener in server.listeners:
        for kind, flag in KINDS.items():
            if listener.filter.get(flag) is True:
                listener.tell(f"notifications/{kind}/list_changed", {})
    return text(f"changed {server.changes} times")


async def _touch(server: ModernAsker, asked: Asked) -> Message:
    uri = str(asked.arguments.get("uri", "note://one"))
    server.changes += 1
    for listener in server.listeners:
        wanted = listener.filter.get("resourceSubscriptions")
        if isinstance(wanted, list) and uri in wanted:
            listener.tell("notifications/resources/updated", {"uri": uri})
    return text("touched")


async def _hang_up(server: ModernAsker, asked: Asked) -> Message:
    for listener in server.listeners:
        listener.ended.set()
    return text("ended all streams")


async def _region(server: ModernAsker, asked: Asked) -> Message:
    header = asked.headers.get("mcp-param-region")
    return text(json.dumps({"argument": asked.arguments.get("region"), "header": header and plain(header)}))


async def _structured(server: ModernAsker, asked: Asked) -> Message:
    value = {"temperature": 21.5, "unit": "C"}
    return {**text(json.dumps(value)), "structuredContent": value}


async def _fail(server: ModernAsker, asked: Asked) -> Message:
    return {**text("the tool failed on purpose"), "isError": True}


async def _whoami(server: ModernAsker, asked: Asked) -> Message:
    return text(json.dumps({"pid": os.getpid(), "headers": dict(asked.headers), "meta": dict(asked.meta)}))


async def _exit(server: ModernAsker, asked: Asked) -> Message:
    os._exit(7)


_OUTPUT: Final = {
    "type": "object",
    "properties": {"temperature": {"type": "number"}, "unit": {"type": "string"}},
    "required": ["temperature", "unit"],
}
_REGION: Final = {"region": {"type": "string", "x-mcp-header": "Region"}}

TOOLS: Final[dict[str, tuple[Message, Handler]]] = {
    str(definition["name"]): (definition, run)
    for definition, run in (
        (tool("echo", "Answers its text", {"text": {"type": "string"}}, annotations={"readOnlyHint": True}), _echo),
        (tool("ask_user", "Asks for a name"), _ask_user),
        (tool("ask_twice", "Asks for a name, then for a color"), _ask_twice),
        (tool("ask_model", "Asks the client's model", {"prompt": {"type": "string"}}), _ask_model),
        (tool("ask_roots", "Asks for the roots"), _ask_roots),
        (tool("ask_all", "Asks three things at once"), _ask_all),
        (tool("log", "Logs at every level that was asked for"), _log),
        (tool("progress", "Reports progress"), _progress),
        (tool("slow", "Waits until the caller leaves", {"seconds": {"type": "number"}}), _slow),
        (tool("change", "Changes all lists and tells who listens"), _change),
        (tool("touch", "Updates a resource", {"uri": {"type": "string"}}), _touch),
        (tool("hang_up", "Ends all streams in good order"), _hang_up),
        (tool("region", "Compares its argument with the header", _REGION), _region),
        (tool("structured", "Answers structured content", outputSchema=_OUTPUT), _structured),
        (tool("fail", "Always fails"), _fail),
        (tool("whoami", "Tells what it knows of its caller"), _whoami),
        (tool("exit", "Ends the process in the middle of the call"), _exit),
    )
}


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.modern_asker")
    parser.add_argument("transport", choices=["stdio", "http"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--page-size", type=int, default=100)
    parser.add_argument("--ttl-ms", type=int, default=60_000)
    parser.add_argument("--arrays", action="store_true", help="also a tool whose output is an array")
    options = parser.parse_args()
    server = ModernAsker(Journal(options.record), options.page_size, options.ttl_ms, arrays=options.arrays)
    if options.transport == "stdio":
        anyio.run(over_stdio, server)
    else:
        uvicorn.run(over_http(server), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
