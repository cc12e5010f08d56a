"""What policy keeps out of the decision log is not in it, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.pdp.bundle import bundle_of
from adapters.pdp.checks import examine
from adapters.pdp.cost import isolation_for
from adapters.pdp.projection import project
from gateway import codec
from gateway.app.decisions import MaskingByRevision
from gateway.decisions.event import Event, event_of
from gateway.decisions.masking import MaskingFailed, apply, masks_in, withhold
from gateway.decisions.reader import is_replayable
from gateway.ports import Answer, Decided
from tests.decisions.traffic import NOW_NS, bundle_from, events_in, open_log, recording

OPEN = """
package rules.open

default allow := false

allow if input.subject.id != ""
"""
MASK = """
package system.log

mask contains "/input/resource/properties/arguments/password"

mask contains {"op": "upsert", "path": "/input/subject/id", "value": "somebody"} if {
	input.input.resource.id == "shop/secret"
}

drop if input.input.resource.id == "shop/quiet"
"""
SLOW = """mask contains "/input" if {
	input.decision_id != ""
	some a in numbers.range(1, 100000)
	some b in numbers.range(1, 100000)
	a * b < 0
}"""


def event(**arguments: object) -> Event:
    """An event about a call with these arguments."""
    question = {"subject": {"id": "key:dev"}, "resource": {"arguments": arguments}}
    made = event_of(Decided("d", "decision", question, Answer({"decision": True, "context": {}})), {}, NOW_NS)
    return cast("Event", codec.loads(codec.dumps(made)))


def arguments_of(masked: Event) -> object:
    return cast("dict[str, dict[str, object]]", masked["input"])["resource"]["arguments"]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("/input/resource/arguments/a", {"b/c": [1, 2, 3], "d e": {"f": 1}}),
        ("/input/resource/arguments/b~1c/0", {"a": 1, "b/c": [2, 3], "d e": {"f": 1}}),
        ("/input/resource/arguments/d%20e/f", {"a": 1, "b/c": [1, 2, 3], "d e": {}}),
        ({"op": "upsert", "path": "/input/resource/arguments/a", "value": {"x": 1}}, {"a": {"x": 1}}),
        ({"op": "upsert", "path": "/input/resource/arguments/b~1c/1", "value": "*"}, {"b/c": [1, "*", 3]}),
        ({"op": "upsert", "path": "/input/resource/arguments/new/x", "value": 0}, {"new": {"x": 0}}),
        ({"op": "remove", "path": "/input/resource/arguments/a"}, {"b/c": [1, 2, 3], "d e": {"f": 1}}),
    ],
)
def test_rules_remove_and_replace_as_opa_does(rule: object, left: dict[str, object]) -> None:
    masked = event(a=1, **{"b/c": [1, 2, 3], "d e": {"f": 1}})
    whole = {"a": 1, "b/c": [1, 2, 3], "d e": {"f": 1}}
    replaced = isinstance(rule, dict) and rule["op"] == "upsert"

    apply(masked, masks_in([rule]))

    assert arguments_of(masked) == ({**whole, **left} if replaced else left)
    assert masked["masked" if replaced else "erased"] == [rule["path"] if isinstance(rule, dict) else rule]
    assert not is_replayable(masked)


def test_several_entries_of_a_list_are_removed_at_once() -> None:
    masked = event(keys=["one", "two", "three"])

    apply(masked, masks_in(["/input/resource/arguments/keys/0", "/input/resource/arguments/keys/1"]))

    assert arguments_of(masked) == {"keys": ["three"]}


def test_rule_that_meets_nothing_leaves_the_event_replayable() -> None:
    masked = event(a=1)

    apply(masked, masks_in(["/input/nothing/here", "/result/9", {"op": "upsert", "path": "/nd_builtin_cache/x"}]))

    assert masked == event(a=1)
    assert is_replayable(masked)


@pytest.mark.parametrize("path", ["/input", "/input/subject", "/input/subject/id"])
def test_who_asked_is_not_told_beside_a_masked_input(path: str) -> None:
    masked = event()

    apply(masked, masks_in([path]))

    assert "requested_by" not in masked


@pytest.mark.parametrize(
    "value",
    [
        7,
        "text",
        {"op": "remove"},
        [7],
        ["input/a"],
        ["/labels/x"],
        [{"path": "/input"}],
        [{"op": "drop", "path": "/input"}],
    ],
)
def test_whatever_is_no_mask_is_a_failure(value: object) -> None:
    with pytest.raises(MaskingFailed):
        masks_in(value)


@given(st.lists(st.text(alphabet="/~01%ab", max_size=9).map(lambda text: f"/input{text}"), max_size=4))
def test_no_path_breaks_masking(paths: Sequence[str]) -> None:
    masked = event(a=[{"b": 1}, 2], b="x")

    try:
        apply(masked, masks_in([*paths, *({"op": "upsert", "path": path, "value": 1} for path in paths)]))
    except MaskingFailed:
        withhold(masked, "no path")

    assert codec.dumps(masked)


@pytest.mark.parametrize("head", ["package system.log", "package # of the log\n\tsystem.log", 'package system["log"]'])
async def test_log_is_masked_and_dropped_as_the_policy_says(tmp_path: Path, head: str) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "open.rego").write_text(OPEN.lstrip())
    (rules / "log.rego").write_text(MASK.lstrip().replace("package system.log", head))

    async with recording(tmp_path / "log", bundle_from(rules)) as gateway:
        for name in ("buy", "secret", "quiet"):
            assert await gateway.use("dev", f"shop/{name}", {"password": "hunter2", "n": 1}) == "ok"
        assert await gateway.use("dev", "shop/buy", {"n": 1}) == "ok"

    buy, secret, plain = events_in(tmp_path / "log")
    assert b"hunter2" not in codec.dumps([buy, secret])
    assert buy["erased"] == ["/input/resource/properties/arguments/password"]
    assert (secret["masked"], secret["requested_by"]) == (["/input/subject/id"], "somebody")
    assert [is_replayable(each) for each in (buy, secret, plain)] == [False, False, True]


@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        ("authzen.evaluate", {"resource": {"properties": {"arguments": {"password": "hunter2"}}}}),
        ("approvals.approve", {"comment": "so", "arguments": {"password": "hunter2"}}),
    ],
)
async def test_masked_argument_is_not_told_in_the_question_around_it_either(
    action: str, arguments: dict[str, object], tmp_path: Path
) -> None:
    masking = MaskingByRevision()
    masking.use(bundle_of({"log.rego": MASK.lstrip()}))
    log = open_log(tmp_path, masking)
    question = {"action": {"name": action}, "resource": {"id": "x", "properties": {"arguments": arguments}}}
    log.decided(Decided("d", "decision", question, Answer({"decision": True}, "r")))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            await group.start(log.run)
            group.cancel_scope.cancel()
    masking.close()

    (written,) = events_in(tmp_path)
    assert b"hunter2" not in codec.dumps(written)
    assert not is_replayable(written)


@pytest.mark.parametrize("rules", ['mask := "everything"', "mask contains input.labels.id + 1", SLOW])
async def test_nothing_of_input_and_result_is_written_when_masking_fails(tmp_path: Path, rules: str) -> None:
    library = {name: text for name, text in bundle_from().modules if not name.startswith("starter")}
    bundle = bundle_of({**library, "open.rego": OPEN, "log.rego": f"package system.log\n\n{rules}\n"})

    async with recording(tmp_path / "log", bundle) as gateway:
        assert await gateway.use("dev", "shop/buy", {"password": "hunter2"}) == "ok"

    (written,) = events_in(tmp_path / "log")
    assert written["erased"] == ["/input", "/result"]
    assert written.keys() & {"input", "result", "requested_by", "trace_id"} == set()
    assert b"hunter2" not in codec.dumps(written)
    assert not is_replayable(written)


async def test_mask_may_stand_in_the_data(tmp_path: Path) -> None:
    files = {name: text for name, text in bundle_from().modules if not name.startswith("starter")}
    masks = {"system": {"log": {"mask": ["/input/resource/properties/arguments"]}}}

    async with recording(tmp_path / "log", bundle_of({**files, "open.rego": OPEN}, masks)) as gateway:
        await gateway.use("dev", "shop/buy", {"password": "hunter2"})

    (written,) = events_in(tmp_path / "log")
    assert written["erased"] == ["/input/resource/properties/arguments"]
    assert b"hunter2" not in codec.dumps(written)


def test_rules_for_the_log_pass_the_checks_and_cost_decisions_nothing() -> None:
    library = {name: text for name, text in bundle_from().modules if not name.startswith("starter")}
    without = bundle_of({**library, "open.rego": OPEN})
    masking = (
        "package system.log\n\nmask contains path if { walk(input.input, [path, value]); value == time.now_ns() }\n"
    )
    beside = bundle_of({**library, "open.rego": OPEN, "log.rego": masking})

    plain, more = examine(without), examine(beside)

    assert plain.faults == more.faults == ()
    assert plain.program is not None
    assert more.program is not None
    assert isolation_for("auto", more.program, beside) == isolation_for("auto", plain.program, without) == "inline"
    for entrypoint in ("decision", "visible"):
        place = ("interlock", entrypoint)
        assert project(more.program, place) == project(plain.program, place)
