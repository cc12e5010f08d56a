"""Code execution as a governed tool: an MCP upstream that is built in, and starts a box for each session."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio

from gateway.boxes import Level, Program, caller_of
from gateway.errors import InterlockError, InvalidCall, SandboxFailure, UpstreamUnavailable
from gateway.ports import Relay, Upstream
from gateway.registry import Listing
from gateway.types import Authorized, FrozenDict, Resource, Result
from sandboxes.code.arguments import Given, WriteFile, read
from sandboxes.code.client import AgentClient, Problem
from sandboxes.code.content import session_in, tool_result
from sandboxes.code.environment import Environment
from sandboxes.code.operations import PROGRESS_S, Occupied, Operations, nobody_occupies
from sandboxes.code.pool import BoxSource, Kind, Pool, Shelf, started
from sandboxes.code.sessions import Session, SessionLimits, Sessions
from sandboxes.code.tools import listing

log = logging.getLogger("interlock.sandbox")

ACTION: Final = "sandbox.exec"
METHOD: Final = "sandbox/exec"
DEFAULT: Final = "default"

StartBox: TypeAlias = Callable[[Environment, Level, str], Awaitable[Program]]
"""Starts `environment.box` at that level or a stronger one; the text says for what, to people.

Raises `IsolationUnavailable`, `SandboxFailure` and the `Upstream*` errors.
"""
WarmSource: TypeAlias = Callable[[Environment], BoxSource | None]
"""How boxes of an environment are started ahead by thawing clones; `None` where they are started cold."""


def always_cold(_environment: Environment) -> BoxSource | None:
    """Boxes are started ahead from nothing."""
    return None


@dataclass(frozen=True, slots=True)
class CodeTerms:
    """What configuration says of code execution."""

    name: str
    environments: Mapping[str, Environment]
    limits: SessionLimits = SessionLimits()  # noqa: RUF009  # frozen

    @property
    def usual(self) -> str:
        """The environment of a caller that names none: the only one, else `default`."""
        return next(iter(self.environments)) if len(self.environments) == 1 else DEFAULT


class CodeUpstream:
    """The built-in MCP server `sandbox`. `run` must be running for as long as it is used."""

    def __init__(
        self,
        terms: CodeTerms,
        start: StartBox,
        *,
        offer: Callable[[Listing], Awaitable[None]],
        warm: WarmSource = always_cold,
        occupied: Occupied = nobody_occupies,
        progress_s: float = PROGRESS_S,
        new_id: Callable[[], str] = lambda: secrets.token_urlsafe(12),
    ) -> None:
        self._terms = terms
        self._start = start
        self._warm = warm
        self._offer = offer
        self._pool = Pool(_shelves(terms.environments, start, warm))
        self._sessions = Sessions(self._open_box, terms.limits, new_id=new_id)
        self._operations = Operations(terms.environments, self._sessions, occupied, progress_s)
        self._causes: dict[str, Authorized] = {}
        self._state = "connecting"
        self._cold_starts = 0
        self.settled = anyio.Event()
        """Set when the tools are offered."""

    async def run(self) -> None:
        """Keep sessions and unused boxes until cancelled; then nothing of them is left."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._pool.run)
            group.start_soon(self._sessions.run)
            await self._offer(listing(self._terms.environments.values(), self._terms.usual))
            self._state = "up"
            self.settled.set()
            try:
                await anyio.sleep_forever()
            finally:
                self._state = "down"

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """Carry out a tool call, by way of policy; or the operation itself, when it comes back from there."""
        if self._state != "up":
            raise UpstreamUnavailable(f"upstream {self._terms.name!r} is not running")
        method = authorized.call.method
        if method == METHOD:
            return await self._operations.carry_out(authorized, self._causes.get(authorized.call.parent_id), relay)
        if method != "tools/call":
            raise InvalidCall(f"upstream {self._terms.name!r} has tools and nothing else, so it cannot do {method}")
        return await self._call_tool(authorized, relay)

    def unwatched(self, uri: str) -> None:
        """Nobody watches this resource any more; there are none."""

    def report(self) -> Mapping[str, object]:
        """How it fares, for people."""
        return {
            "state": self._state,
            "reason": self._pool.reason,
            "era": "built-in",
            "sessions": len(self._sessions),
            "unused_boxes": self._pool.unused,
            "cold_starts": self._cold_starts,
        }

    async def _call_tool(self, authorized: Authorized, relay: Relay) -> Result:
        call = authorized.call
        arguments = read(call.resource.name, call.arguments)
        if isinstance(arguments, WriteFile):
            arguments.data()
        session, environment = self._place(arguments, authorized, relay)
        given = arguments.model_dump(exclude={"environment"}, exclude_none=True)
        params = {
            "name": environment.name,
            "arguments": {"operation": call.resource.name, **given, "session": session.id if session else ""},
            "caller": caller_of(call),
        }
        self._note(session, relay)
        self._causes[call.id] = authorized
        try:
            result = await relay.act(ACTION, METHOD, self._resource(environment), params)
        finally:
            del self._causes[call.id]
        self._note(self._sessions.get(relay.owner, session_in(result)), relay)
        return tool_result(result)

    def _place(self, arguments: Given, authorized: Authorized, relay: Relay) -> tuple[Session | None, Environment]:
        """The session that the call means, if there is one yet, and its environment, which policy is asked about."""
        named = arguments.environment
        if not arguments.session:
            environment = self._operations.environment(named or self._terms.usual, authorized.identity)
            return self._operations.known(environment, relay), environment
        session = self._sessions.find(relay.owner, arguments.session)
        if named not in ("", session.environment.name):
            words = f"session {session.id!r} runs in environment {session.environment.name!r}; leave environment out"
            raise InvalidCall(words)
        return session, self._operations.environment(session.environment.name, authorized.identity)

    def _resource(self, environment: Environment) -> Resource:
        facts = FrozenDict({"level": environment.level.value, "digest": environment.digest})
        return Resource("sandbox", environment.name, upstream=self._terms.name, name=environment.name, catalog=facts)

    def _note(self, session: Session | None, relay: Relay) -> None:
        if session is not None and session.box is not None:
            relay.note("sandbox", session.box.facts.note())

    async def _open_box(self, environment: Environment, needed: Level, session_id: str) -> AgentClient:
        """A box for a session: an unused one, or else a new one. Its entropy and secrets are its own."""
        box = self._pool.take(_kind(environment), needed)
        while box is not None:
            try:
                await _handed_out(box, environment)
                return box
            except InterlockError as exc:
                log.warning("environment %r: an unused box was not usable: %s", environment.name, exc)
            box = self._pool.take(_kind(environment), needed)
        box = await started(self._source(environment, needed, session_id), environment.name)
        await _handed_out(box, environment)
        return box

    def _source(self, environment: Environment, needed: Level, session_id: str) -> BoxSource:
        """A clone where there are any that are strong enough, else a box from nothing."""
        clones = self._warm(environment) if environment.level.holds(needed) else None
        if clones is not None:
            return clones
        self._cold_starts += 1
        return lambda: self._start(environment, needed, f"session {session_id[:6]}")


async def _handed_out(box: AgentClient, environment: Environment) -> None:
    try:
        await box.hand_out(environment.secrets)
    except Problem as exc:
        box.kill()
        raise SandboxFailure(f"a box of environment {environment.name!r} did not take its entropy and secrets") from exc
    except BaseException:
        box.kill()
        raise


def _kind(environment: Environment) -> Kind:
    """The name counts: what a box may reach is bound by its environment, though the box does not show it."""
    return environment.name, environment.box.digest, environment.level


def _shelves(environments: Mapping[str, Environment], start: StartBox, warm: WarmSource) -> Mapping[Kind, Shelf]:
    return {
        _kind(environment): Shelf(warm(environment) or _cold(environment, start), environment.unused, environment.name)
        for environment in environments.values()
    }


def _cold(environment: Environment, start: StartBox) -> BoxSource:
    return lambda: start(environment, environment.level, "unused")


_: type[Upstream] = CodeUpstream
