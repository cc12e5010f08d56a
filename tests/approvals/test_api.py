"""The HTTP API: who may see and decide what, and what is refused before it is read."""

from __future__ import annotations

from typing import Any, TypeAlias

import httpx2
import pytest
from starlette.applications import Starlette

from gateway.approvals.desk import MOST_LISTED
from gateway.listeners.approvals.calls import ApprovalCalls
from gateway.listeners.approvals.endpoints import approval_routes
from gateway.listeners.guards import Guards
from gateway.tickets import Stage, Vote
from tests.approvals.worlds import ANA, NOW_MS, World, a_call, a_ticket, frozen, needs, person

Json: TypeAlias = Any  # an answer, which each test looks into

OFFER = {"uses": 5, "expires_s": 600, "idle_s": 60, "any_arguments": True}


class Api:
    """The routes over a world, asked as somebody."""

    def __init__(self, world: World) -> None:
        calls = ApprovalCalls(
            world.store, world.pipeline, world.identifier, lambda: "q", lambda: world.now_ms * 1_000_000
        )
        self.app = Starlette(routes=approval_routes(calls, Guards(1 << 20)))

    async def ask(self, who: str, verb: str, path: str, body: object = None, **headers: str) -> tuple[int, Json]:
        sent = {"authorization": f"Bearer {who}", **headers} if who else headers
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app), base_url="http://localhost") as client:
            if isinstance(body, bytes):
                answer = await client.request(verb, path, content=body, headers=sent)
            else:
                answer = await client.request(verb, path, json=body, headers=sent)
        return answer.status_code, answer.json() if "json" in answer.headers.get("content-type", "") else answer.text


async def opened(world: World, *stages: Stage, **changes: object) -> str:
    ticket = await world.store.open_ticket(a_ticket(*stages, **changes), NOW_MS, 9)  # type: ignore[arg-type]  # fields
    assert ticket is not None
    return ticket.id


async def test_ticket_shows_all_that_an_approver_decides_by() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id

    status, shown = await Api(world).ask("bo", "GET", f"/approvals/{ticket_id}")

    assert status == 200
    assert shown["arguments"] == {"to": "shop", "sum": 1}
    assert shown["subject"]["id"] == "user:ana"
    assert shown["request"]["approvers"] == "group:finance"
    assert shown["catalog"] == {"definition_digest": "d1"}
    assert shown["stages"] == [{"approvers": "group:finance", "quorum": 1, "votes": []}]
    assert (shown["left_s"], shown["may_vote"], shown["obstacle"]) == (600, True, "")


async def test_call_is_approved_and_then_carried_out() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id

    status, shown = await Api(world).ask("bo", "POST", f"/approvals/{ticket_id}/approve", {"reason": "fine"})
    await world.make()

    assert (status, shown["state"]) == (200, "approved")
    assert len(world.upstream.executed) == 1
    assert world.herald.told == [("opened", ticket_id), ("approved", ticket_id)]
    record = next(each for each in world.trail.records if each.call.action == "approvals.approve")
    assert record.call.resource.id == ticket_id
    assert record.notes == {"approval_vote": {"verdict": "approve", "state": "approved", "stage": 0}}


@pytest.mark.parametrize(
    ("who", "status", "code"),
    [
        ("ana", 403, "approval_own"),
        ("di", 404, ""),
        ("eve", 404, ""),
        ("op", 403, "approval_not_asked"),
        ("", 401, ""),
        ("nobody", 401, ""),
    ],
)
async def test_who_is_not_asked_does_not_vote_even_where_policy_would_let_them(
    who: str, status: int, code: str
) -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id
    world.decider.needs = None

    for verdict in ("approve", "deny"):
        answered, body = await Api(world).ask(who, "POST", f"/approvals/{ticket_id}/{verdict}", {"reason": "x"})
        assert answered == status
        assert [each["code"] for each in body.get("reasons", ())] == ([code] if code else [])

    ticket = await world.store.ticket(ticket_id)
    assert ticket is not None
    assert (ticket.state, ticket.votes) == ("pending", ())


