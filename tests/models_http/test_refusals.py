"""What clients are told when something is refused or fails: their own errors, with the reason and what would help."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import anyio
import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.models_http.world import World, recorded
from tests.servers.models import SECRET, Mode

pytestmark = pytest.mark.anyio

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]
BODY: dict[str, Any] = {"model": "openai/good", "messages": HI}
ASKED: dict[str, Any] = {"model": "claude/good", "max_tokens": 9, "messages": HI}


async def test_policy_says_why_and_what_helps_in_the_error_of_the_api(there: World) -> None:
    weather: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]

    async with there.chat() as one, there.messages() as other:
        with pytest.raises(openai.PermissionDeniedError) as denied:
            await one.chat.completions.create(**BODY, tools=weather)
        with pytest.raises(anthropic.PermissionDeniedError) as refused:
            await other.messages.create(**ASKED, tools=[{"name": "weather", "input_schema": {"type": "object"}}])

    for error in (denied.value, refused.value):
        assert "no tools for weather (no_weather)" in str(error)
        assert "What would help: leave it out" in str(error)
        assert error.response.headers["x-interlock-decision"]
        assert "x-interlock-model" not in error.response.headers
    assert denied.value.code == "policy_denied"
    assert refused.value.body["error"]["type"] == "permission_error"  # type: ignore[index]  # Anthropic's shape
    assert not there.one.seen


async def test_a_model_that_may_not_be_seen_and_one_that_is_not_there_look_the_same(there: World) -> None:
    answers = []
    for name in ("openai/secret", "nobody/secret"):
        answer = await there.post("/v1/chat/completions", {**BODY, "model": name})
        lines = {key for key in answer.headers if key.startswith("x-")}
        answers.append((answer.status_code, lines, answer.text.replace(name, "NAME")))

    assert answers[0] == answers[1]
    assert answers[0][0] == 404
    record = await recorded(there.place, lambda entry: entry["resource"]["id"] == "openai/secret")
    assert record["outcome"] == "denied"  # what it was stands in the log


@pytest.mark.parametrize("name", ["auto", "auto:cheap", "files/x", "nobody/x", "good-for-nothing"])
async def test_a_name_that_stands_for_nothing_is_not_found(there: World, name: str) -> None:
    async with there.chat() as one, there.messages() as other:
        with pytest.raises(openai.NotFoundError, match="lists those that you may use"):
            await one.chat.completions.create(model=name, messages=HI)
        with pytest.raises(anthropic.NotFoundError) as missing:
            await other.messages.create(**{**ASKED, "model": name})

    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]


async def test_a_held_call_is_a_conflict_that_names_its_ticket(there: World) -> None:
    async with there.chat(max_retries=2) as client:
        with pytest.raises(openai.ConflictError) as held:
            await client.chat.completions.create(**BODY, user="held")

    assert "ticket apr-" in str(held.value)
    assert int(held.value.response.headers["retry-after"]) > 0
    assert held.value.code == "approval_pending"


async def test_nobody_gets_in_without_a_key_that_is_one(there: World) -> None:
    async with there.chat(key="ilk_000000000000_" + "x" * 43) as one, there.messages(key="sk-ant-1") as other:
        with pytest.raises(openai.AuthenticationError) as refused:
            await one.chat.completions.create(**BODY)
        with pytest.raises(anthropic.AuthenticationError) as told:
            await other.messages.create(**ASKED)
        with pytest.raises(openai.AuthenticationError):
            await one.models.list()
    both = await there.post("/v1/messages", ASKED, {"x-api-key": "another"})

    assert "www-authenticate" in refused.value.response.headers
    assert told.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
    assert both.status_code == 401
    assert "send one of both" in both.text


FAILURES: list[tuple[Mode, type[openai.APIStatusError], type[anthropic.APIStatusError], int]] = [
    ("429", openai.RateLimitError, anthropic.RateLimitError, 429),
    ("500", openai.InternalServerError, anthropic.InternalServerError, 503),
    ("401", openai.InternalServerError, anthropic.InternalServerError, 503),
    ("404", openai.NotFoundError, anthropic.NotFoundError, 404),
    ("400", openai.BadRequestError, anthropic.BadRequestError, 400),
    ("slow", openai.InternalServerError, anthropic.InternalServerError, 504),
    ("garbage", openai.InternalServerError, anthropic.InternalServerError, 502),
    ("huge", openai.InternalServerError, anthropic.InternalServerError, 502),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("mode", "one", "other", "status"), FAILURES, ids=[row[0] for row in FAILURES])
async def test_a_provider_that_fails_is_told_of_in_the_error_of_the_api(
    there: World,
    mode: Mode,
    one: type[openai.APIStatusError],
    other: type[anthropic.APIStatusError],
    status: int,
    *,
    stream: bool,
) -> None:
    there.one.mode = there.other.mode = mode

    async with there.chat() as chat, there.messages() as messages:
        with pytest.raises(one) as failed:
            await chat.chat.completions.create(**BODY, stream=stream)
        with pytest.raises(other) as refused:
            await messages.messages.create(**ASKED, stream=stream)
        with pytest.raises(one) as unanswered:
            await chat.responses.create(model="claude/good", input="Hi", stream=stream)
        with pytest.raises(one) as unmeasured:
            await chat.embeddings.create(model="openai/good", input="a", encoding_format="float")

    for error in (failed.value, refused.value, unanswered.value, unmeasured.value):
        assert error.status_code == status
        assert SECRET not in str(error)
        assert error.response.headers["x-interlock-decision"]
        assert (error.response.headers.get("retry-after") == "17") is (mode == "429")


async def heard(stream: AsyncIterator[Any]) -> tuple[list[Any], Exception | None]:
    """What came, and what it ended with."""
    came: list[Any] = []
    try:
        async for event in stream:
            came.append(event)
    except (openai.APIError, anthropic.APIError) as exc:
        return came, exc
    return came, None


@pytest.mark.parametrize("mode", ["cut", "error", "silent"])
async def test_a_stream_that_breaks_ends_with_the_error_event_of_the_api(there: World, mode: Mode) -> None:
    there.one.mode = there.other.mode = mode

    async with there.chat() as one, there.messages() as other:
        first, failed = await heard(await one.chat.completions.create(**BODY, stream=True))
        _, broken = await heard(await other.messages.create(**ASKED, stream=True))
    raw = await there.post("/v1/responses", {"model": "openai/good", "input": "Hi", "stream": True})

    assert [chunk.choices[0].delta.content for chunk in first][1:2] == ["Hello t"]
    assert isinstance(failed, openai.APIError)
    assert isinstance(broken, anthropic.APIStatusError)
    assert (bool(failed.code), broken.body["type"]) == (True, "error")  # type: ignore[index]
    assert SECRET not in f"{failed}{broken}{raw.text}"
    assert json.loads(raw.text.strip().rpartition("data: ")[2])["type"] in {"error", "response.failed"}
    assert "[DONE]" not in raw.text


async def test_a_client_that_leaves_ends_the_call_at_the_provider(there: World) -> None:
    there.one.mode = "silent"

    async with httpx2.AsyncClient(timeout=20) as http:
        headers = {"authorization": f"Bearer {there.key}"}
        place, body = f"{there.place.url}/v1/chat/completions", {**BODY, "stream": True}
        async with http.stream("POST", place, json=body, headers=headers) as answer:
            await anext(answer.aiter_lines())

    record = await recorded(there.place, lambda entry: entry["outcome"] == "cancelled")
    assert record["notes"]["tokens"]["output"] > 0  # what was written until then is charged


async def test_a_slow_reader_slows_the_provider_down(there: World) -> None:
    there.one.say.text = "word " * 20_000  # far more than sockets hold
    with anyio.fail_after(20):
        async with there.chat() as client:
            stream = await client.chat.completions.create(**{**BODY, "user": "whole", "stream": True})
            said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    assert said == there.one.say.text


BAD: list[tuple[str, Any, dict[str, str], int, str]] = [
    ("not JSON", b"{", {}, 400, "not JSON"),
    ("not an object", b"[]", {}, 400, "not a JSON object"),
    ("no model", {"messages": HI}, {}, 400, "model is not a string"),
    ("no name", {**BODY, "model": "a b"}, {}, 400, "not a name"),
    ("no flag", {**BODY, "stream": "yes"}, {}, 400, "neither true nor false"),
    ("too large", b'{"x": "' + b"x" * 5_000_000 + b'"}', {}, 413, "larger than"),
    ("deep", b'{"x": ' + b"[" * 40 + b"]" * 40 + b"}", {}, 413, "nested deeper"),
    ("form", b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "application/json"),
    ("packed", b"x", {"content-encoding": "gzip"}, 415, "Content-Encoding"),
    ("long key", BODY, {"idempotency-key": "k" * 300}, 400, "Idempotency-Key"),
    ("elsewhere", BODY, {"host": "evil.example"}, 421, "not served here"),
    ("website", BODY, {"origin": "https://evil.example"}, 403, "Origin"),
]


@pytest.mark.parametrize(("body", "headers", "status", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
async def test_what_is_no_call_is_refused_in_the_shape_of_each_api(
    there: World, body: Any, headers: dict[str, str], status: int, words: str
) -> None:
    one = await there.post("/v1/chat/completions", body, headers)
    other = await there.post("/v1/messages", body, headers)

    assert (one.status_code, other.status_code) == (status, status)
    assert words in one.json()["error"]["message"]
    assert words in other.json()["error"]["message"]
    assert other.json()["type"] == "error"
    assert one.headers["x-request-id"]
    assert other.headers["request-id"]


async def test_other_verbs_and_paths_are_not_served(there: World) -> None:
    async with httpx2.AsyncClient(timeout=20) as http:
        got = await http.get(f"{there.place.url}/v1/chat/completions")
        posted = await http.post(f"{there.place.url}/v1/models")
        nothing = await http.post(f"{there.place.url}/v1/completions", json=BODY)
        counted = await http.post(
            f"{there.place.url}/v1/messages/count_tokens", json=BODY, headers={"anthropic-version": "2023-06-01"}
        )

    assert (got.status_code, got.headers["allow"]) == (405, "POST")
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET")
    assert nothing.status_code == 404
    assert "does not offer /v1/completions; it has /v1/chat/completions" in nothing.json()["error"]["message"]
    assert counted.status_code == 404
    assert counted.json()["error"]["type"] == "not_found_error"
