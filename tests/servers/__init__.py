"""Small real MCP servers for tests. They share no code with the gateway, so that they cannot share its mistakes."""
