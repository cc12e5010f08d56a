"""What an agent built with langchain does with the gateway, in the environment of `requirements/peers.lock`.

python langchain_client.py URL KEY CALL...: prints the names it sees, and what each call (a name and its JSON arguments,
separated by a space) answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from langchain_mcp_adapters.client import (  # type: ignore[import-not-found]  # lives in an environment of its own
    MultiServerMCPClient,
)


async def _called(tools: dict[str, Any], words: str) -> str:
    name, _, arguments = words.partition(" ")
    try:
        return json.dumps(await tools[name].ainvoke(json.loads(arguments)), default=str)
    except Exception as exc:  # noqa: BLE001  # a failed tool is an exception of the library's own here
        return f"{type(exc).__name__}: {exc}"


async def main(url: str, key: str, *calls: str) -> None:
    """Connect as an agent would."""
    connection = {"transport": "streamable_http", "url": url, "headers": {"Authorization": f"Bearer {key}"}}
    client = MultiServerMCPClient({"interlock": connection})
    tools = {tool.name: tool for tool in await client.get_tools()}
    answers = [await _called(tools, words) for words in calls]
    sys.stdout.write(json.dumps({"tools": sorted(tools), "answers": answers}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
