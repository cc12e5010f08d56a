"""`python -m conformance.everything http --port N` or `... stdio`."""

from __future__ import annotations

import argparse

import anyio
import uvicorn
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.stdio import stdio_server

from conformance.everything.events import RecentEvents
from conformance.everything.server import build

CHANGES = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)


def serve_http(port: int) -> None:
    """Serve both eras at `http://localhost:PORT/mcp` until interrupted."""
    app = build().streamable_http_app(event_store=RecentEvents(), retry_interval=100)
    # h11 trims the white space after a header's value (RFC 9110 section 5.5); httptools hands it on.
    uvicorn.run(app, host="127.0.0.1", port=port, http="h11", log_level="warning")


async def serve_stdio() -> None:
    """Serve both eras on standard input and output until the input ends."""
    server = build()
    async with stdio_server() as (reader, writer):
        await server.run(reader, writer, server.create_initialization_options(CHANGES))


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m conformance.everything")
    parser.add_argument("transport", choices=["http", "stdio"])
    parser.add_argument("--port", type=int, default=3001)
    options = parser.parse_args()
    if options.transport == "stdio":
        anyio.run(serve_stdio)
    else:
        serve_http(options.port)


if __name__ == "__main__":
    main()
