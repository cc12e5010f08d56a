"""Held messages as tasks in `TASK_STATE_AUTH_REQUIRED`, for clients that ask after them (specification, section 4.1.3).

The task's id is that of the ticket. Once people agreed, whoever of its owner's clients asks first has the message sent;
when the agent makes a task of it, that one stands behind the id from then on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final
from uuid import uuid4

import anyio

from gateway import codec
from gateway.a2a.directory import Agents
from gateway.a2a.errors import TASK_NOT_CANCELABLE, UNSUPPORTED_OPERATION, A2aError, Fault
from gateway.a2a.facts import facts_of
from gateway.a2a.operations import OPERATIONS, Operation
from gateway.a2a.strict import tasks_named
from gateway.app.held import Path
from gateway.approvals.held import Followed, HeldCalls, Outcome, Run
from gateway.errors import ApprovalPending, InterlockError, PolicyDenied
from gateway.listeners.a2a.holds import SENDS, HeldMessages, Named, with_id
from gateway.listeners.a2a.refusals import INTERNAL, refusal_of, refusal_of_upstream
from gateway.listeners.mcp.quiet import QuietExchange
from gateway.ports import Exchange, Identifier, Relay
from gateway.tickets import HeldCall
from gateway.types import Authorized, Call, Credentials, FrozenDict, Identity, Result, freeze

log = logging.getLogger("interlock.a2a")

PROTOCOL: Final = "a2a"
LOOK_S: Final = 1.0
"""How often a stream looks whether people decided."""

_PREFIX: Final = "apr-"
_ENDED: Final = frozenset({"done", "failed", "withdrawn"})


class Messages:
    """Makes tasks of the held messages to agents, and finds them again."""

    def __init__(
        self,
        held: HeldCalls,
        handler: Path,
        agents: Agents,
        identifier: Identifier,
        new_id: Callable[[], str],
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        wait: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._held = held
        self._handler = handler
        self._agents = agents
        self._identifier = identifier
        self._new_id = new_id
        self._clock_ns = clock_ns
        self._wait = wait

    async def created(
        self, pending: ApprovalPending, call: Call, identity: Identity, extensions: tuple[str, ...]
    ) -> Mapping[str, object] | None:
        """The task of a message that is held, once it is kept. `None` where there cannot be one."""
        if call.method not in SENDS or call.resource.type != "agent":
            return None
        message = call.params.get("message")
        context = message.get("contextId") if isinstance(message, Mapping) else ""
        kept = {
            "protocol": PROTOCOL,
            "agent": call.resource.upstream,
            "method": call.method,
            "params": call.params,
            "version": call.protocol_version,
            "extensions": extensions,
            "context": context or str(uuid4()),
        }
        followed = await self._held.keep(pending, identity, kept)
        return self._task(followed) if followed is not None else None

    async def named(self, operation: Operation, call: Call, identity: Identity) -> Named | None:
        """The held message that a request is about, if it is the caller's and to this agent."""
        member = operation.task_id_member
        task_id = call.params.get(member) if member else tasks_named(operation, call.params).task_id
        if not isinstance(task_id, str) or not task_id.startswith(_PREFIX):
            return None
        held = await self._held.find(task_id, identity, PROTOCOL)
        kept = self._held.call_in(held) if held is not None else {}
        if held is None or kept.get("agent") != call.resource.upstream:
            return None
        followed = await self._held.shown(held)
        task = (followed.told or {}).get("task")
        real_id = str(task.get("id") or "") if isinstance(task, dict) else ""
        return Named(held, real_id, str(kept.get("context") or ""), followed)

    async def asked(
        self,
        named: Named,
        call: Call,
        identity: Identity,
        credentials: Credentials,
        exchange: Exchange,
    ) -> Result:
        """As the listener's protocol says."""

        def run_for(whom: Identity) -> Run:
            begin = partial(self._held.begin, named.held)
            return _Run(self._handler, self._agents, self._new_id, self._clock_ns, whom, begin)

        known = partial(self._identifier.identify, credentials)
        desk = _Desk(self._held, named.held, run_for, known, self._task, self._wait)
        return await self._handler.handle(self._about(named, call, identity), credentials, exchange, by=desk)

    def _about(self, named: Named, call: Call, identity: Identity) -> Call:
        """The call on a held message that nothing has come of yet.

        A message to it asks how it stands: it takes none itself.
        """
        state = str(_status_in(self._task(named.followed))["state"])
        owned = {"owner": identity.subject.id, "context": named.context_id, "state": state, "tenant": identity.tenant}
        resource = self._agents.task_resource(call.resource.upstream, named.id, owned)
        if call.method in SENDS:
            call = replace(call, method="GetTask", action=OPERATIONS["GetTask"].action, params=_of(named.id))
        return replace(call, resource=resource, facts=FrozenDict(facts_of(call.method, call.params)))

    def _task(self, followed: Followed) -> Mapping[str, object]:
        kept = self._held.call_in(followed.held)
        return task_of(followed, str(kept.get("context") or ""))


