"""Bytes to and from upstreams: HTTP connections, child processes, and the framing on them. Policy is not known here."""
