"""A result is handed on within its cap: texts are cut and say so, and what cannot be cut is withheld."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.authz.authz import Authz
from gateway.authz.caps import MAX_CALLS, TooLarge, Volumes, capped
from gateway.errors import PolicyDenied
from gateway.types import Authorized, Result
from tests.authz.makers import IDENTITY, authorized, authz_of, call_of, obligation, permit_with

NOTICE = "\n[cut here: policy allows 200 bytes of this result]"


def cut(value: object, most: int = 200) -> object:
    payload = capped(json.dumps(value).encode(), most, most)
    assert len(payload) <= most
    return json.loads(payload)


def texts_in(value: object) -> list[str]:
    assert isinstance(value, dict)
    return [block["text"] for block in value["content"]]


def texts(*contents: str) -> dict[str, object]:
    return {"content": [{"type": "text", "text": text} for text in contents]}


def test_a_result_within_its_cap_is_not_touched() -> None:
    payload = b'{ "content": [] }' + b" " * 100

    assert capped(payload, len(payload), len(payload)) is payload


def test_what_is_only_written_widely_is_written_closely() -> None:
    payload = b'{"content":' + b" " * 500 + b"[]}"

    assert capped(payload, 100, 100) == b'{"content":[]}'


def test_texts_are_given_in_order_and_the_one_that_is_cut_says_so() -> None:
    contents = texts_in(cut(texts("first", "x" * 300, "last")))

    assert contents[0] == "first"
    assert contents[1].startswith("xxx")
    assert contents[1].endswith(NOTICE)
    assert contents[2] == ""


def test_a_cut_is_between_characters_however_they_are_written() -> None:
    (text,) = texts_in(cut(texts('é"\n' * 200)))

    assert text.startswith('é"\né"\n')


@pytest.mark.parametrize(
    "value",
    [
        {"contents": [{"uri": "file:///a", "text": "x" * 500}]},
        {"messages": [{"role": "user", "content": {"type": "text", "text": "x" * 500}}]},
        {"content": [{"type": "resource", "resource": {"uri": "file:///a", "text": "x" * 500}}]},
        {"message": {"parts": [{"text": "x" * 500}]}},
        {"task": {"artifacts": [{"parts": [{"text": "x" * 500}]}]}},
        {"artifactUpdate": {"artifact": {"parts": [{"text": "x" * 500}]}}},
    ],
)
def test_texts_are_cut_wherever_the_protocols_have_them(value: object) -> None:
    assert json.dumps(NOTICE)[1:-1] in json.dumps(cut(value))


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps({"structuredContent": {"text": "x" * 500}}).encode(),
        json.dumps({**texts("short"), "structuredContent": {"rows": ["x" * 500]}}).encode(),
        json.dumps({"content": [{"type": "image", "data": "x" * 500}]}).encode(),
        json.dumps(["x" * 500]).encode(),
        b"x" * 500,
    ],
)
def test_what_cannot_be_cut_is_too_large(payload: bytes) -> None:
    with pytest.raises(TooLarge):
        capped(payload, 200, 200)


def test_a_cap_without_room_for_the_notice_cuts_nothing() -> None:
    with pytest.raises(TooLarge):
        capped(json.dumps(texts("x" * 500)).encode(), 70, 70)


@given(st.lists(st.text(max_size=200), min_size=1, max_size=8), st.integers(min_value=250, max_value=1_000))
def test_whatever_the_texts_are_the_cap_holds(contents: list[str], most: int) -> None:
    payload = json.dumps(texts(*contents), ensure_ascii=False).encode()
    try:
        shorter = capped(payload, most, most)
    except TooLarge:
        return

    assert len(shorter) <= most
    assert len(json.loads(shorter)["content"]) == len(contents)


def test_of_the_oldest_calls_nothing_is_remembered() -> None:
    volumes = Volumes()
    for number in range(MAX_CALLS + 1):
        volumes.add(f"c{number}", 5)

    assert (volumes.left("c0", 9), volumes.left("c1", 9), volumes.left("new", 9)) == (9, 4, 9)


async def capped_call(most: int, *more: Mapping[str, object]) -> tuple[Authz, Authorized]:
    authz = authz_of({"decision": permit_with(obligation("cap", max_bytes=most), *more)})
    call = call_of()
    return authz, authorized(call, await authz.decide(call, IDENTITY))


@pytest.mark.parametrize("length", [500, 100_000])
async def test_the_least_cap_holds_after_redaction(length: int) -> None:
    redact = obligation("redact", paths=["$.secret"])
    authz, call = await capped_call(400, obligation("cap", max_bytes=200), redact)
    payload = json.dumps({**texts("hello " * 5 + "x" * length), "secret": "y" * length}).encode()

    result = await authz.inspect(call, Result(payload))

    value = json.loads(result.payload)
    assert len(result.payload) <= 200
    assert value["secret"] == "[redacted]"
    assert value["content"][0]["text"].endswith(NOTICE)


async def test_a_result_that_cannot_be_cut_is_withheld_with_a_reason_for_the_caller() -> None:
    authz, call = await capped_call(200)

    with pytest.raises(PolicyDenied, match="larger than the 200 bytes that policy allows") as caught:
        await authz.inspect(call, Result(json.dumps({"structuredContent": "x" * 500}).encode()))

    assert (caught.value.reasons[0].code, caught.value.reasons[0].public) == ("result_too_large", True)


async def test_a_stream_is_held_to_its_cap_as_a_whole_and_may_still_end() -> None:
    authz, call = await capped_call(400)
    event = Result(json.dumps({"message": {"parts": [{"text": "x" * 200}]}}).encode())

    given = [len((await authz.inspect(call, event)).payload) for _ in range(2)]
    with pytest.raises(PolicyDenied, match="larger than the 400 bytes"):
        await authz.inspect(call, event)
    end = await authz.inspect(call, Result(b"{}"))

    assert sum(given) <= 400
    assert end.payload == b"{}"
