"""A chain of delegation is the gateway's word, handed to one agent; loops are found with it and without it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gateway import codec
from gateway.errors import PolicyDenied, Unauthenticated
from gateway.identity import base64url
from gateway.identity.chain import MAX_TOKEN, MAX_WORK, TTL_S, Chains, Hops
from gateway.types import Authorized, Call, Entity, Identity, Permit, Resource
from tests.fakes import ANA

URL = "https://gateway.example"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


def chains(clock: Clock | None = None, *, max_depth: int = 8, url: str = URL, secret: bytes = b"k" * 32) -> Chains:
    known = {"planner", "research", "writer"}
    return Chains(secret, url, known.__contains__, clock or Clock(), max_depth)


def agent(name: str) -> Identity:
    return Identity(Entity("agent", f"agent:{name}"), tenant="acme", method="api_key")


def calling(identity: Identity, name: str, number: int = 1) -> Authorized:
    call = Call(f"c{number}", "a2a.message.send", "SendMessage", Resource("agent", name, name, name), protocol="a2a")
    return Authorized(call, identity, Permit("d1", call.digest))


def test_agent_that_hands_its_token_back_acts_for_whom_it_was_asked() -> None:
    signing = chains()

    with signing.entering(calling(ANA, "planner"), "planner") as token:
        found = signing.extended(agent("planner"), token)

    assert found.subject == Entity("agent", "agent:planner")
    assert found.on_behalf_of == Entity("user", "user:ana")
    assert found.delegation == ("user:ana", "agent:planner")
    assert found.hops == ("planner",)


def test_chain_says_with_which_call_it_began_however_long_it_gets() -> None:
    signing = chains()

    with signing.entering(calling(ANA, "planner", 1), "planner") as token:
        planner = signing.extended(agent("planner"), token)
        with signing.entering(calling(planner, "writer", 2), "writer") as further:
            writer = signing.extended(agent("writer"), further)
            without = signing.extended(agent("writer"), "")

    assert (planner.root, writer.root, without.root) == ("c1", "c1", "c1")


def test_agent_that_does_not_say_for_which_of_its_tasks_it_calls_spends_for_all_of_them() -> None:
    signing = chains()

    with (
        signing.entering(calling(ANA, "planner", 1), "planner"),
        signing.entering(calling(ANA, "planner", 2), "planner"),
    ):
        first, again = (signing.extended(agent("planner"), "") for _ in range(2))

    assert first.root.startswith("some:")
    assert first.root == again.root
    assert first.delegation == ("user:ana", "agent:planner")


def test_chain_grows_with_each_hop_and_a_replica_reads_it() -> None:
    first, second = chains(), chains()

    with first.entering(calling(ANA, "planner"), "planner") as token:
        planner = second.extended(agent("planner"), token)
    with second.entering(calling(planner, "research"), "research") as token:
        research = first.extended(agent("research"), token)

    assert research.delegation == ("user:ana", "agent:planner", "agent:research")
    assert research.hops == ("planner", "research")
    assert research.principal != first.extended(agent("research"), "").principal


def test_loop_is_refused_with_its_path() -> None:
    signing = chains()
    with signing.entering(calling(ANA, "planner"), "planner") as token:
        planner = signing.extended(agent("planner"), token)
    with signing.entering(calling(planner, "research"), "research") as token:
        research = signing.extended(agent("research"), token)

    with (
        pytest.raises(PolicyDenied, match="planner -> research -> planner") as caught,
        signing.entering(calling(research, "planner"), "planner"),
    ):
        pass

    assert caught.value.reasons[0].code == "delegation_loop"
    assert caught.value.decision_id == "d1"


def test_loop_is_found_though_the_agent_dropped_the_header() -> None:
    signing = chains()

    with signing.entering(calling(ANA, "planner"), "planner"):
        planner = signing.extended(agent("planner"), "")
        with signing.entering(calling(planner, "research", 2), "research"):
            research = signing.extended(agent("research"), "")
            with (
                pytest.raises(PolicyDenied, match="come back"),
                signing.entering(calling(research, "planner", 3), "planner"),
            ):
                pass

    assert research.on_behalf_of == Entity("user", "user:ana")


def test_agent_that_works_for_two_without_a_token_acts_for_neither_and_visits_nobody_of_either_chain() -> None:
    signing = chains()
    bo = replace(ANA, subject=Entity("user", "user:bo"), hops=("writer",))

    with (
        signing.entering(calling(ANA, "planner", 1), "planner"),
        signing.entering(calling(bo, "planner", 2), "planner"),
    ):
        found = signing.extended(agent("planner"), "")

    assert (found.on_behalf_of, found.delegation) == (None, ())
    assert set(found.hops) == {"writer", "planner"}


def test_work_is_remembered_until_its_task_ends_and_no_longer_than_an_hour() -> None:
    clock = Clock()
    signing = chains(clock)
    hops = Hops(("user:ana",), ("planner",))
    signing.works_on("planner", "t1", hops)
    signing.works_on("planner", "t2", hops)

    during = signing.extended(agent("planner"), "").hops
    signing.ended("planner", "t1")
    signing.ended("planner", "t1")
    still = signing.extended(agent("planner"), "").hops
    clock.now_s += TTL_S
    after = signing.extended(agent("planner"), "").hops

    assert (during, still, after) == (("planner",), ("planner",), ())


def test_depth_is_limited() -> None:
    signing = chains(max_depth=1)
    with signing.entering(calling(ANA, "planner"), "planner") as token:
        planner = signing.extended(agent("planner"), token)

    with (
        pytest.raises(PolicyDenied, match="1 agents already") as caught,
        signing.entering(calling(planner, "research"), "research"),
    ):
        pass

    assert caught.value.reasons[0].code == "delegation_too_deep"


def test_token_is_of_no_use_to_another_caller() -> None:
    signing = chains()
    with signing.entering(calling(ANA, "planner"), "planner") as token:
        pass

    for thief in (agent("research"), ANA, Identity(Entity("user", "agent:planner"))):
        with pytest.raises(Unauthenticated, match="'agent:planner'"):
            signing.extended(thief, token)


@pytest.mark.parametrize(
    "other",
    [chains(url="https://elsewhere.example"), chains(secret=b"x" * 32)],
    ids=["another gateway with this key", "another key"],
)
def test_token_of_another_gateway_is_refused(other: Chains) -> None:
    with other.entering(calling(ANA, "planner"), "planner") as token:
        pass

    with pytest.raises(Unauthenticated):
        chains().extended(agent("planner"), token)


def test_token_expires() -> None:
    clock = Clock()
    signing = chains(clock)
    with signing.entering(calling(ANA, "planner"), "planner") as token:
        pass
    clock.now_s += TTL_S

    with pytest.raises(Unauthenticated, match="expired"):
        signing.extended(agent("planner"), token)


TYPE = "interlock-chain+jwt"
CLAIMS: dict[str, object] = {
    "aud": URL,
    "exp": 1_800_000_060,
    "agent": "planner",
    "hops": ["planner"],
    "sub": "user:ana",
}


def signed(typ: object = TYPE, **changed: object) -> str:
    """A token with the gateway's own signature."""
    head = base64url.encode(codec.dumps({"alg": "EdDSA", "typ": typ}))
    text = f"{head}.{base64url.encode(codec.dumps({**CLAIMS, **changed}))}"
    key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    return f"{text}.{base64url.encode(key.sign(text.encode()))}"


