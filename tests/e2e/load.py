"""Many clients at once that keep calling, and what they saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent

from tests.e2e.place import Place


@dataclass
class Load:
    """What many clients saw while they kept calling."""

    calls: Counter[str] = field(default_factory=Counter)
    trouble: list[str] = field(default_factory=list)
    over: bool = False

    async def keep_calling(self, say: Callable[[str], Awaitable[str]], tool: str) -> None:
        """Call until it is over, and note everything that is not the right answer."""
        number = 0
        while not self.over:
            number += 1
            words = f"{tool} {number}"
            answer = await say(words)
            self.calls[tool] += 1
            if answer != words:
                self.trouble.append(f"{tool}: {answer}")


@asynccontextmanager
async def load(place: Place, key: str, tools: list[str], clients: int) -> AsyncIterator[Load]:
    """So many clients that call these tools while the block runs; every tenth has a legacy session."""
    seen = Load()
    async with anyio.create_task_group() as group:
        for number in range(clients):
            client = _in_session if number % 10 == 0 else _over_http
            group.start_soon(client, place, key, seen, tools[number // 10 % len(tools)])
        yield seen
        seen.over = True


async def _over_http(place: Place, key: str, seen: Load, tool: str) -> None:
    async with place.caller(key) as caller:

        async def say(text: str) -> str:
            told = await caller.call(tool, {"text": text})
            return f"{told.status} {told.text}" if told.failed else told.text

        await seen.keep_calling(say, tool)


async def _in_session(place: Place, key: str, seen: Load, tool: str) -> None:
    headers = {"authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        transport = streamable_http_client(place.endpoint(), http_client=http)
        async with Client(transport, mode="legacy", cache=None) as client:

            async def say(text: str) -> str:
                result = await client.call_tool(tool, {"text": text})
                return "\n".join(block.text for block in result.content if isinstance(block, TextContent))

            await seen.keep_calling(say, tool)