async def test_ticket_that_is_hidden_is_answered_as_one_that_there_is_not() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id
    api = Api(world)

    hidden = [await api.ask("di", "GET", f"/approvals/{each}") for each in (ticket_id, "apr-0")]
    voted = [await api.ask("di", "POST", f"/approvals/{each}/approve", {}) for each in (ticket_id, "apr-0")]

    assert {status for status, _ in (*hidden, *voted)} == {404}
    assert hidden[0] == hidden[1]


async def test_list_holds_what_is_open_to_the_reader() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id
    api = Api(world)

    lists = {
        who: (await api.ask(who, "GET", "/approvals?state=pending"))[1]["approvals"] for who in ("ana", "bo", "di")
    }
    everything = await api.ask("op", "GET", "/approvals?scope=all")
    refused = await api.ask("bo", "GET", "/approvals?scope=all")

    assert {who: [each["id"] for each in found] for who, found in lists.items()} == {
        "ana": [ticket_id],
        "bo": [ticket_id],
        "di": [],
    }
    assert [each["id"] for each in everything[1]["approvals"]] == [ticket_id]
    assert refused[0] == 403


async def test_calls_of_others_push_nothing_out_of_a_list() -> None:
    world = World()
    await opened(world)
    for number in range(MOST_LISTED):
        theirs = frozen({"subject": person("zoe", tenant="zeta").question})
        await opened(world, id=f"z-{number}", binding=f"{number}", created_ms=NOW_MS + 1, requester="z", shown=theirs,
                     subjects=("user:zoe",), state="approved")  # fmt: skip

    listed = (await Api(world).ask("bo", "GET", "/approvals"))[1]["approvals"]

    assert [each["id"] for each in listed] == ["apr-1"]


async def test_vote_that_lost_a_race_is_cast_again() -> None:
    world = World()
    ticket_id = await opened(world, Stage("group:finance", 2))
    others = [Vote("user:cy", 0, "approve")]

    def faster() -> None:
        if others:
            world.store.steal(ticket_id, votes=(others.pop(),))

    world.store.before_change = faster
    status, shown = await Api(world).ask("bo", "POST", f"/approvals/{ticket_id}/approve", {})

    assert (status, shown["state"]) == (200, "approved")


async def test_vote_never_counts_for_what_its_voter_did_not_see() -> None:
    world = World()
    ticket_id = await opened(world, Stage("group:finance", 2))
    api = Api(world)
    path = f"/approvals/{ticket_id}/approve"
    seen = (await api.ask("bo", "GET", f"/approvals/{ticket_id}"))[1]["agreeing_to"]
    await api.ask("cy", "POST", path, {"arguments": {"to": "me", "sum": 9}})

    blind = await api.ask("bo", "POST", path, {})
    stale = await api.ask("bo", "POST", path, {"seen": seen})
    new = (await api.ask("bo", "GET", f"/approvals/{ticket_id}"))[1]
    status, shown = await api.ask("bo", "POST", path, {"seen": new["agreeing_to"]})

    assert (blind[0], stale[0]) == (409, 409)
    assert blind[1]["reasons"][0]["code"] == "approval_changed"
    assert new["edited"] == {"to": "me", "sum": 9}
    assert (status, shown["state"]) == (200, "approved")


async def test_change_in_the_middle_of_a_vote_is_a_conflict() -> None:
    world = World()
    ticket_id = await opened(world, Stage("group:finance", 2))
    world.store.before_change = lambda: world.store.steal(ticket_id, edited=frozen({"to": "me"}))

    status, _ = await Api(world).ask("bo", "POST", f"/approvals/{ticket_id}/approve", {})

    assert status == 409


