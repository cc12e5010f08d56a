"""Attacks on the memory and ordinary writes, as data: how many of either get through, with limits on both rates.

An attack got through when anybody recalls it from now on, or when what it was to displace is gone. An ordinary write is
held up when it does not take effect at once. Both are run with the pack `memory_guard` and with no policy but `allow`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.errors import PolicyDenied
from gateway.types import Identity
from tests.memory_service.place import Json, World, agent, person, world

HERE: Final = Path(__file__).parent
ATTACKS: Final[list[Json]] = json.loads((HERE / "attacks.json").read_text())
BENIGN: Final[list[Json]] = json.loads((HERE / "benign.json").read_text())
MOST_ATTACKS: Final = 0.05
MOST_HELD_UP: Final = 0.05
WHO: Final[Mapping[str, Identity]] = {
    "agent": agent("bot", "team:ops"),
    "other": agent("eve", "team:ops"),
    "delegate": agent("bot", "team:ops", of="ana"),
    "person": person("ana", "team:ops"),
}


async def carried_out(w: World, case: Json) -> tuple[Json, Json | None]:
    """What came of a case, and the record that it is about, if there was one before."""
    target: Json | None = None
    for step in case.get("before", ()):
        direct = step["as"] == "person"
        target = await w.do(WHO[step["as"]], "remember", step.get("session", "before"), direct=direct, **step["write"])
    who, direct = WHO[case["as"]], bool(case.get("direct"))
    session = "" if direct else "s1"
    if case.get("read"):
        await w.taint(who, *case["read"], session=session)
    if case.get("recall"):
        await w.do(who, "recall", session, query=case["recall"])
    if case.get("forget"):
        assert target is not None
        return await w.do(who, "forget", session, direct=direct, id=target["record"]), target
    if "revise" in case:
        assert target is not None
        return await w.do(who, "revise", session, direct=direct, id=target["record"], **case["revise"]), target
    return await w.do(who, "remember", session, direct=direct, **case["write"]), target


async def took_effect(w: World, case: Json) -> bool:
    """Whether a case did at once what it was to do."""
    try:
        answer, _ = await carried_out(w, case)
    except PolicyDenied:
        return False
    return bool(answer["forgotten"]) if case.get("forget") else answer["status"] == "active"


async def rate(cases: list[Json], place: Path, packs: tuple[str, ...]) -> tuple[float, list[str]]:
    """The part of the cases that took effect, and their names."""
    names = []
    for number, case in enumerate(cases):
        (place / str(number)).mkdir(parents=True)
        async with world(place / str(number), packs=packs, fake=True) as w:
            if await took_effect(w, case):
                names.append(case["name"])
    return len(names) / len(cases), names


@pytest.mark.parametrize("packs", [(), ("memory_guard", "information_flow")], ids=["no pack", "packs"])
async def test_attacks_are_kept_out_and_ordinary_writes_are_not(
    packs: tuple[str, ...], tmp_path: Path, record_property: Any
) -> None:
    assert len(ATTACKS) >= 40
    assert len(BENIGN) >= 40
    through, attacks = await rate(ATTACKS, tmp_path / "attacks", packs)
    passed, benign = await rate(BENIGN, tmp_path / "benign", packs)
    held_up = [case["name"] for case in BENIGN if case["name"] not in benign]
    record_property("attacks_that_got_through", through)
    record_property("ordinary_writes_held_up", 1 - passed)
    sys.stdout.write(f"\nattacks that got through: {through:.3f} of {len(ATTACKS)} {attacks}\n")
    sys.stdout.write(f"ordinary writes held up: {1 - passed:.3f} of {len(BENIGN)} {held_up}\n")

    assert through <= MOST_ATTACKS, attacks
    assert 1 - passed <= MOST_HELD_UP, held_up


@pytest.mark.parametrize("case", [case for case in ATTACKS if "write" in case], ids=lambda case: case["name"])
async def test_what_waits_reaches_nobody(case: Json, tmp_path: Path) -> None:
    """Whatever became of an attack: what is in quarantine is in no recall, list or export of anybody."""
    async with world(tmp_path, packs=("memory_guard",), fake=True) as w:
        try:
            answer, _ = await carried_out(w, case)
        except PolicyDenied:
            return
        if answer["status"] != "quarantined":
            return
        for who in WHO.values():
            for session in ("s1", "later"):
                shown = [await w.do(who, "recall", session, query=case["write"]["text"][:200])]
                shown += [await w.do(who, "list", session), await w.do(who, "export", session)]
                assert answer["record"] not in json.dumps(shown)
