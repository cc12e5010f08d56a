"""Legacy servers over HTTP as they come: sessions lost and shared, streams cut and resumed, old versions, oddities."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from adapters.upstreams.mcp import legacy as legacy_module
from adapters.upstreams.mcp.http import Site
from adapters.upstreams.mcp.legacy import LegacySessions
from adapters.upstreams.wire.http import HttpPool
from adapters.upstreams.wire.origin import split_url
from gateway.errors import QuotaExceeded, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Era
from tests.fakes import FakeRelay
from tests.upstreams.harness import at, gathered, payload, resource_call, running, text_of
from tests.upstreams.scripted import (
    CHUNKED,
    INITIALIZED,
    STREAM,
    Answer,
    Script,
    Seen,
    body,
    error_for,
    event,
    gives,
    notice,
    question,
    result_for,
    says,
    scripted,
    streams,
    text_for,
)
from tests.wire.upstreams import Conversation

ASKABLE: dict[str, object] = {"elicitation": {}, "roots": {}}


async def until(script: Script, method: str, count: int = 1) -> None:
    with anyio.fail_after(10):
        while script.count(method) < count:
            await anyio.lowlevel.checkpoint()


def lost_once(status: str, message: str) -> Answer:
    """Refuses the first session that calls a tool, serves every later one."""
    first: list[str] = []

    async def answer(conversation: Conversation, seen: Seen) -> None:
        first[:] = first or [seen.session]
        if seen.session == first[0]:
            await conversation.send(body(status, error_for(seen, -32000, message)))
        else:
            await conversation.send(body("200 OK", text_for(seen, seen.session)))

    return answer


@pytest.mark.parametrize(
    ("status", "message"),
    [("404 Not Found", "Session not found"), ("400 Bad Request", "Bad Request: No valid session ID provided")],
)
async def test_lost_session_is_opened_anew_once_and_the_call_served(status: str, message: str) -> None:
    async with scripted({"tools/call": lost_once(status, message)}) as script, running(at(script.url)) as up:
        result = await up.call("any")

    assert script.count("tools/call") == 2
    assert text_of(result) == f"s{script.sessions}"


async def test_session_lost_by_two_calls_at_once_is_opened_once() -> None:
    async with scripted({"tools/call": lost_once("404 Not Found", "gone")}) as script, running(at(script.url)) as up:
        await gathered(*[lambda: up.call("any")] * 4)

    assert script.sessions == 3  # the gateway's own, the lost one and its successor


async def test_server_that_loses_every_session_is_an_error() -> None:
    async with scripted({"tools/call": says("404 Not Found")}) as script, running(at(script.url)) as up:
        with pytest.raises(UpstreamUnavailable, match="loses every session"):
            await up.call("any")


async def test_server_without_sessions_is_served() -> None:
    async with scripted({"initialize": gives(INITIALIZED)}) as script, running(at(script.url)) as up:
        result = await up.call("any")

    assert text_of(result) == ""
    assert "mcp-session-id" not in script.last("tools/call").headers
    assert script.count("DELETE") == 0


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18"])
async def test_older_server_is_spoken_to_in_its_version(version: str) -> None:
    initialized = {**INITIALIZED, "protocolVersion": version}
    async with scripted(initialized=initialized) as script, running(at(script.url)) as up:
        await up.call("any")

    sent = script.last("tools/call").headers.get("mcp-protocol-version")
    assert sent == (version if version == "2025-06-18" else None)
    assert up.listings[0].protocol_version == version


async def test_initialize_may_be_answered_with_a_stream() -> None:
    async def initialize(conversation: Conversation, seen: Seen) -> None:
        head = STREAM.replace(b"\r\n\r\n", b"\r\nmcp-session-id: streamed\r\n\r\n")
        await conversation.send(head + event(result_for(seen, INITIALIZED)))
        await conversation.stream.aclose()

    async with scripted({"initialize": initialize}) as script, running(at(script.url)) as up:
        result = await up.call("any")

    assert text_of(result) == "streamed"


async def test_sessions_are_ended_with_the_upstream() -> None:
    async with scripted() as script:
        async with running(at(script.url)) as up:
            await up.call("any", FakeRelay("a"))
            await up.call("any", FakeRelay("b"))
            await up.call("any", FakeRelay("b"))

        assert script.sessions == 3
        assert script.count("DELETE") == 3


async def test_server_that_hangs_at_the_end_of_a_session_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(conversation: Conversation, seen: Seen) -> None:
        await conversation.until_closed()

    monkeypatch.setattr(legacy_module, "GOODBYE_S", 0.1)
    async with scripted({"DELETE": hang}) as script:
        with anyio.fail_after(5):
            async with running(at(script.url)) as up:
                await up.call("any")


async def test_stream_that_is_closed_before_the_answer_is_resumed_where_it_ended() -> None:
    async def resume(conversation: Conversation, seen: Seen) -> None:
        if "last-event-id" not in seen.headers:
            await conversation.send(body("405 Method Not Allowed", b""))
            return
        call = script.last("tools/call")
        await conversation.send(STREAM + event(text_for(call, seen.headers["last-event-id"])))
        await conversation.stream.aclose()

    first = streams(lambda _: event(b"", "e1", 10), lambda _: event(notice("notifications/progress"), "e2"))
    async with scripted({"tools/call": first, "GET": resume}) as script, running(at(script.url)) as up:
        result = await up.call("any")

    assert text_of(result) == "e2"
    assert script.count("tools/call") == 1


async def test_stream_cut_in_the_middle_of_an_event_gets_that_event_again() -> None:
    async def cut(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(CHUNKED)
        piece = event(b"", "e1", 10) + b"id: e2\ndata: " + text_for(seen, "half")[:20]
        await conversation.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await conversation.stream.aclose()

    async def resume(conversation: Conversation, seen: Seen) -> None:
        if "last-event-id" not in seen.headers:
            await conversation.send(body("405 Method Not Allowed", b""))
            return
        call = script.last("tools/call")
        await conversation.send(STREAM + event(text_for(call, seen.headers["last-event-id"]), "e2"))
        await conversation.stream.aclose()

    async with scripted({"tools/call": cut, "GET": resume}) as script, running(at(script.url)) as up:
        result = await up.call("any")

    assert text_of(result) == "e1"


@pytest.mark.parametrize("resumed", [says("204 No Content"), streams()], ids=["refused", "empty"])
async def test_stream_that_cannot_be_resumed_is_an_error(resumed: Answer) -> None:
    async def get(conversation: Conversation, seen: Seen) -> None:
        if "last-event-id" not in seen.headers:
            await conversation.send(body("405 Method Not Allowed", b""))
        else:
            await resumed(conversation, seen)

    answers = {"tools/call": streams(lambda _: event(b"", "e1", 1)), "GET": get}
    async with scripted(answers) as script, running(at(script.url)) as up:
        with pytest.raises(UpstreamUnavailable, match="stream"):
            await up.call("any")

    assert script.count("notifications/cancelled") == 0


async def test_stream_without_event_ids_is_not_resumed() -> None:
    async with scripted({"tools/call": streams(lambda _: event(b""))}) as script, running(at(script.url)) as up:
        with pytest.raises(UpstreamUnavailable, match="ended its stream before the answer"):
            await up.call("any")


async def test_server_that_polls_without_end_runs_out_of_time() -> None:
    ids = iter(range(10_000))

    async def again(conversation: Conversation, seen: Seen) -> None:
        if seen.method == "GET" and "last-event-id" not in seen.headers:
            await conversation.send(body("405 Method Not Allowed", b""))
            return
        await conversation.send(STREAM + event(b"", f"e{next(ids)}", 20))
        await conversation.stream.aclose()

    async with scripted({"tools/call": again, "GET": again}) as script, running(at(script.url), timeout_s=0.6) as up:
        with pytest.raises(UpstreamTimeout):
            await up.call("any")

    assert script.count("notifications/cancelled") == 1


async def test_ping_during_a_call_is_answered_by_the_gateway() -> None:
    async def pings(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(STREAM + event(question("ping")))
        await until(script, "response")
        await conversation.send(event(text_for(seen, "pong seen")))
        await conversation.stream.aclose()

    relay = FakeRelay(era=Era.MODERN, capabilities=ASKABLE)
    async with scripted({"tools/call": pings}) as script, running(at(script.url)) as up:
        result = await up.call("any", relay)

    assert text_of(result) == "pong seen"
    assert script.last("response").message == {"jsonrpc": "2.0", "id": "s1", "result": {}}
    assert relay.asked == []


@pytest.mark.parametrize("era", [Era.LEGACY, Era.MODERN])
async def test_question_that_is_not_in_the_protocol_is_refused(era: Era) -> None:
    async def asks(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(STREAM + event(question("files/delete_all")))
        await until(script, "response")
        await conversation.send(event(text_for(seen, "went on")))
        await conversation.stream.aclose()

    relay = FakeRelay(era=era, capabilities=ASKABLE)
    async with scripted({"tools/call": asks}) as script, running(at(script.url)) as up:
        result = await up.call("any", relay)

    assert text_of(result) == "went on"
    assert script.last("response").message["error"]["code"] == -32601
    assert relay.asked == []


async def test_question_that_the_server_withdraws_is_dropped() -> None:
    relay = FakeRelay(capabilities=ASKABLE)
    relay.thinking = asyncio.Event()

    async def asks(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(STREAM + event(question("roots/list")))
        await relay.asking.wait()
        await conversation.send(event(notice("notifications/cancelled", requestId="s1")))
        await conversation.send(event(text_for(seen, "never mind")))
        await conversation.stream.aclose()

    async with scripted({"tools/call": asks}) as script, running(at(script.url)) as up:
        result = await up.call("any", relay)

    assert text_of(result) == "never mind"
    assert script.count("response") == 0


async def test_server_that_refuses_the_answer_to_its_question_fails_the_call() -> None:
    async def asks(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(STREAM + event(question("roots/list")))
        await conversation.until_closed()

    relay = FakeRelay(capabilities=ASKABLE, answers={"roots/list": {"roots": []}})
    answers = {"tools/call": asks, "response": says("500 Internal Server Error")}
    async with scripted(answers) as script, running(at(script.url)) as up:
        with pytest.raises(UpstreamUnavailable, match="refused a message with HTTP 500"):
            await up.call("any", relay)


async def test_server_that_asks_without_measure_fails_the_call() -> None:
    relay = FakeRelay(capabilities=ASKABLE)
    relay.thinking = asyncio.Event()

    async def asks(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(STREAM + b"".join(event(question("roots/list", n)) for n in range(70)))
        await conversation.until_closed()

    async with scripted({"tools/call": asks}) as script, running(at(script.url)) as up:
        with pytest.raises(UpstreamProtocolError, match="too many questions"):
            await up.call("any", relay)
        with pytest.raises(UpstreamProtocolError, match="too many questions"):
            await up.call("any", FakeRelay(era=Era.MODERN, capabilities=ASKABLE))


async def test_several_live_questions_at_once_all_travel_in_one_round() -> None:
    async def asks(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(STREAM + event(question("roots/list", 1)) + event(question("elicitation/create", 2)))
        await conversation.until_closed()

    relay = FakeRelay(era=Era.MODERN, capabilities=ASKABLE)
    async with scripted({"tools/call": asks}) as script, running(at(script.url)) as up:
        asked = await up.call("any", relay)

    methods = [entry["method"] for entry in payload(asked)["inputRequests"].values()]
    assert sorted(methods) == ["elicitation/create", "roots/list"]
    assert sorted(method for method, _ in relay.asked) == sorted(methods)


async def test_list_change_that_comes_with_an_answer_is_heard_and_not_passed_on() -> None:
    told = streams(
        lambda _: event(notice("notifications/tools/list_changed")),
        lambda _: event(notice("notifications/resources/updated", uri="note://secret")),
        lambda seen: event(text_for(seen, "done")),
    )
    relay = FakeRelay(log_level="debug", wants_progress=True)
    async with scripted({"tools/call": told}) as script, running(at(script.url)) as up:
        await up.call("any", relay)
        await up.until(lambda: len(up.listings) == 2)

    assert relay.notified == []


async def test_question_outside_of_any_call_is_refused_and_a_ping_answered() -> None:
    async def get(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(STREAM + event(question("ping", 1)) + event(question("roots/list", 2)))
        await conversation.send(event(notice("notifications/tools/list_changed")))
        await conversation.until_closed()

    async with scripted({"GET": get}) as script, running(at(script.url)) as up:
        await until(script, "response", 2)
        await up.until(lambda: len(up.listings) == 2)

    answers = [seen.message for seen in script.seen if seen.method == "response"]
    assert answers[0]["result"] == {}
    assert answers[1]["error"]["code"] == -32601


async def test_stream_of_changes_that_ends_is_opened_again_and_what_is_watched_subscribed_again() -> None:
    held = asyncio.Event()

    async def get(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(STREAM)
        if script.count("GET") == 1:
            await held.wait()
            await conversation.stream.aclose()
        await conversation.until_closed()

    async with scripted({"GET": get}) as script, running(at(script.url)) as up:
        await up.execute(resource_call("resources/subscribe", "note://one"))
        with up.events.subscription() as subscription:
            held.set()
            await until(script, "GET", 2)
            with anyio.fail_after(5):
                events = await subscription.next()

    assert script.count("resources/subscribe") == 2
    assert [event.uri for event in events] == ["note://one"]
    assert up.downs == []


@pytest.mark.parametrize("status", ["404 Not Found", "503 Service Unavailable"])
async def test_stream_of_changes_that_is_refused_for_now_is_tried_again(status: str) -> None:
    async with scripted({"GET": says(status)}) as script, running(at(script.url)) as up:
        await until(script, "GET", 2)
        fine = await up.call("any")

    assert fine.outcome == "ok"
    assert up.downs == []


async def test_log_level_only_ever_gets_more_talkative() -> None:
    async with scripted() as script, running(at(script.url)) as up:
        for level in ("error", "info", "error", "nonsense"):
            await up.call("any", FakeRelay(era=Era.MODERN, log_level=level))

    levels = [seen.message["params"]["level"] for seen in script.seen if seen.method == "logging/setLevel"]
    assert levels == ["error", "info"]


async def test_batch_is_searched_for_the_answer() -> None:
    async def batch(conversation: Conversation, seen: Seen) -> None:
        other = notice("notifications/message", level="info")
        await conversation.send(body("200 OK", b"[" + other + b"," + text_for(seen, "in a batch") + b"]"))

    async with scripted({"tools/call": batch}) as script, running(at(script.url)) as up:
        result = await up.call("any")

    assert text_of(result) == "in a batch"


async def test_refused_cancellation_hides_nothing() -> None:
    async def hang(conversation: Conversation, seen: Seen) -> None:
        await conversation.until_closed()

    answers = {"tools/call": hang, "notifications/cancelled": says("500 Internal Server Error")}
    async with scripted(answers) as script, running(at(script.url), timeout_s=0.3) as up:
        with pytest.raises(UpstreamTimeout):
            await up.call("any")

    assert script.count("notifications/cancelled") == 1


async def test_idle_sessions_are_ended_busy_ones_kept_and_their_number_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy_module, "MAX_SESSIONS", 2)
    now = [0.0]
    async with scripted() as script:
        origin, target = split_url(script.url)
        async with HttpPool(origin) as pool:
            sessions = LegacySessions(Site("x", pool, target), idle_s=10, monotonic=lambda: now[0])
            await sessions.session("a", {}, b"").open()
            busy = sessions.session("b", {}, b"")
            busy.running = 1
            with pytest.raises(QuotaExceeded, match="2 sessions"):
                sessions.session("c", {}, b"")
            now[0] = 11.0
            await sessions.close_idle()
            left = len(sessions)
            sessions.session("c", {}, b"")

    assert left == 1
    assert script.count("DELETE") == 1