async def test_vote_counts_at_no_stage_that_policy_was_not_asked_about() -> None:
    world = World()
    ticket_id = await opened(world, Stage("group:finance"), Stage("group:security"))
    others = [Vote("user:bo", 0, "approve")]

    def faster() -> None:
        if others:
            world.store.steal(ticket_id, votes=(others.pop(),))

    world.store.before_change = faster
    api, path = Api(world), f"/approvals/{ticket_id}/approve"
    late = await api.ask("cy", "POST", path, {})
    again = await api.ask("cy", "POST", path, {})

    assert late[0] == 409
    assert late[1]["reasons"][0]["code"] == "approval_moved"
    assert (again[0], again[1]["state"]) == (200, "approved")


async def test_decided_and_late_votes_are_conflicts() -> None:
    world = World()
    ticket_id = await opened(world)
    api = Api(world)
    first = await api.ask("bo", "POST", f"/approvals/{ticket_id}/deny", {"reason": "no"})

    second = await api.ask("cy", "POST", f"/approvals/{ticket_id}/approve", {})

    assert first[1]["denied"] == {"by": "user:bo", "reason": "no"}
    assert second[0] == 409
    assert second[1]["reasons"][0]["code"] == "approval_over"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"arguments": [1]}, "JSON object"),
        ({"arguments": {"x": 1}, "standing": {"uses": 1}}, "as it is made"),
        ({"standing": {"uses": 6}}, "standing.uses"),
        ({"standing": {"uses": True}}, "standing.uses"),
        ({"standing": {"uses": 1, "expires_s": 601}}, "standing.expires_s"),
        ({"standing": {"uses": 1, "any_arguments": 1}}, "true or false"),
        ({"standing": {"forever": True}}, "standing"),
        ({"approve": True}, "unknown: approve"),
        ({"reason": 1}, "`reason` is a text"),
        ({"reason": "x" * 2_001}, "`reason` is a text"),
        ([], "JSON object"),
    ],
)
async def test_body_that_is_not_understood_is_refused_with_what_is_wrong(body: object, words: str) -> None:
    world = World()
    world.decider.needs = needs("r1", approvers="group:finance", standing=OFFER)
    ticket_id = (await world.held()).ticket_id

    status, answer = await Api(world).ask("bo", "POST", f"/approvals/{ticket_id}/approve", body)

    assert status == 400
    assert words in answer["error"]


async def test_only_arguments_of_tools_and_prompts_are_edited() -> None:
    world = World()
    ticket_id = await opened(world, shown=frozen({**a_ticket().shown, "action": "a2a.message.send"}))

    status, answer = await Api(world).ask("bo", "POST", f"/approvals/{ticket_id}/approve", {"arguments": {}})

    assert status == 400
    assert "only of a tool's call" in answer["error"]


async def test_bodies_are_json_of_a_size_and_hosts_are_ours() -> None:
    world = World()
    path = f"/approvals/{await opened(world)}/approve"
    api = Api(world)
    as_json = {"content-type": "application/json"}

    answers = [
        await api.ask("bo", "POST", path, b"{}", **{"content-type": "text/plain"}),
        await api.ask("bo", "POST", path, b"{", **as_json),
        await api.ask("bo", "POST", path, b'{"reason": "' + b"x" * 600_000 + b'"}', **as_json),
        await api.ask("bo", "POST", path, b"{}", **as_json, origin="https://evil.example"),
        await api.ask("bo", "POST", path, b"{}", **as_json, host="evil.example"),
        await api.ask("bo", "GET", "/approvals?state=any"),
        await api.ask("bo", "GET", "/approvals?scope=all&scope=mine"),
        await api.ask("bo", "POST", path.replace("approve", "deny"), {}),
    ]

    assert [status for status, _ in answers] == [400, 400, 413, 403, 421, 400, 400, 400]
    assert world.herald.told == []


