"""The routes of the HTTP+JSON binding: a verb, a path and a query become an operation with parameters (section 11)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.a2a.malformed import Malformed
from gateway.a2a.operations import OPERATIONS, Operation
from gateway.a2a.scalars import boolean, some_identifier
from gateway.a2a.shapes import REQUESTS, Shape

_PLACEHOLDER = re.compile(r"\\\{(\w+)\\\}")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BODILESS: Final = frozenset({"GET", "DELETE"})


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request of the HTTP+JSON binding leads."""

    operation: Operation
    verb: str
    ids: Mapping[str, str] = field(default_factory=dict)
    """The parameters that stand in the path, decoded."""
    tenant: str = ""
    """The first segment of the path, where it stands before the operation's own."""


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(_PLACEHOLDER.sub(r"(?P<\1>[^/]+)", re.escape(template)))


def _templates() -> tuple[tuple[re.Pattern[str], Mapping[str, Operation]], ...]:
    """Each template with its verbs. Those with a custom verb come first: a literal `:cancel` is never part of an id."""
    verbs: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS.values():
        for verb, template in operation.routes:
            verbs.setdefault(template, {})[verb] = operation
    ordered = sorted(verbs, key=lambda template: ":" not in template)
    return tuple((_pattern(template), verbs[template]) for template in ordered)


_TEMPLATES: Final = _templates()


def route_of(verb: str, path: str) -> Route | None:
    """The route, or `None` when there is none (404, or 405 when `allowed_verbs` names any).

    `path` is what follows `/agents/NAME` in the request line, still percent-encoded (ASGI `raw_path`).
    """
    for verbs, ids, tenant in _matches(path):
        operation = verbs.get(verb)
        return None if operation is None else Route(operation, verb, ids, tenant)
    return None


def allowed_verbs(path: str) -> tuple[str, ...]:
    """What may be done with a path (`Allow` of a 405); empty when nothing is there."""
    for verbs, _, _ in _matches(path):
        return tuple(sorted(verbs))
    return ()


def _matches(path: str) -> Iterator[tuple[Mapping[str, Operation], Mapping[str, str], str]]:
    """What the path fits: as it is before what it is behind a tenant."""
    for rest, tenant in _readings(path):
        for template, verbs in _TEMPLATES:
            match = template.fullmatch(rest)
            ids = _ids(match) if match else None
            if ids is not None:
                yield verbs, ids, tenant


def _readings(path: str) -> Iterator[tuple[str, str]]:
    yield path, ""
    empty, _, behind = path.partition("/")
    first, slash, rest = behind.partition("/")
    tenant = _decoded(first)
    if not empty and slash and tenant:
        yield "/" + rest, tenant


def _ids(match: re.Match[str]) -> Mapping[str, str] | None:
    """The ids of a path, or `None` when one of them cannot be an id."""
    ids: dict[str, str] = {}
    for name, written in match.groupdict().items():
        decoded = _decoded(written)
        if decoded is None:
            return None
        ids[name] = decoded
    return ids


def _decoded(segment: str) -> str | None:
    """A segment decoded once, or `None` when it cannot be an id."""
    try:
        decoded = _unquoted(segment)
        return some_identifier(decoded, "") if "/" not in decoded else None
    except Malformed:
        return None


def _unquoted(written: str) -> str:
    """Percent-decoded once, strictly."""
    try:
        if _BAD_ESCAPE.search(written):
            raise Malformed("the address holds a '%' that is not followed by two hexadecimal digits")
        return unquote_to_bytes(written.encode("ascii")).decode()
    except UnicodeError as exc:
        raise Malformed("the address is not percent-encoded UTF-8") from exc


def rest_params(route: Route, query: bytes, body: Mapping[str, object] | None) -> dict[str, object]:
    """The parameters of path, query and body together, for `canonical_request`.

    Raises `Malformed` for names that stand twice, contradictions and other spellings; the path has the last word
    on nothing: what disagrees with it is refused.
    """
    shape = REQUESTS[route.operation.message]
    params = dict(body or {})
    if body and route.verb in _BODILESS:
        raise Malformed(f"{route.verb} takes no body; write the parameters into the query", "request")
    named = _query_params(shape, query)
    if named and route.verb not in _BODILESS:
        raise Malformed(
            f"query parameter {next(iter(named))}: {route.verb} takes its parameters in the body", "request"
        )
    params.update(named)
    for name, value in route.ids.items():
        _settle(params, name, value)
    if route.tenant:
        _settle(params, "tenant", route.tenant)
    return params


def _settle(params: dict[str, object], name: str, value: str) -> None:
    given = params.get(name)
    if given is not None and given not in ("", value):
        raise Malformed(f"{name}: contradicts the path; leave it out")
    params[name] = value


def _query_params(shape: Shape, query: bytes) -> dict[str, object]:
    """The parameters of a query that the message has. Others (`A2A-Version`) are not the request's."""
    params: dict[str, object] = {}
    for pair in query.decode("latin-1").split("&"):
        written, _, value = pair.partition("=")
        name = _form_decoded(written)
        known = shape.fields.get(name)
        if known is None:
            shape.name_of(name, "", shape.fields)  # in a query, only the names of JSON are known (section 11.5)
            continue
        if name in params:
            raise Malformed(f"query parameter {name}: stands twice; write it once")
        text = _form_decoded(value)
        params[name] = _truth(text, name) if known.read is boolean else text
    return params


def _form_decoded(written: str) -> str:
    return _unquoted(written.replace("+", " "))


def _truth(text: str, name: str) -> bool:
    if text in {"true", "false"}:
        return text == "true"
    raise Malformed(f"query parameter {name}: must be true or false")
