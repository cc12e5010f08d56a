"""The everything-server: one low-level server of the SDK, assembled from the tables beside it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

from mcp.server import Server
from mcp.server.caching import CacheHint
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    CallToolRequestParams,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    EmptyResult,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequiredResult,
    InputResponseRequestParams,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel

from conformance.everything import catalog
from conformance.everything.rounds import ROUNDS, answer_prompt, live
from conformance.everything.tools import DYNAMIC, LIVE, PLAIN, Context, Shared

NAME: Final = "interlock-everything"
MAX_ROUNDS: Final = 8
AskingParams = TypeVar("AskingParams", bound=InputResponseRequestParams)
Done = TypeVar("Done", bound=BaseModel)
TOOLS: Final = {entry.definition.name: entry for entry in (*PLAIN, *LIVE, *ROUNDS)}


async def _list_tools(ctx: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
    more = [DYNAMIC.definition] if ctx.lifespan_context.more_tools else []
    return ListToolsResult(tools=[*(entry.definition for entry in TOOLS.values()), *more])


async def _call_tool(ctx: Context, params: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
    known = {**TOOLS, DYNAMIC.definition.name: DYNAMIC} if ctx.lifespan_context.more_tools else TOOLS
    entry = known.get(params.name)
    if entry is None:
        raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}")
    return await _drive(ctx, params, partial(entry.run, ctx))


async def _drive(
    ctx: Context, params: AskingParams, step: Callable[[AskingParams], Awaitable[Done | InputRequiredResult]]
) -> Done | InputRequiredResult:
    """One step for a modern client, which comes back with the answers; all of them for a legacy one."""
    result = await step(params)
    for _ in range(MAX_ROUNDS):
        if not isinstance(result, InputRequiredResult) or ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return result
        answers = await live(ctx, result.input_requests or {})
        params = params.model_copy(update={"input_responses": answers, "request_state": result.request_state})
        result = await step(params)
    raise MCPError(INVALID_REQUEST, f"gave up after {MAX_ROUNDS} rounds without the answers that were asked for")


async def _list_resources(ctx: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
    return ListResourcesResult(resources=list(catalog.RESOURCES))


async def _list_templates(ctx: Context, params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
    return ListResourceTemplatesResult(resource_templates=list(catalog.TEMPLATES))


async def _read_resource(ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    return catalog.read(params.uri, modern=ctx.protocol_version in MODERN_PROTOCOL_VERSIONS)


async def _list_prompts(ctx: Context, params: PaginatedRequestParams | None) -> ListPromptsResult:
    more = [catalog.DYNAMIC] if ctx.lifespan_context.more_prompts else []
    return ListPromptsResult(prompts=[*catalog.PROMPTS, *more])


async def _get_prompt(ctx: Context, params: GetPromptRequestParams) -> GetPromptResult | InputRequiredResult:
    if params.name == "test_input_required_result_prompt":
        return await _drive(ctx, params, answer_prompt)
    return catalog.prompt(params.name, params.arguments or {})


async def _complete(ctx: Context, params: CompleteRequestParams) -> CompleteResult:
    return catalog.complete(params)


async def _accept(ctx: Context, params: object) -> EmptyResult:
    """Legacy requests that only need to be accepted: what they ask for, the tools that announce changes send anyway."""
    return EmptyResult()


def _schema_of(name: str) -> dict[str, Any] | None:
    entry = TOOLS.get(name)
    return entry.definition.input_schema if entry else None


def build() -> Server[Shared]:
    """A server with state of its own: its event bus and the key that seals `requestState`."""
    shared = Shared(InMemorySubscriptionBus())

    @asynccontextmanager
    async def share(server: Server[Shared]) -> AsyncIterator[Shared]:
        yield shared

    server: Server[Shared] = Server(
        NAME,
        version="1.0.0",
        lifespan=share,
        cache_hints={"tools/list": CacheHint(ttl_ms=60_000, scope="public")},
        get_tool_input_schema=_schema_of,
        on_list_tools=_list_tools,
        on_call_tool=_call_tool,
        on_list_resources=_list_resources,
        on_list_resource_templates=_list_templates,
        on_read_resource=_read_resource,
        on_subscriptions_listen=ListenHandler(shared.bus),
        on_list_prompts=_list_prompts,
        on_get_prompt=_get_prompt,
        on_completion=_complete,
    )
    server.add_request_handler("logging/setLevel", SetLevelRequestParams, _accept)
    server.add_request_handler("resources/subscribe", SubscribeRequestParams, _accept)
    server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, _accept)
    server.middleware.append(RequestStateBoundary(RequestStateSecurity(keys=[os.urandom(32)]), default_audience=NAME))
    return server
