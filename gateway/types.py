"""The values that travel the governed path: a call, who makes it, what policy said, what came back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Final, Literal, NoReturn, TypeAlias, cast

from gateway import codec
from gateway.errors import InputTooLarge, PermitMismatch

MAX_DEPTH: Final = 32
MAX_LEAVES: Final = 2_000
MAX_MODEL_LEAVES: Final = 200_000
"""In what models are asked: policy is shown an outline of what has more than others may have."""
SECRET: Final = "[secret]"  # noqa: S105  # the opposite of one
"""What stands in `Call.arguments` in place of a secret."""


class Era(StrEnum):
    """How a peer speaks MCP: with a handshake (to 2025-11-25) or with an envelope on each request (2026-07-28)."""

    LEGACY = "legacy"
    MODERN = "modern"


class FrozenDict(dict[str, object]):
    """A JSON object that refuses to change; `orjson` still writes it."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("this JSON object is part of a call and does not change")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]  # frozen, so it may be hashed
        return hash(codec.canonical(self))


EMPTY: Final = FrozenDict()


_EMPTY_OF: Final[Mapping[type, object]] = {dict: EMPTY, FrozenDict: EMPTY, list: (), tuple: ()}
"""What an empty container becomes, by its type."""


def freeze(value: object, *, max_leaves: int = MAX_LEAVES) -> object:
    """A deep-frozen copy of a JSON value.

    Raises `InputTooLarge` beyond 32 levels or 2,000 leaves (policy contract, "Question"): policy could not be
    asked about such a value.
    """
    leaves = [0, max_leaves]
    return _freeze(value, 0, leaves)


def _freeze(value: object, depth: int, leaves: list[int]) -> object:
    kind = type(value)  # exact types: `isinstance` against an abstract class costs five times as much here
    if value and (kind is dict or kind is FrozenDict):
        _check_depth(depth)
        items = cast("dict[str, object]", value).items()
        return FrozenDict({key: _freeze(item, depth + 1, leaves) for key, item in items})
    if value and (kind is list or kind is tuple):
        _check_depth(depth)
        return tuple([_freeze(item, depth + 1, leaves) for item in cast("list[object]", value)])
    leaves[0] += 1  # what is empty counts, too: it costs as much
    if leaves[0] > leaves[1]:
        raise InputTooLarge(f"more than {leaves[1]} values in the arguments")
    return _EMPTY_OF[kind] if not value and kind in _EMPTY_OF else value


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise InputTooLarge(f"arguments nested deeper than {MAX_DEPTH} levels")


@dataclass(frozen=True, slots=True)
class Entity:
    """Somebody or something that policy can name. The absent one is `Entity("anonymous", "")`."""

    type: str
    id: str


ANONYMOUS: Final = Entity("anonymous", "")


@dataclass(frozen=True)
class Identity:
    """On whose behalf a call is made, and by which agents (RFC 8693 section 4.1 `act`, outermost principal first)."""

    subject: Entity = ANONYMOUS
    tenant: str = ""
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    on_behalf_of: Entity | None = None
    delegation: tuple[str, ...] = ()
    method: Literal["none", "anonymous", "api_key", "jwt"] = "none"
    issuer: str = ""
    credential_id: str = ""
    hops: tuple[str, ...] = ()
    """The agents behind this gateway that the call came through, first one first (`gateway.identity.chain`)."""
    root: str = ""
    """The call that the chain of agents began with; empty where it came through none."""

    @cached_property
    def principal(self) -> str:
        """One text per principal: what sessions, sealed state and private caches are bound to."""
        return "\x1f".join(
            (self.method, self.issuer, self.subject.type, self.subject.id, self.tenant, *self.delegation)
        )

    @cached_property
    def fingerprint(self) -> bytes:
        """Equal for identities that policy cannot tell apart: what private lists are cached by."""
        return hashlib.blake2b(codec.canonical(self.question), digest_size=16).digest()

    @cached_property
    def question(self) -> Mapping[str, object]:
        """The `subject` of a policy question (policy contract, "Question")."""
        properties: dict[str, object] = {
            "tenant": self.tenant,
            "roles": self.roles,
            "scopes": self.scopes,
            "delegation": self.delegation,
            "method": self.method,
            "issuer": self.issuer,
        }
        if self.on_behalf_of is not None:
            properties["on_behalf_of"] = {"type": self.on_behalf_of.type, "id": self.on_behalf_of.id}
        return {"type": self.subject.type, "id": self.subject.id, "properties": properties}


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request carried to prove who it is from; never logged, never forwarded."""

    bearer: str = field(default="", repr=False)
    client_ip: str = ""
    on_loopback: bool = False
    chain: str = field(default="", repr=False)
    """The signed chain of delegation that an agent handed on (`gateway.identity.chain`), or empty."""
    fault: str = ""
    """Why what it carried cannot be read, for the caller: such a request is nobody's, and not an anonymous one."""


