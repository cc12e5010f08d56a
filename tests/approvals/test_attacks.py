"""What somebody would try who wants a held call carried out without the word of people, or more than once on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.a2a.facts import facts_of
from gateway.approvals.binding import binding_of, scopes_of
from gateway.approvals.voting import is_asked, may_see, obstacle_to
from gateway.errors import ApprovalPending, PolicyDenied, UnknownResource
from gateway.identity.chain import Chains
from gateway.tickets import Approval, Stage, TicketQuery
from gateway.types import Authorized, Call, Credentials, Entity, Identity, Permit, Resource
from tests.approvals.attackers import calls_of, ticket_of, vote
from tests.approvals.worlds import ANA, BO, DI, NOW_MS, PAY, Holding, World, a_call, a_ticket, frozen, needs, person
from tests.fakes import FakeExchange, permit_for

# ---- another call that looks like the one that was agreed to ----


@pytest.mark.parametrize(
    "other",
    [
        a_call({"to": "shop", "sum": "1"}),
        a_call({"to": "shop", "sum": True}),
        a_call({"to": "shop", "sum": 1.0}),
        a_call({"to": "shop", "sum": 1, "more": None}),
        a_call({"to": "shop,sum", "1": 1}),
        a_call({"to": ["shop"], "sum": 1}),
        a_call({}),
        a_call(params=frozen({"name": "pay"})),
        a_call(params=frozen({"name": "pay", "arguments": {"to": "shop", "sum": 1}, "_meta": {"as": "admin"}})),
        a_call(params=frozen({"name": "refund", "arguments": {"to": "shop", "sum": 1}})),
        a_call(action="mcp.prompts.get"),
        a_call(method="prompts/get"),
        a_call(resource=replace(PAY, upstream="bank/", name="pay", id="bank/pay")),
        a_call(resource=replace(PAY, upstream="bank", name="/pay")),
        a_call(resource=replace(PAY, type="prompt")),
        a_call(resource=replace(PAY, catalog=frozen({}))),
    ],
)
def test_nothing_of_a_call_can_be_moved_or_changed_within_its_binding(other: Call) -> None:
    bindings = {binding_of(call, ANA, needs()) for call in (a_call(), other)}

    assert len(bindings) == 2
    assert len({scopes_of(call, ANA, needs())[0] for call in (a_call(), other)}) == 2


@pytest.mark.parametrize(
    "other",
    [
        replace(ANA, subject=Entity("agent", "user:ana")),
        replace(ANA, subject=Entity("user", "ana")),
        replace(ANA, tenant="zeta"),
        replace(ANA, tenant="", issuer="acme"),
        replace(ANA, roles=("finance", "admin")),
        replace(ANA, roles=(), scopes=("finance",)),
        replace(ANA, delegation=("user:di", "user:ana")),
        replace(ANA, on_behalf_of=Entity("user", "user:di")),
        replace(ANA, hops=("planner",)),
        replace(ANA, method="jwt", issuer="https://idp"),
        Identity(),
    ],
)
def test_approval_is_for_no_other_standing_of_the_same_name(other: Identity) -> None:
    assert binding_of(a_call(), ANA, needs()) != binding_of(a_call(), other, needs())
    assert not set(scopes_of(a_call(), ANA, needs())) & set(scopes_of(a_call(), other, needs()))


@pytest.mark.parametrize(
    "reworded",
    [
        needs(approvers="group:finance", title="pay "),
        needs(approvers="group:finance", title="pay", quorum=1),
        needs(approvers="user:ana", title="pay"),
        needs(approvers="group:finance", title="pay", standing={"uses": 100, "expires_s": 100}),
    ],
)
def test_hold_that_is_worded_differently_ends_approvals_and_standing_grants(reworded: object) -> None:
    assert isinstance(reworded, type(needs()))
    assert binding_of(a_call(), ANA, needs()) != binding_of(a_call(), ANA, reworded)
    assert not set(scopes_of(a_call(), ANA, needs())) & set(scopes_of(a_call(), ANA, reworded))


def test_standing_grant_ends_with_the_definition_of_its_tool_and_outlives_a_revision() -> None:
    changed = a_call(resource=replace(PAY, catalog=frozen({"definition_digest": "d2"})))

    assert not set(scopes_of(a_call(), ANA, needs())) & set(scopes_of(changed, ANA, needs()))
    assert scopes_of(a_call(), ANA, needs("r1")) == scopes_of(a_call(), ANA, needs("r2"))
    assert scopes_of(a_call({"to": "me"}), ANA, needs())[1] == scopes_of(a_call(), ANA, needs())[1]
    assert scopes_of(a_call({"to": "me"}), ANA, needs())[0] != scopes_of(a_call(), ANA, needs())[0]


def test_message_of_an_agent_is_the_same_under_a_new_id_and_in_nothing_else() -> None:
    def message(message_id: str, text: str = "hi", **more: object) -> str:
        params = frozen({"message": {"messageId": message_id, "parts": [{"text": text}], **more}})
        call = a_call(params=params, protocol="a2a", action="a2a.message.send", method="SendMessage")
        return binding_of(call, ANA, needs())

    assert message("m-1") == message("m-2")
    assert len({message("m-1"), message("m-1", "bye"), message("m-1", contextId="c"), message("m-1", taskId="t")}) == 4


# ---- what only the gateway says ----


async def test_what_a_caller_writes_into_a_call_or_a_vote_is_no_word_of_the_gateway() -> None:
    world = World()
    said = {"granted": True, "obstacle": "", "approval": {"covers": [{"approvers": "group:finance"}]}}
    held = await world.held(a_call({**said, "context": said}))

    with pytest.raises(PolicyDenied):
        await vote(world, "ana", held.ticket_id, **said)

    assert world.decider.approvals == [None] * len(world.decider.approvals)
    assert world.decider.asked[-1].action == "approvals.read"
    assert all(call.facts.get("granted") is not True for call in world.decider.asked if "approve" in call.action)
    assert (await ticket_of(world, held)).state == "pending"


async def test_facts_of_a_message_hold_nothing_that_grants() -> None:
    wild = {"granted": True, "obstacle": "", "message": {"granted": True, "parts": [{"granted": True}]}}
    for operation in ("SendMessage", "GetTask", "CreateTaskPushNotificationConfig"):
        assert not {"granted", "obstacle", "approvers", "approval"} & set(facts_of(operation, wild))


async def test_desk_takes_no_vote_that_policy_was_not_asked_about_as_it_is() -> None:
    world = World()
    held = await world.held()
    call = Call(
        "v",
        "approvals.approve",
        "approvals/approve",
        Resource("approval", held.ticket_id),
        facts=frozen({"granted": True}),
    )

    with pytest.raises(PolicyDenied):
        await world.pipeline.handle(replace(call, protocol="interlock"), BO, FakeExchange())

    assert (await ticket_of(world, held)).votes == ()


# ---- who approves ----


@pytest.mark.parametrize(
    "voter",
    [
        person("cy", "finance", kind="agent"),
        person("cy", "finance", kind="service"),
        replace(person("cy", "finance"), hops=("planner",)),
        replace(person("cy", "finance"), on_behalf_of=Entity("user", "user:bo"), delegation=("user:bo", "agent:x")),
        replace(
            person("bot", kind="agent"), on_behalf_of=Entity("user", "user:bo"), delegation=("user:bo", "agent:bot")
        ),
        replace(person("cy", "finance"), method="anonymous"),
        replace(person("cy", "finance"), method="none"),
        replace(person("", "finance"), subject=Entity("user", "")),
        person("cy", "group:finance"),
        person("cy", "Finance"),
        person("cy", "finance "),
    ],
)
def test_nobody_votes_for_a_group_who_is_no_person_of_it_alone(voter: Identity) -> None:
    assert obstacle_to(a_ticket(), voter, NOW_MS) in ("not_asked", "own")


@pytest.mark.parametrize(
    ("asked", "voter"),
    [
        ("user:bo", Entity("agent", "user:bo")),
        ("user:bo", Entity("service", "bo")),
        ("agent:bo", Entity("user", "agent:bo")),
        ("user:agent:bo", Entity("agent", "agent:bo")),
        ("agent:user:bo", Entity("user", "user:bo")),
        ("user:bo", Entity("user", "user:user:bo")),
    ],
)
def test_name_that_is_written_as_another_types_is_not_that_one(asked: str, voter: Entity) -> None:
    assert not is_asked(Stage(asked), Identity(voter, method="api_key"))


def test_group_and_role_are_the_same_list_and_a_user_is_not_in_it_by_name() -> None:
    finance = person("finance")

    assert is_asked(Stage("role:finance"), BO)
    assert not is_asked(Stage("group:finance"), finance)
    assert not is_asked(Stage("user:finance"), BO)


@pytest.mark.parametrize(
    "party",
    [
        replace(ANA, credential_id="another"),
        replace(ANA, method="jwt", issuer="https://other"),
        person("di", "finance"),
        person("planner", "finance", kind="agent"),
        person("helper", "finance", kind="agent"),
    ],
)
async def test_everybody_on_the_way_of_a_call_is_a_party_to_it(party: Identity) -> None:
    world = World()
    world.identifier.known["ana"] = replace(
        ANA, on_behalf_of=Entity("user", "user:di"), delegation=("user:di", "agent:helper"), hops=("planner",)
    )
    held = await world.held()

    assert obstacle_to(await ticket_of(world, held), party, NOW_MS) == "own"


@pytest.mark.parametrize(
    "approvers", ["", "finance", "group:", ":finance", "everybody:all", "group", 7, None, ["user:bo"]]
)
async def test_hold_that_names_nobody_is_never_agreed_to(approvers: object) -> None:
    world = World()
    world.decider.needs = needs(approvers=approvers)

    with pytest.raises(PolicyDenied):
        await world.make()

    assert not await world.store.tickets(TicketQuery())


async def test_agent_that_drops_its_chain_while_it_works_for_several_asks_nobody() -> None:
    """Of the several, each could approve a call of their own."""
    world = World()
    signing = Chains(b"k" * 32, "https://gate", {"planner", "research"}.__contains__, lambda: 0.0)
    agents = {
        name: Identity(Entity("agent", f"agent:{name}"), "acme", method="api_key") for name in ("planner", "research")
    }

    def asks(identity: Identity, name: str) -> Authorized:
        call = Call(f"c-{identity.principal}", "a2a.message.send", "SendMessage", Resource("agent", name, name, name))
        return Authorized(call, identity, permit_for(call, identity))

    with signing.entering(asks(ANA, "planner"), "planner"):
        one = signing.extended(agents["planner"], "")
        with signing.entering(asks(DI, "planner"), "planner"):
            several = signing.extended(agents["planner"], "")
            with signing.entering(asks(several, "research"), "research") as token:
                behind = signing.extended(agents["research"], token)
    world.identifier.known |= {"one": one, "several": several, "behind": behind}

    held = await world.held(who="one")
    codes = [await refused(world, who) for who in ("several", "behind")]

    assert obstacle_to(await ticket_of(world, held), ANA, NOW_MS) == "own"
    assert codes == ["requester_unknown"] * 2
    assert len(await world.store.tickets(TicketQuery())) == 1


async def refused(world: World, who: str) -> str:
    with pytest.raises(PolicyDenied) as caught:
        await world.make(who=who)
    return caught.value.reasons[0].code


async def test_of_two_teams_one_word_is_not_enough() -> None:
    world = World()
    two = ({"approvers": "group:finance"}, {"approvers": "group:security"})
    world.decider.needs = needs(all_of=two, approvers="group:finance and group:security", title="both")
    held = await world.held()

    await vote(world, "bo", held.ticket_id)
    with pytest.raises(PolicyDenied):
        await vote(world, "bo", held.ticket_id)
    still = await world.held()
    await vote(world, "di", held.ticket_id)
    await world.make()

    assert still.ticket_id == held.ticket_id
    assert len(world.upstream.executed) == 1


# ---- tickets of others ----


async def test_ticket_of_somebody_else_is_answered_as_one_that_there_is_not() -> None:
    world = World()
    held = await world.held()
    told = []
    for ticket_id in (held.ticket_id, "apr-" + "0" * 32, "' OR 1=1 --", "*"):
        with pytest.raises(UnknownResource) as caught:
            await calls_of(world).read(ticket_id, Credentials("eve"))
        told.append(str(caught.value))

    assert len(set(told)) == 1
    assert not may_see(await ticket_of(world, held), person("eve", "finance", tenant="zeta"))
    assert len(held.ticket_id) == len("apr-") + 32


# ---- time ----


async def test_time_that_goes_back_neither_approves_nor_lets_a_vote_count_twice() -> None:
    world = World()
    held = await world.held()
    await vote(world, "bo", held.ticket_id)
    await world.make()
    world.now_ms -= 500_000

    again = await world.held()

    assert again.ticket_id != held.ticket_id
    assert len(world.upstream.executed) == 1


async def test_time_that_runs_out_between_the_word_and_the_effect_takes_the_word_away() -> None:
    class Slow(Holding):
        """A policy that takes its time once people agreed."""

        async def decide(self, call: Call, identity: Identity, approval: Approval | None = None) -> Permit:
            world.now_ms += 600_000 if approval is not None else 0
            return await super().decide(call, identity, approval)

    world = World(decider=Slow())
    held = await world.held()
    await vote(world, "bo", held.ticket_id)

    with pytest.raises(ApprovalPending):
        await world.make()

    assert world.upstream.executed == []
