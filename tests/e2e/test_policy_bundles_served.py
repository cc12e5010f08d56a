"""A whole gateway decides by the bundles of a server, exchanges them under its clients, and follows its settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from conformance.gateway import Plan
from tests.conformance.talking import Json
from tests.e2e.bundle_server import LONG_POLL, Says, bundle_host
from tests.e2e.eventually import eventually
from tests.e2e.place import ALLOW_ALL, in_process, new_key, prepare, rules
from tests.pdp.bundles import archive, keys
from tests.servers.launch import http_server

REASON = '{"code": "closed", "message": "not today", "public": true}'
CLOSED = f'{ALLOW_ALL}\n\ndeny contains {REASON} if input.resource.id == "one/echo"'


async def test_bundles_are_exchanged_under_a_client_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    key = tmp_path / "key.pub"
    key.write_text(keys("ec")[1])
    with http_server("counting", tmp_path) as upstream, bundle_host() as host:
        host.patient, waiting = True, {"Content-Type": LONG_POLL}
        host.serve(archive(ALLOW_ALL, kind="ec"), '"1"', **waiting)
        policy = {"url": host.url, "bundle_key": f"file:{key}"}
        place = prepare(tmp_path, Plan({"one": {"url": upstream.url}}, {"policy": policy}))
        caller_key = await new_key(place, "ana")
        heard: list[Json] = []

        async def announced() -> bool:
            return any(message["method"] == "notifications/tools/list_changed" for message in heard[before:])

        async def asked_again() -> bool:
            return len(host.asked) >= seen + 2

        async with in_process(place), place.caller(caller_key) as caller, caller.listening(heard):
            first = await caller.call("one__echo", {"text": "open"})
            before = len(heard)
            host.serve(archive(CLOSED, kind="ec"), '"2"', **waiting)
            await eventually(announced)
            second = await caller.call("one__echo", {"text": "closed"})
            seen = len(host.asked)
            host.serve(archive(ALLOW_ALL, kind="ec-other"), '"3"', **waiting)
            await eventually(asked_again)
            third = await caller.call("one__echo", {"text": "still closed"})

        host.says = Says(500)
        async with in_process(place), place.caller(caller_key) as caller:
            kept = await caller.call("one__echo", {"text": "closed"})

    assert first.text == "open"
    assert [told.failed and "not today" in told.text for told in (second, third, kept)] == [True] * 3


async def test_gateway_without_any_bundle_starts_and_denies_until_settings_name_rules(tmp_path: Path) -> None:
    with http_server("counting", tmp_path) as upstream, bundle_host() as host:
        plan = Plan({"one": {"url": upstream.url}}, {"policy": {"url": host.url}})
        place = prepare(tmp_path, plan)
        caller_key = await new_key(place, "ana")

        async with in_process(place), place.caller(caller_key) as caller:
            denied = await caller.call("one__echo", {"text": "x"})
            place.write(dataclasses.replace(plan, tables={"policy": rules(tmp_path, all=ALLOW_ALL)}))

            async def allowed() -> bool:
                return not (await caller.call("one__echo", {"text": "x"})).failed

            await eventually(allowed)
            told = await caller.call("one__echo", {"text": "open"})

    assert denied.failed
    assert told.text == "open"
