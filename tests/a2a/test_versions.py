"""Which version and extensions a request is in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.a2a.errors import VERSION_NOT_SUPPORTED, A2aError
from gateway.a2a.versions import MAX_EXTENSIONS, missing_required, negotiate, requested_extensions


@pytest.mark.parametrize(
    ("headers", "query", "version"),
    [
        ([], None, "0.3"),
        ([b""], None, "0.3"),
        ([], "", "0.3"),
        ([b"0.3"], None, "0.3"),
        ([b"1.0"], None, "1.0"),
        ([b" 1.0 "], None, "1.0"),
        ([], "1.0", "1.0"),
        ([b"1.0"], "1.0", "1.0"),
    ],
)
def test_a_request_is_in_the_version_that_it_names_and_else_in_0_3(
    headers: list[bytes], query: str | None, version: str
) -> None:
    assert negotiate(headers, query) == version


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ([b"1.0.1"], None),
        ([b"0.3.0"], None),
        ([b"1"], None),
        ([b"1.1"], None),
        ([b"1.7"], None),
        ([b"2.0"], None),
        ([b"v1.0"], None),
        ([b"1.0,0.3"], None),
        ([b"1.0", b"1.0"], None),
        ([b"", b""], None),
        ([b"1.0"], "0.3"),
        ([b"1.0"], ""),
        ([b""], "1.0"),
        ([b"\xb9.0"], None),
    ],
)
def test_all_else_is_refused_and_told_what_is_supported(headers: list[bytes], query: str | None) -> None:
    with pytest.raises(A2aError, match=r"1\.0, 0\.3") as refused:
        negotiate(headers, query)

    assert refused.value.fault is VERSION_NOT_SUPPORTED
    assert refused.value.metadata["supportedVersions"] == "1.0, 0.3"


@given(st.lists(st.binary(max_size=8), max_size=3), st.none() | st.text(max_size=8))
def test_any_header_gives_a_supported_version_or_the_error(headers: list[bytes], query: str | None) -> None:
    try:
        version = negotiate(headers, query)
    except A2aError:
        return

    assert version in ("1.0", "0.3")


def test_extensions_are_read_from_comma_lists_of_several_headers_each_once() -> None:
    found = requested_extensions([b"https://a.example/x, https://b.example/y,,", b"https://a.example/x,urn:z"])

    assert found == ("https://a.example/x", "https://b.example/y", "urn:z")


def test_extensions_are_bounded_and_what_is_no_uri_is_left_out() -> None:
    many = b",".join(b"urn:%d" % number for number in range(1_000))

    assert len(requested_extensions([many])) == MAX_EXTENSIONS
    assert requested_extensions([b"two words", b"\xff", b"x" * 2_000]) == ()


def test_an_extension_that_the_card_requires_must_be_declared() -> None:
    card = {"capabilities": {"extensions": [{"uri": "urn:a", "required": True}, {"uri": "urn:b"}]}}

    assert missing_required(card, ()) == ("urn:a",)
    assert missing_required(card, ("urn:a",)) == ()


@pytest.mark.parametrize("extensions", [None, "x", [None], [{"required": True}], [{"uri": 1, "required": True}]])
def test_a_card_without_readable_extensions_requires_none(extensions: object) -> None:
    assert missing_required({"capabilities": {"extensions": extensions}}, ()) == ()