@dataclass(frozen=True, slots=True)
class Resource:
    """What a call acts on. `catalog` holds facts of ours, `hints` the upstream's own claims."""

    type: str
    id: str
    upstream: str = ""
    name: str = ""
    known: bool = True
    catalog: Mapping[str, object] = EMPTY
    hints: Mapping[str, object] = EMPTY
    param_headers: tuple[tuple[tuple[str, ...], str, str], ...] = ()
    """A tool's `x-mcp-header` annotations as (property path, header token, JSON type)."""
    quarantine: str = ""
    """Why the definition may not be used (its change, as a diff); empty when it may."""


@dataclass(frozen=True)
class Call:
    """One action on one resource, frozen when it is made.

    `params` are the parameters as the upstream is to see them (its own names, client-sent `_meta` included);
    `arguments` are the part of them that policy reads.
    """

    id: str
    action: str
    method: str
    resource: Resource
    params: FrozenDict = field(default_factory=FrozenDict)
    protocol: str = "mcp"
    protocol_version: str = ""
    session_id: str = ""
    traceparent: str = ""
    tracestate: str = ""
    parent_id: str = ""
    """The call that caused this one (a sampling request during a tool call), or empty."""
    root_id: str = ""
    """The first of the calls that caused one another, or empty for that one itself."""
    started_ns: int = 0
    facts: Mapping[str, object] = EMPTY
    """What the listener read off the parameters for policy, as members of `resource.properties` (A2A: `message`...)."""
    resume: Mapping[str, object] | None = None
    """Unsealed state of an earlier round of the same call (MCP 2026-07-28, patterns/mrtr), or `None`."""

    @cached_property
    def arguments(self) -> Mapping[str, object]:
        """The part of the parameters that policy reads: `arguments` in MCP, all of them but secrets in A2A."""
        value = self._read
        return value if isinstance(value, FrozenDict) else EMPTY

    @cached_property
    def arguments_digest(self) -> str:
        """`sha256:` over the canonical arguments."""
        return "sha256:" + hashlib.sha256(codec.canonical(self._read)).hexdigest()

    @property
    def _read(self) -> object:
        if self.protocol == "a2a":
            return _without_secrets(self.params)
        return self.params.get("arguments") if self.protocol == "mcp" else self.params

    @cached_property
    def digest(self) -> str:
        """Binds a permit to exactly this action, resource and set of parameters."""
        head = "\x00".join((self.action, self.resource.type, self.resource.id, self.resource.upstream, self.method))
        return hashlib.sha256(head.encode() + b"\x00" + codec.canonical(self.params)).hexdigest()

    def with_arguments(self, arguments: Mapping[str, object]) -> Call:
        """The same call on other arguments: a new value with a digest of its own."""
        params = FrozenDict({**self.params, "arguments": freeze(arguments)})
        return replace(self, params=params)


