"""A gateway's MCP endpoints over fakes: everything between the bytes of a client and an upstream is real."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from starlette.applications import Starlette

from gateway.app.endpoints import Front, Parts
from gateway.approvals.held import HeldCalls
from gateway.errors import PolicyDenied
from gateway.events import Events
from gateway.headers import encode_value
from gateway.identity.seal import Sealer
from gateway.listeners.admin import Views, admin_app
from gateway.listeners.guards import Guards
from gateway.listeners.mcp.calls import Seal
from gateway.listeners.mcp.holds import Patience, no_patience
from gateway.listeners.mcp.methods import SUPPORTED_VERSIONS
from gateway.listeners.mcp.sessions import Sessions
from gateway.listeners.mcp.tasks import EXTENSION
from gateway.lister import SERVED, About, Lister
from gateway.pipeline import Pipeline
from gateway.ports import Gate, Upstream
from gateway.registry import Registry
from gateway.types import Call, Entity, Identity, Resource
from tests.fakes import ANA, BO, FakeDecider, FakeIdentifier, FakeRecorder, FakeUpstream
from tests.mcp.asgi import LOCAL, Answer, Exchange, Header, Json, fetch, opened
from tests.registry.samples import catalog_of, resource, template, tool

MODERN: Final = "2026-07-28"
LEGACY: Final = "2025-11-25"
PREFIX: Final = "io.modelcontextprotocol/"
BOTH: Final = "application/json, text/event-stream"
ANONYMOUS: Final = Identity(Entity("anonymous", "anonymous:dev"), method="anonymous")
ADMIN: Final = Identity(Entity("user", "user:root"), roles=("admin",), method="api_key")
REGION: Final = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}


@dataclass
class Choice:
    """A decider that also chooses what is visible: everything but `hidden` names."""

    decider: FakeDecider
    hidden: set[str] = field(default_factory=set)
    asked: int = 0
    fail_with: Exception | None = None

    async def visible(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]:
        self.asked += 1
        if self.fail_with is not None:
            raise self.fail_with
        return frozenset(i for i, candidate in enumerate(candidates) if candidate.name not in self.hidden)


@dataclass
class TimedSeal:
    """The real sealer by the clock of the test."""

    now_s: float = 1_800_000_000.0
    real: Sealer = field(default_factory=lambda: Sealer([b"k" * 32], "interlock"))

    def seal(self, purpose: str, value: Mapping[str, object], *, principal: str, ttl_s: int, now_s: int) -> str:
        return self.real.seal(purpose, value, principal=principal, ttl_s=ttl_s, now_s=self.now_s)

    def open(self, purpose: str, token: str, *, principal: str, now_s: int) -> object:
        return self.real.open(purpose, token, principal=principal, now_s=self.now_s)


@dataclass
class World:
    """The parts of one gateway, to look into and to arrange."""

    decider: FakeDecider = field(default_factory=FakeDecider)
    upstream: FakeUpstream = field(
        default_factory=lambda: FakeUpstream(payload=b'{"content":[],"resultType":"complete"}')
    )
    trail: FakeRecorder = field(default_factory=FakeRecorder)
    identifier: FakeIdentifier = field(
        default_factory=lambda: FakeIdentifier({"ana": ANA, "bo": BO, "root": ADMIN}, anonymous=ANONYMOUS)
    )
    events: Events = field(default_factory=Events)
    seal: Seal = field(default_factory=TimedSeal)
    guards: Guards = field(default_factory=lambda: Guards(100_000))
    epoch: list[str | None] = field(default_factory=lambda: ["r1"])
    page_size: int = 1_000
    patience: Patience = no_patience
    gate: Gate | None = None
    held: HeldCalls | None = None

    def __post_init__(self) -> None:
        self.registry = offering()
        self.choice = Choice(self.decider)
        self.start()

    def start(self) -> None:
        """Begin (again, as after a restart) with nothing in memory of sessions."""
        numbers = count(1)
        self.handler = self._pipeline(lambda: f"call-{next(numbers)}")
        self.sessions = Sessions(
            sealer=self.seal, events=self.events, new_id=lambda: f"s{next(numbers)}", now_s=lambda: 0
        )
        parts = Parts(
            registry=self.registry,
            handler=self.handler,
            identifier=self.identifier,
            sealer=self.seal,
            sessions=self.sessions,
            events=self.events,
            guards=self.guards,
            url="http://127.0.0.1:8080",
            new_id=lambda: f"id-{next(numbers)}",
            parked_ttl_s=600,
            patience=self.patience,
            held=self.held,
        )
        self.faults: dict[str, str] = {}
        self.front = Front(parts, self._admin())
        self.front.offer(("files",))

    def _pipeline(self, new_id: Any) -> Pipeline:
        lister = Lister(
            registry=self.registry,
            chooser=self.choice,
            cursors=self.seal,
            epoch=lambda: self.epoch[0],
            now_s=lambda: int(self.seal.now_s) if isinstance(self.seal, TimedSeal) else 0,
            about=About("interlock", "0.1", SUPPORTED_VERSIONS, (EXTENSION,) if self.held is not None else ()),
            page_size=self.page_size,
        )

        def upstream_for(call: Call) -> Upstream:
            return lister if call.method in SERVED else self.upstream

        return Pipeline(
            identifier=self.identifier,
            authz=self.decider,
            upstream_for=upstream_for,
            trail=self.trail,
            new_id=new_id,
            gate=self.gate,
        )

    def _admin(self) -> Starlette:
        views = Views(
            readiness=lambda: {"audit": self.faults.get("audit", "")},
            metrics=lambda: b"interlock_calls 1\n",
            resource_metadata=lambda path: {"resource": f"http://127.0.0.1:8080{path}"},
            jwks=lambda: {"keys": []},
            upstreams=lambda: [{"name": "files", "down": ""}],
        )
        return admin_app(views, self.identifier, self.guards)

    def deny(self, *, action: str, error: PolicyDenied) -> None:
        """Refuse an action from now on."""
        before = self.decider.decide_with

        def decide(call: Call, identity: Identity) -> Any:
            if call.action == action:
                raise error
            return before(call, identity)

        self.decider.decide_with = decide

    async def post(
        self, body: Json | bytes, *extra: Header, path: str = "/mcp", client: tuple[str, int] | None = LOCAL
    ) -> Answer:
        """The answer to one modern message, or to bytes under the headers given."""
        raw, headers = _wire(body, extra)
        return await fetch(self.front, raw, headers, path=path, client=client)

    def open(self, body: Json, *extra: Header, path: str = "/mcp") -> AbstractAsyncContextManager[Exchange]:
        """The same, to look at while it comes."""
        raw, headers = _wire(body, extra)
        return opened(self.front, raw, headers, path=path)


def offering() -> Registry:
    """One upstream `files` with a little of everything."""
    registry = Registry(("files",))
    registry.put(
        catalog_of(
            "files",
            tools=[tool("read"), tool("write"), {"name": "locate", "inputSchema": REGION}],
            prompts=[{"name": "ask"}],
            resources=[resource("note://one"), resource("note://two")],
            templates=[template("note://{id}")],
            capabilities={"tools": {}, "prompts": {}, "resources": {"subscribe": True}, "logging": {}},
        )
    )
    return registry


def request(method: str, params: Mapping[str, object] | None = None, **meta: object) -> Json:
    """A modern request. Keywords go into `_meta` under the protocol's prefix."""
    envelope = {PREFIX + "protocolVersion": MODERN, PREFIX + "clientCapabilities": {}}
    known = {PREFIX + key: value for key, value in meta.items()}
    given = dict(params or {})
    own = given.pop("_meta", {})
    assert isinstance(own, dict)
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**given, "_meta": {**envelope, **known, **own}}}


def call(name: str = "files__read", arguments: Mapping[str, object] | None = None, **meta: object) -> Json:
    """A modern tools/call."""
    return request("tools/call", {"name": name, "arguments": dict(arguments or {})}, **meta)


def headers_for(body: Json) -> dict[bytes, bytes]:
    """The headers that say what the body says."""
    params = body.get("params", {})
    named = next((params[key] for key in ("taskId", "uri", "name") if key in params), None)
    found = {
        b"host": b"127.0.0.1:8080",
        b"content-type": b"application/json",
        b"accept": BOTH.encode(),
        b"authorization": b"Bearer ana",
        b"mcp-protocol-version": MODERN.encode(),
        b"mcp-method": str(body.get("method")).encode(),
    }
    return {**found, **({b"mcp-name": encode_value(named).encode()} if isinstance(named, str) else {})}


def _wire(body: Json | bytes, extra: Sequence[Header]) -> tuple[bytes, list[Header]]:
    """An extra header takes the place of the one that would be sent; with the value b"-" it is left out."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = headers_for(body if isinstance(body, dict) else {})
    kept = [(name, value) for name, value in headers.items() if name not in {name for name, _ in extra}]
    return raw, [*kept, *((name, value) for name, value in extra if value != b"-")]