@dataclass(frozen=True, slots=True)
class _Desk:
    """Carries out what a client asks of one held message of its own, once policy permits it."""

    calls: HeldCalls
    held: HeldCall
    run_for: Callable[[Identity], Run]
    known: Callable[[], Awaitable[Identity]]
    task: Callable[[Followed], Mapping[str, object]]
    wait: Callable[[float], Awaitable[None]]

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """What the call's method says."""
        relay.note("held", self.held.ticket_id)
        match authorized.call.method:
            case "GetTask":
                followed = await self.calls.follow(self.held, self.run_for(authorized.identity))
                return Result(codec.dumps(self.task(followed)))
            case "CancelTask":
                followed = await self.calls.withdraw(self.held)
                if followed.state != "withdrawn" or self.held.state != "waiting":
                    return _refused(TASK_NOT_CANCELABLE, "it is being carried out, or was")
                return Result(codec.dumps(self.task(followed)))
            case "SubscribeToTask":
                return await self._subscribed(relay)
        return _refused(UNSUPPORTED_OPERATION, "not for a message that is held: its agent does not know it yet")

    async def _subscribed(self, relay: Relay) -> Result:
        """The task, and the task once more when something came of it (section 3.1.6)."""
        if self.held.state in _ENDED:
            return _refused(UNSUPPORTED_OPERATION, "the task has ended")
        followed = await self.calls.shown(self.held)
        await relay.emit(codec.dumps({"task": self.task(followed)}))
        while followed.state not in _ENDED:
            await self.wait(LOOK_S)
            whom = await self.known()  # the stream may outlive its key or token, and what is begun is begun now
            followed = await self.calls.follow(await self.calls.latest(followed.held), self.run_for(whom))
        await relay.emit(codec.dumps({"task": self.task(followed)}))
        return Result(b"{}")


@dataclass(frozen=True, slots=True)
class _Run:
    """Sends a kept message anew, as a client would that sent it again, for nobody who waits."""

    handler: Path
    agents: Agents
    new_id: Callable[[], str]
    clock_ns: Callable[[], int]
    identity: Identity
    begin: Callable[[], Awaitable[None]]

    async def __call__(self, kept: Mapping[str, object], settle: Callable[[Outcome], Awaitable[None]]) -> Outcome:
        """What came of it: a task, a message or an error. It does not raise."""
        extensions = kept.get("extensions")
        asked_for = tuple(map(str, extensions)) if isinstance(extensions, list) else ()
        gathered = _Gathering(self.identity.principal, asked_for, settle)
        again = False
        try:
            result = await self.handler.handle(self._call(kept), self.identity, gathered, before=self.begin)
            if result.outcome == "rpc_error":
                refusal = refusal_of_upstream(result.payload, result.headers)
            else:
                return Outcome(gathered.told or _told_in(result.payload))
        except (InterlockError, A2aError) as error:
            again = isinstance(error, ApprovalPending) or (
                isinstance(error, InterlockError) and error.http_status == 503
            )
            refusal = refusal_of(error)
            if isinstance(error, PolicyDenied):
                return Outcome({"error": {"message": refusal.message, "denied": True}})
        except Exception:
            log.exception("a held message failed")
            refusal = INTERNAL
        return Outcome({"error": {"message": refusal.message, "denied": False}}, again)

    def _call(self, kept: Mapping[str, object]) -> Call:
        method, params = str(kept["method"]), freeze(kept["params"])
        sent = params if isinstance(params, FrozenDict) else FrozenDict()
        return Call(
            id=self.new_id(),
            action=OPERATIONS[method].action,
            method=method,
            resource=self.agents.resource(str(kept["agent"])),
            params=sent,
            protocol=PROTOCOL,
            protocol_version=str(kept["version"]),
            started_ns=self.clock_ns(),
            facts=FrozenDict(facts_of(method, sent)),
        )


