"""An issuer of tokens for tests, which signs anything, well-formed or not, without the library under test."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from gateway.errors import InterlockError
from gateway.identity.discovery import KeysUnavailable
from gateway.identity.issuers import Reach

ISSUER = "https://issuer.example"
AUDIENCE = "https://gateway.example/mcp"
NOW = 1_700_000_000.0

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, length: int | None = None) -> str:
    return b64(value.to_bytes(length or (value.bit_length() + 7) // 8))


@dataclass(frozen=True)
class Signer:
    """One key of an issuer."""

    kid: str = "k1"
    alg: str = "ES256"
    private: PrivateKey = field(default_factory=lambda: EC)

    @property
    def jwk(self) -> dict[str, object]:
        return {"kid": self.kid, "alg": self.alg, "use": "sig", **self.public()}

    def public(self) -> dict[str, object]:
        if isinstance(self.private, rsa.RSAPrivateKey):
            numbers = self.private.public_key().public_numbers()
            return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            point = self.private.public_key().public_numbers()
            return {"kty": "EC", "crv": "P-256", "x": number(point.x, 32), "y": number(point.y, 32)}
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(self.private.public_key().public_bytes_raw())}

    def token(
        self,
        claims: Mapping[str, object] | bytes | None = None,
        header: Mapping[str, object] | bytes | None = None,
        **changed: object,
    ) -> str:
        """A token with these claims (usual ones when `None`), each of `changed` replaced, or left out when `...`."""
        if claims is None or isinstance(claims, Mapping):
            full = {**(usual_claims() if claims is None else claims), **changed}
            claims = json.dumps({name: value for name, value in full.items() if value is not ...}).encode()
        if not isinstance(header, bytes):
            full = {"alg": self.alg, "typ": "at+jwt", "kid": self.kid, **(header or {})}
            header = json.dumps({name: value for name, value in full.items() if value is not ...}).encode()
        signed = f"{b64(header)}.{b64(claims)}"
        return f"{signed}.{b64(self.sign(signed.encode()))}"

    def sign(self, data: bytes) -> bytes:
        if isinstance(self.private, rsa.RSAPrivateKey):
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
            return self.private.sign(data, pss if self.alg == "PS256" else padding.PKCS1v15(), hashes.SHA256())
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            r, s = utils.decode_dss_signature(self.private.sign(data, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32) + s.to_bytes(32)
        return self.private.sign(data)


def usual_claims() -> dict[str, object]:
    return {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ana",
        "client_id": "ide",
        "jti": "t1",
        "iat": NOW - 10,
        "exp": NOW + 600,
    }


def key_set(*signers: Signer) -> bytes:
    return json.dumps({"keys": [signer.jwk for signer in signers]}).encode()


class FakeKeySource:
    """`KeySource` with documents by URL; an exception among them is raised. Remembers what was asked."""

    def __init__(self, documents: Mapping[str, bytes | InterlockError] | None = None) -> None:
        self.documents = dict(documents or {})
        self.asked: list[tuple[str, Reach]] = []

    async def fetch(self, url: str, reach: Reach) -> bytes:
        self.asked.append((url, reach))
        answer = self.documents.get(url, KeysUnavailable("it answers with status 404"))
        if isinstance(answer, InterlockError):
            raise answer
        return answer


@dataclass
class Clock:
    """A clock that goes on when told to."""

    now_s: float = NOW

    def __call__(self) -> float:
        return self.now_s
