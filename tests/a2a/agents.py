"""A2A agents on real sockets: one that does what a test says, byte by byte, and one on the SDK."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from adapters.upstreams.a2a.agent import A2aAgent
from adapters.upstreams.a2a.caller import Terms
from adapters.upstreams.a2a.feed import Pace
from adapters.upstreams.a2a.grpc_upstream import grpc_caller
from adapters.upstreams.a2a.parts import Parts
from gateway.a2a.directory import AgentEntry, Binding, Interface
from gateway.a2a.operations import OPERATIONS
from gateway.a2a.tasks import TaskIndex
from gateway.errors import InterlockError
from gateway.identity.chain import Chains
from gateway.identity.seal import Sealer
from gateway.types import Authorized, Call, FrozenDict, Identity, Permit, Resource, Result, freeze
from tests.fakes import ANA, FakeRelay, FakeTaskStore
from tests.wire.upstreams import Conversation, Request, Served, upstream

NAME = "planner"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
"""The head of a stream that the end of the connection ends."""
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
"""The head of a stream that can be told to be cut."""
LAST = b"0\r\n\r\n"
TERMS = Terms(timeout_s=5)
QUICK = Pace(grace_s=0.2, linger_s=0.2, repair_s=0.01)


@dataclass(frozen=True)
class Seen:
    """One request: `method` is that of JSON-RPC, or verb and target of HTTP+JSON."""

    method: str
    headers: Mapping[str, str]
    body: Any

    @property
    def params(self) -> Any:
        return self.body["params"]


Answer = Callable[[Conversation, Seen], Awaitable[None]]


@dataclass
class Script:
    """What was asked so far, and how each method is answered."""

    answers: dict[str, Answer] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0

    def count(self, method: str) -> int:
        return sum(seen.method == method for seen in self.seen)

    def last(self, method: str) -> Seen:
        return next(seen for seen in reversed(self.seen) if seen.method == method)

    async def serve(self, conversation: Conversation) -> None:
        self.connections += 1
        while True:
            seen = seen_in(await conversation.request())
            self.seen.append(seen)
            await self.answers[seen.method](conversation, seen)


def seen_in(request: Request) -> Seen:
    first, *lines = request.head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if line)
    body = json.loads(request.body) if request.body else None
    verb, target, _ = first.split(" ")
    rpc = isinstance(body, dict) and body.get("jsonrpc") == "2.0"
    method = str(body["method"]) if rpc and body else f"{verb} {target}"
    return Seen(method, headers, body)


def response(content: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(content)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def rpc(seen: Seen, result: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (seen.body["id"], result)


def gives(result: bytes, *headers: str) -> Answer:
    """Always this result of JSON-RPC."""

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(response(rpc(seen, result), "200 OK", *headers))

    return answer


def says(content: bytes, status: str = "200 OK", *headers: str) -> Answer:
    """Always this body, with `ID` in it replaced by the id of the request."""

    async def answer(conversation: Conversation, seen: Seen) -> None:
        number = str(seen.body.get("id")) if isinstance(seen.body, dict) else ""
        await conversation.send(response(content.replace(b"ID", number.encode()), status, *headers))

    return answer


def refuses(code: int, message: str) -> Answer:
    error = json.dumps({"code": code, "message": message})
    return says(b'{"jsonrpc":"2.0","id":ID,"error":' + error.encode() + b"}")


def fails() -> Answer:
    """Cut the connection before anything is answered."""

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.stream.aclose()

    return answer


def in_turn(*answers: Answer) -> Answer:
    """The first time the first, and so on; the last goes on."""
    left = list(answers)

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(conversation, seen)

    return answer


def event(seen: Seen, result: bytes) -> bytes:
    return b"data: " + rpc(seen, result) + b"\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def streams(*results: bytes, then: Callable[[], Awaitable[None]] | None = None, cut: bool = False) -> Answer:
    """These events; then, once `then` returns, the end: in good order, or `cut` off."""

    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(CHUNKED + b"".join(chunk(event(seen, result)) for result in results))
        if then is not None:
            await then()
        if cut:
            await conversation.stream.aclose()
        else:
            await conversation.send(LAST)

    return answer


def task(state: str = "WORKING", task_id: str = "t1", **more: object) -> bytes:
    body = {"id": task_id, "contextId": "c1", "status": {"state": f"TASK_STATE_{state}"}, **more}
    return json.dumps({"task": body}, separators=(",", ":")).encode()


def bare(event_of_task: bytes) -> bytes:
    """The task as `GetTask` gives it."""
    return json.dumps(json.loads(event_of_task)["task"], separators=(",", ":")).encode()


def status(state: str, task_id: str = "t1") -> bytes:
    body = {"taskId": task_id, "contextId": "c1", "status": {"state": f"TASK_STATE_{state}"}}
    return json.dumps({"statusUpdate": body}, separators=(",", ":")).encode()


def artifact(text: str, *, append: bool = True, task_id: str = "t1") -> bytes:
    body = {
        "taskId": task_id,
        "contextId": "c1",
        "artifact": {"artifactId": "a1", "parts": [{"text": text}]},
        "append": append,
    }
    return json.dumps({"artifactUpdate": body}, separators=(",", ":")).encode()


@dataclass
class FixedSource:
    """A `CardSource` that gives what it was told to, or raises it."""

    entry: AgentEntry | InterlockError
    closed: bool = False
    news: anyio.Event = field(default_factory=anyio.Event)

    def tell(self) -> None:
        """Something may have changed."""
        self.news.set()
        self.news = anyio.Event()

    async def described(self) -> AgentEntry:
        self.tell()
        if isinstance(self.entry, InterlockError):
            raise self.entry
        return self.entry

    async def aclose(self) -> None:
        self.closed = True


def entry_of(*interfaces: Interface, **capabilities: bool) -> AgentEntry:
    offered = {"streaming": True, "pushNotifications": True, **capabilities}
    card = freeze({"name": "Planner", "capabilities": offered})
    assert isinstance(card, FrozenDict)
    return AgentEntry(NAME, card=card, interfaces=interfaces, digest="sha256:1")


@dataclass
class World:
    """A running `A2aAgent`, whose index and chain are real."""

    agent: A2aAgent
    script: Script
    source: FixedSource
    tasks: TaskIndex
    chains: Chains
    offered: list[AgentEntry]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the gateway does with the card."""
        with anyio.fail_after(10):
            while not condition():
                await self.source.news.wait()

    async def call(
        self, method: str, params: Mapping[str, object], relay: FakeRelay | None = None, identity: Identity = ANA
    ) -> Result:
        relay = relay or FakeRelay()

        async def carry(action: str, method: str, resource: Resource, params: Mapping[str, object]) -> Result:
            return await self.agent.execute(authorized(method, params, identity), relay)

        relay.carry = carry
        with anyio.fail_after(10):
            return await self.agent.execute(authorized(method, params, identity), relay)


