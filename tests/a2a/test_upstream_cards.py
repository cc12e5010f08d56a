"""An agent's card over time: unreachable, refused, changed, moved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.upstreams.a2a.card_source import CardFacts
from adapters.upstreams.a2a.kept_card import KeptCard
from gateway.a2a.directory import AgentEntry
from gateway.errors import UpstreamProtocolError, UpstreamUnavailable
from tests.a2a.agents import SEND, FixedSource, Script, entry_of, gives, interface_of, running, says, task, world
from tests.a2a.card_samples import as_shown, card_of, reading
from tests.wire.upstreams import upstream


async def test_agent_whose_card_comes_late_is_used_as_soon_as_it_is_there() -> None:
    script = Script({"SendMessage": gives(task())})
    source = FixedSource(UpstreamUnavailable("starting"))
    async with upstream(script.serve) as served, running(source, script) as made:
        source.entry = entry_of(interface_of(served, "JSONRPC", "1.0"))
        await made.until(lambda: len(made.offered) == 2)
        result = await made.call("SendMessage", SEND)

    assert made.offered[0].down == "starting"
    assert (made.offered[1], result.payload) == (source.entry, task())


async def test_card_that_cannot_be_read_anew_stays_in_use_and_one_that_is_refused_does_not() -> None:
    script = Script({"SendMessage": gives(task())})
    async with upstream(script.serve) as served:
        source = FixedSource(entry_of(interface_of(served, "JSONRPC", "1.0")))
        async with running(source, script, revalidate_s=0.05) as made:
            source.entry = UpstreamUnavailable("away")
            await made.until(lambda: made.agent.report()["state"] == "down")
            still = await made.call("SendMessage", SEND)
            source.entry = UpstreamProtocolError("its signature does not hold")
            await made.until(lambda: bool(made.offered[-1].down))
            with pytest.raises(UpstreamUnavailable, match="its signature does not hold"):
                await made.call("SendMessage", SEND)

    assert still.payload == task()
    assert made.offered[-1].down == "its signature does not hold"
    assert source.closed


async def test_agent_that_moves_is_called_where_its_new_card_says() -> None:
    old, new = Script({"SendMessage": gives(task())}), Script({"SendMessage": gives(task("COMPLETED", "t2"))})
    async with upstream(old.serve) as there, upstream(new.serve) as here:
        source = FixedSource(entry_of(interface_of(there, "JSONRPC", "1.0")))
        async with running(source, old, revalidate_s=0.05) as made:
            await made.call("SendMessage", SEND)
            source.entry = replace(entry_of(interface_of(here, "JSONRPC", "1.0")), digest="sha256:2")
            await made.until(lambda: len(made.offered) > 1 and made.offered[-1].digest == "sha256:2")
            await made.call("SendMessage", SEND)

    assert (old.count("SendMessage"), new.count("SendMessage")) == (1, 1)


async def test_error_about_one_task_is_the_answer_to_the_whole_list() -> None:
    broken = says(b'{"jsonrpc":"2.0","id":ID,"error":{"code":-32603,"message":"no"}}')
    async with world({"SendMessage": gives(task()), "GetTask": broken}) as made:
        await made.call("SendMessage", SEND)
        result = await made.call("ListTasks", {})

    assert (result.outcome, result.payload) == ("rpc_error", b'{"code":-32603,"message":"no"}')


async def test_unchanged_card_is_not_sent_again_but_judged_again() -> None:
    judged: list[str] = []

    async def judge(entry: AgentEntry) -> AgentEntry:
        judged.append(entry.digest)
        return await as_shown(entry)

    async with reading() as reader:
        reader.site.publish(card_of())
        reader.site.etag = '"1"'
        kept = KeptCard(reader.source, CardFacts("cook"), judge, lambda: 1.0)
        first = await kept.described()
        second = await kept.described()

    assert first == second
    assert judged == [first.digest, first.digest]
    assert reader.site.asked[-1][1]["If-None-Match"] == '"1"'
