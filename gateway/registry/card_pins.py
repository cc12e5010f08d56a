"""Whether an agent's card is the one that was accepted: the judge that keeps a changed card from being used.

A pin covers the card without its signatures, beside whether it was signed at all. A signature that is gone is a
change like any other, and waits for a person; one that is new, or by a new key over the same card, is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway import codec
from gateway.ports import Pin
from gateway.registry.pins import FIRST_USE, PENDING, Mode, Pending, difference, pending

KIND: Final = "card"
NAME: Final = "card"
"""An agent has one."""


@dataclass(frozen=True, slots=True)
class CardVerdict:
    """Whether the card may be used; `pins` are to be stored *before* it is."""

    quarantine: str = ""
    """Why not (the change, as a diff); empty when it may be used."""
    pins: tuple[Pin, ...] = ()

    @property
    def pinned(self) -> bool:
        """Whether it is the accepted one."""
        return not self.quarantine


def judge_card(
    pins: Sequence[Pin], agent: str, card: Mapping[str, object], mode: Mode, *, signed: bool, now_s: int
) -> CardVerdict:
    """Compare the card that an agent shows with what was accepted of it."""
    ours = {pin.kind: pin for pin in pins if (pin.upstream, pin.name) == (agent, NAME)}
    offered = _pin(agent, KIND, card, signed=signed)
    accepted, waiting = ours.get(KIND), ours.get(PENDING + KIND)
    if accepted is None and mode == FIRST_USE:
        return CardVerdict(pins=(replace(offered, accepted_by=FIRST_USE, accepted_s=now_s),))
    if accepted is not None and accepted.digest == offered.digest:
        return CardVerdict(pins=_closed(waiting, accepted))
    if accepted is not None and signed and accepted.digest == _pin(agent, KIND, card, signed=False).digest:
        newer = replace(accepted, digest=offered.digest, definition=offered.definition)
        return CardVerdict(pins=(newer, *_closed(waiting, newer)))
    reason = difference(accepted.definition if accepted else b"", offered.definition)
    candidate = replace(offered, kind=PENDING + KIND)
    known = waiting is not None and waiting.digest == candidate.digest
    return CardVerdict(reason or "the digest differs from the pin's", () if known else (candidate,))


def waiting_card(pins: Sequence[Pin]) -> Pending | None:
    """The card that waits for a person among the pins of an agent."""
    return next((one for one in pending(pins) if one.kind == KIND), None)


def accepted_card(pins: Sequence[Pin]) -> Pin | None:
    """The card in force among the pins of an agent."""
    return next((pin for pin in pins if pin.kind == KIND), None)


def _pin(agent: str, kind: str, card: Mapping[str, object], *, signed: bool) -> Pin:
    definition = codec.jcs({"card": card, "signed": signed})
    return Pin(agent, kind, NAME, "sha256:" + hashlib.sha256(definition).hexdigest(), definition)


def _closed(waiting: Pin | None, accepted: Pin) -> tuple[Pin, ...]:
    if waiting is None or waiting.digest == accepted.digest:
        return ()
    return (replace(waiting, digest=accepted.digest, definition=accepted.definition),)
