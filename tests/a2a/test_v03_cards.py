"""Agent cards of A2A 0.3, and cards that clients of both versions read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from a2a.client.card_resolver import parse_agent_card
from a2a.compat.v0_3 import conversions
from a2a.compat.v0_3 import types as old_types
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.types import a2a_pb2
from google.protobuf.json_format import MessageToDict, ParseDict

from gateway.a2a import v03

CARD_10: dict[str, Any] = {
    "name": "Recipes",
    "description": "Helps with recipes",
    "version": "2.1.0",
    "supportedInterfaces": [
        {"url": "https://gw.example/agents/r/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
        {"url": "https://gw.example/agents/r/", "protocolBinding": "JSONRPC", "protocolVersion": "0.3"},
        {"url": "https://gw.example/agents/r/", "protocolBinding": "HTTP+JSON", "protocolVersion": "0.3"},
        {"url": "gw.example:443", "protocolBinding": "GRPC", "protocolVersion": "1.0"},
    ],
    "provider": {"url": "https://x.example", "organization": "X"},
    "documentationUrl": "https://x.example/docs",
    "capabilities": {
        "streaming": True,
        "pushNotifications": False,
        "extendedAgentCard": True,
        "extensions": [{"uri": "urn:e", "required": True, "params": {"a": 1}}],
    },
    "securitySchemes": {
        "key": {"apiKeySecurityScheme": {"location": "header", "name": "X-Key", "description": "d"}},
        "bearer": {"httpAuthSecurityScheme": {"scheme": "Bearer", "bearerFormat": "JWT"}},
        "oauth": {
            "oauth2SecurityScheme": {
                "flows": {
                    "clientCredentials": {"tokenUrl": "https://idp.example/t", "scopes": {"read": "to read"}},
                },
            }
        },
        "oidc": {"openIdConnectSecurityScheme": {"openIdConnectUrl": "https://idp.example/.well-known"}},
        "mtls": {"mtlsSecurityScheme": {"description": "d"}},
    },
    "securityRequirements": [{"schemes": {"oauth": {"list": ["read"]}, "key": {"list": []}}}],
    "defaultInputModes": ["text/plain"],
    "defaultOutputModes": ["text/plain"],
    "skills": [
        {
            "id": "s",
            "name": "S",
            "description": "d",
            "tags": ["t"],
            "securityRequirements": [{"schemes": {"bearer": {"list": ["x"]}}}],
        },
        {"id": "s2", "name": "S2", "description": "d", "tags": ["t"]},
    ],
}


def copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


def core(card: Any) -> Any:
    return ParseDict(copy(card), a2a_pb2.AgentCard())


def test_a_dual_card_has_the_members_that_the_sdk_adds() -> None:
    theirs = copy(agent_card_to_dict(core(CARD_10)))

    ours = v03.card_to_dual(CARD_10)

    assert theirs.pop("protocolVersion") == "0.3"
    assert ours.pop("protocolVersion") == "0.3.0"
    del ours["securityRequirements"], theirs["securityRequirements"]  # protobuf leaves out empty lists of scopes
    assert ours.keys() == theirs.keys()
    for name in ("url", "preferredTransport", "additionalInterfaces", "security", "supportsAuthenticatedExtendedCard"):
        assert ours[name] == theirs[name]
    assert ours["securitySchemes"] == theirs["securitySchemes"]


def test_a_client_of_0_3_reads_a_dual_card_and_reaches_the_interface_of_0_3() -> None:
    card = old_types.AgentCard.model_validate(v03.card_to_dual(CARD_10))

    expected = conversions.to_compat_agent_card(core(CARD_10))
    expected.protocol_version = "0.3.0"
    assert card == expected
    assert (card.url, card.preferred_transport) == ("https://gw.example/agents/r/", "JSONRPC")
    assert [(other.url, other.transport) for other in card.additional_interfaces or ()] == [
        ("https://gw.example/agents/r/", "HTTP+JSON")
    ]


def test_a_client_of_1_0_reads_in_a_dual_card_what_it_reads_in_the_plain_one() -> None:
    dual = v03.card_to_dual(CARD_10)

    assert MessageToDict(parse_agent_card(copy(dual))) == MessageToDict(core(CARD_10))
    assert v03.card_from_03(dual) == CARD_10


def test_a_card_without_an_interface_of_0_3_stays_as_it_is() -> None:
    card = {**CARD_10, "supportedInterfaces": CARD_10["supportedInterfaces"][:1]}

    assert v03.card_to_dual(card) == card


def test_a_dual_card_does_not_change_the_card_that_it_is_made_of() -> None:
    before = copy(CARD_10)

    v03.card_to_dual(CARD_10)

    assert before == CARD_10


def old_card(**changes: object) -> dict[str, object]:
    dual = v03.card_to_dual(CARD_10)
    card = old_types.AgentCard.model_validate(dual).model_dump(mode="json", exclude_none=True)
    return {**card, **changes}


def test_a_card_of_0_3_becomes_the_one_that_the_sdk_makes_of_it() -> None:
    card = old_card()
    theirs = conversions.to_core_agent_card(old_types.AgentCard.model_validate(card))
    for interface in theirs.supported_interfaces:
        interface.protocol_version = "0.3"

    assert core(v03.card_from_03(card)) == theirs


def test_the_main_interface_stands_first_and_once() -> None:
    card = old_card(
        url="https://a.example/",
        preferredTransport=None,
        additionalInterfaces=[
            {"url": "https://a.example/", "transport": "JSONRPC"},
            {"url": "a.example:50051", "transport": "GRPC"},
        ],
    )

    assert v03.card_from_03(card)["supportedInterfaces"] == [
        {"url": "https://a.example/", "protocolBinding": "JSONRPC", "protocolVersion": "0.3"},
        {"url": "a.example:50051", "protocolBinding": "GRPC", "protocolVersion": "0.3"},
    ]


def test_of_several_oauth_flows_the_best_is_kept_because_1_0_has_room_for_one() -> None:
    flow = {"tokenUrl": "https://idp.example/t", "scopes": {}}
    schemes = {"o": {"type": "oauth2", "flows": {"password": flow, "clientCredentials": flow}}}

    card: Any = v03.card_from_03(old_card(securitySchemes=schemes, security=[]))

    assert card["securitySchemes"] == {"o": {"oauth2SecurityScheme": {"flows": {"clientCredentials": flow}}}}


def test_no_url_of_0_3_stays_in_the_1_0_half_of_a_dual_card() -> None:
    card = {**CARD_10, "url": "https://evil.example/", "additionalInterfaces": [{"url": "https://evil.example/2"}]}

    assert "evil" not in json.dumps(v03.card_from_03(card))


def test_unknown_members_of_a_card_stay() -> None:
    card: Any = v03.card_from_03(old_card(vendor={"x": 1}))

    assert card["vendor"] == {"x": 1}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"url": None}, "url"),
        ({"url": 1}, "url"),
        ({"additionalInterfaces": [{"url": "u"}]}, "additionalInterfaces[0].transport"),
        ({"additionalInterfaces": "x"}, "additionalInterfaces"),
        ({"securitySchemes": {"a": {"type": "magic"}}}, "securitySchemes.a.type"),
        ({"security": [{"a": "b"}]}, "security[0].a"),
        ({"skills": [1]}, "skills[0]"),
        ({"capabilities": []}, "capabilities"),
        ({"supportsAuthenticatedExtendedCard": "yes"}, "supportsAuthenticatedExtendedCard"),
    ],
)
def test_a_card_that_is_none_of_0_3_is_refused_by_its_path(changes: dict[str, object], path: str) -> None:
    with pytest.raises(v03.NotConvertible) as refused:
        v03.card_from_03(old_card(**changes))

    assert str(refused.value).startswith(path + ":")
