"""Kill switches as the path of a call sees them: an immutable snapshot, which costs nothing while none is set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, get_args

import anyio

from gateway.approvals.binding import name_of
from gateway.ports import Switches
from gateway.tickets import ApprovalStore, Switch, SwitchKind
from gateway.types import Call, Identity, Reason

KINDS: Final[tuple[SwitchKind, ...]] = get_args(SwitchKind)
MAX_VALUE: Final = 512

_LOOKING: Final = frozenset({"approvals.list", "approvals.read", "switches.list"})
"""What no switch stops: whoever puts things right has to see them."""
_PUTTING_RIGHT: Final = ("approvals.", "switches.")
"""What is stopped by a switch of who does it, and by no other."""


class KillSwitches:
    """The switches that are set, as of the last look at the store."""

    def __init__(self) -> None:
        self._set: Mapping[SwitchKind, frozenset[str]] = {}
        self._known: Sequence[Switch] = ()
        self._turn = anyio.Lock()

    def refusal(self, call: Call, identity: Identity) -> Reason | None:
        """As the port says."""
        if not self._set or call.action in _LOOKING:
            return None
        for kind, value in self._matching(call, identity):
            return _stopped(kind, value)
        return None

    def _matching(self, call: Call, identity: Identity) -> Iterator[tuple[SwitchKind, str]]:
        parties: Mapping[SwitchKind, frozenset[str]] = {
            "subject": _subjects(identity),
            "agent": _agents(call, identity),
        }
        for kind, names in parties.items():
            for value in sorted(self._set.get(kind, frozenset()) & names):
                yield kind, value
        if call.action.startswith(_PUTTING_RIGHT):
            return
        if "everything" in self._set:
            yield "everything", ""
        if call.resource.upstream in self._set.get("upstream", ()):
            yield "upstream", call.resource.upstream
        if call.resource.id in self._set.get("tool", ()):
            yield "tool", call.resource.id

    def take(self, switches: Sequence[Switch]) -> bool:
        """These are set now, and no other; whether that is a change."""
        if list(switches) == list(self._known):
            return False
        found: dict[SwitchKind, frozenset[str]] = {}
        for switch in switches:
            found[switch.kind] = found.get(switch.kind, frozenset()) | {switch.value}
        self._known, self._set = tuple(switches), found
        return True

    async def follow(self, store: ApprovalStore) -> bool:
        """Look at the store; whether something changed. Raises `StateUnavailable`, and keeps what was known."""
        async with self._turn:  # an older answer that comes late would take back what a newer one said
            return self.take(await store.switches())


def _subjects(identity: Identity) -> frozenset[str]:
    """Who makes the call, and for whom, whoever stands in between."""
    named = [identity.subject, *([identity.on_behalf_of] if identity.on_behalf_of is not None else [])]
    return frozenset([*identity.delegation, *(text for entity in named for text in (entity.id, name_of(entity)))])


def _agents(call: Call, identity: Identity) -> frozenset[str]:
    """The agents that the call comes through, whoever made them known, and the one that it goes to."""
    names = [identity.subject.id, *identity.delegation, *identity.hops]
    if call.resource.type in ("agent", "a2a_task"):
        names.append(call.resource.upstream)
    bare = [name.removeprefix("agent:") for name in names]
    return frozenset([*bare, *(f"agent:{name}" for name in bare)])


def _stopped(kind: SwitchKind, value: str) -> Reason:
    what = f"{kind} {value}" if value else kind
    remedy = "an operator clears it once it is safe (`interlock kill list`)"
    return Reason("killed", f"a kill switch is set for {what}", rule="gateway.switches", public=True, remedy=remedy)


_: type[Switches] = KillSwitches
