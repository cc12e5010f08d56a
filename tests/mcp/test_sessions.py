"""How legacy sessions begin, whom they serve, and how they end."""

from __future__ import annotations

import json

import anyio
import pytest

from gateway.errors import PolicyDenied
from gateway.events import Events
from gateway.listeners.mcp import sessions
from gateway.listeners.mcp.sessions import Sessions, SessionUnknown
from gateway.ports import Relay
from gateway.types import Authorized, Identity, Result
from tests.fakes import ANA
from tests.mcp.sessions import Client, begun
from tests.mcp.worlds import LEGACY, TimedSeal, World


@pytest.mark.requirement("mcp:2025-11-25:initialize", "mcp:2025-11-25:version-same")
@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_version_that_is_spoken_is_answered_with_itself(version: str) -> None:
    client = Client(World())

    answer = await client.initialize(version)

    assert (answer.status, answer.result["protocolVersion"]) == (200, version)
    assert "tools" in answer.result["capabilities"]
    assert client.session


@pytest.mark.requirement("mcp:2025-11-25:version-other")
@pytest.mark.parametrize("version", ["1999-01-01", "2099-01-01", "2026-07-28", "", "x"])
async def test_any_other_version_is_answered_with_the_latest_of_the_era(version: str) -> None:
    answer = await Client(World()).initialize(version)

    assert answer.result["protocolVersion"] == LEGACY


@pytest.mark.parametrize("params", [{}, {"protocolVersion": 5}, {"protocolVersion": "x", "capabilities": []}])
async def test_initialize_of_wrong_shapes_begins_nothing(params: dict[str, object]) -> None:
    answer = await Client(World()).ask("initialize", **params)

    assert (answer.status, answer.error["code"], answer.header("mcp-session-id")) == (200, -32602, "")