async def test_standing_grant_is_made_by_all_who_agree_to_it_and_taken_back() -> None:
    world = World()
    world.decider.needs = needs("r1", approvers="group:finance", quorum=2, standing=OFFER)
    ticket_id = (await world.held()).ticket_id
    api, path = Api(world), f"/approvals/{ticket_id}/approve"

    await api.ask("bo", "POST", path, {})
    proposed = (await api.ask("cy", "POST", path, {"standing": {"uses": 3, "any_arguments": True}}))[1]
    agreed = (await api.ask("bo", "POST", path, {"seen": proposed["agreeing_to"]}))[1]
    for number in range(2):
        await world.make(a_call({"sum": number}))
    grants = {who: (await api.ask(who, "GET", "/approvals/grants"))[1]["grants"] for who in ("ana", "bo", "di")}
    dropped = [
        (await api.ask(who, "DELETE", f"/approvals/grants/{agreed['grant_id']}"))[0] for who in ("di", "bo", "bo")
    ]
    await world.held(a_call({"sum": 9}))

    assert (proposed["state"], proposed["grant_id"]) == ("pending", None)
    assert agreed["state"] == "approved"
    assert [len(found) for found in grants.values()] == [1, 1, 0]
    assert grants["ana"][0]["uses_left"] == 1
    assert sorted(grants["ana"][0]["granted_by"]) == ["user:bo", "user:cy"]
    assert dropped == [404, 200, 404]


async def test_switches_are_for_whom_policy_says_and_work_while_everything_is_stopped() -> None:
    world = World()
    world.decider.needs = None
    api = Api(world)

    refused = await api.ask("bo", "PUT", "/switches", {"kind": "everything"})
    put = await api.ask("op", "PUT", "/switches", {"kind": "everything", "reason": "an incident"})
    listed = await api.ask("op", "GET", "/switches")
    stopped = world.switches.refusal(a_call(), ANA)
    cleared = [await api.ask("op", "DELETE", "/switches", {"kind": "everything"}) for _ in range(2)]

    assert refused[0] == 403
    assert (put[0], put[1]["set_by"]) == (200, "user:op")
    assert [each["reason"] for each in listed[1]["switches"]] == ["an incident"]
    assert stopped is not None
    assert [status for status, _ in cleared] == [200, 404]
    assert world.switches.refusal(a_call(), ANA) is None


async def test_grant_of_another_kind_of_ticket_is_never_offered() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id

    status, answer = await Api(world).ask("bo", "POST", f"/approvals/{ticket_id}/approve", {"standing": {"uses": 1}})

    assert status == 400
    assert "offers no standing grant" in answer["error"]


async def test_proposals_are_dropped_again_and_bounds_of_policy_are_the_defaults() -> None:
    world = World()
    world.decider.needs = needs("r1", approvers="group:finance", quorum=3, standing=OFFER)
    ticket_id = (await world.held()).ticket_id
    api, path = Api(world), f"/approvals/{ticket_id}/approve"

    proposed = (await api.ask("bo", "POST", path, {"standing": {"uses": 2}}))[1]
    body = {"seen": proposed["agreeing_to"], "standing": None, "arguments": None}
    dropped = (await api.ask("cy", "POST", path, body))[1]

    assert proposed["standing"] == {"uses": 2, "expires_s": 600, "idle_s": 60, "any_arguments": False}
    assert dropped["standing"] is None
    assert [vote["approver"] for vote in dropped["stages"][0]["votes"]] == ["user:cy"]


async def test_grant_for_any_arguments_is_made_only_where_policy_offers_that() -> None:
    world = World()
    world.decider.needs = needs("r1", approvers="group:finance", standing={"uses": 5, "expires_s": 600})
    ticket_id = (await world.held()).ticket_id
    wanted = {"standing": {"uses": 1, "any_arguments": True}}

    status, answer = await Api(world).ask("bo", "POST", f"/approvals/{ticket_id}/approve", wanted)

    assert status == 400
    assert "these arguments only" in answer["error"]


async def test_ticket_that_is_lost_in_every_race_is_a_conflict_in_the_end() -> None:
    world = World()
    ticket_id = await opened(world, Stage("group:finance", 2))
    world.store.before_change = lambda: world.store.steal(ticket_id)

    status, _ = await Api(world).ask("bo", "POST", f"/approvals/{ticket_id}/approve", {})

    assert status == 409
