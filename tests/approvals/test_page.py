"""The approver's page without a browser: who gets in, and what a form has to bring."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from urllib.parse import urlencode

import httpx2
import pytest

from gateway.errors import UpstreamUnavailable
from gateway.identity import base64url
from gateway.tickets import Stage, Switch
from gateway.types import FrozenDict, Resource
from tests.approvals.browser import HOST, Browser, app_of, hidden_in, opened, signed_in, state_of
from tests.approvals.worlds import World, a_call, frozen, needs, person

OFFER = {"uses": 5, "expires_s": 600, "idle_s": 60, "any_arguments": True}


async def test_nobody_sees_anything_before_they_sign_in() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id

    answers = [await Browser(world).get(path) for path in ("/approvals/page", f"/approvals/{ticket_id}/page")]

    assert [answer.status_code for answer in answers] == [401, 401]
    assert all("Sign in to decide" in answer.text and "shop" not in answer.text for answer in answers)


async def test_sign_in_leads_to_what_one_came_for_and_its_cookie_is_sealed() -> None:
    world = World()
    world.identifier.known["ilk_of_bo"] = world.identifier.known["bo"]
    ticket_id = (await world.held()).ticket_id
    browser = Browser(world)

    answer = await browser.sign_in("ilk_of_bo", ticket_id)
    shown = await browser.get(answer.headers["location"])

    assert answer.headers["location"] == f"/approvals/{ticket_id}/page"
    assert shown.status_code == 200
    assert "user:bo" in shown.text
    sealed = browser.cookie.partition("=")[2]
    assert b"ilk_of_bo" not in base64url.decode(sealed)
    assert "ilk_of_bo" not in sealed
    attributes = {part.strip().lower() for part in browser.set_cookies[0].split(";")[1:]}
    assert attributes == {"httponly", "samesite=strict", "max-age=3600", "path=/approvals"}


async def test_cookie_is_for_https_only_where_the_gateway_is() -> None:
    browser = Browser(World(), url="https://localhost")

    await browser.sign_in("bo")

    assert browser.set_cookies[0].startswith("__Host-interlock-approver=")
    assert "secure" in {part.strip().lower() for part in browser.set_cookies[0].split(";")}


@pytest.mark.parametrize("key", ["nobody", "", "two words", "x" * 20_000, "bo\r\nx: y", "ключ"])
async def test_key_that_does_not_hold_gives_no_cookie(key: str) -> None:
    browser = Browser(World())

    answer = await browser.sign_in(key)

    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert browser.set_cookies == []


async def test_token_that_fits_into_no_cookie_is_refused_with_a_way_out() -> None:
    browser = Browser(World())

    answer = await browser.sign_in("x" * 4_000)

    assert answer.status_code == 401
    assert "command line" in answer.text


async def test_sign_in_ends_after_an_hour_and_with_the_key() -> None:
    world = World()
    browser, late = await signed_in(world, "bo"), await signed_in(world, "cy")

    del world.identifier.known["bo"]
    revoked = await browser.get("/approvals/page")
    world.now_ms += 3_600_000
    over = await late.get("/approvals/page")

    assert (revoked.status_code, over.status_code) == (401, 401)


async def test_signing_out_takes_the_cookie_back() -> None:
    world = World()
    browser = await signed_in(world, "bo")
    token = hidden_in((await browser.get("/approvals/page")).text)

    kept = await browser.post("/approvals/page/sign-out", {"csrf": "guessed"})
    left = await browser.post("/approvals/page/sign-out", token)
    after = await browser.get("/approvals/page")

    assert (kept.status_code, left.status_code, after.status_code) == (403, 303, 401)
    assert "max-age=0" in browser.set_cookies[-1].lower()


async def test_list_shows_what_the_reader_may_see_and_what_waits_for_them() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id

    pages = {who: (await (await signed_in(world, who)).get("/approvals/page")).text for who in ("ana", "bo", "di")}

    assert f"/approvals/{ticket_id}/page" in pages["bo"]
    assert "1 call waits for you." in pages["bo"]
    assert "your own call" in pages["ana"]
    assert "Nothing waits for you." in pages["ana"]
    assert ticket_id not in pages["di"]


async def test_decided_calls_are_in_the_list_of_all() -> None:
    world = World()
    ticket_id = await opened(world)
    browser = await signed_in(world, "bo")
    await browser.vote(ticket_id, "deny", reason="no")

    waiting = await browser.get("/approvals/page")
    everything = await browser.get("/approvals/page?show=all")

    assert ticket_id not in waiting.text
    assert ticket_id in everything.text


async def test_page_says_all_that_one_decides_by() -> None:
    world = World()
    reach = FrozenDict({"definition_digest": "d1", "risk": "high", "labels": ("money",), "pinned": True})
    resource = Resource("tool", "bank/pay", "bank", "pay", catalog=reach, hints=frozen({"readOnlyHint": True}))
    world.decider.needs = needs("r1", approvers="group:finance", title="pay an invoice", reason="over the limit")
    ticket_id = (await world.held(a_call(resource=resource))).ticket_id

    text = (await (await signed_in(world, "bo")).get(f"/approvals/{ticket_id}/page")).text

    for said in ("pay an invoice", "user:ana", "acme", "bank/pay", "&quot;to&quot;: &quot;shop&quot;", "group:finance"):
        assert said in text
    for said in ("over the limit", "risk-high", "money", "own claim", "readOnlyHint", "0 of 1 agreed", "10 min 0 s"):
        assert said in text


async def test_approval_in_the_browser_carries_the_call_out() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id
    browser = await signed_in(world, "bo")

    answer = await browser.vote(ticket_id, "approve", reason="fine")
    after = await browser.get(answer.headers["location"])
    await world.make()

    assert answer.status_code == 303
    assert 'role="status"' in after.text
    assert "Approved." in after.text
    assert len(world.upstream.executed) == 1
    record = next(each for each in world.trail.records if each.call.action == "approvals.approve")
    assert record.identity is not None
    assert record.identity.subject.id == "user:bo"


async def test_denial_needs_a_reason_and_reaches_the_ticket() -> None:
    world = World()
    ticket_id = await opened(world)
    browser = await signed_in(world, "bo")

    silent = await browser.vote(ticket_id, "deny", reason="  ")
    answer = await browser.vote(ticket_id, "deny", reason="too\r\nmuch")

    assert (silent.status_code, answer.status_code) == (400, 303)
    assert "say why not" in silent.text
    ticket = await world.store.ticket(ticket_id)
    assert ticket is not None
    assert (ticket.state, ticket.votes[0].reason) == ("denied", "too\nmuch")


async def test_changed_arguments_are_checked_and_carried_out() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id
    browser = await signed_in(world, "bo")

    wrong = [
        await browser.vote(ticket_id, "approve-edited", arguments=text)
        for text in ('{"to": ', "[1]", '{"to": "a", "to": "b"}', "NaN", "[" * 5_000)
    ]
    right = await browser.vote(ticket_id, "approve-edited", arguments='{"to": "shop",\r\n "sum": 2}')
    await world.make()

    assert [answer.status_code for answer in wrong] == [400] * 5
    assert "{&quot;to&quot;: </textarea>" in wrong[0].text
    assert "twice" in wrong[2].text
    assert right.status_code == 303
    assert world.upstream.executed[0].call.params["arguments"] == frozen({"to": "shop", "sum": 2})


async def test_what_was_filled_in_comes_back_as_it_was_after_a_refusal() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id
    browser = await signed_in(world, "bo")

    refused = await browser.vote(ticket_id, "approve-edited", arguments='{\r\n "to": "a\ufe0f",\r\n "sum" 1}')
    found = re.search(r'<textarea id="arguments"[^>]*>\n(.*?)</textarea>', refused.text, re.DOTALL)
    assert found is not None
    mended = html.unescape(found[1]).replace('"sum" 1', '"sum": 1')
    answer = await browser.vote(ticket_id, "approve-edited", arguments=mended)
    again = await browser.vote(await opened(world), "deny", reason="too\r\nmuch" + "!" * 2_000)

    ticket = await world.store.ticket(ticket_id)
    assert answer.status_code == 303
    assert ticket is not None
    assert ticket.edited == frozen({"to": "a\ufe0f", "sum": 1})
    assert ">\ntoo\nmuch!" in again.text


async def test_standing_grant_is_offered_and_made_within_its_bounds() -> None:
    world = World()
    world.decider.needs = needs("r1", approvers="group:finance", standing=OFFER)
    ticket_id = (await world.held()).ticket_id
    browser = await signed_in(world, "bo")

    much = await browser.vote(ticket_id, "approve-standing", uses="6", expires_s="600", idle_s="60")
    words = await browser.vote(ticket_id, "approve-standing", uses="many")
    made = await browser.vote(ticket_id, "approve-standing", uses="2", any_arguments="yes")

    assert (much.status_code, words.status_code, made.status_code) == (400, 400, 303)
    grant = (await world.store.grants(world.now_ms))[0]
    assert (grant.uses_left, grant.any_arguments) == (2, True)


async def test_second_approver_sees_the_proposal_and_may_agree_to_less() -> None:
    world = World()
    world.decider.needs = needs("r1", approvers="group:finance", quorum=2, standing=OFFER)
    ticket_id = (await world.held()).ticket_id
    bo, cy = await signed_in(world, "bo"), await signed_in(world, "cy")

    await bo.vote(ticket_id, "approve-standing", uses="2")
    seen = await cy.get(f"/approvals/{ticket_id}/page")
    waiting = await bo.get(f"/approvals/{ticket_id}/page")
    await cy.vote(ticket_id, "approve-as-made")

    assert "2 calls with these arguments" in seen.text
    assert "More people have to agree" in waiting.text
    ticket = await world.store.ticket(ticket_id)
    assert ticket is not None
    assert (ticket.state, ticket.standing) == ("pending", None)


async def test_vote_on_a_page_that_is_out_of_date_does_not_count() -> None:
    world = World()
    ticket_id = await opened(world, Stage("group:finance", 2))
    bo, cy = await signed_in(world, "bo"), await signed_in(world, "cy")
    path = f"/approvals/{ticket_id}/page"
    old = hidden_in((await bo.get(path)).text)

    await cy.vote(ticket_id, "approve-edited", arguments='{"to": "me"}')
    answer = await bo.post(path, {**old, "choice": "approve"})

    assert answer.status_code == 409
    assert "an approver changed what is agreed to" in answer.text
    assert await state_of(world, ticket_id) == "pending"


async def test_nobody_decides_on_their_own_call_and_the_page_says_so() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id
    browser = await signed_in(world, "ana")
    token = hidden_in((await browser.get("/approvals/page")).text)

    shown = await browser.get(f"/approvals/{ticket_id}/page")
    answer = await browser.post(f"/approvals/{ticket_id}/page", {**token, "choice": "approve"})

    assert "others decide on it" in shown.text
    assert "choice" not in shown.text
    assert answer.status_code == 403
    assert await state_of(world, ticket_id) == "pending"


async def test_ticket_that_is_hidden_looks_as_one_that_there_is_not() -> None:
    world = World()
    ticket_id = (await world.held()).ticket_id
    browser = await signed_in(world, "di")
    token = hidden_in((await browser.get("/approvals/page")).text)

    shown = [await browser.get(f"/approvals/{each}/page") for each in (ticket_id, "apr-0")]
    votes = [await browser.post(f"/approvals/{each}/page", {**token, "choice": "approve"}) for each in (ticket_id, "x")]

    assert {answer.status_code for answer in (*shown, *votes)} == {404}
    assert shown[0].text == shown[1].text


FOREIGN = [
    {"origin": "http://localhost:3000"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": ""},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_form_of_another_site_does_nothing(headers: dict[str, str]) -> None:
    world = World()
    ticket_id = await opened(world)
    browser = await signed_in(world, "bo")
    path = f"/approvals/{ticket_id}/page"
    form = {**hidden_in((await browser.get(path)).text), "choice": "approve"}

    answers = [
        await browser.post(path, form, **headers),
        await browser.post("/approvals/page/sign-in", {"key": "cy"}, **headers),
        await browser.post("/approvals/page/sign-out", form, **headers),
    ]

    assert [answer.status_code for answer in answers] == [403] * 3
    assert len(browser.set_cookies) == 1
    assert await state_of(world, ticket_id) == "pending"


async def test_vote_needs_the_cookie_and_the_token_that_belong_together() -> None:
    world = World()
    ticket_id = await opened(world)
    bo, cy = await signed_in(world, "bo"), await signed_in(world, "cy")
    path = f"/approvals/{ticket_id}/page"
    form = {**hidden_in((await bo.get(path)).text), "choice": "approve"}

    without = await Browser(world).post(path, form)
    others = await cy.post(path, form)
    none = await bo.post(path, {**form, "csrf": ""})
    twice = await Browser(world, cookie=f"{bo.cookie}; {cy.cookie}").post(path, form)
    torn = await Browser(world, cookie=bo.cookie[:-2]).post(path, form)

    assert [each.status_code for each in (without, others, none, twice, torn)] == [401, 403, 403, 401, 401]
    assert "nothing was done" in without.text
    assert await state_of(world, ticket_id) == "pending"


async def test_cookie_is_no_credential_of_the_api_and_get_decides_nothing() -> None:
    world = World()
    ticket_id = await opened(world)
    browser = await signed_in(world, "bo")
    form = urlencode({**hidden_in((await browser.get(f"/approvals/{ticket_id}/page")).text), "choice": "approve"})

    api = await browser.get(f"/approvals/{ticket_id}")
    got = await browser.get(f"/approvals/{ticket_id}/page?{form}")

    assert api.status_code == 401
    assert got.status_code == 200
    assert await state_of(world, ticket_id) == "pending"


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ("{}", "application/json", 400),
        ("choice", "application/x-www-form-urlencoded", 400),
        ("a=%ff", "application/x-www-form-urlencoded", 400),
        ("a=1&a=2", "application/x-www-form-urlencoded", 400),
        ("a=" + "x" * 2_100_000, "application/x-www-form-urlencoded", 413),
    ],
)
async def test_what_is_no_form_of_ours_is_refused(body: str, content_type: str, status: int) -> None:
    world = World()
    ticket_id = await opened(world)
    browser = await signed_in(world, "bo")
    headers = {"origin": HOST, "content-type": content_type, "cookie": browser.cookie}
    transport = httpx2.ASGITransport(app_of(world))

    async with httpx2.AsyncClient(transport=transport, base_url=HOST) as client:
        answer = await client.post(f"/approvals/{ticket_id}/page", content=body, headers=headers)

    assert answer.status_code == status


async def test_form_without_a_choice_decides_nothing() -> None:
    world = World()
    ticket_id = await opened(world)
    browser = await signed_in(world, "bo")

    answer = await browser.vote(ticket_id, "perhaps")
    long = await browser.vote(ticket_id, "approve", reason="x" * 2_001)

    assert (answer.status_code, long.status_code) == (400, 400)
    assert await state_of(world, ticket_id) == "pending"


async def test_link_of_another_site_is_followed_once_more_from_here() -> None:
    world = World()
    browser = Browser(world)

    first = await browser.get("/approvals/apr-1/page", **{"sec-fetch-site": "cross-site"})
    second = await browser.get("/approvals/apr-1/page", **{"sec-fetch-site": "same-origin"})

    assert (first.status_code, second.status_code) == (200, 401)
    assert 'content="0; url=/approvals/apr-1/page"' in first.text


async def test_every_answer_forbids_what_a_page_of_text_needs_not() -> None:
    world = World()
    ticket_id = await opened(world)
    browser = await signed_in(world, "bo")

    paths = ("/approvals/page", f"/approvals/{ticket_id}/page", "/approvals/x/page", "/approvals/page/assets/page.js",
             "/approvals/page/assets/page.css", "/approvals/page/assets/icon.svg",
             "/approvals/page/assets/other.css")  # fmt: skip
    answers = [await browser.get(path) for path in paths]

    assert [answer.status_code for answer in answers] == [200, 200, 404, 200, 200, 200, 404]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"


async def test_host_that_is_not_served_gets_no_page() -> None:
    answer = await Browser(World()).get("/approvals/page", host="evil.example")

    assert answer.status_code == 421


async def test_store_that_is_away_is_said_and_shows_nothing() -> None:
    world = World()
    ticket_id = await opened(world)
    browser = await signed_in(world, "bo")
    world.store.fail_with = UpstreamUnavailable("away")

    answer = await browser.get(f"/approvals/{ticket_id}/page")

    assert answer.status_code == 503
    assert "shop" not in answer.text


async def test_who_is_stopped_by_a_kill_switch_is_told_so_and_votes_no_more() -> None:
    world = World()
    ticket_id = await opened(world)
    browser = await signed_in(world, "bo")
    form = {**hidden_in((await browser.get(f"/approvals/{ticket_id}/page")).text), "choice": "approve"}
    await world.store.put_switch(Switch("subject", "user:bo", "left the company", "user:op", world.now_ms))
    await world.switches.follow(world.store)

    listed = await browser.get("/approvals/page")
    voted = await browser.post(f"/approvals/{ticket_id}/page", form)

    assert (listed.status_code, voted.status_code) == (200, 403)
    assert "kill switch is set" in voted.text
    assert await state_of(world, ticket_id) == "pending"


async def test_who_may_not_list_signs_in_all_the_same_and_is_told_why() -> None:
    world = World()
    world.identifier.known["guest"] = replace(person("guest"), method="none")
    browser = Browser(world)

    answer = await browser.sign_in("guest")
    listed = await browser.get("/approvals/page")

    assert (answer.status_code, listed.status_code) == (303, 403)
    assert "no rule allows it" in listed.text


async def test_store_that_is_away_at_the_sign_in_gives_no_cookie() -> None:
    world = World()
    world.store.fail_with = UpstreamUnavailable("away")
    browser = Browser(world)

    answer = await browser.sign_in("bo")

    assert answer.status_code == 503
    assert browser.set_cookies == []
