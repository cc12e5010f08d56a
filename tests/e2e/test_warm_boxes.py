"""Boxes of an environment that is warm are clones of one that was prepared once: quick to have, and not alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandboxes.ledger import Ledger
from tests.e2e.boxes import boxed, boxes, environment, prepared, records, works
from tests.e2e.caller import Told
from tests.e2e.eventually import eventually
from tests.e2e.place import ALLOW_ALL, as_process, new_key


@pytest.mark.slow
async def test_warm_upstreams_and_sessions_are_clones_that_share_no_entropy(tmp_path: Path) -> None:
    environment(tmp_path, "warm", "warm = true")
    upstreams = {"one": boxed(environment="warm"), "code": {"type": "sandbox", "environment": "warm"}}
    place = prepared(tmp_path, upstreams, ALLOW_ALL, await works("gvisor"))
    ana, bo = await new_key(place, "ana"), await new_key(place, "bo")
    run = {
        "code": "import os; print(os.urandom(16).hex()); open('mine', 'x').write('mine')",
        "language": "python",
        "environment": "warm",
    }

    with as_process(place):
        async with place.caller(ana) as by_ana, place.caller(bo) as by_bo:
            first = json.loads((await by_ana.call("one__where")).text)
            (box,) = boxes(place)
            await Ledger.of(place.state).kill(box.id)

            async def back() -> list[Told]:
                told = await by_ana.call("one__where")
                return [] if told.failed else [told]

            second = json.loads((await eventually(back))[0].text)
            frozen = set((place.state / "frozen").iterdir())
            runs = [await caller.call("code__run_code", run) for caller in (by_ana, by_bo)]
            frozen_with_agent = set((place.state / "frozen").iterdir())
            there = boxes(place)

    assert first["born"] == second["born"]  # what the one that was frozen remembers
    assert first["chance"] != second["chance"]
    assert len(frozen) == 1
    assert len(frozen_with_agent) == 2
    assert all((kept / "state.json").is_file() for kept in frozen_with_agent)
    assert not any(ran.failed for ran in runs)
    assert runs[0].text.split("stdout:\n")[1] != runs[1].text.split("stdout:\n")[1]
    assert len({entry.id for entry in there}) == 3
    assert {record["error"] for record in records(place, "sandbox.exec")} == {""}
