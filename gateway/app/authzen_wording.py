"""The question of another enforcement point in the words of ours (policy contract, "Question").

What the asker says of subject, action, resource and context is taken, for it is the one that enforces the answer.
What only this gateway can know is never taken from it: the catalog, its sessions, its approvals and what it granted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway import codec
from gateway.authz.findings import Finding, unscanned
from gateway.authz.question import SCHEMA
from gateway.authz.truncation import check_size, digested, fits
from gateway.errors import InvalidCall
from gateway.listeners.authzen.shapes import Asked
from gateway.types import EMPTY, Call, Entity, FrozenDict, Identity, Resource

_OURS_IN_CONTEXT: Final = frozenset(
    {"approval", "budget", "env", "phase", "rate", "request_id", "schema", "session", "time_ns", "trace_id"}
)
_OURS_IN_RESOURCE: Final = frozenset(
    {"arguments_digest", "candidates", "catalog", "granted", "hints", "obstacle", "result"}
)
_PROTOCOLS: Final = frozenset({"a2a", "mcp"})
_METHODS: Final = frozenset({"none", "anonymous", "api_key", "jwt"})
_NAMED_BY_ID: Final = frozenset({"prompt", "tool"})
"""Types whose id is upstream/name; what else says upstream or name is not asked, so that all rules mean one thing."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What this gateway adds. `resource` is the one that it knows by that id, if it knows one."""

    request_id: str
    trace_id: str
    time_ns: int
    env: str
    resource: Resource | None = None
    findings: Sequence[Finding] | None = None
    """What detectors see in the arguments; `None` where nobody looked."""


def question_of(asked: Asked, facts: Facts) -> dict[str, object]:
    """The question. Raises `InvalidCall` for a property of ours with a wrong type, `InputTooLarge` as for any call."""
    properties = _resource_properties(asked, facts)
    if not fits(properties):
        properties["arguments"], properties["truncated"] = digested(properties["arguments"]), True
    question: dict[str, object] = {
        "schema": SCHEMA,
        "phase": "response" if "result" in properties else "request",
        "subject": {**asked.subject, "properties": _subject_properties(asked.subject)},
        "action": {**asked.action, "properties": _action_properties(asked.action)},
        "resource": {**asked.resource, "properties": properties},
        "context": _context(asked, facts),
    }
    check_size(question)
    return question


def call_of(asked: Asked, facts: Facts) -> tuple[Call, Identity]:
    """The call that is asked about, and by whom, as kill switches look at them."""
    upstream, name = place_of(asked)
    kind, identifier = str(asked.resource["type"]), str(asked.resource["id"])
    resource = facts.resource or Resource(kind, identifier, upstream, name)
    properties = _subject_properties(asked.subject)
    delegation, tenant = properties["delegation"], properties["tenant"]
    identity = Identity(
        Entity(str(asked.subject["type"]), str(asked.subject["id"])),
        tenant=str(tenant),
        on_behalf_of=_behind(properties.get("on_behalf_of")),
        delegation=tuple(map(str, delegation)) if isinstance(delegation, tuple) else (),
    )
    return Call(facts.request_id, str(asked.action["name"]), "", resource), identity


def _behind(value: object) -> Entity | None:
    """Whom the subject says it acts for."""
    return Entity(str(value.get("type", "")), str(value.get("id", ""))) if isinstance(value, Mapping) else None


def arguments_of(asked: Asked) -> Mapping[str, object]:
    """The arguments of the call that is asked about. Raises `InvalidCall` where they are no object."""
    given = asked.resource["properties"]
    arguments = given.get("arguments", EMPTY) if isinstance(given, FrozenDict) else EMPTY
    if not isinstance(arguments, Mapping):
        raise InvalidCall("resource.properties.arguments: must be an object")
    return arguments


