"""The card that this gateway publishes for an agent: the upstream's words, and only our own addresses.

Whatever address of the upstream's is left in a card is a way around policy (specification, section 13.3), so a card
is made anew from the members that 1.0 defines, and nothing is handed on because nobody thought of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gateway.a2a.card_check import Card, CardRefused, host_of, http_url, read_card
from gateway.a2a.card_shape import core_of
from gateway.a2a.directory import AgentEntry, Binding
from gateway.a2a.operations import LEGACY_VERSION, VERSION
from gateway.a2a.v03 import card_to_dual

SCOPE: Final = "a2a"
"""What a requirement lists. An empty list would be left out by some verifiers of signatures and not by others."""
DEFAULT_MODES: Final = ("text/plain",)

_ICON_DATA: Final = "data:image/"
_INTERNAL: Final = (".local", ".internal", ".intranet", ".lan", ".corp", ".home.arpa", ".svc", ".localhost", ".test")


@dataclass(frozen=True, slots=True)
class Security:
    """How callers prove who they are: `securitySchemes` and `securityRequirements` in the shape of 1.0."""

    schemes: Card
    requirements: tuple[Card, ...] = ()


@dataclass(frozen=True, slots=True)
class Places:
    """Where callers reach an agent: below `base_url`, or at a host of its own; `grpc_url` is `host:port`."""

    base_url: str
    host_url: str = ""
    grpc_url: str = ""
    legacy: tuple[Binding, ...] = ("JSONRPC",)
    """Bindings that are served to peers of 0.3 as well."""

    def agent_url(self, name: str) -> str:
        """The address of JSON-RPC, and what the paths of HTTP+JSON are put behind."""
        return (self.host_url or f"{self.base_url.rstrip('/')}/agents/{name}").rstrip("/")


def security_of(issuers: Sequence[str] = (), *, anonymous: bool = False) -> Security:
    """What the gateway asks of callers: a bearer token (an API key or a JWT), or a token of one of these issuers."""
    words = "An API key of this gateway, or an access token of an issuer that it trusts."
    schemes: dict[str, object] = {"bearer": {"httpAuthSecurityScheme": {"scheme": "Bearer", "description": words}}}
    for number, issuer in enumerate(issuers, 1):
        url = issuer.rstrip("/") + "/.well-known/openid-configuration"
        schemes[f"oidc{number}" if len(issuers) > 1 else "oidc"] = {
            "openIdConnectSecurityScheme": {"openIdConnectUrl": url}
        }
    wanted = [{"schemes": {name: {"list": [SCOPE]}}} for name in schemes]
    return Security(schemes, () if anonymous else tuple(wanted))


def published(
    entry: AgentEntry,
    *,
    base_url: str,
    host_url: str | None,
    grpc_url: str | None,
    security: Card,
    requirements: Sequence[Card],
    legacy: tuple[Binding, ...] = ("JSONRPC",),
) -> dict[str, object]:
    """The card to be served, unsigned. Raises `CardRefused` for an agent whose card may not be used."""
    places = Places(base_url, host_url or "", grpc_url or "", legacy)
    if entry.quarantine or not entry.card:
        raise CardRefused(f"agent {entry.name!r} has no card that may be used")
    return _rewritten(entry, places, Security(security, tuple(requirements)))


def may_be_verbatim(entry: AgentEntry, places: Places) -> bool:
    """Whether the upstream's signed bytes lead here, all of them: its network path enters through this gateway."""
    if not entry.raw or not entry.signed_by or entry.skills or entry.quarantine:
        return False
    card = read_card(entry.raw)
    endpoints = list(_endpoints(card))
    return bool(endpoints) and all(_leads_here(endpoint, entry.name, places) for endpoint in endpoints)


def chosen_skills(card: Card, wanted: Sequence[str]) -> list[Card]:
    """The skills that are published: those of these ids, or all. Raises `CardRefused` when an id is not on the card."""
    skills = [skill for skill in _list(card.get("skills")) if isinstance(skill, Mapping)]
    if not wanted:
        return skills
    missing = sorted(set(wanted) - {str(skill.get("id")) for skill in skills})
    if missing:
        raise CardRefused(f"the card has no skill {', '.join(map(ascii, missing))}: correct `skills` of the agent")
    return [skill for skill in skills if skill.get("id") in wanted]


def _rewritten(entry: AgentEntry, places: Places, security: Security) -> dict[str, object]:
    upstream = core_of(entry.card)
    name = str(upstream["name"])
    description = str(upstream.get("description") or name)
    card: dict[str, object] = {
        "name": name,
        "description": description,
        "version": str(upstream.get("version") or "0"),
        "supportedInterfaces": list(_interfaces(entry.name, places)),
        "capabilities": _capabilities(entry, upstream.get("capabilities")),
        "defaultInputModes": _list(upstream.get("defaultInputModes")) or [*DEFAULT_MODES],
        "defaultOutputModes": _list(upstream.get("defaultOutputModes")) or [*DEFAULT_MODES],
        "skills": _skills(entry, upstream, description),
        "securitySchemes": _plain(security.schemes),
    }
    if security.requirements:
        card["securityRequirements"] = _plain(security.requirements)
    card |= _links(entry, upstream)
    return dict(card_to_dual(card)) if _shows_legacy(entry) else card


