"""The resources, templates, prompts and completions, each listed beside the text that it answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    BlobResourceContents,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    ContentBlock,
    GetPromptResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from conformance.everything import fixtures as fx

LEGACY_NOT_FOUND: Final = -32002
"""What revisions up to 2025-11-25 answer for a resource that does not exist; 2026-07-28 uses -32602 (SEP-2164)."""

RESOURCES: Final = (
    Resource(uri="test://static-text", name="static-text", description="Text", mime_type="text/plain"),
    Resource(uri="test://static-binary", name="static-binary", description="An image", mime_type="image/png"),
    Resource(uri="test://watched-resource", name="watched", description="Can be watched", mime_type="text/plain"),
)
TEMPLATES: Final = (
    ResourceTemplate(
        uri_template="test://template/{id}/data",
        name="template",
        description="Data for an id",
        mime_type="application/json",
    ),
)
PROMPTS: Final = (
    Prompt(name="test_simple_prompt", description="A prompt without arguments"),
    Prompt(
        name="test_prompt_with_arguments",
        description="A prompt with two arguments",
        arguments=[
            PromptArgument(name="arg1", description="First test argument", required=True),
            PromptArgument(name="arg2", description="Second test argument", required=True),
        ],
    ),
    Prompt(
        name="test_prompt_with_embedded_resource",
        description="A prompt that carries a resource",
        arguments=[PromptArgument(name="resourceUri", description="URI of the resource to embed", required=True)],
    ),
    Prompt(name="test_prompt_with_image", description="A prompt that carries an image"),
    Prompt(name="test_input_required_result_prompt", description="A prompt that asks for context first"),
)

DYNAMIC: Final = Prompt(name="test_dynamic_prompt", description="Comes and goes")

_TEMPLATE_URI = re.compile(r"test://template/([^/]+)/data")


def read(uri: str, *, modern: bool) -> ReadResourceResult:
    """The contents at `uri`. Raises the revision's own error when there is nothing."""
    if uri == "test://static-binary":
        return ReadResourceResult(contents=[BlobResourceContents(uri=uri, mime_type="image/png", blob=fx.PNG)])
    found = _text_at(uri)
    if found is None:
        raise MCPError(INVALID_PARAMS if modern else LEGACY_NOT_FOUND, "Resource not found", {"uri": uri})
    mime_type, text = found
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=mime_type, text=text)])


def _text_at(uri: str) -> tuple[str, str] | None:
    if uri == "test://static-text":
        return "text/plain", fx.STATIC_TEXT
    if uri == "test://watched-resource":
        return "text/plain", "Watched resource content"
    match = _TEMPLATE_URI.fullmatch(uri)
    if match is None:
        return None
    body = {"id": match[1], "templateTest": True, "data": f"Data for ID: {match[1]}"}
    return "application/json", json.dumps(body)


def prompt(name: str, arguments: Mapping[str, str]) -> GetPromptResult:
    """The messages of a prompt that needs no answer first. Raises invalid params for any other name."""
    match name:
        case "test_simple_prompt":
            return _messages(fx.text("This is a simple prompt for testing."))
        case "test_dynamic_prompt":
            return _messages(fx.text("dynamic"))
        case "test_prompt_with_arguments":
            values = f"arg1='{_required(arguments, 'arg1')}', arg2='{_required(arguments, 'arg2')}'"
            return _messages(fx.text(f"Prompt with arguments: {values}"))
        case "test_prompt_with_embedded_resource":
            resource = fx.embedded(_required(arguments, "resourceUri"), "Embedded resource content for testing.")
            return _messages(resource, fx.text("Please process the embedded resource above."))
        case "test_prompt_with_image":
            return _messages(fx.image(), fx.text("Please analyze the image above."))
        case _:
            raise MCPError(INVALID_PARAMS, f"Unknown prompt: {name}")


def _required(arguments: Mapping[str, str], name: str) -> str:
    if name not in arguments:
        raise MCPError(INVALID_PARAMS, f"Missing required argument: {name}")
    return arguments[name]


def _messages(*blocks: ContentBlock) -> GetPromptResult:
    return GetPromptResult(messages=[PromptMessage(role="user", content=block) for block in blocks])


def complete(request: CompleteRequestParams) -> CompleteResult:
    """Cities that begin with what was typed so far."""
    typed = request.argument.value.casefold()
    cities = [city for city in ("paris", "park", "party", "porto") if city.startswith(typed)]
    return CompleteResult(completion=Completion(values=cities, total=len(cities), has_more=False))
