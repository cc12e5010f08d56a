"""Checks who signed an agent card (A2A 1.0, section 8.4: detached JWS, RFC 7515, over canonical JSON, RFC 8785)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from gateway import codec
from gateway.errors import UpstreamProtocolError
from gateway.identity import base64url
from gateway.identity.discovery import KeySource
from gateway.identity.issuers import LOOPBACK_HOSTS, Reach, is_fetchable
from gateway.identity.jwks import KeySetMap, PublicKey, parse_keys

CARD_ALGORITHMS: Final = ("ES256", "ES384", "RS256", "PS256", "EdDSA", "Ed25519")
"""Asymmetric ones: with a shared secret, whoever can check a card can also forge it."""
MAX_SIGNATURES: Final = 16
MAX_PART: Final = 8_192


class SignatureRefused(UpstreamProtocolError):
    """No signature of the card holds. Says which was tried and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class CardSignature:
    """One signature of a card whose header can be read."""

    key_id: str
    algorithm: str
    jwks_url: str
    """Where the signer says that the key is; empty when nowhere."""
    protected: str
    value: bytes


def signatures_of(card: Mapping[str, object]) -> tuple[CardSignature, ...]:
    """The signatures that could hold: those of an allowed algorithm, and without extensions that must be understood.

    Empty for a card that is not signed. Raises `SignatureRefused` for a signed one without any such signature.
    """
    entries = card.get("signatures")
    if entries is None or entries in ([], ()):
        return ()
    if not isinstance(entries, list | tuple) or len(entries) > MAX_SIGNATURES:
        raise SignatureRefused(f"`signatures` of the card must be a list of at most {MAX_SIGNATURES}")
    found = tuple(signature for entry in entries if (signature := _signature(entry)) is not None)
    if not found:
        allowed = ", ".join(CARD_ALGORITHMS)
        raise SignatureRefused(f"the card has no signature with a key id and one of {allowed}")
    return found


def verify(card: Mapping[str, object], keys: KeySetMap, forms: Sequence[bytes] = ()) -> str:
    """The key id of a signature that holds. Raises `SignatureRefused` when none does, or there is none.

    `forms` are the payloads that it may cover; without them, the card as it is, less its signatures.
    """
    payloads = tuple(forms) or (codec.jcs({name: value for name, value in card.items() if name != "signatures"}),)
    signatures = signatures_of(card)
    for signature in signatures:
        key = keys.get((signature.key_id, signature.algorithm))
        if key is not None and any(_holds(signature, key, payload) for payload in payloads):
            return signature.key_id
    if not signatures:
        raise SignatureRefused("the card is not signed")
    named = ", ".join(sorted({ascii(signature.key_id) for signature in signatures}))
    raise SignatureRefused(f"no signature of the card holds (by {named}): it was changed, or the key is another")


async def keys_of(card: Mapping[str, object], card_url: str, source: KeySource) -> KeySetMap:
    """The keys that the card's signatures name, from where the card itself comes from and nowhere else.

    The `jku` of a signature is whatever its writer likes; whoever can write a card could otherwise vouch for it too.
    Raises `SignatureRefused` when none may be asked, and `KeysUnavailable` when one cannot be read.
    """
    urls = {signature.jwks_url for signature in signatures_of(card) if is_near(signature.jwks_url, card_url)}
    if not urls:
        raise SignatureRefused(
            "the card is signed, but names no key set (`jku`) at https on its own host: publish the keys beside it"
        )
    keys: dict[tuple[str, str], PublicKey] = {}
    for url in sorted(urls):
        keys = {**parse_keys(await source.fetch(url, _reach(url)), CARD_ALGORITHMS), **keys}
    return keys


def is_near(jwks_url: str, card_url: str) -> bool:
    """Whether a key set may be fetched for a card: over https (or on loopback), from the card's own origin."""
    return is_fetchable(jwks_url) and is_fetchable(card_url) and _origin(jwks_url) == _origin(card_url)


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _reach(url: str) -> Reach:
    """As far as the card's own host, which configuration names, may be."""
    return "loopback" if urlsplit(url).hostname in LOOPBACK_HOSTS else "private"


def _signature(entry: object) -> CardSignature | None:
    if not isinstance(entry, Mapping):
        return None
    protected, value = entry.get("protected"), entry.get("signature")
    if not isinstance(protected, str) or not isinstance(value, str) or max(len(protected), len(value)) > MAX_PART:
        return None
    try:
        header = json.loads(base64url.decode(protected), object_pairs_hook=_once_each)
        signed = base64url.decode(value)
    except (ValueError, RecursionError):
        return None
    return _with_header(header, protected, signed) if isinstance(header, dict) else None


def _with_header(header: Mapping[str, object], protected: str, value: bytes) -> CardSignature | None:
    key_id, algorithm, url = header.get("kid"), header.get("alg"), header.get("jku")
    if "crit" in header or "b64" in header:  # would change what is signed, or how (RFC 7515 section 4.1.11, RFC 7797)
        return None
    if not isinstance(key_id, str) or not key_id or not isinstance(algorithm, str) or algorithm not in CARD_ALGORITHMS:
        return None
    return CardSignature(key_id, algorithm, url if isinstance(url, str) else "", protected, value)


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    header = dict(pairs)
    if len(header) != len(pairs):
        raise ValueError("a member stands twice")
    return header


def _holds(signature: CardSignature, key: PublicKey, payload: bytes) -> bool:
    signed = f"{signature.protected}.{base64url.encode(payload)}".encode()
    algorithm = JWSRegistry.algorithms[signature.algorithm]
    try:
        algorithm.check_key(key)
        return bool(algorithm.verify(signed, signature.value, key))
    except (JoseError, ValueError):
        return False
