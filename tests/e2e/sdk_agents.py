"""Agents made with the official SDK, in this process, for tests of a whole gateway: they keep what they are sent."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import anyio
import uvicorn
from a2a.helpers.proto_helpers import new_task_from_user_message
from a2a.server.agent_execution.agent_executor import AgentExecutor
from a2a.server.agent_execution.context import RequestContext
from a2a.server.events.event_queue import EventQueue
from a2a.server.tasks.task_updater import TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill
from starlette.types import ASGIApp, Receive, Scope, Send

from conformance.a2a.agent import application, handler_of
from tests.e2e.place import Place, as_process


@dataclass(slots=True)
class SdkAgent:
    """One agent that listens. `heard` has the headers of each request but those for its card."""

    url: str
    heard: list[Mapping[str, str]] = field(default_factory=list)

    @property
    def card_url(self) -> str:
        """What goes into the configuration."""
        return f"{self.url}/.well-known/agent-card.json"

    def hearing(self, app: ASGIApp) -> ASGIApp:
        """The application, with what it is asked kept."""

        async def heard(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["method"] != "GET":
                self.heard.append({name.decode(): value.decode("latin-1") for name, value in scope["headers"]})
            await app(scope, receive, send)

        return heard


def card_of(name: str, url: str, *skills: str) -> AgentCard:
    """A card that offers all there is, over JSON-RPC."""
    return AgentCard(
        name=name,
        description=f"{name} for tests",
        version="1.0.0",
        supported_interfaces=[AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=AgentCapabilities(streaming=True, push_notifications=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id=skill, name=skill, description=f"does {skill}", tags=["test"]) for skill in skills],
    )


class Working(AgentExecutor):
    """Takes on whatever it is told, and never ends it."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message is not None
        if context.current_task is None:
            await event_queue.enqueue_event(new_task_from_user_message(context.message))
        await TaskUpdater(event_queue, context.task_id or "", context.context_id or "").start_work()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id or "", context.context_id or "").cancel()


@asynccontextmanager
async def sdk_agent(name: str, executor: AgentExecutor, *skills: str) -> AsyncIterator[SdkAgent]:
    """An agent on loopback until the block ends."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        found = SdkAgent(f"http://127.0.0.1:{listening.getsockname()[1]}")
        card = card_of(name, found.url, *(skills or ("ask",)))
        async with handler_of(card, executor) as handler, anyio.create_task_group() as group:
            app = found.hearing(application(card, handler, v03=False))
            server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
            group.start_soon(server.serve, [listening])
            try:
                yield found
            finally:
                server.should_exit = True


def process_of(place: Place) -> ExitStack:
    """A running gateway, which closing ends. For a thread: as it starts it asks the agents, which are in the loop."""
    with ExitStack() as stack:
        stack.enter_context(as_process(place))
        return stack.pop_all()
