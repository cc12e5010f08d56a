"""The tools and the prompt that ask their caller, written as rounds: `input_required`, then the same call again.

A modern client drives the rounds itself (2026-07-28, SEP-2322); for a legacy one `live` asks over its back-channel.
So every one of these tools works in both eras, and shows whether a gateway between two eras bridges them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final, TypeGuard

from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    CallToolRequestParams,
    CallToolResult,
    ClientCapabilities,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequest,
    InputRequiredResult,
    InputResponse,
    ListRootsRequest,
    ListRootsResult,
    PromptMessage,
    SamplingMessage,
    TextContent,
)

from conformance.everything import fixtures as fx
from conformance.everything.tools import Context, Run, ToolEntry, entry, said


def _form(message: str, schema: dict[str, object]) -> ElicitRequest:
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(prompt: str, max_tokens: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=fx.text(prompt))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=max_tokens))


def _ask(requests: Mapping[str, InputRequest], state: str | None = None) -> InputRequiredResult:
    return InputRequiredResult(input_requests=dict(requests), request_state=state)


def _accepted(answer: InputResponse | None) -> TypeGuard[ElicitResult]:
    return isinstance(answer, ElicitResult) and answer.action == "accept"


def _field(answer: InputResponse | None, name: str) -> str | None:
    if not _accepted(answer):
        return None
    return str((answer.content or {}).get(name, ""))


def _argument(call: CallToolRequestParams, name: str) -> str:
    value = (call.arguments or {}).get(name)
    if not isinstance(value, str):
        raise MCPError(INVALID_PARAMS, f"argument {name!r} must be a string")
    return value


def _asking(request: Callable[[CallToolRequestParams], InputRequest], prefix: str) -> Run:
    """A tool that asks one thing and tells what was answered."""

    async def run(ctx: Context, call: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
        match (call.input_responses or {}).get("answer"):
            case ElicitResult() as answer:
                return said(f"{prefix}: action={answer.action}, content={json.dumps(answer.content or {})}")
            case CreateMessageResult(content=TextContent(text=text)):
                return said(f"{prefix}: {text}")
            case _:
                return _ask({"answer": request(call)})

    return run


async def _elicitation(ctx: Context, call: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
    name = _field((call.input_responses or {}).get("user_name"), "name")
    if name is None:
        return _ask({"user_name": _form("What is your name?", fx.NAME_FORM)})
    return said(f"Hello, {name}!")


async def _sampling(ctx: Context, call: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
    answer = (call.input_responses or {}).get("capital_question")
    if not isinstance(answer, CreateMessageResult):
        return _ask({"capital_question": _sample("What is the capital of France?", 100)})
    return said(answer.content.text if answer.content.type == "text" else answer.content.type)


async def _roots(ctx: Context, call: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
    answer = (call.input_responses or {}).get("client_roots")
    if not isinstance(answer, ListRootsResult):
        return _ask({"client_roots": ListRootsRequest()})
    return said("roots: " + ", ".join(str(root.uri) for root in answer.roots))


async def _state(ctx: Context, call: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
    answered = _accepted((call.input_responses or {}).get("confirm"))
    if call.request_state != "asked" or not answered:
        return _ask({"confirm": _form("Please confirm", fx.CONFIRM_FORM)}, "asked")
    return said("state-ok")


async def _several(ctx: Context, call: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
    if {"user_name", "greeting", "client_roots"} <= (call.input_responses or {}).keys():
        return said("all three answers received")
    three: dict[str, InputRequest] = {
        "user_name": _form("What is your name?", fx.NAME_FORM),
        "greeting": _sample("Generate a greeting", 50),
        "client_roots": ListRootsRequest(),
    }
    return _ask(three, "asked")


async def _two_steps(ctx: Context, call: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
    answers = call.input_responses or {}
    known: dict[str, str] = json.loads(call.request_state or "{}")
    name = known.get("name") or _field(answers.get("step1"), "name")
    if name is None:
        return _ask({"step1": _form("Step 1: What is your name?", fx.NAME_FORM)}, "{}")
    color = _field(answers.get("step2"), "color")
    if color is None:
        ask = _form("Step 2: What is your favorite color?", fx.COLOR_FORM)
        return _ask({"step2": ask}, json.dumps({"name": name}))
    return said(f"{name} likes {color}")


async def _capabilities(ctx: Context, call: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
    declared = ctx.session.client_capabilities
    requests: dict[str, InputRequest] = {}
    if declared is not None and declared.sampling is not None:
        requests["sample"] = _sample("Say hello", 50)
    if declared is not None and declared.elicitation is not None:
        requests["ask"] = _form("What is your name?", fx.NAME_FORM)
    if not requests or requests.keys() <= (call.input_responses or {}).keys():
        return said("done")
    return _ask(requests)


async def answer_prompt(call: GetPromptRequestParams) -> GetPromptResult | InputRequiredResult:
    """The prompt that needs the user's context before it can be written."""
    context = _field((call.input_responses or {}).get("user_context"), "context")
    if context is None:
        return _ask({"user_context": _form("What context should the prompt use?", fx.CONTEXT_FORM)})
    return GetPromptResult(messages=[PromptMessage(role="user", content=fx.text(f"Use this context: {context}"))])


