"""Judges an agent's card against what was accepted of it, and keeps the pins that come of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import anyio

from gateway.a2a.directory import AgentEntry
from gateway.errors import UpstreamUnavailable
from gateway.ports import StateStore
from gateway.registry import Mode
from gateway.registry.card_pins import judge_card

STORE_S: Final = 10.0


async def judged(store: StateStore, entry: AgentEntry, mode: Mode, *, now_s: int) -> AgentEntry:
    """The agent marked as pinned or quarantined, once that is stored.

    Carried through even if the agent is given up meanwhile: a database connection dies of a cancellation.
    """
    signed = bool(entry.signed_by)
    try:
        with anyio.CancelScope(shield=True), anyio.fail_after(STORE_S):
            pins = await store.pins(entry.name)
            verdict = judge_card(pins, entry.name, entry.card, mode, signed=signed, now_s=now_s)
            if verdict.pins:
                await store.put_pins(verdict.pins)
    except TimeoutError as exc:
        raise UpstreamUnavailable(
            f"agent {entry.name!r}: its pin could not be read and written within {STORE_S:.0f} s"
        ) from exc
    return replace(entry, pinned=verdict.pinned, quarantine=verdict.quarantine)
