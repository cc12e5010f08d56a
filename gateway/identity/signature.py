"""Checks the signature of a token with one key and the one algorithm that was agreed on (RFC 7515, RFC 8725)."""

from __future__ import annotations

from typing import Final

from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel
from joserfc.jws import JWSRegistry, deserialize_compact

from gateway.identity.bearer import MAX_BEARER, refused
from gateway.identity.issuers import ALGORITHMS
from gateway.identity.jwks import PublicKey


def check_signature(token: str, key: PublicKey, algorithm: str) -> None:
    """Raises `Unauthenticated` unless the token is signed by the owner of the key with exactly that algorithm."""
    try:
        deserialize_compact(token, key, registry=_REGISTRIES[algorithm])
    except (JoseError, ValueError) as exc:
        raise refused("the signature of the access token does not hold: get a new one") from exc


class _OneAlgorithm(JWSRegistry):
    """joserfc's rules with our limits, for one algorithm.

    Its own registry prints a warning for each EdDSA token (RFC 9864 has a new name for it), and refuses headers
    that it does not know, which RFC 7515 section 4 says to ignore.
    """

    max_header_length = max_payload_length = max_signature_length = MAX_BEARER

    def __init__(self, algorithm: str) -> None:
        super().__init__(strict_check_header=False)
        self._algorithm = algorithm

    def get_alg(self, name: str) -> JWSAlgModel:
        """The algorithm, if it is the one; `name` is what the token's header asks for."""
        if name != self._algorithm:
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]


_REGISTRIES: Final = {name: _OneAlgorithm(name) for name in ALGORITHMS}
