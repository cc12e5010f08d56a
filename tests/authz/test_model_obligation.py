"""The obligation `model`: read strictly, merged to the strictest, held against the model that is asked."""

from __future__ import annotations

import pytest

from gateway.authz.modelling import check_model
from gateway.authz.obligations import obligations_in
from gateway.authz.reading import UnsupportedObligation
from gateway.types import Call, FrozenDict, Resource


def asked(*properties: object, upstream: str = "openai", region: str = "eu-west", action: str = "model.call") -> str:
    resource = Resource("model", f"{upstream}/gpt", upstream=upstream, name="gpt", catalog=FrozenDict(region=region))
    obligations = obligations_in([{"type": "model", "properties": each} for each in properties])
    assert len(obligations) == 1
    return check_model(Call("c", action, "responses", resource, protocol="model"), obligations)


def test_a_model_has_to_match_every_rule_that_narrows() -> None:
    assert asked({"models": ["openai/*"]}, {"models": ["*/gpt", "x"]}, {"regions": ["eu-*"]}) == ""
    assert "claude/*" in asked({"models": ["openai/*"]}, {"models": ["claude/*"]})
    assert "runs in us-east" in asked({"regions": ["eu-*"]}, region="us-east")
    assert "nobody knows where" in asked({"regions": ["*"]}, region="")


def test_a_route_is_not_held_to_it_because_each_of_its_calls_is() -> None:
    assert asked({"models": ["openai/*"], "regions": ["eu-*"]}, upstream="models", region="") == ""


def test_several_merge_to_the_strictest() -> None:
    entries: list[object] = [{"max_tokens": 9}, {"max_tokens": 5, "stream": False}, {"regions": ["eu-*"]}]

    (merged,) = obligations_in([{"type": "model", "properties": each} for each in entries])

    assert merged.properties == {"max_tokens": 5, "stream": False, "regions": [["eu-*"]]}


@pytest.mark.parametrize(
    "properties",
    [{}, {"stream": True}, {"max_tokens": 0}, {"max_tokens": True}, {"models": []}, {"regions": [1]}, {"x": 1}, []],
    ids=str,
)
def test_what_cannot_be_carried_out_is_no_permit(properties: object) -> None:
    with pytest.raises(UnsupportedObligation):
        obligations_in([{"type": "model", "properties": properties}])


def test_it_is_for_calls_of_models_only() -> None:
    with pytest.raises(UnsupportedObligation, match="name the action in the rule"):
        asked({"max_tokens": 1}, action="mcp.tools.call")
