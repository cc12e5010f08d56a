"""What the spine relies on in those it calls: held against the fakes and against the real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from conformance.gateway import ROOT
from gateway import codec
from gateway.app.upstreams import UpstreamFactory
from gateway.config.tree import Settings
from gateway.config.tree import Upstream as UpstreamSettings
from gateway.errors import InvalidCall, PolicyDenied, Unauthenticated, UnknownResource, UpstreamUnavailable
from gateway.events import Events
from gateway.identity.identifier import Anonymous, Identification
from gateway.identity.keyring import KeyRing
from gateway.identity.keys import mint
from gateway.identity.token_cache import TokenCache
from gateway.listeners.http import EventStream
from gateway.listeners.mcp.envelope import Envelope, Message
from gateway.listeners.mcp.legacy import LegacyExchange
from gateway.listeners.mcp.modern import ModernExchange
from gateway.listeners.mcp.quiet import QuietExchange
from gateway.listeners.mcp.sessions import Session, Terms
from gateway.pipeline import Decider
from gateway.ports import Exchange, Identifier, Relay, Upstream
from gateway.registry import Registry
from gateway.running import Running
from gateway.types import Authorized, Call, Credentials, Entity, FrozenDict, Identity, Resource, Result, freeze
from tests.authz.makers import ScriptedPdp, authz_of, denial
from tests.boxing import without_boxes
from tests.fakes import ANA, FakeDecider, FakeExchange, FakeIdentifier, FakeStore, FakeUpstream, permit_for
from tests.servers.launch import stdio_server

TOOL = Resource("tool", "files/echo", "files", "echo")
BOT = Identity(Entity("agent", "agent:bot"), method="api_key")


def a_call(method: str = "tools/call", **params: object) -> Call:
    frozen = freeze(params or {"name": "echo", "arguments": {"text": "hi"}})
    assert isinstance(frozen, FrozenDict)
    return Call("c1", "mcp.tools.call", method, TOOL, frozen, protocol_version="2026-07-28")


# -- Identifier --


@dataclass(frozen=True, slots=True)
class Door:
    """An identifier, and the bearer that it knows `agent:bot` by."""

    identifier: Identifier
    bearer: str


@pytest.fixture(params=["fake", "identification"])
async def door(request: pytest.FixtureRequest) -> Door:
    if request.param == "fake":
        anonymous = Identity(Entity("anonymous", "anonymous:dev"), method="anonymous")
        return Door(FakeIdentifier({"bot": BOT}, anonymous=anonymous), "bot")
    key, bearer = mint(BOT.subject, now_s=0)
    store = FakeStore()
    await store.put_key(key)
    ring = KeyRing(store, clock_s=lambda: 0.0, monotonic_s=lambda: 0.0)
    await ring.refresh()
    return Door(Identification(keys=ring, cache=TokenCache(clock_s=lambda: 0.0), anonymous=Anonymous("dev")), bearer)


async def test_known_credential_is_the_same_identity_each_time(door: Door) -> None:
    one, two = [await door.identifier.identify(Credentials(door.bearer, "192.0.2.1")) for _ in range(2)]

    assert one == two
    assert (one.subject, one.method) == (BOT.subject, "api_key")


async def test_caller_without_a_credential_is_somebody_on_this_machine_only(door: Door) -> None:
    here = await door.identifier.identify(Credentials("", "127.0.0.1", on_loopback=True))

    assert here.subject.type == "anonymous"
    with pytest.raises(Unauthenticated):
        await door.identifier.identify(Credentials("", "127.0.0.1"))


@pytest.mark.parametrize("bearer", ["x", "\x00", " ", "é"])
async def test_credential_that_does_not_hold_is_never_anonymous(door: Door, bearer: str) -> None:
    with pytest.raises(Unauthenticated):
        await door.identifier.identify(Credentials(bearer, "127.0.0.1", on_loopback=True))


# -- Decider --


@dataclass(frozen=True, slots=True)
class Bench:
    """A decider that says yes, and how to make it say no."""

    decider: Decider
    refuse: Callable[[], None]


@pytest.fixture(params=["fake", "authz"])
def bench(request: pytest.FixtureRequest) -> Bench:
    if request.param == "authz":
        pdp = ScriptedPdp()

        def refuse_all() -> None:
            pdp.answers = {"decision": denial({"code": "no", "message": "no", "public": True})}

        return Bench(authz_of(pdp=pdp), refuse_all)
    fake = FakeDecider()

    def refuse(call: Call, identity: Identity) -> None:
        raise PolicyDenied("no", decision_id="d1")

    return Bench(fake, lambda: setattr(fake, "decide_with", refuse))


async def test_permit_is_for_exactly_the_call_that_was_decided(bench: Bench) -> None:
    call = a_call()

    permit = await bench.decider.decide(call, ANA)
    carried, kept = bench.decider.carry_out(call, permit)

    assert permit.call_digest == call.digest
    assert kept.call_digest == carried.digest
    assert Authorized(carried, ANA, kept).permit.decision_id
    assert permit.ruling.decision_id == permit.decision_id


async def test_no_is_an_error_that_names_its_decision(bench: Bench) -> None:
    bench.refuse()

    with pytest.raises(PolicyDenied) as refused:
        await bench.decider.decide(a_call(), ANA)

    assert refused.value.decision_id


async def test_result_without_obligations_passes_unchanged(bench: Bench) -> None:
    call, result = a_call(), Result(b'{"content":[]}')
    permit = await bench.decider.decide(call, ANA)

    assert await bench.decider.inspect(Authorized(call, ANA, permit), result) == result


# -- Exchange --


@dataclass(frozen=True, slots=True)
class Line:
    """An exchange with a client that declared elicitation, and how that client answers what it was asked."""

    exchange: Exchange
    reply: Callable[[Call], None]
    told: list[str]


def fake_line() -> Line:
    exchange = FakeExchange("owner")
    exchange.capabilities = {"elicitation": {}}
    exchange.answers["elicitation/create"] = Result(b'{"action":"accept"}')
    return Line(exchange, lambda call: None, [])


def stream_to(told: list[str]) -> EventStream:
    async def send(message: object) -> None:
        told.append(str(message))

    return EventStream(send)


def modern_line() -> Line:
    told: list[str] = []
    envelope = Envelope("2026-07-28", {"elicitation": {}}, {}, "", None)
    return Line(ModernExchange(envelope, "owner", stream_to(told)), lambda call: None, told)


def legacy_line() -> Line:
    told: list[str] = []
    session = Session(Terms("owner", "*", "2025-11-25", {"elicitation": {}}))

    def reply(call: Call) -> None:
        session.waiting[call.id].set_result({"result": {"action": "accept"}})

    return Line(LegacyExchange(session, Message({}, "tools/call", {}, 1, True), stream_to(told)), reply, told)


@pytest.fixture(params=[fake_line, modern_line, legacy_line], ids=["fake", "modern", "legacy"])
def line(request: pytest.FixtureRequest) -> Line:
    make: Callable[[], Line] = request.param
    return make()


async def test_client_that_declared_it_answers_or_its_answer_comes_with_the_next_round(line: Line) -> None:
    call, results = a_call("elicitation/create", message="sure?"), list[Result]()

    async def ask() -> None:
        results.append(await line.exchange.ask(call))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            line.reply(call)

    (result,) = results
    assert result.outcome in {"ok", "input_required"}
    assert isinstance(codec.loads(result.payload), dict)
    assert line.exchange.owner == "owner"


async def test_client_is_not_asked_what_it_did_not_declare(line: Line) -> None:
    with anyio.fail_after(5), pytest.raises(InvalidCall):
        await line.exchange.ask(a_call("sampling/createMessage", maxTokens=1))

    assert line.told == []


async def test_progress_that_nobody_wants_is_not_sent_and_no_error(line: Line) -> None:
    assert not line.exchange.wants_progress

    await line.exchange.notify("notifications/progress", {"progress": 1})

    assert line.told == []


async def test_exchange_without_a_client_takes_everything_and_answers_nothing() -> None:
    quiet = QuietExchange("owner")

    await quiet.notify("notifications/progress", {"progress": 1})

    assert (quiet.owner, quiet.log_level, quiet.wants_progress, dict(quiet.capabilities)) == ("owner", "", False, {})
    with pytest.raises(InvalidCall):
        await quiet.ask(a_call("roots/list"))


# -- Upstream --


class RelayTo:
    """A relay straight to an exchange, where no policy stands between."""

    def __init__(self, exchange: FakeExchange) -> None:
        self.exchange = exchange
        self.owner, self.era = exchange.owner, exchange.era
        self.capabilities, self.log_level = exchange.capabilities, exchange.log_level
        self.wants_progress = exchange.wants_progress
        self.notify = exchange.notify
        self.notes: dict[str, object] = {}

    async def emit(self, event: bytes) -> None:
        await self.exchange.emit(event)

    async def ask(self, method: str, params: object) -> Result:
        raise InvalidCall("nobody is asked here")

    async def act(
        self,
        action: str,
        method: str,
        resource: Resource,
        params: object,
        *,
        by: Upstream | None = None,
        sink: object = None,
    ) -> Result:
        raise InvalidCall("nothing is done here")

    def note(self, name: str, value: object) -> None:
        self.notes[name] = value


async def echo(authorized: Authorized, relay: Relay) -> Result:
    """What the real server of this test does."""
    if authorized.call.params["name"] == "fail":
        return Result(b'{"content":[],"isError":true}', "tool_error")
    if authorized.call.params["name"] != "echo":
        return Result(b'{"code":-32602,"message":"Unknown tool"}', "rpc_error")
    text = authorized.call.arguments["text"]
    return Result(codec.dumps({"content": [{"type": "text", "text": text}]}))


Make = Callable[[], Awaitable[Upstream]]


def _factory(place: Path) -> UpstreamFactory:
    settings = Settings()
    return UpstreamFactory(Registry(("files",)), Events(), FakeStore(), settings, {}, without_boxes(settings, place))


@pytest.fixture(params=["fake", "mcp"])
async def upstream(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Upstream]:
    if request.param == "fake":
        yield FakeUpstream(echo)
        return
    command, _ = stdio_server("legacy_asker", tmp_path)
    factory = _factory(tmp_path)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            running = Running(group, factory.make, lambda name: None)
            running.apply({"files": UpstreamSettings(type="mcp", command=tuple(command), cwd=ROOT, sandbox="none")})
            await running.settle(20)
            yield running.upstream_for(a_call())
            group.cancel_scope.cancel()


async def executed(upstream: Upstream, name: str) -> Result:
    call = a_call(name=name, arguments={"text": "hi"})
    relay: Relay = RelayTo(FakeExchange())
    with anyio.fail_after(20):
        return await upstream.execute(Authorized(call, ANA, permit_for(call, ANA)), relay)


async def test_call_is_carried_out_and_its_result_is_json(upstream: Upstream) -> None:
    result = await executed(upstream, "echo")

    payload = codec.loads(result.payload)
    assert result.outcome == "ok"
    assert isinstance(payload, dict)
    assert payload["content"] == [{"type": "text", "text": "hi"}]


async def test_tool_that_ran_and_failed_is_a_result(upstream: Upstream) -> None:
    assert (await executed(upstream, "fail")).outcome == "tool_error"


async def test_error_of_the_upstream_is_a_result_too(upstream: Upstream) -> None:
    result = await executed(upstream, "nothing")

    error = codec.loads(result.payload)
    assert result.outcome == "rpc_error"
    assert isinstance(error, dict)
    assert isinstance(error["code"], int)


async def test_upstream_that_is_not_there_raises(tmp_path: Path) -> None:
    async with anyio.create_task_group() as group:
        factory = _factory(tmp_path)
        down = factory.make("files", UpstreamSettings(type="mcp", command=("nothing",)))
        running = Running(group, factory.make, lambda name: None)
        running.apply({})

        with pytest.raises(UpstreamUnavailable):
            await executed(down, "echo")
        with pytest.raises(UnknownResource):
            running.upstream_for(a_call())
