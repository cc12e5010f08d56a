"""The benchmark measures what it says: every call once, wrong answers as errors, large answers to their end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from tests.bench.__main__ import cpu_limit_us
from tests.bench.comparison import as_text, compare, echo
from tests.bench.load import LoadFailed, fire, shot, swallow
from tests.bench.probes import Finding
from tests.bench.targets import Target, Upstream, upstream


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with upstream(tmp_path_factory.mktemp("bench"), tools=200) as running:
        yield running


async def test_every_call_reaches_the_upstream_once(behind: Upstream) -> None:
    behind.forget()

    with anyio.fail_after(20):
        sample = await fire(echo(Target("upstream", behind.url, behind.pid)), connections=4, calls=100)

    assert (sample.calls, sample.errors) == (100, 0)
    assert behind.counted().extra(100) == 0
    assert behind.counted().connections == 4


async def test_answers_that_are_wrong_are_no_successes(behind: Upstream) -> None:
    with anyio.fail_after(20):
        with pytest.raises(LoadFailed, match="no call succeeded"):
            await fire(shot(behind.url, "no/such", {}, expect=b"x"), connections=1, calls=3)


async def test_answer_in_many_pieces_is_read_to_its_end(behind: Upstream) -> None:
    with anyio.fail_after(20):
        sample = await fire(shot(behind.url, "tools/list", {}, expect=b"tool_197"), connections=2, calls=4)

    assert sample.errors == 0
    assert sample.received_bytes > 4 * 64 * 1024


@pytest.mark.parametrize("shape", ["stream", "result"])
async def test_huge_answer_is_swallowed_whole(behind: Upstream, shape: str) -> None:
    params = {"name": "flood", "arguments": {"mib": 3, "shape": shape}}

    with anyio.fail_after(20):
        received, whole = await swallow(shot(behind.url, "tools/call", params, expect=b'"text":"done"', last=True))

    assert whole
    assert received > 3 * 2**20


async def test_comparison_names_every_target_at_every_concurrency(behind: Upstream, tmp_path: Path) -> None:
    targets = [Target("upstream", behind.url, behind.pid), Target("nginx", behind.url, behind.pid)]

    with anyio.fail_after(30):
        rows = await compare(behind, targets, connections=[1, 2], rounds=1, seconds=0.1)

    assert [(row.connections, row.target) for row in rows] == [
        (1, "upstream"),
        (1, "nginx"),
        (2, "upstream"),
        (2, "nginx"),
    ]
    assert as_text(rows).count("nginx") >= 2


async def test_limit_of_cpu_grows_on_a_slow_machine_and_never_shrinks(behind: Upstream) -> None:
    with anyio.fail_after(30):
        (row,) = await compare(behind, [_alone(behind)], connections=[8], rounds=1, seconds=0.1)

    for upstream_us, limit_us in ((0.0, 600), (15.0, 600), (30.0, 600), (45.0, 900)):
        assert cpu_limit_us([replace(row, cpu_us=upstream_us)], 8) == limit_us
    assert cpu_limit_us([replace(row, cpu_us=45.0)], 64) == 600  # what was measured at another concurrency says nothing
    assert cpu_limit_us([replace(row, cpu_us=45.0, target="nginx")], 8) == 600


def _alone(behind: Upstream) -> Target:
    return Target("upstream", behind.url, behind.pid)


def test_finding_above_its_limit_is_not_ok() -> None:
    assert Finding("cpu", 599, "us", 600).ok
    assert not Finding("cpu", 601, "us", 600).ok
