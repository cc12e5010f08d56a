"""An upstream that is a provider of models, whatever way it is reached: translates, streams, counts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, replace
from typing import Final, Protocol, cast

import anyio

from adapters.models.terms import Job, Terms, job_of
from gateway import codec
from gateway.codec import JsonObject
from gateway.errors import InterlockError
from gateway.models import (
    Api,
    ModelStream,
    Talk,
    Tokens,
    answer_for,
    embeddings,
    error_body,
    estimate,
    request_for,
    service_in,
    service_of,
    tokens_in,
    usage_of,
)
from gateway.models.estimate import CHARACTERS_PER_TOKEN
from gateway.ports import Relay, Upstream
from gateway.types import Authorized, Result, Usage

DRAIN_S: Final = 0.25
"""How long a provider may take to end a stream in which it has said all."""


class Unspoken(Exception):
    """The provider turns out not to have this API."""


class Backend(Protocol):
    """A way to reach a provider. Raises the `Upstream*` errors, `QuotaExceeded`, `InvalidCall`, `UnknownResource`."""

    strict: bool
    """Whether fields that the gateway does not understand may not go through."""

    def speaks(self, caller: Talk) -> Talk:
        """In which API to ask for a caller of this one."""

    def lacks(self, api: Talk) -> None:
        """Take note that the provider has no such API (it raised `Unspoken`, and answered in another)."""

    async def whole(self, api: Api, body: JsonObject) -> JsonObject: ...

    def events(self, api: Api, body: JsonObject) -> AsyncGenerator[bytes, None]: ...

    async def warm(self) -> None:
        """Whatever takes long and can be done before the first call. Raises `ConfigError`."""

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class Health:
    """How a provider fares."""

    calls: int = 0
    failures: int = 0
    streams: int = 0
    reason: str = ""


class ModelUpstream:
    """One configured provider. `run` keeps its connections; `execute` carries out one permitted call."""

    def __init__(self, terms: Terms, backend: Backend) -> None:
        self._terms = terms
        self._backend = backend
        self.settled = anyio.Event()
        self.health = Health()

    async def run(self) -> None:
        """Make ready, and close all connections when cancelled."""
        self.settled.set()
        try:
            await self._backend.warm()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await self._backend.aclose()

    def unwatched(self, uri: str) -> None:
        """Models have no resources to watch."""

    def report(self) -> Mapping[str, object]:
        """How the provider fares, for people."""
        return {"state": "up", **asdict(self.health)}

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """Ask the provider, and answer in the caller's API."""
        job = job_of(authorized, self._terms)
        self.health.calls += 1
        try:
            return await self._carried_out(job, relay)
        except InterlockError as exc:
            self.health.failures += 1
            self.health.reason = exc.code
            raise

    async def _carried_out(self, job: Job, relay: Relay) -> Result:
        if job.api == "embeddings":
            return await self._embedded(job, relay)
        provider = self._backend.speaks(job.api)
        try:
            return await self._talked(job, provider, relay)
        except Unspoken:
            result = await self._talked(job, "chat.completions", relay)
            self._backend.lacks(provider)
            return result

    async def _talked(self, job: Job, provider: Talk, relay: Relay) -> Result:
        caller, strict = cast("Talk", job.api), self._backend.strict
        body = request_for(
            provider, caller, job.params, model=job.model, stream=job.stream, max_tokens=job.max_tokens, strict=strict
        )
        if job.stream:
            return await self._streamed(job, provider, body, relay)
        answer = await self._backend.whole(provider, body)
        tokens = counted(tokens_in(provider, answer), job, len(codec.dumps(answer)))
        note(relay, tokens)
        whole = answer_for(provider, caller, answer, job.params, strict=strict)
        return Result(codec.dumps(whole), usage=used(job, tokens, service_in(answer)))

    async def _streamed(self, job: Job, provider: Talk, body: JsonObject, relay: Relay) -> Result:
        stream = ModelStream(provider, cast("Talk", job.api), job.params, strict=self._backend.strict)
        self.health.streams += 1
        try:
            async with aclosing(self._backend.events(provider, body)) as events:
                return await relayed(job, stream, events, relay)
        finally:
            self.health.streams -= 1

    async def _embedded(self, job: Job, relay: Relay) -> Result:
        if self._backend.strict:
            embeddings.read_request(job.params)
        body: JsonObject = {**cast("JsonObject", job.params), "model": job.model}
        answer = await self._backend.whole("embeddings", body)
        tokens = embeddings.tokens_in(answer)
        tokens = tokens if tokens.total else Tokens(input=estimate(job.api, job.params).input_tokens)
        note(relay, tokens)
        return Result(codec.dumps(answer), usage=used(job, tokens, service_in(answer)))


async def relayed(job: Job, stream: ModelStream, events: AsyncGenerator[bytes, None], relay: Relay) -> Result:
    """Hand a stream on. One that breaks after its first event ends with an error event, and is charged for."""
    pieces, begun = _pieces(stream, events), False
    try:
        while True:
            try:
                batch = await anext(pieces, None)
            except InterlockError as exc:
                if not begun:
                    raise
                return await _broken(job, stream, exc, relay)
            if batch is None:
                return Result(b"{}", usage=used(job, _so_far(job, stream), stream.service))
            for event in batch:
                begun = True
                await relay.emit(event)
    finally:
        if begun:
            note(relay, _so_far(job, stream))


async def _pieces(stream: ModelStream, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[list[bytes], None]:
    """The caller's events, as those of the provider come."""
    async for data in events:
        yield stream.feed(data)
        if stream.over:
            break
    yield stream.finish()
    # A connection that was read to its end serves the next call. How it ends says nothing about what was said.
    with anyio.move_on_after(DRAIN_S), suppress(InterlockError):
        async for _ in events:
            pass


async def _broken(job: Job, stream: ModelStream, exc: InterlockError, relay: Relay) -> Result:
    for event in stream.broken(exc):
        await relay.emit(event)
    usage = used(job, _so_far(job, stream), stream.service)
    return Result(codec.dumps(error_body(job.api, exc)), outcome="rpc_error", usage=usage)


def _so_far(job: Job, stream: ModelStream) -> Tokens:
    """What was used up: where the end is missing, so is the provider's last count."""
    tokens = counted(stream.tokens, job, stream.written)
    if stream.over:
        return tokens
    return replace(tokens, output=max(tokens.output, int(stream.written / CHARACTERS_PER_TOKEN)))


def counted(tokens: Tokens, job: Job, written: int) -> Tokens:
    """What the provider counted; where it did not, what it must have been about: never nothing."""
    read = tokens.input or estimate(job.api, job.params).input_tokens
    return replace(tokens, input=read, output=tokens.output or -int(-written // CHARACTERS_PER_TOKEN))


def used(job: Job, tokens: Tokens, given: Mapping[str, str]) -> Usage:
    """What that is charged: for the service that the provider says it gave, else for the one that was asked for."""
    return usage_of(tokens, job.price, service_of(job.params, given))


def note(relay: Relay, tokens: Tokens) -> None:
    """Have the counts stand in the call's record, whatever becomes of the call."""
    relay.note("tokens", asdict(tokens))


_: type[Upstream] = ModelUpstream
