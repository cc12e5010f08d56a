"""Claims that nothing bears out yet, each with the reason. An entry whose claim has evidence is an error."""

from __future__ import annotations

from typing import Final

_NO_TEST: Final = "no test carries this id yet"

GAPS: Final[dict[str, str]] = {
    "mcp:2026-07-28:invalid-annotation": _NO_TEST,
    "mcp:2026-07-28:old-version-headers": _NO_TEST,
    "mcp:2026-07-28:no-network-ref": _NO_TEST,
    "mcp:2026-07-28:mrtr-reauthorized": _NO_TEST,
    "mcp:2026-07-28:timeouts": _NO_TEST,
    "mcp:2026-07-28:timeout-absolute": _NO_TEST,
    "mcp:2026-07-28:cancel-unknown": _NO_TEST,
    "mcp:2026-07-28:listen-closed": _NO_TEST,
    "mcp:2026-07-28:stdio-shutdown": _NO_TEST,
    "mcp:2026-07-28:stdio-probe": _NO_TEST,
    "mcp:2026-07-28:tools-unknown": _NO_TEST,
    "mcp:2026-07-28:tools-by-caller": _NO_TEST,
    "mcp:2026-07-28:auth-403": _NO_TEST,
    "mcp:2026-07-28:auth-audience": _NO_TEST,
    "mcp:2025-11-25:capabilities": _NO_TEST,
    "mcp:2025-11-25:concurrent-streams": _NO_TEST,
    "mcp:2025-11-25:disconnect-is-no-cancel": _NO_TEST,
    "mcp:2025-11-25:polling": "a legacy stream that broke is not taken up again",
    "mcp:2026-07-28:bridge-parked-limits": _NO_TEST,
}