class _Gathering(QuietExchange):
    """Takes the events of a stream that nobody reads: the first one says which task it is."""

    def __init__(self, owner: str, extensions: tuple[str, ...], settle: Callable[[Outcome], Awaitable[None]]) -> None:
        super().__init__(owner)
        self.capabilities = FrozenDict({"extensions": extensions})
        self.told: Mapping[str, object] | None = None
        self._settle = settle

    async def emit(self, event: bytes) -> None:
        """One event."""
        if self.told is None:
            self.told = _told_in(event)
            if "task" in self.told:  # it is in the agent's hands now, and can be asked after there
                await self._settle(Outcome(self.told))


def task_of(followed: Followed, context_id: str) -> Mapping[str, object]:
    """A held message as a task of 1.0."""
    held, told = followed.held, followed.told or {}
    real, message, error = told.get("task"), told.get("message"), told.get("error")
    if isinstance(real, dict):
        task = with_id({"status": {}, **real}, str(real.get("id")), held.ticket_id)
        return task if isinstance(task, dict) else {}
    if isinstance(message, dict):
        context_id = str(message.get("contextId") or context_id)
        said: Mapping[str, object] = {**message, "taskId": held.ticket_id, "contextId": context_id}
        return _as_task(followed, context_id, "COMPLETED", said)
    words = str(error.get("message")) if isinstance(error, dict) else followed.message
    state = _STATES.get(followed.state, "FAILED")
    if (isinstance(error, dict) and error.get("denied")) or (followed.fault and followed.fault.code in _DENIED):
        state = "REJECTED"
    said = {
        "messageId": f"{held.ticket_id}-{held.version}",
        "role": "ROLE_AGENT",
        "parts": [{"text": words}],
        "taskId": held.ticket_id,
        "contextId": context_id,
    }
    return _as_task(followed, context_id, state, said)


_STATES: Final = {"waiting": "AUTH_REQUIRED", "running": "WORKING", "withdrawn": "CANCELED"}
_DENIED: Final = frozenset({"approval_denied"})


def _as_task(followed: Followed, context_id: str, state: str, said: Mapping[str, object]) -> Mapping[str, object]:
    held = followed.held
    ours = {"ticket": held.ticket_id, "url": followed.url, "expires": _instant(followed.until_ms or held.expires_ms)}
    status = {"state": f"TASK_STATE_{state}", "message": said, "timestamp": _instant(held.updated_ms)}
    return {"id": held.ticket_id, "contextId": context_id, "status": status, "metadata": {"interlock": ours}}


def _told_in(payload: bytes) -> Mapping[str, object]:
    """What an answer or a first event says: a task, at least by its id, or a message."""
    value = codec.loads(payload)
    known = value if isinstance(value, dict) else {}
    for name in ("task", "message"):
        if isinstance(known.get(name), dict):
            return {name: known[name]}
    for update in (known.get("statusUpdate"), known.get("artifactUpdate")):
        if isinstance(update, dict):
            status = update.get("status") or {"state": "TASK_STATE_WORKING"}
            return {"task": {"id": update.get("taskId"), "contextId": update.get("contextId"), "status": status}}
    return {"error": {"message": "the agent's answer is neither a task nor a message", "denied": False}}


def _status_in(task: Mapping[str, object]) -> Mapping[str, object]:
    status = task.get("status")
    return {"state": "", **status} if isinstance(status, dict) else {"state": ""}


def _of(task_id: str) -> FrozenDict:
    return FrozenDict({"id": task_id})


def _refused(fault: Fault, message: str) -> Result:
    return Result(codec.dumps({"code": fault.code, "message": message}), "rpc_error")


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_: type[HeldMessages] = Messages
