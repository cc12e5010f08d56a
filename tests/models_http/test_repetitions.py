"""`Idempotency-Key`: a request that comes again is answered as before, and nothing is asked of the model again."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gateway.listeners.models.refusals import BadRequest
from gateway.listeners.models.replays import KEPT_S, MAX_ANSWER_BYTES, Replays
from gateway.types import Result
from tests.e2e.eventually import eventually
from tests.e2e.place import new_key
from tests.models_http.world import World, recorded

BODY: dict[str, Any] = {"model": "openai/good", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def key(request: pytest.FixtureRequest) -> dict[str, str]:
    """The header with a key that only this test has."""
    return {"idempotency-key": request.node.name}


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_same_request_gets_the_same_answer_and_is_a_call_on_record(
    there: World, key: dict[str, str], *, stream: bool
) -> None:
    first = await there.post("/v1/chat/completions", {**BODY, "stream": stream}, key)
    again = await there.post("/v1/chat/completions", {**BODY, "stream": stream}, key)

    assert first.status_code == again.status_code == 200
    assert first.content == again.content
    assert again.headers["idempotent-replayed"] == "true"
    assert len(there.one.seen) == 1
    record = await recorded(there.place, lambda entry: entry["call"]["id"] == again.headers["x-request-id"])
    assert record["notes"]["replayed"] is True
    assert first.headers["x-request-id"] != again.headers["x-request-id"]


@pytest.mark.anyio
async def test_another_body_another_caller_and_no_key_are_other_requests(there: World, key: dict[str, str]) -> None:
    await there.post("/v1/chat/completions", BODY, key)
    other = await there.post("/v1/chat/completions", {**BODY, "user": "x"}, key)
    bo = {**key, "authorization": f"Bearer {await new_key(there.place, 'bo')}"}

    async def known() -> bool:
        return (await there.post("/v1/chat/completions", BODY, bo)).status_code == 200

    await eventually(known)  # the gateway notices a new key within a second
    await there.post("/v1/chat/completions", BODY)

    assert other.status_code == 422
    assert "another request" in other.json()["error"]["message"]
    assert len(there.one.seen) == 3
    assert (await there.post("/v1/chat/completions", BODY, bo)).headers["idempotent-replayed"] == "true"


@pytest.mark.anyio
async def test_a_request_that_is_still_being_answered_is_not_made_twice(there: World, key: dict[str, str]) -> None:
    there.one.mode = "slow"
    answers: list[int] = []

    async def ask() -> None:
        answers.append((await there.post("/v1/chat/completions", BODY, key)).status_code)

    async def asked() -> bool:
        return bool(there.one.seen)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await eventually(asked)
        answers.append((await there.post("/v1/chat/completions", BODY, key)).status_code)
        there.one.released.set()

    assert answers == [409, 200]
    assert len(there.one.seen) == 1


@pytest.mark.anyio
async def test_a_failure_is_no_answer_to_keep(there: World, key: dict[str, str]) -> None:
    there.one.mode = "500"
    failed = await there.post("/v1/chat/completions", BODY, key)
    there.one.mode = "ok"
    again = await there.post("/v1/chat/completions", BODY, key)

    assert (failed.status_code, again.status_code) == (503, 200)
    assert "idempotent-replayed" not in again.headers


@pytest.mark.anyio
async def test_clients_that_try_again_by_themselves_are_charged_once(there: World, key: dict[str, str]) -> None:
    async with there.chat() as client:
        raw = await client.chat.completions.with_raw_response.create(**BODY, extra_headers=key)
        same = await client.chat.completions.with_raw_response.create(**BODY, extra_headers=key)

    assert raw.parse() == same.parse()
    assert len(there.one.seen) == 1


def kept(replays: Replays, key: str, size: int) -> None:
    with replays.slot("ana", key, "r") as slot:
        slot.result = Result(b"x" * size)


def test_answers_are_kept_for_ten_minutes_and_as_far_as_there_is_room() -> None:
    now = [0.0]
    replays = Replays(lambda: now[0], max_bytes=2_000)
    for key in ("a", "b", "c"):
        kept(replays, key, 900)
    kept(replays, "large", MAX_ANSWER_BYTES + 1)

    room = [key for key in ("a", "b", "c", "large") if replays.slot("ana", key, "r").kept is not None]
    now[0] = KEPT_S
    late = [key for key in ("a", "b", "c", "large") if replays.slot("ana", key, "r").kept is not None]

    assert room == ["b", "c"]
    assert late == []


def test_a_stream_that_is_too_long_is_not_kept() -> None:
    replays = Replays(lambda: 0.0)
    with replays.slot("ana", "k", "r") as slot:
        for _ in range(3):
            slot.heard(b"x" * (MAX_ANSWER_BYTES // 2))
        slot.result = Result(b"{}")

    assert replays.slot("ana", "k", "r").kept is None


def test_a_key_is_free_again_after_a_request_that_failed() -> None:
    replays = Replays(lambda: 0.0)
    with replays.slot("ana", "k", "r"), pytest.raises(BadRequest):
        replays.slot("ana", "k", "r")

    assert replays.slot("ana", "k", "another").kept is None
