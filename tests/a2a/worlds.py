"""An agent's A2A endpoint over fakes: everything between the bytes of a client and an upstream is real."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final

from gateway.a2a.card_check import frozen
from gateway.a2a.card_shelf import CardShelf
from gateway.a2a.cards import Places, security_of
from gateway.a2a.directory import AgentEntry, Agents, Interface
from gateway.a2a.operations import CARD_READ
from gateway.a2a.tasks import TaskIndex
from gateway.app.held_messages import Messages
from gateway.approvals.held import HeldCalls
from gateway.errors import PolicyDenied, Unauthenticated, UpstreamUnavailable
from gateway.identity.card_keys import CardKeys
from gateway.identity.seal import Sealer
from gateway.listeners.a2a.endpoint import A2aEndpoint, A2aParts
from gateway.listeners.guards import Guards
from gateway.listeners.mcp.calls import Tracing
from gateway.pipeline import Pipeline
from gateway.ports import Gate, Relay, TaskRecord
from gateway.types import Authorized, Call, Entity, Identity, Result
from tests.fakes import ANA, BO, FakeDecider, FakeIdentifier, FakeRecorder, FakeTaskStore, FakeUpstream
from tests.mcp.asgi import LOCAL, Answer, Exchange, Header, Json, fetch, opened

AGENT: Final = "cook"
BASE: Final = f"/agents/{AGENT}"
ANONYMOUS: Final = Identity(Entity("anonymous", "anonymous:dev"), method="anonymous")
UPSTREAM_URL: Final = "http://10.1.2.3:9000/a2a"
EXTENSION: Final = "https://example.com/ext/traceability/v1"

Answering = Callable[[Authorized, Relay], Awaitable[Result]]


def card(**more: object) -> Json:
    """A card of an agent that can do everything."""
    return {
        "name": "Cook",
        "description": "cooks",
        "version": "1.0.0",
        "supportedInterfaces": [{"url": UPSTREAM_URL, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
        "capabilities": {"streaming": True, "pushNotifications": True, "extendedAgentCard": True},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [{"id": "cook", "name": "Cook", "description": "cooks", "tags": ["food"]}],
        **more,
    }


def entry(**capabilities: object) -> AgentEntry:
    """The agent as its upstream describes it."""
    known = card()
    given = known["capabilities"]
    assert isinstance(given, dict)
    shown = frozen({**known, "capabilities": {**given, **capabilities}})
    interface = Interface(UPSTREAM_URL, "JSONRPC", "1.0")
    return AgentEntry(AGENT, shown, (interface,), "sha256:1", pinned=True, fetched_s=1_700_000_000)


@dataclass
class FakePushes:
    """Keeps the notifications that came in, and answers with `status`."""

    status: int = 200
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)

    async def received(self, agent: str, relay_id: str, headers: Mapping[bytes, list[bytes]], body: bytes) -> int:
        self.seen.append((agent, relay_id, body))
        return self.status


@dataclass
class Desk:
    """Carries out card reads."""

    agents: Agents
    shelf: CardShelf
    places: Places

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        found = self.agents.get(authorized.call.resource.upstream)
        if found is None or not found.card:
            raise UpstreamUnavailable("no card")
        return Result(self.shelf.page(found, self.places).body)


@dataclass
class World:
    """The parts of one gateway, to look into and to arrange."""

    decider: FakeDecider = field(default_factory=FakeDecider)
    upstream: FakeUpstream = field(default_factory=lambda: FakeUpstream(payload=b'{"task":{"id":"t-1"}}'))
    trail: FakeRecorder = field(default_factory=FakeRecorder)
    identifier: FakeIdentifier = field(default_factory=lambda: FakeIdentifier({"ana": ANA, "bo": BO}))
    store: FakeTaskStore = field(default_factory=FakeTaskStore)
    pushes: FakePushes = field(default_factory=FakePushes)
    guards: Guards = field(default_factory=lambda: Guards(100_000))
    agents: Agents = field(default_factory=Agents)
    gate: Gate | None = None
    held: HeldCalls | None = None

    def __post_init__(self) -> None:
        self.agents.configure([AGENT])
        self.agents.put(entry())
        numbers = count(1)
        keys = CardKeys(b"k" * 32, "https://gateway.example/.well-known/jwks.json")
        self.tasks = TaskIndex(self.store, lambda: 1_700_000_000_000, Sealer([b"k" * 32], "interlock"))
        shelf, places = CardShelf(keys.sign, security_of()), Places("https://gateway.example")
        desk = Desk(self.agents, shelf, places)
        handler = Pipeline(
            identifier=self.identifier,
            authz=self.decider,
            upstream_for=lambda call: desk if call.method == CARD_READ else self.upstream,
            trail=self.trail,
            new_id=lambda: f"inner-{next(numbers)}",
            gate=self.gate,
        )

        def new_id() -> str:
            return f"call-{next(numbers)}"

        parts = A2aParts(
            agents=self.agents,
            tasks=self.tasks,
            handler=handler,
            identifier=self.identifier,
            guards=self.guards,
            shelf=shelf,
            pushes=self.pushes,
            new_id=new_id,
            trace=Tracing,
            holds=self._holds(handler, new_id),
        )
        self.endpoint = A2aEndpoint(parts, name=AGENT, places=places, challenge=_challenged)

    def _holds(self, handler: Pipeline, new_id: Callable[[], str]) -> Messages | None:
        if self.held is None:
            return None
        return Messages(self.held, handler, self.agents, self.identifier, new_id)

    async def own(self, task_id: str, identity: Identity, *, context_id: str = "c-1") -> None:
        """Make a task and its context somebody's."""
        record = TaskRecord(AGENT, task_id, context_id, owner=identity.principal, subject=identity.subject.id)
        await self.store.claim_task(replace(record, state="TASK_STATE_WORKING"))
        await self.store.claim_context(AGENT, context_id, identity.principal, 0)

    def answer(self, payload: bytes, *, outcome: Any = "ok", headers: tuple[Header, ...] = ()) -> None:
        """What the agent answers from now on."""

        async def answer(authorized: Authorized, relay: Relay) -> Result:
            return Result(payload, outcome, headers=headers)

        self.upstream.answer = answer

    def stream(self, *events: bytes, end: Result | Exception | None = None) -> None:
        """The events that the agent streams from now on, and how its streams end."""

        async def answer(authorized: Authorized, relay: Relay) -> Result:
            for event in events:
                await relay.emit(event)
            if isinstance(end, Exception):
                raise end
            return end or Result(b"{}")

        self.upstream.answer = answer

    def deny(self, error: Exception) -> None:
        """Refuse everything from now on."""

        def decide(call: Call, identity: Identity) -> Any:
            raise error

        self.decider.decide_with = decide

    async def app(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """The ASGI application of the gateway: here, only this agent is mounted."""
        path, _, query = scope["path"].partition("?")
        assert path.startswith(BASE)
        told = {**scope, "path": path, "query_string": scope["query_string"] or query.encode()}
        await self.endpoint(told, receive, send, path[len(BASE) :])

    async def send(
        self,
        verb: str,
        path: str,
        body: Json | bytes | None = None,
        *extra: Header,
        client: tuple[str, int] | None = LOCAL,
    ) -> Answer:
        """The whole answer to one request below the agent's base."""
        raw, headers = wire(body, extra)
        return await fetch(self.app, raw, headers, method=verb, path=BASE + path, client=client)

    def open(self, verb: str, path: str, body: Json | None, *extra: Header) -> AbstractAsyncContextManager[Exchange]:
        """The same, to look at while it comes."""
        raw, headers = wire(body, extra)
        return opened(self.app, raw, headers, method=verb, path=BASE + path)

    async def rpc(self, method: str, params: Json | None = None, *extra: Header, path: str = "") -> Answer:
        """The answer to a JSON-RPC request."""
        return await self.send("POST", path, request(method, params), *extra)

    @property
    def call(self) -> Call:
        """The only call that reached the agent."""
        (executed,) = self.upstream.executed
        return executed.call


def request(method: str, params: Json | None = None, request_id: object = 1) -> Json:
    """A JSON-RPC request."""
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}


def message(text: str = "hi", **more: object) -> Json:
    """A message of a user, in 1.0."""
    return {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": text}], **more}


def old_message(text: str = "hi", **more: object) -> Json:
    """The same, in 0.3."""
    return {
        "kind": "message",
        "messageId": "m-1",
        "role": "user",
        "parts": [{"kind": "text", "text": text}],
        **more,
    }


def wire(body: Json | bytes | None, extra: Sequence[Header]) -> tuple[bytes, list[Header]]:
    """An extra header takes the place of the one that would be sent; with the value b"-" it is left out."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    headers = {b"host": b"127.0.0.1:8080", b"authorization": b"Bearer ana", b"a2a-version": b"1.0"}
    if raw:
        headers[b"content-type"] = b"application/json"
    kept = [(name, value) for name, value in headers.items() if name not in {name for name, _ in extra}]
    return raw, [*kept, *((name, value) for name, value in extra if value != b"-")]


def denied(*reasons: Any) -> PolicyDenied:
    """A refusal of policy."""
    return PolicyDenied("not in this room", decision_id="d-7", reasons=reasons)


def _challenged(error: Unauthenticated) -> Unauthenticated:
    return Unauthenticated(str(error), challenge='Bearer realm="interlock"')
