"""A complete MCP server, both eras, that the official suite runs against: directly, and through the gateway."""
