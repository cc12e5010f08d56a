"""Drafts rules that allow what was used and nothing else, with tests made of the same calls.

A use is granted to a role of its caller: to the one that has the use already, else to the one that fewest callers
have; to the caller alone when it has no role. An argument with few values is held to them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, cast

from gateway import codec
from gateway.cli.replaying import outcome_of, tenant_of, unfit
from gateway.decisions.event import Event
from gateway.decisions.reader import event_in

MAX_VALUES: Final = 5
CALLS_PER_VALUE: Final = 3
"""An argument is held to the values that were seen when each came about so often; fewer calls tell nothing."""
MAX_CASES: Final = 400
_MAX_TEXT: Final = 256
_OTHER: Final = "-other"
_PASSING: Final = frozenset({"a2a_task", "mcp_task"})
_RULES: Final = """\
# A draft, made of what was used: `interlock policy suggest`. Read it, then make it yours.
#
# Who may use what stands in suggested/data.json: tenant -> role (or caller) -> action -> resource -> its arguments and
# what they are held to; no others may be given. Obligations, labels and holds are those that the calls were permitted
# under.
package rules.suggested

import future.keywords.not

default allow := false

allow if {
	some limits in granted
	fits(limits)
}

# In a list nobody knows the arguments yet.
list_allow if count(granted) > 0

granted contains limits if {
	some role in input.subject.properties.roles
	limits := data.suggested.roles[tenant][role][input.action.name][place]
}

granted contains limits if {
	limits := data.suggested.subjects[tenant][input.subject.type][input.subject.id][input.action.name][place]
}

tenant := object.get(input.subject.properties, "tenant", "")

# Tasks come and go: they are granted with whoever runs them.
place := input.resource.properties.upstream if {
	input.resource.type in {"a2a_task", "mcp_task"}
} else := input.resource.id

fits(limits) if {
	arguments := object.get(input.resource.properties, "arguments", {})
	every name, _ in arguments {
		name in object.keys(limits)
	}
	every name, limit in limits {
		within(name, limit)
	}
}

within(_, limit) if not "values" in object.keys(limit)

within(name, limit) if input.resource.properties.arguments[name] in limit.values

within(name, limit) if {
	limit.optional
	arguments := input.resource.properties.arguments
	not name in object.keys(arguments)
}

obligation contains duty if some duty in data.suggested.obligations[input.action.name][place]

label contains text if some text in data.suggested.labels[input.action.name][place]

