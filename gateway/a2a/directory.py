"""The agents that are served: what is known of each, and whether its card may be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from gateway.types import EMPTY, FrozenDict, Resource

Binding: TypeAlias = Literal["JSONRPC", "HTTP+JSON", "GRPC"]


@dataclass(frozen=True, slots=True)
class Interface:
    """One way to reach an upstream agent (specification, section 4.4.6 `AgentInterface`)."""

    url: str
    binding: Binding
    version: str
    """`1.0` or `0.3`."""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class AgentEntry:
    """One agent as its upstream describes it now. `card` is the upstream's own, verified, in the shape of 1.0."""

    name: str
    card: FrozenDict = EMPTY
    interfaces: tuple[Interface, ...] = ()
    """Those of the card that the gateway can use, in its order."""
    digest: str = ""
    """`sha256:` over the canonical card without signatures: what a pin covers."""
    pinned: bool = False
    quarantine: str = ""
    """Why the card may not be used (its change, as a diff); empty when it may."""
    signed_by: str = ""
    """Key id of the upstream's signature that held; empty for an unsigned card."""
    labels: tuple[str, ...] = ()
    risk: str = "medium"
    down: str = ""
    """Why there is no card yet, or no more; empty when there is one."""
    fetched_s: int = 0
    skills: tuple[str, ...] = ()
    """The ids of the skills that configuration publishes; all of the card's when empty."""
    raw: bytes = field(default=b"", repr=False)
    """The card as its upstream sent it, where a signature of the upstream's holds: served as it is if it leads here."""

    def has(self, capability: str) -> bool:
        """Whether the card says so (`streaming`, `pushNotifications`, `extendedAgentCard`)."""
        capabilities = self.card.get("capabilities")
        return isinstance(capabilities, Mapping) and capabilities.get(capability) is True


@dataclass(slots=True)
class Agents:
    """The agents by name. An unknown, hidden or unreachable one gives a resource that is not `known`."""

    _entries: dict[str, AgentEntry] = field(default_factory=dict)
    _watchers: list[Callable[[str], None]] = field(default_factory=list)

    def configure(self, names: Sequence[str]) -> None:
        """Serve these; what is known of others is forgotten."""
        known = self._entries
        self._entries = {name: known.get(name, AgentEntry(name, down="not fetched yet")) for name in names}

    def put(self, entry: AgentEntry) -> None:
        """Take what is known of an agent now. One that is not configured is not taken."""
        if entry.name in self._entries and self._entries[entry.name] != entry:
            self._entries[entry.name] = entry
            for watcher in self._watchers:
                watcher(entry.name)

    def on_change(self, watcher: Callable[[str], None]) -> None:
        """Be told the name of each agent that changed."""
        self._watchers.append(watcher)

    def get(self, name: str) -> AgentEntry | None:
        """The agent, or `None` when none of that name is configured."""
        return self._entries.get(name)

    def all(self) -> tuple[AgentEntry, ...]:
        """All of them, in the order of the configuration."""
        return tuple(self._entries.values())

    def resource(self, name: str) -> Resource:
        """The resource of calls on the agent itself."""
        entry = self._entries.get(name)
        if entry is None or not entry.card:
            return Resource("agent", name, upstream=name, name=name, known=entry is not None)
        return Resource(
            "agent",
            name,
            upstream=name,
            name=name,
            catalog=_facts(entry),
            quarantine=entry.quarantine,
        )

    def task_resource(self, name: str, task_id: str, facts: Mapping[str, object] | None) -> Resource:
        """The resource of calls on a task. `facts` (owner, context, state) are `None` for a foreign or missing one."""
        agent = self.resource(name)
        if facts is None or not agent.known:
            return Resource("a2a_task", task_id, upstream=name, name=task_id, known=False)
        catalog = FrozenDict({**agent.catalog, "task": FrozenDict(dict(facts))})
        return Resource("a2a_task", task_id, upstream=name, name=task_id, catalog=catalog, quarantine=agent.quarantine)


def _facts(entry: AgentEntry) -> FrozenDict:
    return FrozenDict(
        {
            "labels": entry.labels,
            "risk": entry.risk,
            "definition_digest": entry.digest,
            "pinned": entry.pinned,
            "signed_by": entry.signed_by,
        }
    )
