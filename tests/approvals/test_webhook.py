"""What a receiver answers decides whether a notice arrived, is tried again soon, or gives way to others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import anyio
import pytest

from adapters.notices.webhook import Webhook
from adapters.stores.sql import open_store
from conformance.processes import free_port
from gateway.app.approvals import Heralds, open_approvals
from gateway.approvals.notices import Notice
from gateway.config import Settings
from tests.approvals.worlds import NOW_MS, a_ticket
from tests.servers.posts import Quiet, served

NOTICE = Notice("approval.requested", a_ticket(), NOW_MS)


@contextmanager
def receiver(status: int, location: str, asked: list[str]) -> Iterator[str]:
    """A receiver that answers so; gives its address, and keeps the paths that it was asked at."""

    class Post(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("location", location)
            self.send_header("content-length", "0")
            self.end_headers()

    with served(Post) as url:
        yield f"{url}/hook"


async def sent(url: str) -> str:
    with anyio.fail_after(20):
        async with Webhook(url, b"k" * 32, url_of=lambda ticket_id: f"http://gate/{ticket_id}") as webhook:
            return await webhook.send(NOTICE)


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (200, "taken"),
        (204, "taken"),
        (302, "refused"),
        (307, "refused"),
        (400, "refused"),
        (410, "refused"),
        (408, "unreachable"),
        (429, "unreachable"),
        (500, "unreachable"),
        (503, "unreachable"),
    ],
)
async def test_answer_of_the_receiver_says_what_became_of_it_and_no_redirect_is_followed(
    status: int, fate: str
) -> None:
    asked: list[str] = []

    with receiver(status, "/elsewhere", asked) as url:
        said = await sent(url)

    assert said == fate
    assert asked == ["/hook"]


async def test_receiver_that_is_not_there_is_unreachable() -> None:
    assert await sent(f"http://127.0.0.1:{free_port()}/hook") == "unreachable"


async def test_nothing_is_sent_on_a_connection_that_is_closed(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/hook"
    settings = Settings.model_validate({"approvals": {"webhook_url": url}})
    state = await open_store("", data_dir=tmp_path, clock_s=time.time)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            async with AsyncExitStack() as stack:
                await open_approvals(settings, state, "http://gate", group, stack)
                before = senders()
            after = senders()
            group.cancel_scope.cancel()
    await state.aclose()

    assert (len(before), after) == (1, [])


def senders() -> list[str]:
    return [task.name or "" for task in anyio.get_running_tasks() if "Notifier" in (task.name or "")]


def test_what_a_rule_puts_into_a_title_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")

    Heralds().opened(a_ticket(title="pay with 4111 1111 1111 1111"))

    assert "apr-1" in caplog.text
    assert "4111" not in caplog.text
