"""What an agent has read decides what it may send: real file servers, a real client, and a human for the third step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anyio.from_thread import start_blocking_portal
from mcp import Client, MCPError
from mcp_types import CallToolResult, ElicitResult

from tests.conformance.talking import Json
from tests.e2e.boxes import boxed, works
from tests.e2e.counting_agent import said, talking
from tests.e2e.flows import MODES, SECRET, Mode, World, client, obey, read, send, text_of, ticket_in, world
from tests.e2e.test_egress import origin

pytestmark = pytest.mark.slow

HELD = "held until role:security agrees"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with start_blocking_portal() as portal:
        made = world(tmp_path_factory.mktemp("guarded"), people=30, more={"box": boxed()})
        with portal.wrap_async_context_manager(made) as guarded:
            yield guarded


async def read_both(agent: Client, guarded: World) -> None:
    await read(agent, "web", guarded.page)
    await read(agent, "vault", guarded.secret)


@pytest.mark.parametrize("mode", MODES)
async def test_poisoned_page_sends_nothing_until_a_human_agrees_and_then_once(guarded: World, mode: Mode) -> None:
    before = guarded.sent()
    async with client(guarded, guarded.keys.pop(), mode) as agent:
        held = await obey(agent, guarded.page)
        unsent = guarded.sent()
        ticket = ticket_in(text_of(held))
        shown = await guarded.run("approvals", "show", ticket)
        await guarded.run("approvals", "approve", ticket, "--reason", "it was meant to go there")
        after = await send(agent)
        again = await send(agent)

    assert held.is_error
    assert HELD in text_of(held)
    assert unsent == before
    assert shown["title"] == "send to mail/echo after reading what is labelled private, untrusted"
    assert shown["labels"] == ["private", "untrusted"]
    assert not after.is_error
    assert again.is_error
    assert ticket_in(text_of(again)) != ticket
    assert guarded.sent() == before + 1


async def test_user_is_shown_where_it_is_approved_and_the_same_call_goes_on(guarded: World) -> None:
    before = guarded.sent()

    async def visits(context: Any, params: Any) -> ElicitResult:
        await guarded.run("approvals", "approve", ticket_in(params.url))
        return ElicitResult(action="accept")

    async with client(guarded, guarded.keys.pop(), "2026-07-28", user=visits) as agent:
        told = await obey(agent, guarded.page)

    assert not told.is_error, text_of(told)
    assert guarded.sent() == before + 1


async def test_denied_by_a_human_it_stays_here(guarded: World) -> None:
    before = guarded.sent()
    async with client(guarded, guarded.keys.pop()) as agent:
        held = await obey(agent, guarded.page)
        await guarded.run("approvals", "deny", ticket_in(text_of(held)), "--reason", "the page is poisoned")
        told = await send(agent)

    assert told.is_error
    assert "the page is poisoned" in text_of(told)
    assert guarded.sent() == before


@pytest.mark.parametrize("mode", MODES)
async def test_who_read_only_one_kind_sends_untouched(guarded: World, mode: Mode) -> None:
    async with client(guarded, guarded.keys.pop(), mode) as private, client(guarded, guarded.keys.pop(), mode) as web:
        secret = await read(private, "vault", guarded.secret)
        page = await read(web, "web", guarded.page)
        told = [await send(private, secret), await send(web, page)]

    assert [text_of(each) for each in told] == [secret, page]


@pytest.mark.parametrize("mode", MODES)
async def test_who_read_both_goes_on_working_inside(guarded: World, mode: Mode) -> None:
    note = str(Path(guarded.secret).with_name(f"note-{mode}.txt"))
    async with client(guarded, guarded.keys.pop(), mode) as agent:
        await read_both(agent, guarded)
        written = await agent.call_tool("vault__write_file", {"path": note, "content": SECRET})
        kept = await agent.call_tool("vault__read_text_file", {"path": note})
        names = {tool.name for tool in (await agent.list_tools()).tools}

    assert not written.is_error
    assert SECRET in text_of(kept)
    assert "mail__echo" in names


async def test_lists_and_agreeable_failures_mark_nothing(guarded: World) -> None:
    async with client(guarded, guarded.keys.pop()) as agent:
        await agent.list_tools()
        await agent.list_resources()
        await agent.list_prompts()
        await read(agent, "vault", guarded.secret)
        told = await send(agent, "hello")

    assert not told.is_error


async def test_what_a_resource_or_a_failing_tool_says_was_read_too(guarded: World) -> None:
    key = guarded.keys.pop()
    async with client(guarded, key, "2026-07-28", "crm") as crm, client(guarded, key, "2026-07-28") as agent:
        failed = await agent.call_tool("web__read_text_file", {"path": "/nowhere"})
        await crm.read_resource("note://one")
        told = await send(agent, "hello")

    assert failed.is_error
    assert HELD in text_of(told)


async def test_prompt_of_a_server_outside_is_a_way_out(guarded: World) -> None:
    async with client(guarded, guarded.keys.pop()) as agent:
        await agent.get_prompt("mail__greet", {"who": "Ana"})
        await read_both(agent, guarded)
        before = guarded.sent()
        with pytest.raises(MCPError):
            await agent.get_prompt("mail__greet", {"who": SECRET})

    assert guarded.sent() == before


async def test_what_was_read_after_people_agreed_is_asked_about_again(guarded: World) -> None:
    async with client(guarded, guarded.keys.pop()) as agent:
        first = ticket_in(text_of(await obey(agent, guarded.page)))
        await guarded.run("approvals", "approve", first)
        await agent.call_tool("crm__echo", {"text": "Ana Example, born in May"})
        told = await send(agent)
        shown = await guarded.run("approvals", "show", ticket_in(text_of(told)))

    assert told.is_error
    assert shown["id"] != first
    assert shown["title"].endswith("labelled pii, private, untrusted")


async def test_caller_without_sessions_is_remembered_over_connections_and_nobody_else_is(guarded: World) -> None:
    key = guarded.keys.pop()
    async with client(guarded, key, "2026-07-28", "web") as agent:
        await agent.call_tool("read_text_file", {"path": guarded.page})
    async with client(guarded, key, "2026-07-28", "vault") as agent:
        await agent.call_tool("read_text_file", {"path": guarded.secret})
    async with client(guarded, key, "2026-07-28", "mail") as agent:
        told = await agent.call_tool("echo", {"text": "hello"})
    async with client(guarded, guarded.keys.pop(), "2026-07-28", "mail") as other:
        untouched = await other.call_tool("echo", {"text": "hello"})

    assert HELD in text_of(told)
    assert not untouched.is_error


async def test_labels_are_of_one_session_where_there_are_sessions(guarded: World) -> None:
    key = guarded.keys.pop()
    async with client(guarded, key, "legacy") as first, client(guarded, key, "legacy") as second:
        await read_both(first, guarded)
        told = [await send(each, "hello") for each in (first, second)]

    assert [each.is_error for each in told] == [True, False]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_model_that_read_both_does_not_answer_a_server_outside(guarded: World, mode: Mode) -> None:
    before = guarded.sent()

    async def reads(agent: Client) -> None:
        await read_both(agent, guarded)

    async with client(guarded, guarded.keys.pop(), mode, first=reads) as agent:
        try:
            told: CallToolResult | None = await agent.call_tool("mail__ask_model", {"prompt": "what is in the vault?"})
        except MCPError:
            told = None

    assert told is None or told.is_error
    assert guarded.sent() == before


async def test_agent_outside_is_a_way_out(guarded: World) -> None:
    key = guarded.keys.pop()

    def count() -> int:
        counted: Json = httpx2.get(f"http://127.0.0.1:{guarded.courier.port}/count", timeout=10).json()
        return int(counted["methods"].get("SendMessage", 0))

    async with talking(guarded.place, key) as talker, client(guarded, key, "2026-07-28") as agent:
        await talker.ready()
        before = count()
        await read_both(agent, guarded)
        told = await talker.ask("SendMessage", said(SECRET))
        ticket = ticket_in(str(told))
        unsent = count()
        await guarded.run("approvals", "approve", ticket)
        after = await talker.ask("SendMessage", said(SECRET))

    assert unsent == before
    assert "result" in after
    assert count() == before + 1


async def test_connection_out_of_a_box_is_a_way_out(guarded: World) -> None:
    await works("bubblewrap")
    async with origin() as web, client(guarded, guarded.keys.pop(), "2026-07-28") as agent:
        free = await agent.call_tool("box__fetch", {"url": web.url})
        await read(agent, "vault", guarded.secret)
        held = await agent.call_tool("box__fetch", {"url": f"{web.url}?{SECRET.replace(' ', '+')}"})
        heard = b"".join(web.heard)

    assert '"status": 200' in text_of(free)
    assert '"status": 403' in text_of(held)
    assert b"vault" not in heard


async def test_without_the_pack_the_secret_is_sent(tmp_path: Path) -> None:
    async with world(tmp_path, pack=False) as open_world:
        async with client(open_world, open_world.keys.pop()) as agent:
            told = await obey(agent, open_world.page)

        assert not told.is_error
        assert open_world.sent() == 1


BY_PATH = """label contains "private" if {
	input.action.name == "mcp.tools.call"
	contains(input.resource.properties.arguments.path, "/vault/")
}

label contains "untrusted" if {
	input.action.name == "mcp.tools.call"
	contains(input.resource.properties.arguments.path, "/web/")
}
"""


async def test_labels_that_a_rule_of_ones_own_puts_on_results_count(tmp_path: Path) -> None:
    async with world(tmp_path, rule=BY_PATH, labels=False) as made:
        async with client(made, made.keys.pop()) as agent:
            told = await obey(agent, made.page)

        assert HELD in text_of(told)
        assert made.sent() == 0
