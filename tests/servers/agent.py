"""An A2A agent that spends next to nothing per call, for the benchmark, and fails as it is asked to, for the tests.

    python -m tests.servers.agent --port N [--card FILE]

It keeps nothing: an id of a task says how it goes on (so many events, one after each pause, from a moment on), so that
an agent that was killed knows its tasks when it is back. The first text of a message is what it is to do:

    anything else             a task, completed at once
    stream COUNT PAUSE_MS     a task that is worked on, COUNT artifact updates and the end; PAUSE_MS may be 0
    drip                      an answer that comes byte by byte and never ends
    silence                   the head of an answer, and nothing more
    flood MIB                 a stream of that many MiB

`GET /count` answers how often each method was called and over how many connections, `DELETE /count` starts anew;
`GET /hooks` answers which push notification configurations it got. With `--card` its card is the JSON in that file, as
it is then, and the keys that it is signed with are in `jwks.json` beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send

MIB: Final = 1024 * 1024
CHUNK: Final = 64 * 1024
DRIP_S: Final = 0.1
_JSON: Final = [(b"content-type", b"application/json")]
_SSE: Final = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]

Json: TypeAlias = "dict[str, object]"


def card_of(port: int, **more: object) -> Json:
    """The card of an agent on that port of this machine."""
    url = f"http://127.0.0.1:{port}/"
    return {
        "name": "Counting agent",
        "description": "Counts as far as it is asked to.",
        "version": "1.0.0",
        "supportedInterfaces": [{"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
        "capabilities": {"streaming": True, "pushNotifications": True},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [{"id": "count", "name": "Count", "description": "Counts.", "tags": ["numbers"]}],
        **more,
    }


@dataclass(frozen=True, slots=True)
class Work:
    """One task: what is to come of it, and when."""

    task_id: str
    count: int
    pause_ms: int
    started_ms: int

    @classmethod
    def begun(cls, count: int, pause_ms: int) -> Work:
        """A new one, from now on."""
        now = time.time_ns() // 1_000_000
        return cls(f"{count}-{pause_ms}-{now}-{os.urandom(6).hex()}", count, pause_ms, now)

    @classmethod
    def named(cls, task_id: str) -> Work | None:
        """The one of that id."""
        fields = task_id.split("-")
        if len(fields) != 4 or not all(field.isdecimal() for field in fields[:3]):
            return None
        return cls(task_id, int(fields[0]), int(fields[1]), int(fields[2]))

    @property
    def context_id(self) -> str:
        return f"c-{self.task_id}"

    @property
    def done(self) -> int:
        """How many events are over by now."""
        if not self.pause_ms:
            return self.count
        return min(self.count, (time.time_ns() // 1_000_000 - self.started_ms) // self.pause_ms)

    def task(self) -> Json:
        """As it is now."""
        done = self.done
        parts = [{"text": str(number)} for number in range(done)]
        state = "TASK_STATE_COMPLETED" if done == self.count else "TASK_STATE_WORKING"
        artifacts = [{"artifactId": "a1", "parts": parts}] if parts else []
        status: Json = {"state": state, "timestamp": "2026-01-01T00:00:00Z"}
        return {"id": self.task_id, "contextId": self.context_id, "status": status, "artifacts": artifacts}

    def event(self, number: int) -> bytes:
        """One of its events, as JSON."""
        ids = f'"taskId":"{self.task_id}","contextId":"{self.context_id}"'
        artifact = f'{{"artifactId":"a1","parts":[{{"text":"{number}"}}]}}'
        return f'{{"artifactUpdate":{{{ids},"artifact":{artifact},"append":{str(number > 0).lower()}}}}}'.encode()

    def end(self) -> bytes:
        """Its last event."""
        status = {"state": "TASK_STATE_COMPLETED"}
        return orjson.dumps({"statusUpdate": {"taskId": self.task_id, "contextId": self.context_id, "status": status}})


class Agent:
    """The ASGI application."""

    def __init__(self, port: int, card: Path | None) -> None:
        self._port = port
        self._card = card
        self._calls: Counter[str] = Counter()
        self._connections: set[object] = set()
        self._hooks: list[object] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        if scope["method"] == "POST":
            self._connections.add(scope["client"])
            await self._post(await _body(receive), send)
        elif scope["method"] == "DELETE":
            self._calls.clear()
            self._connections.clear()
            await _send(send, b"{}")
        elif scope["path"] == "/.well-known/agent-card.json":
            await _send(send, self._card.read_bytes() if self._card else orjson.dumps(card_of(self._port)))
        elif scope["path"] == "/jwks.json" and self._card:
            await _send(send, self._card.with_name("jwks.json").read_bytes())
        else:
            counted = {"methods": dict(self._calls), "connections": len(self._connections)}
            shown = {"/count": counted, "/hooks": self._hooks}.get(scope["path"])
            await _send(send, orjson.dumps(shown), status=200 if shown is not None else 404)

    async def _post(self, body: bytes, send: Send) -> None:
        request = orjson.loads(body)
        method, params, number = request["method"], request.get("params", {}), orjson.dumps(request["id"])
        self._calls[method] += 1
        reply = Answer(send, b'{"jsonrpc":"2.0","id":' + number + b',"result":')
        if method == "SendMessage":
            await self._told(params, reply)
        elif method == "SendStreamingMessage":
            await self._streamed(params, reply)
        elif method == "CreateTaskPushNotificationConfig":
            self._hooks.append(params)
            await reply.whole(orjson.dumps({**params, "id": params.get("id", "h1")}))
        else:
            await self._asked(method, params, reply)

    async def _told(self, params: Json, reply: Answer) -> None:
        words = _words(params)
        if words[0] == "drip":
            await reply.drip(_JSON)
        elif words[0] == "silence":
            await reply.begin(_JSON)
            await asyncio.Event().wait()
        else:
            work = Work.begun(int(words[1]), int(words[2])) if words[0] == "stream" else Work.begun(0, 0)
            await reply.whole(orjson.dumps({"task": work.task()}))

    async def _streamed(self, params: Json, reply: Answer) -> None:
        words = _words(params)
        if words[0] == "drip":
            await reply.drip(_SSE)
            return
        work = Work.begun(int(words[1]), int(words[2])) if words[0] == "stream" else Work.begun(0, 0)
        await reply.begin(_SSE)
        await reply.event(
            orjson.dumps({"task": {**work.task(), "status": {"state": "TASK_STATE_WORKING"}, "artifacts": []}})
        )
        if words[0] == "silence":
            await asyncio.Event().wait()
        if words[0] == "flood":
            text = "x" * CHUNK
            for _ in range(int(words[1]) * MIB // CHUNK):
                await reply.event(work.event(0).replace(b'"text":"0"', b'"text":"' + text.encode() + b'"'))
        await _go_on(work, 0, reply)

    async def _asked(self, method: str, params: Json, reply: Answer) -> None:
        work = Work.named(str(params.get("id", "")))
        if work is None:
            await reply.refuse(-32001, "Task not found")
        elif method == "SubscribeToTask":
            if work.done == work.count:
                await reply.refuse(-32004, "The task is over")
                return
            await reply.begin(_SSE)
            done = work.done
            await reply.event(orjson.dumps({"task": work.task()}))
            await _go_on(work, done, reply)
        else:
            await reply.whole(orjson.dumps(work.task()))


async def _go_on(work: Work, done: int, reply: Answer) -> None:
    """The events from that one on, each at its time, and the end."""
    for number in range(done, work.count):
        if work.pause_ms:
            due = (work.started_ms + (number + 1) * work.pause_ms) / 1000
            await asyncio.sleep(max(0.0, due - time.time()))
        await reply.event(work.event(number))
    await reply.event(work.end())
    await reply.end()


class Answer:
    """The response to one request; results are put into its envelope."""

    def __init__(self, send: Send, head: bytes) -> None:
        self._send = send
        self._head = head

    async def whole(self, result: bytes) -> None:
        await _send(self._send, self._head + result + b"}")

    async def refuse(self, code: int, message: str) -> None:
        error = orjson.dumps({"code": code, "message": message})
        await _send(self._send, self._head.removesuffix(b'"result":') + b'"error":' + error + b"}")

    async def begin(self, headers: list[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._more(b"")

    async def event(self, result: bytes) -> None:
        await self._more(b"data: " + self._head + result + b"}\n\n")

    async def drip(self, headers: list[tuple[bytes, bytes]]) -> None:
        await self.begin(headers)
        for byte in self._head + b'"' + b"x" * MIB:
            await self._more(bytes([byte]))
            await asyncio.sleep(DRIP_S)

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def _more(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})


def _words(params: Json) -> list[str]:
    message = params.get("message")
    parts = message.get("parts") if isinstance(message, dict) else None
    first = parts[0] if isinstance(parts, list) and parts else {}
    return str(first.get("text", "")).split() or [""]


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        part = await receive()
        body += bytes(part.get("body", b""))
        if not part.get("more_body"):
            return body


async def _send(send: Send, body: bytes, *, status: int = 200) -> None:
    headers = [*_JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.agent")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--card", type=Path)
    options = parser.parse_args()
    uvicorn.run(
        Agent(options.port, options.card),
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        server_header=False,
        date_header=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