@pytest.mark.parametrize("entries", [100, 1_500, 20_000])
async def test_capabilities_that_fit_into_no_session_id_are_refused(entries: int) -> None:
    client = Client(World())
    capabilities = {"experimental": {f"e{number}": {} for number in range(entries // 50)}, "x": "y" * entries * 3}

    answer = await client.initialize(capabilities=capabilities)

    if entries == 100:
        assert len(client.session) < 6_000
        return
    assert (answer.status, answer.error["code"]) == (200, -32602)
    assert "too large" in answer.error["message"]
    assert client.session == ""


async def test_denied_initialize_begins_no_session() -> None:
    world = World()
    world.deny(action="mcp.initialize", error=PolicyDenied("no", decision_id="d3"))
    client = Client(world)

    answer = await client.initialize()

    assert (answer.status, answer.error["code"], client.session) == (200, -31403, "")
    assert [record.outcome for record in world.trail.records] == ["denied"]


@pytest.mark.requirement("mcp:2025-11-25:session-id")
async def test_session_ids_are_visible_ascii_say_nothing_and_are_never_the_same() -> None:
    world = World()

    ids = [(await begun(world)).session for _ in range(3)]

    assert len(set(ids)) == 3
    assert all(0x21 <= ord(sign) <= 0x7E for name in ids for sign in name)
    assert not any("ana" in name for name in ids)


@pytest.mark.requirement("mcp:2025-11-25:session-bound")
async def test_session_serves_only_the_principal_that_began_it() -> None:
    world = World()
    ana = await begun(world)

    for bearer in ("bo", "root"):
        ana.bearer = bearer
        answers = [await ana.ask("ping"), await ana.end()]
        async with ana.listen() as exchange:
            answers.append(await exchange.finished())

        assert [answer.status for answer in answers] == [404, 404, 404]


async def test_session_of_one_endpoint_is_none_of_another() -> None:
    world = World()
    client = await begun(world)
    client.path = "/servers/files/mcp"

    answer = await client.ask("ping")

    assert answer.status == 404


@pytest.mark.parametrize(
    "change", [lambda s: s[:-1], lambda s: s + "A", lambda s: "x", lambda s: s.swapcase(), lambda s: s * 30]
)
async def test_session_id_that_was_changed_is_not_found(change: object) -> None:
    assert callable(change)
    client = await begun(World())
    client.session = change(client.session)

    answer = await client.ask("ping")

    assert (answer.status, answer.error["code"]) == (404, -32600)
    assert "initialize again" in answer.error["message"]


async def test_session_expires() -> None:
    world = World()
    client = await begun(world)
    assert isinstance(world.seal, TimedSeal)
    world.seal.now_s += sessions.SESSION_TTL_S

    answer = await client.ask("ping")

    assert answer.status == 404


async def test_session_outlives_a_restart() -> None:
    world, seen = World(), list[object]()

    async def look(authorized: Authorized, relay: Relay) -> Result:
        seen.append((authorized.call.session_id, relay.capabilities))
        return Result(b"{}")

    world.upstream.answer = look
    client = await begun(world, capabilities={"roots": {}})
    await client.send(client.call())
    world.start()

    answer = await client.send(client.call())

    assert answer.status == 200
    assert seen[0] == seen[1]
    assert seen[0] == (world.upstream.executed[0].call.session_id, {"roots": {}})


@pytest.mark.requirement("mcp:2025-11-25:session-ended")
async def test_session_that_was_ended_is_not_found() -> None:
    client = await begun(World())

    ended, again, asked = await client.end(), await client.end(), await client.ask("ping")

    assert (ended.status, again.status, asked.status) == (204, 404, 404)


async def test_end_of_a_session_cancels_its_calls_and_closes_its_stream() -> None:
    world, running, cancelled = World(), anyio.Event(), anyio.Event()

    async def wait(authorized: Authorized, relay: Relay) -> Result:
        running.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    world.upstream.answer = wait
    client = await begun(world)

    async with client.listen() as stream, client.open(client.call()) as called:
        await stream.opened()
        with anyio.fail_after(5):
            await running.wait()
        ended = await client.end()
        answer, closed = await called.finished(), await stream.finished()

    assert ended.status == 204
    assert cancelled.is_set()
    assert (answer.status, answer.body) == (202, b"")
    assert closed.complete
    assert world.trail.records[-1].outcome == "cancelled"


@pytest.mark.requirement("mcp:2025-11-25:session-missing")
async def test_request_without_its_session_is_refused() -> None:
    client = await begun(World())

    answer = await client.send(client.request("ping"), (b"mcp-session-id", b"-"))

    assert (answer.status, answer.error["code"]) == (400, -32600)


async def test_first_revision_sent_no_version_with_its_session() -> None:
    client = await begun(World())

    answer = await client.send(client.request("ping"), (b"mcp-protocol-version", b"-"))

    assert (answer.status, answer.result) == (200, {})


@pytest.mark.requirement("mcp:2025-11-25:version-header")
@pytest.mark.parametrize("version", [b"1999-01-01", b"x", b"2026-07-28"])
async def test_unknown_version_header_is_refused(version: bytes) -> None:
    client = await begun(World())
    header = (b"mcp-protocol-version", version)

    asked, ended = await client.send(client.request("ping"), header), await client.end(header)
    async with client.listen(header) as exchange:
        listened = await exchange.finished()

    assert (asked.status, ended.status, listened.status) == (400, 400, 400)


@pytest.mark.parametrize("method", ["tools/call", "ping", "initialize", "none/such"])
async def test_stranger_is_challenged_and_on_record(method: str) -> None:
    world = World()
    client = await begun(world)
    client.bearer = "stranger"
    world.trail.records.clear()

    answer = await client.send(client.request(method, {"name": "files__read", "protocolVersion": LEGACY}))

    assert (answer.status, answer.error["code"]) == (401, -31401)
    assert "resource_metadata=" in answer.header("www-authenticate")
    known = method in {"tools/call", "initialize"}
    assert [record.error for record in world.trail.records] == (["unauthenticated"] if known else [])


async def test_stranger_can_neither_listen_nor_end() -> None:
    client = await begun(World())
    client.bearer = "stranger"

    async with client.listen() as exchange:
        listened = await exchange.finished()

    assert (listened.status, (await client.end()).status) == (401, 401)


def a_store() -> tuple[Sessions, Events, list[tuple[str, str]]]:
    events, told, numbers = Events(), list[tuple[str, str]](), iter(range(1_000))
    events.on_unwatched(lambda upstream, uri: told.append((upstream, uri)))
    store = Sessions(sealer=TimedSeal(), events=events, new_id=lambda: f"s{next(numbers)}", now_s=lambda: 0)
    return store, events, told


def a_session(store: Sessions, identity: Identity = ANA) -> sessions.Session:
    return store.find(store.start("*", LEGACY, {}, identity), "*", identity)


def test_memory_for_sessions_is_bounded_and_goes_to_those_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_LIVE", 2)
    store, events, told = a_store()
    listening, idle = a_session(store), a_session(store)
    listening.listening = True
    resource = World().registry.resolve_uri("*", "note://one")
    idle.subscriptions["note://one"] = resource
    events.watch(resource.upstream, resource.name)

    newest = a_session(store)

    assert len(store) == 2
    assert told == [("files", "note://one")]
    newest.listening = True
    assert a_session(store).terms.key == "s3"
    assert len(store) == 3  # those in use stay, however many they are


def test_memory_for_ended_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_ENDED", 2)
    store, _, _ = a_store()

    for _ in range(5):
        store.end(a_session(store))

    assert len(store._ended) == 2
    assert len(store) == 0


@pytest.mark.parametrize("value", [[], {}, {"k": "s", "w": "*", "v": "x", "c": []}])
def test_sealed_text_that_is_no_session_is_unknown(value: object) -> None:
    store, _, _ = a_store()
    seal = TimedSeal()
    forged = seal.real.seal("session", value, principal=ANA.principal, ttl_s=60, now_s=seal.now_s)

    with pytest.raises(SessionUnknown):
        store.find(forged, "*", ANA)


async def test_session_id_is_no_cursor_and_no_state() -> None:
    client = await begun(World())

    answer = await client.ask("tools/list", cursor=client.session)

    assert answer.error["code"] == -32602
    assert json.loads(answer.body)["id"]


async def test_end_of_a_session_ends_the_question_that_waits_in_it() -> None:
    world = World()

    async def ask(authorized: Authorized, relay: Relay) -> Result:
        return await relay.ask("elicitation/create", {"message": "sure?"})

    world.upstream.answer = ask
    client = await begun(world)

    async with client.open(client.call()) as exchange:
        await exchange.message(0)
        await client.end()
        answer = await exchange.finished()

    assert len(answer.messages) == 1
    assert answer.complete
    assert [record.outcome for record in world.trail.records[-2:]] == ["cancelled", "cancelled"]
