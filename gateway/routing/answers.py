"""Answers that are given again, where the `cache` obligation of a call's own permit says so, and nowhere else.

An answer is kept as the provider gave it, so that it passes policy anew each time that it is given; and it is found
only by whoever policy cannot tell apart from the one who got it first, under the same policy and the same labels.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gateway import codec
from gateway.embedding import Embedder, EmbeddingUnavailable
from gateway.models import APIS, TALKS, Api, facts_of, last_user_text, turns
from gateway.models.facts import texts_in
from gateway.ports import Relay, Upstream
from gateway.routing.likeness import alike, cosine
from gateway.routing.records import CACHE_HEADER, LOGGER
from gateway.types import Authorized, Call, Identity, Obligation, Result, Usage

MAX_BYTES: Final = 64 << 20
MAX_ANSWERS: Final = 20_000
MAX_ANSWER_BYTES: Final = 1 << 20
MAX_ALIKE: Final = 128
"""Answers that are compared for one question."""
MAX_SEMANTIC_CHARS: Final = 600
"""An embedder reads the beginning of a text: two long ones could differ in what it never saw."""
NOTE: Final = "cache"


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer: `events` of a streamed one, then `result`. `text` and `vector` are of the question's last words."""

    result: Result
    events: tuple[bytes, ...]
    born_s: float
    text: str = ""
    vector: bytes = b""

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return 512 + len(self.result.payload) + sum(map(len, self.events)) + len(self.text) * 2 + len(self.vector)


@dataclass(slots=True)
class _Tenant:
    """What one tenant's callers are answered from, by key; what is like something is listed by `near`."""

    kept: OrderedDict[bytes, tuple[Kept, bytes]] = field(default_factory=OrderedDict)
    near: dict[bytes, OrderedDict[bytes, None]] = field(default_factory=dict)
    size: int = 0


class Answers:
    """The answers there are, in memory. Full, the oldest one of the tenant that has most goes first."""

    def __init__(
        self,
        *,
        now_s: Callable[[], float] = time.monotonic,
        max_bytes: int = MAX_BYTES,
        max_answers: int = MAX_ANSWERS,
    ) -> None:
        self._now_s, self._max_bytes, self._max_answers = now_s, max_bytes, max_answers
        self._tenants: dict[str, _Tenant] = {}
        self._size = self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def size(self) -> int:
        """Bytes that all of it takes, about."""
        return self._size

    def exact(self, tenant: str, key: bytes, ttl_s: float) -> tuple[Kept, float] | None:
        """The answer to the very question, and its age."""
        held = self._tenants.get(tenant)
        found = held.kept.get(key) if held is not None else None
        if held is None or found is None:
            return None
        age_s = self._now_s() - found[0].born_s
        if age_s >= ttl_s:
            return None  # policy may allow another call more
        return found[0], age_s

    def nearest(  # what is looked for
        self, tenant: str, near: bytes, text: str, vector: bytes, ttl_s: float, similarity: float
    ) -> tuple[Kept, float, float] | None:
        """The answer to the most similar question that is similar enough, its age and its similarity."""
        best: tuple[Kept, float, float] | None = None
        held = self._tenants.get(tenant)
        for key in held.near.get(near, ()) if held is not None else ():
            found = self.exact(tenant, key, ttl_s)
            like = cosine(vector, found[0].vector) if found is not None else 0.0
            if found is None or like < similarity or (best is not None and like <= best[2]):
                continue
            if alike(text, found[0].text):
                best = (*found, like)
        return best

    def keep(self, tenant: str, key: bytes, near: bytes, kept: Kept) -> None:
        """Keep an answer, in place of one to the same question."""
        if kept.size > MAX_ANSWER_BYTES:
            return
        held = self._tenants.setdefault(tenant, _Tenant())
        self._drop(tenant, key)
        held = self._tenants.setdefault(tenant, held)
        held.kept[key] = (kept, near)
        held.size += kept.size
        self._size, self._count = self._size + kept.size, self._count + 1
        if near:
            listed = held.near.setdefault(near, OrderedDict())
            listed[key] = None
            if len(listed) > MAX_ALIKE:
                self._drop(tenant, next(iter(listed)))
        while self._size > self._max_bytes or self._count > self._max_answers:
            most = max(self._tenants, key=lambda name: self._tenants[name].size)
            self._drop(most, next(iter(self._tenants[most].kept)))

    def _drop(self, tenant: str, key: bytes) -> None:
        held = self._tenants.get(tenant)
        found = held.kept.pop(key, None) if held is not None else None
        if held is None or found is None:
            return
        kept, near = found
        held.size -= kept.size
        self._size, self._count = self._size - kept.size, self._count - 1
        if near in held.near:
            held.near[near].pop(key, None)
            if not held.near[near]:
                del held.near[near]
        if not held.kept:
            del self._tenants[tenant]


