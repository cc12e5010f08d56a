"""Clients learn where to get a token, and headers cannot be split with what an error says."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InterlockError, PolicyDenied, Unauthenticated, UnknownResource
from gateway.identity.metadata import challenge, metadata_path, metadata_url, protected_resource

URL = "https://gateway.example/.well-known/oauth-protected-resource/mcp"


def test_document_names_the_resource_and_its_issuers() -> None:
    document = protected_resource(
        "https://gateway.example/mcp",
        issuers=["https://issuer.example"],
        scopes=["mcp:tools"],
        name="Interlock",
        documentation="https://docs.example",
    )

    assert document == {
        "resource": "https://gateway.example/mcp",
        "bearer_methods_supported": ["header"],
        "authorization_servers": ["https://issuer.example"],
        "scopes_supported": ["mcp:tools"],
        "resource_name": "Interlock",
        "resource_documentation": "https://docs.example",
    }


def test_document_without_issuers_sends_nobody_anywhere() -> None:
    document = protected_resource("https://gateway.example", issuers=[])

    assert document == {"resource": "https://gateway.example", "bearer_methods_supported": ["header"]}


@pytest.mark.parametrize(
    ("resource", "path"),
    [
        ("https://gateway.example", "/.well-known/oauth-protected-resource"),
        ("https://gateway.example/", "/.well-known/oauth-protected-resource"),
        ("https://gateway.example/mcp", "/.well-known/oauth-protected-resource/mcp"),
        ("https://gateway.example:8443/servers/x/mcp", "/.well-known/oauth-protected-resource/servers/x/mcp"),
    ],
)
def test_document_lies_between_host_and_path(resource: str, path: str) -> None:
    assert metadata_path(resource) == path
    assert metadata_url(resource) == "https://" + resource.split("/")[2] + path


@pytest.mark.parametrize(
    ("error", "scope", "expected"),
    [
        (Unauthenticated("send one"), "", f'Bearer resource_metadata="{URL}"'),
        (Unauthenticated("send one"), "a b", f'Bearer resource_metadata="{URL}", scope="a b"'),
        (
            Unauthenticated("it expired", challenge="invalid_token"),
            "",
            f'Bearer error="invalid_token", error_description="it expired", resource_metadata="{URL}"',
        ),
        (
            PolicyDenied("needs more"),
            "mcp:admin",
            f'Bearer error="insufficient_scope", error_description="needs more", resource_metadata="{URL}", '
            'scope="mcp:admin"',
        ),
        (PolicyDenied("never"), "", ""),
        (UnknownResource("x"), "mcp:admin", ""),
    ],
)
def test_challenge_says_what_would_help(error: InterlockError, scope: str, expected: str) -> None:
    assert challenge(error, resource_metadata_url=URL, scope=scope) == expected


def test_challenge_is_never_empty_for_a_401() -> None:
    assert challenge(Unauthenticated("send one")) == 'Bearer realm="interlock"'


@settings(deadline=None)
@given(st.text(), st.text())
def test_no_text_leaves_its_quotes(message: str, scope: str) -> None:
    value = challenge(Unauthenticated(message, challenge="invalid_token"), scope=scope)

    assert value.isascii()
    assert value.isprintable()
    assert "\\" not in value
    assert re.fullmatch(r'Bearer (?:[a-z_]+="[^"]*"(?:, )?)+', value)
