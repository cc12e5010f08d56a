"""An echo server, both eras, that spends next to nothing per call and counts what reaches it, for the benchmark.

    python -m tests.servers.counting --port N [--tools COUNT]

`GET /count` answers how often each method was called and over how many connections; `DELETE /count` starts anew.
The tool `flood` streams `mib` MiB of progress notifications, or one result of that size with `shape: "result"`.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Mapping
from typing import Final, TypeAlias

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send

MODERN: Final = "2026-07-28"
LEGACY: Final = "2025-11-25"
MIB: Final = 1024 * 1024
CHUNK: Final = 64 * 1024

Json: TypeAlias = "dict[str, object]"

_JSON_HEADERS: Final = [(b"content-type", b"application/json")]
_SSE_HEADERS: Final = [(b"content-type", b"text/event-stream")]


def _definitions(count: int) -> list[Json]:
    """`echo`, `flood` and as many more as make `count`, each with a schema of ordinary size."""
    properties = {name: {"type": "string", "description": f"The {name} of the thing"} for name in ("text", "place")}
    schema = {"type": "object", "properties": properties, "required": ["text"]}
    names = ["echo", "flood", *(f"tool_{number:03}" for number in range(max(0, count - 2)))]
    return [{"name": name, "description": f"Does what {name} does. " * 8, "inputSchema": schema} for name in names]


class Counting:
    """The ASGI application."""

    def __init__(self, tools: int) -> None:
        self._tools = _definitions(tools)
        self._calls: Counter[str] = Counter()
        self._connections: set[object] = set()
        self._session = os.urandom(16).hex().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        if scope["path"] == "/count":
            await self._count(scope, send)
        elif scope["method"] == "POST":
            await self._post(scope, receive, send)
        else:
            await _send(send, b"", status=405)

    async def _count(self, scope: Scope, send: Send) -> None:
        if scope["method"] == "DELETE":
            self._calls.clear()
            self._connections.clear()
        seen = {"methods": dict(self._calls), "connections": len(self._connections)}
        await _send(send, orjson.dumps(seen))

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        message: Json = orjson.loads(body)
        method = str(message.get("method"))
        self._calls[method] += 1
        self._connections.add(scope["client"])
        if "id" not in message:
            await _send(send, b"", status=202)
            return
        params = message.get("params")
        await self._answer(message["id"], method, params if isinstance(params, dict) else {}, send)

    async def _answer(self, request_id: object, method: str, params: Mapping[str, object], send: Send) -> None:
        if method == "tools/call":
            arguments = params.get("arguments")
            given = arguments if isinstance(arguments, dict) else {}
            if params.get("name") == "flood":
                await _flood(request_id, params, given, send)
                return
            result: Json = {"resultType": "complete", "content": [{"type": "text", "text": given.get("text", "")}]}
        elif method in {"server/discover", "initialize", "tools/list"}:
            result = self._described(method)
        else:
            missing = {"code": -32601, "message": "Method not found"}
            await _send(send, orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": missing}), status=404)
            return
        session = [(b"mcp-session-id", self._session)] if method == "initialize" else []
        await _send(send, orjson.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}), extra=session)

    def _described(self, method: str) -> Json:
        info = {"name": "counting", "version": "1.0.0"}
        if method == "initialize":
            return {"protocolVersion": LEGACY, "capabilities": {"tools": {}}, "serverInfo": info}
        fresh: Json = {"resultType": "complete", "ttlMs": 3_600_000, "cacheScope": "public"}
        if method == "tools/list":
            return {**fresh, "tools": self._tools}
        return {**fresh, "supportedVersions": [MODERN], "capabilities": {"tools": {}}}


async def _flood(request_id: object, params: Mapping[str, object], arguments: Mapping[str, object], send: Send) -> None:
    asked = arguments.get("mib", 1)
    chunks = (asked if isinstance(asked, int) else 1) * MIB // CHUNK
    end = orjson.dumps({"type": "text", "text": "done"})
    if arguments.get("shape") == "result":
        await send({"type": "http.response.start", "status": 200, "headers": _JSON_HEADERS})
        head = b'{"jsonrpc":"2.0","id":' + orjson.dumps(request_id) + b',"result":{"resultType":"complete","content":['
        await _body(send, head + b'{"type":"text","text":"')
        for _ in range(chunks):
            await _body(send, b"x" * CHUNK)
        await _body(send, b'"},' + end + b"]}}", more=False)
        return
    meta = params.get("_meta")
    token = meta.get("progressToken", "none") if isinstance(meta, dict) else "none"
    await send({"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS})
    for number in range(chunks):
        progress = {"progressToken": token, "progress": number + 1, "message": "x" * CHUNK}
        note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": progress}
        await _body(send, b"data: " + orjson.dumps(note) + b"\n\n")
    result = {"resultType": "complete", "content": [orjson.Fragment(end)]}
    last = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "result": result})
    await _body(send, b"data: " + last + b"\n\n", more=False)


async def _body(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _send(send: Send, body: bytes, *, status: int = 200, extra: list[tuple[bytes, bytes]] | None = None) -> None:
    headers = [*_JSON_HEADERS, (b"content-length", b"%d" % len(body)), *(extra or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.counting")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tools", type=int, default=2)
    options = parser.parse_args()
    uvicorn.run(
        Counting(options.tools),
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        server_header=False,
        date_header=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