def place_of(asked: Asked) -> tuple[str, str]:
    """The upstream that the resource is at, and its name there."""
    kind, identifier = str(asked.resource["type"]), str(asked.resource["id"])
    if kind in _NAMED_BY_ID and "/" in identifier:
        upstream, _, name = identifier.partition("/")
        return upstream, name
    given = asked.resource["properties"]
    properties = given if isinstance(given, FrozenDict) else EMPTY
    return _text(properties, "resource", "upstream", ""), _text(properties, "resource", "name", identifier)


def _subject_properties(subject: FrozenDict) -> dict[str, object]:
    given = subject["properties"]
    properties = given if isinstance(given, FrozenDict) else EMPTY
    method = _text(properties, "subject", "method", "none")
    if method not in _METHODS:
        raise InvalidCall(f"subject.properties.method: must be one of {', '.join(sorted(_METHODS))}")
    return {
        **properties,
        "tenant": _text(properties, "subject", "tenant", ""),
        "roles": _texts(properties, "subject", "roles"),
        "scopes": _texts(properties, "subject", "scopes"),
        "delegation": _texts(properties, "subject", "delegation"),
        "method": method,
        "issuer": _text(properties, "subject", "issuer", ""),
    }


def _action_properties(action: FrozenDict) -> dict[str, object]:
    given = action["properties"]
    properties = given if isinstance(given, FrozenDict) else EMPTY
    family = str(action["name"]).partition(".")[0]
    return {
        **properties,
        "protocol": _text(properties, "action", "protocol", family if family in _PROTOCOLS else ""),
        "protocol_version": _text(properties, "action", "protocol_version", ""),
        "method": _text(properties, "action", "method", ""),
    }


def _resource_properties(asked: Asked, facts: Facts) -> dict[str, object]:
    given = asked.resource["properties"]
    properties = given if isinstance(given, FrozenDict) else EMPTY
    arguments = arguments_of(asked)
    known = facts.resource
    upstream, name = place_of(asked) if known is None else (known.upstream, known.name)
    worded: dict[str, object] = {key: value for key, value in properties.items() if key not in _OURS_IN_RESOURCE}
    worded |= {
        "upstream": upstream,
        "name": name,
        "arguments": arguments,
        "arguments_digest": "sha256:" + hashlib.sha256(codec.canonical(arguments)).hexdigest(),
        "truncated": properties.get("truncated", False) is not False,
        "catalog": known.catalog if known is not None else EMPTY,
        "hints": known.hints if known is not None else EMPTY,
    }
    result = properties.get("result")
    if asked.context.get("phase") == "response" and isinstance(result, Mapping):
        worded["result"] = {"findings": (unscanned(),), **result}
    return worded


def _context(asked: Asked, facts: Facts) -> dict[str, object]:
    return {
        **({} if facts.findings is None else {"findings": facts.findings}),
        **{key: value for key, value in asked.context.items() if key not in _OURS_IN_CONTEXT},
        "time_ns": facts.time_ns,
        "request_id": facts.request_id,
        "trace_id": facts.trace_id,
        "session": {"id": "", "calls": 0, "labels": ()},
        "env": facts.env,
        "supported_obligations": supported_by(asked),
    }


def supported_by(asked: Asked) -> tuple[str, ...]:
    """The obligations that the asker says it can carry out."""
    if "supported_obligations" not in asked.context:
        return ()
    return _texts(asked.context, "context", "supported_obligations", below="")


def _text(properties: Mapping[str, object], part: str, name: str, default: str) -> str:
    value = properties.get(name, default)
    if not isinstance(value, str):
        raise InvalidCall(f"{part}.properties.{name}: must be a string")
    return value


def _texts(properties: Mapping[str, object], part: str, name: str, below: str = ".properties") -> tuple[str, ...]:
    value = properties.get(name, ())
    if not isinstance(value, tuple) or not all(isinstance(each, str) for each in value):
        raise InvalidCall(f"{part}{below}.{name}: must be a list of strings")
    return value
