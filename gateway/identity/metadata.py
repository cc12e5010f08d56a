"""What tells a client where to get a token, and why the one it sent was not enough (RFC 9728, RFC 6750)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from gateway.codec import JsonObject
from gateway.errors import InterlockError, Unauthenticated

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"

_UNQUOTABLE = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
"""What RFC 6750 section 3 keeps out of `error_description`; a header cannot be split with what is left."""


def protected_resource(
    resource: str, *, issuers: Sequence[str], scopes: Sequence[str] = (), name: str = "", documentation: str = ""
) -> JsonObject:
    """The metadata document of one resource (RFC 9728 section 2). `resource` is its URL, as tokens name it in `aud`."""
    document: JsonObject = {"resource": resource, "bearer_methods_supported": ["header"]}
    if issuers:
        document["authorization_servers"] = [*issuers]
    if scopes:
        document["scopes_supported"] = [*scopes]
    if name:
        document["resource_name"] = name
    if documentation:
        document["resource_documentation"] = documentation
    return document


def metadata_url(resource: str) -> str:
    """Where that document is: the well-known part goes between host and path (RFC 9728 section 3.1)."""
    parts = urlsplit(resource)
    return f"{parts.scheme}://{parts.netloc}{metadata_path(resource)}"


def metadata_path(resource: str) -> str:
    """The path of `metadata_url`."""
    return WELL_KNOWN + urlsplit(resource).path.rstrip("/")


def challenge(error: InterlockError, *, resource_metadata_url: str = "", scope: str = "") -> str:
    """The value of `WWW-Authenticate` for an error of ours, or "" when it asks for none.

    A 401 gets one always. A 403 gets one when more `scope` would help; it must name all that are needed, because
    clients replace their scopes by it (MCP 2026-07-28, basic/authorization, "Scope Challenge Handling").
    """
    if isinstance(error, Unauthenticated):
        return _bearer(error.challenge, str(error), resource_metadata_url, scope)
    if error.http_status == 403 and scope:
        return _bearer("insufficient_scope", str(error), resource_metadata_url, scope)
    return ""


def _bearer(code: str, description: str, resource_metadata_url: str, scope: str) -> str:
    # Without a credential there is no error to report (RFC 6750 section 3.1).
    pairs = [("error", code), ("error_description", description if code else "")]
    pairs += [("resource_metadata", resource_metadata_url), ("scope", scope)]
    parameters = [f'{name}="{_UNQUOTABLE.sub("?", value)}"' for name, value in pairs if value]
    return "Bearer " + ", ".join(parameters or ['realm="interlock"'])
