"""Any server that speaks OpenAI's API: Chat Completions, Embeddings, and Responses where it has them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Final

from adapters.models.http import Line
from adapters.models.terms import Terms
from adapters.models.upstream import Backend, ModelUpstream, Unspoken
from gateway.codec import JsonObject
from gateway.errors import UnknownResource
from gateway.models import Api, Talk

URL: Final = "https://api.openai.com/v1"
_PATHS: Final[Mapping[Api, str]] = {
    "chat.completions": "/chat/completions", "responses": "/responses", "embeddings": "/embeddings",
}  # fmt: skip
LACKING_S: Final = 300.0
"""How long a server that did not know Responses is taken to have none: it may have been a proxy that starts."""


class OpenAI:
    """A caller of Responses gets the provider's own, but for some minutes after it had only Chat Completions."""

    strict = False

    def __init__(self, terms: Terms, now: Callable[[], float] = time.monotonic) -> None:
        self._line = Line(terms, URL, {})
        self._now = now
        self._lacking_until = now()
        """Until when callers of Responses are served by Chat Completions."""

    def speaks(self, caller: Talk) -> Talk:
        """See `Backend`."""
        known = caller == "responses" and self._now() >= self._lacking_until
        return "responses" if known else "chat.completions"

    def lacks(self, api: Talk) -> None:
        """See `Backend`."""
        if api == "responses":
            self._lacking_until = self._now() + LACKING_S

    async def whole(self, api: Api, body: JsonObject) -> JsonObject:
        """See `Backend`."""
        try:
            return await self._line.whole(_PATHS[api], body)
        except UnknownResource as exc:
            raise _unspoken(api, exc) from exc

    async def events(self, api: Api, body: JsonObject) -> AsyncGenerator[bytes, None]:
        """See `Backend`."""
        try:
            async with aclosing(self._line.events(_PATHS[api], body)) as events:
                async for data in events:
                    yield data
        except UnknownResource as exc:
            raise _unspoken(api, exc) from exc

    async def warm(self) -> None:
        """See `Backend`."""

    async def aclose(self) -> None:
        """See `Backend`."""
        await self._line.aclose()


def _unspoken(api: Api, exc: UnknownResource) -> Exception:
    """A server without this API knows no such path; one that has it names the model as what it does not know."""
    return Unspoken(api) if api == "responses" and "model_not_found" not in str(exc) else exc


def openai_upstream(terms: Terms, now: Callable[[], float] = time.monotonic) -> ModelUpstream:
    """An upstream of type `openai`."""
    return ModelUpstream(terms, OpenAI(terms, now))


_: type[Backend] = OpenAI
