"""Matching of URIs against URI templates."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.registry.templates import UriTemplate


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("test://template/{id}/data", "test://template/42/data"),
        ("test://template/{id}/data", "test://template/a%2Fb/data"),
        ("file:///{+path}", "file:///srv/a/b.txt"),
        ("file:///{path}", "file:///b.txt"),
        ("repo://{owner}/{repo}", "repo://a/b"),
        ("repo://x{/path*}", "repo://x/a/b/c"),
        ("repo://x{/a,b}", "repo://x/1/2"),
        ("repo://x{/a}", "repo://x/1"),
        ("doc:{x:3}", "doc:abc"),
        ("doc:{x,y}", "doc:1,2"),
        ("doc:page{.ext}", "doc:page.html"),
        ("doc:page{#part}", "doc:page#top/1"),
        ("doc:page{;v}", "doc:page;v=1"),
        ("search://all{?q,lang}", "search://all?q=x&lang=de"),
        ("search://all{?q}", "search://all"),
        ("search://all?fixed=1{&q}", "search://all?fixed=1&q=x"),
        ("plain:text", "plain:text"),
        ("a:{x}{y}", "a:bc"),
        ("a:{+x}b{y}", "a:/b/bbc"),
    ],
)
def test_expansion_of_a_template_matches_it(template: str, uri: str) -> None:
    parsed = UriTemplate.parse(template)

    assert parsed is not None
    assert parsed.matches(uri)


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("test://template/{id}/data", "test://template/1/2/data"),
        ("test://template/{id}/data", "test://template//data"),
        ("test://template/{id}/data", "test://template/1/data/more"),
        ("test://template/{id}/data", "x-test://template/1/data"),
        ("file:///{path}", "file:///a/b"),
        ("file:///{path}", "file:///a?b"),
        ("file:///{+path}", "file:///"),
        ("repo://x{/a}", "repo://x/1/2"),
        ("search://all{?q}", "search://all#x"),
        ("plain:text", "plain:texts"),
        ("a:{x}{y}", "a:b"),
        ("a:{+x}", "a:" + "b" * 8_192),
    ],
)
def test_other_uri_does_not_match(template: str, uri: str) -> None:
    parsed = UriTemplate.parse(template)

    assert parsed is not None
    assert not parsed.matches(uri)


@pytest.mark.parametrize(
    "text", ["{+anything}", "{scheme}://x", "a:{", "a:}", "a:{}", "a:{x", "a:{!x}", "a:{x}}", "noscheme/{x}", ""]
)
def test_malformed_template_or_one_without_a_literal_scheme_is_refused(text: str) -> None:
    assert UriTemplate.parse(text) is None


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4))
def test_every_simple_expansion_matches(values: list[str]) -> None:
    template = "x:/" + "/".join(f"{{v{n}}}" for n in range(len(values)))
    uri = "x:/" + "/".join(quote(value.encode("utf-8", "replace"), safe="") for value in values)

    parsed = UriTemplate.parse(template)

    assert parsed is not None
    assert parsed.matches(uri)


@given(st.text("{}+#/?&;.*:,ax", max_size=20), st.text("ax/?#:", max_size=20))
def test_no_template_and_no_uri_makes_it_fail(template: str, uri: str) -> None:
    parsed = UriTemplate.parse("a:" + template)

    assert parsed is None or isinstance(parsed.matches("a:" + uri), bool)


def test_hostile_template_costs_linear_time() -> None:
    parsed = UriTemplate.parse("a:" + "{x}a" * 30 + "!")
    assert parsed is not None
    started = time.process_time()

    matched = parsed.matches("a:" + "a" * 8_000)

    assert not matched
    assert time.process_time() - started < 1.0
