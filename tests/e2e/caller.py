"""A modern MCP client made of plain HTTP requests, for tests that look at the wire or make many calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import anyio
import httpx2

from tests.conformance.talking import Json, answer, call, headers_for, request

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Told:
    """What came back for one request."""

    status: int
    message: Json
    headers: Mapping[str, str]

    @property
    def text(self) -> str:
        """The text of a tool's result, or the message of an error."""
        if "error" in self.message:
            return str(self.message["error"]["message"])
        return "\n".join(str(block.get("text", "")) for block in self.message["result"]["content"])

    @property
    def failed(self) -> bool:
        """Whether this is an error, of the protocol or of the tool."""
        return "error" in self.message or self.message["result"].get("isError") is True

    def names(self, member: str = "tools") -> set[str]:
        """The names in a list."""
        return {str(item["name"]) for item in self.message["result"][member]}


class Caller:
    """Calls one endpoint. To be used in a block; keeps its connections in between."""

    def __init__(self, url: str, key: str = "") -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._url = url
        self._http = httpx2.AsyncClient(headers=headers, timeout=TIMEOUT_S, trust_env=False)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def send(self, body: Json, **headers: str) -> Told:
        """One message and its answer. Keyword headers are written with `_` for `-`."""
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        with anyio.fail_after(TIMEOUT_S):
            response = await self._http.post(self._url, json=body, headers={**headers_for(body), **extra})
        return Told(response.status_code, answer(response), response.headers)

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, object] | None = None,
        *,
        meta: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Told:
        """One tools/call."""
        return await self.send(call(tool, arguments, meta), **(headers or {}))

    async def ask(self, method: str, params: Mapping[str, object] | None = None) -> Told:
        """One request."""
        return await self.send(request(method, params))

    async def tools(self) -> set[str]:
        """The names of the tools that are shown."""
        return (await self.ask("tools/list")).names()

    @asynccontextmanager
    async def listening(self, heard: list[Json]) -> AsyncIterator[None]:
        """Keep a `subscriptions/listen` stream open for all list changes and gather its messages in `heard`."""
        wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}
        body = request("subscriptions/listen", {"notifications": wanted})
        async with anyio.create_task_group() as group:
            await group.start(self._listen, body, heard)
            yield
            group.cancel_scope.cancel()

    async def _listen(self, body: Json, heard: list[Json], *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with self._http.stream("POST", self._url, json=body, headers=headers_for(body), timeout=None) as response:
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    heard.append(httpx2.Response(200, content=line[5:]).json())
                    if len(heard) == 1:
                        task_status.started()
