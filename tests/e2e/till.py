"""An MCP server whose one tool has an effect that can be counted: `pay` writes a line into a ledger.

    python -m tests.e2e.till --port N --ledger FILE [--says TEXT]

A payment to somebody whose name begins with `slow` is written at once and answered after a minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import anyio
from mcp.server.mcpserver import MCPServer

SLOW: Final = "slow"
SLOW_S: Final = 60.0


def served(ledger: Path, says: str) -> MCPServer:
    """The server; `says` is the description of its tool."""
    server = MCPServer("till")

    @server.tool(description=says)
    async def pay(to: str) -> str:
        with ledger.open("a") as lines:
            lines.write(f"{to}\n")
        if to.startswith(SLOW):
            await anyio.sleep(SLOW_S)
        return f"paid {to}"

    return server


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.till")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--says", default="Pays somebody")
    options = parser.parse_args()
    served(options.ledger, options.says).run("streamable-http", host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
