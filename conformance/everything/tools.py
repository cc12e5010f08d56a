"""The tools that answer without asking their caller anything."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import anyio
from mcp import MCPDeprecationWarning
from mcp.server import ServerRequestContext
from mcp.server.subscriptions import PromptsListChanged, ServerEvent, SubscriptionBus, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    InputRequiredResult,
    Tool,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from conformance.everything import fixtures as fx


@dataclass(eq=False)
class Shared:
    """What the requests of one server share: who listens, and whether the lists show their changing entry."""

    bus: SubscriptionBus
    more_tools: bool = False
    more_prompts: bool = False


Context: TypeAlias = ServerRequestContext[Shared, Any]
Run: TypeAlias = Callable[[Context, CallToolRequestParams], Awaitable[CallToolResult | InputRequiredResult]]

STEP_S: Final = 0.05
"""Pause between notifications, so that a client can see them arrive one by one (the suite asks for about 50 ms)."""


@dataclass(frozen=True, slots=True)
class ToolEntry:
    """A tool as it is listed, beside what runs when it is called."""

    definition: Tool
    run: Run


def entry(name: str, description: str, run: Run, schema: Mapping[str, object] = fx.OBJECT_SCHEMA) -> ToolEntry:
    """A tool called `name` that takes arguments of `schema`."""
    return ToolEntry(Tool(name=name, description=description, input_schema=dict(schema)), run)


def said(*content: ContentBlock | str, is_error: bool = False) -> CallToolResult:
    """A result of the given blocks; plain strings become text."""
    blocks: list[ContentBlock] = [fx.text(block) if isinstance(block, str) else block for block in content]
    return CallToolResult(content=blocks, is_error=is_error)


def _answering(*content: ContentBlock | str, is_error: bool = False) -> Run:
    async def run(ctx: Context, call: CallToolRequestParams) -> CallToolResult:
        return said(*content, is_error=is_error)

    return run


async def log(ctx: Context, message: str) -> None:
    """Send a log message at level info on the stream of this request."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)  # deprecated by SEP-2577, still to be served
        await ctx.session.send_log_message("info", message, related_request_id=ctx.request_id)


async def _logging(ctx: Context, call: CallToolRequestParams) -> CallToolResult:
    await log(ctx, "Tool execution started")
    await anyio.sleep(STEP_S)
    await log(ctx, "Tool processing data")
    await anyio.sleep(STEP_S)
    await log(ctx, "Tool execution completed")
    return said("Tool with logging executed successfully")


async def _progress(ctx: Context, call: CallToolRequestParams) -> CallToolResult:
    for step in (0, 50, 100):
        await ctx.session.report_progress(step, 100, f"Completed step {step} of 100")
        await anyio.sleep(STEP_S)
    return said("Tool with progress executed successfully")


async def _reconnection(ctx: Context, call: CallToolRequestParams) -> CallToolResult:
    await log(ctx, "Before disconnect")
    if ctx.close_sse_stream is not None:
        await ctx.close_sse_stream()
    await anyio.sleep(4 * STEP_S)
    await log(ctx, "After reconnect")
    return said("Reconnection test completed")


async def _header(ctx: Context, call: CallToolRequestParams) -> CallToolResult:
    return said(f"region={(call.arguments or {}).get('region', '<none>')}")


async def _missing_capability(ctx: Context, call: CallToolRequestParams) -> CallToolResult:
    declared = ctx.session.client_capabilities
    if declared is None or declared.sampling is None:
        required: dict[str, object] = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "this tool needs the client's sampling capability", required)
    return said("the client declared sampling")


async def _announce(ctx: Context, event: ServerEvent) -> None:
    await ctx.lifespan_context.bus.publish(event)
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return
    if isinstance(event, ToolsListChanged):
        await ctx.session.send_tool_list_changed()
    else:
        await ctx.session.send_prompt_list_changed()


async def _tool_change(ctx: Context, call: CallToolRequestParams) -> CallToolResult:
    shared = ctx.lifespan_context
    shared.more_tools = not shared.more_tools
    await _announce(ctx, ToolsListChanged())
    return said("tool list changed")


async def _prompt_change(ctx: Context, call: CallToolRequestParams) -> CallToolResult:
    shared = ctx.lifespan_context
    shared.more_prompts = not shared.more_prompts
    await _announce(ctx, PromptsListChanged())
    return said("prompt list changed")


_MIXED = fx.embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json")

PLAIN: Final[tuple[ToolEntry, ...]] = (
    entry("test_simple_text", "Answers plain text", _answering(fx.SIMPLE_TEXT)),
    entry("test_image_content", "Answers an image", _answering(fx.image())),
    entry("test_audio_content", "Answers audio", _answering(fx.audio())),
    entry(
        "test_embedded_resource",
        "Answers an embedded resource",
        _answering(fx.embedded("test://embedded-resource", "This is an embedded resource content.")),
    ),
    entry(
        "test_multiple_content_types",
        "Answers text, an image and a resource",
        _answering("Multiple content types test:", fx.image(), _MIXED),
    ),
    entry(
        "test_error_handling",
        "Always fails",
        _answering("This tool intentionally returns an error for testing", is_error=True),
    ),
    entry("json_schema_2020_12_tool", "Has a schema with 2020-12 keywords", _answering("ok"), fx.JSON_SCHEMA_2020_12),
    entry("test_x_mcp_header", "Has an argument that travels as a header", _header, fx.HEADER_SCHEMA),
)

DYNAMIC: Final = entry("test_dynamic_tool", "Comes and goes", _answering("dynamic"))

LIVE: Final[tuple[ToolEntry, ...]] = (
    entry("test_tool_with_logging", "Sends three log messages", _logging),
    entry("test_logging_tool", "Sends three log messages, if the request asked for any", _logging),
    entry("test_tool_with_progress", "Reports progress", _progress),
    entry("test_reconnection", "Closes its stream in the middle of the call", _reconnection),
    entry("test_missing_capability", "Needs the client's sampling capability", _missing_capability),
    entry("test_trigger_tool_change", "Announces that the tool list changed", _tool_change),
    entry("test_trigger_prompt_change", "Announces that the prompt list changed", _prompt_change),
)
