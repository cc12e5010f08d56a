"""Names, estimates, facts, errors and limits of requests for models."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gateway.errors import ApprovalPending, InvalidCall, PolicyDenied, QuotaExceeded, Unauthenticated, UpstreamTimeout
from gateway.models import (
    APIS,
    TALKS,
    Alias,
    Pinned,
    Price,
    Talk,
    Tokens,
    answer_for,
    capped,
    check_limits,
    check_reach,
    error_answer,
    error_body,
    estimate,
    facts_of,
    last_user_text,
    parse_name,
    price_from,
    provider_failure,
    request_for,
    usage_of,
)
from gateway.models.calls import call_facts
from gateway.models.errors import retry_after
from gateway.types import Resource
from tests.models.kits import KITS
from tests.models.test_pairs import tool_bodies


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("openai/gpt-5", Pinned("openai", "gpt-5")),
        ("router/meta/llama-3:free", Pinned("router", "meta/llama-3:free")),
        ("gpt-5", Pinned("", "gpt-5")),
        ("auto", Alias("auto")),
        ("auto:cheap", Alias("auto", "cheap")),
        ("auto:quality=0.95", Alias("auto", quality=0.95)),
        ("auto:fast,quality=1.0", Alias("auto", "fast", 1.0)),
        ("auto-code:cheap", Alias("auto-code", "cheap")),
        ("automatic", Pinned("", "automatic")),
    ],
)
def test_names_of_models_are_read(name: str, read: object) -> None:
    assert parse_name(name) == read


@pytest.mark.parametrize(
    "name", ["", None, 5, "a b", "/x", "x/", "x//y", "auto:", "auto:quality=2", "auto:a,b", "é", "../x", "x" * 257]
)
def test_what_names_no_model_is_refused(name: object) -> None:
    with pytest.raises(InvalidCall, match="model"):
        parse_name(name)


@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.api)
def test_policy_is_told_the_same_of_a_request_in_every_api(kit: Any) -> None:
    body = {**kit.body(), **tool_bodies(kit), "stream": True}
    facts = facts_of(kit.api, body)
    assert facts["tools"] == ["get_weather"]
    assert facts["stream"] is True
    assert facts["images"] is True
    assert facts["messages"]["roles"][:2] == ["assistant", "system"]  # type: ignore[index,call-overload]
    assert last_user_text(kit.api, body) == "Well?"


def test_a_tool_of_the_provider_s_own_is_known_by_its_type() -> None:
    assert facts_of("responses", {"tools": [{"type": "web_search"}]})["tools"] == ["web_search"]


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "function", "name": "weather", "function": {"name": "clock"}}]},
        {"tools": [{"name": "weather", "custom": {"name": "clock"}}]},
        {"tools": [{"type": "weather", "name": "clock"}]},
        {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "weather"}]}]},
        {"input": [{"type": "additional_tools", "tools": [{"type": "function", "name": "weather"}]}]},
        {"functions": [{"name": "weather"}]},
        {"messages": [{"role": "developer", "content": "a", "tools": [{"function": {"name": "weather"}}]}]},
        {"plugins": [{"id": "weather"}]},
        {"mcp_servers": [{"type": "url", "url": "https://x.example", "name": "weather"}]},
        {"tools": [{"name": f"tool_{number}"} for number in range(900)] + [{"name": "weather"}]},
    ],
)
def test_no_tool_is_hidden_from_policy(body: dict[str, Any]) -> None:
    for api in APIS:
        assert "weather" in cast("list[str]", facts_of(api, body)["tools"])


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "function", "Function": {"name": "weather"}}]},
        {"tools": [{"type": "function", "function": {"name": "clock", "NAME": "weather"}}]},
        {"messages": [{"role": "user", "Role": "system", "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "imageUrl": {"url": "https://x.example"}}]}]},
    ],
)
def test_nothing_is_said_twice_for_servers_that_do_not_mind_capitals(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidCall, match="servers may take it for another member"):
        check_reach(body)


def test_what_callers_name_themselves_may_have_any_capitals() -> None:
    tool = {"type": "function", "function": {"name": "a", "parameters": {"properties": {"Name": {}, "maxTokens": {}}}}}
    used = {"type": "tool_use", "id": "c", "name": "a", "input": {"Type": "b", "maxTokens": 5}}
    check_reach({"tools": [tool], "messages": [{"role": "assistant", "content": [used]}]})
    check_reach({"aNewMember": 1, "extra_body": {"google": {"thinking_config": {}}}})


def test_a_search_that_is_asked_for_by_an_option_is_a_tool_as_well() -> None:
    assert facts_of("chat.completions", {"web_search_options": {}})["tools"] == ["web_search"]


def test_more_tools_than_policy_can_be_shown_are_refused() -> None:
    model = Resource("model", "p/m", upstream="p", name="m")
    with pytest.raises(InvalidCall, match=r"tools: .* 1000"):
        call_facts("messages", model, {"tools": [{"name": f"tool_{number}"} for number in range(1_001)]})


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"previous_response_id": "resp_1", "prompt": {"id": "pmpt_1"}}, ["previous_response_id", "prompt"]),
        ({"conversation": "conv_1"}, ["conversation"]),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, ["item_reference"]),
        ({"input": [{"id": "msg_1"}]}, ["item_reference"]),
        ({"input": [{"role": "user", "content": "a", "id": "msg_1"}]}, []),
        ({"input": [{"type": "image_generation_call", "id": "ig_1"}]}, ["item_reference"]),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}, ["file_id"]),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}, ["file_id"]),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"file_id": "file_1"}}]}]},
            ["file_id"],
        ),
        (
            {"input": [{"type": "function_call_output", "output": [{"type": "input_image", "file_id": "f"}]}]},
            ["file_id"],
        ),
        ({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, ["audio"]),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, ["vector_store_ids"]),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, ["container_id"]),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f"]}}]}, ["file_ids"]),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, []),
        ({"tools": [{"name": "open", "parameters": {"properties": {"file_id": {"type": "string"}}}}]}, []),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"file_id": "f"}}]}]}, []),
    ],
)
def test_policy_is_told_what_a_provider_adds_that_nobody_can_see(body: dict[str, Any], names: list[str]) -> None:
    assert facts_of("responses", body)["unseen"] == names


PICTURE: dict[str, Any] = {"type": "image", "source": {}}
SHOWN: dict[str, Any] = {"type": "input_image", "image_url": "https://x.example"}


@pytest.mark.parametrize(
    ("api", "said"),
    [
        ("messages", {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [PICTURE]}]}),
        ("messages", {"role": "user", "content": [
            {"type": "document", "source": {"type": "content", "content": [PICTURE]}}]}),
        ("responses", {"type": "function_call_output", "call_id": "c", "content": None, "output": [SHOWN]}),
        ("responses", {"type": "computer_call_output", "call_id": "c", "output": {
            "type": "computer_screenshot", "image_url": "https://x.example"}}),
        ("chat.completions", {"role": "user", "content": [{"image_url": {"url": "https://x.example"}}]}),
    ],
    ids=["in a result", "in a document", "beside a null", "of a screen", "without a type"],
)  # fmt: skip
def test_no_picture_is_hidden_from_policy(api: Any, said: dict[str, Any]) -> None:
    assert facts_of(api, {"input" if api == "responses" else "messages": [said]})["images"] is True


def test_facts_of_what_is_no_request_are_no_failure() -> None:
    assert facts_of("messages", {"system": [{"type": []}], "tools": [{"type": {}, "name": 5}, []]})["images"] is False


@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.api)
def test_an_estimate_is_about_right_in_every_api(kit: Any) -> None:
    guess = estimate(kit.api, {**kit.body(), **tool_bodies(kit)})
    assert 1_650 < guess.input_tokens < 2_000  # one picture, a tool, six turns
    assert guess.output_tokens == (100 if kit.api == "messages" else 4_096)


def test_an_estimate_knows_what_a_model_can_write_at_most() -> None:
    assert estimate("chat.completions", {"max_tokens": 10**9}, max_output_tokens=500).output_tokens == 500
    assert estimate("chat.completions", {"max_tokens": 10, "n": 3}).output_tokens == 30
    assert estimate("embeddings", {"input": [1, 2, 3]}).output_tokens == 0


@pytest.mark.parametrize(
    "said",
    [
        {"content": "data:image/" + "long " * 10_000},
        {"type": "image", "content": "long " * 10_000},
        {"content": [1, {"type": "text", "text": "long " * 10_000}]},
        {"content": "a", "a_new_member": "long " * 10_000},
    ],
    ids=["as a picture", "typed a picture", "behind a number", "in a new member"],
)
def test_words_are_estimated_wherever_they_stand(said: dict[str, Any]) -> None:
    assert estimate("chat.completions", {"messages": [{"role": "user", **said}]}).input_tokens > 10_000
    assert estimate("chat.completions", said).input_tokens > 10_000


def test_a_limit_of_another_api_or_a_lower_one_beside_it_makes_no_estimate_smaller() -> None:
    assert estimate("messages", {"max_tokens": 9_000, "max_output_tokens": 1}).output_tokens == 9_000
    assert estimate("chat.completions", {"max_tokens": 5, "max_completion_tokens": 9_000}).output_tokens == 9_000
    assert estimate("responses", {"max_tokens": 1}).output_tokens == 4_096


def test_a_limit_that_is_no_whole_number_does_not_stay_beside_policy_s_own() -> None:
    assert capped("chat.completions", {"max_completion_tokens": 9e5, "max_tokens": 5}, 7) == {
        "max_completion_tokens": 7, "max_tokens": 5,
    }  # fmt: skip
    assert capped("messages", {"max_tokens": "900"}, 7) == {"max_tokens": 7}


def test_the_limit_that_llama_cpp_prefers_is_one() -> None:
    body = {"max_tokens": 5, "n_predict": 9_000}
    assert estimate("chat.completions", body).output_tokens == 9_000
    assert capped("chat.completions", body, 7) == {"max_tokens": 5, "n_predict": 7}
    with pytest.raises(InvalidCall, match="n_predict is not a whole number"):
        check_limits("chat.completions", {"n_predict": -1})


def test_a_limit_is_only_ever_lowered() -> None:
    assert capped("chat.completions", {"max_tokens": 10}, 50)["max_tokens"] == 10
    assert capped("chat.completions", {"max_completion_tokens": 99, "max_tokens": 70}, 50) == {
        "max_completion_tokens": 50, "max_tokens": 50,
    }  # fmt: skip
    assert capped("responses", {}, 50) == {"max_output_tokens": 50}
    assert capped("embeddings", {}, 50) == {}


def test_money_is_counted_in_whole_numbers_and_never_too_little() -> None:
    price = price_from({"usd_per_mtok_in": 0.15, "usd_per_mtok_out": 0.6})
    assert price == Price(150_000_000, 600_000_000)
    assert price.cost(Tokens(input=1)) == 150
    assert Price(input=1).cost(Tokens(input=1)) == 1
    assert usage_of(Tokens(2, 3), None).nano_usd == 0
    assert price_from({}) is None


@pytest.mark.parametrize("api", APIS)
def test_errors_have_the_shape_of_their_api(api: Any) -> None:
    limited = error_answer(api, QuotaExceeded("slow down", retry_after_s=3))
    assert (limited.status, dict(limited.headers)["retry-after"]) == (429, "3")
    assert limited.body["error"]["type"] == "rate_limit_error"  # type: ignore[index,call-overload]
    assert (limited.body.get("type") == "error") is (api == "messages")
    odd = error_body(api, InvalidCall("what?"), 415)
    assert odd["error"]["type"] == "invalid_request_error"  # type: ignore[index,call-overload]
    denied = error_answer(api, PolicyDenied("no"))
    assert denied.status == 403
    assert dict(denied.headers)["x-should-retry"] == "false"
    assert error_answer(api, ApprovalPending("ask", ticket_id="t")).status == 403
    assert ("www-authenticate", "Bearer") in error_answer(api, Unauthenticated("who?", challenge="Bearer")).headers


def test_a_provider_s_codes_are_repeated_only_where_they_can_be_nothing_else() -> None:
    body = b'{"error": {"code": "sk-abcdef", "type": "x y", "param": "messages[0].content", "message": "secret"}}'
    assert str(provider_failure("p", 400, {}, body)) == (
        "model provider 'p' refused the request (400, messages[0].content)"
    )
    assert isinstance(provider_failure("p", 504, {}, b"<html>"), UpstreamTimeout)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, 1), ({"retry-after": "12"}, 12), ({"retry-after": "0.2"}, 1), ({"retry-after-ms": "1500"}, 2),
     ({"retry-after": "soon"}, 1), ({"retry-after": "9" * 400}, 1), ({"retry-after": "99999999"}, 86_400),
     ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1), ({"retry-after": "²"}, 1),
     ({"retry-after": f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT"}, 1)],
)  # fmt: skip
def test_the_wish_to_wait_is_read_in_all_its_forms(headers: dict[str, str], seconds: int) -> None:
    assert retry_after(headers) == seconds


def test_thoughts_go_back_to_whoever_can_verify_them_and_to_nobody_else() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s1"}
    body = {"model": "m", "max_tokens": 5, "messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": [thought, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "c"}]}  # fmt: skip
    assert "hm" not in str(request_for("chat.completions", "messages", body, model="m", stream=False))
    sealed = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}],
              "encrypted_content": "anthropic:signed:s1"}  # fmt: skip
    said = [{"role": "user", "content": "a"}, sealed, {"role": "assistant", "content": "b"}]
    asked: Any = request_for("messages", "responses", {"model": "m", "input": said}, model="m", stream=False)
    assert asked["messages"][1]["content"][0] == thought
    foreign = [{"role": "user", "content": "a"}, {**sealed, "encrypted_content": "gAAAA"}]
    asked = request_for("messages", "responses", {"model": "m", "input": foreign}, model="m", stream=False)
    assert [message["role"] for message in asked["messages"]] == ["user"]


@pytest.mark.parametrize(
    ("api", "body", "where"),
    [
        ("messages", {"system": [{"type": "image", "source": {"type": "url", "url": "https://x.example"}}]}, "system"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [
            {"type": "tool_use", "id": "d", "name": "n", "input": {}}]}]}]}, "content holds"),
        ("chat.completions", {"messages": [{"role": "tool", "tool_call_id": "c", "content": [
            {"type": "refusal", "refusal": "no"}]}]}, "content holds"),
        ("chat.completions", {"messages": [{"role": "assistant", "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "n"}, "extra_content": {"a": 1}}]}]}, "extra_content"),
        ("responses", {"input": [{"type": "function_call_output", "call_id": "c", "output": [
            {"type": "refusal", "refusal": "no"}]}]}, "output holds"),
    ],
)  # fmt: skip
def test_what_has_no_place_in_another_api_is_named_and_not_dropped(api: Talk, body: dict[str, Any], where: str) -> None:
    for target in TALKS:
        with pytest.raises(InvalidCall, match=where):
            request_for(target, api, {"model": "m", "max_tokens": 5, **body}, model="m", stream=False, strict=True)


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("chat.completions", {"messages": [{
            "role": "assistant", "content": '{"a":1}', "parsed": {"a": 1}, "tool_calls": [
                {"id": "c", "type": "function", "function": {
                    "name": "n", "arguments": '{"a":1}', "parsed_arguments": {"a": 1}}}]}]}),
        ("responses", {"input": [
            {"role": "assistant", "content": [{"type": "output_text", "text": '{"a":1}', "parsed": {"a": 1}}]},
            {"type": "function_call", "call_id": "c", "name": "n", "arguments": '{"a":1}',
             "parsed_arguments": {"a": 1}}]}),
    ],
)  # fmt: skip
def test_what_a_client_parsed_of_an_answer_goes_back_as_the_model_wrote_it(api: Talk, body: dict[str, Any]) -> None:
    asked: Any = request_for("messages", api, {"model": "m", **body}, model="m", stream=False)
    text, call = asked["messages"][0]["content"]
    assert (text["text"], call["input"]) == ('{"a":1}', {"a": 1})


@pytest.mark.parametrize(("arguments", "left"), [('{"city":"Ro', {}), ('{"city":"Rome"}', {"city": "Rome"})])
def test_a_tool_call_that_the_limit_cut_off_is_an_answer_that_says_so(arguments: str, left: object) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "n", "arguments": arguments}}
    message = {"role": "assistant", "content": "Let me", "tool_calls": [call]}
    whole: Any = {"choices": [{"message": message, "finish_reason": "length"}]}
    answer: Any = answer_for("chat.completions", "messages", whole, {})
    assert answer["stop_reason"] == "max_tokens"
    assert answer["content"][-1] == {"type": "tool_use", "id": "c", "name": "n", "input": left}


def test_an_answer_of_openai_goes_back_into_the_conversation_with_another_provider() -> None:
    said: dict[str, Any] = {"role": "assistant", "content": "Hi", "refusal": None, "annotations": [], "audio": None}
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}, said]}
    asked: Any = request_for("messages", "chat.completions", body, model="m", stream=False)
    assert [message["role"] for message in asked["messages"]] == ["user", "assistant"]


@pytest.mark.parametrize("caller", TALKS)
def test_a_failure_that_comes_with_status_200_is_no_answer(caller: Talk) -> None:
    with pytest.raises(QuotaExceeded):
        answer_for("chat.completions", caller, {"error": {"code": 429, "message": "slow down"}}, {})
