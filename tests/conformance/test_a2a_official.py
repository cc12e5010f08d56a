"""The official A2A kits, run against the agent itself and through the gateway: nothing that it gives may be lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from conformance.a2a.kit import KIT_VARIABLE, LEGACY_KIT_VARIABLE, PINNED, Run, Version, find_kit
from conformance.a2a.run import as_text, options_of, runs
from conformance.a2a.verdict import judge, read_expected

pytestmark = pytest.mark.slow

VARIABLES: dict[Version, str] = {"1.0": KIT_VARIABLE, "0.3": LEGACY_KIT_VARIABLE}

Measure = Callable[[Literal["--direct", "--through"]], Run]


@pytest.fixture(scope="module", params=[*VARIABLES])
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """Runs the kit of that version, each way once: a run takes two minutes."""
    version: Version = request.param
    variable = VARIABLES[version]
    place = os.environ.get(variable)
    if not place:
        pytest.skip(f"${variable} names no checkout of a2aproject/a2a-tck ({PINNED[version]})")
    kit, known = find_kit(place), dict[str, Run]()
    assert kit.version == version, f"${variable} is the kit of A2A {kit.version}"

    def measure(way: Literal["--direct", "--through"]) -> Run:
        if way not in known:
            out: Path = tmp_path_factory.mktemp("kit")
            (known[way],) = runs(options_of([way, "--tck", place]), kit, out)
        return known[way]

    return measure


def test_agent_itself_fails_only_what_is_known(measured: Measure) -> None:
    run = measured("--direct")

    verdict = judge([run], read_expected())

    assert run.passed > 80
    assert verdict.ok, as_text([run], verdict)


def test_all_that_passes_directly_passes_through_the_gateway(measured: Measure) -> None:
    both = [measured("--direct"), measured("--through")]

    verdict = judge(both, read_expected())

    assert both[1].passed > both[0].passed, "the gateway repairs nothing any more"
    assert verdict.ok, as_text(both, verdict)