def _shows_legacy(entry: AgentEntry) -> bool:
    """Whether the members of 0.3 stand beside those of 1.0, whose schema has no room for them.

    As on the agent's own card, so that who reads the one can read the other; a server that is shown as an agent has
    none.
    """
    return not entry.interfaces or any(one.version == LEGACY_VERSION for one in entry.interfaces)


def _interfaces(name: str, places: Places) -> Iterator[dict[str, str]]:
    url = places.agent_url(name)
    for binding in ("JSONRPC", "HTTP+JSON"):
        yield {"url": url, "protocolBinding": binding, "protocolVersion": VERSION}
    if places.grpc_url:
        yield {"url": places.grpc_url, "protocolBinding": "GRPC", "protocolVersion": VERSION, "tenant": name}
    for binding in places.legacy:
        yield {"url": url, "protocolBinding": binding, "protocolVersion": LEGACY_VERSION}


def _capabilities(entry: AgentEntry, upstream: object) -> dict[str, object]:
    given = upstream if isinstance(upstream, Mapping) else {}
    found: dict[str, object] = {name: entry.has(name) for name in ("streaming", "pushNotifications")}
    if entry.has("extendedAgentCard"):
        found["extendedAgentCard"] = True
    extensions = [_extension(entry, each) for each in _list(given.get("extensions")) if isinstance(each, Mapping)]
    return {**found, "extensions": extensions} if extensions else found


def _extension(entry: AgentEntry, extension: Card) -> dict[str, object]:
    """Parameters are of free form: where one names an address of the upstream's, none is handed on."""
    addresses = [urlsplit(one.url).netloc or one.url for one in entry.interfaces]
    leaks = any(address in text for text in _texts(extension.get("params")) for address in addresses)
    return {name: _plain(value) for name, value in extension.items() if not (leaks and name == "params")}


def _skills(entry: AgentEntry, upstream: Card, description: str) -> list[dict[str, object]]:
    """None without what it must have, and at least one: verifiers of signatures disagree about what is empty."""
    skills = [_skill(skill) for skill in chosen_skills(upstream, entry.skills)]
    if skills:
        return skills
    return [{"id": entry.name, "name": str(upstream["name"]), "description": description, "tags": ["general"]}]


def _skill(skill: Card) -> dict[str, object]:
    kept = {name: _plain(value) for name, value in skill.items() if name != "securityRequirements"}
    kept["description"] = kept.get("description") or kept["name"]
    kept["tags"] = kept.get("tags") or ["general"]
    return kept


def _links(entry: AgentEntry, upstream: Card) -> dict[str, object]:
    """Pages for people: kept where they are on the web, and not on the private host where the agent is."""
    hidden = {host for one in entry.interfaces if is_private(host := host_of(one.url))}
    found: dict[str, object] = {}
    provider = upstream.get("provider")
    if isinstance(provider, Mapping) and provider.get("organization") and _is_page(provider.get("url"), hidden):
        found["provider"] = {"url": provider["url"], "organization": provider["organization"]}
    for name in ("documentationUrl", "iconUrl"):
        link = upstream.get(name)
        if _is_page(link, hidden) or (name == "iconUrl" and isinstance(link, str) and link.startswith(_ICON_DATA)):
            found[name] = link
    return found


def _is_page(url: object, hidden: set[str]) -> bool:
    return isinstance(url, str) and http_url(url) is not None and host_of(url) not in hidden


def is_private(host: str) -> bool:
    """Whether a host is one that the world cannot reach, as far as its name tells."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_INTERNAL)


def _endpoints(card: Card) -> Iterator[tuple[str, str, str]]:
    """Address, binding and tenant of each endpoint that a card names, in any version's members."""
    for one in _list(card.get("supportedInterfaces")):
        if isinstance(one, Mapping):
            yield str(one.get("url")), str(one.get("protocolBinding")), str(one.get("tenant", ""))
    if "url" in card:
        yield str(card["url"]), str(card.get("preferredTransport", "JSONRPC")), ""
    for one in _list(card.get("additionalInterfaces")):
        if isinstance(one, Mapping):
            yield str(one.get("url")), str(one.get("transport")), ""


def _leads_here(endpoint: tuple[str, str, str], name: str, places: Places) -> bool:
    url, binding, tenant = endpoint
    if binding == "GRPC":
        return bool(places.grpc_url) and url == places.grpc_url and tenant == name
    return binding in {"JSONRPC", "HTTP+JSON"} and url.rstrip("/") == places.agent_url(name) and not tenant


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield name
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _plain(value: object) -> object:
    """A copy that may be changed: what is made of a frozen card is not frozen."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
