"""Cards: what is read of an upstream's, and that nothing of what is published leads past the gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import codec
from gateway.a2a.card_check import MAX_CARD_BYTES, CardRefused, check_card, interfaces_of, read_card
from gateway.a2a.card_shelf import CardShelf, is_current
from gateway.a2a.cards import Places, is_private, may_be_verbatim, published, security_of
from gateway.a2a.directory import AgentEntry
from gateway.a2a.v03 import card_from_03
from gateway.identity.card_keys import CardKeys
from tests.a2a.card_samples import Json, card_of, entry_of, legacy_card_of, skill

HERE = "https://gw.example"
PLACES = Places(HERE, "", "gw.example:50051")
KEYS = CardKeys(b"a" * 32, HERE)


def _published(entry: AgentEntry, **more: Any) -> Any:
    security = security_of()
    wanted: dict[str, Any] = {
        "base_url": HERE,
        "host_url": None,
        "grpc_url": "gw.example:50051",
        "security": security.schemes,
        "requirements": security.requirements,
    }
    return json.loads(codec.dumps(published(entry, **{**wanted, **more})))


def _interface(url: str, binding: str = "JSONRPC", version: str = "1.0", **more: object) -> Json:
    return {"url": url, "protocolBinding": binding, "protocolVersion": version, **more}


# What is read


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"name":"a","name":"b"}', "twice"),
        (b'{"capabilities":{"streaming":true,"streaming":false}}', "twice"),
        (b'{"n\\u0061me":"a","name":"b"}', "twice"),
        (b"[]", "not a JSON object"),
        (b"", "not JSON"),
        (b'{"a":NaN}', "not JSON"),
        (b'{"a":"\xff"}', "not JSON"),
        (b'{"a":"\\ud800"}', "not JSON"),
        (b'{"a":9007199254740993}', "not every reader"),
        (b'{"a":"\\u202egnp.exe"}', "cannot be seen"),
        (b'{"a":[{"b":"\\u001b[2J"}]}', "cannot be seen"),
        (b'{"\\u2066a":1}', "cannot be seen"),
        (b'{"a":' + b"[" * 40 + b"]" * 40 + b"}", "deeper"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":"' + b"x" * MAX_CARD_BYTES + b'"}', "larger"),
    ],
)
def test_card_that_two_readers_could_read_differently_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(CardRefused, match=words):
        read_card(raw)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: json.dumps({"name": text}).encode()))
def test_any_bytes_are_a_card_or_refused(raw: bytes) -> None:
    try:
        card = read_card(raw)
    except CardRefused:
        return

    assert isinstance(card, dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([*card_of(), "provider", "securitySchemes", "documentationUrl", "iconUrl"]), JSON)
def test_card_with_a_member_of_any_type_is_published_or_refused(member: str, value: object) -> None:
    card = card_of(**{member: value})
    try:
        check_card(card)
        entry = entry_of(card)
    except CardRefused:
        return

    assert set(_published(entry)) >= {"name", "skills", "supportedInterfaces"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 300}, "name"),
        ({"version": 1}, "version"),
        ({"capabilities": []}, "capabilities"),
        ({"capabilities": {"streaming": 1}}, "streaming"),
        ({"capabilities": {"extensions": [{}]}}, "uri"),
        ({"skills": {}}, "skills"),
        ({"skills": [1]}, "skills"),
        ({"skills": [{"id": "a"}]}, "name"),
        ({"skills": [skill("a"), skill("a")]}, "two of one id"),
        ({"skills": [skill("a", tags="x")]}, "tags"),
        ({"defaultInputModes": [1]}, "defaultInputModes"),
        ({"supportedInterfaces": "x"}, "supportedInterfaces"),
        ({"supportedInterfaces": [_interface("https://a.example")] * 65}, "at most"),
    ],
)
def test_card_without_what_it_must_have_is_refused(change: Json, words: str) -> None:
    with pytest.raises(CardRefused, match=words):
        check_card(card_of(**change))


def test_interfaces_that_can_be_used_keep_their_order() -> None:
    card = card_of(
        supportedInterfaces=[
            _interface("grpc.example:443", "GRPC", tenant="t"),
            _interface("https://a.example/x", "HTTP+JSON", "0.3.0"),
            _interface("https://a.example/y", "SMTP"),
            _interface("https://a.example/z", version="2.0"),
            _interface("http://a.example", version="1.0.1"),
        ]
    )

    found = interfaces_of(card)

    assert [(one.url, one.binding, one.version, one.tenant) for one in found] == [
        ("grpc.example:443", "GRPC", "1.0", "t"),
        ("https://a.example/x", "HTTP+JSON", "0.3", ""),
        ("http://a.example", "JSONRPC", "1.0", ""),
    ]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://user:pass@a.example/",
        "https://a.example\\@b.example/",
        "https://a.example/#x",
        "https:///x",
        "https://a.example:99999/",
        "https://[::1",
        "http://169.254.169.254/latest",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://0.0.0.0/",
        "http://2852039166/",
        "http://0xA9FEA9FE/",
        "http://169.254.43518/",
        "https://a.example/ b",
        "https://аpple.example/",
        "//a.example/",
        "",
        "https://a.example/" + "x" * 3_000,
    ],
)
def test_interface_that_leads_nowhere_good_is_not_used(url: str) -> None:
    with pytest.raises(CardRefused, match="none of the 1 interfaces"):
        interfaces_of(card_of(url))


# What is published


def test_every_address_in_a_published_card_is_ours() -> None:
    hostile = card_of(
        supportedInterfaces=[
            _interface("http://10.1.2.3:9000/a2a"),
            _interface("grpc.internal:443", "GRPC", tenant="theirs"),
        ],
        url="http://10.1.2.3:9000/legacy",
        preferredTransport="JSONRPC",
        additionalInterfaces=[{"url": "http://10.1.2.3:9000/more", "transport": "HTTP+JSON"}],
        provider={"url": "http://10.1.2.3/about", "organization": "Cook"},
        documentationUrl="http://10.1.2.3:8000/docs",
        iconUrl="http://grpc.internal/icon.png",
        securitySchemes={"o": {"openIdConnectSecurityScheme": {"openIdConnectUrl": "http://10.1.2.3/idp"}}},
        securityRequirements=[{"schemes": {"o": {"list": ["x"]}}}],
        security=[{"o": []}],
        signatures=[{"protected": "x", "signature": "y"}],
        callback="http://10.1.2.3:9000/unknown",
        capabilities={
            "streaming": True,
            "endpoint": "http://10.1.2.3:9000/unknown",
            "extensions": [{"uri": "urn:x", "params": {"deep": [{"at": "ws://10.1.2.3:9000/ws"}]}}],
        },
        skills=[skill("cook", securityRequirements=[{"schemes": {"o": {"list": ["x"]}}}], run="http://10.1.2.3/run")],
    )

    card = _published(entry_of(hostile))

    text = json.dumps(card)
    assert "10.1.2.3" not in text
    assert "internal" not in text
    assert card["supportedInterfaces"] == [
        _interface(f"{HERE}/agents/cook"),
        _interface(f"{HERE}/agents/cook", "HTTP+JSON"),
        _interface("gw.example:50051", "GRPC", tenant="cook"),
        _interface(f"{HERE}/agents/cook", version="0.3"),
    ]
    assert not {"url", "preferredTransport", "additionalInterfaces", "protocolVersion"} & card.keys()
    assert set(card["securitySchemes"]) == {"bearer"}
    assert card["securityRequirements"] == [{"schemes": {"bearer": {"list": ["a2a"]}}}]
    assert "securityRequirements" not in card["skills"][0]
    assert "signatures" not in card


def test_card_of_0_3_is_published_for_both_versions() -> None:
    upstream = card_from_03(legacy_card_of(supportsAuthenticatedExtendedCard=True))

    card = _published(entry_of(upstream), host_url="https://cook.gw.example/", grpc_url=None)

    assert {one["url"] for one in card["supportedInterfaces"]} == {"https://cook.gw.example"}
    assert (card["url"], card["preferredTransport"]) == ("https://cook.gw.example", "JSONRPC")
    assert "additionalInterfaces" not in card
    assert card["capabilities"]["extendedAgentCard"] is True
    assert "10.1.2.3" not in json.dumps(card)


def test_links_on_the_web_and_extensions_are_kept() -> None:
    extension = {"uri": "urn:x", "description": "y", "required": True, "params": {"big": [1, {"free": "form"}]}}
    links = {
        "provider": {"url": "https://cook.example", "organization": "Cook"},
        "documentationUrl": "https://cook.example/docs",
        "iconUrl": "data:image/png;base64,AA==",
    }

    card = _published(entry_of(card_of(capabilities={"extensions": [extension]}, **links)))

    assert {name: card[name] for name in links} == links
    assert card["capabilities"]["extensions"] == [extension]


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x", "https://u:p@a.example/"])
def test_link_that_is_no_page_is_dropped(link: str) -> None:
    card = _published(entry_of(card_of(documentationUrl=link, iconUrl=link)))

    assert "documentationUrl" not in card
    assert "iconUrl" not in card


def test_capability_that_the_upstream_lacks_is_not_promised() -> None:
    card = _published(entry_of(card_of(capabilities={})))

    assert card["capabilities"] == {"streaming": False, "pushNotifications": False}


def test_virtual_agent_shows_its_skills_alone() -> None:
    card = _published(entry_of(card_of(), skills=("shop",)))

    assert [one["id"] for one in card["skills"]] == ["shop"]


def test_skill_that_is_not_on_the_card_is_an_error() -> None:
    with pytest.raises(CardRefused, match="no skill 'dance'"):
        _published(entry_of(card_of(), skills=("shop", "dance")))


def test_nothing_that_is_required_is_missing_or_empty() -> None:
    bare = {"name": "Bare", "supportedInterfaces": [_interface("https://a.example")]}

    card = _published(entry_of(bare))

    required = ("name", "description", "version", "supportedInterfaces", "capabilities", "skills")
    assert all(card[name] for name in (*required, "defaultInputModes", "defaultOutputModes"))
    assert all(card["skills"][0][name] for name in ("id", "name", "description", "tags"))


def test_quarantined_and_missing_cards_are_not_published() -> None:
    for entry in (entry_of(card_of(), quarantine="changed"), AgentEntry("cook", down="away")):
        with pytest.raises(CardRefused, match="may be used"):
            _published(entry)


def test_issuers_are_named_for_oidc_and_anonymous_needs_nothing() -> None:
    security = security_of(["https://idp.example/"], anonymous=False)

    assert json.loads(codec.dumps(security.schemes))["oidc"] == {
        "openIdConnectSecurityScheme": {"openIdConnectUrl": "https://idp.example/.well-known/openid-configuration"}
    }
    assert len(security.requirements) == 2
    assert security_of(anonymous=True).requirements == ()


@pytest.mark.parametrize(
    ("host", "private"),
    [("10.0.0.1", True), ("localhost", True), ("agent", True), ("a.svc.cluster.local", True), ("8.8.8.8", False),
     ("cook.example", False), ("::1", True), ("", True)],
)  # fmt: skip
def test_private_hosts_are_known_by_their_names(host: str, private: bool) -> None:
    assert is_private(host) is private


# Verbatim


def _home(**more: object) -> Json:
    return card_of(
        supportedInterfaces=[
            _interface(f"{HERE}/agents/cook/"),
            _interface("gw.example:50051", "GRPC", tenant="cook"),
        ],
        **more,
    )


def _signed_entry(card: Json, **more: object) -> AgentEntry:
    raw = json.dumps(KEYS.sign(card), indent=1).encode()
    return entry_of(card, **{"raw": raw, "signed_by": "k", **more})


def test_signed_card_that_leads_here_goes_out_byte_for_byte() -> None:
    entry = _signed_entry(_home(url=f"{HERE}/agents/cook"))

    page = CardShelf(KEYS.sign, security_of()).page(entry, PLACES)

    assert page.body == entry.raw


@pytest.mark.parametrize(
    ("card", "more"),
    [
        (_home(url="https://elsewhere.example"), {}),
        (_home(additionalInterfaces=[{"url": "https://elsewhere.example", "transport": "JSONRPC"}]), {}),
        (card_of(f"{HERE}/agents/other"), {}),
        (card_of(f"{HERE}.evil.example/agents/cook"), {}),
        (card_of(supportedInterfaces=[_interface(f"{HERE}/agents/cook"), _interface("x", "SMTP")]), {}),
        (card_of(supportedInterfaces=[_interface(f"{HERE}/agents/cook", tenant="x")]), {}),
        (card_of(supportedInterfaces=[_interface("gw.example:50051", "GRPC", tenant="other")]), {}),
        (_home(), {"signed_by": ""}),
        (_home(), {"raw": b""}),
        (_home(), {"skills": ("cook",)}),
        (_home(), {"quarantine": "changed"}),
    ],
)
def test_card_that_leads_elsewhere_is_never_verbatim(card: Json, more: Json) -> None:
    raw = json.dumps(KEYS.sign(card)).encode()
    entry = entry_of(_home(), **{"raw": raw, "signed_by": "k", **more})

    assert not may_be_verbatim(entry, PLACES)


# Caching


def test_page_is_made_once_and_again_when_something_changes() -> None:
    shelf = CardShelf(KEYS.sign, security_of(), max_pages=2)

    first = shelf.page(entry_of(card_of()), PLACES)

    assert shelf.page(entry_of(card_of(), fetched_s=1_800_000_000), PLACES) is first
    assert shelf.page(entry_of(card_of(version="2"), digest="sha256:2"), PLACES).etag != first.etag
    assert shelf.page(entry_of(card_of()), Places("https://other.example")).etag != first.etag


def test_replicas_give_a_card_the_same_tag() -> None:
    pages = [CardShelf(CardKeys(b"a" * 32, HERE).sign, security_of()).page(entry_of(card_of()), PLACES) for _ in "ab"]

    assert pages[0] == pages[1]
    assert dict(pages[0].headers)[b"last-modified"] == b"Tue, 14 Nov 2023 22:13:20 GMT"
    assert dict(pages[0].headers)[b"cache-control"] == b"private, max-age=60"


def test_quarantine_takes_the_page_away() -> None:
    shelf = CardShelf(KEYS.sign, security_of())
    shelf.page(entry_of(card_of()), PLACES)

    with pytest.raises(CardRefused):
        shelf.page(entry_of(card_of(), quarantine="changed"), PLACES)


@pytest.mark.parametrize(
    ("none_match", "modified_since", "current"),
    [
        ('"a"', "", True),
        ('W/"a"', "", True),
        ('"b", "a"', "", True),
        ("*", "", True),
        ('"b"', "", False),
        ('"b"', "Tue, 14 Nov 2023 22:13:20 GMT", False),
        ("", "Tue, 14 Nov 2023 22:13:20 GMT", True),
        ("", "Tue, 14 Nov 2023 22:13:19 GMT", False),
        ("", "yesterday", False),
        ("", "Tue, 14 Nov 99999 22:13:20 GMT", False),
        ("", "", False),
    ],
)
def test_validators_decide_as_http_says(none_match: str, modified_since: str, current: bool) -> None:
    assert is_current('"a"', 1_700_000_000, none_match, modified_since) is current


def test_extended_card_is_rewritten_like_the_public_one() -> None:
    shelf = CardShelf(KEYS.sign, security_of())
    upstream = card_of(
        "http://10.1.2.4/more",
        skills=[skill("secret")],
        documentationUrl="http://10.1.2.4/docs",
        signatures=[{"protected": "x", "signature": "y"}],
    )
    result = json.dumps(upstream).encode()

    card = json.loads(shelf.extended(entry_of(card_of()), result, PLACES))

    assert card["skills"][0]["id"] == "secret"
    assert "10.1.2" not in json.dumps(card)
    assert len(card["signatures"]) == 1
    with pytest.raises(CardRefused):
        shelf.extended(entry_of(card_of()), b'{"name":"a","name":"b"}', PLACES)