def _without_secrets(params: FrozenDict) -> FrozenDict:
    """Parameters of A2A: what proves a push notification is for its receiver, not for policies and records."""
    configuration = params.get("configuration")
    if isinstance(configuration, FrozenDict):
        config = configuration.get("taskPushNotificationConfig")
        if not isinstance(config, FrozenDict):
            return params
        masked = FrozenDict({**configuration, "taskPushNotificationConfig": _masked(config)})
        return FrozenDict({**params, "configuration": masked})
    return _masked(params) if "url" in params else params


def _masked(config: FrozenDict) -> FrozenDict:
    authentication = config.get("authentication")
    changed: dict[str, object] = {"token": SECRET} if config.get("token") else {}
    if isinstance(authentication, FrozenDict) and authentication.get("credentials"):
        changed["authentication"] = FrozenDict({**authentication, "credentials": SECRET})
    return FrozenDict({**config, **changed}) if changed else config


@dataclass(frozen=True, slots=True)
class Reason:
    """Why policy said no. Only `public` ones are shown to the caller."""

    code: str
    message: str = ""
    rule: str = ""
    public: bool = False
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Obligation:
    """Something the gateway must do for a permit to hold (policy contract, "Answer")."""

    type: str
    properties: Mapping[str, object] = EMPTY


@dataclass(frozen=True, slots=True)
class Ruling:
    """What every decision carries for the record."""

    decision_id: str
    revision: str = ""
    engine: str = ""
    cached: bool = False
    took_ns: int = 0


@dataclass(frozen=True, slots=True)
class Permit:
    """Yes, to the call with this digest, under these obligations."""

    decision_id: str
    call_digest: str
    obligations: tuple[Obligation, ...] = ()
    labels: tuple[str, ...] = ()
    ruling: Ruling = Ruling("")
    approved: Mapping[str, object] = EMPTY
    """What people agreed to, as policy was told of it (`context.approval`): it holds for the result, too."""


@dataclass(frozen=True, slots=True)
class Deny:
    """No, and why."""

    decision_id: str
    reasons: tuple[Reason, ...] = ()
    ruling: Ruling = Ruling("")


@dataclass(frozen=True, slots=True)
class NeedsApproval:
    """No, unless a person agrees."""

    decision_id: str
    request: Mapping[str, object] = EMPTY
    ruling: Ruling = Ruling("")
    labels: tuple[str, ...] = ()
    """Those of the session at that time, for the person who is asked."""


Decision: TypeAlias = Permit | Deny | NeedsApproval


@dataclass(frozen=True, slots=True)
class Authorized:
    """A call together with the permit for exactly it. Only `Pipeline.handle` makes one."""

    call: Call
    identity: Identity
    permit: Permit

    def __post_init__(self) -> None:
        if self.permit.call_digest != self.call.digest:
            raise PermitMismatch("the permit is for another call")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call used up, as whole numbers so that sums are exact."""

    nano_usd: int = 0
    """Money, in billionths of a US dollar."""
    tokens: int = 0
    """Of models, what went in and what came out."""
    calls: int = 0
    millis: int = 0
    """Time, in thousandths of a second."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.nano_usd + other.nano_usd,
            self.tokens + other.tokens,
            self.calls + other.calls,
            self.millis + other.millis,
        )


Outcome: TypeAlias = Literal["ok", "tool_error", "rpc_error", "input_required"]


@dataclass(frozen=True, slots=True)
class Result:
    """What came back: `payload` is the JSON of the `result` member, or of `error` when `outcome` is `rpc_error`."""

    payload: bytes
    outcome: Outcome = "ok"
    labels: tuple[str, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Response headers of the upstream that its protocol wants handed on (A2A: `A2A-Extensions`, `Retry-After`)."""
    state: Mapping[str, object] | None = None
    """With `input_required`: what the next round needs; the listener seals it into `requestState`."""
    usage: Usage | None = None
    """What was used up for it beyond the call itself and its time; `None` where nobody counted."""
