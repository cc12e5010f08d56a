"""What a request may not do behind the back of policy: other models, other limits, what only the provider knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.app.model_path import Replayed
from gateway.errors import InvalidCall
from gateway.listeners.models.replays import Answer
from gateway.types import Obligation, Result
from tests.e2e.eventually import eventually
from tests.e2e.place import new_key
from tests.fakes import FakeRelay
from tests.models.front import authorized
from tests.models_http.world import CATALOGUE, World, world

pytestmark = pytest.mark.anyio

BODY: dict[str, Any] = {"model": "openai/good", "messages": [{"role": "user", "content": "Hi"}]}
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
ASKED: dict[str, dict[str, Any]] = {
    CHAT: BODY,
    RESPONSES: {"model": "openai/good", "input": "Hi"},
    MESSAGES: {**BODY, "model": "claude/good", "max_tokens": 9},
}


@pytest.mark.parametrize(
    ("path", "more", "words"),
    [
        (CHAT, {"max_tokens": 5.0}, "max_tokens is not a whole number"),
        (CHAT, {"max_completion_tokens": "900000"}, "max_completion_tokens is not a whole number"),
        (RESPONSES, {"max_output_tokens": 10**40}, "max_output_tokens is not a whole number"),
        (MESSAGES, {"max_tokens": True}, "max_tokens is not a whole number"),
        (CHAT, {"n": 1_000}, "n is not a whole number from 1 to 128"),
        (RESPONSES, {"background": True}, "background"),
        (CHAT, {"models": ["openai/secret"]}, "models: the provider would choose"),
        (CHAT, {"fallbacks": [{"model": "x"}]}, "fallbacks: the provider would choose"),
        (CHAT, {"inference_geo": "us"}, "inference_geo"),
        (CHAT, {"Model": "secret"}, "Model: servers may take it for another member"),
        (CHAT, {"MAX_TOKEN\u017f": 900_000}, "servers may take it for another member"),
        (RESPONSES, {"maxOutputTokens": 900_000}, "maxOutputTokens: servers may take it"),
        (CHAT, {"extra_body": {"max_tokens": 900_000}}, "extra_body.max_tokens: servers may take it"),
        (CHAT, {"Tools": [{"type": "function", "function": {"name": "weather"}}]}, "Tools: servers may take it"),
    ],
)
async def test_what_reaches_further_than_policy_sees_is_refused(
    there: World, path: str, more: dict[str, Any], words: str
) -> None:
    answer = await there.post(path, {**ASKED[path], **more})

    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not there.one.seen
    assert not there.other.seen


async def test_of_a_member_that_stands_twice_the_provider_gets_what_policy_saw(there: World) -> None:
    twice = (
        b'{"model": "openai/good", "messages": [], "max_tokens": 9000, "user": "held", "max_tokens": 9, "user": "a"}'
    )

    answer = await there.post(CHAT, twice)

    assert answer.status_code == 200
    assert (there.one.body["max_tokens"], there.one.body["user"]) == (9, "a")


async def test_a_model_of_the_catalogue_cannot_be_had_without_its_entry(there: World) -> None:
    several = await there.post(CHAT, {**BODY, "model": "openai/model-of-the-provider"})
    capitals = await there.post(CHAT, {**BODY, "model": "openai/SECRET"})
    one = await there.post(CHAT, {**BODY, "model": "claude/Model-Of-The-Provider"})

    assert (several.status_code, capitals.status_code) == (404, 404)
    assert one.headers["x-interlock-model"] == "claude/good"


async def test_a_pinned_provider_is_the_one_that_is_asked(tmp_path: Path) -> None:
    longer = CATALOGUE + '\n[models."claude/openai/gpt-x"]\n'
    async with world(tmp_path, catalogue=longer) as made:
        pinned = await made.post(CHAT, {**BODY, "model": "openai/gpt-x"})

    assert pinned.headers["x-interlock-model"] == "openai/gpt-x"
    assert made.one.body["model"] == "gpt-x"


async def test_what_only_the_provider_knows_needs_rules_that_can_do_without_it(tmp_path: Path) -> None:
    async with world(tmp_path, 'allow if input.subject.id != ""\n') as made:
        plain = await made.post(RESPONSES, ASKED[RESPONSES])
        kept = await made.post(RESPONSES, {**ASKED[RESPONSES], "previous_response_id": "resp_of_somebody"})

    assert (plain.status_code, kept.status_code) == (200, 403)
    assert "input_truncated" in kept.json()["error"]["message"]
    assert len(made.one.seen) == 1


@pytest.mark.parametrize("path", ASKED)
async def test_a_held_call_is_carried_out_once_when_people_agreed(there: World, path: str) -> None:
    bo = {"authorization": f"Bearer {await new_key(there.place, 'bo', 'finance')}"}
    body = {**ASKED[path], "user": "held", "temperature": 0.5}
    held = await there.post(path, body)
    ticket = held.text.partition("ticket ")[2].partition(",")[0]
    edited: Any = {"arguments": {**body, "temperature": 0}}

    async def voted(more: Any) -> Any:
        async def known() -> Any:
            answer = await there.post(f"/approvals/{ticket}/approve", more, bo)
            return answer if answer.status_code not in (401, 404) else None

        return await eventually(known)  # the gateway notices a new key within a second

    changed, agreed = await voted(edited), await voted({})
    once, again = await there.post(path, body), await there.post(path, body)

    assert (changed.status_code, "approve or deny this one" in changed.text) == (400, True)
    assert agreed.status_code == 200
    assert (held.status_code, once.status_code, again.status_code) == (409, 200, 409)
    (seen,) = [*there.one.seen, *there.other.seen]
    assert seen.body["temperature"] == 0.5


async def test_a_stream_is_not_given_again_where_policy_wants_the_answer_whole_by_now() -> None:
    kept = Answer("r", Result(b"{}"), (b'{"choices": []}',), 1e9)
    relay = FakeRelay()

    with pytest.raises(InvalidCall, match="another Idempotency-Key"):
        await Replayed(kept).execute(authorized("chat.completions", {"stream": True}, Obligation("redact")), relay)
    await Replayed(kept).execute(authorized("chat.completions", {"stream": True}), relay)

    assert relay.events == [b'{"choices": []}']
