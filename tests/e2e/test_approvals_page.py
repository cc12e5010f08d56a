"""People decide on held calls in a browser: real Chromium, real gateway, real client, by keyboard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from conformance.gateway import Plan
from tests.e2e.caller import Told
from tests.e2e.chromium import Chromium, Page, chromium
from tests.e2e.place import Place, as_process, new_key, prepare, rules
from tests.servers.launch import http_server

RULES = """
allow if input.subject.id == "user:ana"
hold contains {
	"approvers": "group:finance", "title": sprintf("echo %s", [substring(text, 0, 60)]),
	"expires_s": 600, "standing": {"uses": 3, "expires_s": 600, "any_arguments": true},
} if {
	input.action.name == "mcp.tools.call"
	input.resource.properties.name == "echo"
	text := input.resource.properties.arguments.text
}
"""

HOSTILE = (
    "<script>alert('script')</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></textarea></pre><svg onload=alert(2)>",
    "invoice\u202efdp.exe",
    "javascript:alert(3)",
    "pay p\u0430ypal.com",
)

NAMELESS = """[...document.querySelectorAll('a, button, input:not([type=hidden]), textarea, summary, [tabindex="0"]')]
.filter(each => each.offsetParent && !(each.labels?.length || each.innerText?.trim() || each.ariaLabel))
.map(each => each.outerHTML.slice(0, 90))"""

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class World:
    """A gateway process, a browser, the keys of people, and where pictures are kept."""

    place: Place
    browser: Chromium
    ana: str
    bo: str
    cy: str
    pictures: Path

    def address(self, path: str) -> str:
        return f"{self.place.url}{path}"

    async def call(self, text: str) -> Told:
        async with self.place.caller(self.ana) as ana:
            return await ana.call("one__echo", {"text": text})

    async def held(self, text: str) -> str:
        """Make a call that is held; its ticket."""
        told = await self.call(text)
        assert "held until group:finance agrees" in told.text
        return "apr-" + told.text.rpartition("(ticket apr-")[2].partition(",")[0]

    def signed_in(self, key: str, path: str = "/approvals/page") -> Page:
        """Somebody's own page, after they signed in by keyboard."""
        page = self.browser.page()
        page.go(self.address(path))
        page.write(key)
        with page.loading():
            page.press("Enter")
        assert "signed in as" in page.text
        return page


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("page")
    pictures = Path(os.environ.get("INTERLOCK_ARTIFACTS") or directory / "pictures")
    pictures.mkdir(parents=True, exist_ok=True)
    with chromium(directory) as browser, http_server("modern_asker", directory) as upstream:
        place = prepare(directory, Plan({"one": {"url": upstream.url}}, {"policy": rules(directory, all=RULES)}))
        ana = anyio.run(new_key, place, "ana", "finance")
        bo = anyio.run(new_key, place, "bo", "finance")
        cy = anyio.run(new_key, place, "cy", "finance")
        with as_process(place):
            yield World(place, browser, ana, bo, cy, pictures)


def at_peace(page: Page) -> None:
    """Nothing ran that should not, and nothing was asked of others."""
    assert page.violations == []
    assert page.faults == []
    hosts = {url.split("/")[2] for url in page.requests if url.startswith("http")}
    assert len(hosts) == 1


async def test_call_is_approved_by_keyboard_only_and_then_carried_out(world: World) -> None:
    ticket = await world.held("by keyboard")
    page = world.browser.page()
    page.go(world.address(f"/approvals/{ticket}/page"))
    page.screenshot(world.pictures / "sign-in.png")
    status = page.status
    page.write(world.bo)
    with page.loading():
        page.press("Enter")
    page.screenshot(world.pictures / "ticket.png")
    page.screenshot(world.pictures / "ticket-dark.png", dark=True)
    page.screenshot(world.pictures / "ticket-narrow.png", width=400)
    text = page.text

    page.tab_to("Note")
    page.write("fine with me")
    page.tab_to("Approve")
    with page.loading():
        page.press("Enter")
    told = await world.call("by keyboard")

    assert status == 401
    for said in ("echo by keyboard", "user:ana", "one/echo", '"text": "by keyboard"', "group:finance", "min"):
        assert said in text
    assert "Approved." in page.text
    page.until("document.activeElement.getAttribute('role') === 'status'")
    page.screenshot(world.pictures / "approved.png")
    assert not told.failed
    at_peace(page)


