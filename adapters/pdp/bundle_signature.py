"""Who answers for a bundle: OPA's signature over the digests of all its files.

`.signatures.json` holds one JWT whose payload names every other file with its digest. Which algorithm is meant
follows from the key and never from the token, so that neither `none` nor a public key used as a shared secret passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, cast

from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel
from joserfc.jws import JWSRegistry, deserialize_compact, extract_compact, serialize_compact

from adapters.pdp.opa_bundle_archive import MAX_EXPANDED, refused
from adapters.pdp.opa_bundle_digest import HASH, digest_of
from adapters.pdp.opa_bundle_keys import ALGORITHMS, SigningKey
from gateway import codec

SIGNATURES: Final = ".signatures.json"
KEY_ID: Final = "default"
"""The name that OPA gives to a key that has none."""
MAX_BYTES: Final = 4 << 20
"""Of `.signatures.json`, which is read before anybody has answered for it: enough for as many files as there may be."""
_TROUBLE: Final = (JoseError, ValueError, TypeError, RecursionError)
"""What a token that nobody signed can bring about: the library reads its header before it verifies anything."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature says of itself."""

    algorithm: str
    key_id: str
    scope: str
    files: Mapping[str, tuple[str, str]]
    """The digest of each file, with the name of the digest."""


def sign(
    files: Mapping[str, bytes], key: SigningKey, algorithm: str = "", *, key_id: str = "", scope: str = ""
) -> bytes:
    """The content of `.signatures.json` for these files. Raises `PolicyRefused` when the key is not for `algorithm`."""
    chosen = algorithm or key.algorithms[0]
    if chosen not in key.algorithms:
        raise refused(f"{chosen} is not for this key; use {' or '.join(key.algorithms)}", "key")
    listed = [
        {"name": name, "hash": digest_of(name, files[name], HASH), "algorithm": HASH}
        for name in sorted(files)
        if name != SIGNATURES
    ]
    claims: dict[str, object] = {"files": listed, "keyid": key_id or KEY_ID}
    if scope:
        claims["scope"] = scope
    header = {"alg": chosen, "kid": key_id or KEY_ID, "typ": "JWT"}
    token = serialize_compact(header, codec.dumps(claims), key.key, registry=_OneOf((chosen,)))
    return codec.dumps({"signatures": [token]}) + b"\n"


def verify(files: Mapping[str, bytes], key: SigningKey, *, scope: str = "") -> Signed:
    """What the signature says, when it holds for exactly these files. Raises `PolicyRefused` with what is wrong."""
    token = _token(files)
    try:
        payload = deserialize_compact(token, key.key, registry=_OneOf(key.algorithms)).payload
    except _TROUBLE as exc:
        raise refused(f"does not hold: it was not made with this key ({type(exc).__name__})", SIGNATURES) from exc
    signed = _read(token, payload)
    if signed.scope != scope:
        raise refused(f"is for the scope {signed.scope!r}, and not for {scope!r}", SIGNATURES)
    _compare(files, signed)
    return signed


def inspect(files: Mapping[str, bytes]) -> Signed | None:
    """What the signature says, unverified: for people to look at. `None` when there is none."""
    if SIGNATURES not in files:
        return None
    token = _token(files)
    try:
        return _read(token, extract_compact(token.encode(), registry=_OneOf(ALGORITHMS)).payload)
    except _TROUBLE as exc:
        raise refused("holds no token that can be read", SIGNATURES) from exc


def _compare(files: Mapping[str, bytes], signed: Signed) -> None:
    present = files.keys() - {SIGNATURES}
    for name in sorted(present - signed.files.keys()):
        raise refused("is not covered by the signature; sign the bundle again", name)
    for name in sorted(signed.files.keys() - present):
        raise refused("is signed, but is not in the bundle; build it again", name)
    for name in sorted(present):
        digest, algorithm = signed.files[name]
        if digest_of(name, files[name], algorithm) != digest.lower():
            raise refused("is not what was signed", name)


def _token(files: Mapping[str, bytes]) -> str:
    if SIGNATURES not in files:
        raise refused("is not signed; `interlock policy bundle sign` or `opa build --signing-key` signs it")
    if len(files[SIGNATURES]) > MAX_BYTES:
        raise refused(f"is larger than {MAX_BYTES} bytes", SIGNATURES)
    try:
        document = codec.loads(files[SIGNATURES])
    except ValueError as exc:
        raise refused("is not JSON", SIGNATURES) from exc
    tokens = document.get("signatures") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(tokens, list) or len(tokens) != 1:
        raise refused("must hold exactly one signature", SIGNATURES)
    if document.get("plugin") not in (None, "", "_default"):
        raise refused("was made by a plug-in of OPA's, which nobody here can verify", SIGNATURES)
    if not isinstance(tokens[0], str):
        raise refused("must hold the signature as a text", SIGNATURES)
    return tokens[0]


def _read(token: str, payload: bytes) -> Signed:
    header = extract_compact(token.encode(), registry=_OneOf(ALGORITHMS)).headers()
    try:
        claims = codec.loads(payload)
    except ValueError as exc:
        raise refused("has a payload that is not JSON", SIGNATURES) from exc
    if not isinstance(claims, dict):
        raise refused("has a payload that is no object", SIGNATURES)
    files: dict[str, tuple[str, str]] = {}
    for name, digest, algorithm in _listed(claims.get("files")):
        if name in files:
            raise refused(f"names {name[:80]!r} twice", SIGNATURES)
        files[name] = (digest, algorithm)
    key_id = header.get("kid") or claims.get("keyid") or ""
    return Signed(str(header.get("alg", "")), str(key_id), str(claims.get("scope") or ""), files)


def _listed(entries: object) -> Iterator[tuple[str, str, str]]:
    if not isinstance(entries, list):
        raise refused("names no files", SIGNATURES)
    for entry in entries:
        values = tuple(entry.get(name) for name in ("name", "hash", "algorithm")) if isinstance(entry, dict) else ()
        if len(values) != 3 or not all(isinstance(value, str) for value in values):
            raise refused("names a file without name, hash or algorithm", SIGNATURES)
        yield cast("tuple[str, str, str]", values)


class _OneOf(JWSRegistry):
    """joserfc's rules for the algorithms that a key is for, with room for the names of many files.

    As in `gateway.identity.signature`: its own registry warns of EdDSA, and refuses headers that it does not know.
    """

    max_header_length = 4_096
    max_signature_length = 4_096
    max_payload_length = MAX_EXPANDED

    def __init__(self, algorithms: tuple[str, ...]) -> None:
        super().__init__(strict_check_header=False)
        self._allowed = algorithms

    def get_alg(self, name: str) -> JWSAlgModel:
        """The algorithm, if it is one of those; `name` is what the token's header asks for."""
        if name not in self._allowed:
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]
