"""A governed path whose models are scripts: each takes the next thing that it is told to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from gateway import codec
from gateway.errors import InterlockError
from gateway.pipeline import Pipeline
from gateway.ports import Relay, Upstream
from gateway.routing.answers import Answers, Cached
from gateway.routing.attempts import Attempts
from gateway.routing.gain import Choice
from gateway.routing.guard import QualityGuard
from gateway.routing.routed import Catalog, Route, RoutedModels
from gateway.types import Authorized, Call, FrozenDict, Identity, Resource, Result, Usage, freeze
from tests.fakes import ANA, FakeDecider, FakeExchange, FakeIdentifier, FakeRecorder

PRICES = {"small": (1.0, 10.0), "large": (10.0, 100.0), "spare": (2.0, 20.0)}


@dataclass
class Clock:
    """Time that passes when it is told to, and in sleeps."""

    now: float = 1_000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def answer_of(text: str) -> dict[str, Any]:
    """A whole chat completion."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }  # fmt: skip


def chunks_of(text: str) -> list[dict[str, Any]]:
    """The same as a stream."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said = [{"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in (text[:3], text[3:])]
    over = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return [{**head, "choices": [choice]} for choice in [*said, over]]


Step = InterlockError | Mapping[str, Any] | Callable[[Authorized, Relay], Awaitable[Result]]


@dataclass
class Scripted:
    """A provider. `steps` come first, then it says its name for ever."""

    name: str
    steps: list[Step] = field(default_factory=list)
    seen: list[Authorized] = field(default_factory=list)

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        self.seen.append(authorized)
        step = self.steps.pop(0) if self.steps else answer_of(f"{self.name} says")
        if isinstance(step, InterlockError):
            raise step
        if callable(step):
            return await step(authorized, relay)
        if authorized.call.params.get("stream") is True:
            for chunk in chunks_of(f"{self.name} says"):
                await relay.emit(codec.dumps(chunk))
            return Result(b"{}", usage=Usage(150, 15))
        return Result(codec.dumps(step), usage=Usage(150, 15))


@dataclass
class Fixed:
    """A router that decides as it is told."""

    tier: Any = "strong"
    asked: list[tuple[str, float]] = field(default_factory=list)

    async def choose(self, prompt: str, quality: float) -> Choice:
        self.asked.append((prompt, quality))
        return Choice("strong" if quality >= 1 else "weak" if quality == 0 else self.tier, "gain", "told so", quality)


_scripted: type[Upstream] = Scripted


@dataclass
class World:
    """The path, the models on it, and what came of it."""

    small: Scripted = field(default_factory=lambda: Scripted("small"))
    large: Scripted = field(default_factory=lambda: Scripted("large"))
    spare: Scripted = field(default_factory=lambda: Scripted("spare"))
    decider: FakeDecider = field(default_factory=FakeDecider)
    trail: FakeRecorder = field(default_factory=FakeRecorder)
    exchange: FakeExchange = field(default_factory=FakeExchange)
    clock: Clock = field(default_factory=Clock)
    router: Fixed = field(default_factory=Fixed)
    guard: QualityGuard = field(default_factory=QualityGuard)
    catalog: dict[str, dict[str, object]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    generation: int = 0
    retries: int = 0
    cooldown_s: float = 30.0
    attempt_s: float = 20.0
    fallbacks: tuple[str, ...] = ("spare/one",)
    expected: Callable[[float], float | None] = lambda _: None

    def __post_init__(self) -> None:
        attempts = Attempts(
            attempt_s=self.attempt_s, now_s=self.clock, sleep=self.clock.sleep, chance=lambda: 1.0, total_s=300
        )
        self.attempts = attempts
        self.routed = RoutedModels(Catalog(self.route, self.resolve, lambda _, __: ""), attempts, now_s=self.clock)
        self.answers = Answers(now_s=self.clock, max_bytes=1 << 20)
        cached = Cached(
            self.carrier, self.answers, lambda _, __: self.labels, generation=lambda: self.generation, now_s=self.clock
        )
        self.pipeline = Pipeline(
            identifier=FakeIdentifier({}),
            authz=self.decider,
            upstream_for=lambda _: cached,
            trail=self.trail,
            new_id=lambda: f"n{len(self.decider.asked)}",
        )

    def route(self, name: str, tenant: str) -> Route | None:
        if name != "auto":
            return None
        pair, guard = ("small/one", "large/one"), self.guard.of(tenant)
        again, cooldown_s = self.retries, self.cooldown_s
        return Route("auto", *pair, self.router, guard, 0.9, self.fallbacks, again, cooldown_s, self.expected)

    def resolve(self, name: str) -> Resource:
        provider = name.partition("/")[0]
        if provider.partition(":")[0] == "auto":
            return Resource("model", name, upstream="models", name=name)
        low, high = PRICES[provider]
        facts = {"usd_per_mtok_in": low, "usd_per_mtok_out": high, **self.catalog.get(provider, {})}
        return Resource("model", name, provider, "one", catalog=cast("FrozenDict", freeze(facts)))

    def carrier(self, call: Call) -> Upstream:
        own: dict[str, Upstream] = {"small": self.small, "large": self.large, "spare": self.spare}
        return own.get(call.resource.upstream, self.routed)

    async def ask(self, model: str = "auto", *, by: Identity = ANA, text: str = "Hi", **more: Any) -> Result:
        """One call of a client."""
        params = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        resource = self.resolve(model)
        call = Call("c1", "model.call", "chat.completions", resource, cast("FrozenDict", freeze(params)), "model")
        return await self.pipeline.handle(call, by, self.exchange)

    @property
    def note(self) -> Mapping[str, Any]:
        """What the record of the route's own call says of it."""
        return cast("Mapping[str, Any]", (self.trail.records[-1].notes or {})["route"])

    @property
    def asked(self) -> tuple[int, int, int]:
        """How often the models were asked."""
        return len(self.small.seen), len(self.large.seen), len(self.spare.seen)


def said(result: Result) -> str:
    """The text of a whole answer."""
    value = cast("dict[str, Any]", codec.loads(result.payload))
    return str(value["choices"][0]["message"]["content"])
