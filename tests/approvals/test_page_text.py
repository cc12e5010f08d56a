"""What the approver's page says of a held call: all of it, and text of others as text."""

from __future__ import annotations

import html
import re

import pytest

from gateway.tickets import Stage, Vote
from tests.approvals.browser import opened, signed_in
from tests.approvals.worlds import NOW_MS, PAY, World, a_call, a_ticket, frozen, needs


async def test_text_of_others_is_shown_as_text_and_says_what_cannot_be_seen() -> None:
    world = World()
    hostile = {
        "html": "<script>alert(1)</script>",
        "image": '"><img src=x onerror=alert(1)>',
        "turned": "abc\u202egpj.exe",
        "unseen": "pay\u200b\u2800\ufe0f\U000e0041",
        "end": "</textarea></pre><script>alert(2)</script>",
        "arabic": "\u0633\u0644\u0627\u0645",
        "lines": "a\nb\u2028c",
    }
    world.decider.needs = needs("r1", approvers="group:finance", title="<b>pay</b>\u202e now")
    ticket_id = (await world.held(a_call(hostile))).ticket_id

    text = (await (await signed_in(world, "bo")).get(f"/approvals/{ticket_id}/page")).text

    assert "<img" not in text
    assert text.count("<script") == 1
    assert text.count("</textarea>") == 2
    assert not set(text) & set("\u202e\u200b\u2800\ufe0f\u2028\U000e0041")
    assert "abc\\u202egpj.exe" in text
    assert "\\udb40\\udc41" in text
    assert "⟨U+202E⟩ now" in text
    assert "<bdi>&quot;\u0633\u0644\u0627\u0645&quot;</bdi>" in text


async def test_arguments_that_were_only_looked_at_are_those_of_the_call() -> None:
    world = World()
    ticket_id = (await world.held(a_call({"odd": "\u202e\u2800", "big": 2**70, "part": 1.0, "deep": [[{}]]}))).ticket_id
    browser = await signed_in(world, "bo")
    shown = (await browser.get(f"/approvals/{ticket_id}/page")).text
    found = re.search(r'<textarea id="arguments"[^>]*>\n(.*?)</textarea>', shown, re.DOTALL)
    assert found is not None

    answer = await browser.vote(ticket_id, "approve-edited", arguments=html.unescape(found[1]))

    ticket = await world.store.ticket(ticket_id)
    assert answer.status_code == 303
    assert ticket is not None
    assert (ticket.state, ticket.edited) == ("approved", None)


@pytest.mark.parametrize("filler", ["\u180b", "\u180f", "\ufffc", "\U00016fe4", "\U0001d159", "\u20dd"])
async def test_selectors_and_fillers_that_show_as_nothing_are_named(filler: str) -> None:
    world = World()
    world.decider.needs = needs("r1", approvers="group:finance", title=f"pay{filler}")
    ticket_id = (await world.held(a_call({"to": f"shop{filler}"}))).ticket_id

    text = (await (await signed_in(world, "bo")).get(f"/approvals/{ticket_id}/page")).text

    assert filler not in text
    assert f"pay⟨U+{ord(filler):04X}⟩" in text


async def test_marks_that_would_be_drawn_over_other_lines_are_named() -> None:
    world = World()
    ticket_id = (await world.held(a_call({"to": "shop" + "\u0336" * 30, "name": "Vie\u0323\u0302t"}))).ticket_id

    text = (await (await signed_in(world, "bo")).get(f"/approvals/{ticket_id}/page")).text

    assert "shop" + "\u0336" * 4 + "\\u0336" * 26 in text
    assert "Vie\u0323\u0302t" in text


async def test_words_of_letters_that_pass_for_others_stand_out() -> None:
    world = World()
    world.decider.needs = needs("r1", approvers="group:finance", title="pay p\u0430ypal")
    ticket_id = (await world.held(a_call({"to": "to https://\u0430\u0440\u0440\u04cf\u0435.com now"}))).ticket_id
    world.decider.needs = needs()
    other = (await world.held(a_call({"to": "\n\u043c\u0430\u0433\u0430\u0437\u0438\u043d shop"}))).ticket_id
    browser = await signed_in(world, "bo")

    text = (await browser.get(f"/approvals/{ticket_id}/page")).text
    plain = (await browser.get(f"/approvals/{other}/page")).text

    assert "<h1><bdi>pay <mark>p\u0430ypal</mark></bdi></h1>" in text
    assert "to <mark>https://\u0430\u0440\u0440\u04cf\u0435.com</mark> now" in text
    assert "Words marked so" in text
    assert "Words marked so" not in plain