def authorized(method: str, params: Mapping[str, object], identity: Identity = ANA, **more: str) -> Authorized:
    frozen = freeze(dict(params))
    assert isinstance(frozen, FrozenDict)
    resource = Resource("agent", NAME, upstream=NAME, name=NAME)
    call = Call("c1", OPERATIONS[method].action, method, resource, frozen, "a2a", "1.0")
    call = replace(call, **more)  # type: ignore[arg-type]  # texts only
    return Authorized(call, identity, Permit("d1", call.digest))


SEND = {"message": {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": "plan"}]}}


@asynccontextmanager
async def running(
    source: FixedSource,
    script: Script,
    *,
    terms: Terms = TERMS,
    pace: Pace = QUICK,
    revalidate_s: float = 300.0,
) -> AsyncIterator[World]:
    """The agent of a source, run until the block ends."""
    offered: list[AgentEntry] = []

    async def offer(entry: AgentEntry) -> None:
        offered.append(entry)
        source.tell()

    tasks = TaskIndex(FakeTaskStore(), lambda: time.time_ns() // 1_000_000, Sealer([b"k" * 32], "interlock"))
    chains = Chains(b"c" * 32, "https://gateway.example", lambda name: True, time.time)
    agent = A2aAgent(
        NAME,
        source=source,
        offer=offer,
        terms=terms,
        parts=Parts(tasks, chains, grpc=grpc_caller),
        random=lambda: 0.0,
        pace=pace,
        revalidate_s=revalidate_s,
    )
    async with anyio.create_task_group() as group:
        group.start_soon(agent.run)
        with anyio.fail_after(10):
            await agent.settled.wait()
        yield World(agent, script, source, tasks, chains, offered)
        group.cancel_scope.cancel()


@asynccontextmanager
async def world(
    answers: Mapping[str, Answer],
    *,
    binding: Binding = "JSONRPC",
    version: str = "1.0",
    path: str = "",
    tenant: str = "",
    terms: Terms = TERMS,
    pace: Pace = QUICK,
) -> AsyncIterator[World]:
    """A scripted agent that speaks one binding, and the gateway's side of it."""
    script = Script(dict(answers))
    async with upstream(script.serve) as served:
        source = FixedSource(entry_of(interface_of(served, binding, version, path, tenant)))
        async with running(source, script, terms=terms, pace=pace) as made:
            yield made


def interface_of(served: Served, binding: Binding, version: str, path: str = "", tenant: str = "") -> Interface:
    return Interface(served.url + path, binding, version, tenant)


def texts(events: Sequence[bytes]) -> list[str]:
    """The texts of the artifacts in these events, in order."""
    found = [json.loads(one).get("artifactUpdate", {}).get("artifact", {}) for one in events]
    return [part["text"] for one in found for part in one.get("parts", [])]
