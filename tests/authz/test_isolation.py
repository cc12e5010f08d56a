"""The obligation `sandbox`: read strictly, and several are the highest level and the least limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.authz.isolation import LIMITS, Sandbox, merge_sandboxes, read_sandbox
from gateway.authz.reading import UnsupportedObligation
from gateway.boxes import Level

LEVELS = [level for level in Level if level is not Level.NONE]
OBLIGATIONS = st.builds(
    lambda level, limits: read_sandbox({"level": level.value, "limits": limits}),
    st.sampled_from(LEVELS),
    st.dictionaries(st.sampled_from(sorted(LIMITS)), st.integers(1, 100)),
)


def test_level_and_limits_are_read() -> None:
    limits = {"memory_mb": 256, "wall_s": 10, "cpus": 0.5, "processes": 8}

    sandbox = read_sandbox({"level": "gvisor", "limits": limits})

    assert (sandbox.type, sandbox.level, sandbox.limits) == ("sandbox", Level.GVISOR, limits)
    assert sandbox.properties == {"level": "gvisor", "limits": limits}


@pytest.mark.parametrize("needed", LEVELS)
@pytest.mark.parametrize("level", list(Level))
def test_a_level_is_allowed_if_it_is_as_strong(needed: Level, level: Level) -> None:
    order = ["none", "process", "vm-emulated", "gvisor", "vm"]

    allowed = read_sandbox({"level": needed.value}).allows(level)

    assert allowed is (order.index(level) >= order.index(needed))


def test_limits_alone_ask_for_a_box() -> None:
    sandbox = read_sandbox({"limits": {"memory_mb": 64}})

    assert sandbox.level is Level.PROCESS
    assert not sandbox.allows(Level.NONE)


def test_one_that_nobody_read_asks_for_the_strongest() -> None:
    assert not Sandbox("sandbox").allows(Level.GVISOR)


@pytest.mark.parametrize(
    "properties",
    [
        None,
        [],
        {},
        {"level": "none"},
        {"level": ""},
        {"level": None},
        {"level": "VM"},
        {"level": "docker"},
        {"level": ["gvisor"]},
        {"level": 3},
        {"level": "gvisor", "driver": "runsc"},
        {"level": "gvisor", "limits": None},
        {"limits": []},
        {"limits": {"memory": 1}},
        {"limits": {"memory_mb": 0}},
        {"limits": {"memory_mb": 1.5}},
        {"limits": {"memory_mb": True}},
        {"limits": {"memory_mb": None}},
        {"limits": {"processes": -1}},
        {"limits": {"wall_s": 86_401}},
        {"limits": {"cpus": 0.0}},
        {"limits": {"cpus": 0.001}},
        {"limits": {"cpus": 2000.5}},
        {"limits": {"cpus": float("nan")}},
        {"limits": {"cpus": "1"}},
    ],
)
def test_what_is_not_written_as_documented_is_refused(properties: object) -> None:
    with pytest.raises(UnsupportedObligation, match=r"^sandbox"):
        read_sandbox(properties)


@given(st.lists(OBLIGATIONS, min_size=1, max_size=4))
def test_several_are_as_strict_as_the_strictest_in_everything(items: list[Sandbox]) -> None:
    merged = merge_sandboxes(items)

    for level in Level:
        assert merged.allows(level) == all(item.allows(level) for item in items)
    for name in LIMITS:
        assert merged.limits.get(name) == min([i.limits[name] for i in items if name in i.limits], default=None)
    assert read_sandbox(merged.properties) == merged
