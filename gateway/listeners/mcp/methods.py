"""Every MCP method that the gateway takes, and the action that policy knows it by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Target: TypeAlias = Literal["server", "tool", "prompt", "uri", "ref", "task"]

LEGACY_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSIONS: Final = ("2026-07-28",)
SUPPORTED_VERSIONS: Final = (*MODERN_VERSIONS, *reversed(LEGACY_VERSIONS))


@dataclass(frozen=True, slots=True)
class Method:
    """One method: `target` says which parameter names the resource, `kind` what a list holds."""

    name: str
    action: str
    target: Target
    kind: str = ""
    modern: bool = True
    legacy: bool = True
    may_need_input: bool = False
    """May be answered `input_required` (2026-07-28, patterns/mrtr, "Supported Requests")."""


METHODS: Final = {
    method.name: method
    for method in (
        Method("initialize", "mcp.initialize", "server", modern=False),
        Method("server/discover", "mcp.discover", "server", legacy=False),
        Method("tools/list", "mcp.tools.list", "server", kind="tool"),
        Method("prompts/list", "mcp.prompts.list", "server", kind="prompt"),
        Method("resources/list", "mcp.resources.list", "server", kind="resource"),
        Method("resources/templates/list", "mcp.templates.list", "server", kind="template"),
        Method("tools/call", "mcp.tools.call", "tool", may_need_input=True),
        Method("prompts/get", "mcp.prompts.get", "prompt", may_need_input=True),
        Method("resources/read", "mcp.resources.read", "uri", may_need_input=True),
        Method("completion/complete", "mcp.completion.complete", "ref"),
        Method("resources/subscribe", "mcp.resources.subscribe", "uri", modern=False),
        Method("resources/unsubscribe", "mcp.resources.subscribe", "uri", modern=False),
        Method("subscriptions/listen", "mcp.subscriptions.listen", "server", legacy=False),
        Method("tasks/get", "mcp.tasks.get", "task", legacy=False),
        Method("tasks/update", "mcp.tasks.update", "task", legacy=False),
        Method("tasks/cancel", "mcp.tasks.cancel", "task", legacy=False),
        Method("logging/setLevel", "mcp.logging.set_level", "server", modern=False),
    )
}

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
