"""Who is at the other end of a call, what of the memory can be theirs, and what is written down of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.errors import InvalidCall, Unauthenticated
from gateway.memory.arguments import Said
from gateway.memory.ports import MemoryReader
from gateway.memory.records import Reach, Scope, Source, SourceType, Version, View
from gateway.memory.trust import is_tainted
from gateway.memory.wording import in_full
from gateway.types import Call, Identity

PROTOCOL: Final = "memory"
"""Of calls that come by the HTTP API."""
TEAM: Final = "team:"
"""Roles that begin so are the caller's teams."""
MAX_DEPTH: Final = 12
MAX_NODES: Final = 200
_MACHINE_CLAIMS: Final = frozenset({SourceType.TOOL, SourceType.MODEL})


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller as the memory knows them. Everything comes from the identity, and nothing from arguments."""

    tenant: str
    subject: str
    """Who it is for."""
    agent: str
    """Who speaks."""
    principal: str
    session: str
    """A name of the session that gives nobody a right."""
    teams: tuple[str, ...]
    person: bool
    """A person who speaks for themselves, without an agent in between."""

    @property
    def own(self) -> str:
        """Owner of what is remembered for this agent alone: an agent keeps apart for whom it works."""
        return self.agent if self.agent == self.subject else f"{self.agent}|{self.subject}"

    @property
    def reach(self) -> Reach:
        """What can be theirs at all."""
        return Reach.of(session=self.session, agent=self.own, teams=self.teams)

    def owner(self, scope: Scope, team: str) -> str:
        """The owner of a record of theirs. Raises `InvalidCall` for a team that is not theirs."""
        if scope is Scope.TEAM:
            return self._team(team)
        if team:
            raise InvalidCall("team: goes with the scope team")
        return {Scope.SESSION: self.session, Scope.AGENT: self.own, Scope.ORG: ""}[scope]

    def _team(self, team: str) -> str:
        if team in self.teams:
            return team
        if not team and len(self.teams) == 1:
            return self.teams[0]
        raise InvalidCall(f"team: name one of yours; you are in {', '.join(self.teams) or 'none'}")


def caller_of(call: Call, identity: Identity) -> Caller:
    """The caller. Raises `Unauthenticated` for nobody: what nobody remembers is nobody's."""
    if not identity.subject.id:
        raise Unauthenticated("the memory has to know whose it is: come with an API key or a token")
    subject = identity.on_behalf_of.id if identity.on_behalf_of else identity.subject.id
    agent = identity.delegation[-1] if identity.delegation else identity.subject.id
    direct = call.protocol == PROTOCOL and not call.parent_id
    alone = not identity.delegation and identity.on_behalf_of is None and identity.subject.type == "user"
    name = hashlib.sha256(f"{identity.principal}\x00{call.session_id}".encode()).hexdigest()[:32]
    teams = tuple(sorted({role.removeprefix(TEAM) for role in identity.roles if role.startswith(TEAM)}))
    return Caller(identity.tenant, subject, agent, identity.principal, name, teams, direct and alone)


def source_of(call: Call, caller: Caller, said: Said, labels: Iterable[str]) -> Source:
    """Who says what is written by a call. A claim counts where it makes the record worth less."""
    claimed = SourceType(said.type) if said.type else None
    kind = SourceType.USER if caller.person else SourceType.AGENT
    if claimed in _MACHINE_CLAIMS or (claimed is SourceType.AGENT and kind is SourceType.USER):
        kind = claimed or kind
    if is_tainted(labels) and kind in {SourceType.AGENT, SourceType.MODEL}:
        kind = SourceType.TOOL  # whatever it says, it may have read it there; a person answers for what they read
    return Source(
        type=kind,
        ref=said.ref,
        call_id=call.id,
        trace_id=call.traceparent[3:35],
        span_id=call.traceparent[36:52],
        args_hash=call.arguments_digest,
        author_agent=caller.agent,
        on_behalf_of=caller.subject,
        model=said.model,
        session=caller.session,
    )


def acting(call: Call, caller: Caller, labels: Iterable[str] = ()) -> Source:
    """Who changes the state of a record, and not its text."""
    return source_of(call, caller, Said(), labels)


async def read_one(reader: MemoryReader, view: View, name: str) -> Version | None:
    """A record, or for an id with `@` that version of it, as long as the record itself still stands in the view."""
    version = await reader.get(view, name)
    if version is None or version.superseded_at_ms is None:
        return version
    versions = await reader.history(view, version.record)
    return version if any(one.superseded_at_ms is None for one in versions) else None


@dataclass(slots=True)
class _Tree:
    """Draws the tree of a record back to where it came from."""

    reader: MemoryReader
    view: View
    left: int = MAX_NODES

    async def of(self, name: str, above: Sequence[str] = ()) -> dict[str, object]:
        self.left -= 1
        version = await read_one(self.reader, self.view, name)
        if version is None:
            return {"id": name, "shown": False}
        node = {**in_full(version), "shown": True}
        node["from"] = await self._parents(version, (*above, version.id))
        return node

    async def _parents(self, version: Version, above: Sequence[str]) -> list[dict[str, object]]:
        wanted = [*version.derived_from, *([version.supersedes] if version.supersedes else [])]
        parents: list[dict[str, object]] = []
        for name in wanted:
            if name in above or len(above) > MAX_DEPTH or self.left <= 0:
                parents.append({"id": name, "shown": False})
            else:
                parents.append(await self.of(name, above))
        return parents


async def tree_of(reader: MemoryReader, view: View, version: Version) -> dict[str, object]:
    """The record, what it was made from, what that was made from, and so on, as far as the view shows it."""
    return await _Tree(reader, view).of(version.id)


def calls_in(node: Mapping[str, object]) -> set[str]:
    """The calls that a tree leads back to."""
    call, parents = node.get("call"), node.get("from")
    found = {call} if isinstance(call, str) and call else set()
    for parent in parents if isinstance(parents, list) else ():
        found |= calls_in(parent)
    return found