async def live(ctx: Context, requests: Mapping[str, InputRequest]) -> dict[str, InputResponse]:
    """Put the questions of one round to a legacy client, one after the other."""
    return {key: await _put(ctx, request) for key, request in requests.items()}


async def _put(ctx: Context, request: InputRequest) -> InputResponse:
    origin = ServerMessageMetadata(related_request_id=ctx.request_id)
    declared = ctx.session.client_capabilities or ClientCapabilities()
    match request:
        case ElicitRequest() if declared.elicitation is not None:
            return await ctx.session.send_request(request, ElicitResult, metadata=origin)
        case CreateMessageRequest() if declared.sampling is not None:
            return await ctx.session.send_request(request, CreateMessageResult, metadata=origin)
        case ListRootsRequest() if declared.roots is not None:
            return await ctx.session.send_request(request, ListRootsResult, metadata=origin)
        case _:
            raise MCPError(INVALID_REQUEST, f"{request.method} is not supported by this client")


_DEFAULTS = _form("Please review the defaults", fx.DEFAULTS_FORM)
_ENUMS = _form("Please choose", fx.ENUMS_FORM)

ROUNDS: Final[tuple[ToolEntry, ...]] = (
    entry(
        "test_sampling",
        "Asks the client's model",
        _asking(lambda call: _sample(_argument(call, "prompt"), 100), "LLM response"),
        fx.object_schema(prompt={"type": "string"}),
    ),
    entry(
        "test_elicitation",
        "Asks the user",
        _asking(lambda call: _form(_argument(call, "message"), fx.USER_FORM), "User response"),
        fx.object_schema(message={"type": "string"}),
    ),
    entry("test_elicitation_sep1034_defaults", "Asks with defaults", _asking(lambda _: _DEFAULTS, "Completed")),
    entry("test_elicitation_sep1330_enums", "Asks with enumerations", _asking(lambda _: _ENUMS, "Completed")),
    entry("test_input_required_result_elicitation", "Asks the user once", _elicitation),
    entry("test_streaming_elicitation", "Asks the user once", _elicitation),
    entry("test_input_required_result_sampling", "Asks the client's model once", _sampling),
    entry("test_input_required_result_list_roots", "Asks for the client's roots", _roots),
    entry("test_input_required_result_request_state", "Carries state through the client", _state),
    entry("test_input_required_result_tampered_state", "Refuses state that was changed", _state),
    entry("test_input_required_result_multiple_inputs", "Asks three things at once", _several),
    entry("test_input_required_result_multi_round", "Asks twice, one after the other", _two_steps),
    entry("test_input_required_result_capabilities", "Asks only what the client declared", _capabilities),
)