async def test_denial_by_keyboard_reaches_the_caller_with_its_reason(world: World) -> None:
    ticket = await world.held("to deny")
    page = world.signed_in(world.bo, f"/approvals/{ticket}/page")

    page.tab_to("Why not?")
    page.write("not <b>today</b>")
    page.tab_to("Deny")
    with page.loading():
        page.press(" ")
    told = await world.call("to deny")

    assert "not <b>today</b>" in page.text
    assert told.failed
    assert "not <b>today</b>" in told.text
    at_peace(page)


async def test_changed_arguments_are_what_is_carried_out(world: World) -> None:
    ticket = await world.held("loud")
    page = world.signed_in(world.bo, f"/approvals/{ticket}/page")

    page.tab_to("Change the arguments")
    page.press("Enter")
    page.tab_to("Arguments, as one JSON object")
    page.select_all()
    page.write('{"text": ')
    page.tab_to("Approve with these arguments")
    with page.loading():
        page.press("Enter")
    refused = page.status
    page.until("document.activeElement.getAttribute('role') === 'alert'")
    page.screenshot(world.pictures / "refused.png")
    page.tab_to("Arguments, as one JSON object")
    page.select_all()
    page.write('{"text": "quiet"}')
    page.tab_to("Approve with these arguments")
    with page.loading():
        page.press("Enter")
    told = await world.call("loud")

    assert refused == 400
    assert "quiet" in told.text
    assert "loud" not in told.text
    at_peace(page)


async def test_standing_grant_is_given_in_the_browser(world: World) -> None:
    ticket = await world.held("stand")
    page = world.signed_in(world.bo, f"/approvals/{ticket}/page")

    page.tab_to("Approve calls like it")
    page.press("Enter")
    page.tab_to("Calls (at most 3)")
    page.select_all()
    page.write("2")
    page.tab_to("Approve this and such calls")
    with page.loading():
        page.press("Enter")
    told = [await world.call("stand") for _ in range(4)]

    assert [each.failed for each in told] == [False, False, False, True]  # the approval of this call, then the grant
    at_peace(page)


async def test_arguments_of_an_attacker_are_text_and_run_nothing(world: World) -> None:
    page = world.signed_in(world.bo)
    for number, text in enumerate((*HOSTILE, "A" * 100_000)):
        ticket = await world.held(text)
        page.go(world.address(f"/approvals/{ticket}/page"))
        if number < len(HOSTILE):
            page.screenshot(world.pictures / f"hostile-{number}.png")

        shown = page.eval("document.querySelector('pre').textContent")
        assert shown.replace("\\u202e", "\u202e").replace('\\"', '"') == f'{{\n  "text": "{text}"\n}}'
        assert "\u202e" not in page.eval("document.documentElement.outerHTML")
        assert page.eval("document.querySelectorAll('img, svg, script:not([src])').length") == 0
    page.go(world.address("/approvals/page"))
    page.screenshot(world.pictures / "list.png")
    assert HOSTILE[0] in page.text
    at_peace(page)