async def test_long_arguments_are_shown_whole_and_said_to_be_long() -> None:
    world = World()
    ticket_id = (await world.held(a_call({"text": "x" * 100_000}))).ticket_id
    short = (await world.held()).ticket_id
    browser = await signed_in(world, "bo")

    shown = await browser.get(f"/approvals/{ticket_id}/page")
    answer = await browser.vote(ticket_id, "approve-edited", arguments='{"text": "%s"}' % ("é" * 100_000))

    assert shown.text.count("x" * 100_000) == 2
    assert "This is long (100,016 characters)" in shown.text
    assert "This is long" not in (await browser.get(f"/approvals/{short}/page")).text
    assert answer.status_code == 303


async def test_what_only_agents_have_is_shown_as_a_chain() -> None:
    world = World()
    ticket_id = await opened(
        world,
        shown=frozen(
            {
                **a_ticket().shown,
                "subject": {
                    "type": "agent",
                    "id": "agent:helper",
                    "properties": {
                        "tenant": "acme",
                        "on_behalf_of": {"type": "user", "id": "ana"},
                        "delegation": ["user:ana", "agent:planner"],
                        "method": "jwt",
                        "issuer": "https://issuer.example",
                    },
                },
                "hops": ["agent:writer"],
                "request": {"all_of": [{"approvers": "group:finance"}, {"stages": [{"approvers": "role:x"}]}]},
                "labels": ["secret"],
                "resource": {"type": "tool", "id": PAY.id, "upstream": "bank", "name": "pay"},
                "meta": {"progressToken": 1},
                "params": {"task": {"ttl": 60000}},
                "facts": {"size": 1, "parts": [{"kind": "text"}], "none": None, "flag": False, "words": ["a", "b"]},
                "catalog": {"risk": "low", "odd": {"x": 1}, "words": ["a"], "share": 0.5, "pinned": False},
            }
        ),
    )

    text = (await (await signed_in(world, "bo")).get(f"/approvals/{ticket_id}/page")).text

    for said in ("agent:helper", "user:ana", "agent:planner", "agent:writer", "a token of https://issuer.example"):
        assert said in text
    for said in ("secret", "progressToken", "&quot;ttl&quot;: 60000", "role:x", "0.5"):
        assert said in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "spent"}, "has been carried out"),
        ({"state": "withdrawn"}, "was withdrawn"),
        ({"state": "approved"}, "carried out once"),
        ({"state": "denied", "votes": (Vote("user:cy", 0, "deny", "<i>no</i>"),)}, "&lt;i&gt;no&lt;/i&gt;"),
        ({"expires_ms": NOW_MS}, "Its time is over"),
        ({"expires_ms": NOW_MS + 3 * 86_400_000}, "3 days"),
        ({"expires_ms": NOW_MS + 3 * 3_600_000}, "3 h 0 min"),
        ({"expires_ms": NOW_MS + 9_000}, "9 s"),
        ({"edited": frozen({"sum": 2})}, "as an approver changed them"),
    ],
)
async def test_page_says_what_became_of_it(changes: dict[str, object], words: str) -> None:
    world = World()
    ticket_id = await opened(world, **changes)

    shown = await (await signed_in(world, "bo")).get(f"/approvals/{ticket_id}/page")

    assert words in shown.text


async def test_stages_and_votes_so_far_are_shown() -> None:
    world = World()
    first = Vote("user:cy", 0, "approve", "looks right", NOW_MS)
    stages = (Stage("group:finance"), Stage("group:security", 2))
    ticket_id = await opened(world, *stages, votes=(first,))
    browser = await signed_in(world, "di")

    shown = (await browser.get(f"/approvals/{ticket_id}/page")).text
    listed = (await browser.get("/approvals/page")).text

    for said in ("1 of 1 agreed", "0 of 2 agreed", "looks right", "1970-01-01 00:16:40 UTC"):
        assert said in shown
    assert "group:security, stage 2 of 2" in listed


async def test_arguments_that_nobody_else_can_write_are_not_offered_for_change() -> None:
    world = World()
    ticket_id = await opened(world, shown=frozen({**a_ticket().shown, "action": "a2a.message.send"}))

    shown = (await (await signed_in(world, "bo")).get(f"/approvals/{ticket_id}/page")).text

    assert "approve-edited" not in shown
    assert 'value="approve"' in shown
