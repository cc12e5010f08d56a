"""Whether a definition is the one that was accepted."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ports import Pin
from gateway.registry import Item, Mode, Pending, Verdict, accept, judge, pending
from gateway.registry.pins import MAX_DIFF_LINE, MAX_DIFF_LINES
from tests.registry.samples import catalog_of, resource, template, tool


class Pins:
    """Pins as a store keeps them: one for each upstream, kind and name."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], Pin] = {}

    def put(self, pins: tuple[Pin, ...]) -> None:
        self.rows.update({(pin.upstream, pin.kind, pin.name): pin for pin in pins})

    def all(self) -> tuple[Pin, ...]:
        return tuple(self.rows.values())

    def see(self, items: tuple[Item, ...], mode: Mode = "first-use") -> Verdict:
        verdict = judge(self.all(), items, mode, now_s=1_700_000_000)
        self.put(verdict.pins)
        return verdict

    def waiting(self) -> tuple[Pending, ...]:
        return pending(self.all())


def _tools(**descriptions: str) -> tuple[Item, ...]:
    definitions = [tool(name, description=text) for name, text in descriptions.items()]
    return catalog_of("db", tools=definitions).items["tool"]


def test_first_definition_is_pinned_at_first_use() -> None:
    pins = Pins()

    verdict = pins.see(_tools(query="reads"))

    assert [item.pinned for item in verdict.accepted] == [True]
    (pin,) = verdict.pins
    assert (pin.upstream, pin.kind, pin.name, pin.accepted_by) == ("db", "tool", "query", "first-use")
    assert pin.digest == verdict.items[0].digest
    assert pin.definition == b'{"description":"reads","inputSchema":{"type":"object"},"name":"query"}'


def test_known_definition_is_accepted_and_writes_nothing() -> None:
    pins = Pins()
    pins.see(_tools(query="reads"))

    verdict = pins.see(_tools(query="reads"))

    assert verdict.pins == ()
    assert verdict.accepted[0].pinned


def test_first_definition_waits_for_a_person_in_manual_mode() -> None:
    pins = Pins()

    verdict = pins.see(_tools(query="reads"), "manual")

    assert verdict.accepted == ()
    assert "--- (none)" in verdict.quarantined[0].quarantine
    assert [one.candidate.name for one in pins.waiting()] == ["query"]
    assert pins.waiting()[0].pin is None


@pytest.mark.parametrize("mode", ["first-use", "manual"])
def test_changed_definition_is_quarantined_with_the_difference_until_a_person_accepts_it(mode: Mode) -> None:
    pins = Pins()
    pins.see(_tools(query="reads", other="x"))

    changed = pins.see(_tools(query="reads and mails it away", other="x"), mode)
    again = pins.see(_tools(query="reads and mails it away", other="x"), mode)
    (waiting,) = pins.waiting()
    pins.put((accept(waiting, by="user:ana", now_s=5),))
    accepted = pins.see(_tools(query="reads and mails it away", other="x"), mode)

    assert [item.name for item in changed.accepted] == ["other"]
    (held,) = changed.quarantined
    assert not held.pinned
    assert '-  "description": "reads"' in held.quarantine
    assert '+  "description": "reads and mails it away"' in held.quarantine
    assert waiting.diff == held.quarantine
    assert again.quarantined == changed.quarantined
    assert again.pins == ()
    assert [item.pinned for item in accepted.accepted] == [True, True]
    assert pins.waiting() == ()


def test_definition_that_goes_back_is_accepted_and_waits_no_more() -> None:
    pins = Pins()
    pins.see(_tools(query="reads"))
    pins.see(_tools(query="writes"))

    back = pins.see(_tools(query="reads"))

    assert back.accepted[0].pinned
    assert pins.waiting() == ()
    assert pins.see(_tools(query="reads")).pins == ()


def test_tool_that_vanishes_and_returns_changed_is_still_compared_with_its_pin() -> None:
    pins = Pins()
    pins.see(_tools(query="reads"))
    pins.see(())

    verdict = pins.see(_tools(query="writes"))

    assert verdict.accepted == ()


