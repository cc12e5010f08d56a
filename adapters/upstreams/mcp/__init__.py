"""MCP servers as upstreams: both eras, over HTTP and stdio."""
