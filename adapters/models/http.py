"""HTTP to a provider: pooled connections, answers and streams of bounded size, errors without a word of theirs."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from adapters.models.stale import Attempt, noting_reuse
from adapters.models.terms import Terms
from gateway import codec
from gateway.codec import JsonObject
from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.models import provider_failure
from gateway.models.sse import Events

CONNECT_S: Final = 10.0
MAX_CONNECTIONS: Final = 512
"""Streams hold theirs for as long as they last."""
MAX_ERROR_BYTES: Final = 64 * 1024
ATTEMPTS: Final = 3
"""How often a request is sent whose connection turned out to be closed."""

log = logging.getLogger("interlock.models")


class Line:
    """The connections to one provider. Belongs to the event loop it is first used in."""

    def __init__(self, terms: Terms, url: str, headers: dict[str, str]) -> None:
        self._terms = terms
        self._url = urlsplit(terms.url or url)._replace(fragment="")
        self._headers = {**headers, **{name.lower(): value for name, value in terms.headers}}
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def whole(self, path: str, body: JsonObject) -> JsonObject:
        """The whole answer, an object. Raises the `Upstream*` errors, and what `provider_failure` makes of others."""
        with self._troubles():
            async with asyncio.timeout(self._terms.timeout_s), self._asked(path, body, "application/json") as answer:
                data = await _read(answer, self._terms.max_bytes)
        try:
            value = codec.loads(data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise UpstreamProtocolError(f"model provider {self._terms.name!r} sent no JSON object")
        return value

    async def events(self, path: str, body: JsonObject) -> AsyncGenerator[bytes, None]:
        """The data of the events of a stream, until its end. Close it (`aclosing`) to end the stream."""
        terms, parser, seen, now = self._terms, Events(self._terms.max_bytes), 0, asyncio.get_running_loop().time
        ends = now() + terms.max_stream_s
        with self._troubles():
            async with self._asked(path, body, "text/event-stream") as answer:
                if answer.content_type != "text/event-stream":
                    raise UpstreamProtocolError(f"model provider {terms.name!r} did not answer with a stream")
                async for chunk in answer.content.iter_any():
                    seen += len(chunk)
                    if seen > terms.max_bytes:
                        raise _too_large(terms.max_bytes)
                    if now() > ends:  # words may come for ever, and too few to count
                        raise UpstreamTimeout(f"model provider {terms.name!r} did not end its stream in time")
                    for data in parser.feed(chunk):
                        yield data

    async def aclose(self) -> None:
        """Close all connections, for good."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def _asked(self, path: str, body: JsonObject, accept: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose head is in, and good."""
        async with await self._head(path, codec.dumps(body), accept) as answer:
            if answer.status != 200:  # which is said plainly, however its words are packed
                raise await self._failure(answer)
            if answer.headers.get("content-encoding", "identity").lower() != "identity":
                raise UpstreamProtocolError(f"model provider {self._terms.name!r} compressed its answer unasked")
            yield answer

    async def _head(self, path: str, body: bytes, accept: str) -> aiohttp.ClientResponse:
        """The head of the answer. A request that met a closed connection, and so never arrived, is sent once more."""
        headers = {**self._headers, "accept": accept, "content-type": "application/json"}
        url = self._url._replace(path=self._url.path.rstrip("/") + path).geturl()  # in front of a query: Azure has one
        async with asyncio.timeout(self._terms.timeout_s):
            left = ATTEMPTS
            while True:
                attempt, left = Attempt(), left - 1
                try:
                    return await self._connections().post(
                        url,
                        data=io.BytesIO(body),  # bytes of more than 1 MiB make aiohttp warn
                        headers=headers,
                        allow_redirects=False,
                        trace_request_ctx=attempt,
                    )
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as exc:
                    if not (left and attempt.never_arrived(exc)):
                        raise
                log.info("model provider %r had closed an idle connection: using another", self._terms.name)

    async def _failure(self, answer: aiohttp.ClientResponse) -> InterlockError:
        said = b""
        with suppress(UpstreamProtocolError, TimeoutError, aiohttp.ClientError):  # too long, or cut: its status will do
            async with asyncio.timeout(self._terms.timeout_s):
                said = await _read(answer, MAX_ERROR_BYTES)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return provider_failure(self._terms.name, answer.status, headers, said)

    def _connections(self) -> aiohttp.ClientSession:
        if self._closed:
            raise UpstreamUnavailable(f"model provider {self._terms.name!r} was configured anew: ask again")
        if self._session is None:
            silence = aiohttp.ClientTimeout(
                total=None, sock_connect=min(CONNECT_S, self._terms.timeout_s), sock_read=self._terms.timeout_s
            )
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"accept-encoding": "identity"},
                auto_decompress=False,
                timeout=silence,
                trace_configs=[noting_reuse()],
            )
        return self._session

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        """Say what went wrong with the connection, without addresses."""
        who = f"model provider {self._terms.name!r}"
        try:
            yield
        except TimeoutError as exc:
            raise UpstreamTimeout(f"{who} did not answer in time") from exc
        except aiohttp.ClientSSLError as exc:  # some of which are ValueErrors
            words = f"TLS with it fails; look at its certificate, and at url in [upstreams.{self._terms.name}]"
            raise UpstreamUnavailable(f"{who} cannot be reached: {words}") from exc
        except ValueError as exc:  # an address, or a header, that HTTP does not allow
            words = f"its url or headers in [upstreams.{self._terms.name}] are not what HTTP allows"
            raise UpstreamUnavailable(f"{who} cannot be asked: {words}") from exc
        except aiohttp.ClientResponseError as exc:
            raise UpstreamProtocolError(f"{who} answered in something that is not HTTP") from exc
        except aiohttp.ClientConnectorError as exc:
            raise UpstreamUnavailable(f"{who} cannot be reached") from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise UpstreamUnavailable(f"{who} dropped the connection during the call") from exc


async def _read(answer: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


def _too_large(max_bytes: int) -> UpstreamProtocolError:
    return UpstreamProtocolError(f"the provider's answer is larger than the limit of {max_bytes} bytes")
