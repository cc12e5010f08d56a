"""A legacy-only server (2025-11-25) that asks its client back: elicitation, sampling, roots; logs, progress, changes.

    python -m tests.servers.legacy_asker stdio [--record FILE] [--page-size N]
    python -m tests.servers.legacy_asker http --port N [...]

`--record` keeps what it saw as JSON lines: `initialized`, `called`, `notified`, `cancelled`, `ended`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import uvicorn

from tests.servers.sessions import Call, Session, over_http, over_stdio
from tests.servers.wire import INVALID_PARAMS, METHOD_NOT_FOUND, Journal, Message, Refused, mapping, notice, text, tool

VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
MAX_SLOW_S: Final = 600.0
NAME_FORM: Final = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
COLOR_FORM: Final = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}

NOTES: Final = {"note://one": "the first note", "note://two": "the second note"}


@dataclass
class LegacyAsker:
    """The server's state, shared by all sessions of one process."""

    journal: Journal = field(default_factory=Journal)
    page_size: int = 100
    sessions: dict[str, Session] = field(default_factory=dict)
    changes: int = 0

    async def serve(self, call: Call) -> Mapping[str, object]:
        """Dispatch one request."""
        self.journal.note(
            "called", method=call.method, id=call.id, name=call.params.get("name"), session=call.session.id
        )
        handler = METHODS.get(call.method)
        if handler is None:
            raise Refused(METHOD_NOT_FOUND, f"Method not found: {call.method}")
        return await handler(self, call)

    def heard(self, session: Session, method: str, params: Mapping[str, object]) -> None:
        """Notifications are in the journal already."""

    def tell_all(self, method: str, params: Mapping[str, object] | None = None) -> None:
        """Send a notification to every session."""
        for session in self.sessions.values():
            session.emit(notice(method, params or {}))

    def tools(self) -> list[Message]:
        """What there is to call; `extra_N` shows how often the list changed."""
        extra = [tool(f"extra_{number}", "appeared later") for number in range(self.changes)]
        return [definition for definition, _ in TOOLS.values()] + extra


async def _initialize(server: LegacyAsker, call: Call) -> Message:
    call.session.params = call.params
    server.journal.note("initialized", session=call.session.id, params=dict(call.params), headers=dict(call.headers))
    asked = call.params.get("protocolVersion")
    return {
        "protocolVersion": asked if asked in VERSIONS else VERSIONS[-1],
        "capabilities": {
            "tools": {"listChanged": True},
            "prompts": {"listChanged": True},
            "resources": {"listChanged": True, "subscribe": True},
            "logging": {},
            "completions": {},
        },
        "serverInfo": {"name": "legacy-asker", "version": "1.0.0"},
        "instructions": "Ask back.",
    }


async def _ping(server: LegacyAsker, call: Call) -> Message:
    return {}


def _page(server: LegacyAsker, call: Call, key: str, items: list[Message]) -> Message:
    cursor = call.params.get("cursor", "0")
    if not isinstance(cursor, str) or not cursor.isdecimal() or int(cursor) > len(items):
        raise Refused(INVALID_PARAMS, "Invalid cursor")
    start, end = int(cursor), int(cursor) + server.page_size
    page: Message = {key: items[start:end]}
    return {**page, "nextCursor": str(end)} if end < len(items) else page


async def _list_tools(server: LegacyAsker, call: Call) -> Message:
    return _page(server, call, "tools", server.tools())


async def _call_tool(server: LegacyAsker, call: Call) -> Message:
    name = str(call.params.get("name"))
    if name.startswith("extra_"):
        return text(name)
    if name not in TOOLS:
        raise Refused(INVALID_PARAMS, f"Unknown tool: {name}")
    return await TOOLS[name][1](server, call)


async def _list_prompts(server: LegacyAsker, call: Call) -> Message:
    arguments = [{"name": "who", "description": "whom to greet", "required": True}]
    return _page(server, call, "prompts", [{"name": "greet", "description": "A greeting", "arguments": arguments}])