_Found: TypeAlias = tuple[Kept, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class _Terms:
    semantic: bool
    ttl_s: int
    similarity: float


class Cached:
    """Carries out calls of models as `carrier` would, or gives an answer that there is."""

    def __init__(
        self,
        carrier: Callable[[Call], Upstream],
        answers: Answers,
        labels_of: Callable[[Call, Identity], Sequence[str]],
        embedder: Callable[[], Embedder | None] = lambda: None,
        generation: Callable[[], int] = lambda: 0,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._generation = generation
        self._carrier, self._answers, self._labels_of = carrier, answers, labels_of
        self._embedder, self._now_s = embedder, now_s

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """As the port says."""
        terms = _terms(authorized.permit.obligations)
        asked, listening = None, relay
        if terms is not None and authorized.call.method in APIS:
            asked = _Asked.of(authorized, self._labels_of(authorized.call, authorized.identity), self._generation())
            found, vector = await self._found(asked, terms)
            if found is not None:
                return await self._given(*found, relay, authorized.call)
            relay.note(NOTE, {"hit": False})
            listening = heard = _Listening(relay)
        result = await self._carrier(authorized.call).execute(authorized, listening)
        if asked is not None and result.outcome == "ok" and heard.whole:
            text, near = (asked.text, asked.near) if vector else ("", b"")
            kept = Kept(result, tuple(heard.events), self._now_s(), text, vector)
            self._answers.keep(asked.tenant, asked.key, near, kept)
        return result

    async def _found(self, asked: _Asked, terms: _Terms) -> tuple[_Found | None, bytes]:
        """An answer that there is, and what is said of it; and the vector to keep another one with."""
        found = self._answers.exact(asked.tenant, asked.key, terms.ttl_s)
        if found is not None:
            return (found[0], {"mode": "exact", "age_s": round(found[1], 3)}), b""
        vector = await self._vector(asked.text) if terms.semantic and asked.near else b""
        if not vector:
            return None, b""
        near = self._answers.nearest(asked.tenant, asked.near, asked.text, vector, terms.ttl_s, terms.similarity)
        if near is None:
            return None, vector
        return (near[0], {"mode": "semantic", "age_s": round(near[1], 3), "similarity": round(near[2], 4)}), vector

    async def _vector(self, text: str) -> bytes:
        embedder = self._embedder()
        if embedder is None or not text:
            return b""
        try:
            return (await embedder.embed([text]))[0]
        except EmbeddingUnavailable:
            return b""

    async def _given(self, kept: Kept, facts: Mapping[str, object], relay: Relay, call: Call) -> Result:
        """The same events and the same result, for nothing."""
        relay.note(NOTE, {"hit": True, **facts})
        line = "; ".join(["hit", *[f"{name}={value}" for name, value in facts.items()]])
        if kept.events and not call.parent_id:
            data = {"cache": line}
            await relay.notify("notifications/message", {"level": "info", "logger": LOGGER, "data": data})
        for event in kept.events:
            await relay.emit(event)
        headers = (*kept.result.headers, (CACHE_HEADER, line.encode()))
        return Result(kept.result.payload, "ok", kept.result.labels, headers, usage=Usage())


@dataclass(frozen=True, slots=True)
class _Asked:
    """One question as it is looked up: `key` is all of it, `near` all but the user's last words, where that may do."""

    tenant: str
    key: bytes
    near: bytes
    text: str

    @classmethod
    def of(cls, authorized: Authorized, labels: Sequence[str], generation: int) -> _Asked:
        call, identity, permit = authorized.call, authorized.identity, authorized.permit
        narrowed = [[item.type, dict(item.properties)] for item in permit.obligations if item.type == "model"]
        head = [
            identity.tenant,
            identity.fingerprint.hex(),
            identity.root != "",
            sorted(labels),
            permit.ruling.revision,
            generation,
            narrowed,
            call.resource.id,
            call.resource.upstream,
            call.method,
        ]
        key = _digest([*head, call.params])
        text, rest = _apart(call)
        return cls(identity.tenant, key, _digest([*head, rest]) if rest is not None else b"", text)


def _apart(call: Call) -> tuple[str, object]:
    """The user's last words, and the request without them; `None` for one that only its very self is like.

    Tools, tool results, pictures and forms of answers hang on single words: there, nothing is nearly the same.
    """
    if call.method not in TALKS:
        return "", None
    api: Api = call.method
    facts = facts_of(api, call.params)
    said = list(turns(api, call.params))
    odd = facts["tools_count"] or facts["images"] is True or any(role == "tool" for role, _ in said)
    if odd or not said or said[-1][0] != "user" or call.params.get("previous_response_id"):
        return "", None
    text = last_user_text(api, call.params)
    if "\n".join(texts_in(said[-1][1])) != text or not 0 < len(text) <= MAX_SEMANTIC_CHARS:
        return "", None
    name = "messages" if api != "responses" else "input"
    given = call.params.get(name)
    if isinstance(given, str):
        return text, {**call.params, name: ""}
    items = given if isinstance(given, tuple | list) else ()
    last = items[-1] if items else None
    if not isinstance(last, dict) or not isinstance(last.get("content"), str):
        return "", None
    return text, {**call.params, name: [*items[:-1], {**last, "content": ""}]}


def _terms(obligations: Sequence[Obligation]) -> _Terms | None:
    for item in obligations:
        if item.type == "cache":
            ttl_s, near = item.properties.get("ttl_s"), item.properties.get("similarity", 1.0)
            semantic = item.properties.get("mode") == "semantic"
            if isinstance(ttl_s, int) and isinstance(near, float | int):
                return _Terms(semantic, ttl_s, float(near))
    return None


def _digest(value: object) -> bytes:
    return hashlib.blake2b(codec.canonical(value), digest_size=32).digest()


class _Listening:
    """The client of a call, whose answer is remembered as it goes by, up to what is kept."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.owner, self.era, self.capabilities = relay.owner, relay.era, relay.capabilities
        self.log_level, self.wants_progress = relay.log_level, relay.wants_progress
        self.ask, self.act, self.note, self.notify = relay.ask, relay.act, relay.note, relay.notify
        self.events: list[bytes] = []
        self._size = 0

    @property
    def whole(self) -> bool:
        """Whether all of the answer is remembered."""
        return self._size <= MAX_ANSWER_BYTES

    async def emit(self, event: bytes) -> None:
        self._size += len(event)
        if self.whole:
            self.events.append(event)
        await self._relay.emit(event)


_: type[Upstream] = Cached
_listening: type[Relay] = _Listening
