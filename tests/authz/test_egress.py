"""The obligation `egress`: what a pattern covers, what is none, and that several grant what all of them do."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.authz.egress import MIB, Egress, merge_egress, read_egress
from gateway.authz.hosts import HostPattern, canonical_host, host_pattern, in_both
from gateway.authz.reading import UnsupportedObligation

PARTS = st.sampled_from(["a", "b", "example", "org"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map(".".join)
PORTS = st.sampled_from(["", ":80", ":443", ":8443"])
PATTERNS = st.builds(
    lambda below, name, port: f"{below}{name}{port}", st.sampled_from(["", "*."]), NAMES, PORTS
).filter(lambda text: not text.startswith("*.") or "." in text[2:])
RANGES = st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "192.168.0.0/16", "fc00::/7", "fd00::/8"])
OBLIGATIONS = st.fixed_dictionaries(
    {"max_mb": st.integers(1, 5)},
    optional={
        "hosts": st.lists(PATTERNS, max_size=5),
        "ranges": st.lists(RANGES, max_size=3),
        "max_s": st.integers(1, 5),
        "max_connections": st.integers(1, 5),
    },
).map(read_egress)


def granting(*hosts: str) -> Egress:
    return read_egress({"hosts": list(hosts)})


@pytest.mark.parametrize(
    ("pattern", "host", "port", "covered"),
    [
        ("api.example.org", "api.example.org", 443, True),
        ("api.example.org", "api.example.org", 80, False),
        ("api.example.org:80", "api.example.org", 80, True),
        ("api.example.org:80", "api.example.org", 443, False),
        ("api.example.org", "example.org", 443, False),
        ("api.example.org", "x.api.example.org", 443, False),
        ("api.example.org", "api.example.org.evil.test", 443, False),
        ("*.example.org", "api.example.org", 443, True),
        ("*.example.org", "a.b.example.org", 443, True),
        ("*.example.org", "example.org", 443, False),
        ("*.example.org", "badexample.org", 443, False),
        ("*.example.org", ".example.org", 443, False),
        ("*.example.org", "api.example.org.", 443, False),
        ("*.example.org", "api.example.org", 8443, False),
        ("*.example.org:8443", "api.example.org", 8443, True),
        ("localhost:8080", "localhost", 8080, True),
        ("192.0.2.7", "192.0.2.7", 443, True),
        ("192.0.2.7", "192.0.2.70", 443, False),
        ("192.0.2.7", "192.000.002.007", 443, False),
        ("192.0.2.7", "3221225991", 443, False),
        ("192.0.2.7", "::ffff:192.0.2.7", 443, False),
        ("[2001:db8::1]", "2001:db8::1", 443, True),
        ("[2001:db8::1]", "2001:DB8:0::1", 443, True),
        ("[2001:db8::1]", "[2001:db8::1]", 443, False),
        ("[2001:db8::1]:8443", "2001:db8::1", 8443, True),
        ("[fe80::1]", "fe80::1%eth0", 443, False),
        ("api.example.org", "API.example.org", 443, False),
        ("api.example.org", "api.example.org\n", 443, False),
        ("api.example.org", "", 443, False),
        ("xn--bcher-kva.example", "xn--bcher-kva.example", 443, True),
    ],
)
def test_a_pattern_covers_a_host_on_a_port(pattern: str, host: str, port: int, covered: bool) -> None:
    assert granting(pattern).grants(host, port) is covered


@pytest.mark.parametrize(
    "text",
    [
        *("*", "*.", "*.*", "*.org", "*.localhost", "a*.example.org", "a.*.org", "**.example.org", "*example.org"),
        *("*.192.0.2.7", "*.0.2.7", "*.[2001:db8::1]", "*:443", "*.example.org:*"),
        *(
            "API.example.org",
            "api.example.org.",
            ".example.org",
            "a..b",
            "-a.org",
            "a-.org",
            "a_b.org",
            " a.org",
            "a.org\n",
        ),
        *(
            "https://a.org",
            "a.org/",
            "a@b.org",
            "a.org:",
            "a.org:0",
            "a.org:080",
            "a.org:65536",
            "a.org:-1",
            "a.org:443:1",
        ),
        *("127.1", "1.2.3", "0x7f.1", "0x7f000001", "2130706433", "a.0x1", "a.1", "1.2.3.4.5", "256.1.1.1", "01.2.3.4"),
        *("::1", "2001:db8::1", "[2001:db8::1", "2001:db8::1]", "[2001:DB8::1]", "[2001:db8:0:0::1]", "[::1%lo]", "[]"),
        *("[192.0.2.7]", "[::ffff:192.0.2.7]", "[example.org]", "[::1]x", "bücher.example", "１.2.3.4", "a\x00b"),
        *("a" * 64 + ".org", ".".join(["a" * 60] * 5), "[:::]", "[::1]:99999"),
    ],
)
def test_what_is_no_canonical_pattern_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(UnsupportedObligation, match=r"egress: hosts: ") as caught:
        granting(text)

    assert len(text) < 4 or text not in str(caught.value).replace("after *. comes", "").replace("*. and a name", "")


@given(st.text(max_size=40) | st.from_regex(r"(\*\.)?[a-z0-9.:\[\]-]{0,30}(:[0-9]{1,6})?", fullmatch=True))
def test_whatever_is_read_is_canonical_and_reads_the_same_again(text: str) -> None:
    try:
        pattern = host_pattern(text)
    except ValueError:
        return

    assert host_pattern(str(pattern)) == pattern
    assert str(pattern) in {text, f"{text}:443"}
    assert canonical_host(pattern.host) == pattern.host
    assert 0 < pattern.port <= 65535
    assert re.fullmatch(r"[a-z0-9.:-]+", pattern.host)


@given(st.text(max_size=30))
def test_a_canonical_host_stays_as_it_is(text: str) -> None:
    host = canonical_host(text)

    assert canonical_host(host) == host
    assert host == host.lower()
    assert not host.endswith(".")


@given(PATTERNS, PATTERNS, NAMES, st.sampled_from([80, 443, 8443]))
def test_what_both_patterns_cover_is_exactly_what_each_covers(one: str, other: str, name: str, port: int) -> None:
    first, second = host_pattern(one), host_pattern(other)

    both = in_both([first], [second])

    assert any(pattern.matches(name, port) for pattern in both) == (
        first.matches(name, port) and second.matches(name, port)
    )


@given(st.lists(OBLIGATIONS, min_size=1, max_size=4), NAMES, st.sampled_from([80, 443, 8443]))
def test_several_grant_what_every_one_that_grants_anything_does(items: list[Egress], name: str, port: int) -> None:
    grants = [item for item in items if not item.caps_only]

    merged = merge_egress(items)

    assert merged.grants(name, port) == (bool(grants) and all(item.grants(name, port) for item in grants))
    for text in ("10.1.2.3", "10.9.9.9", "192.168.1.1", "fd00::1", "fc00::1", "192.0.2.1"):
        address = ip_address(text)
        assert merged.reaches(address) == (bool(grants) and all(item.reaches(address) for item in grants))
    assert merged.max_bytes == min(item.max_bytes or 0 for item in items)
    assert merged.max_s == min([item.max_s for item in items if item.max_s], default=None)
    assert merged.max_connections == min([item.max_connections for item in items if item.max_connections], default=None)
    assert read_egress(merged.properties) == merged


@given(st.permutations([{"hosts": ["a.b"]}, {"hosts": ["*.b.c", "a.b"]}, {"max_s": 3}, {"hosts": ["a.b", "a.b:80"]}]))
def test_the_order_of_rules_does_not_matter(entries: list[dict[str, object]]) -> None:
    merged = merge_egress([merge_egress([read_egress(entry)]) for entry in entries])

    assert merged.hosts == (HostPattern("a.b"),)
    assert (merged.max_s, merged.max_bytes) == (3, None)


def test_two_rules_that_grant_different_hosts_grant_none() -> None:
    merged = merge_egress([granting("a.example.org"), granting("b.example.org")])

    assert merged.hosts == ()
    assert merged.properties == {"hosts": []}
    assert merge_egress([merged, granting("a.example.org")]).hosts == ()


def test_one_that_only_caps_grants_nothing_and_takes_nothing_away() -> None:
    cap = read_egress({"max_mb": 2})

    merged = merge_egress([cap, read_egress({"hosts": ["a.example.org"], "max_mb": 5})])

    assert not cap.grants("a.example.org", 443)
    assert merged.grants("a.example.org", 443)
    assert merged.max_bytes == 2 * MIB
    assert merge_egress([cap, read_egress({"max_s": 1})]).caps_only


def test_an_empty_list_of_hosts_takes_the_hosts_of_others_away() -> None:
    merged = merge_egress([granting(), granting("a.example.org")])

    assert not merged.grants("a.example.org", 443)


def test_ranges_are_reached_and_nothing_in_ipv6_that_stands_for_them() -> None:
    egress = read_egress({"hosts": ["db.corp.test:5432"], "ranges": ["10.1.0.0/16", "fd00::/8"]})

    assert egress.ranges[0] == IPv4Network("10.1.0.0/16")
    assert egress.reaches(ip_address("10.1.255.255"))
    assert egress.reaches(ip_address("fd12::1"))
    assert not egress.reaches(ip_address("10.2.0.0"))
    assert not egress.reaches(ip_address("::ffff:10.1.0.1"))
    assert not granting("10.1.0.1").reaches(ip_address("10.1.0.1"))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "10.1.0.0",
            "10.1.0.1/16",
            "10.1.0.0/255.255.0.0",
            "0.0.0.0/0",
            "10.0.0.0/7",
            "::/0",
            "::/6",
            "a/8",
            "10.0.0.0/33",
        ),
        *("FC00::/7", "fc00:0::/8", "::ffff:10.0.0.0/104", "::ffff:0:0/96", "::/8", "fe80::%1/64", " 10.0.0.0/8"),
    ],
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedObligation, match="egress"):
        read_egress({"ranges": [text]})


@pytest.mark.parametrize(
    "properties",
    [
        None,
        [],
        {},
        {"host": ["a.b"]},
        {"hosts": {"a.b": True}},
        {"hosts": [1]},
        {"hosts": [""]},
        {"hosts": ["a.b"] * 65},
        {"ranges": 10},
        {"max_mb": 0},
        {"max_mb": 1.5},
        {"max_mb": True},
        {"max_mb": None},
        {"max_mb": (1 << 20) + 1},
        {"max_s": -1},
        {"max_s": 86_401},
        {"max_connections": "4"},
        {"hosts": ["a.b"], "max_bytes": 1},
    ],
)
def test_what_is_not_written_as_documented_is_refused(properties: object) -> None:
    with pytest.raises(UnsupportedObligation, match=r"^egress"):
        read_egress(properties)


def test_its_properties_say_what_was_read() -> None:
    egress = read_egress({"hosts": ["a.b", "a.b:443", "*.b.c:80", "[::1]"], "ranges": ["10.0.0.0/8"], "max_s": 1})

    assert egress.type == "egress"
    assert egress.properties == {
        "hosts": ["a.b:443", "*.b.c:80", "[::1]:443"],
        "ranges": ["10.0.0.0/8"],
        "max_s": 1,
    }