async def test_script_that_got_in_after_all_would_be_stopped(world: World) -> None:
    page = world.signed_in(world.bo)

    page.eval("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
    page.eval(
        "(() => { const made = document.createElement('script'); made.textContent = 'window.ran = 1';"
        "document.body.append(made); })()"
    )

    ran = page.eval("new Promise(done => setTimeout(() => done(window.ran === 1), 300))")
    assert ran is False
    assert page.violations != []


async def test_form_needs_the_cookie_that_its_page_was_made_for(world: World) -> None:
    ticket = await world.held("mine")
    path = f"/approvals/{ticket}/page"
    page, other = world.signed_in(world.bo, path), world.signed_in(world.cy)
    cookie = other.ask("Network.getCookies")["cookies"][0]
    given = {name: cookie[name] for name in ("name", "value", "path", "httpOnly", "sameSite")}

    page.ask("Network.setCookie", url=world.place.url, **given)
    page.tab_to("Approve")
    with page.loading():
        page.press("Enter")
    others = page.status
    page.ask("Network.clearBrowserCookies")
    page.ask("Network.setCookie", url=world.place.url, **{**given, "value": "x"})
    page.go(world.address(path))

    assert (others, page.status) == (403, 401)
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/approvals")
    assert page.eval("document.cookie") == ""
    assert "held until" in (await world.call("mine")).text


async def test_form_without_a_cookie_does_nothing_and_says_so(world: World) -> None:
    ticket = await world.held("lost")
    page = world.signed_in(world.bo, f"/approvals/{ticket}/page")

    page.ask("Network.clearBrowserCookies")
    page.tab_to("Approve")
    with page.loading():
        page.press("Enter")

    assert page.status == 401
    assert "nothing was done" in page.text
    assert "held until" in (await world.call("lost")).text


async def test_everything_works_without_scripts_and_signing_out_ends_it(world: World) -> None:
    ticket = await world.held("plain")
    page = world.browser.page()
    page.ask("Emulation.setScriptExecutionDisabled", value=True)
    page.go(world.address(f"/approvals/{ticket}/page"))

    page.write(world.bo)
    with page.loading():
        page.press("Enter")
    page.tab_to("Approve")
    with page.loading():
        page.press("Enter")
    approved = page.text
    page.tab_to("Sign out")
    with page.loading():
        page.press("Enter")

    assert "Approved." in approved
    assert "Sign in to decide" in page.text
    assert page.ask("Network.getCookies")["cookies"] == []
    assert not (await world.call("plain")).failed


async def test_list_is_looked_at_again_and_the_focus_stays(world: World) -> None:
    first = await world.held("first of two")
    page = world.signed_in(world.bo)
    page.tab_to("echo first of two")

    second = await world.held("second of two")
    page.eval("refresh()")
    page.screenshot(world.pictures / "list-dark.png", dark=True)

    assert "echo second of two" in page.text
    assert page.eval("document.activeElement.getAttribute('href')") == f"/approvals/{first}/page"
    assert page.eval(f"document.querySelectorAll('a[href*=\"{second}\"]').length") == 1
    assert "calls wait for you" in page.eval("document.querySelector('[role=status]').innerText")
    at_peace(page)


async def test_link_from_another_site_leads_to_the_ticket_without_signing_in_again(world: World) -> None:
    ticket = await world.held("linked")
    page = world.signed_in(world.bo)
    page.go(f"data:text/html,<a href='{world.address(f'/approvals/{ticket}/page')}'>decide</a>")

    page.tab_to("decide")
    with page.loading(2):
        page.press("Enter")

    assert "echo linked" in page.text
    assert page.violations == []


async def test_every_control_has_a_name_and_every_page_its_landmarks(world: World) -> None:
    ticket = await world.held("named")
    page = world.signed_in(world.bo)

    for path in ("/approvals/page", f"/approvals/{ticket}/page", "/approvals/nothing/page"):
        page.go(world.address(path))
        page.eval("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        marks = page.eval("['html[lang]', 'header', 'main', 'h1'].map(each => document.querySelectorAll(each).length)")
        assert page.eval(NAMELESS) == []
        assert marks == [1, 1, 1, 1]
    at_peace(page)


async def test_time_left_is_counted_down(world: World) -> None:
    ticket = await world.held("counting")
    page = world.signed_in(world.bo, f"/approvals/{ticket}/page")

    words = page.eval(
        "new Promise(done => new MutationObserver((_, seen) => { seen.disconnect(); "
        "done(document.querySelector('.clock').textContent); })"
        ".observe(document.querySelector('.clock'), {childList: true}))"
    )

    assert words.startswith("9 min 5")
    at_peace(page)