async def _get_prompt(server: LegacyAsker, call: Call) -> Message:
    if call.params.get("name") != "greet":
        raise Refused(INVALID_PARAMS, "Unknown prompt")
    who = mapping(call.params.get("arguments")).get("who", "?")
    return {"messages": [{"role": "user", "content": {"type": "text", "text": f"Greet {who}"}}]}


async def _list_resources(server: LegacyAsker, call: Call) -> Message:
    items: list[Message] = [{"uri": uri, "name": uri[7:], "mimeType": "text/plain"} for uri in NOTES]
    return _page(server, call, "resources", items)


async def _list_templates(server: LegacyAsker, call: Call) -> Message:
    return _page(server, call, "resourceTemplates", [{"uriTemplate": "note://{name}", "name": "note"}])


async def _read(server: LegacyAsker, call: Call) -> Message:
    uri = str(call.params.get("uri"))
    if uri not in NOTES:
        raise Refused(-32002, "Resource not found", data={"uri": uri})
    return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": f"{NOTES[uri]}, version {server.changes}"}]}


async def _subscribe(server: LegacyAsker, call: Call) -> Message:
    call.session.subscriptions.add(str(call.params.get("uri")))
    return {}


async def _unsubscribe(server: LegacyAsker, call: Call) -> Message:
    call.session.subscriptions.discard(str(call.params.get("uri")))
    return {}


async def _set_level(server: LegacyAsker, call: Call) -> Message:
    level = str(call.params.get("level"))
    if level not in LEVELS:
        raise Refused(INVALID_PARAMS, f"Unknown level: {level}")
    call.session.level = level
    return {}


async def _complete(server: LegacyAsker, call: Call) -> Message:
    typed = str(mapping(call.params.get("argument")).get("value", ""))
    values = [name for name in ("alice", "albert", "bob") if name.startswith(typed)]
    return {"completion": {"values": values, "total": len(values), "hasMore": False}}


Handler = Callable[[LegacyAsker, Call], Awaitable[Message]]

METHODS: Final[dict[str, Handler]] = {
    "initialize": _initialize,
    "ping": _ping,
    "tools/list": _list_tools,
    "tools/call": _call_tool,
    "prompts/list": _list_prompts,
    "prompts/get": _get_prompt,
    "resources/list": _list_resources,
    "resources/templates/list": _list_templates,
    "resources/read": _read,
    "resources/subscribe": _subscribe,
    "resources/unsubscribe": _unsubscribe,
    "logging/setLevel": _set_level,
    "completion/complete": _complete,
}


def _arguments(call: Call) -> Mapping[str, object]:
    return mapping(call.params.get("arguments"))


def _number(call: Call, name: str, otherwise: float) -> float:
    value = _arguments(call).get(name, otherwise)
    return float(value) if isinstance(value, int | float) else otherwise


async def _echo(server: LegacyAsker, call: Call) -> Message:
    return {
        **text(str(_arguments(call).get("text", ""))),
        "_meta": {"example.org/kept": 1},
        "x-unknown": {"kept": True},
    }


async def _ask_user(server: LegacyAsker, call: Call) -> Message:
    reply = await call.ask("elicitation/create", {"message": "What is your name?", "requestedSchema": NAME_FORM})
    return text(json.dumps({"action": reply.get("action"), "content": reply.get("content")}))


async def _ask_twice(server: LegacyAsker, call: Call) -> Message:
    first = await call.ask("elicitation/create", {"message": "Your name?", "requestedSchema": NAME_FORM})
    second = await call.ask("elicitation/create", {"message": "Your color?", "requestedSchema": COLOR_FORM})
    return text(json.dumps([first.get("content"), second.get("content")]))


async def _ask_model(server: LegacyAsker, call: Call) -> Message:
    prompt = str(_arguments(call).get("prompt", "What is the capital of France?"))
    messages = [{"role": "user", "content": {"type": "text", "text": prompt}}]
    reply = await call.ask("sampling/createMessage", {"messages": messages, "maxTokens": 100})
    return text(json.dumps({"model": reply.get("model"), "content": reply.get("content")}))


async def _ask_roots(server: LegacyAsker, call: Call) -> Message:
    return text(json.dumps((await call.ask("roots/list", {})).get("roots")))


