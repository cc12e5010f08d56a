"""A host has one form, and nothing that a resolver could read as another host gets through."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxes.egress.gate import Destination
from sandboxes.egress.hosts import BadRequest, canonical_host, host_and_port

HOSTISH = st.text(alphabet="0123456789abcdefxX.:[]%-_@ \u0661\uff0e\u3002/\\#?\x00", max_size=30)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("_dmarc.a-b.example", "_dmarc.a-b.example"),
        ("XN--Bcher-KVA.example", "xn--bcher-kva.example"),
        ("1.2.3.4.", "1.2.3.4"),
        ("[::1]", "::1"),
        ("[::1].", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[2001:DB8::A]", "2001:db8::a"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
        ("[::ffff:7f00:1]", "127.0.0.1"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        ("0xg.0x", None),
        ("127.1", None),
        ("2130706433", None),
        ("0x7f000001", None),
        ("0x7f.0.0.1", None),
        ("0177.0.0.1", None),
        ("127.0.0.01", None),
        ("127.0.0.0x1", None),
        ("foo.0x", None),
        ("1.2.3.256", None),
        ("1.2.3.4..", None),
        ("[::1", None),
        ("::1]", None),
        ("[[::1]]", None),
        ("[]", None),
        ("[1.2.3.4]", None),
        ("[example.com]", None),
        ("[::1%lo]", None),
        ("[::1%25lo]", None),
        ("::1", None),
        ("", None),
        (".", None),
        ("..", None),
        (".example.com", None),
        ("a..example", None),
        ("-a.example", None),
        ("a-.example", None),
        ("a b", None),
        ("a@b", None),
        ("a\x00b", None),
        ("a%2eb", None),
        ("b\u00fccher.example", None),
        ("\u0661.2.3.4", None),
        ("127\uff0e0\uff0e0\uff0e1", None),
        ("localho\u017ft", None),
        ("a" * 64 + ".example", None),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        (".".join(["a" * 49] * 5) + ".abc", ".".join(["a" * 49] * 5) + ".abc"),
        (".".join(["a" * 49] * 5) + ".abcd", None),
    ],
)
def test_host_has_one_form_or_none(text: str, host: str | None) -> None:
    if host is None:
        with pytest.raises(BadRequest):
            canonical_host(text)
        return

    assert canonical_host(text) == host


@pytest.mark.parametrize(
    ("text", "default", "pair"),
    [
        ("example.com:443", None, ("example.com", 443)),
        ("[::1]:65535", None, ("::1", 65535)),
        ("example.com.:1", None, ("example.com", 1)),
        ("example.com", 80, ("example.com", 80)),
        ("[::1]", 80, ("::1", 80)),
        ("example.com", None, None),
        ("[::1]", None, None),
        ("example.com:", 80, None),
        ("example.com:", None, None),
        ("example.com:0", None, None),
        ("example.com:65536", None, None),
        ("example.com:080", 80, None),
        ("example.com:+80", 80, None),
        ("example.com:8_0", 80, None),
        ("example.com:\u0668\u0660", 80, None),
        ("example.com:80:80", 80, None),
        ("::1", 80, None),
        ("[::1]x:80", 80, None),
        ("user@example.com:80", 80, None),
    ],
)
def test_port_is_a_plain_number(text: str, default: int | None, pair: tuple[str, int] | None) -> None:
    if pair is None:
        with pytest.raises(BadRequest):
            host_and_port(text, default)
        return

    assert host_and_port(text, default) == pair


@given(HOSTISH)
def test_canonical_form_is_stable_and_reads_only_one_way(text: str) -> None:
    try:
        host = canonical_host(text)
    except BadRequest:
        return

    assert canonical_host(Destination(host, 1, "http", "GET").authority.removesuffix(":1")) == host
    try:
        liberal = socket.inet_ntoa(socket.inet_aton(host))  # 127.1, octal, hex: as the C library reads them
    except OSError:
        return
    assert str(ip_address(host)) == liberal


def test_authority_puts_ipv6_in_brackets() -> None:
    assert Destination("::1", 80, "http", "GET").authority == "[::1]:80"
    assert Destination("a.example", 443, "tunnel", "CONNECT").authority == "a.example:443"
