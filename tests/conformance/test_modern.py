"""Claims of revision 2026-07-28 that the official suite does not show, through a real gateway."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import anyio
import httpx2
import pytest

from gateway.config.tree import Listen
from gateway.errors import InterlockError
from tests.conformance.talking import (
    MODERN,
    PREFIX,
    Json,
    World,
    answer,
    call,
    headers_for,
    messages,
    post,
    request,
    said,
)
from tests.servers.launch import matching, noted

BOTH = pytest.mark.parametrize("upstream", ["legacy", "modern", "lines", "modernlines"])


@pytest.mark.requirement("mcp:2026-07-28:loopback")
def test_gateway_listens_on_loopback_unless_asked() -> None:
    assert Listen().host == "127.0.0.1"


@pytest.mark.requirement("mcp:2026-07-28:own-error-codes")
def test_own_error_codes_keep_out_of_what_is_reserved() -> None:
    def tree(error: type[InterlockError]) -> list[type[InterlockError]]:
        return [error, *(below for child in error.__subclasses__() for below in tree(child))]

    own = {error.rpc_code for error in tree(InterlockError)} - {-32602}

    assert all(not -32768 <= code <= -32000 for code in own)


@pytest.mark.requirement("mcp:2026-07-28:notification-202")
def test_notification_is_accepted_without_a_body(open_world: World) -> None:
    body = {key: value for key, value in request("notifications/cancelled", {"requestId": 9}).items() if key != "id"}

    response = post(open_world.url("modern"), body)

    assert (response.status_code, response.content) == (202, b"")


@pytest.mark.requirement("mcp:2026-07-28:one-message")
@pytest.mark.parametrize("body", [b"[]", b"{", b'"hello"', b"", b"[" * 5000])
def test_body_that_is_not_one_message_is_refused(open_world: World, body: bytes) -> None:
    headers = headers_for(request("tools/list"))

    response = httpx2.post(open_world.url("modern"), content=body, headers=headers, timeout=20)

    assert 400 <= response.status_code < 500


@pytest.mark.requirement("mcp:2026-07-28:id-not-null")
@pytest.mark.parametrize("wrong", [None, True, 1.5, {}, []])
def test_request_with_an_impossible_id_is_refused(open_world: World, wrong: object) -> None:
    response = post(open_world.url("modern"), {**request("tools/list"), "id": wrong})

    assert response.status_code == 400


@pytest.mark.requirement("mcp:2026-07-28:header-duplicate")
def test_routing_header_that_comes_twice_is_refused(open_world: World) -> None:
    body = call("echo")
    headers = [*headers_for(body).items(), ("mcp-name", "fail")]

    response = httpx2.post(open_world.url("modern"), json=body, headers=headers, timeout=20)

    assert response.status_code == 400
    assert answer(response)["error"]["code"] == -32020


@pytest.mark.requirement("mcp:2026-07-28:get-delete-405")
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_other_methods_than_post_are_not_allowed(open_world: World, method: str) -> None:
    headers = {"mcp-protocol-version": MODERN, "accept": "text/event-stream"}

    response = httpx2.request(method, open_world.url("modern"), headers=headers, timeout=20)

    assert response.status_code == 405


@pytest.mark.requirement("mcp:2026-07-28:no-session-minted")
def test_modern_request_neither_needs_nor_gets_a_session(open_world: World) -> None:
    response = post(open_world.url("modern"), call("echo", {"text": "hi"}), mcp_session_id="made-up")

    assert said(answer(response)) == "hi"
    assert "mcp-session-id" not in response.headers


@BOTH
@pytest.mark.requirement("mcp:2026-07-28:era-detection", "mcp:2026-07-28:result-type-absent")
def test_upstream_of_either_era_answers_with_a_result_type(open_world: World, upstream: str) -> None:
    message = answer(post(open_world.url(upstream), call("echo", {"text": "hi"})))

    assert said(message) == "hi"
    assert message["result"]["resultType"] == "complete"


@BOTH
@pytest.mark.requirement("mcp:2026-07-28:meta-kept", "mcp:2026-07-28:unknown-fields")
def test_what_the_gateway_does_not_know_passes_unchanged(open_world: World, upstream: str) -> None:
    echoed = answer(post(open_world.url(upstream), call("echo")))["result"]
    seen = json.loads(said(answer(post(open_world.url(upstream), call("whoami", meta={"example.org/k": [1, None]})))))

    assert echoed["_meta"]["example.org/kept"] == 1
    assert echoed["x-unknown"] == {"kept": True}
    assert seen["meta"]["example.org/k"] == [1, None]


@pytest.mark.requirement("mcp:2026-07-28:trace-context")
def test_trace_goes_on_upstream_with_the_same_trace_id(open_world: World) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    meta = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}

    seen = json.loads(said(answer(post(open_world.url("modern"), call("whoami", meta=meta)))))

    assert re.fullmatch(f"00-{trace_id}-[0-9a-f]{{16}}-[0-9a-f]{{2}}", seen["meta"]["traceparent"])


@pytest.mark.requirement("mcp:2026-07-28:param-headers-upstream")
def test_annotated_argument_travels_as_a_header_upstream(open_world: World) -> None:
    response = post(open_world.url("modern"), call("region", {"region": "eu"}), mcp_param_region="eu")

    assert json.loads(said(answer(response))) == {"argument": "eu", "header": "eu"}


@pytest.mark.requirement("mcp:2026-07-28:structured-content")
def test_structured_content_of_any_type_passes(open_world: World) -> None:
    message = answer(post(open_world.url("arrays"), call("array")))

    assert message["result"]["structuredContent"] == [1, 2, 3]


@pytest.mark.requirement("mcp:2026-07-28:no-buffering", "mcp:2026-07-28:progress-ends")
def test_stream_is_unbuffered_and_ends_with_the_result(open_world: World) -> None:
    response = post(open_world.url("modern"), call("progress", meta={"progressToken": "p"}))
    got = messages(response)

    assert response.headers["x-accel-buffering"] == "no"
    assert [message.get("method") for message in got] == ["notifications/progress"] * 3 + [None]


@BOTH
@pytest.mark.requirement(
    "mcp:2026-07-28:progress-own-token",
    "mcp:2026-07-28:related-notifications",
    "mcp:2026-07-28:concurrent-streams",
)
async def test_clients_with_the_same_token_get_only_their_own_progress(open_world: World, upstream: str) -> None:
    body = call("progress", meta={"progressToken": "same"})
    got: list[list[int]] = []

    async def one(client: httpx2.AsyncClient) -> None:
        response = await client.post(open_world.url(upstream), json=body, headers=headers_for(body))
        notes = [message["params"] for message in messages(response) if "method" in message]
        assert all(note["progressToken"] == "same" for note in notes)
        got.append([note["progress"] for note in notes])

    with anyio.fail_after(20):
        async with httpx2.AsyncClient(timeout=20) as client, anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(one, client)

    assert got == [[1, 2, 3]] * 5


@pytest.mark.requirement("mcp:2026-07-28:disconnect-cancels")
async def test_vanished_client_cancels_its_call_upstream(open_world: World) -> None:
    before = len(matching(open_world.modern.record, "cancelled", "slow"))
    await _leave_during(open_world.url("modern"))
    entry = await noted(open_world.modern.record, "cancelled", name="slow", after=before)

    assert entry["name"] == "slow"


@pytest.mark.requirement("mcp:2026-07-28:stdio-cancel", "mcp:2026-07-28:stdio-one-line")
async def test_vanished_client_cancels_its_call_over_stdio(open_world: World) -> None:
    before = len(matching(open_world.lines_journal, "cancelled", "slow"))
    await _leave_during(open_world.url("lines"))
    entry = await noted(open_world.lines_journal, "cancelled", name="slow", after=before)

    assert entry["name"] == "slow"


async def _leave_during(url: str) -> None:
    body = call("slow", {"text": "x\ny"})
    with anyio.fail_after(20):
        async with httpx2.AsyncClient(timeout=0.7) as client:
            with pytest.raises(httpx2.TimeoutException):
                await client.post(url, json=body, headers=headers_for(body))


@pytest.mark.requirement("mcp:2026-07-28:discover-union")
def test_merged_endpoint_declares_what_its_upstreams_can_do(open_world: World) -> None:
    discovered = answer(post(open_world.url(), request("server/discover")))["result"]

    assert {"tools", "prompts", "resources", "completions"} <= discovered["capabilities"].keys()
    assert MODERN in discovered["supportedVersions"]


@pytest.mark.requirement(
    "mcp:2026-07-28:tools-collision",
    "mcp:2026-07-28:tool-names",
    "mcp:2026-07-28:tools-order",
    "mcp:2026-07-28:cursors",
)
def test_merged_list_holds_every_tool_once_under_a_name_of_its_own(open_world: World) -> None:
    first, second = (_all_tools(open_world.url()) for _ in range(2))

    assert first == second
    assert {"legacy__echo", "modern__echo", "lines__echo", "legacy__exit", "modern__whoami"} <= set(first)
    assert len(first) == len(set(first))
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) for name in first)


def _all_tools(url: str) -> list[str]:
    return [tool["name"] for page in _pages(url) for tool in page["tools"]]


def _pages(url: str) -> Iterator[Json]:
    cursor: dict[str, object] = {}
    while True:
        page = answer(post(url, request("tools/list", cursor)))["result"]
        yield page
        if "nextCursor" not in page:
            return
        cursor = {"cursor": page["nextCursor"]}


@pytest.mark.requirement("mcp:2026-07-28:cursor-invalid")
def test_cursor_that_the_gateway_did_not_make_is_refused(open_world: World) -> None:
    message = answer(post(open_world.url("modern"), request("tools/list", {"cursor": "made-up"})))

    assert message["error"]["code"] == -32602


@pytest.mark.requirement("mcp:2026-07-28:caching-private")
def test_filtered_list_is_private(open_world: World) -> None:
    page = answer(post(open_world.url("modern"), request("tools/list")))["result"]

    assert page["cacheScope"] == "private"


@pytest.mark.requirement("mcp:2026-07-28:caching-pages")
@pytest.mark.parametrize("upstream", ["", "legacy", "modern"])
def test_all_pages_of_a_list_have_one_scope(open_world: World, upstream: str) -> None:
    scopes = {page["cacheScope"] for page in _pages(open_world.url(upstream))}

    assert len(scopes) == 1


@BOTH
@pytest.mark.requirement("mcp:2026-07-28:bridge-logging")
def test_level_of_a_request_is_kept_by_an_upstream_of_either_era(open_world: World, upstream: str) -> None:
    loud = messages(post(open_world.url(upstream), call("log", meta={PREFIX + "logLevel": "error"})))
    silent = messages(post(open_world.url(upstream), call("log")))

    levels = [message["params"]["level"] for message in loud if message.get("method") == "notifications/message"]
    assert levels == ["error", "critical", "alert", "emergency"]
    assert [message for message in silent if "method" in message] == []


@pytest.mark.requirement("mcp:2026-07-28:stdio-restart")
@pytest.mark.parametrize("upstream", ["lines", "modernlines"])
async def test_stdio_upstream_that_died_is_started_again(open_world: World, upstream: str) -> None:
    url, again = open_world.url(upstream), call("echo", {"text": "back"})

    with anyio.fail_after(20):
        async with httpx2.AsyncClient(timeout=20) as client:
            died = answer(await client.post(url, json=call("exit"), headers=headers_for(call("exit"))))
            while True:
                message = answer(await client.post(url, json=again, headers=headers_for(again)))
                if "result" in message and not message["result"].get("isError"):
                    break

    assert "error" in died or died["result"]["isError"]
    assert said(message) == "back"


@pytest.mark.requirement("mcp:2026-07-28:mrtr-bound")
@pytest.mark.parametrize("upstream", ["legacy", "modern"])
def test_state_of_one_call_is_refused_for_another(open_world: World, upstream: str) -> None:
    able: dict[str, object] = {PREFIX + "clientCapabilities": {"elicitation": {}}}
    asked = answer(post(open_world.url(upstream), call("ask_twice", meta=able)))["result"]
    body = call("ask_user", meta=able)
    body["params"]["requestState"] = asked["requestState"]

    message = answer(post(open_world.url(upstream), body))

    assert asked["resultType"] == "input_required"
    assert message["error"]["code"] == -32602


@pytest.mark.requirement(
    "mcp:2026-07-28:listen-resource", "mcp:2026-07-28:listen-list-changed", "mcp:2026-07-28:bridge-changes"
)
@pytest.mark.parametrize("upstream", ["legacy", "modern"])
async def test_listener_hears_of_changes_upstream(open_world: World, upstream: str) -> None:
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["note://one"]}
    body = request("subscriptions/listen", {"notifications": wanted})
    heard: list[str] = []

    with anyio.fail_after(20):
        async with httpx2.AsyncClient(timeout=20) as client:
            url = open_world.url(upstream)
            async with client.stream("POST", url, json=body, headers=headers_for(body)) as stream:
                async for line in stream.aiter_lines():
                    if not line.startswith("data:") or not line[5:].strip():
                        continue
                    heard.append(json.loads(line[5:])["method"])
                    if len(heard) == 1:
                        for change in (call("touch", {"uri": "note://one"}), call("change")):
                            await client.post(url, json=change, headers=headers_for(change))
                    if {"notifications/resources/updated", "notifications/tools/list_changed"} <= set(heard):
                        break

    assert heard[0] == "notifications/subscriptions/acknowledged"
