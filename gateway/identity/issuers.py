"""What is configured about one issuer of access tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from urllib.parse import SplitResult, urlsplit

from gateway.errors import ConfigError

Reach: TypeAlias = Literal["public", "private", "loopback"]
"""Which addresses may be asked for an issuer's keys; each includes the ones before it, `loopback` only itself."""

ALGORITHMS: Final = frozenset(  # asymmetric ones only: with a shared secret, whoever can verify can also sign
    {f"{family}{size}" for family in ("RS", "PS", "ES") for size in (256, 384, 512)} | {"EdDSA", "Ed25519"}
)
TOKEN_TYPES: Final = frozenset({"at+jwt", "jwt"})
MAX_LEEWAY_S: Final = 300.0
LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class IssuerSpec:
    """Whose tokens are accepted, and how to read them. Raises `ConfigError` with every fault at once.

    `audience` is this gateway's own resource URL: a token made for anybody else is refused (RFC 8707, RFC 9068
    section 4). An empty `jwks_uri` is looked up in the issuer's metadata (RFC 8414, OpenID Connect Discovery).
    """

    issuer: str
    audience: str
    jwks_uri: str = ""
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256", "EdDSA")
    token_types: tuple[str, ...] = ("at+jwt",)
    """Accepted `typ` headers; add "jwt" for issuers that do not follow RFC 9068."""
    leeway_s: float = 30.0
    role_claims: tuple[str, ...] = ("roles", "groups")
    """All of them are read; a dot leads into an object (`realm_access.roles`)."""
    tenant_claim: str = "tenant"
    tenant: str = ""
    """The one tenant that this issuer speaks for; empty: any that `tenant_claim` names."""
    typed_subjects: bool = False
    """`sub` already is `type:name`. Otherwise a type is put before it, so that nobody can choose one's own."""
    client_is_actor: bool = False
    """A client that acts for a user is the subject of its calls, as if the token had an `act` claim."""
    max_delegation: int = 8
    private_network: bool = False
    """The issuer is reached at a non-public address."""
    endpoints_too: bool = False
    """`audience` is the address of the gateway, and a token for an endpoint below it is for the gateway too. Clients
    ask for the endpoint that they know, as its metadata names it (RFC 9728 section 3.3, RFC 8707 section 2)."""

    def __post_init__(self) -> None:
        faults = [(f"issuers[{self.issuer}].{name}", what) for name, what in self._faults()]
        if faults:
            raise ConfigError(faults)

    @property
    def reach(self) -> Reach:
        """Loopback issuers are asked on loopback only, so that no one else's metadata can point there."""
        if urlsplit(self.issuer).hostname in LOOPBACK_HOSTS:
            return "loopback"
        return "private" if self.private_network else "public"

    def is_meant_by(self, audience: str) -> bool:
        """Whether a token with this `aud` is for this gateway."""
        return audience == self.audience or (self.endpoints_too and audience.startswith(f"{self.audience}/"))

    def _faults(self) -> Iterator[tuple[str, str]]:
        parts = _split(self.issuer)
        if parts is None or parts.query or parts.fragment:
            yield "issuer", "must be an https URL without query and fragment (http only on loopback)"
        if not self.audience:
            yield "audience", "is empty: set it to the URL that clients know this gateway by"
        if self.jwks_uri and _split(self.jwks_uri) is None:
            yield "jwks_uri", "must be an https URL (http only on loopback)"
        if not self.algorithms or not ALGORITHMS.issuperset(self.algorithms):
            yield "algorithms", f"must be some of {', '.join(sorted(ALGORITHMS))}"
        if not self.token_types or not TOKEN_TYPES.issuperset(self.token_types):
            yield "token_types", "must be some of at+jwt, jwt"
        if not 0 <= self.leeway_s <= MAX_LEEWAY_S:
            yield "leeway_s", f"must be from 0 to {MAX_LEEWAY_S:.0f}"
        if not 1 <= self.max_delegation <= 32:
            yield "max_delegation", "must be from 1 to 32"


def is_fetchable(url: str) -> bool:
    """Whether keys may be read from a URL: https, or http that stays on this machine."""
    return _split(url) is not None


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return None
    allowed = {"https", "http"} if host in LOOPBACK_HOSTS else {"https"}
    return parts if host and parts.scheme in allowed and "@" not in parts.netloc else None
