"""Modern servers over HTTP as they come: bytes kept, streams, eras that change, versions that are not ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
import pytest

from adapters.upstreams.mcp import fetch as fetch_module
from adapters.upstreams.mcp import http_server
from conformance.gateway import ROOT
from conformance.processes import free_port
from conformance.processes import running as process_running
from gateway.errors import UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Era
from tests.fakes import FakeRelay
from tests.upstreams.harness import at, make_call, payload, resource_call, running, text_of, tool_call
from tests.upstreams.scripted import (
    STREAM,
    Answer,
    Script,
    Seen,
    body,
    error_for,
    event,
    gives,
    notice,
    pace,
    question,
    result_for,
    says,
    scripted,
    streams,
    text_for,
)
from tests.wire.upstreams import Conversation

DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {}, "resources": {"subscribe": True}},
}
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


async def refuse(conversation: Conversation, seen: Seen) -> None:
    await conversation.send(body("404 Not Found", error_for(seen, -32601, "Method not found")))


def modern(**answers: Answer) -> dict[str, Answer]:
    named = {name.replace("__", "/"): answer for name, answer in answers.items()}
    return {"server/discover": gives(DISCOVERED), "subscriptions/listen": refuse, "initialize": refuse, **named}


async def until(script: Script, method: str, count: int = 1) -> None:
    with anyio.fail_after(10):
        while script.count(method) < count:
            await anyio.lowlevel.checkpoint()


ODD = '{"content": [ ],\t"big": 123456789012345678901234567890, "float": 1.10, "x": "\\u00e9"}'


@pytest.mark.parametrize(
    "written",
    [
        '{{"jsonrpc":"2.0","id":{id},"result":{result}}}',
        '{{"jsonrpc": "2.0", "id": {id}, "result": {result} }}',
        '{{"result":{result},"jsonrpc":"2.0","id":{id}}}',
    ],
)
async def test_result_is_passed_on_byte_for_byte(written: str) -> None:
    async def answer(conversation: Conversation, seen: Seen) -> None:
        data = written.format(id=seen.message["id"], result=ODD).encode()
        await conversation.send(body("200 OK", data))

    async with scripted(modern(tools__call=answer)) as script, running(at(script.url)) as up:
        result = await up.call("any")

    assert result.payload == b'{"resultType":"complete",' + ODD[1:].encode()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('{{"id":{id},"jsonrpc":"2.0","result":{{"a":1}}}}', {"a": 1}),
        ('{{"jsonrpc":"2.0",\n"id":{id},\n"result":{{"a":\n1}}}}', {"a": 1}),
        ('{{"jsonrpc":"2.0","id":{id},"result":{{"a":1}},"result":{{"a":2}}}}', {"a": 2}),
        ('{{"jsonrpc":"2.0","id":{id},"result":{{}}}}', {}),
        ('{{"result":{{"a":1}},"extra":{{"deep":[1]}},"jsonrpc":"2.0","id":{id}}}', {"a": 1}),
    ],
)
async def test_result_written_in_another_way_is_read_all_the_same(written: str, expected: dict[str, int]) -> None:
    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(body("200 OK", written.format(id=seen.message["id"]).encode()))

    async with scripted(modern(tools__call=answer)) as script, running(at(script.url)) as up:
        result = await up.call("any")

    assert payload(result) == {"resultType": "complete", **expected}
    assert b"\n" not in result.payload


async def test_result_that_answers_another_request_is_refused() -> None:
    async def answer(conversation: Conversation, seen: Seen) -> None:
        data = json.dumps({"jsonrpc": "2.0", "id": seen.message["id"] + 1, "result": {}}, separators=(",", ":"))
        await conversation.send(body("200 OK", data.encode()))

    async with scripted(modern(tools__call=answer)) as script, running(at(script.url)) as up:
        with pytest.raises(UpstreamProtocolError, match="no response to what was asked"):
            await up.call("any")


async def test_unknown_result_type_is_refused() -> None:
    async with scripted(modern(tools__call=gives({"resultType": "task"}))) as script, running(at(script.url)) as up:
        with pytest.raises(UpstreamProtocolError, match="unknown resultType 'task'"):
            await up.call("any")


async def test_completion_that_asks_for_input_is_refused() -> None:
    asking = gives({"resultType": "input_required", "inputRequests": {}})
    call = make_call("completion/complete", tool_call("any").resource, {})
    async with scripted(modern(completion__complete=asking)) as script, running(at(script.url)) as up:
        with pytest.raises(UpstreamProtocolError, match="unknown resultType"):
            await up.execute(call)


@pytest.mark.parametrize(
    "requests",
    [
        [],
        {"q": "no question"},
        {"q": {"method": "files/delete_all"}},
        {str(n): {"method": "roots/list"} for n in range(17)},
    ],
)
async def test_malformed_questions_are_refused(requests: object) -> None:
    asking = gives({"resultType": "input_required", "inputRequests": requests})
    async with scripted(modern(tools__call=asking)) as script, running(at(script.url)) as up:
        with pytest.raises(UpstreamProtocolError, match="asked"):
            await up.call("any", FakeRelay(capabilities={"roots": {}}))


async def test_server_that_asks_without_end_is_refused() -> None:
    asking = gives({"resultType": "input_required", "inputRequests": {"q": {"method": "roots/list"}}})
    relay = FakeRelay(capabilities={"roots": {}}, answers={"roots/list": {"roots": []}})
    async with scripted(modern(tools__call=asking)) as script, running(at(script.url)) as up:
        with pytest.raises(UpstreamProtocolError, match="asked for input 16 times"):
            await up.call("any", relay)


async def test_state_without_questions_is_left_to_the_client_to_come_back_with() -> None:
    waiting = gives({"resultType": "input_required", "requestState": "later"})
    async with scripted(modern(tools__call=waiting)) as script, running(at(script.url)) as up:
        result = await up.call("any", FakeRelay(era=Era.MODERN))

    assert result.outcome == "input_required"
    assert result.state == {"s": "later"}


@pytest.mark.parametrize("code", [-32020, -32022])
async def test_fault_of_this_hop_is_not_blamed_on_the_client(code: int) -> None:
    async def answer(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(body("400 Bad Request", error_for(seen, code, "Header mismatch")))

    async with scripted(modern(tools__call=answer)) as script, running(at(script.url)) as up:
        result = await up.call("any")

    assert payload(result)["code"] == -31502


async def test_stream_of_a_modern_server_is_not_resumed_and_its_questions_are_not_answered() -> None:
    cut = streams(lambda _: event(question("roots/list"), "e1"), lambda _: event(notice("notifications/progress")))
    relay = FakeRelay(capabilities={"roots": {}})
    async with scripted(modern(tools__call=cut)) as script, running(at(script.url)) as up:
        with pytest.raises(UpstreamUnavailable, match="ended its stream before the answer"):
            await up.call("any", relay)

    assert script.count("GET") == 0
    assert script.count("response") == 0
    assert relay.asked == []


async def test_event_that_is_no_message_is_an_error() -> None:
    hello = streams(lambda _: event(b"hello"))
    async with scripted(modern(tools__call=hello)) as script, running(at(script.url)) as up:
        with pytest.raises(UpstreamProtocolError, match="no JSON-RPC message"):
            await up.call("any")


@pytest.mark.requirement("mcp:2026-07-28:timeout-absolute")
async def test_progress_restarts_the_clock_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(STREAM)
        token = seen.message["params"]["_meta"]["progressToken"]
        for step in range(1_000):
            await conversation.send(event(notice("notifications/progress", progressToken=token, progress=step)))
            await conversation.send(event(notice("notifications/progress", progressToken="another", progress=step)))
            await pace(0.05)

    monkeypatch.setattr("adapters.upstreams.mcp.clock.LONGEST", 4)
    relay = FakeRelay(wants_progress=True)
    async with scripted(modern(tools__call=busy)) as script, running(at(script.url), timeout_s=0.3) as up:
        began = anyio.current_time()
        with pytest.raises(UpstreamTimeout):
            await up.call("any", relay)
        took_s = anyio.current_time() - began

    assert 1.1 < took_s < 3.0
    assert len(relay.notified) > 10


@pytest.mark.parametrize("offered", ["ended", "error", "unwell", "plain"])
async def test_stream_of_changes_is_given_up_only_when_there_is_none(offered: str) -> None:
    async def listen(conversation: Conversation, seen: Seen) -> None:
        number = seen.message["id"]
        acknowledged = notice(
            "notifications/subscriptions/acknowledged", _meta={SUBSCRIPTION: number}, notifications={}
        )
        if offered == "ended":
            await conversation.send(STREAM + event(acknowledged) + event(result_for(seen, {})))
        elif offered == "error":
            await conversation.send(STREAM + event(error_for(seen, -32601, "no")))
        elif offered == "unwell":
            await conversation.send(body("500 Internal Server Error", error_for(seen, -32603, "unwell")))
            return
        else:
            await conversation.send(body("404 Not Found", b"not here"))
            return
        await conversation.stream.aclose()

    async with scripted(modern(subscriptions__listen=listen)) as script, running(at(script.url)) as up:
        if offered in ("ended", "unwell"):
            await until(script, "subscriptions/listen", 2)
        else:
            await until(script, "subscriptions/listen")
            with pytest.raises(UpstreamProtocolError, match="offers no subscriptions"):
                await up.execute(resource_call("resources/subscribe", "note://one"))

    assert up.downs == []


async def test_subscription_that_is_not_honoured_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def listen(conversation: Conversation, seen: Seen) -> None:
        acknowledged = notice("notifications/subscriptions/acknowledged", notifications={"toolsListChanged": True})
        await conversation.send(STREAM + event(acknowledged))
        await conversation.until_closed()

    monkeypatch.setattr("adapters.upstreams.mcp.subscriptions.ACKNOWLEDGED_WITHIN_S", 0.2)
    async with scripted(modern(subscriptions__listen=listen)) as script, running(at(script.url)) as up:
        with pytest.raises(UpstreamTimeout, match="did not acknowledge"):
            await up.execute(resource_call("resources/subscribe", "note://one"))
        await until(script, "subscriptions/listen", 3)

    assert script.last("subscriptions/listen").message["params"]["notifications"]["resourceSubscriptions"] == []


@pytest.mark.parametrize(
    ("discovery", "era"),
    [
        (gives({"supportedVersions": ["2026-07-28", "2025-11-25"], "capabilities": {}}), "modern"),
        (gives({"supportedVersions": ["2099-01-01", "2025-11-25"], "capabilities": {}}), "legacy"),
        (gives({}), "legacy"),
        (says("500 Internal Server Error"), "legacy"),
        (says("404 Not Found", b"nothing here"), "legacy"),
        (says("405 Method Not Allowed"), "legacy"),
    ],
)
async def test_era_is_found_out(discovery: Answer, era: str) -> None:
    answers = {"server/discover": discovery, "subscriptions/listen": refuse}
    async with scripted(answers) as script, running(at(script.url)) as up:
        pass

    assert up.upstream.health.era == era


@pytest.mark.parametrize("supported", [["2099-01-01"], ["2026-07-28"], ["2025-11-25"], "none"])
async def test_refused_version_is_followed_to_another_or_named(supported: object) -> None:
    async def refused(conversation: Conversation, seen: Seen) -> None:
        error = {"code": -32022, "message": "Unsupported protocol version", "data": {"supported": supported}}
        data = json.dumps({"jsonrpc": "2.0", "id": seen.message["id"], "error": error}).encode()
        await conversation.send(body("400 Bad Request", data))

    async with scripted({"server/discover": refused}) as script, running(at(script.url)) as up:
        pass

    if supported in (["2025-11-25"], "none"):
        assert up.upstream.health.era == "legacy"
    else:
        assert "speaks" in up.downs[0]


async def test_server_that_is_silent_about_what_it_does_not_know_is_legacy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(conversation: Conversation, seen: Seen) -> None:
        await conversation.until_closed()

    monkeypatch.setattr(http_server, "PROBE_S", 0.2)
    async with (
        scripted({"server/discover": hang}) as script,
        running(at(script.url)) as up,
        running(at(script.url, era=Era.MODERN)) as strict,
    ):
        pass

    assert up.upstream.health.era == "legacy"
    assert "did not answer in time" in strict.downs[0]


@pytest.mark.parametrize(("before", "after"), [("legacy", "modern"), ("modern", "legacy")])
async def test_site_that_comes_back_in_another_era_is_probed_again(before: str, after: str, tmp_path: Path) -> None:
    port = free_port()

    def command(era: str) -> list[str]:
        return [sys.executable, "-m", f"tests.servers.{era}_asker", "http", "--port", str(port)]

    with process_running(command(before), port=port, log=tmp_path / "before", cwd=ROOT) as process:
        site = running(at(f"http://127.0.0.1:{port}/mcp"))
        up = await site.__aenter__()
        first = text_of(await up.call("echo", text="x"))
        process.kill()
    with process_running(command(after), port=port, log=tmp_path / "after", cwd=ROOT) as process:
        await up.until(lambda: len(up.listings) == 2)
        second = text_of(await up.call("echo", text="y"))
        await site.__aexit__(None, None, None)
        process.kill()

    assert (first, second) == ("x", "y")


async def test_site_that_changes_its_era_in_place_is_noticed_by_a_call() -> None:
    async def envelope_missing(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(body("400 Bad Request", error_for(seen, -32602, "_meta lacks protocolVersion")))

    async with scripted() as script, running(at(script.url)) as up:
        await up.call("any")
        script.answers.update({**modern(tools__call=gives({"content": []}))})
        script.answers["tools/call"] = script.answers["initialize"] = envelope_missing
        script.answers["tools/list"] = envelope_missing
        await up.call("any")
        await up.until(lambda: bool(up.downs))
        script.answers["tools/list"] = gives({"tools": []})
        script.answers["tools/call"] = gives({"content": []})
        await up.until(lambda: len(up.listings) == 2)

    assert up.upstream.health.era == "modern"


async def test_list_of_too_many_bytes_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "MAX_LIST_BYTES", 1_000)
    tools = [{"name": f"tool_{number}", "description": "x" * 100} for number in range(20)]

    async def endless(conversation: Conversation, seen: Seen) -> None:
        cursor = seen.message["params"].get("cursor", "")
        await conversation.send(body("200 OK", result_for(seen, {"tools": tools, "nextCursor": cursor + "x"})))

    async with scripted(modern(tools__list=endless)) as script, running(at(script.url)) as up:
        pass

    assert len(up.tools) == 20
    assert script.count("tools/list") == 1


async def test_list_that_comes_back_to_where_it_was_ends() -> None:
    loop = gives({"tools": [{"name": "a"}, "nonsense"], "nextCursor": ""})
    async with scripted(modern(tools__list=loop)) as script, running(at(script.url)) as up:
        pass

    assert up.tools == ["a", "a"]
    assert script.count("tools/list") == 2


async def test_announced_list_that_does_not_exist_is_empty_and_a_malformed_one_an_error() -> None:
    async with scripted(modern(tools__list=refuse)) as script, running(at(script.url)) as up:
        pass
    async with scripted(modern(tools__list=gives({"tools": "none"}))) as script, running(at(script.url)) as down:
        pass

    assert up.tools == []
    assert "without a list of tools" in down.downs[0]


async def test_announcements_without_end_cost_one_fetch_a_second() -> None:
    async def listen(conversation: Conversation, seen: Seen) -> None:
        await conversation.send(STREAM + event(notice("notifications/subscriptions/acknowledged", notifications={})))
        while True:
            await conversation.send(event(notice("notifications/tools/list_changed")))
            await pace(0.01)

    async with scripted(modern(subscriptions__listen=listen)) as script, running(at(script.url)) as up:
        await up.until(lambda: len(up.listings) == 2)
        await pace(0.8)
        fetched = len(up.listings)

    assert fetched == 2
    assert script.count("tools/list") == 2


async def test_answer_on_a_stream_is_the_answer() -> None:
    streamed = streams(lambda _: b": keep-alive\n\n", lambda seen: event(text_for(seen, "streamed")))
    async with scripted(modern(tools__call=streamed)) as script, running(at(script.url)) as up:
        result = await up.call("any")

    assert text_of(result) == "streamed"
