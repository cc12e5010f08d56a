"""A card that was accepted is the one that is used: what changes waits for a person, a lost signature too."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.app.cards import judged
from gateway.ports import Pin
from gateway.registry.card_pins import accepted_card, judge_card, waiting_card
from gateway.registry.pins import Mode, accept
from tests.a2a.card_samples import Json, card_of, entry_of
from tests.fakes import FakeStore


class Book:
    """Pins as a store keeps them."""

    def __init__(self) -> None:
        self.pins: dict[tuple[str, str], Pin] = {}

    def shows(self, card: Json, *, signed: bool = False, mode: Mode = "first-use") -> str:
        """The reason for quarantine, or nothing."""
        verdict = judge_card(list(self.pins.values()), "cook", card, mode, signed=signed, now_s=5)
        self.take(verdict.pins)
        return verdict.quarantine

    def take(self, pins: Sequence[Pin]) -> None:
        self.pins |= {(pin.kind, pin.name): pin for pin in pins}

    def accept(self) -> None:
        waiting = waiting_card(list(self.pins.values()))
        assert waiting is not None
        self.take([accept(waiting, by="user:ana", now_s=9)])

    @property
    def waits(self) -> bool:
        return waiting_card(list(self.pins.values())) is not None


def test_first_card_is_accepted_and_the_same_one_later() -> None:
    book = Book()

    assert book.shows(card_of()) == ""
    assert book.shows(card_of()) == ""
    assert not book.waits


def test_changed_card_waits_with_its_difference_until_a_person_accepts_it() -> None:
    book = Book()
    book.shows(card_of())

    reason = book.shows(card_of(description="mails"))

    assert '-    "description": "cooks"' in reason
    assert '+    "description": "mails"' in reason
    assert book.waits
    book.accept()
    assert book.shows(card_of(description="mails")) == ""
    assert book.shows(card_of()) != ""


def test_card_that_goes_back_is_used_again_and_nothing_waits() -> None:
    book = Book()
    book.shows(card_of())
    book.shows(card_of(description="mails"))

    assert book.shows(card_of()) == ""
    assert not book.waits


def test_lost_signature_is_a_change() -> None:
    book = Book()
    book.shows(card_of(), signed=True)

    reason = book.shows(card_of(), signed=False)

    assert '-  "signed": true' in reason
    assert book.waits


def test_new_signature_is_none_and_cannot_be_lost_again() -> None:
    book = Book()
    book.shows(card_of(), signed=False)

    assert book.shows(card_of(), signed=True) == ""
    assert not book.waits
    assert book.shows(card_of(), signed=False) != ""


def test_new_signature_over_a_changed_card_waits() -> None:
    book = Book()
    book.shows(card_of(), signed=False)

    assert book.shows(card_of(description="mails"), signed=True) != ""


def test_manual_mode_waits_for_the_first_card() -> None:
    book = Book()

    assert book.shows(card_of(), mode="manual") != ""
    book.accept()
    assert book.shows(card_of(), mode="manual") == ""


def test_pins_of_others_count_for_nothing() -> None:
    book = Book()
    book.shows(card_of())
    pins = list(book.pins.values())

    verdict = judge_card(pins, "other", card_of(description="x"), "first-use", signed=False, now_s=1)

    assert verdict.pinned
    assert verdict.pins[0].upstream == "other"


async def test_verdict_is_stored_before_the_agent_is_used() -> None:
    store = FakeStore()

    first = await judged(store, entry_of(card_of(), pinned=False), "first-use", now_s=5)
    second = await judged(store, entry_of(card_of(version="2"), pinned=False), "first-use", now_s=6)

    assert (first.pinned, first.quarantine) == (True, "")
    assert not second.pinned
    assert "1.2.0" in second.quarantine
    pins = await store.pins("cook")
    assert accepted_card(pins) is not None
    assert waiting_card(pins) is not None
