"""What calls cost by the list of prices that litellm ships: never less than it says."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.models.prices import PriceList, litellm_prices
from gateway.models import Price, Tokens, price_facts, price_from, service_of
from gateway.types import FrozenDict, freeze
from tests.models.front import ask, running
from tests.models.kits import KITS
from tests.servers.models import Say, provider

PRICES = litellm_prices()
BODIES: dict[str, dict[str, Any]] = {kit.api: kit.body() for kit in KITS}


def listed(model: str) -> Price:
    price = PRICES.price(model)
    assert price is not None
    return price


async def charged(api: str, say: Say, price: Price, *, kind: str = "openai", **body: object) -> int:
    """Nano-dollars of one call of a provider that says so."""
    async with provider(say) as (_, url), running(kind, url, price=lambda _: price) as upstream:
        asked = await ask(upstream, api, {**BODIES[api], **body})
    assert asked.result is not None
    assert asked.result.usage is not None
    return asked.result.usage.nano_usd


@pytest.mark.parametrize(
    ("model", "read", "input_", "cached", "output"),
    [
        ("gemini/gemini-2.5-pro", 200_000, 1_250, 125, 10_000),
        ("gemini/gemini-2.5-pro", 200_001, 2_500, 250, 15_000),
        ("anthropic.claude-sonnet-4-20250514-v1:0", 200_001, 6_000, 600, 22_500),
        ("azure_ai/gpt-5.5", 272_001, 10_000, 1_000, 45_000),
        ("perplexity/openai/gpt-5.5", 272_001, 10_000, 10_000, 45_000),  # of its cache the list says nothing there
    ],
)
def test_a_long_input_makes_all_tokens_of_its_call_dearer(
    model: str, read: int, input_: int, cached: int, output: int
) -> None:
    price = listed(model)
    assert price.cost(Tokens(read, 7, cached=1_000)) == (read - 1_000) * input_ + 1_000 * cached + 7 * output
    assert price.most(read, 7) >= read * input_ + 7 * output


def test_what_is_kept_in_a_cache_for_an_hour_costs_its_own_price_and_so_does_what_may_be() -> None:
    price = listed("claude-sonnet-4-5")
    assert price.cost(Tokens(100, cache_written=100, cache_written_5m=60)) == 60 * 3_750 + 40 * 6_000
    assert price.cost(Tokens(100, cache_written=100)) == 100 * 6_000
    assert price.most(100, 0) == 100 * 6_000


def test_thoughts_cost_their_own_price_where_it_is_higher() -> None:
    price = listed("dashscope/qwen-turbo")
    assert price.cost(Tokens(output=10, reasoning=4)) == 6 * 200 + 4 * 500
    assert price.most(0, 10) == 10 * 500
    assert listed("perplexity/sonar-deep-research").cost(Tokens(output=10, reasoning=4)) == 10 * 8_000


def test_services_cost_what_the_list_says_of_them_for_long_inputs_too() -> None:
    pro, opus = listed("gemini/gemini-2.5-pro"), listed("claude-opus-4-8")
    assert pro.cost(Tokens(1_000, 1), "priority") == 1_000 * 2_250 + 18_000
    assert pro.cost(Tokens(200_001, 1), "priority") == 200_001 * 4_500 + 27_000
    assert opus.cost(Tokens(10, 10), "fast us") == 22 * (50 + 250) * 100
    assert pro.knows("priority")
    assert not pro.knows("scale")
    assert not listed("gpt-5-nano").knows("priority")  # it says what is read costs, and not what is written


def test_a_price_that_is_known_in_part_is_never_lower_there() -> None:
    dear = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "cache_creation_input_token_cost": 3e-6}
    long = {"input_cost_per_token_above_128k_tokens": 2e-6}
    fast = {"input_cost_per_token_priority": 4e-6, "output_cost_per_token_priority": 5e-6}
    price = PriceList({"m": {**dear, **long, **fast}}).price("m")
    assert price is not None
    assert price.cost(Tokens(128_001, 1, cache_written=1)) == 128_000 * 2_000 + 3_000 + 2_000
    assert price.cost(Tokens(128_001, 1, cache_written=1), "priority") == 128_000 * 4_000 + 4_000 + 5_000


def test_every_price_of_the_list_is_the_same_once_it_stood_in_a_catalogue() -> None:
    for name in ("gpt-4o", "gpt-6-astra", "claude-opus-4-8", "claude-haiku-5-5", "gemini/gemini-2.5-pro"):
        facts = freeze(price_facts(listed(name)))
        assert isinstance(facts, FrozenDict)
        assert price_from(facts) == listed(name)


@pytest.mark.parametrize(
    ("said", "service"),
    [
        ({}, ""),
        ({"service_tier": None, "speed": "standard", "inference_geo": "global"}, ""),
        ({"service_tier": "flex"}, ""),
        ({"service_tier": "priority"}, "priority"),
        ({"service_tier": "fast"}, "priority"),
        ({"speed": "fast", "inference_geo": "us"}, "fast us"),
        ({"service_tier": ["priority"]}, "list"),
    ],
)
def test_what_is_asked_for_beyond_the_standard_has_a_name(said: dict[str, object], service: str) -> None:
    assert service_of(said) == service


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat.completions", "responses"])
async def test_the_service_that_the_provider_gave_is_charged(api: str, stream: bool) -> None:
    price = listed("gpt-4o")
    usual, dear = 16 * 2_500 + 5 * 1_250 + 9 * 10_000, 16 * 4_250 + 5 * 2_125 + 9 * 17_000
    assert await charged(api, Say(), price, stream=stream) == usual
    assert await charged(api, Say(service="priority"), price, stream=stream) == dear
    assert await charged(api, Say(), price, stream=stream, service_tier="priority") == usual
    assert await charged(api, Say(service="auto"), price, stream=stream, service_tier="priority") == dear


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_s_count_of_what_it_keeps_for_an_hour_is_charged(stream: bool) -> None:
    say = Say(input=1_000, cached=100, written_5m=200, written_1h=300)
    expected = 400 * 3_000 + 100 * 300 + 200 * 3_750 + 300 * 6_000 + 9 * 15_000
    price = listed("claude-sonnet-4-5")
    assert await charged("messages", say, price, kind="anthropic", stream=stream) == expected
    assert await charged("chat.completions", say, price, kind="anthropic", stream=stream) == expected


async def test_a_fast_answer_is_charged_as_it_was_asked_for_where_the_provider_tells_nothing_of_it() -> None:
    price = listed("claude-opus-4-8")
    usual = await charged("messages", Say(), price, kind="anthropic")
    assert await charged("messages", Say(), price, kind="anthropic", speed="fast") == 2 * usual
