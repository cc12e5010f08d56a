"""An AuthZEN decision point for tests: a server that answers as it is told and keeps what it was asked."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import codec

Json: TypeAlias = Any
Decide: TypeAlias = Callable[[Json], Json]
"""From one question to the response; an `HttpError` is one."""


class HttpError(Exception):
    """A status in place of a decision."""

    def __init__(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(status))
        self.status = status
        self.headers = dict(headers or {})


@dataclass
class Server:
    """`metadata` is served as it is, or not at all when it is `None`; `raw` is a body in place of any answer."""

    decide: Decide
    url: str = ""
    metadata: Json = None
    metadata_status: int = 200
    raw: bytes | None = None
    asked: list[tuple[str, Json]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        """Every path but the well-known one is an endpoint."""
        return Starlette(
            routes=[
                Route("/.well-known/authzen-configuration{path:path}", self._metadata),
                Route("/{path:path}", self._answer, methods=["POST"]),
            ]
        )

    def names(self, **more: str) -> None:
        """Publish metadata with these endpoints beside the first."""
        paths = {"access_evaluation_endpoint": "/decide", **more}
        addresses = {name: path if "://" in path else self.url + path for name, path in paths.items()}
        self.metadata = {"policy_decision_point": self.url, **addresses}

    async def _metadata(self, request: Request) -> Response:
        if self.metadata is None:
            return Response(status_code=404)
        body = self.metadata if isinstance(self.metadata, bytes) else codec.dumps(self.metadata)
        return Response(body, self.metadata_status, media_type="application/json")

    async def _answer(self, request: Request) -> Response:
        body = codec.loads(await request.body())
        self.asked.append((request.url.path, body))
        self.headers.append(dict(request.headers))
        if self.raw is not None:
            return Response(self.raw, media_type="application/json")
        try:
            return Response(codec.dumps(self._all(body)), media_type="application/json")
        except HttpError as error:
            return Response(status_code=error.status, headers=error.headers)

    def _all(self, body: Json) -> Json:
        if "evaluations" not in body:
            return self.decide(body)
        return {"evaluations": [self.decide({**body, **item}) for item in body["evaluations"]]}


@asynccontextmanager
async def serving(decide: Decide) -> AsyncIterator[Server]:
    """The server on loopback, without metadata."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(64)
        place = Server(decide, f"http://127.0.0.1:{bound.getsockname()[1]}")
        server = uvicorn.Server(uvicorn.Config(place.app, log_level="critical", lifespan="off"))
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [bound])
            try:
                yield place
            finally:
                server.should_exit = True
