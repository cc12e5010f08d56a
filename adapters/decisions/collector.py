"""Hands chunks of decisions to a collector over HTTP, as OPA's decision log plugin does (`POST /logs`)."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

import aiohttp

from gateway.decisions.upload import Collector, NotTaken

TIMEOUT_S: Final = 30.0
_TOO_LARGE: Final = 413


class HttpCollector:
    """One connection pool to `url`. An asynchronous context manager: leaving it closes the connections.

    Redirects are not followed: decisions and the token go nowhere but where the configuration says.
    """

    def __init__(self, url: str, *, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self._url = f"{url.rstrip('/')}/logs"
        self._headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_s), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._session.close()

    async def post(self, chunk: bytes) -> None:
        """As the port says."""
        try:
            async with self._session.post(
                self._url, data=chunk, headers=self._headers, allow_redirects=False
            ) as answer:
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise NotTaken(f"collector {self._url} cannot be reached: {exc or type(exc).__name__}") from exc
        if not 200 <= status < 300:
            raise NotTaken(f"collector {self._url} answers with status {status}", too_large=status == _TOO_LARGE)


_: type[Collector] = HttpCollector
