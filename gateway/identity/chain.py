"""Who called whom, across agents: a chain that the gateway signs at each hop and takes back from nobody else.

A call to an agent carries a token (`Interlock-Chain`) that says on whose behalf it comes and through which agents, in
the shape of RFC 8693 section 4.1 (`act`). The agent hands it back with what it calls in turn. It counts only from the
agent that it was handed to, which is told by that agent's own credential (subject `agent:NAME`).

Agents drop headers. So the gateway also remembers what each agent is working on: an agent that calls without a token
is taken to do so for everything it was asked, and may visit none of the agents that any of it came through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import codec
from gateway.errors import PolicyDenied, Unauthenticated
from gateway.identity import base64url
from gateway.identity.bearer import malformed, refused
from gateway.identity.claims import strict_object
from gateway.spending import root_of
from gateway.types import Authorized, Entity, Identity, Reason

MAX_DEPTH: Final = 8
"""Agents that one call may come through."""
MAX_TOKEN: Final = 8_192
TTL_S: Final = 3_600
"""How long a token may be handed back, and how long an agent is taken to work on a task that has not ended."""
MAX_WORK: Final = 10_000
"""Tasks that are remembered one by one for an agent; of more, only on whose behalf they are."""
_TYPE: Final = "interlock-chain+jwt"


@dataclass(frozen=True, slots=True)
class Hops:
    """On whose behalf an agent works (`delegation`, outermost first), and the agents that the call came through."""

    delegation: tuple[str, ...]
    agents: tuple[str, ...]
    root: str = ""
    """The call that it began with: what all of it spends together. Older tokens do not say."""


@dataclass(slots=True)
class _Work:
    hops: Hops
    until_s: float


@dataclass(slots=True)
class Chains:
    """Signs and reads chains. `secret` has 32 bytes, the same for every replica; `url` is the gateway's own."""

    secret: bytes
    url: str
    is_agent: Callable[[str], bool]
    clock_s: Callable[[], float]
    max_depth: int = MAX_DEPTH
    _key: Ed25519PrivateKey = field(init=False)
    _work: dict[str, dict[str, _Work]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(self.secret)

    def extended(self, identity: Identity, token: str) -> Identity:
        """The identity with what it was asked before. Raises `Unauthenticated` for a token that is not the caller's."""
        agent = self._agent_of(identity)
        if token:
            hops = self._read(token, agent)
        elif agent:
            hops = self._remembered(agent)
        else:
            return identity
        if not hops.agents:
            return identity
        delegation = (*hops.delegation, identity.subject.id) if hops.delegation else identity.delegation
        return replace(
            identity,
            on_behalf_of=_principal(hops.delegation) or identity.on_behalf_of,
            delegation=delegation,
            hops=hops.agents,
            root=hops.root,
        )

    @contextmanager
    def entering(self, authorized: Authorized, agent: str) -> Iterator[str]:
        """The token for a call to `agent`. Raises `PolicyDenied` for a loop, and for a chain that is too long."""
        identity, call = authorized.identity, authorized.call
        self._check(authorized, agent)
        delegation = identity.delegation or (identity.subject.id,)
        hops = Hops(delegation, (*identity.hops, agent), root_of(call, identity))
        work = self._work.setdefault(agent, {})
        work[call.id] = _Work(hops, self.clock_s() + TTL_S)
        try:
            yield self._token(hops, agent, call.id)
        finally:
            work.pop(call.id, None)

    def works_on(self, agent: str, task_id: str, hops: Hops) -> None:
        """The agent has not ended this task, though the call that made it is over."""
        work, now_s = self._work.setdefault(agent, {}), self.clock_s()
        name = f"task:{task_id}"
        if len(work) >= MAX_WORK and name not in work:
            _forget_old(work, now_s)
            if len(work) >= MAX_WORK:  # whoever fills this up must not make us forget a chain
                hops = replace(hops, root=f"agent:{agent}")
                name = f"some:{hops}"
        work.pop(name, None)  # what is noted last stands last
        work[name] = _Work(hops, now_s + TTL_S)

    def ended(self, agent: str, task_id: str) -> None:
        """The task is over."""
        self._work.get(agent, {}).pop(f"task:{task_id}", None)

    def _check(self, authorized: Authorized, agent: str) -> None:
        hops = authorized.identity.hops
        if agent in hops:
            path = " -> ".join((*hops, agent))
            raise _refusal(
                authorized,
                "delegation_loop",
                f"the call would come back to an agent that it came through: {path}",
                "let the agent that was asked first answer; hand on the header Interlock-Chain to be told apart",
            )
        if len(hops) >= self.max_depth:
            raise _refusal(
                authorized,
                "delegation_too_deep",
                f"the call came through {len(hops)} agents already",
                f"ask fewer agents in a row (at most {self.max_depth})",
            )

    def _agent_of(self, identity: Identity) -> str:
        """The configured agent that a credential is for: its subject is `agent:NAME`."""
        kind, _, name = identity.subject.id.partition(":")
        return name if identity.subject.type == "agent" and kind == "agent" and self.is_agent(name) else ""

    def _remembered(self, agent: str) -> Hops:
        now_s = self.clock_s()
        work = self._work.get(agent, {})
        _forget_old(work, now_s)
        root = _shared_root(item.hops.root for item in work.values())
        known = {replace(item.hops, root=root) for item in work.values()}
        if len(known) == 1:
            return known.pop()
        agents = dict.fromkeys(name for hops in sorted(known, key=str) for name in hops.agents)
        return Hops((), tuple(agents), root)

    def _token(self, hops: Hops, agent: str, call_id: str) -> str:
        now_s = int(self.clock_s())
        claims = {
            "iss": self.url,
            "aud": self.url,
            "iat": now_s,
            "exp": now_s + TTL_S,
            "jti": call_id,
            "agent": agent,
            "hops": hops.agents,
            "root": hops.root,
            **_nested(hops.delegation),
        }
        head = base64url.encode(codec.dumps({"alg": "EdDSA", "typ": _TYPE}))
        signed = f"{head}.{base64url.encode(codec.dumps(claims))}"
        return f"{signed}.{base64url.encode(self._key.sign(signed.encode()))}"

    def _read(self, token: str, agent: str) -> Hops:
        claims = strict_object(self._verified(token), "Interlock-Chain token")
        expires_s = claims.get("exp")
        if claims.get("aud") != self.url or not isinstance(expires_s, int) or expires_s <= self.clock_s():
            raise refused("the Interlock-Chain token has expired or is another gateway's: leave it out, or start anew")
        if not agent or claims.get("agent") != agent:
            words = f"agent:{claims.get('agent')}"
            raise refused(
                f"the Interlock-Chain token was handed to another agent: use a key whose subject is {words!r}"
            )
        return Hops(_unnested(claims), _texts(claims.get("hops")), _text(claims.get("root", "")))

    def _verified(self, token: str) -> bytes:
        if len(token) > MAX_TOKEN or token.count(".") != 2:
            raise malformed("the Interlock-Chain header is not a token of this gateway: leave it out")
        head, payload, signature = token.split(".")
        try:
            self._key.public_key().verify(base64url.decode(signature), f"{head}.{payload}".encode())
            described, data = codec.loads(base64url.decode(head)), base64url.decode(payload)
        except (ValueError, InvalidSignature) as exc:
            raise malformed("the Interlock-Chain header is not a token of this gateway: leave it out") from exc
        if not isinstance(described, dict) or described.get("typ") != _TYPE:
            raise malformed("the Interlock-Chain header is a token of another kind: leave it out")
        return data


def _forget_old(work: dict[str, _Work], now_s: float) -> None:
    while work and work[name := next(iter(work))].until_s <= now_s:
        del work[name]


def _shared_root(every: Iterable[str]) -> str:
    """One for whatever an agent works on: where it does not say for which, it spends for all of it together."""
    roots = sorted({*every} - {""})
    if len(roots) < 2:
        return "".join(roots)
    return "some:" + hashlib.sha256("\x00".join(roots).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _nested(delegation: tuple[str, ...]) -> dict[str, object]:
    """`sub` and `act`: the current actor is the outermost `act`, earlier ones nest in it (RFC 8693 section 4.1)."""
    act: dict[str, object] | None = None
    for actor in delegation[1:]:
        act = {"sub": actor, **({"act": act} if act else {})}
    return {"sub": delegation[0], **({"act": act} if act else {})}


def _unnested(claims: object) -> tuple[str, ...]:
    found: list[str] = []
    act = claims.get("act") if isinstance(claims, dict) else None
    while isinstance(act, dict):
        found.append(_text(act.get("sub")))
        act = act.get("act")
    subject = _text(claims.get("sub")) if isinstance(claims, dict) else ""
    return (subject, *reversed(found))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Unauthenticated("the Interlock-Chain token holds something that this gateway does not write")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Unauthenticated("the Interlock-Chain token holds something that this gateway does not write")
    return tuple(_text(item) for item in value)


def _principal(delegation: tuple[str, ...]) -> Entity | None:
    if not delegation:
        return None
    kind, found, _ = delegation[0].partition(":")
    return Entity(kind if found else "user", delegation[0])


def _refusal(authorized: Authorized, code: str, message: str, remedy: str) -> PolicyDenied:
    reason = Reason(code, message, rule="gateway.chain", public=True, remedy=remedy)
    return PolicyDenied(message, decision_id=authorized.permit.decision_id, reasons=(reason,))
