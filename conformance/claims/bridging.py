"""Claims about clients and upstreams of different eras, which the specification leaves to whoever is between them."""

from __future__ import annotations

from typing import Final

from conformance.claims.claim import Chapter, Claim

_VERSIONS = Chapter("2026-07-28", "basic/versioning")
_MATRIX: Final = "compatibility-matrix"

BRIDGING: Final[tuple[Claim, ...]] = (
    _VERSIONS.may(
        "bridge-elicitation-down", _MATRIX, "A modern client completes a call on a legacy upstream that elicits."
    ),
    _VERSIONS.may(
        "bridge-sampling-down", _MATRIX, "A modern client completes a call on a legacy upstream that samples."
    ),
    _VERSIONS.may(
        "bridge-roots-down", _MATRIX, "A modern client completes a call on a legacy upstream that asks for roots."
    ),
    _VERSIONS.may(
        "bridge-elicitation-up", _MATRIX, "A legacy client completes a call on a modern upstream that elicits."
    ),
    _VERSIONS.may("bridge-sampling-up", _MATRIX, "A legacy client completes a call on a modern upstream that samples."),
    _VERSIONS.may(
        "bridge-roots-up", _MATRIX, "A legacy client completes a call on a modern upstream that asks for roots."
    ),
    _VERSIONS.may(
        "bridge-own-client", _MATRIX, "A question reaches only the client whose call caused it, on one shared upstream."
    ),
    _VERSIONS.may(
        "bridge-parked-limits",
        _MATRIX,
        "Parked calls are limited in number and time, and end upstream when they end here.",
    ),
    _VERSIONS.may(
        "bridge-changes", _MATRIX, "Changes that one era announces reach listeners and sessions of the other."
    ),
    _VERSIONS.may(
        "bridge-logging", _MATRIX, "A level set by a legacy session becomes the level of each modern request, and back."
    ),
    _VERSIONS.may(
        "bridge-output-schema", _MATRIX, "A legacy client sees no output schema or structured content but objects."
    ),
)
