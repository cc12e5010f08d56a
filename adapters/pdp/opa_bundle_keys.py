"""The keys that bundles are signed and verified with, each tied to the algorithms that it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from adapters.pdp.opa_bundle_archive import refused

MIN_SECRET_BYTES: Final = 32
MIN_RSA_BITS: Final = 2_048

_HMAC: Final = ("HS256", "HS384", "HS512")
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
ALGORITHMS: Final = (*_RSA, *_CURVES.values(), "EdDSA", *_HMAC)

_OTHER_KEYS: Final = ("ssh-", "ecdsa-", "sk-", "{", "age", "untrusted comment:")

Key: TypeAlias = RSAKey | ECKey | OKPKey | OctKey


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key with what it may be used for: the first of `algorithms` unless another one is asked for."""

    key: Key
    algorithms: tuple[str, ...]


def public_key(text: str) -> SigningKey:
    """The key that verifies: a PEM public key or certificate, or a shared secret. Raises `PolicyRefused`."""
    if not _is_pem(text):
        return _secret(text)
    if "PRIVATE KEY" in text:
        raise refused("is a private key: whoever verifies needs only the public one", "key")
    try:
        if "CERTIFICATE" in text:
            return _usable(x509.load_pem_x509_certificate(text.encode()).public_key(), _as_public)
        return _usable(load_pem_public_key(text.encode()), _as_public)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise refused("is no PEM public key that can be read", "key") from exc


def private_key(text: str) -> SigningKey:
    """The key that signs: a PEM private key without a password, or a shared secret. Raises `PolicyRefused`."""
    if not _is_pem(text):
        return _secret(text)
    if "PRIVATE KEY" not in text:
        raise refused("is a public key: signing needs the private one", "key")
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise refused("is no PEM private key that can be read (without a password)", "key") from exc
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return _usable(key.public_key(), lambda _: pem)


def _is_pem(text: str) -> bool:
    return "-----BEGIN" in text


def _secret(text: str) -> SigningKey:
    secret = text.strip("\r\n")
    if secret.lstrip().startswith(_OTHER_KEYS):  # published as such keys are, anybody could sign with one
        raise refused("is a key in another form than PEM; convert it", "key")
    if len(secret.encode()) < MIN_SECRET_BYTES:
        what = f"is a shared secret of less than {MIN_SECRET_BYTES} bytes; use a longer one, or a key pair"
        raise refused(what, "key")
    try:
        return SigningKey(OctKey.import_key(secret.encode()), _HMAC)
    except (JoseError, ValueError) as exc:  # it knows more forms of keys than we do
        raise refused("is no shared secret but a key in another form than PEM; convert it", "key") from exc


def _as_public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _usable(public: PublicKeyTypes, pem: Callable[[PublicKeyTypes], bytes]) -> SigningKey:
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < MIN_RSA_BITS:
            raise refused(f"is an RSA key of {public.key_size} bits; {MIN_RSA_BITS} are the least", "key")
        return SigningKey(RSAKey.import_key(pem(public)), _RSA)
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in _CURVES:
        return SigningKey(ECKey.import_key(pem(public)), (_CURVES[public.curve.name],))
    if isinstance(public, ed25519.Ed25519PublicKey):
        return SigningKey(OKPKey.import_key(pem(public)), ("EdDSA",))
    raise refused("is of a kind that signs no bundles; use RSA, EC P-256, P-384 or P-521, or Ed25519", "key")
