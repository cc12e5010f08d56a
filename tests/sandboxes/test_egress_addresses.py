"""Public addresses may be dialled, others only when a range names them, and some only one by one."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.addresses import parsed, passes
from sandboxes.egress.gate import Network

PUBLIC = ["8.8.8.8", "93.184.216.34", "168.63.129.17", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001::200e"]
NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.0.9",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:10.0.0.1",
    "::ffff:0:8.8.8.8",
    "64:ff9b::127.0.0.1",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "2606:4700::5efe:127.0.0.1",
    "2606:4700::200:5efe:10.0.0.1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
EVERYTHING = ("0.0.0.0/0", "::/0")


def ranges(*texts: str) -> Sequence[Network]:
    return tuple(ip_network(text) for text in texts)


@pytest.mark.parametrize("text", PUBLIC)
def test_public_address_passes_without_a_range(text: str) -> None:
    assert passes(ip_address(text), ())


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_other_address_is_refused_without_a_range(text: str) -> None:
    assert not passes(ip_address(text), ())


@pytest.mark.parametrize(
    ("text", "granted"),
    [
        ("10.1.2.3", "10.0.0.0/8"),
        ("127.0.0.1", "127.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.0.0.0/8"),
        ("::1", "::1"),
        ("fd12::1", "fd12::/64"),
        ("169.254.169.254", "169.254.169.254"),
        ("::ffff:169.254.169.254", "169.254.169.254/32"),
        ("fd00:ec2::254", "fd00:ec2::254/128"),
        ("168.63.129.16", "168.63.129.16"),
        ("100.64.0.1", "100.64.0.0/10"),
        ("64:ff9b::8.8.8.8", "64:ff9b::/96"),
        ("2002:808:808::1", "2002::/16"),
        ("240.0.0.1", "240.0.0.0/4"),
    ],
)
def test_range_opens_what_it_names(text: str, granted: str) -> None:
    assert passes(ip_address(text), ranges(granted))


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254",
        "169.254.170.2",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::1",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
    ],
)
def test_metadata_is_never_opened_by_a_wide_range(text: str) -> None:
    assert not passes(ip_address(text), ranges(*EVERYTHING, "169.254.0.0/16", "169.254.169.252/30", "fd00:ec2::/64"))


@pytest.mark.parametrize("text", ["0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "64:ff9b:1::8.8.8.8"])
def test_no_destination_is_opened_by_nothing(text: str) -> None:
    assert not passes(ip_address(text), ranges(*EVERYTHING, text))


@pytest.mark.parametrize(
    "text", ["64:ff9b::10.0.0.1", "2002:a00:1::1", "::10.0.0.1", "2001:0:a00:1::1", "2606:4700::5efe:10.0.0.1"]
)
def test_address_within_an_address_has_to_pass_as_well(text: str) -> None:
    assert not passes(ip_address(text), ranges("::/0"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("2606:4700::1", "2606:4700::1"),
        ("fe80::1%eth0", None),
        ("example.com", None),
        ("", None),
    ],
)
def test_resolvers_answer_is_an_address_or_nothing(text: str, address: str | None) -> None:
    assert parsed(text) == (None if address is None else ip_address(address))


@given(st.integers(0, 2**32 - 1))
def test_wrapped_ipv4_address_is_judged_as_itself(number: int) -> None:
    plain, wrapped = IPv4Address(number), IPv6Address(0xFFFF << 32 | number)

    assert passes(wrapped, ()) == passes(plain, ())
    assert not passes(plain, ()) or plain.is_global


@given(st.integers(0, 2**128 - 1))
def test_only_global_unicast_passes(number: int) -> None:
    address = IPv6Address(number)

    assert not passes(address, ()) or (address.is_global and number >> 125 == 1) or address.ipv4_mapped
