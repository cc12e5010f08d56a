"""What the claims of a verified token say about its bearer (RFC 7519, RFC 9068, RFC 8693)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from gateway.codec import JsonObject, JsonValue
from gateway.identity.bearer import malformed, refused
from gateway.identity.issuers import IssuerSpec
from gateway.types import Entity, Identity

_RFC9068_CLAIMS: Final = ("sub", "client_id", "iat", "jti")
"""Beside `iss`, `exp` and `aud`, which every token must have."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""In no text of ours: they part the members of a principal, and the lines of a log."""


def strict_object(data: bytes, what: str) -> JsonObject:
    """Decode a JSON object without duplicate names, infinities or NaN. Raises `Unauthenticated`.

    Two readers of one token must not see two values of a claim (RFC 7519 section 4).
    """
    try:
        value = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise malformed(f"the {what} of the access token is not a JSON object with unique names") from exc
    if not isinstance(value, dict):
        raise malformed(f"the {what} of the access token is not a JSON object with unique names")
    return value


def _unique(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate name")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who bears a token, until when (seconds since the epoch)."""

    identity: Identity
    expires_s: float


def bearer_in(claims: JsonObject, spec: IssuerSpec, *, typ: str, now_s: float) -> Bearer:
    """The identity in the claims of a token whose signature and issuer hold. Raises `Unauthenticated`."""
    expires_s = _check_times(claims, spec.leeway_s, now_s)
    _check_audience(claims, spec)
    if typ == "at+jwt":
        _check_present(claims)
    if "cnf" in claims:
        raise refused("the access token is bound to a key of its client, which is not supported: get a bearer token")
    chain = _chain(claims, spec)
    identity = Identity(
        subject=chain[-1],
        tenant=_tenant(claims, spec),
        roles=tuple(dict.fromkeys(role for name in spec.role_claims for role in _roles(claims, name))),
        scopes=_scopes(claims),
        on_behalf_of=chain[0] if len(chain) > 1 else None,
        delegation=tuple(entity.id for entity in chain) if len(chain) > 1 else (),
        method="jwt",
        issuer=spec.issuer,
        credential_id=_text(claims, "jti"),
    )
    return Bearer(identity, expires_s)


def _check_times(claims: JsonObject, leeway_s: float, now_s: float) -> float:
    expires_s = _time(claims, "exp")
    if expires_s is None:
        raise refused("the access token has no `exp` claim: get one that expires")
    if expires_s + leeway_s <= now_s:
        raise refused("the access token has expired: get a new one")
    for name in ("nbf", "iat"):
        starts_s = _time(claims, name)
        if starts_s is not None and starts_s - leeway_s > now_s:
            raise refused(f"the access token is not valid yet (`{name}`): check the clocks of issuer and gateway")
    return expires_s


def _time(claims: JsonObject, name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refused(f"the `{name}` claim of the access token is not a time")
    return value


def _check_audience(claims: JsonObject, spec: IssuerSpec) -> None:
    value = claims.get("aud")
    audiences = value if isinstance(value, list) else [value]
    if not any(isinstance(audience, str) and spec.is_meant_by(audience) for audience in audiences):
        raise refused(f"the access token is for another resource: get one for {spec.audience} (RFC 8707 `resource`)")


def _check_present(claims: JsonObject) -> None:
    missing = [name for name in _RFC9068_CLAIMS if claims.get(name) in (None, "")]
    if missing:
        raise refused(f"the access token lacks {', '.join(missing)} (RFC 9068 section 2.2): have its issuer add them")


def _chain(claims: JsonObject, spec: IssuerSpec) -> Sequence[Entity]:
    """From the principal that all began with to the one who calls now.

    `act` nests the other way round: the outermost is the current actor (RFC 8693 section 4.1).
    """
    subject, client = _text(claims, "sub"), _text(claims, "client_id") or _text(claims, "azp")
    if not subject:
        raise refused("the access token has no `sub` claim: it does not say who it is for")
    # A client that acts for itself is its own subject (RFC 9068 section 2.2).
    principal = _entity("agent" if subject == client else "user", subject, spec)
    actors = _actors(claims, spec)
    if not actors and spec.client_is_actor and client not in ("", subject):
        actors = [_entity("agent", client, spec)]
    return [principal, *reversed(actors)]


def _actors(claims: JsonObject, spec: IssuerSpec) -> list[Entity]:
    actors: list[Entity] = []
    holder = claims
    while "act" in holder:
        if len(actors) == spec.max_delegation:
            raise refused(f"the access token was delegated more than {spec.max_delegation} times")
        actor = holder["act"]
        if not isinstance(actor, dict) or actor.get("iss", spec.issuer) != spec.issuer:
            raise refused("an `act` claim of the access token is not an actor of the token's issuer")
        name = _text(actor, "sub") or _text(actor, "client_id")
        if not name:
            raise refused("an `act` claim of the access token does not name its actor (`sub`)")
        actors.append(_entity("agent", name, spec))
        holder = actor
    return actors


def _entity(kind: str, name: str, spec: IssuerSpec) -> Entity:
    if not spec.typed_subjects:
        return Entity(kind, f"{kind}:{name}")
    kind, _, rest = name.partition(":")
    if not kind or not rest:
        raise refused("a subject of the access token is not `type:name`, as its issuer is configured to write it")
    return Entity(kind, name)


def _tenant(claims: JsonObject, spec: IssuerSpec) -> str:
    claimed = _text(claims, spec.tenant_claim)
    if spec.tenant and claimed not in ("", spec.tenant):
        raise refused("the access token is for a tenant that its issuer does not speak for")
    return spec.tenant or claimed


def _scopes(claims: JsonObject) -> tuple[str, ...]:
    value = claims.get("scope", claims.get("scp"))
    return tuple(_checked(value, "scope").split()) if isinstance(value, str) else _texts(value, "scope")


def _roles(claims: JsonObject, name: str) -> tuple[str, ...]:
    value: JsonValue = claims.get(name)
    if value is None and "." in name:
        value = claims
        for step in name.split("."):
            value = value.get(step) if isinstance(value, dict) else None
    return (_checked(value, name),) if isinstance(value, str) else _texts(value, name)


def _texts(value: JsonValue, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        _refuse_text(name)
    return tuple([_checked(item, name) for item in value])


def _text(claims: JsonObject, name: str) -> str:
    value = claims.get(name)
    return "" if value is None else _checked(value, name)


def _checked(value: JsonValue, name: str) -> str:
    if not isinstance(value, str):
        _refuse_text(name)
    if _CONTROL.search(value):
        raise refused(f"the `{name}` claim of the access token holds control characters")
    return value


def _refuse_text(name: str) -> NoReturn:
    raise refused(f"the `{name}` claim of the access token is not text, or not a list of texts")