hold contains request if some request in data.suggested.holds[input.action.name][place]
"""


class Place(NamedTuple):
    """What is used, and how."""

    action: str
    resource: str


class Holder(NamedTuple):
    """Whom something is granted to: a role of a tenant (`kind` is `role`), or the caller of that type and name."""

    kind: str
    name: str
    tenant: str


@dataclass(slots=True)
class Use:
    """What was seen of one kind of call."""

    sample: Mapping[str, object]
    calls: int = 0
    given: Counter[str] = field(default_factory=Counter)
    """How often each argument was there."""
    values: dict[str, Counter[bytes]] = field(default_factory=dict)
    free: set[str] = field(default_factory=set)
    """Arguments with more values than are worth listing."""

    def see(self, arguments: Mapping[str, object]) -> None:
        """Count one call with these arguments."""
        self.calls += 1
        for name, value in arguments.items():
            self.given[name] += 1
            if isinstance(value, str | bool | int) and len(str(value)) <= _MAX_TEXT:
                self._count(name, codec.canonical(value), 1)
            else:
                self._release(name)

    def merge(self, other: Use) -> None:
        """The same use by others."""
        self.calls += other.calls
        self.given += other.given
        for name in other.free:
            self._release(name)
        for name, values in other.values.items():
            for value, calls in values.items():
                self._count(name, value, calls)

    def limits(self) -> dict[str, object]:
        """Every argument that was given, with what it is held to."""
        held: dict[str, object] = {
            name: {
                "values": [codec.loads(value) for value in sorted(values)],
                "optional": self.given[name] < self.calls,
            }
            for name, values in self.values.items()
            if self.given[name] >= CALLS_PER_VALUE * len(values)
        }
        return {name: held.get(name, {}) for name in sorted(self.given)}

    def _count(self, name: str, value: bytes, calls: int) -> None:
        if name not in self.free:
            values = self.values.setdefault(name, Counter())
            values[value] += calls
            if len(values) > MAX_VALUES:
                self._release(name)

    def _release(self, name: str) -> None:
        self.free.add(name)
        self.values.pop(name, None)


@dataclass(slots=True)
class Draft:
    """The rules, and what is to be known of them. `files` is relative path -> text."""

    files: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    grants: int = 0
    cases: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Traffic:
    """What was permitted: by which roles (or which caller without any), where, and under which conditions."""

    uses: dict[tuple[tuple[Holder, ...], Place], Use] = field(default_factory=dict)
    callers: dict[Holder, set[str]] = field(default_factory=dict)
    """Who was seen with a role."""
    duties: dict[str, dict[Place, dict[bytes, object]]] = field(default_factory=dict)
    calls: int = 0
    withheld: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def draft_of(lines: Iterable[bytes], *, since: str) -> Draft:
    """The rules for what these lines say was permitted from `since` on (a timestamp)."""
    traffic = _Traffic()
    for line in lines:
        event = event_in(line)
        if event is not None and str(event.get("timestamp", "")) >= since:
            _take(event, traffic)
    granted = _granted(traffic)
    draft = Draft(calls=traffic.calls, grants=len(granted), left_out=traffic.left_out)
    cases = list(_cases(granted, traffic))
    if len(cases) > MAX_CASES:
        draft.remarks.append(f"of {len(cases)} test cases {MAX_CASES} are kept")
        cases = cases[:MAX_CASES]
    if traffic.withheld:
        draft.remarks.append(f"{traffic.withheld} results were withheld by rules that the draft does not have")
    draft.cases = len(cases)
    draft.files = {
        "suggested.rego": _RULES,
        "suggested/data.json": _pretty(_data(granted, traffic)),
        "cases/suggested.json": _pretty(cases),
    }
    return draft


def _take(event: Event, traffic: _Traffic) -> None:
    why_not = unfit(event)
    if why_not:
        if why_not == "masked":
            traffic.left_out["whose input is masked"] += 1
        return
    question = _Question(cast("Mapping[str, object]", event["input"]))
    verdict = outcome_of(event["result"]).verdict
    if question.phase != "request":
        traffic.withheld += verdict != "allow"
    elif verdict == "allow" and not question.granted:
        why_not = question.unsuitable()
        if why_not:
            traffic.left_out[why_not] += 1
        else:
            _use(question, cast("Mapping[str, object]", event["result"]), traffic)


def _use(question: _Question, result: Mapping[str, object], traffic: _Traffic) -> None:
    traffic.calls += 1
    holders = question.holders
    for holder in holders:
        traffic.callers.setdefault(holder, set()).add(question.caller)
    use = traffic.uses.setdefault((holders, question.place), Use(question.trimmed()))
    use.see(question.arguments)
    context = _member(result, "context")
    conditions = {
        "obligations": context.get("obligations"),
        "labels": context.get("labels"),
        "holds": _member(_member(question.whole, "context"), "approval").get("covers"),
    }
    for kind, entries in conditions.items():
        for entry in entries if isinstance(entries, list) else []:
            known = traffic.duties.setdefault(kind, {}).setdefault(question.place, {})
            known[codec.canonical(entry)] = entry


@dataclass(frozen=True, slots=True)
class _Question:
    """A recorded question, as far as it matters here."""

    whole: Mapping[str, object]

    @property
    def phase(self) -> object:
        return self.whole.get("phase")

    @property
    def subject(self) -> Mapping[str, object]:
        return _member(self.whole, "subject")

    @property
    def resource(self) -> Mapping[str, object]:
        return _member(self.whole, "resource")

    @property
    def properties(self) -> Mapping[str, object]:
        return _member(self.resource, "properties")

    @property
    def arguments(self) -> Mapping[str, object]:
        return _member(self.properties, "arguments")

    @property
    def granted(self) -> bool:
        """Whether it needs no rule: it is part of what another call was permitted."""
        return self.properties.get("granted") is True

    @property
    def caller(self) -> str:
        return f"{self.subject.get('type')} {self.subject.get('id')}"

    @property
    def holders(self) -> tuple[Holder, ...]:
        roles = _member(self.subject, "properties").get("roles")
        names = sorted({role for role in roles if isinstance(role, str)}) if isinstance(roles, list) else []
        tenant = tenant_of(self.whole)
        alone = Holder(str(self.subject.get("type")), str(self.subject.get("id")), tenant)
        return tuple(Holder("role", name, tenant) for name in names) or (alone,)

    @property
    def place(self) -> Place:
        passing = self.resource.get("type") in _PASSING
        named = self.properties.get("upstream") if passing else self.resource.get("id")
        return Place(str(_member(self.whole, "action").get("name")), str(named))

    def unsuitable(self) -> str:
        """Why no rule is made of it."""
        if not self.subject.get("id"):
            return "of callers without a name"
        if self.resource.get("type") == "memory":  # one action is many operations, and lists show classes of records
            return "of memory, which is granted by namespace, scope and operation: policies/README.md"
        return "with arguments that are too long for rules to read" if self.properties.get("truncated") else ""

    def trimmed(self) -> dict[str, object]:
        """What a test needs of it: the arguments are put in by the case."""
        kept = {key: self.properties.get(key) for key in ("upstream", "name")}
        properties = _member(self.subject, "properties")
        whose = {key: properties[key] for key in ("roles", "tenant") if key in properties}
        return {
            "schema": self.whole.get("schema"),
            "phase": "request",
            "subject": {"type": self.subject.get("type"), "id": self.subject.get("id"), "properties": whose},
            "action": {"name": self.place.action},
            "resource": {
                "type": self.resource.get("type"),
                "id": self.resource.get("id"),
                "properties": {**kept, "arguments": {}, "truncated": False},
            },
            "context": {},
        }


def _granted(traffic: _Traffic) -> dict[tuple[Holder, Place], Use]:
    """Each use with the one it is granted to. Those with fewest roles come first: they leave least choice."""
    granted: dict[tuple[Holder, Place], Use] = {}
    for (holders, place), use in sorted(traffic.uses.items(), key=lambda item: (len(item[0][0]), item[0])):
        have = [holder for holder in holders if (holder, place) in granted]
        holder = min(have or holders, key=lambda one: (len(traffic.callers[one]), one.name))
        known = granted.get((holder, place))
        if known is None:
            granted[holder, place] = use
        else:
            known.merge(use)
    return granted


def _data(granted: Mapping[tuple[Holder, Place], Use], traffic: _Traffic) -> Mapping[str, object]:
    roles: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    subjects: dict[str, dict[str, dict[str, dict[str, dict[str, object]]]]] = {}
    for (holder, place), use in granted.items():
        of_holder = (
            roles.setdefault(holder.tenant, {}).setdefault(holder.name, {})
            if holder.kind == "role"
            else subjects.setdefault(holder.tenant, {}).setdefault(holder.kind, {}).setdefault(holder.name, {})
        )
        of_holder.setdefault(place.action, {})[place.resource] = use.limits()
    conditions: dict[str, dict[str, dict[str, object]]] = {}
    for kind, places in traffic.duties.items():
        for place, entries in places.items():
            conditions.setdefault(kind, {}).setdefault(place.action, {})[place.resource] = list(entries.values())
    return {"roles": roles, "subjects": subjects, **conditions}


def _cases(granted: Mapping[tuple[Holder, Place], Use], traffic: _Traffic) -> Iterator[Mapping[str, object]]:
    for (holder, place), use in granted.items():
        of_tenant = f" of {holder.tenant}" if holder.tenant else ""
        name = f"{holder.kind} {holder.name}{of_tenant}: {place.action} {place.resource}"
        limits = use.limits()
        held = {key: _member(limits, key).get("values") for key in limits}
        seen = {key: values[0] for key, values in held.items() if isinstance(values, list)}
        question = _with(use.sample, ("resource", "properties", "arguments"), seen)
        covers = list(traffic.duties.get("holds", {}).get(place, {}).values())
        if covers:
            held = {"decision": False, "context": {"access_request": {}}}
            yield {"name": f"{name} waits for people", "input": question, "expect": held}
            question = _with(question, ("context", "approval"), {"id": "a", "covers": covers})
        yield {"name": f"{name} is allowed", "input": question, "expect": _permit(place, traffic)}
        yield from _neighbours(name, question, seen, unused=f"{max(limits, key=len, default='any')}{_OTHER}")


def _permit(place: Place, traffic: _Traffic) -> Mapping[str, object]:
    duties = [_member({"": entry}, "") for entry in traffic.duties.get("obligations", {}).get(place, {}).values()]
    types = sorted({str(duty.get("type")) for duty in duties})
    expected: dict[str, object] = {"decision": True}
    if types:
        expected["context"] = {"obligations": [{"type": kind} for kind in types]}
    return expected


def _neighbours(
    name: str, question: Mapping[str, object], seen: Mapping[str, object], unused: str
) -> Iterator[Mapping[str, object]]:
    """What lies beside a grant and is none of it: another caller, another resource, another argument."""
    denied = {"decision": False}
    somebody = {"type": "agent", "id": "agent:somebody-else", "properties": {"roles": []}}
    yield {"name": f"{name} is not for others", "input": {**question, "subject": somebody}, "expect": denied}
    other_tenant = f"{tenant_of(question)}{_OTHER}"
    abroad = _with(question, ("subject", "properties", "tenant"), other_tenant)
    yield {"name": f"{name} is not for other tenants", "input": abroad, "expect": denied}
    more = _with(question, ("resource", "properties", "arguments"), {**seen, unused: True})
    yield {"name": f"{name} with more arguments is not", "input": more, "expect": denied}
    resource = _member(question, "resource")
    properties = _member(resource, "properties")
    other = {key: f"{properties.get(key)}{_OTHER}" for key in ("upstream", "name")}
    moved = {**resource, "id": f"{resource.get('id')}{_OTHER}", "properties": {**properties, **other}}
    yield {"name": f"{name} is that alone", "input": {**question, "resource": moved}, "expect": denied}
    for key in seen:
        changed = _with(question, ("resource", "properties", "arguments", key), f"{seen[key]}{_OTHER}")
        yield {"name": f"{name} with another {key} is not", "input": changed, "expect": denied}


def _with(value: Mapping[str, object], path: Sequence[str], put: object) -> dict[str, object]:
    """A copy that has `put` at that path."""
    first, *rest = path
    return {**value, first: _with(_member(value, first), rest, put) if rest else put}


def _member(value: Mapping[str, object], name: str) -> Mapping[str, object]:
    member = value.get(name)
    return cast("Mapping[str, object]", member) if isinstance(member, dict) else {}


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
