"""Serves a gateway: the listening socket, the HTTP server, the start and the end."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import uvicorn

from gateway.app.assembly import Gateway, running_gateway
from gateway.app.endpoints import Front
from gateway.config.tree import Settings
from gateway.errors import ConfigError
from gateway.events import Events

BACKLOG: Final = 2_048
SETTLE_S: Final = 20.0
"""How long a start waits for the upstreams' first answers; what comes later appears later."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The gateway serves: its address, and each upstream with its fault (empty for none)."""

    url: str
    upstreams: Mapping[str, str]


async def serve(settings: Settings, *, ready: Callable[[Ready], Awaitable[None]], stop: anyio.Event) -> None:
    """Serve until `stop` is set. Raises `ConfigError` and what else cannot be opened before anything is served."""
    with _bound(settings) as listening:
        async with running_gateway(settings, listening.getsockname()[1]) as gateway:
            await gateway.running.settle(SETTLE_S)
            server = _server(gateway.front)
            async with anyio.create_task_group() as group:
                group.start_soon(_stop_when, server, stop, gateway.events)
                group.start_soon(_tell_when_started, server, gateway, ready)
                await server.serve_on(listening)
                stop.set()


def _bound(settings: Settings) -> socket.socket:
    listen = settings.listen
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    # The protocol is named, because asyncio turns Nagle's algorithm off only for sockets that name it.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((listen.host, listen.port))
        bound.listen(BACKLOG)
    except OSError as exc:
        bound.close()
        words = f"{listen.host}:{listen.port} cannot be listened on: {exc.strerror}; choose another with --port"
        raise ConfigError([("listen.port", words)]) from exc
    return bound


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers (whoever calls `serve` handles signals), which tells when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.up.set()

    async def serve_on(self, listening: socket.socket) -> None:
        await self._serve([listening])


def _server(front: Front) -> _Server:
    config = uvicorn.Config(
        front,
        http="httptools",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    return _Server(config)


async def _stop_when(server: uvicorn.Server, stop: anyio.Event, events: Events) -> None:
    await stop.wait()
    events.close()
    server.should_exit = True


async def _tell_when_started(server: _Server, gateway: Gateway, ready: Callable[[Ready], Awaitable[None]]) -> None:
    await server.up.wait()
    await ready(Ready(gateway.url, gateway.upstream_faults()))
