"""Upstreams come, change and go while calls are on their way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
import pytest

from gateway import running
from gateway.errors import UnknownResource
from gateway.ports import Relay
from gateway.running import Running
from gateway.types import Authorized, Call, FrozenDict, Resource, Result
from tests.fakes import ANA, FakeUpstream, permit_for


class Kept(FakeUpstream):
    """An upstream that runs until it is ended, and remembers its life."""

    def __init__(self, name: str, spec: object) -> None:
        super().__init__(payload=f'"{spec}"'.encode())
        self.name = name
        self.spec = spec
        self.settled = anyio.Event()
        self.ended = anyio.Event()
        self.dropped: list[str] = []
        self.fault: Exception | None = None
        self.settles = True

    async def run(self) -> None:
        try:
            if self.fault is not None:
                raise self.fault
            if self.settles:
                self.settled.set()
            await anyio.sleep_forever()
        finally:
            self.ended.set()

    def unwatched(self, uri: str) -> None:
        self.dropped.append(uri)

    def report(self) -> Mapping[str, object]:
        return {"state": "up"}


class House:
    """Running upstreams, each of which can be looked at."""

    def __init__(self) -> None:
        self.made: list[Kept] = []
        self.crashed: list[str] = []
        self.fault: Exception | None = None
        self.settles = True

    def make(self, name: str, spec: object) -> Kept:
        kept = Kept(name, spec)
        kept.fault, kept.settles = self.fault, self.settles
        self.made.append(kept)
        return kept

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Running]:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                yield Running(group, self.make, self.crashed.append)
                group.cancel_scope.cancel()


def a_call(upstream: str = "files") -> Call:
    resource = Resource("tool", f"{upstream}/read", upstream, "read")
    return Call("c1", "mcp.tools.call", "tools/call", resource, FrozenDict())


async def carried_out(house: Running, upstream: str = "files") -> bytes:
    call = a_call(upstream)
    relay: Relay = NOBODY
    return (await house.upstream_for(call).execute(Authorized(call, ANA, permit_for(call, ANA)), relay)).payload


class Nobody:
    """A relay that these upstreams never use."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(name)


NOBODY: Relay = Nobody()  # type: ignore[assignment]  # it stands in where nothing is asked or told


async def test_call_goes_to_the_upstream_that_its_resource_names() -> None:
    house = House()

    async with house.running() as running:
        running.apply({"files": "f1", "web": "w1"})
        await running.settle(1.0)

        assert await carried_out(running, "files") == b'"f1"'
        assert await carried_out(running, "web") == b'"w1"'
        assert running.get("web") is house.made[1]


async def test_upstream_that_is_not_configured_is_unknown() -> None:
    async with House().running() as running:
        with pytest.raises(UnknownResource, match="'files' is not configured"):
            running.upstream_for(a_call())

        assert running.get("files") is None


async def test_upstream_that_did_not_change_is_left_alone() -> None:
    house = House()

    async with house.running() as running:
        running.apply({"files": {"url": "a"}, "web": {"url": "b"}})
        running.apply({"files": {"url": "a"}, "web": {"url": "c"}})
        await running.settle(1.0)
        await house.made[1].ended.wait()

        assert [kept.spec for kept in house.made] == [{"url": "a"}, {"url": "b"}, {"url": "c"}]
        assert not house.made[0].ended.is_set()
        assert not house.made[2].ended.is_set()


async def test_replaced_upstream_finishes_its_calls_before_it_ends() -> None:
    house, gates, results = House(), [anyio.Event(), anyio.Event()], list[bytes]()

    async def slowly(authorized: Authorized, relay: Relay) -> Result:
        await gates[len(house.made[0].executed) - 1].wait()
        return Result(b'"old"')

    async with house.running() as running, anyio.create_task_group() as group:
        running.apply({"files": 1})
        await running.settle(1.0)
        old = house.made[0]
        old.answer = slowly

        async def one() -> None:
            results.append(await carried_out(running))

        group.start_soon(one)
        group.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        running.apply({"files": 2})
        await running.settle(1.0)
        new = await carried_out(running)
        gates[0].set()
        await anyio.wait_all_tasks_blocked()
        between = (list(results), old.ended.is_set())
        gates[1].set()
        await old.ended.wait()

    assert new == b'"2"'
    assert between == ([b'"old"'], False)
    assert results == [b'"old"', b'"old"']


async def test_removed_upstream_ends_even_when_a_call_on_it_never_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "DRAIN_S", 0.01)
    house = House()

    async def never(authorized: Authorized, relay: Relay) -> Result:
        await anyio.sleep_forever()
        raise AssertionError

    async with house.running() as house_running, anyio.create_task_group() as group:
        house_running.apply({"files": 1})
        await house_running.settle(1.0)
        house.made[0].answer = never
        group.start_soon(carried_out, house_running)
        await anyio.wait_all_tasks_blocked()

        house_running.apply({})
        await house.made[0].ended.wait()
        group.cancel_scope.cancel()

    assert house.made[0].ended.is_set()


async def test_fault_in_one_upstream_is_told_and_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    house = House()
    house.fault = RuntimeError("a bug")

    async with house.running() as running:
        running.apply({"files": 1})
        await running.settle(1.0)
        house.fault = None
        running.apply({"files": 1, "web": 2})
        await running.settle(1.0)

        assert house.crashed == ["files"]
        assert await carried_out(running, "web") == b'"2"'
    assert "'files' stopped working" in caplog.text


async def test_start_waits_for_a_slow_upstream_only_so_long() -> None:
    house = House()
    house.settles = False

    async with house.running() as running:
        running.apply({"files": 1})

        await running.settle(0.01)

        assert not house.made[0].settled.is_set()


async def test_call_waits_for_an_upstream_that_was_configured_a_moment_ago() -> None:
    house, results = House(), list[bytes]()
    house.settles = False

    async with house.running() as running, anyio.create_task_group() as group:
        running.apply({"files": 1})

        async def one() -> None:
            results.append(await carried_out(running))

        group.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        before = list(house.made[0].executed)
        house.made[0].settled.set()

    assert before == []
    assert results == [b'"1"']


async def test_call_does_not_wait_for_ever_for_an_upstream_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "FIRST_ATTEMPT_S", 0.01)
    house = House()
    house.settles = False

    async with house.running() as house_running:
        house_running.apply({"files": 1})

        assert await carried_out(house_running) == b'"1"'


async def test_resource_that_nobody_watches_is_told_to_its_upstream() -> None:
    house = House()

    async with house.running() as running:
        running.apply({"files": 1})

        running.unwatched("files", "note://one")
        running.unwatched("gone", "note://one")

        assert house.made[0].dropped == ["note://one"]
