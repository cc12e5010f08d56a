"""The key with which this gateway signs the cards that it publishes (A2A 1.0, section 8.4.2).

It is derived from a secret of the state store, so every replica has the same without any of them handing it around.
Signatures are deterministic (RFC 6979): the same card gives the same bytes, and so the same ETag, everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway import codec
from gateway.identity import base64url
from gateway.ports import StateStore

ALGORITHM: Final = "ES256"
SECRET: Final = "agent-card-signing"  # noqa: S105  # a name
"""The name of the secret in the store."""
JWKS_PATH: Final = "/.well-known/interlock-jwks.json"

_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (FIPS 186-5)
_SIZE: Final = 32


class CardKeys:
    """Signs cards, and publishes what they are checked with. `jwks_url` is where clients find `jwks()`."""

    def __init__(self, secret: bytes, jwks_url: str) -> None:
        if len(secret) != _SIZE:
            raise ValueError(f"the secret for signing cards has {_SIZE} bytes")
        self._private = _key_of(secret)
        self._public = _public_jwk(self._private)
        self._jwks_url = jwks_url
        self.key_id = _thumbprint(self._public)

    @classmethod
    async def load(cls, store: StateStore, base_url: str) -> Self:
        """The keys of the gateway whose clients know it by `base_url`."""
        return cls(await store.secret(SECRET), base_url.rstrip("/") + JWKS_PATH)

    def jwks(self) -> Mapping[str, object]:
        """The key set (RFC 7517 section 5) that `JWKS_PATH` serves."""
        return {"keys": [{**self._public, "kid": self.key_id, "alg": ALGORITHM, "use": "sig"}]}

    def sign(self, card: Mapping[str, object], payload: bytes = b"") -> dict[str, object]:
        """The card with exactly one signature, ours. `payload` is what it covers: without it, all of the card."""
        unsigned = {name: value for name, value in card.items() if name != "signatures"}
        return {**unsigned, "signatures": [self.signature(payload or codec.jcs(unsigned))]}

    def signature(self, payload: bytes) -> dict[str, str]:
        """An `AgentCardSignature` over canonical JSON."""
        header = {"alg": ALGORITHM, "kid": self.key_id, "typ": "JOSE", "jku": self._jwks_url}
        protected = base64url.encode(codec.dumps(header))
        signed = f"{protected}.{base64url.encode(payload)}".encode()
        der = self._private.sign(signed, ec.ECDSA(SHA256(), deterministic_signing=True))
        r, s = utils.decode_dss_signature(der)
        return {"protected": protected, "signature": base64url.encode(r.to_bytes(_SIZE) + s.to_bytes(_SIZE))}


def _key_of(secret: bytes) -> ec.EllipticCurvePrivateKey:
    # 16 bytes more than the order has, so that the remainder favours no key (FIPS 186-5 appendix A.2.1).
    wide = HKDF(algorithm=SHA256(), length=_SIZE + 16, salt=None, info=b"interlock agent card ES256 1").derive(secret)
    return ec.derive_private_key(int.from_bytes(wide) % (_ORDER - 1) + 1, ec.SECP256R1())


def _public_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    point = key.public_key().public_numbers()
    x, y = (base64url.encode(coordinate.to_bytes(_SIZE)) for coordinate in (point.x, point.y))
    return {"crv": "P-256", "kty": "EC", "x": x, "y": y}


def _thumbprint(public: Mapping[str, str]) -> str:
    """RFC 7638: the digest of the required members in their alphabetic order."""
    return base64url.encode(hashlib.sha256(codec.canonical(public)).digest())
