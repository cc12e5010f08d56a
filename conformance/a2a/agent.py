"""The agent under test: one agent of the Python SDK on JSON-RPC, HTTP+JSON and gRPC.

python -m conformance.a2a.agent --port 9800 --grpc-port 9801
python -m conformance.a2a.agent --port 9800 --grpc-port 9801 --v03     also for clients of 0.3
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import grpc.aio
import httpx
import uvicorn
from a2a.compat.v0_3 import a2a_v0_3_pb2_grpc
from a2a.compat.v0_3.grpc_handler import CompatGrpcHandler
from a2a.server.agent_execution.agent_executor import AgentExecutor
from a2a.server.request_handlers.default_request_handler_v2 import DefaultRequestHandlerV2
from a2a.server.request_handlers.grpc_handler import GrpcHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks.base_push_notification_sender import BasePushNotificationSender
from a2a.server.tasks.inmemory_push_notification_config_store import InMemoryPushNotificationConfigStore
from a2a.server.tasks.inmemory_task_store import InMemoryTaskStore
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentProvider, AgentSkill, a2a_pb2_grpc
from starlette.applications import Starlette

from conformance.a2a.behaviours import Executor, completing, conversing

HOST: Final = "127.0.0.1"
NAME: Final = "localhost"
"""What the card calls this machine: the test kit reaches it by that name."""
REST_PATH: Final = "/rest"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the agent listens, and whether clients of 0.3 are served too."""

    port: int
    grpc_port: int
    v03: bool = False


def card_of(place: Place) -> AgentCard:
    """The card; every binding in 1.0, and those over HTTP in 0.3 where that is asked for.

    The tests of 0.3 want a URL of HTTP in every interface.
    """
    base = f"http://{NAME}:{place.port}"
    over_http = {"JSONRPC": base, "HTTP+JSON": base + REST_PATH}
    grpc_too = {**over_http, "GRPC": f"{NAME}:{place.grpc_port}"}
    urls = {"1.0": grpc_too, "0.3": over_http} if place.v03 else {"1.0": grpc_too}
    return AgentCard(
        name="Agent under test",
        description="Answers as the id of a message asks for.",
        version="1.0.0",
        provider=AgentProvider(organization="Interlock", url="https://example.com"),
        supported_interfaces=[
            AgentInterface(url=url, protocol_binding=binding, protocol_version=version)
            for version, of_version in urls.items()
            for binding, url in of_version.items()
        ],
        capabilities=AgentCapabilities(streaming=True, push_notifications=True),
        default_input_modes=["text"],
        default_output_modes=["text"],
        skills=[AgentSkill(id="tck", name="Conformance", description="Answers the official tests.", tags=["tck"])],
    )


def application(card: AgentCard, handler: DefaultRequestHandlerV2, *, v03: bool) -> Starlette:
    """The HTTP side: card, JSON-RPC at the root, HTTP+JSON below its own path."""
    return Starlette(
        routes=[
            *create_agent_card_routes(card, cache_control="public, max-age=60"),
            *create_jsonrpc_routes(handler, "/", enable_v0_3_compat=v03),
            *create_rest_routes(handler, path_prefix=REST_PATH, enable_v0_3_compat=v03),
        ]
    )


@asynccontextmanager
async def handler_of(card: AgentCard, executor: AgentExecutor | None = None) -> AsyncIterator[DefaultRequestHandlerV2]:
    """Tasks in memory, notifications really sent."""
    configs = InMemoryPushNotificationConfigStore()
    async with httpx.AsyncClient(timeout=10) as client:
        handler = DefaultRequestHandlerV2(
            agent_executor=executor or Executor(),
            task_store=InMemoryTaskStore(),
            agent_card=card,
            push_config_store=configs,
            push_sender=BasePushNotificationSender(client, configs),
        )
        try:
            yield handler
        finally:
            await handler.aclose()


@asynccontextmanager
async def grpc_door(handler: DefaultRequestHandlerV2, *, port: int = 0, v03: bool = False) -> AsyncIterator[int]:
    """The gRPC side, until the block ends; gives its port."""
    server = grpc.aio.server()
    a2a_pb2_grpc.add_A2AServiceServicer_to_server(GrpcHandler(handler), server)  # type: ignore[no-untyped-call]  # generated
    if v03:
        compat = CompatGrpcHandler(handler)
        a2a_v0_3_pb2_grpc.add_A2AServiceServicer_to_server(compat, server)  # type: ignore[no-untyped-call]  # generated
    bound = server.add_insecure_port(f"{HOST}:{port}")
    await server.start()
    try:
        yield bound
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop(None)


async def serve(place: Place) -> None:
    """Serve every binding until interrupted."""
    card = card_of(place)
    usual = conversing if place.v03 else completing
    async with handler_of(card, Executor(usual)) as handler, grpc_door(handler, port=place.grpc_port, v03=place.v03):
        app = application(card, handler, v03=place.v03)
        await uvicorn.Server(
            uvicorn.Config(app, host=HOST, port=place.port, log_level="warning", lifespan="off")
        ).serve()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m conformance.a2a.agent")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--v03", action="store_true", help="serve clients of A2A 0.3 too")
    options = parser.parse_args()
    anyio.run(serve, Place(options.port, options.grpc_port, options.v03))


if __name__ == "__main__":
    main()
