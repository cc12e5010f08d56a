"""A tunnel's TLS has to be for the tunnel's own host."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxes.egress.body import CutOff
from sandboxes.egress.sni import MAX_HELLO, SameServer


def hello(name: str | None) -> bytes:
    """What a real client sends first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


def records(message: bytes, size: int) -> bytes:
    """A handshake message in records of at most that size."""
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def made(*extensions: tuple[int, bytes]) -> bytes:
    """A small hello with these extensions, as one record."""
    listed = b"".join(kind.to_bytes(2, "big") + sized(content) for kind, content in extensions)
    content = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00" + sized(listed)
    return records(b"\x01" + len(content).to_bytes(3, "big") + content, 2**14)


def sized(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content


def server_name(name: bytes, kind: int = 0) -> tuple[int, bytes]:
    return 0, sized(bytes([kind]) + sized(name))


def fed(host: str, data: bytes, size: int = 1 << 20) -> bytes:
    guard = SameServer(host)
    return b"".join(guard.feed(data[at : at + size]) for at in range(0, len(data), size))


REAL = hello("a.test")


@pytest.mark.parametrize("size", [1, 7, 300, 1 << 20])
def test_hello_for_the_tunnels_host_goes_through_unchanged(size: int) -> None:
    assert fed("a.test", REAL + b"and more", size) == REAL + b"and more"


@pytest.mark.parametrize("size", [1, 7, 300, 1 << 20])
def test_hello_for_another_host_ends_the_tunnel_before_a_byte_went_on(size: int) -> None:
    guard, out = SameServer("b.test"), b""

    def feed_all() -> None:
        nonlocal out
        for at in range(0, len(REAL), size):
            out += guard.feed(REAL[at : at + size])

    with pytest.raises(CutOff, match="another server"):
        feed_all()
    assert out == b""


def test_hello_without_a_name_goes_through() -> None:
    real = hello(None)
    assert fed("1.2.3.4", real) == real
    assert fed("a.test", made((43, b"x"))) == made((43, b"x"))
    bare = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    old = records(b"\x01" + len(bare).to_bytes(3, "big") + bare, 2**14)
    assert fed("a.test", old) == old


def test_name_in_a_tunnel_to_an_address_ends_it() -> None:
    with pytest.raises(CutOff, match="another server"):
        fed("1.2.3.4", REAL)


@pytest.mark.parametrize("name", [b"A.Test", b"a.test."])
def test_names_are_compared_in_their_one_form(name: bytes) -> None:
    assert fed("a.test", made(server_name(name))) == made(server_name(name))


@pytest.mark.parametrize(
    "data",
    [
        made(server_name(b"a.test"), server_name(b"b.test")),
        made((0, sized(b"\x00" + sized(b"a.test") + b"\x00" + sized(b"b.test")))),
        made(server_name(b"a.test", kind=1)),
        made(server_name(b"")),
        made(server_name(b"b\xc3\xbc.test")),
        made(server_name(b"a.test\x00")),
        made((0, b"\x00")),
        made((0, b"\x00\xff\x00\x00\x06a.test")),
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
        b"\x16\x03\x01\x00\x01\x01\x17\x03\x03\x00\x01\x00",
        b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + bytes(MAX_HELLO),
        records(REAL[5:], 10),
    ],
)
def test_hello_that_cannot_be_read_ends_the_tunnel(data: bytes) -> None:
    with pytest.raises(CutOff):
        fed("a.test", data)


@pytest.mark.parametrize("data", [b"SSH-2.0-x\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x80\x2e\x01", b"\x00", b""])
def test_other_protocols_go_through(data: bytes) -> None:
    assert fed("a.test", data) == data


def test_hello_in_several_records_is_put_together() -> None:
    split = records(REAL[5:], 200)

    assert fed("a.test", split, 50) == split
    with pytest.raises(CutOff):
        fed("b.test", split, 50)


@given(st.binary(max_size=300), st.integers(1, 300))
def test_any_bytes_after_the_mark_of_tls_pass_whole_or_are_cut_off(data: bytes, size: int) -> None:
    def outcome(size: int) -> bytes | None:
        try:
            return fed("a.test", b"\x16" + data, size)
        except CutOff:
            return None

    whole = outcome(1 << 20)

    assert whole in (None, b"", b"\x16" + data)
    assert outcome(size) == whole


@given(st.lists(st.tuples(st.integers(5, len(REAL) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_hello_passes_whole_or_not_at_all(damage: list[tuple[int, int]]) -> None:
    damaged = bytearray(REAL)
    for at, value in damage:
        damaged[at] = value

    try:
        out = fed("a.test", bytes(damaged))
    except CutOff:
        return
    assert out in (b"", bytes(damaged))
