"""An agent whose card changes is not called until a person has looked at the change, and then at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from anyio import to_thread

from gateway import codec
from gateway.a2a.card_shape import core_of
from gateway.identity.card_keys import CardKeys
from tests.conformance.talking import Json
from tests.e2e.counting_agent import AGENT, Counter, Talker, counter, place_of, said, talking
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, as_process, interlock, new_key
from tests.servers.agent import card_of

pytestmark = pytest.mark.slow

WITHIN_S = 20.0
OTHER = "Counts, and hands what it counted to whoever asks."


async def noticed(place: Place, ana: Talker) -> None:
    """Let the gateway look at the card now, and wait until it is not served any more."""

    async def gone() -> bool:
        return (await ana.card()).status_code == 403

    shown = await to_thread.run_sync(lambda: interlock(place, "agents", "list", "--fetch"))
    assert shown.returncode == 0, shown.stderr
    # A call that fails makes the gateway look again.
    await ana.ask("SendMessage", said("drip"))
    await eventually(gone, within_s=WITHIN_S)


async def accepted(place: Place, ana: Talker) -> str:
    """What `interlock agents accept` says, once the running gateway has heard of it."""
    done = await to_thread.run_sync(lambda: interlock(place, "agents", "accept", AGENT, "--by", "user:eve"))
    assert done.returncode == 0, done.stderr
    await eventually(ana.works, within_s=WITHIN_S)
    return done.stdout


def changed(agent: Counter) -> Json:
    """The card with other words in it."""
    card = card_of(agent.port)
    return {**card, "skills": [{"id": "count", "name": "Count", "description": OTHER, "tags": ["numbers"]}]}


async def test_agent_that_changes_its_card_is_kept_out_until_somebody_accepts_it(tmp_path: Path) -> None:
    with counter(tmp_path) as agent:
        place = place_of(tmp_path, agent.port, agent={"timeout_s": 1.0})
        key = await new_key(place, "ana")
        with as_process(place) as process:
            async with talking(place, key) as ana, place.caller(key) as mcp:
                await ana.ready()
                tools = await mcp.tools()
                agent.show(changed(agent))
                await noticed(place, ana)
                refused = await ana.ask("SendMessage", said("hello"))
                card = await ana.card()
                tools_then = await mcp.tools()
                tool = await mcp.call(f"{AGENT}__count", {"message": "hello"})
                shown = await to_thread.run_sync(lambda: interlock(place, "agents", "show", AGENT))
                await accepted(place, ana)
                tools_later = await mcp.tools()
                card_later = (await ana.card()).json()
            alive = process.poll() is None

    assert any(name.startswith(AGENT) for name in tools)
    assert not any(name.startswith(AGENT) for name in tools_then)
    assert "quarantine" in tool.text
    assert tools_later == tools
    assert "quarantine" in refused["error"]["message"]
    assert f"interlock agents show {AGENT}" in str(refused["error"])
    assert OTHER not in refused["error"]["message"]
    assert "quarantine" in card.text
    assert OTHER in shown.stdout
    assert "interlock agents accept" in shown.stdout
    assert card_later["skills"][0]["description"] == OTHER
    assert alive


async def test_signature_that_is_gone_is_a_change_like_any_other(tmp_path: Path) -> None:
    with counter(tmp_path) as agent:
        keys = CardKeys(b"k" * 32, f"http://127.0.0.1:{agent.port}/jwks.json")
        card = card_of(agent.port)
        agent.card.with_name("jwks.json").write_bytes(codec.dumps(keys.jwks()))
        agent.show(keys.sign(card, codec.jcs(core_of(card))))
        place = place_of(tmp_path, agent.port, agent={"timeout_s": 1.0})
        key = await new_key(place, "ana")
        with as_process(place):
            async with talking(place, key) as ana:
                await ana.ready()
                shown = await to_thread.run_sync(lambda: interlock(place, "agents", "show", AGENT, "--fetch", "--json"))
                agent.show(card)
                await noticed(place, ana)
                refused = await ana.ask("SendMessage", said("hello"))
                diff = await accepted(place, ana)

    assert json.loads(shown.stdout)["signed_by"] == keys.key_id
    assert "quarantine" in refused["error"]["message"]
    assert "signed" in diff


async def test_card_with_a_signature_that_does_not_fit_is_not_used(tmp_path: Path) -> None:
    with counter(tmp_path) as agent:
        keys = CardKeys(b"k" * 32, f"http://127.0.0.1:{agent.port}/jwks.json")
        signed = keys.sign(card_of(agent.port), codec.jcs(core_of(card_of(agent.port))))
        agent.card.with_name("jwks.json").write_bytes(codec.dumps(keys.jwks()))
        agent.show({**signed, "description": OTHER})
        place = place_of(tmp_path, agent.port)
        key = await new_key(place, "ana")
        with as_process(place):
            async with talking(place, key) as ana:
                refused = await ana.ask("SendMessage", said("hello"))
                card = await ana.card()

    assert "signature" in refused["error"]["message"]
    assert card.status_code == 503
