"""The gateway as an OpenID AuthZEN decision point: other enforcement points ask the same policies."""
