"""A server that misbehaves harms the call that it misbehaves in, and nothing else."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from gateway.errors import InterlockError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Result
from tests.fakes import FakeRelay
from tests.servers.launch import Started, http_server
from tests.upstreams.harness import Running, at, gathered, payload, process_of, running, text_of

GARBAGE = ["garbage", "binary", "html", "empty", "array", "deep", "wrong_id", "wrong_version", "no_result"]
GARBAGE += ["not_a_result", "bad_error", "redirect", "status_500"]
MIB = 1024 * 1024


@pytest.fixture
async def site(faulty_site: Started) -> AsyncIterator[Running]:
    async with running(at(faulty_site.url), timeout_s=1.5, max_bytes=MIB) as up:
        yield up


@pytest.mark.parametrize("fault", GARBAGE)
async def test_garbage_is_an_error_for_its_caller_alone(site: Running, fault: str) -> None:
    with pytest.raises(UpstreamProtocolError, match="upstream 'x'"):
        await site.call(fault)
    fine = await site.call("fine")

    assert text_of(fine) == "fine"


@pytest.mark.parametrize("fault", ["hang", "drip", "chatter"])
@pytest.mark.requirement("mcp:2026-07-28:timeouts")
async def test_server_that_never_ends_its_answer_runs_out_of_time(site: Running, fault: str) -> None:
    with pytest.raises(UpstreamTimeout):
        await site.call(fault, FakeRelay(log_level="debug"))
    fine = await site.call("fine")

    assert text_of(fine) == "fine"


async def test_answer_cut_off_in_its_middle_is_an_error(site: Running) -> None:
    with pytest.raises(UpstreamUnavailable):
        await site.call("cut")


@pytest.mark.parametrize("fault", ["twice", "stranger", "noise", "bad_content"])
async def test_superfluous_messages_do_no_harm(site: Running, fault: str) -> None:
    relay = FakeRelay(capabilities={"roots": {}})

    result = await site.call(fault, relay)
    fine = await site.call("fine")

    assert result.outcome == "ok"
    assert relay.asked == []
    assert text_of(fine) == "fine"


async def test_huge_answer_costs_no_more_memory_than_allowed_and_no_other_call(faulty_site: Started) -> None:
    errors: list[InterlockError] = []

    async def huge(site: Running) -> None:
        try:
            await site.call("huge")
        except InterlockError as exc:
            errors.append(exc)

    tracemalloc.start()
    try:
        # Tracing the memory makes everything slow, so there is time.
        async with (
            running(at(faulty_site.url), timeout_s=20, max_bytes=MIB) as site,
            anyio.create_task_group() as group,
        ):
            group.start_soon(huge, site)
            fine = [await site.call("fine") for _ in range(20)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(errors[0], UpstreamProtocolError)
    assert "exceeds the limit of 1048576 bytes" in str(errors[0])
    assert peak < 8 * MIB
    assert {text_of(result) for result in fine} == {"fine"}


async def test_site_killed_in_a_call_fails_that_call_and_is_followed_until_it_is_back(tmp_path: Path) -> None:
    with http_server("faulty", tmp_path) as server:
        async with running(at(server.url)) as up:
            with pytest.raises(UpstreamUnavailable):
                await up.call("die")
            await up.until(lambda: bool(up.downs))

    assert up.upstream.health.state == "down"
    assert "cannot be reached" in up.downs[0]


@pytest.mark.parametrize("fault", ["wrong_version", "no_result", "not_a_result", "bad_error"])
async def test_malformed_answer_on_a_pipe_is_an_error_for_its_caller_alone(fault: str, tmp_path: Path) -> None:
    make, _ = process_of("faulty", tmp_path)

    async with running(make) as up:
        with pytest.raises(UpstreamProtocolError):
            await up.call(fault)
        fine = await up.call("fine")

    assert text_of(fine) == "fine"
    assert up.stdio.starts == 1


@pytest.mark.parametrize("fault", ["garbage", "binary", "html", "empty", "array", "wrong_id", "hang", "chatter"])
async def test_noise_on_a_pipe_is_skipped_and_the_call_runs_out_of_time(fault: str, tmp_path: Path) -> None:
    make, _ = process_of("faulty", tmp_path)

    async with running(make, timeout_s=0.7) as up:
        with pytest.raises(UpstreamTimeout, match=r"was silent for 0\.7 s"):
            await up.call(fault)
        fine = await up.call("fine")

    assert text_of(fine) == "fine"
    assert up.stdio.starts == 1


@pytest.mark.parametrize("fault", ["twice", "stranger", "noise", "bad_content"])
async def test_superfluous_lines_do_no_harm(fault: str, tmp_path: Path) -> None:
    make, _ = process_of("faulty", tmp_path)
    relay = FakeRelay(capabilities={"roots": {}})

    async with running(make) as up:
        result = await up.call(fault, relay)
        fine = await up.call("fine")

    assert result.outcome == "ok"
    assert text_of(fine) == "fine"
    assert relay.asked == []


@pytest.mark.parametrize("fault", ["huge", "deep", "drip", "cut"])
async def test_process_that_breaks_its_pipe_is_replaced(fault: str, tmp_path: Path) -> None:
    make, _ = process_of("faulty", tmp_path, max_line_bytes=100_000)

    async with running(make, timeout_s=1.0) as up:
        with pytest.raises(InterlockError):
            await up.call(fault)
        await up.until(lambda: len(up.listings) == 2)
        fine = await up.call("fine")

    assert text_of(fine) == "fine"
    assert up.stdio.starts == 2


@pytest.mark.parametrize(("fault", "tools"), [("endless", 28), ("duplicate", 29), ("changing", 28)])
async def test_lists_that_lie_are_bounded(fault: str, tools: int, tmp_path: Path) -> None:
    with http_server("faulty", tmp_path, "--fault", f"tools/list={fault}") as server:
        async with running(at(server.url)) as up:
            fine = await up.call("fine")

    assert text_of(fine) == "fine"
    assert tools <= len(up.tools) <= 10_000


@pytest.mark.parametrize("fault", ["garbage", "huge", "no_result", "hang", "status_500"])
async def test_server_whose_list_cannot_be_had_is_down_and_says_so(fault: str, tmp_path: Path) -> None:
    with http_server("faulty", tmp_path, "--fault", f"tools/list={fault}") as server:
        async with running(at(server.url), timeout_s=0.5) as up:
            with pytest.raises(UpstreamUnavailable, match="is not connected: "):
                await up.call("fine")

    assert up.listings == []
    assert "upstream 'x'" in up.downs[0]


async def test_many_faults_at_once_leave_the_others_alone(site: Running) -> None:
    async def fault(name: str) -> Result:
        with pytest.raises(InterlockError):
            await site.call(name)
        return await site.call("fine")

    names = ["hang", "drip", "garbage", "cut", "wrong_id", "status_500"]
    results = await gathered(*[lambda name=name: fault(name) for name in names])

    assert [payload(result)["content"][0]["text"] for result in results] == ["fine"] * 6
