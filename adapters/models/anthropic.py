"""Servers that speak Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from adapters.models.http import Line
from adapters.models.terms import Terms
from adapters.models.upstream import Backend, ModelUpstream
from gateway.codec import JsonObject
from gateway.errors import InvalidCall
from gateway.models import Api, Talk

URL: Final = "https://api.anthropic.com/v1"
VERSION: Final = "2023-06-01"
"""What `anthropic-version` says, unless the configured headers say otherwise."""


class Anthropic:
    """Everything is asked as a message; there are no embeddings."""

    strict = False

    def __init__(self, terms: Terms) -> None:
        self._line = Line(terms, URL, {"anthropic-version": VERSION})

    def speaks(self, caller: Talk) -> Talk:
        """See `Backend`."""
        return "messages"

    def lacks(self, api: Talk) -> None:
        """See `Backend`."""

    async def whole(self, api: Api, body: JsonObject) -> JsonObject:
        """See `Backend`."""
        if api == "embeddings":
            raise InvalidCall("Anthropic's API has no embeddings: name a model of another provider")
        return await self._line.whole("/messages", body)

    def events(self, api: Api, body: JsonObject) -> AsyncGenerator[bytes, None]:
        """See `Backend`."""
        return self._line.events("/messages", body)

    async def warm(self) -> None:
        """See `Backend`."""

    async def aclose(self) -> None:
        """See `Backend`."""
        await self._line.aclose()


def anthropic_upstream(terms: Terms) -> ModelUpstream:
    """An upstream of type `anthropic`."""
    return ModelUpstream(terms, Anthropic(terms))


_: type[Backend] = Anthropic
