"""A refusal in the form of gRPC: what fits travels, and nothing in it can break the trailers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2  # type: ignore[import-untyped]  # has no types
from hypothesis import given
from hypothesis import strategies as st

from adapters.doors.statuses import DETAILS_KEY, metadata_of, status_of
from gateway.listeners.a2a.refusals import Refusal

RPC = "type.googleapis.com/google.rpc."
INFO = {"@type": RPC + "ErrorInfo", "reason": "TASK_NOT_FOUND", "domain": "a2a-protocol.org"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
TYPES = [RPC + name for name in ("ErrorInfo", "BadRequest", "RetryInfo", "Nothing")] + [
    "type.googleapis.com/google.protobuf.Value"
]


def refusal(*details: Mapping[str, object], message: str = "no", code: str = "NOT_FOUND") -> Refusal:
    return Refusal(-32001, message, 404, code, details)


def rich(told: Refusal) -> Any:
    return status_pb2.Status.FromString(dict(status_of(told).trailers)[DETAILS_KEY])


def test_status_says_the_same_in_both_of_its_places() -> None:
    status = status_of(refusal(INFO))

    assert (status.code, status.message) == (grpc.StatusCode.NOT_FOUND, "no")
    assert (rich(refusal(INFO)).code, rich(refusal(INFO)).message) == (5, "no")


def test_code_that_is_not_one_of_grpc_is_unknown() -> None:
    assert status_of(refusal(code="TEAPOT")).code is grpc.StatusCode.UNKNOWN


def test_value_of_any_kind_travels_as_a_value() -> None:
    found = rich(refusal({"@type": "type.googleapis.com/google.protobuf.Value", "value": {"retry": True}}))

    assert [detail.type_url for detail in found.details] == ["type.googleapis.com/google.protobuf.Value"]


@pytest.mark.parametrize(
    "detail",
    [
        {"@type": "made/up"},
        {"@type": 7},
        {},
        {"@type": RPC + "ErrorInfo", "reason": ["x"]},
        {"@type": RPC + "RetryInfo", "retryDelay": "soon"},
    ],
)
def test_detail_that_is_none_stays_behind(detail: Mapping[str, object]) -> None:
    assert [found.type_url for found in rich(refusal(detail, INFO)).details] == [RPC + "ErrorInfo"]


def test_details_beyond_what_trailers_hold_stay_behind() -> None:
    big = {"@type": RPC + "ErrorInfo", "reason": "BIG", "metadata": {"x": "y" * 10_000}}
    trailers = dict(status_of(refusal(big, INFO, message="é" * 100_000)).trailers)

    assert len(trailers[DETAILS_KEY]) < 6_000
    assert len(rich(refusal(big, INFO)).details) == 1


def test_header_that_metadata_cannot_hold_is_left_out() -> None:
    headers = [(b"Retry-After", b"9"), (b"a2a-extensions", "é".encode()), (b"x", b"a\r\nb")]

    assert metadata_of(headers) == (("retry-after", "9"),)


@given(kind=st.sampled_from(TYPES), members=st.dictionaries(st.text(max_size=12), JSON, max_size=4), message=st.text())
def test_whatever_an_agent_says_becomes_a_status(kind: str, members: dict[str, object], message: str) -> None:
    status = status_of(refusal({**members, "@type": kind}, message=message))

    assert status.message.isprintable()
    assert isinstance(dict(status.trailers)[DETAILS_KEY], bytes)
