"""Errors of A2A 0.3 as those of 1.0, and back."""

from __future__ import annotations

import pytest

from gateway.a2a import v03


@pytest.mark.parametrize(
    ("code", "old"),
    [(-32001, -32001), (-32007, -32007), (-32008, -32600), (-32009, -32600), (-32603, -32603), (-32050, -32050)],
)
def test_error_codes_that_0_3_does_not_have_become_invalid_request(code: int, old: int) -> None:
    assert v03.error_to_03({"code": code, "message": "m"}) == {"code": old, "message": "m"}


def test_an_error_of_0_3_gets_the_details_of_1_0_and_keeps_its_data() -> None:
    error = v03.error_from_03({"code": -32001, "message": "gone", "data": {"taskId": "t"}})

    assert error["data"] == [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "TASK_NOT_FOUND",
            "domain": "a2a-protocol.org",
            "metadata": {},
        },
        {"@type": "type.googleapis.com/google.protobuf.Value", "value": {"taskId": "t"}},
    ]
    assert v03.error_to_03(error) == {"code": -32001, "message": "gone", "data": {"taskId": "t"}}


def test_a_vendor_error_is_kept_as_it_is() -> None:
    assert v03.error_from_03({"code": -32050, "message": "m"}) == {"code": -32050, "message": "m"}


def test_the_facts_of_an_error_are_plain_data_in_0_3() -> None:
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "TASK_NOT_FOUND",
        "domain": "a2a-protocol.org",
        "metadata": {"taskId": "t"},
    }

    assert v03.error_to_03({"code": -32001, "message": "m", "data": [info]})["data"] == {"taskId": "t"}


def test_details_that_are_not_of_the_error_itself_are_kept_as_a_list() -> None:
    violation = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": []}

    assert v03.error_to_03({"code": -32602, "message": "m", "data": [violation]})["data"] == [violation]


@pytest.mark.parametrize("error", [None, [], {}, {"code": True}, {"code": "1"}, {"code": 1, "message": 1}])
def test_what_is_no_error_object_is_refused(error: object) -> None:
    with pytest.raises(v03.NotConvertible):
        v03.error_to_03(error)
    with pytest.raises(v03.NotConvertible):
        v03.error_from_03(error)
