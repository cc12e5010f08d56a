"""Agent cards of A2A 0.3 as those of 1.0, and cards that clients of both versions read.

A dual card is the 1.0 card with the members of 0.3 beside those of 1.0, at every level, as a2a-sdk 1.x serves it:
`url`, `preferredTransport`, `additionalInterfaces`, `protocolVersion`, `supportsAuthenticatedExtendedCard`, `security`
(card and skills), and each security scheme in both forms in one object (`apiKeySecurityScheme` beside `type`, `in`,
`name`): their names do not meet. Clients of 1.0 ignore the 0.3 names and the other way round. The 0.3 members name the
interfaces that the card itself lists with version 0.3; one URL can be listed for both versions, because the request's
`A2A-Version` decides (empty means 0.3, specification section 3.6.2), and routes and methods do not meet either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.a2a.operations import LEGACY_VERSION
from gateway.a2a.v03_shapes import (
    ANYTHING,
    FREE,
    TEXT,
    TEXTS,
    TRUTH,
    Kind,
    Member,
    NotConvertible,
    Shape,
    below,
    entries,
    items,
    listed,
    mapped,
)

WIRE_VERSION: Final = "0.3.0"
"""What cards of 0.3 write: with the patch number."""

_SCHEMES: Final = {
    "apiKey": "apiKeySecurityScheme",
    "http": "httpAuthSecurityScheme",
    "oauth2": "oauth2SecurityScheme",
    "openIdConnect": "openIdConnectSecurityScheme",
    "mutualTLS": "mtlsSecurityScheme",
}
_FLOWS: Final = ("authorizationCode", "clientCredentials", "implicit", "password")
"""Best first: 1.0 has room for one."""

LEGACY_MEMBERS: Final = (
    "url",
    "preferredTransport",
    "additionalInterfaces",
    "protocolVersion",
    "supportsAuthenticatedExtendedCard",
    "security",
)


def card_from_03(card: object) -> dict[str, object]:
    """The card in the shape of 1.0. Of a card that has both shapes, the 1.0 half. Its signatures no longer hold."""
    source = entries(card, "card")
    if source.get("supportedInterfaces") is not None:
        return _modern_half(source)
    out = _CARD.up({name: item for name, item in source.items() if name not in _CONNECTION}, "", False)
    out["supportedInterfaces"] = _interfaces(source)
    extended = source.get("supportsAuthenticatedExtendedCard")
    if extended is not None:
        capabilities = dict(entries(out.get("capabilities", {}), "capabilities"))
        capabilities["extendedAgentCard"] = TRUTH.up(extended, "supportsAuthenticatedExtendedCard", False)
        out["capabilities"] = capabilities
    return out


def card_to_dual(card: object) -> dict[str, object]:
    """The 1.0 card with the members of 0.3 beside its own; unchanged where it lists no interface of 0.3."""
    source = entries(card, "card")
    legacy = [
        entries(item, f"supportedInterfaces[{index}]")
        for index, item in enumerate(items(source.get("supportedInterfaces") or [], "supportedInterfaces"))
        if is_legacy(entries(item, f"supportedInterfaces[{index}]").get("protocolVersion"))
    ]
    if not legacy:
        return dict(source)
    old = {**_CARD.down(source, "", False), **_connection(legacy)}
    capabilities = entries(source.get("capabilities") or {}, "capabilities")
    if capabilities.get("extendedAgentCard") is True:
        old["supportsAuthenticatedExtendedCard"] = True
    return _beside(source, old)


def is_legacy(version: object) -> bool:
    """Whether the version of an interface is 0.3, with or without a patch number."""
    return isinstance(version, str) and (version == LEGACY_VERSION or version.startswith(LEGACY_VERSION + "."))


def _interfaces(source: Mapping[str, object]) -> list[object]:
    preferred = source.get("preferredTransport")
    main = {"url": source.get("url"), "transport": "JSONRPC" if preferred is None else preferred}
    others = items(source.get("additionalInterfaces") or [], "additionalInterfaces")
    found: list[object] = [_INTERFACE.up(main, "", False)]
    for index, other in enumerate(others):
        interface = _INTERFACE.up(other, f"additionalInterfaces[{index}]", False)
        if interface not in found:
            found.append(interface)
    return [{**entries(interface, ""), "protocolVersion": LEGACY_VERSION} for interface in found]


def _connection(legacy: list[Mapping[str, object]]) -> dict[str, object]:
    first, *others = [
        _INTERFACE.down(item, f"supportedInterfaces[{index}]", False) for index, item in enumerate(legacy)
    ]
    out: dict[str, object] = {
        "url": first["url"],
        "preferredTransport": first["transport"],
        "protocolVersion": WIRE_VERSION,
    }
    plain = [{"url": other["url"], "transport": other["transport"]} for other in others]
    return {**out, "additionalInterfaces": plain} if plain else out


def _modern_half(source: Mapping[str, object]) -> dict[str, object]:
    """Without what only clients of 0.3 follow: no URL of theirs may stay in a card that is taken for one of 1.0."""
    out = {name: item for name, item in source.items() if name not in LEGACY_MEMBERS}
    if "securitySchemes" in out:
        out["securitySchemes"] = mapped(Kind(_scheme_half, _scheme_half)).up(out["securitySchemes"], "", False)
    if isinstance(out.get("skills"), (list, tuple)):
        out["skills"] = [_skill_half(skill) for skill in items(out["skills"], "skills")]
    return out


def _scheme_half(value: object, where: str, _strict: bool) -> object:
    source = entries(value, where)
    modern = {name: item for name, item in source.items() if name in _SCHEMES.values()}
    return modern or dict(source)


def _skill_half(value: object) -> object:
    return {name: item for name, item in entries(value, "skills").items() if name != "security"}


def _beside(new: Mapping[str, object], old: Mapping[str, object]) -> dict[str, object]:
    """The first with all that only the second has, at every level; items of lists are paired by position."""
    return {**old, **{name: _joined(item, old.get(name)) for name, item in new.items()}}


def _joined(new: object, old: object) -> object:
    if isinstance(new, Mapping) and isinstance(old, Mapping):
        return _beside(new, old)
    if isinstance(new, (list, tuple)) and isinstance(old, (list, tuple)) and len(new) == len(old):
        return [_joined(item, other) for item, other in zip(new, old, strict=True)]
    return new


def _scheme_up(value: object, where: str, strict: bool) -> object:
    source = dict(entries(value, where))
    kind = source.pop("type", None)
    if not isinstance(kind, str) or kind not in _SCHEMES:
        raise NotConvertible(f"{below(where, 'type')}: must be one of {', '.join(_SCHEMES)}")
    return {_SCHEMES[kind]: _SCHEME_SHAPES[kind].up(source, where, strict)}


def _scheme_down(value: object, where: str, strict: bool) -> object:
    source = entries(value, where)
    found = [kind for kind, member in _SCHEMES.items() if source.get(member) is not None]
    if len(found) != 1:
        raise NotConvertible(f"{where}: must have exactly one of {', '.join(_SCHEMES.values())}")
    kind = found[0]
    return {**_SCHEME_SHAPES[kind].down(source[_SCHEMES[kind]], where, strict), "type": kind}


def _flows_up(value: object, where: str, strict: bool) -> object:
    source = entries(value, where)
    best = next((flow for flow in _FLOWS if source.get(flow) is not None), None)
    return {best: FREE.up(source[best], below(where, best), strict)} if best else {}


def _flows_down(value: object, where: str, _strict: bool) -> object:
    return {name: item for name, item in entries(value, where).items() if name in _FLOWS and item is not None}


def _requirement_up(value: object, where: str, strict: bool) -> object:
    scopes = entries(value, where).items()
    return {"schemes": {name: {"list": TEXTS.up(item, below(where, name), strict)} for name, item in scopes}}


def _requirement_down(value: object, where: str, strict: bool) -> object:
    schemes = entries(entries(value, where).get("schemes") or {}, below(where, "schemes"))
    return {name: _scopes(item, below(where, name), strict) for name, item in schemes.items()}


def _scopes(value: object, where: str, strict: bool) -> object:
    return TEXTS.down(entries(value, where).get("list") or [], where, strict)


def _unread(_value: object, _where: str, _strict: bool) -> object:
    return None


_DESCRIPTION: Final = Member("description", TEXT)
_REQUIREMENTS: Final = Member("security", listed(Kind(_requirement_up, _requirement_down)), "securityRequirements")
_SCHEME_SHAPES: Final = {
    "apiKey": Shape((_DESCRIPTION, Member("in", TEXT, "location", need=True), Member("name", TEXT, need=True))),
    "http": Shape((_DESCRIPTION, Member("scheme", TEXT, need=True), Member("bearerFormat", TEXT))),
    "oauth2": Shape(
        (
            _DESCRIPTION,
            Member("flows", Kind(_flows_up, _flows_down), need=True, fill=dict),
            Member("oauth2MetadataUrl", TEXT),
        )
    ),
    "openIdConnect": Shape((_DESCRIPTION, Member("openIdConnectUrl", TEXT, need=True))),
    "mutualTLS": Shape((_DESCRIPTION,)),
}
_INTERFACE: Final = Shape(
    (Member("url", TEXT, need=True), Member("transport", TEXT, "protocolBinding", need=True)),
    only_new={"protocolVersion": _unread, "tenant": _unread},
)
_CAPABILITIES: Final = Shape(
    (Member("streaming", TRUTH), Member("pushNotifications", TRUTH), Member("extensions", listed(FREE))),
    only_old={"stateTransitionHistory": _unread},  # no longer exists in 1.0
    only_new={"extendedAgentCard": TRUTH.down},
)
_SKILL: Final = Shape(
    (
        Member("id", TEXT, need=True),
        Member("name", TEXT, need=True),
        Member("description", TEXT, fill=str),
        Member("tags", TEXTS, fill=list),
        Member("examples", TEXTS),
        Member("inputModes", TEXTS),
        Member("outputModes", TEXTS),
        _REQUIREMENTS,
    )
)
_CONNECTION: Final = (
    "url",
    "preferredTransport",
    "additionalInterfaces",
    "protocolVersion",
    "supportsAuthenticatedExtendedCard",
)
_CARD: Final = Shape(
    (
        Member("name", TEXT, need=True),
        Member("description", TEXT, fill=str),
        Member("version", TEXT, fill=str),
        Member("provider", FREE),
        Member("documentationUrl", TEXT),
        Member("iconUrl", TEXT),
        Member("capabilities", Kind(_CAPABILITIES.up, _CAPABILITIES.down), need=True, fill=dict),
        Member("securitySchemes", mapped(Kind(_scheme_up, _scheme_down))),
        _REQUIREMENTS,
        Member("defaultInputModes", TEXTS, fill=list),
        Member("defaultOutputModes", TEXTS, fill=list),
        Member("skills", listed(Kind(_SKILL.up, _SKILL.down)), fill=list),
        Member("signatures", ANYTHING),
    ),
    only_old=dict.fromkeys(_CONNECTION, _unread),
    only_new={"supportedInterfaces": _unread},
)
