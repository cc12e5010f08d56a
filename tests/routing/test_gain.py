"""What is chosen for a prompt, and how that is explained."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from adapters.routers import all_learners
from gateway import codec
from gateway.routing.files import Loaded, packed, unpacked
from gateway.routing.gain import GainRouter
from gateway.routing.guard import Canary, QualityGuard
from gateway.routing.learning import train
from gateway.routing.prompts import FEATURES
from tests.routing.worlds import EMBEDDER, GREETING, SUM, Broken, outcomes, prompts, sample

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    trained = train(outcomes(600), all_learners(), embedder=EMBEDDER.name, dimensions=EMBEDDER.dimensions)
    return unpacked(packed(trained), all_learners(), embedder=EMBEDDER.name, dimensions=EMBEDDER.dimensions)


async def test_a_learned_router_sends_to_the_strong_model_what_only_that_can_do(loaded: Loaded) -> None:
    router = GainRouter(EMBEDDER, loaded, QualityGuard())

    hard, easy = await router.choose(SUM, 0.9), await router.choose(GREETING, 0.9)

    assert (hard.tier, hard.why) == ("strong", "gain")
    assert (easy.tier, easy.why) == ("weak", "no_gain")


async def test_every_choice_says_what_it_was_made_from(loaded: Loaded) -> None:
    choice = await GainRouter(EMBEDDER, loaded, QualityGuard()).choose(SUM, 0.9)

    assert choice.gain is not None
    assert choice.threshold is not None
    assert choice.gain >= choice.threshold
    assert choice.router == loaded.sha256
    assert choice.embedder == EMBEDDER.name
    assert set(choice.features) == set(FEATURES)
    assert any("only_strong_right" in name for name in choice.evidence) or choice.predictor == "logistic"
    assert choice.sample == sample(SUM)
    assert b"reaches" in codec.dumps(choice.as_json())


async def test_a_higher_quality_sends_more_to_the_strong_model(loaded: Loaded) -> None:
    router = GainRouter(EMBEDDER, loaded, QualityGuard())
    shares = []

    for quality in (0.0, 0.7, 0.95, 1.0):
        chosen = [await router.choose(text, quality) for text, _ in prompts(60, seed=9)]
        shares.append(sum(choice.tier == "strong" for choice in chosen))

    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 60)


async def test_an_alarm_sends_all_to_the_strong_model_and_says_so_until_it_ends(loaded: Loaded) -> None:
    guard = QualityGuard(baseline=Canary(50, 50))
    router = GainRouter(EMBEDDER, loaded, guard)
    guard.canary(Canary(10, 50), now_s=1.0)

    stepped_up = await router.choose(GREETING, 0.9)
    guard.resume()

    assert (stepped_up.tier, stepped_up.why) == ("strong", "drift")
    assert "10 of 50 canaries pass" in stepped_up.words
    assert (await router.choose(GREETING, 0.9)).tier == "weak"


async def test_a_prompt_without_a_vector_goes_to_the_strong_model(loaded: Loaded) -> None:
    choice = await GainRouter(Broken(), loaded, QualityGuard()).choose(GREETING, 0.9)

    assert (choice.tier, choice.why) == ("strong", "no_embedding")


async def test_a_vector_that_does_not_come_in_time_is_not_waited_for(loaded: Loaded) -> None:
    class Slow(Broken):
        async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
            await anyio.sleep_forever()
            return []

    with anyio.fail_after(5):
        choice = await GainRouter(Slow(), loaded, QualityGuard(), embed_s=0.01).choose(GREETING, 0.9)

    assert (choice.tier, choice.why) == ("strong", "no_embedding")


async def test_before_anything_is_learned_the_form_of_the_prompt_decides_and_most_is_strong() -> None:
    router = GainRouter(EMBEDDER, None, QualityGuard())
    long = "Prove that 12 * x + 3 = 4 * y has no solution. Show every step; do not skip one. " * 20

    easy, hard, cheap = (
        await router.choose("Hi!", 0.9),
        await router.choose(long, 0.9),
        await router.choose(long, 0.0),
    )

    assert (easy.tier, hard.tier, cheap.tier) == ("weak", "strong", "weak")
    assert (easy.why, hard.why, cheap.why) == ("cold_start", "cold_start", "asked")
    assert hard.sample == sample(long)


@pytest.mark.parametrize("embedder", [None, Broken()])
async def test_a_cold_start_needs_no_embedder(embedder: Broken | None) -> None:
    choice = await GainRouter(embedder, None, QualityGuard()).choose("Hi!", 0.9)

    assert (choice.tier, choice.why, choice.sample) == ("weak", "cold_start", None)


async def test_no_quality_is_the_weak_model_also_while_it_drifts_or_there_is_no_vector(loaded: Loaded) -> None:
    guard = QualityGuard(baseline=Canary(50, 50))
    guard.canary(Canary(10, 50), now_s=1.0)
    drifting, blind = GainRouter(EMBEDDER, loaded, guard), GainRouter(None, None, QualityGuard())

    for router in (drifting, blind):
        choice = await router.choose(SUM, 0.0)
        assert (choice.tier, choice.why) == ("weak", "asked")


async def test_a_quality_out_of_range_is_refused(loaded: Loaded) -> None:
    router = GainRouter(EMBEDDER, loaded, QualityGuard())

    for quality in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="quality"):
            await router.choose(SUM, quality)


def test_what_was_learned_with_another_embedder_is_refused(loaded: Loaded) -> None:
    with pytest.raises(ValueError, match="needs the embedder"):
        GainRouter(None, loaded, QualityGuard())
