"""A caller's view of an upstream of models: its answers over loopback HTTP, framed as a listener frames them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
from aiohttp import web

from adapters.models.anthropic import anthropic_upstream
from adapters.models.echo import echo_upstream
from adapters.models.openai import openai_upstream
from adapters.models.terms import Terms
from adapters.models.upstream import ModelUpstream
from gateway.errors import InterlockError
from gateway.models import APIS, Api, error_answer, framed, last_frame
from gateway.types import EMPTY, Authorized, Call, FrozenDict, Obligation, Permit, Resource, Result, Ruling, freeze
from tests.fakes import ANA, FakeRelay
from tests.servers.models import PATHS, serving

_APIS: Mapping[str, Api] = {f"/v1/{api.replace('.', '/')}": api for api in APIS}


def authorized(
    api: str,
    params: Mapping[str, Any],
    *obligations: Obligation,
    catalog: Mapping[str, object] = EMPTY,
    name: str = "model-x",
) -> Authorized:
    """A permitted call of a model."""
    resource = Resource("model", f"p/{name}", upstream="p", name=name, catalog=catalog)
    frozen = cast("FrozenDict", freeze(dict(params)))
    call = Call("c1", "model.call", api, resource, frozen, protocol="model")
    return Authorized(call, ANA, Permit("d1", call.digest, obligations, ruling=Ruling("d1")))


@dataclass
class Asked:
    """What came of one call: the result or the error, and the events in their order."""

    result: Result | None = None
    error: InterlockError | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    notes: Mapping[str, object] = field(default_factory=dict)

    @property
    def answer(self) -> dict[str, Any]:
        """The whole answer."""
        assert self.result is not None
        return cast("dict[str, Any]", json.loads(self.result.payload))


async def ask(
    upstream: ModelUpstream,
    api: str,
    params: Mapping[str, Any],
    *obligations: Obligation,
    within_s: float = 20,
    **more: Any,
) -> Asked:
    """Make one call."""
    relay, asked = FakeRelay(), Asked()
    with anyio.fail_after(within_s):
        try:
            asked.result = await upstream.execute(authorized(api, params, *obligations, **more), relay)
        except InterlockError as exc:
            asked.error = exc
    asked.events = [json.loads(event) for event in relay.events]
    asked.notes = relay.notes
    return asked


@asynccontextmanager
async def running(kind: str, url: str = "", **terms: Any) -> AsyncIterator[ModelUpstream]:
    """An upstream that runs."""
    makers = {"openai": openai_upstream, "anthropic": anthropic_upstream, "echo": echo_upstream}
    made = Terms("p", url, **{"headers": (("Authorization", "Bearer sk-ours"),), "timeout_s": 10.0, **terms})
    upstream = makers[kind](made)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upstream.run)
        with anyio.fail_after(5):
            await upstream.settled.wait()
        yield upstream
        tasks.cancel_scope.cancel()


class _Streaming(FakeRelay):
    def __init__(self, request: web.Request, api: Api) -> None:
        super().__init__()
        self._request = request
        self._api = api
        self.answer: web.StreamResponse | None = None

    async def emit(self, event: bytes) -> None:
        if self.answer is None:
            self.answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await self.answer.prepare(self._request)
        await self.answer.write(framed(self._api, event, json.loads(event).get("type")))


@asynccontextmanager
async def fronting(upstream: ModelUpstream) -> AsyncIterator[str]:
    """The upstream as an HTTP server for stock clients; its address up to and with `/v1`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        api = _APIS[request.path]
        relay = _Streaming(request, api)
        try:
            result = await upstream.execute(authorized(api, await request.json()), relay)
        except InterlockError as exc:
            told = error_answer(api, exc)
            return web.json_response(told.body, status=told.status, headers=dict(told.headers))
        if relay.answer is None:
            return web.Response(body=result.payload, content_type="application/json")
        if result.outcome == "ok":
            await relay.answer.write(last_frame(api))
        await relay.answer.write_eof()
        return relay.answer

    async with serving(answer, *PATHS) as url:
        yield url
