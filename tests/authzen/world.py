"""A gateway as an AuthZEN decision point for tests: real rules, pipeline and routes, over fakes of the rest."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeAlias

import anyio
import httpx2
import uvicorn
from starlette.applications import Starlette

from adapters.pdp.activation import ActivePdp, Engine
from adapters.pdp.bundle import bundle_of
from adapters.pdp.regorus import RegorusPdp
from gateway.app.authzen import DeskParts, EvaluationDesk, authzen_routes
from gateway.authz.authz import Authz
from gateway.authz.detection import Detection
from gateway.errors import UnknownResource
from gateway.listeners.guards import Guards
from gateway.pipeline import Pipeline
from gateway.ports import DecisionTap, Switches, Upstream
from gateway.registry import ItemFacts, Kind, Registry
from gateway.types import Call, Entity, Identity
from tests.fakes import FakeIdentifier, FakeRecorder
from tests.registry.samples import catalog_of, tool

Json: TypeAlias = Any
LIBRARY: Final = Path(__file__).resolve().parents[2] / "policies" / "lib" / "interlock.rego"
URL: Final = "http://127.0.0.1:8080"
PEP: Final = Identity(Entity("agent", "agent:pep"), roles=("pep",), method="api_key")
ANA: Final = Identity(Entity("user", "user:ana"), roles=("analyst",), method="api_key")
VISITOR: Final = Identity(Entity("user", "visitor"), roles=("pep",), method="anonymous")

MAY_ASK: Final = """
allow if {
	input.action.name == "authzen.evaluate"
	some role in input.subject.properties.roles
	role in {"interlock-admin", "pep"}
}
"""
RULES: Final = """
allow if {
	input.action.name == "mcp.tools.call"
	"analyst" in input.subject.properties.roles
}

deny contains {"code": "not_that", "message": "not that", "public": true} if {
	input.resource.properties.arguments.text == "secret"
}

deny contains {"code": "quiet", "message": "nobody is told"} if input.resource.id == "files/hush"

hold contains {"approvers": "group:finance", "title": "pay"} if input.resource.id == "bank/pay"

obligation contains {"type": "redact", "properties": {"patterns": ["secret"]}} if input.resource.id == "files/read"
"""


@dataclass
class Place:
    """One decision point. `rules` are those of `rules.team`; asking is allowed to the role pep."""

    rules: str = RULES
    switches: Switches | None = None
    tap: DecisionTap | None = None
    detection: Detection | None = None
    url: str = URL
    trail: FakeRecorder = field(default_factory=FakeRecorder)
    policy: ActivePdp = field(default_factory=ActivePdp)

    def __post_init__(self) -> None:
        text = f"package rules.team\n\nimport future.keywords.not\n\ndefault allow := false\n{MAY_ASK}\n{self.rules}"
        bundle = bundle_of({"lib.rego": LIBRARY.read_text(), "team.rego": text})
        self.policy.activate(Engine(RegorusPdp(bundle), bundle.revision, "inline"))
        self.registry = Registry(["files"])
        self.registry.put(catalog_of("files", tools=[tool("read"), tool("wipe")], facts=_facts))
        numbers = count(1)
        self.new_id = lambda: f"id-{next(numbers)}"
        self.identifier = FakeIdentifier({"pep-key": PEP, "ana-key": ANA}, anonymous=VISITOR)

    @property
    def app(self) -> Starlette:
        """The application, at `url`."""
        authz = Authz(
            self.policy,
            env="test",
            clock_ns=lambda: 7,
            monotonic_ns=lambda: 0,
            new_id=self.new_id,
            response_differs=lambda: False,
        )
        desk = EvaluationDesk(
            DeskParts(
                self.policy,
                self.registry,
                env="test",
                new_id=self.new_id,
                switches=self.switches,
                tap=self.tap,
                detection=self.detection,
            )
        )

        def upstream_for(call: Call) -> Upstream:
            found = desk.desk_for(call)
            if found is None:
                raise UnknownResource(f"nothing carries out {call.action} here")
            return found

        pipeline = Pipeline(
            identifier=self.identifier,
            authz=authz,
            upstream_for=upstream_for,
            trail=self.trail,
            new_id=self.new_id,
            switches=self.switches,
        )
        return Starlette(routes=authzen_routes(pipeline, Guards(4 << 20), self.url, self.new_id))

    async def send(self, body: Json, path: str = "/access/v1/evaluation", **headers: str) -> httpx2.Response:
        """A POST; keyword headers are written with `_` for `-`. Bytes go as they are."""
        content = body if isinstance(body, bytes) else None
        given = {"authorization": "Bearer pep-key", "content-type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        kept = {name: value for name, value in given.items() if value}
        transport = httpx2.ASGITransport(self.app)
        with anyio.fail_after(10):
            async with httpx2.AsyncClient(transport=transport, base_url=self.url, trust_env=False) as http:
                if content is not None:
                    return await http.post(path, content=content, headers=kept)
                return await http.post(path, json=body, headers=kept)

    async def decide(self, body: Json) -> Json:
        """The response to one question."""
        reply = await self.send(body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def decide_all(self, body: Json) -> Json:
        """The responses to several."""
        reply = await self.send(body, "/access/v1/evaluations")
        assert reply.status_code == 200, reply.text
        return reply.json()["evaluations"]


def _facts(kind: Kind, name: str) -> ItemFacts:
    return ItemFacts("high" if name == "wipe" else "low")


def asks(resource: str = "files/read", *roles: str, arguments: Mapping[str, object] | None = None) -> dict[str, Json]:
    """May user:bo call this tool?"""
    return {
        "subject": {"type": "user", "id": "user:bo", "properties": {"roles": list(roles or ("analyst",))}},
        "action": {"name": "mcp.tools.call"},
        "resource": {"type": "tool", "id": resource, "properties": {"arguments": dict(arguments or {})}},
    }


@asynccontextmanager
async def served(place: Place) -> AsyncIterator[str]:
    """The place over a real socket; gives its address."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(64)
        place.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(place.app, log_level="error", lifespan="off"))
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [bound])
            try:
                yield place.url
            finally:
                server.should_exit = True
