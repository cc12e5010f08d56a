"""What rules are told of arguments and results: what was found and where, never the text; and what nobody looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast

import jsonschema
import pytest

from gateway.authz.detection import Detection, Part
from gateway.authz.findings import (
    MAX_FINDINGS,
    MAX_READ_BYTES,
    MAX_TEXT_BYTES,
    MAX_TEXTS,
    findings_in,
    findings_in_json,
)
from gateway.errors import PolicyDenied
from gateway.types import Call, Result
from tests.authz.makers import IDENTITY, TOOL, YES, ScriptedPdp, WordDetector, authorized, authz_of, call_of
from tests.authz.test_policies import schema

UNSCANNED = {"kind": "unscanned", "detector": "", "path": ""}


def paths(value: object) -> list[str]:
    return [finding["path"] for finding in findings_in(value, [WordDetector()])]


def test_a_finding_says_what_and_where_and_not_the_text() -> None:
    found = findings_in(
        {"a": [{"b": "x hushed hushed"}], "c": "nothing"}, [WordDetector(), WordDetector("noth", "other")]
    )

    assert found == [
        {"kind": "secret", "detector": "word", "path": "/a/0/b"},
        {"kind": "other", "detector": "word", "path": "/c"},
    ]


def test_a_path_is_a_json_pointer() -> None:
    assert paths({"a/b~c": {"": "a hushed"}, "d": ("a hushed",)}) == ["/a~1b~0c/", "/d/0"]


def test_a_name_that_holds_something_is_found_at_its_object_and_repeated_nowhere() -> None:
    assert paths({"o": {"my hushed": {"a": "a hushed"}}}) == ["/o", "/o/*/a"]


def test_the_root_itself_may_be_the_text() -> None:
    assert paths("a hushed") == [""]
    assert paths(None) == []


def test_json_in_a_text_is_looked_into_two_levels_deep() -> None:
    inner = json.dumps({"hidden": "a value"})
    within = json.dumps([inner])

    assert paths([inner, within, json.dumps([within])]) == ["/0", "/1"]


def test_long_numbers_are_texts_too() -> None:
    found = findings_in({"n": 123456789012, "short": 12345, "flag": True}, [WordDetector("12345")])

    assert [finding["path"] for finding in found] == ["/n"]


def test_equal_texts_are_looked_at_once_and_told_of_at_each_place() -> None:
    detector = WordDetector()

    found = findings_in([{"a": "one hushed"}, {"a": "one hushed"}], [detector])

    assert [finding["path"] for finding in found] == ["/0/a", "/1/a"]
    assert detector.shown == ["one hushed"]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (["a hushed", "x" * MAX_TEXT_BYTES], "/1"),
        (["a hushed", *[f"text {n}" for n in range(MAX_TEXTS)]], f"/{MAX_TEXTS}"),
    ],
)
def test_what_is_beyond_the_caps_is_unscanned_from_there_on(value: object, path: str) -> None:
    assert findings_in(value, [WordDetector()]) == [
        {"kind": "secret", "detector": "word", "path": "/0"},
        {**UNSCANNED, "path": path},
    ]


def test_what_is_nested_too_deeply_is_unscanned() -> None:
    value: object = "a hushed"
    for _ in range(200):
        value = [value]

    (finding,) = findings_in(value, [WordDetector()])

    assert (finding["kind"], finding["path"]) == ("unscanned", "/0" * 128 + "")


def test_of_many_findings_the_first_are_told_and_that_there_are_more() -> None:
    found = findings_in([f"hushed {n}" for n in range(100)], [WordDetector()])

    assert len(found) == MAX_FINDINGS + 1
    assert found[-1] == {**UNSCANNED, "path": f"/{MAX_FINDINGS}"}


def test_a_long_path_is_cut() -> None:
    assert [len(path) for path in paths({"n" * 1_000: "a hushed"})] == [256]


@pytest.mark.parametrize("payload", [b"", b"{", b"x" * (MAX_READ_BYTES + 1)])
def test_a_result_that_cannot_be_read_is_unscanned(payload: bytes) -> None:
    assert findings_in_json(payload, [WordDetector()]) == [UNSCANNED]


def test_without_detectors_everything_is_unscanned() -> None:
    assert findings_in({}, []) == [UNSCANNED]


def reading(*parts: Part) -> Detection:
    return Detection([WordDetector()], lambda part: part in parts)


def context_of(question: Mapping[str, object]) -> Mapping[str, object]:
    return cast("Mapping[str, object]", question["context"])


def result_of(question: Mapping[str, object]) -> Mapping[str, object]:
    resource = cast("Mapping[str, Mapping[str, Mapping[str, object]]]", question["resource"])
    return resource["properties"]["result"]


async def asked(call: Call, result: bytes, detection: Detection | None) -> Sequence[Mapping[str, object]]:
    """The questions about a call, about its result and about a list."""
    pdp = ScriptedPdp({"decision": YES, "visible": [0]})
    authz = authz_of(pdp=pdp, response_differs=lambda: True, detection=detection)
    permit = await authz.decide(call, IDENTITY)
    await authz.inspect(authorized(call, permit), Result(result))
    await authz.visible(call, IDENTITY, [TOOL])
    return [question for _, question in pdp.questions]


@pytest.mark.parametrize("padding", ["", "x" * 20_000], ids=["short", "long"])
async def test_policy_is_told_what_is_in_arguments_and_results(padding: str) -> None:
    call = call_of({"q": "a hushed", "p": padding})
    result = json.dumps({"content": [{"type": "text", "text": "hushed, too"}], "p": padding}).encode()

    request, response, listed = await asked(call, result, reading("arguments", "result"))

    in_arguments = [{"kind": "secret", "detector": "word", "path": "/q"}]
    assert context_of(request)["findings"] == context_of(response)["findings"] == in_arguments
    assert result_of(response)["findings"] == [{"kind": "secret", "detector": "word", "path": "/content/0/text"}]
    assert list(cast("Sequence[object]", context_of(listed)["findings"])) == []
    for question in (request, response):
        jsonschema.validate(json.loads(json.dumps(question)), schema("input"))


async def test_nobody_looks_where_the_policy_cannot_read() -> None:
    detector = WordDetector()
    questions = await asked(call_of({"q": "a hushed"}), b'{"a":"a hushed"}', Detection([detector], lambda _: False))

    assert detector.shown == []
    assert all("findings" not in context_of(question) for question in questions)
    assert "findings" not in result_of(questions[1])


async def test_a_gateway_without_detectors_says_that_nobody_looked() -> None:
    request, response, _ = await asked(call_of({"q": "a hushed"}), b"{}", None)

    assert context_of(request)["findings"] == result_of(response)["findings"] == [UNSCANNED]


async def test_an_action_without_arguments_is_looked_at_by_its_parameters() -> None:
    call = call_of(action="mcp.sampling.create", params={"messages": [{"content": {"text": "a hushed"}}]})

    request, *_ = await asked(call, b"{}", reading("arguments"))

    assert context_of(request)["findings"] == [
        {"kind": "secret", "detector": "word", "path": "/messages/0/content/text"}
    ]


async def test_a_permit_that_needs_a_detector_that_is_not_there_is_refused_before_the_call() -> None:
    answer = {"decision": True, "context": {"obligations": [REDACT_PERSONAL]}}

    with pytest.raises(PolicyDenied, match="no detector here finds personal_data"):
        await authz_of({"decision": answer}, detection=reading()).decide(call_of(), IDENTITY)


REDACT_PERSONAL: Mapping[str, object] = {"type": "redact", "properties": {"detectors": ["personal_data"]}}


async def test_a_result_rule_that_needs_a_detector_that_is_not_there_withholds_the_result() -> None:
    answers = {"request": YES, "response": {"decision": True, "context": {"obligations": [REDACT_PERSONAL]}}}
    authz = authz_of(answers, response_differs=lambda: True, detection=reading())
    call = call_of()
    permit = await authz.decide(call, IDENTITY)

    with pytest.raises(PolicyDenied) as caught:
        await authz.inspect(authorized(call, permit), Result(b"{}"))

    assert caught.value.reasons[0].code == "obligation_unsupported"


@pytest.mark.parametrize("padding", ["", "x" * 80_000], ids=["short", "long"])
async def test_what_detectors_find_is_out_of_the_result_that_is_handed_on(padding: str) -> None:
    redact = {"type": "redact", "properties": {"detectors": ["secret"]}}
    authz = authz_of({"decision": {"decision": True, "context": {"obligations": [redact]}}}, detection=reading())
    call = call_of()
    permit = await authz.decide(call, IDENTITY)

    result = await authz.inspect(authorized(call, permit), Result(json.dumps({"a": "hushed", "p": padding}).encode()))

    assert json.loads(result.payload) == {"a": "[redacted]", "p": padding}


def test_texts_that_are_too_short_to_say_anything_are_not_looked_at() -> None:
    assert findings_in({"key": "value"}, [WordDetector("value"), WordDetector("key")]) == []


def test_a_text_that_only_begins_like_json_is_a_text() -> None:
    assert paths(["{hushed", "[1, hushed"]) == ["/0", "/1"]
