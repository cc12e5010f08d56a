"""The public keys of one issuer, kept fresh (RFC 7517)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from gateway import codec
from gateway.codec import JsonObject, JsonValue
from gateway.identity.bearer import refused
from gateway.identity.discovery import KeySource, KeysUnavailable, keys_uri
from gateway.identity.issuers import IssuerSpec

_log = logging.getLogger(__name__)

PublicKey: TypeAlias = RSAKey | ECKey | OKPKey
KeySetMap: TypeAlias = Mapping[tuple[str, str], PublicKey]
"""Keys by key id ("" for a key without one) and algorithm."""

MAX_DOCUMENT: Final = 262_144
MAX_KEYS: Final = 100

_CURVES: Final = {
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
_MEMBERS: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_KINDS: Final[dict[str, type[PublicKey]]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
_RSA_LENGTHS: Final = range(342, 1_367)
"""Base64url digits of a modulus of 2,048 to 8,192 bits: neither breakable nor slow."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often an issuer is asked, and for how long its last answer is good, in seconds."""

    refresh_s: float = 600.0
    retry_s: float = 30.0
    """At most one look-up in this time is caused by tokens with an unknown key."""
    fetch_s: float = 5.0
    max_stale_s: float = 21_600.0


DEFAULT_PACE: Final = Pace()


class IssuerKeys:
    """Looks a key up, fetching at most once per `retry_s` when it is not there.

    An issuer that cannot be reached is trusted by its last answer for `max_stale_s`, then not at all.
    """

    def __init__(
        self,
        spec: IssuerSpec,
        source: KeySource,
        *,
        pace: Pace = DEFAULT_PACE,
        monotonic_s: Callable[[], float] = time.monotonic,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._spec = spec
        self._source = source
        self._pace = pace
        self._monotonic_s = monotonic_s
        self._on_change = on_change
        self._document = b""
        self._keys: KeySetMap = {}
        self._fresh_until = float("-inf")
        self._retry_at = float("-inf")
        self._fetching = anyio.Lock()

    async def key(self, key_id: str, algorithm: str) -> PublicKey:
        """The issuer's key for that id and algorithm. Raises `Unauthenticated` when it has none, or cannot be asked."""
        found = self._find(key_id, algorithm)
        if found is None:
            await self._ask_again()
            found = self._find(key_id, algorithm)
        if found is not None:
            return found
        if self._monotonic_s() > self._fresh_until:
            raise refused(f"the keys of {self._spec.issuer} cannot be read at the moment: try again later")
        raise refused(f"{self._spec.issuer} has no key that this token could be signed with: get a new token")

    def _find(self, key_id: str, algorithm: str) -> PublicKey | None:
        if self._monotonic_s() > self._fresh_until:
            return None
        if key_id:
            return self._keys.get((key_id, algorithm))
        fitting = [key for (_, name), key in self._keys.items() if name == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    async def _ask_again(self) -> None:
        async with self._fetching:  # whoever waited here finds what the one before has fetched
            if self._monotonic_s() >= self._retry_at:
                await self._attempt()

    async def refresh(self) -> bool:
        """Fetch the keys now; `False` when the issuer did not give any."""
        async with self._fetching:
            return await self._attempt()

    async def _attempt(self) -> bool:
        self._retry_at = self._monotonic_s() + self._pace.retry_s
        try:
            # A client that goes away must not waste the one attempt that others wait for.
            with anyio.fail_after(self._pace.fetch_s, shield=True):
                document = await self._source.fetch(await keys_uri(self._spec, self._source), self._spec.reach)
            self._accept(document)
        except (KeysUnavailable, TimeoutError) as exc:
            _log.warning("issuer %s: keys not read, keeping the last ones: %s", self._spec.issuer, exc or "timeout")
            return False
        return True

    def _accept(self, document: bytes) -> None:
        keys = parse_keys(document, self._spec.algorithms)
        changed = document != self._document
        self._document, self._keys = document, keys
        self._fresh_until = self._monotonic_s() + self._pace.max_stale_s
        if changed:
            self._on_change()

    async def run(self) -> None:
        """Keep the keys fresh until cancelled."""
        while True:
            fetched = await self.refresh()
            await anyio.sleep(self._pace.refresh_s if fetched else self._pace.retry_s)


def parse_keys(document: bytes, algorithms: Sequence[str]) -> KeySetMap:
    """The keys of a JWK set that can verify one of `algorithms`; others are ignored (RFC 7517 section 5).

    Ignored are also keys for encryption, private keys that somebody published, and RSA below 2,048 bits. Raises
    `KeysUnavailable` for a document that is not a key set at all.
    """
    keys: dict[tuple[str, str], PublicKey] = {}
    for entry in _entries(document):
        key_id = entry.get("kid", "")
        for algorithm in algorithms:
            if not isinstance(key_id, str) or (key_id, algorithm) in keys or not _fits(entry, algorithm):
                continue
            key = _imported(entry)
            if key is not None:
                keys[key_id, algorithm] = key
    return keys


def _entries(document: bytes) -> list[JsonObject]:
    if len(document) > MAX_DOCUMENT:
        raise KeysUnavailable(f"the key set is larger than {MAX_DOCUMENT} bytes")
    try:
        value: JsonValue = codec.loads(document)
    except ValueError as exc:
        raise KeysUnavailable("the key set is not JSON") from exc
    entries = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise KeysUnavailable(f"the key set has no `keys`, or more than {MAX_KEYS}")
    return [entry for entry in entries if isinstance(entry, dict)]


def _fits(entry: JsonObject, algorithm: str) -> bool:
    return "d" not in entry and _is_for(entry, algorithm) and _has_shape(entry, algorithm)


def _is_for(entry: JsonObject, algorithm: str) -> bool:
    operations = entry.get("key_ops", ["verify"])
    return (
        entry.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and entry.get("alg", algorithm) == algorithm
    )


def _has_shape(entry: JsonObject, algorithm: str) -> bool:
    if algorithm in _CURVES:
        return (entry.get("kty"), entry.get("crv")) == _CURVES[algorithm]
    modulus = entry.get("n")
    return entry.get("kty") == "RSA" and isinstance(modulus, str) and len(modulus) in _RSA_LENGTHS


def _imported(entry: JsonObject) -> PublicKey | None:
    kind = str(entry["kty"])
    # Only what a public key is made of: nothing else in the entry can change how the key is used.
    members: dict[str, str | list[str]] = {name: str(entry.get(name, "")) for name in _MEMBERS[kind]}
    try:
        return _KINDS[kind].import_key({"kty": kind, **members})
    except (JoseError, ValueError) as exc:
        _log.warning("a key of kind %s is not valid and ignored: %s", kind, type(exc).__name__)
        return None
