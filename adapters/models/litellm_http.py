"""litellm's connections, held to what the gateway's own are: no redirects, no packed answers, no answer without end.

Left alone, it follows a redirect with the key and the prompt, unpacks whatever is sent, asks twice where a connection
breaks, and fetches the pictures that callers name. Imported together with litellm, which brings httpx.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final, cast

import httpx

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""What is read of one answer, before the upstream's own limit is asked: litellm shares connections between them."""


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, request: httpx.Request) -> None:
        self._inner = inner
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for chunk in self._inner:
            seen += len(chunk)
            if seen > MAX_ANSWER_BYTES:
                raise httpx.ReadError("the answer is larger than any may be", request=self._request)
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


class Guarded(httpx.AsyncBaseTransport):
    """A transport whose answers are plain, final and of bounded size."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises `httpx.ReadError` for an answer that is none."""
        request.headers["accept-encoding"] = "identity"
        try:
            answer = await self._inner.handle_async_request(request)
        except httpx.RemoteProtocolError as exc:  # litellm would ask again, and the call may have been carried out
            raise httpx.ReadError(str(exc), request=request) from exc
        packed = answer.headers.get("content-encoding", "identity").lower() != "identity"
        if packed or 300 <= answer.status_code < 400:
            await answer.aclose()
            raise httpx.ReadError("the answer is packed" if packed else "the answer is a redirect", request=request)
        stream = _Bounded(cast("httpx.AsyncByteStream", answer.stream), request)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=stream, extensions=answer.extensions)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


def guard(handler: Any) -> None:
    """Have litellm's `AsyncHTTPHandler` make guarded transports only. Raises `AttributeError` where it makes none."""
    make: Callable[..., httpx.AsyncBaseTransport | None] = handler.create_async_transport

    def guarded(*args: object, **kwargs: object) -> Guarded:
        return Guarded(make(*args, **kwargs) or httpx.AsyncHTTPTransport())

    handler.create_async_transport = staticmethod(guarded)


def fetch_nothing(urls: Any, refusal: Callable[..., Exception]) -> None:
    """Have litellm's `url_utils` let it fetch no address that a caller names: no rule allowed that, no record has it.

    Raises `AttributeError` where it asks nobody.
    """

    def refused(_: str) -> tuple[str, str]:
        raise refusal("addresses are not fetched", model=None, llm_provider=None)

    urls.validate_url, _ = refused, urls.validate_url
