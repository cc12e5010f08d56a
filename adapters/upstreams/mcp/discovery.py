"""What an MCP server says of itself, and which era that puts it in (2026-07-28, basic/versioning)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapters.upstreams.mcp.link import LEGACY_VERSIONS, META, MODERN_VERSION, UNSUPPORTED_VERSION, Object, Reply
from gateway.errors import UpstreamProtocolError
from gateway.types import EMPTY, Era


@dataclass(frozen=True, slots=True)
class Description:
    """What a server said of itself in `initialize` or `server/discover`."""

    era: Era
    result: Object

    @property
    def capabilities(self) -> Object:
        return _object(self.result, "capabilities")

    @property
    def server_info(self) -> Object:
        """Name and version; the modern era carries them in `_meta`."""
        meta = _object(self.result, "_meta")
        return _object(self.result, "serverInfo") or _object(meta, META + "serverInfo")

    @property
    def instructions(self) -> str:
        text = self.result.get("instructions")
        return text if isinstance(text, str) else ""

    @property
    def version(self) -> str:
        version = self.result.get("protocolVersion", MODERN_VERSION)
        return version if isinstance(version, str) else ""


def _object(value: Object, key: str) -> Object:
    found = value.get(key)
    return found if isinstance(found, Mapping) else EMPTY


def discovered(reply: Reply, label: str) -> Description | None:
    """The description in the answer to `server/discover`; `None` for a server of the handshake era.

    Raises `UpstreamProtocolError` for a modern server of another version than ours.
    """
    if reply.error is None:
        supported = reply.result.get("supportedVersions")
        return None if _legacy_among(supported, label) else Description(Era.MODERN, reply.result)
    if reply.error.get("code") != UNSUPPORTED_VERSION:
        return None  # whatever else it is: the fallback must not hang on one code (transports/stdio)
    supported = _object(reply.error, "data").get("supported")
    if _legacy_among(supported, label):
        return None
    raise UpstreamProtocolError(f"upstream {label!r} says it speaks MCP {MODERN_VERSION} and refuses it")


def _legacy_among(supported: object, label: str) -> bool:
    """Whether the handshake is the way in: no list of versions, or ours not in it but an older one."""
    if not isinstance(supported, list):
        return True
    if MODERN_VERSION in supported:
        return False
    if any(version in LEGACY_VERSIONS for version in supported):
        return True
    spoken = ", ".join(str(version)[:20] for version in supported[:5]) or "none"
    raise UpstreamProtocolError(f"upstream {label!r} speaks no version of MCP that we do; it speaks: {spoken}")


def handshaken(reply: Reply, label: str) -> Description:
    """The description in the answer to `initialize`. Raises `UpstreamProtocolError` when it is none of ours."""
    if reply.error is None and reply.result.get("protocolVersion") in LEGACY_VERSIONS:
        return Description(Era.LEGACY, reply.result)
    how = f"with error {reply.error.get('code')}" if reply.error is not None else "with a version that we do not speak"
    raise UpstreamProtocolError(f"upstream {label!r} answered initialize {how}")
