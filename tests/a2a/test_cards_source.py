"""Cards over real HTTP: conditional, bounded, without redirects."""

from __future__ import annotations

import pytest

from adapters.upstreams.a2a.card_source import FetchedCard, NotModified, digest_of
from gateway.a2a.card_check import MAX_CARD_BYTES, CardRefused
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable
from tests.a2a.card_samples import card_of, legacy_card_of, reading


async def test_card_becomes_an_agent() -> None:
    async with reading((b"x-key", b"k")) as reader:
        reader.site.publish(card_of("https://cook.example/a2a"))

        entry = await reader.describe(skills=("cook",))

    assert entry.name == "cook"
    assert entry.interfaces[0].url == "https://cook.example/a2a"
    assert entry.digest == digest_of(card_of("https://cook.example/a2a"))
    assert entry.fetched_s == 7
    assert entry.has("streaming")
    _, headers = reader.site.asked[0]
    assert (headers["x-key"], headers["a2a-version"]) == ("k", "1.0")


async def test_unchanged_card_is_not_sent_again() -> None:
    async with reading() as reader:
        reader.site.publish(card_of())
        reader.site.etag = '"v1"'

        first = await reader.source.fetch()
        assert isinstance(first, FetchedCard)
        second = await reader.source.fetch(first.etag)
        reader.site.etag = '"v2"'
        third = await reader.source.fetch(first.etag)

    assert isinstance(second, NotModified)
    assert isinstance(third, FetchedCard)


async def test_card_of_0_3_alone_is_converted() -> None:
    async with reading() as reader:
        reader.site.publish(legacy_card_of("https://old.example/", preferredTransport="JSONRPC"))

        entry = await reader.describe()

    assert (entry.interfaces[0].url, entry.interfaces[0].version) == ("https://old.example/", "0.3")
    assert "supportedInterfaces" in entry.card


@pytest.mark.parametrize("status", [301, 302, 307, 308, 404, 401])
async def test_other_answers_are_no_card(status: int) -> None:
    async with reading() as reader:
        reader.site.publish(card_of())
        reader.site.status = status

        with pytest.raises(UpstreamProtocolError, match=str(status)):
            await reader.source.fetch()

    assert len(reader.site.asked) == 1


async def test_agent_that_fails_is_away() -> None:
    async with reading() as reader:
        reader.site.status = 503

        with pytest.raises(UpstreamUnavailable):
            await reader.source.fetch()


async def test_endless_card_is_cut_off() -> None:
    async with reading() as reader:
        reader.site.card = b" " * (MAX_CARD_BYTES + 1)

        with pytest.raises(UpstreamProtocolError, match="limit"):
            await reader.source.fetch()


@pytest.mark.parametrize(
    "raw",
    [
        b'{"name":"a","name":"b"}',
        b"<html>",
        b"{}",
        b'{"name":"x","url":1}',
        b'{"name":"x","url":"https://a.example","securitySchemes":{"a":{"type":"magic"}}}',
        b'{"name":"x","url":"file:///x"}',
    ],
)
async def test_what_is_no_card_is_refused(raw: bytes) -> None:
    async with reading() as reader:
        reader.site.card = raw

        with pytest.raises(CardRefused):
            await reader.describe()


async def test_skill_of_the_configuration_must_be_on_the_card() -> None:
    async with reading() as reader:
        reader.site.publish(card_of())

        with pytest.raises(CardRefused, match="dance"):
            await reader.describe(skills=("dance",))
