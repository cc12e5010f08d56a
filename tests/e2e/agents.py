"""A gateway process in front of a real agent and a real MCP server, two callers' keys, and SDK clients of it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import grpc.aio
import httpx
import httpx2
from a2a.client import AuthInterceptor, Client, ClientCallContext, ClientConfig, ClientFactory, CredentialService
from a2a.client.card_resolver import A2ACardResolver
from a2a.helpers import new_text_message
from a2a.types import AgentCard, a2a_pb2
from a2a.utils.signing import create_signature_verifier
from jwt.api_jwk import PyJWK

from conformance.gateway import ROOT, Plan
from conformance.processes import free_port, running
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, as_process, new_key, on_the_host, prepare, rules
from tests.wire.upstreams import Request, Served

AGENT: Final = "planner"
TIME: Final = "time"
TIMEOUT_S: Final = 30.0
RULES: Final = """allow if "developer" in input.subject.properties.roles

allow if {
	"reader" in input.subject.properties.roles
	input.action.name in {"a2a.card.read", "a2a.tasks.get", "a2a.tasks.list"}
}
"""


@dataclass(frozen=True, slots=True)
class World:
    """A running gateway, the key of a developer and that of somebody who may only look."""

    place: Place
    ana: str
    bo: str

    def base(self, agent: str = AGENT) -> str:
        """Where an agent is, for clients that look for its card there."""
        return f"{self.place.url}/agents/{agent}"


@contextmanager
def world(directory: Path) -> Iterator[World]:
    """Everything started, until the block ends."""
    port, grpc_port = free_port(), free_port()
    command = [sys.executable, "-m", "conformance.a2a.agent", "--port", str(port), "--grpc-port", str(grpc_port)]
    tables: Mapping[str, Mapping[str, object]] = {
        "listen": {"grpc_port": free_port()},
        "policy": rules(directory, team=RULES),
        f"agents.{AGENT}": {"card_url": f"http://127.0.0.1:{port}/.well-known/agent-card.json"},
    }
    place = prepare(directory, Plan({TIME: on_the_host([sys.executable, "-m", "mcp_server_time"])}, tables))
    keys = [anyio.run(new_key, place, *who) for who in (("ana", "developer"), ("bo", "reader"))]
    with running(command, port=port, log=directory / "agent.log", cwd=ROOT), as_process(place):
        made = World(place, *keys)
        anyio.run(_settled, made)
        yield made


async def _settled(made: World) -> None:
    """The gateway is ready before what it governs is: wait for both cards."""
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {made.ana}"}, trust_env=False) as http:

        async def there() -> bool:
            urls = [f"{made.base(name)}/.well-known/agent-card.json" for name in (AGENT, TIME)]
            return all([(await http.get(url)).status_code == 200 for url in urls])

        await eventually(there, within_s=TIMEOUT_S)


class OneKey(CredentialService):
    """The key of a caller, for whatever scheme a card names."""

    def __init__(self, key: str) -> None:
        self._key = key

    async def get_credentials(self, security_scheme_name: str, context: ClientCallContext | None) -> str | None:
        return self._key


@asynccontextmanager
async def sdk_client(
    made: World, binding: str, key: str = "", *, agent: str = AGENT, version: str = "1.0", streaming: bool = True
) -> AsyncIterator[Client]:
    """A client of the SDK that learned from the verified card where to go and how to say who calls."""
    key = key or made.ana
    with anyio.fail_after(TIMEOUT_S):
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
            card = await verified_card(http, made, key, agent)
            of_version = [each for each in card.supported_interfaces if each.protocol_version == version]
            del card.supported_interfaces[:]
            card.supported_interfaces.extend(of_version)
            config = ClientConfig(
                httpx_client=http,
                grpc_channel_factory=grpc.aio.insecure_channel,
                supported_protocol_bindings=[binding],
                streaming=streaming,
            )
            async with ClientFactory(config).create(card, [AuthInterceptor(OneKey(key))]) as client:
                yield client


async def verified_card(http: httpx.AsyncClient, made: World, key: str, agent: str = AGENT) -> AgentCard:
    """The card as the gateway publishes it, its signature checked with the key set that the gateway publishes."""
    headers = {"authorization": f"Bearer {key}"}
    keys_url = f"{made.place.url}/.well-known/interlock-jwks.json"
    published = (await http.get(keys_url)).json()["keys"]

    def key_of(kid: str | None, jku: str | None) -> PyJWK:
        assert jku == keys_url
        return PyJWK(next(each for each in published if each["kid"] == kid))

    return await A2ACardResolver(http, made.base(agent)).get_agent_card(
        http_kwargs={"headers": headers}, signature_verifier=create_signature_verifier(key_of, ["ES256"])
    )


def asking(behaviour: str, text: str = "hi", **more: Any) -> a2a_pb2.SendMessageRequest:
    """A message that the agent under test answers in this way (`conformance/a2a/behaviours.py`)."""
    message = new_text_message(text, role=a2a_pb2.ROLE_USER, **more)
    message.message_id = f"{behaviour}-{message.message_id}"
    return a2a_pb2.SendMessageRequest(message=message)


async def notified(served: Served, state: str, *, within_s: float = 10.0) -> Request:
    """The notification of a webhook that says this of a task."""

    async def look() -> list[Request]:
        return [each for each in served.requests if state.encode() in each.body]

    return (await eventually(look, within_s=within_s))[0]
