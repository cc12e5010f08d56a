"""What a caller may see, asked of policy before anything is searched; and the search, in which trust has a say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.embedding import Embedder
from gateway.memory.fusion import Found, K, hybrid
from gateway.memory.ports import MemoryStore, VectorIndex
from gateway.memory.provenance import Caller
from gateway.memory.records import ACTIVE_ONLY, Reach, RecordClass, Status, Version, View
from gateway.memory.similarity import contradicts, words
from gateway.memory.trust import weighted
from gateway.types import Call, FrozenDict, Identity, Resource, freeze

WHOLE: Final = Reach(whole=True)


class Policy(Protocol):
    """What the authorization stage says of memory."""

    async def visible(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]:
        """The indexes of what may be read. Raises rather than guess."""

    def labels_of(self, call: Call, identity: Identity) -> Sequence[str]:
        """The labels of the caller's session."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What configuration says of the memory: the name and facts of its upstream, and where namespaces are."""

    name: str = "memory"
    risk: str = "low"
    labels: tuple[str, ...] = ()
    residency: Mapping[str, str] = field(default_factory=dict)

    def resource(self, name: str, facts: Mapping[str, object], labels: Sequence[str] = ()) -> Resource:
        """A record, or more of them, as policy is asked about it. `name` is namespace/key."""
        every = sorted({*self.labels, *labels})
        catalog = freeze({"risk": self.risk, "labels": every, "memory": dict(facts)})
        space = name.partition("/")[0]
        return Resource(
            "memory", name, upstream=self.name, name=space, catalog=catalog if isinstance(catalog, FrozenDict) else {}
        )

    def candidate(self, one: RecordClass) -> Resource:
        """A class of records."""
        return self.resource(f"{one.namespace}/*", class_facts(one), one.labels)


def class_facts(one: RecordClass) -> dict[str, object]:
    """What policy judges reading by."""
    return {
        "namespace": one.namespace,
        "scope": str(one.scope),
        "kind": str(one.kind),
        "residency": one.residency,
    }


def anything(_: RecordClass) -> bool:
    """Every class is wanted."""
    return True


@dataclass(frozen=True, slots=True)
class Times:
    """When a question is about; `None` is now."""

    valid_ms: int | None = None
    recorded_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Asking:
    """One call that reads."""

    call: Call
    identity: Identity
    caller: Caller


@dataclass(frozen=True, slots=True)
class Recalling:
    """Reads for callers, never more than policy shows them."""

    store: MemoryStore
    index: VectorIndex
    embedder: Embedder
    policy: Policy
    terms: Terms

    async def view(
        self,
        asking: Asking,
        *,
        wanted: Callable[[RecordClass], bool] = anything,
        whole: bool = False,
        statuses: frozenset[Status] = ACTIVE_ONLY,
        times: Times = Times(),  # frozen
    ) -> View:
        """What may be touched for a call: within reach, wanted, and shown by policy."""
        reach = WHOLE if whole else asking.caller.reach
        known = [one for one in await self.store.classes(asking.caller.tenant, reach, statuses) if wanted(one)]
        classes = frozenset(await self.shown(asking, known))
        return View(asking.caller.tenant, classes, reach, statuses, times.valid_ms, times.recorded_ms)

    async def shown(self, asking: Asking, classes: Sequence[RecordClass]) -> Sequence[RecordClass]:
        """Those of the classes that policy lets be read."""
        if not classes:
            return ()
        candidates = [self.terms.candidate(one) for one in classes]
        seen = await self.policy.visible(asking.call, asking.identity, candidates)
        return [one for index, one in enumerate(classes) if index in seen]

    async def best(self, view: View, query: str, limit: int, *, min_trust: float = 0.0) -> Sequence[Found]:
        """The best of words and meaning for a view, what is trusted before what is not."""
        if not view.classes:
            return ()
        found = await hybrid(self.store, self.index, self.embedder, view, query)
        ranked = sorted(found, key=lambda one: -weighted(one.score, one.version.trust))
        return [one for one in ranked if one.version.trust >= min_trust][:limit]


def in_scratch(query: str, scratch: Sequence[Version]) -> Sequence[Found]:
    """What of a scratchpad has words of the query, most first."""
    asked = set(words(query))
    counts = [(len(asked & set(words(one.text))), one) for one in scratch]
    best = sorted((pair for pair in counts if pair[0]), key=lambda pair: -pair[0])
    return [Found(one, 1 / (K + rank), rank) for rank, (_, one) in enumerate(best, start=1)]


def conflicts(found: Sequence[Version]) -> Mapping[str, Sequence[str]]:
    """By id, those of the others that say something else about the same."""
    told: dict[str, list[str]] = {}
    for number, one in enumerate(found):
        for other in found[number + 1 :]:
            if one.record != other.record and _differ(one, other):
                told.setdefault(one.id, []).append(other.id)
                told.setdefault(other.id, []).append(one.id)
    return told


def _differ(one: Version, other: Version) -> bool:
    same_name = (one.namespace, one.key) == (other.namespace, other.key)
    return (same_name and words(one.text) != words(other.text)) or contradicts(one.text, other.text)
