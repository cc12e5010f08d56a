"""A gateway as people start it, whose decisions an OPA server makes: on the event loop that it has then."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.gateway import Plan
from tests.e2e.eventually import eventually
from tests.e2e.place import as_process, new_key, prepare, rules
from tests.pdp.opaserver import HOW_TO, opa_program, running_opa
from tests.servers.launch import http_server

RULES = """
allow if input.subject.id == "user:ana"
deny contains {"code": "no_shouting", "message": "in small letters", "public": true} if {
	input.resource.properties.arguments.text == "LOUD"
}
"""


@pytest.mark.skipif(not opa_program(), reason=HOW_TO)
async def test_an_opa_server_decides_for_a_gateway_that_was_started_by_its_command(tmp_path: Path) -> None:
    with running_opa() as opa, http_server("modern_asker", tmp_path) as upstream:
        policy = {**rules(tmp_path, all=RULES), "engine": "opa", "url": opa}
        place = prepare(tmp_path, Plan({"one": {"url": upstream.url}}, {"policy": policy}))
        key = await new_key(place, "ana")
        with as_process(place):
            async with place.caller(key) as ana:

                async def answers() -> bool:
                    return "quiet" in (await ana.call("one__echo", {"text": "quiet"})).text

                await eventually(answers, within_s=20)
                refused = (await ana.call("one__echo", {"text": "LOUD"})).text

    assert "no_shouting" in refused
