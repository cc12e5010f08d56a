"""The two ways to reach an MCP server, for whoever puts an upstream together."""

from __future__ import annotations

from adapters.upstreams.mcp.http_server import HttpServer
from adapters.upstreams.mcp.lease import Lease, Server
from adapters.upstreams.mcp.stdio_server import StdioServer

__all__ = ["HttpServer", "Lease", "Server", "StdioServer"]
