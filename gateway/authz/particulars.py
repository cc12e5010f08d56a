"""What policy may know of an action besides its arguments: read from the parameters, one reader per action."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from gateway.types import Call

MAX_FIELDS: Final = 256


def _of_elicitation(call: Call) -> dict[str, object]:
    """`mode`, the names that a form asks for, the host that a URL leads to (MCP client/elicitation)."""
    schema = call.params.get("requestedSchema")
    asked = schema.get("properties") if isinstance(schema, Mapping) else None
    fields = sorted(asked)[:MAX_FIELDS] if isinstance(asked, Mapping) else []
    mode = call.params.get("mode", "form")
    return {"mode": mode if isinstance(mode, str) else "", "fields": fields, "url_host": _host(call.params.get("url"))}


def _host(url: object) -> str:
    try:
        return (urlsplit(url).hostname or "") if isinstance(url, str) else ""
    except ValueError:
        return ""


def _of_sampling(call: Call) -> dict[str, object]:
    """How much a server asks of the client's model (MCP client/sampling); no text of the messages."""
    params = call.params
    context = params.get("includeContext", "none")
    limit = params.get("maxTokens")
    return {
        "messages": _count(params.get("messages")),
        "tools": _count(params.get("tools")),
        "max_tokens": limit if isinstance(limit, int) else -1,
        "include_context": context if isinstance(context, str) else "",
    }


def _count(value: object) -> int:
    return len(value) if isinstance(value, Sequence) and not isinstance(value, str) else 0


def _of_resource(call: Call) -> dict[str, object]:
    """The scheme of the URI, which is the id."""
    return {"scheme": call.resource.id.partition(":")[0].lower()}


def _of_completion(call: Call) -> dict[str, object]:
    """The argument that is being completed, and those given already (MCP server/utilities/completion)."""
    given: dict[str, object] = {}
    context = call.params.get("context")
    earlier = context.get("arguments") if isinstance(context, Mapping) else None
    if isinstance(earlier, Mapping):
        given |= earlier
    argument = call.params.get("argument")
    if isinstance(argument, Mapping) and isinstance(argument.get("name"), str):
        given[argument["name"]] = argument.get("value")
    return {"arguments": given}


def _of_connection(call: Call) -> dict[str, object]:
    """Where a box wants to connect to, which box, for which call. The gateway wrote the parameters, and no box."""
    params = call.params
    host, port, scheme = (params.get(name) for name in ("host", "port", "scheme"))
    return {
        "host": host if isinstance(host, str) else "",
        "port": port if isinstance(port, int) else 0,
        "scheme": scheme if isinstance(scheme, str) else "",
        "box": _facts(params.get("box"), _BOX_FACTS),
        "caller": _facts(params.get("caller"), _CALLER_FACTS),
        "granted": params.get("granted") is True,
    }


def _of_code(call: Call) -> dict[str, object]:
    """The call that wants the code run; what is to be run stands in the arguments."""
    return {"caller": _facts(call.params.get("caller"), _CALLER_FACTS)}


_BOX_FACTS: Final = frozenset({"driver", "level"})
_CALLER_FACTS: Final = frozenset({"action", "type", "id", "upstream", "name", "call", "arguments_digest", "catalog"})


def _facts(value: object, known: frozenset[str]) -> dict[str, object]:
    """Those members of an object that the schema of the question knows; none of anything else."""
    return {key: item for key, item in value.items() if key in known} if isinstance(value, Mapping) else {}


PARTICULARS: Final[Mapping[str, Callable[[Call], dict[str, object]]]] = {
    "egress.connect": _of_connection,
    "mcp.completion.complete": _of_completion,
    "mcp.elicitation.create": _of_elicitation,
    "mcp.resources.read": _of_resource,
    "mcp.resources.subscribe": _of_resource,
    "mcp.sampling.create": _of_sampling,
    "sandbox.exec": _of_code,
}
