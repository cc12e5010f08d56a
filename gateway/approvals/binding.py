"""What an approval is good for, as a digest: change anything that was agreed to, and it is another call."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gateway import codec
from gateway.types import Call, Entity, FrozenDict, Identity, NeedsApproval

_ANY: Final = "*"
"""In place of the digest of the arguments, where a standing grant is for all of them."""


def binding_of(call: Call, identity: Identity, needs: NeedsApproval) -> str:
    """The digest of who asks (through whom), for what, with which arguments, defined how, and under which policy."""
    return _digest(call, identity, needs, _what(call), needs.ruling.revision)


def scopes_of(call: Call, identity: Identity, needs: NeedsApproval) -> tuple[str, str]:
    """What a standing grant may be bound to: this call with these arguments, or with any.

    Not to the policy's revision, because such a grant is to outlive one; policy decides each call anew anyway, and a
    hold that is worded differently is another one.
    """
    return _digest(call, identity, needs, _what(call), ""), _digest(call, identity, needs, _ANY, "")


def subjects_of(identity: Identity) -> tuple[str, ...]:
    """Everybody whom a call is made by or for. None of them may approve it."""
    parties = [name_of(identity.subject)]
    if identity.on_behalf_of is not None:
        parties.append(name_of(identity.on_behalf_of))
    return tuple(dict.fromkeys([*parties, *identity.delegation, *(f"agent:{hop}" for hop in identity.hops)]))


def is_for_nobody_known(identity: Identity) -> bool:
    """Whether an agent was asked, and does not say by whom of several: anybody might approve their own call then."""
    asked = {f"agent:{hop}" for hop in identity.hops}
    return bool(asked) and (not identity.delegation or identity.delegation[0] in asked)


def name_of(entity: Entity) -> str:
    """`TYPE:ID` of somebody, whether or not the id says the type already: one person has one name."""
    return entity.id if entity.id.startswith(f"{entity.type}:") else f"{entity.type}:{entity.id}"


def _what(call: Call) -> str:
    """The digest of what is asked for: without the id that a client of A2A makes anew for each try."""
    message = call.params.get("message")
    if call.protocol != "a2a" or not isinstance(message, FrozenDict) or "messageId" not in message:
        return call.digest
    unnamed = FrozenDict({key: value for key, value in message.items() if key != "messageId"})
    return replace(call, params=FrozenDict({**call.params, "message": unnamed})).digest


def _digest(call: Call, identity: Identity, needs: NeedsApproval, what: str, revision: str) -> str:
    resource = call.resource
    parts: Sequence[object] = (
        identity.principal,
        identity.question,
        identity.hops,
        call.action,
        call.method,
        (resource.type, resource.id, resource.upstream, resource.name),
        resource.catalog.get("definition_digest", ""),
        what,
        revision,
        needs.request,
    )
    return hashlib.sha256(codec.canonical(parts)).hexdigest()