def test_token_is_what_its_claims_say() -> None:
    found = chains().extended(agent("planner"), signed())

    assert (found.delegation, found.hops) == (("user:ana", "agent:planner"), ("planner",))


@pytest.mark.parametrize(
    "token",
    [
        signed("interlock-card+jwt"),
        signed(None),
        signed(sub=7),
        signed(sub=None),
        signed(act={"sub": None}),
        signed(act={"sub": "agent:a", "act": {"sub": ["agent:b"]}}),
        signed(hops="planner"),
        signed(hops=None),
        signed(hops=[["planner"]]),
        signed(agent=["planner"]),
        signed(aud=[URL]),
        signed(exp=1_800_000_060.5),
        signed(exp=None),
    ],
)
def test_token_that_holds_what_this_gateway_does_not_write_is_refused_though_its_signature_holds(token: str) -> None:
    with pytest.raises(Unauthenticated):
        chains().extended(agent("planner"), token)


def test_of_more_tasks_than_are_remembered_one_by_one_the_chains_are() -> None:
    signing = chains()
    ana, bo = Hops(("user:ana",), ("planner",)), Hops(("user:bo",), ("writer", "planner"))
    for number in range(MAX_WORK + 2):
        signing.works_on("planner", f"t{number}", ana)

    alone = signing.extended(agent("planner"), "")
    signing.works_on("planner", "more", bo)
    both = signing.extended(agent("planner"), "")
    signing.works_on("planner", "t0", ana)

    assert alone.delegation == ("user:ana", "agent:planner")
    assert (both.delegation, set(both.hops)) == ((), {"planner", "writer"})
    assert signing.extended(agent("planner"), "").hops == both.hops


def test_what_is_too_old_makes_room() -> None:
    clock = Clock()
    signing = chains(clock)
    for number in range(MAX_WORK):
        signing.works_on("planner", f"t{number}", Hops(("user:bo",), ("writer", "planner")))
    clock.now_s += TTL_S
    signing.works_on("planner", "new", Hops(("user:ana",), ("planner",)))

    found = signing.extended(agent("planner"), "")
    signing.ended("planner", "new")

    assert found.delegation == ("user:ana", "agent:planner")
    assert signing.extended(agent("planner"), "").hops == ()


def test_who_is_no_agent_of_ours_stays_who_they_are() -> None:
    signing = chains()
    with signing.entering(calling(ANA, "planner"), "planner"):
        assert signing.extended(ANA, "") is ANA
        assert signing.extended(agent("stranger"), "") == agent("stranger")


def test_agent_that_nobody_asked_calls_for_itself() -> None:
    assert chains().extended(agent("planner"), "") == agent("planner")


SIGNING = chains()
with SIGNING.entering(calling(ANA, "planner"), "planner") as GOOD:
    pass


@given(st.integers(0, len(GOOD) - 1), st.sampled_from("Aa0._-=é\x00"))
def test_changed_token_is_refused(place: int, character: str) -> None:
    changed = GOOD[:place] + character + GOOD[place + 1 :]
    if changed == GOOD:
        return

    with pytest.raises(Unauthenticated):
        SIGNING.extended(agent("planner"), changed)


@given(st.text(max_size=60) | st.just("a." * 3) | st.just("x" * (MAX_TOKEN + 1)))
def test_anything_else_is_refused(text: str) -> None:
    if not text:
        return

    with pytest.raises(Unauthenticated):
        SIGNING.extended(agent("planner"), text)
