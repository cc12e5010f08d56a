"""Finds where an issuer publishes its keys (RFC 8414 section 3, OpenID Connect Discovery 1.0 section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Protocol
from urllib.parse import urlsplit

from gateway import codec
from gateway.errors import InterlockError
from gateway.identity.issuers import IssuerSpec, Reach, is_fetchable


class KeysUnavailable(InterlockError):
    """The signing keys of an issuer cannot be read. Says which document failed and how."""

    http_status: ClassVar[int] = 503
    code: ClassVar[str] = "keys_unavailable"


class KeySource(Protocol):
    """Reads a document about keys from an issuer."""

    async def fetch(self, url: str, reach: Reach) -> bytes:
        """The body of a 200 answer from an address within `reach`. Raises `KeysUnavailable`; follows no redirect."""


async def keys_uri(spec: IssuerSpec, source: KeySource) -> str:
    """The configured `jwks_uri`, or the one in the issuer's metadata. Raises `KeysUnavailable`."""
    if spec.jwks_uri:
        return spec.jwks_uri
    failures = []
    for url in metadata_urls(spec.issuer):
        try:
            return _keys_uri_in(await source.fetch(url, spec.reach), spec.issuer)
        except KeysUnavailable as exc:
            failures.append(f"{url}: {exc}")
    raise KeysUnavailable("; ".join(failures))


def metadata_urls(issuer: str) -> Iterator[str]:
    """Where the metadata can be, in the order in which MCP clients look (basic/authorization, "Discovery")."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    yield f"{origin}/.well-known/oauth-authorization-server{path}"
    if path:
        yield f"{origin}/.well-known/openid-configuration{path}"
    yield f"{origin}{path}/.well-known/openid-configuration"


def _keys_uri_in(document: bytes, issuer: str) -> str:
    try:
        metadata = codec.loads(document)
    except ValueError as exc:
        raise KeysUnavailable("the metadata is not JSON") from exc
    if not isinstance(metadata, dict) or metadata.get("issuer") != issuer:
        raise KeysUnavailable("the metadata names another issuer")  # a mix-up attack, RFC 8414 section 3.3
    uri = metadata.get("jwks_uri")
    if not isinstance(uri, str) or not is_fetchable(uri):
        raise KeysUnavailable("the metadata has no usable jwks_uri")
    return uri
