"""The refusal of a request that is not one: a message for the peer, beside the kind that picks its code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["parse", "request", "invalid"]
"""Not JSON as RFC 8259 has it; JSON but no request object; a request whose parameters are wrong."""

_RPC_CODES: Final[Mapping[Kind, int]] = {"parse": -32700, "request": -32600, "invalid": -32602}
_SHOWN: Final = 60


class Malformed(Exception):
    """A request refused before anything is asked. `str(error)` is safe to show: it holds names and no values."""

    def __init__(self, message: str, kind: Kind = "invalid") -> None:
        super().__init__(message)
        self.kind: Kind = kind

    @property
    def rpc_code(self) -> int:
        """The JSON-RPC code; over HTTP+JSON all kinds are 400, over gRPC INVALID_ARGUMENT."""
        return _RPC_CODES[self.kind]


def shown(name: str) -> str:
    """A peer's member name, short and without control characters."""
    short = name if len(name) <= _SHOWN else name[:_SHOWN] + "..."
    return short if short.isprintable() else ascii(short)
