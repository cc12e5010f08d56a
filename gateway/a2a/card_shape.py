"""The members of an agent card as a table (specification, section 4.4): which there are and which may be left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from gateway import codec

Presence: TypeAlias = Literal["required", "optional", "plain"]
"""How protobuf treats a default value: it stays, it stays where it was set, or it is left out (section 5.7)."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its presence, and the shape of its objects (`many`: each in a list; `named`: each in a map)."""

    presence: Presence = "plain"
    of: Shape | None = None
    nested: Literal["one", "many", "named", "free"] = "one"


@dataclass(frozen=True, slots=True)
class Shape:
    """The members that one kind of object has in 1.0."""

    members: Mapping[str, Member]


def _shape(required: str = "", optional: str = "", plain: str = "", **objects: Member) -> Shape:
    members = {name: Member("required") for name in required.split()}
    members |= {name: Member("optional") for name in optional.split()}
    members |= {name: Member() for name in plain.split()}
    return Shape(members | objects)


_FREE: Final = Member("optional", nested="free")
_REQUIREMENT: Final = _shape(schemes=Member("plain", _shape(plain="list"), "named"))
_SCOPES: Final = Member("required", nested="free")
_FLOW: Final = _shape(
    "authorizationUrl tokenUrl deviceAuthorizationUrl", plain="refreshUrl pkceRequired", scopes=_SCOPES
)
_LOOSE_FLOW: Final = _shape(plain="authorizationUrl tokenUrl refreshUrl scopes")
_FLOWS: Final = _shape(
    authorizationCode=Member("optional", _FLOW),
    clientCredentials=Member("optional", _FLOW),
    deviceCode=Member("optional", _FLOW),
    implicit=Member("optional", _LOOSE_FLOW),
    password=Member("optional", _LOOSE_FLOW),
)
_SCHEME: Final = _shape(
    apiKeySecurityScheme=Member("optional", _shape("location name", plain="description")),
    httpAuthSecurityScheme=Member("optional", _shape("scheme", plain="description bearerFormat")),
    oauth2SecurityScheme=Member(
        "optional", _shape(plain="description oauth2MetadataUrl", flows=Member("required", _FLOWS))
    ),
    openIdConnectSecurityScheme=Member("optional", _shape("openIdConnectUrl", plain="description")),
    mtlsSecurityScheme=Member("optional", _shape(plain="description")),
)
INTERFACE: Final = _shape("url protocolBinding protocolVersion", plain="tenant")
PROVIDER: Final = _shape("url organization")
EXTENSION: Final = _shape(plain="uri description required", params=_FREE)
CAPABILITIES: Final = _shape(
    optional="streaming pushNotifications extendedAgentCard", extensions=Member("plain", EXTENSION, "many")
)
SKILL: Final = _shape(
    "id name description tags",
    plain="examples inputModes outputModes",
    securityRequirements=Member("plain", _REQUIREMENT, "many"),
)
CARD: Final = _shape(
    "name description version defaultInputModes defaultOutputModes",
    "documentationUrl iconUrl",
    supportedInterfaces=Member("required", INTERFACE, "many"),
    provider=Member("optional", PROVIDER),
    capabilities=Member("required", CAPABILITIES),
    securitySchemes=Member("plain", _SCHEME, "named"),
    securityRequirements=Member("plain", _REQUIREMENT, "many"),
    skills=Member("required", SKILL, "many"),
)
"""Without `signatures`, which no signature covers."""


def signed_forms(card: Mapping[str, object]) -> tuple[bytes, ...]:
    """What a signature over all of a card can cover: it as it is, or without default values (section 8.4.1)."""
    everything = {name: value for name, value in card.items() if name != "signatures"}
    return codec.jcs(everything), codec.jcs(_without_defaults(everything, CARD, only_known=False))


def core_forms(card: Mapping[str, object]) -> tuple[bytes, ...]:
    """What a signature over the members of 1.0 alone can cover: as the specification and as the Python SDK say.

    A card for peers of both versions has members of 0.3 beside these. The SDK adds them after signing.
    """
    core = core_of(card)
    return codec.jcs(core), codec.jcs(_without_empty(core) or {})


def core_of(card: Mapping[str, object]) -> dict[str, object]:
    """The card's members of 1.0 alone, without default values where those are left out."""
    return _without_defaults(card, CARD, only_known=True)


def _without_defaults(value: Mapping[str, object], shape: Shape, *, only_known: bool) -> dict[str, object]:
    kept: dict[str, object] = {}
    for name, inner in value.items():
        member = shape.members.get(name)
        if member is None:
            if not only_known:
                kept[name] = inner
            continue
        cleaned = _cleaned(inner, member, only_known=only_known)
        if cleaned is not None and (member.presence != "plain" or not _is_default(cleaned)):
            kept[name] = cleaned
    return kept


def _cleaned(value: object, member: Member, *, only_known: bool) -> object:
    if member.of is None:
        return value
    if member.nested == "many" and isinstance(value, list | tuple):
        return [_object(each, member.of, only_known=only_known) for each in value]
    if member.nested == "named" and isinstance(value, Mapping):
        return {name: _object(each, member.of, only_known=only_known) for name, each in value.items()}
    return _object(value, member.of, only_known=only_known)


def _object(value: object, shape: Shape, *, only_known: bool) -> object:
    return _without_defaults(value, shape, only_known=only_known) if isinstance(value, Mapping) else value


def _is_default(value: object) -> bool:
    return value in ("", [], (), {}) or value is False or (value == 0 and not isinstance(value, bool))


def _without_empty(value: object) -> object:
    if isinstance(value, Mapping):
        kept = {name: inner for name, each in value.items() if (inner := _without_empty(each)) is not None}
        return kept or None
    if isinstance(value, list | tuple):
        return [inner for each in value if (inner := _without_empty(each)) is not None] or None
    return None if value == "" else value