async def _log(server: LegacyAsker, call: Call) -> Message:
    for level in LEVELS:
        if LEVELS.index(level) >= LEVELS.index(call.session.level):
            call.notify("notifications/message", {"level": level, "logger": "asker", "data": f"at {level}"})
    return text("logged")


async def _progress(server: LegacyAsker, call: Call) -> Message:
    token = mapping(call.params.get("_meta")).get("progressToken")
    steps = int(_number(call, "steps", 3))
    for step in range(1, steps + 1):
        if token is not None:
            call.notify("notifications/progress", {"progressToken": token, "progress": step, "total": steps})
        await anyio.lowlevel.checkpoint()
    return text(f"{steps} steps")


async def _slow(server: LegacyAsker, call: Call) -> Message:
    server.journal.note("waiting", id=call.id, name="slow")
    await anyio.sleep(min(_number(call, "seconds", MAX_SLOW_S), MAX_SLOW_S))
    return text("done waiting")


async def _change(server: LegacyAsker, call: Call) -> Message:
    server.changes += 1
    for kind in ("tools", "prompts", "resources"):
        server.tell_all(f"notifications/{kind}/list_changed")
    return text(f"changed {server.changes} times")


async def _touch(server: LegacyAsker, call: Call) -> Message:
    uri = str(_arguments(call).get("uri", "note://one"))
    server.changes += 1
    reached = [session for session in server.sessions.values() if uri in session.subscriptions]
    for session in reached:
        session.emit(notice("notifications/resources/updated", {"uri": uri}))
    return text(f"told {len(reached)}")


async def _structured(server: LegacyAsker, call: Call) -> Message:
    value = {"temperature": 21.5, "unit": "C"}
    return {**text(json.dumps(value)), "structuredContent": value}


async def _fail(server: LegacyAsker, call: Call) -> Message:
    return {**text("the tool failed on purpose"), "isError": True}


async def _whoami(server: LegacyAsker, call: Call) -> Message:
    seen = {"pid": os.getpid(), "session": call.session.id, "headers": dict(call.headers), "env": sorted(os.environ)}
    return text(json.dumps({**seen, "meta": call.params.get("_meta"), "client": call.session.params.get("clientInfo")}))


async def _exit(server: LegacyAsker, call: Call) -> Message:
    os._exit(7)


_OUTPUT: Final = {
    "type": "object",
    "properties": {"temperature": {"type": "number"}, "unit": {"type": "string"}},
    "required": ["temperature", "unit"],
}
_TEXT: Final = {"text": {"type": "string"}}

TOOLS: Final[dict[str, tuple[Message, Handler]]] = {
    str(definition["name"]): (definition, run)
    for definition, run in (
        (tool("echo", "Answers its text", _TEXT, annotations={"readOnlyHint": True}), _echo),
        (tool("ask_user", "Elicits a name"), _ask_user),
        (tool("ask_twice", "Elicits a name, then a color"), _ask_twice),
        (tool("ask_model", "Samples", {"prompt": {"type": "string"}}), _ask_model),
        (tool("ask_roots", "Asks for the roots"), _ask_roots),
        (tool("log", "Logs once at every level"), _log),
        (tool("progress", "Reports progress", {"steps": {"type": "integer"}}), _progress),
        (tool("slow", "Waits until it is cancelled", {"seconds": {"type": "number"}}), _slow),
        (tool("change", "Changes all lists and says so"), _change),
        (tool("touch", "Updates a resource", {"uri": {"type": "string"}}), _touch),
        (tool("structured", "Answers structured content", outputSchema=_OUTPUT), _structured),
        (tool("fail", "Always fails"), _fail),
        (tool("whoami", "Tells what it knows of its caller"), _whoami),
        (tool("exit", "Ends the process in the middle of the call"), _exit),
    )
}


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.legacy_asker")
    parser.add_argument("transport", choices=["stdio", "http"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--page-size", type=int, default=100)
    options = parser.parse_args()
    server = LegacyAsker(Journal(options.record), options.page_size)
    if options.transport == "stdio":
        anyio.run(over_stdio, server)
    else:
        uvicorn.run(over_http(server), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
