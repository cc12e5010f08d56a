"""Claims that nothing bears out yet, each with the reason. An entry whose claim has evidence is an error."""

from __future__ import annotations

from typing import Final

GAPS: Final[dict[str, str]] = {
    "mcp:2026-07-28:no-network-ref": "no schema is dereferenced at all, so there is nothing that a test could catch",
    "mcp:2026-07-28:auth-403": "policy decides by scope, but a denial does not yet name the scope that would help",
    "mcp:2025-11-25:disconnect-is-no-cancel": "a client that left cannot take its stream up again, so the call ends",
    "mcp:2025-11-25:polling": "a legacy client's broken stream is not taken up again; streams carry no event ids",
}