def test_pin_of_another_upstream_or_kind_does_not_count() -> None:
    pins = Pins()
    pins.see(catalog_of("evil", tools=[tool("query")], prompts=[{"name": "query"}]).all_items())

    verdict = judge(pins.all(), catalog_of("db", tools=[tool("query")]).items["tool"], "manual", now_s=0)

    assert verdict.accepted == ()


def test_templates_and_prompts_are_pinned_and_resources_are_not() -> None:
    catalog = catalog_of("db", prompts=[{"name": "p"}], resources=[resource("x:1")], templates=[template("x:{a}")])

    verdict = Pins().see(catalog.all_items(), "manual")

    assert [item.kind for item in verdict.accepted] == ["resource"]
    assert [item.pinned for item in verdict.accepted] == [False]
    assert {item.kind for item in verdict.quarantined} == {"prompt", "template"}


def test_acceptance_needs_somebody_who_accepts() -> None:
    pins = Pins()
    pins.see(_tools(query="reads"), "manual")

    with pytest.raises(ValueError, match="somebody"):
        accept(pins.waiting()[0], by="", now_s=1)


def test_difference_shows_what_an_eye_cannot_see() -> None:
    pins = Pins()
    pins.see(_tools(query="reads"))

    (held,) = pins.see(_tools(query="reads\u200b\u202e\U000e0041\x9b31m\ufeff ünïcode")).quarantined

    assert "reads\\u200b\\u202e\\U000e0041\\u009b31m\\ufeff ünïcode" in held.quarantine


def test_difference_is_bounded() -> None:
    pins = Pins()
    pins.see(_tools(query="reads"))
    wide = {"type": "object", "properties": {f"p{n}": {"description": "y" * 2_000} for n in range(90)}}

    (held,) = pins.see(catalog_of("db", tools=[tool("query", inputSchema=wide)]).items["tool"]).quarantined

    lines = held.quarantine.split("\n")
    assert len(lines) == MAX_DIFF_LINES + 1
    assert max(map(len, lines)) == MAX_DIFF_LINE + 1
    assert lines[-1].endswith("more lines")


def test_change_deep_inside_a_long_definition_is_shown_at_bounded_cost() -> None:
    def items(last: int) -> tuple[Item, ...]:
        schema = {"type": "object", "enum": [*range(5_000), last, *[n * n % 997 for n in range(20_000)]]}
        return catalog_of("db", tools=[tool("query", inputSchema=schema)]).items["tool"]

    pins = Pins()
    pins.see(items(-1))
    started = time.process_time()

    (held,) = pins.see(items(-2)).quarantined

    assert time.process_time() - started < 1.0
    changed = [line for line in held.quarantine.split("\n")[2:] if line[0] in "+-"]
    assert changed == ["-      -1,", "+      -2,"]


def test_pin_whose_text_is_not_what_its_digest_says_still_holds_the_tool_back() -> None:
    (item,) = _tools(query="reads")
    damaged = Pin("db", "tool", "query", "sha256:00", item.pinned_part)

    verdict = judge([damaged], [item], "first-use", now_s=0)

    assert verdict.quarantined[0].quarantine == "the digest differs from the pin's"


steps = st.lists(
    st.tuples(st.sampled_from(["see", "accept"]), st.dictionaries(st.sampled_from("ab"), st.sampled_from("xyz"))),
    max_size=12,
)


@given(steps, st.sampled_from(["first-use", "manual"]))
def test_only_first_sight_and_people_ever_put_a_definition_in_force(
    history: list[tuple[str, dict[str, str]]], mode: Mode
) -> None:
    pins = Pins()
    in_force: dict[str, str] = {}
    offered: dict[str, str] = {}
    for step, descriptions in history:
        if step == "accept":
            pins.put(tuple(accept(one, by="user:ana", now_s=1) for one in pins.waiting()))
            in_force.update(offered)
            continue
        offered.update(descriptions)
        verdict = pins.see(_tools(**descriptions), mode)
        if mode == "first-use":
            in_force = {**descriptions, **in_force}

        assert {item.name for item in verdict.accepted} == {
            name for name, text in descriptions.items() if in_force.get(name) == text
        }
        assert all(item.pinned for item in verdict.accepted)
        assert all(item.quarantine for item in verdict.quarantined)
