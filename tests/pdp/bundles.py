"""Small bundles and keys for tests."""

from __future__ import annotations

from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from adapters.pdp.bundle import bundle_of
from adapters.pdp.bundle_signature import SIGNATURES, sign
from adapters.pdp.opa_bundle import write_bundle
from adapters.pdp.opa_bundle_archive import packed
from adapters.pdp.opa_bundle_keys import private_key

SECRET = "a shared secret of forty characters, you know"
ALLOW = 'allow if input.resource.id == "shop/buy"'
QUESTION = {
    "schema": "interlock.input/1",
    "phase": "request",
    "subject": {"type": "agent", "id": "agent:a", "properties": {"roles": ["x"]}},
    "action": {"name": "mcp.tools.call", "properties": {}},
    "resource": {
        "type": "tool",
        "id": "shop/buy",
        "properties": {"upstream": "shop", "name": "buy", "truncated": False},
    },
    "context": {"supported_obligations": []},
}


@cache
def keys(kind: str) -> tuple[str, str]:
    """A private and a public key, or a secret twice, always the same ones for a name such as `rsa` or `ec-other`."""
    if kind.startswith("secret"):
        return SECRET, SECRET
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    if kind.startswith("rsa"):
        key = rsa.generate_private_key(65537, 1024 if "short" in kind else 2048)
    elif kind.startswith("ec"):
        key = ec.generate_private_key(ec.SECP256K1() if "strange" in kind else ec.SECP256R1())
    else:
        key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return private, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def module(rules: str, team: str = "shop") -> str:
    """A module of one team."""
    return f"package rules.{team}\n\nimport future.keywords.not\n\ndefault allow := false\n\n{rules}\n"


def files_of(rules: str = ALLOW, *, revision: str = "", tests: str = "") -> dict[str, bytes]:
    """The files of a bundle without the library."""
    bundle = bundle_of({"shop.rego": module(rules)}, tests={"shop_test.rego": tests} if tests else None)
    return write_bundle(bundle, revision=revision, roots=[""], with_tests=True)


def signed(files: dict[str, bytes], kind: str = "ec", algorithm: str = "") -> dict[str, bytes]:
    """The same with a signature."""
    return {**files, SIGNATURES: sign(files, private_key(keys(kind)[0]), algorithm)}


def archive(rules: str = ALLOW, *, kind: str = "", revision: str = "", tests: str = "") -> bytes:
    """A bundle, signed if a kind of key is named."""
    files = files_of(rules, revision=revision, tests=tests)
    return packed(signed(files, kind) if kind else files)
