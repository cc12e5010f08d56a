"""Webhooks that lead inside are refused by every door; what agents have notified is handed on before the end."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

import anyio
import httpx2
import pytest
from anyio import to_thread

from conformance.processes import free_port
from tests.conformance.talking import Json
from tests.e2e.a2a_doors import BINDINGS, Binding, doors, message
from tests.e2e.counting_agent import AGENT, counter, place_of, said, talking
from tests.e2e.eventually import eventually
from tests.e2e.place import as_process, new_key
from tests.wire.upstreams import Conversation, upstream

pytestmark = pytest.mark.slow

HOSTS = (
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[fd00:ec2::254]",
    "[64:ff9b::a9fe:a9fe]",
    "169.254.169.254.",
    "localhost",
    "127.0.0.1",
    "[::1]",
    "10.0.0.1",
)
"""`localhost` is a name that leads to an address of our own: the gateway is one that is reached from elsewhere."""


@pytest.mark.parametrize("inline", [False, True], ids=["configured", "inline"])
async def test_webhook_that_leads_inside_is_refused_by_every_door(tmp_path: Path, inline: bool) -> None:
    answers: dict[tuple[Binding, str], str] = {}
    with counter(tmp_path) as agent:
        grpc_port = free_port()
        place = place_of(tmp_path, agent.port, listen={"grpc_port": grpc_port, "public_url": "https://gateway.test"})
        key = await new_key(place, "ana")
        with as_process(place):
            async with talking(place, key) as ana, doors(place.url, AGENT, key, grpc_port) as ask:
                await ana.ready()
                task_id = (await ana.ask("SendMessage", said("stream 1000 1000")))["result"]["task"]["id"]
                for binding in BINDINGS:
                    for host in HOSTS:
                        operation, params = _asking(f"https://{host}/latest/meta-data/", task_id, inline=inline)
                        answer = await ask.ask(binding, operation, params)
                        answers[binding, host] = f"{answer.status} {answer.body}"
                seen = httpx2.get(f"http://127.0.0.1:{agent.port}/count").json()["methods"]
                hooks = httpx2.get(f"http://127.0.0.1:{agent.port}/hooks").json()

    assert {each: text for each, text in answers.items() if "push notification" not in text} == {}
    assert hooks == []
    assert seen["SendMessage"] == 2  # the one that showed that the gateway is ready, and the one that made the task


def _asking(url: str, task_id: str, *, inline: bool) -> tuple[str, Mapping[str, object]]:
    if inline:
        return "SendMessage", {**message(), "configuration": {"taskPushNotificationConfig": {"url": url}}}
    return "CreateTaskPushNotificationConfig", {"taskId": task_id, "url": url}


async def test_gateway_that_is_told_to_stop_hands_on_what_it_was_notified_of(tmp_path: Path) -> None:
    bodies: list[bytes] = []
    statuses: list[int] = []
    held = anyio.Event()

    async def take_slowly(conversation: Conversation) -> None:
        request = await conversation.request()
        await held.wait()
        bodies.append(request.body)
        await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    with counter(tmp_path) as agent:
        place = place_of(tmp_path, agent.port)
        key = await new_key(place, "ana")
        with as_process(place) as process:
            async with upstream(take_slowly) as receiver, talking(place, key) as ana:
                await ana.ready()
                task = (await ana.ask("SendMessage", said("stream 1000 1000")))["result"]["task"]
                made = await ana.ask("CreateTaskPushNotificationConfig", {"taskId": task["id"], "url": receiver.url})
                assert "result" in made, made
                (hook,) = httpx2.get(f"http://127.0.0.1:{agent.port}/hooks").json()
                async with httpx2.AsyncClient(trust_env=False) as http:
                    for number in range(5):
                        statuses.append((await http.post(hook["url"], **_notice(task, hook, number))).status_code)

                async def begun() -> bool:
                    return receiver.connections > 0

                await eventually(begun)
                process.send_signal(signal.SIGTERM)

                async def deaf() -> bool:
                    try:
                        await (await anyio.connect_tcp("127.0.0.1", place.port)).aclose()
                    except OSError:
                        return True
                    return False

                await eventually(deaf)
                held.set()
                code = await to_thread.run_sync(lambda: process.wait(30))

    assert statuses == [200] * 5
    assert code == 0
    assert [f'"text":"{number}"'.encode() in body for number, body in enumerate(bodies)] == [True] * 5


def _notice(task: Json, hook: Json, number: int) -> Json:
    artifact = {"artifactId": "a1", "parts": [{"text": str(number)}]}
    update = {"taskId": task["id"], "contextId": task["contextId"], "artifact": artifact, "append": True}
    return {"json": {"artifactUpdate": update}, "headers": {"authorization": f"Bearer {hook['token']}"}}
