"""Gets bundles from a server as OPA does (its bundle service API), for one gateway that asks again and again."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

import aiohttp

from adapters.pdp.opa_bundle_archive import MAX_COMPRESSED
from adapters.pdp.opa_bundle_service import TIMEOUT_S, BundleService, BundleUnavailable, Download, Unchanged

CONNECT_S: Final = 5.0
LONG_POLL: Final = "application/vnd.openpolicyagent.bundles"
"""The type of answers of a server that can wait for the next bundle."""
_MAX_ETAG: Final = 1_024


class BundleServer:
    """What is at one address. An asynchronous context manager: leaving it closes the connection.

    `token` goes along as a bearer token, so no redirect is followed: it would go wherever that leads.
    """

    def __init__(self, url: str, *, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._timeout_s = timeout_s
        # No proxy and no netrc from the environment, no cookies: nothing but the configuration decides what is sent.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"Authorization": f"Bearer {token}"} if token else None,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._session.close()

    async def fetch(self, etag: str = "", *, wait_s: int = 0) -> Download | Unchanged:
        """The newest bundle, unless it has this `etag`; then wait up to `wait_s` seconds for the next one.

        Raises `BundleUnavailable`, at the latest `timeout_s` after the waiting is over.
        """
        headers = {"Accept-Encoding": "identity", "Prefer": "modes=snapshot" + (f";wait={wait_s}" if wait_s else "")}
        if etag:
            headers["If-None-Match"] = etag
        limit = aiohttp.ClientTimeout(total=self._timeout_s + wait_s, sock_connect=min(CONNECT_S, self._timeout_s))
        try:
            async with self._session.get(self._url, headers=headers, timeout=limit, allow_redirects=False) as answer:
                if answer.status == 304 and etag:
                    return Unchanged()
                if answer.status != 200:
                    raise BundleUnavailable(_why(answer.status))
                return Download(await _body(answer), _etag(answer), answer.content_type == LONG_POLL)
        except TimeoutError as exc:
            raise BundleUnavailable(f"the server took longer than {self._timeout_s + wait_s:g} s") from exc
        except (aiohttp.ClientResponseError, aiohttp.InvalidURL) as exc:  # their texts hold the whole address
            raise BundleUnavailable("the server's answer is not HTTP, or policy.url is no address") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise BundleUnavailable(f"the server cannot be read: {exc or type(exc).__name__}") from exc


def _why(status: int) -> str:
    if 300 <= status < 400:
        return f"the server answers with status {status} (redirects are not followed: name the address itself)"
    if status in (401, 403):
        return f"the server answers with status {status}: look at policy.token"
    return f"the server answers with status {status}"


def _etag(answer: aiohttp.ClientResponse) -> str:
    etag = answer.headers.get("ETag", "")
    return etag if len(etag) <= _MAX_ETAG and etag.isprintable() and etag.isascii() else ""


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_COMPRESSED:
            raise BundleUnavailable(f"the bundle is larger than {MAX_COMPRESSED} bytes")
    return bytes(body)


_: type[BundleService] = BundleServer
