"""Carries out what operators do with kill switches, once policy permits it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway import codec
from gateway.approvals.binding import name_of
from gateway.approvals.showing import switch_shown
from gateway.approvals.switches import KINDS, MAX_VALUE, KillSwitches
from gateway.errors import InvalidCall, UnknownResource
from gateway.ports import Relay, Upstream
from gateway.tickets import ApprovalStore, Switch, SwitchKind
from gateway.types import Authorized, Call, Result

LIST: Final = "switches/list"
SET: Final = "switches/set"
CLEAR: Final = "switches/clear"


class SwitchDesk:
    """The `Upstream` of all actions `switches.*`. `changed` ends calls in flight, and says how many it ended."""

    def __init__(
        self,
        store: ApprovalStore,
        switches: KillSwitches,
        *,
        clock_ms: Callable[[], int],
        changed: Callable[[], int],
    ) -> None:
        self._store = store
        self._switches = switches
        self._clock_ms = clock_ms
        self._changed = changed

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """What the call's method says. It is in force here when this returns."""
        call = authorized.call
        if call.method == LIST:
            return await self._listed()
        kind, value = switch_in(call.params.get("kind"), call.params.get("value"))
        if call.method == SET:
            setter = name_of(authorized.identity.subject)
            switch = Switch(kind, value, _reason(call), setter, self._clock_ms())
            await self._store.put_switch(switch)
            await self._switches.follow(self._store)
            ended = self._changed()
            relay.note("switch", {"kind": kind, "value": value, "set": True, "ended": ended})
            return Result(codec.dumps({**switch_shown(switch), "ended": ended}))
        if call.method != CLEAR:
            raise InvalidCall(f"{call.method} is nothing that is done with kill switches")
        if not await self._store.drop_switch(kind, value):
            raise UnknownResource("this kill switch is not set")
        await self._switches.follow(self._store)
        relay.note("switch", {"kind": kind, "value": value, "set": False})
        return Result(codec.dumps({"kind": kind, "value": value, "cleared": True}))

    async def _listed(self) -> Result:
        switches = await self._store.switches()
        return Result(codec.dumps({"switches": [switch_shown(switch) for switch in switches]}))


def switch_in(kind: object, value: object) -> tuple[SwitchKind, str]:
    """The switch that is meant. Raises `InvalidCall`."""
    known = next((each for each in KINDS if each == kind), None)
    if known is None:
        raise InvalidCall(f"`kind` is one of {', '.join(KINDS)}")
    if not isinstance(value, str) or len(value) > MAX_VALUE or not (value.isprintable() and value == value.strip()):
        raise InvalidCall(f"`value` is a name of at most {MAX_VALUE} characters")
    if bool(value) is (known == "everything"):
        wants = "no value" if known == "everything" else "a value: which one is stopped"
        raise InvalidCall(f"a kill switch for {known} has {wants}")
    return known, value


def _reason(call: Call) -> str:
    reason = call.params.get("reason")
    return reason if isinstance(reason, str) else ""


_: type[Upstream] = SwitchDesk
