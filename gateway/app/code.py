"""The built-in server that runs code, put together from what configuration and environments say."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import anyio

from gateway.app.boxes import Sandboxing
from gateway.boxes import Level, Program
from gateway.config.tree import Upstream
from gateway.errors import ConfigError, SandboxFailure, UpstreamUnavailable
from gateway.ports import Relay
from gateway.registry import Listing
from gateway.running import Runnable
from gateway.types import Authorized, Result
from sandboxes.boxes import Wanted
from sandboxes.closure import closure_of
from sandboxes.code.client import Problem
from sandboxes.code.environment import Environment
from sandboxes.code.pool import BoxSource, agent_is_up
from sandboxes.code.upstream import CodeTerms, CodeUpstream
from sandboxes.covers import admitted
from sandboxes.environments import Described, chosen
from sandboxes.rootfs import python_of
from sandboxes.spec import Bind
from sandboxes.warm import State


def code_upstream(
    name: str, spec: Upstream, sandboxing: Sandboxing, offer: Callable[[Listing], Awaitable[None]]
) -> CodeUpstream:
    """The server of that name. Raises `ConfigError` for an environment that is not there, or a secret that is not."""
    described = _offered(name, spec, sandboxing.environments)
    environments = {key: _environment(one, spec, sandboxing) for key, one in described.items()}

    async def start(environment: Environment, level: Level, purpose: str) -> Program:
        source = described[environment.name]
        wanted = _wanted(name, environment, level, purpose, source)
        return await sandboxing.boxes.start(await sandboxing.with_packages(wanted, source))

    def occupied(program: Program, permitted: Sequence[Authorized], relay: Relay) -> AbstractContextManager[object]:
        return sandboxing.flights.hold_all(program.facts, permitted, relay)

    def warm(environment: Environment) -> BoxSource | None:
        source = described[environment.name]
        if not source.warm:
            return None

        async def cloned() -> Program:
            wanted = await sandboxing.with_packages(
                _wanted(name, environment, environment.level, "unused", source), source
            )
            program, _ = await sandboxing.warmth.clone(wanted, "agent", _answering)
            return program

        return cloned

    return CodeUpstream(CodeTerms(name, environments), start, offer=offer, warm=warm, occupied=occupied)


class Misconfigured:
    """Stands in for a server that cannot be put together: it says why when it is run, and carries nothing out."""

    def __init__(self, name: str, fault: ConfigError) -> None:
        self._name = name
        self._fault = fault
        self.settled = anyio.Event()

    async def run(self) -> None:
        """Raise the `ConfigError`."""
        raise self._fault

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """Raise `UpstreamUnavailable`."""
        raise UpstreamUnavailable(f"upstream {self._name!r} is not configured as it has to be; see the gateway's log")

    def unwatched(self, uri: str) -> None:
        """Nobody watches this resource any more; there are none."""

    def report(self) -> Mapping[str, object]:
        """How it fares, for people."""
        return {"state": "down", "reason": str(self._fault)}


async def _answering(program: Program) -> State:
    """The agent is up once it has answered."""
    try:
        return await agent_is_up(program)
    except Problem as exc:
        raise SandboxFailure("its agent refused to answer, so it is not frozen") from exc


def _wanted(name: str, environment: Environment, level: Level, purpose: str, described: Described) -> Wanted:
    enough = max(level, environment.level, key=lambda each: each.rank)
    ceiling = None if described.built_in else described.egress
    return Wanted(environment.box, enough, f"{name}: {purpose}", environment.digest, ceiling, owner=name)


def _offered(name: str, spec: Upstream, environments: Mapping[str, Described]) -> Mapping[str, Described]:
    if not spec.environment:
        return environments
    one = chosen(environments, spec.environment, f"upstreams.{name}.environment")
    return {one.name: one}


def _python(described: Described) -> tuple[str, tuple[Bind, ...]]:
    """What runs the agent: the Python of the base, or our own where the host's /usr has none."""
    found = python_of(described.spec.base)
    if found is not None:
        return found.place, ()
    if described.spec.base is not None:
        raise ConfigError([(f"environment {described.name}", "its base has no python3, which code execution needs")])
    closure = closure_of((sys.executable,), {}, Path("/"), f"environment {described.name}")
    return closure.command[0], closure.binds


def _environment(described: Described, spec: Upstream, sandboxing: Sandboxing) -> Environment:
    configured = Level(spec.sandbox or sandboxing.settings.sandbox.level)
    python, needed = _python(described)
    binds = admitted([*described.spec.binds, *needed], sandboxing.guard, f"environment {described.name}")
    return Environment(
        name=described.name,
        spec=replace(described.spec, binds=binds),
        interpreter=python,
        level=max(configured, described.level, key=lambda each: each.rank),
        digest=described.digest,
        wall_s=described.wall_s,
        idle_s=described.idle_s,
        secrets=sandboxing.secrets_of(described),
        visible_to=described.visible_to,
        description=described.description,
        unused=sandboxing.settings.sandbox.pool,
    )


_: type[Runnable] = Misconfigured
