"""Held tool calls as tasks, for clients that ask after them (extension `io.modelcontextprotocol/tasks`, 2026-07-28).

A client that declares the extension gets a task in place of the question that would have it call again, even if it can
open addresses: the task outlives its connection, and carries that same question to its user ("Task Update Requests").
What `tasks/get` then tells is what the call would have been answered with ("Task Execution Errors"): a denial is
a result that the model can read, so that its task is `completed`; `failed` is for errors of the protocol.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from gateway import codec
from gateway.app.held import Path
from gateway.approvals.held import POLL_MS, Followed, HeldCalls, Outcome, Run
from gateway.errors import ApprovalPending, InterlockError, InvalidCall, PolicyDenied
from gateway.listeners.http import Reply
from gateway.listeners.mcp.calls import Directory
from gateway.listeners.mcp.envelope import Message
from gateway.listeners.mcp.holds import QUESTION, answered, can_open, question_of
from gateway.listeners.mcp.methods import METHODS
from gateway.listeners.mcp.quiet import QuietExchange
from gateway.listeners.mcp.tasks import HeldTasks
from gateway.listeners.mcp.wire import INTERNAL_ERROR, RpcError, reply_of, reply_of_error, reply_of_rpc_error
from gateway.ports import Exchange, Relay, Upstream
from gateway.tickets import HeldCall
from gateway.types import EMPTY, Authorized, Call, Credentials, FrozenDict, Identity, Reason, Result, freeze

log = logging.getLogger("interlock.mcp")

PROTOCOL: Final = "mcp"

_CALL: Final = METHODS["tools/call"]
_ACKNOWLEDGED: Final = Result(b'{"resultType":"complete"}')
_ASKS: Final = (
    "the tool asks its caller for something, and nobody answers in a task: make the call without that extension"
)


class Tasks:
    """Makes tasks of held calls, and finds them again."""

    def __init__(
        self,
        held: HeldCalls,
        handler: Path,
        directory: Directory,
        new_id: Callable[[], str],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._held = held
        self._handler = handler
        self._directory = directory
        self._new_id = new_id
        self._clock_ns = clock_ns

    async def created(
        self, pending: ApprovalPending, call: Call, message: Message, view: str, identity: Identity
    ) -> Result | None:
        """The task of a call that is held, once it is kept. `None` where there cannot be one."""
        kept = {
            "protocol": PROTOCOL,
            "view": view,
            "name": message.params.get("name"),
            "upstream": call.resource.upstream,
            "params": call.params,
            "version": call.protocol_version,
            "resume": call.resume,
        }
        followed = await self._held.keep(pending, identity, kept)
        if followed is None:
            return None
        return Result(codec.dumps({"resultType": "task", **_task(followed, "working")}))

    async def asked(
        self, call: Call, message: Message, identity: Identity, credentials: Credentials, exchange: Exchange
    ) -> Result:
        """As the listener's protocol says."""
        call, desk = await self._claimed(call, message, identity, exchange.capabilities)
        return await self._handler.handle(call, credentials, exchange, by=desk)

    async def _claimed(
        self, call: Call, message: Message, identity: Identity, capabilities: Mapping[str, object]
    ) -> tuple[Call, Upstream | None]:
        """The call on the caller's own task, and what carries it out; of any other task there is none."""
        held = await self._held.find(call.resource.id, identity, PROTOCOL)
        if held is None:
            return call, None
        upstream = self._held.call_in(held).get("upstream")
        catalog = FrozenDict({"task": FrozenDict({"owner": identity.subject.id, "state": held.state})})
        resource = replace(call.resource, upstream=str(upstream or ""), known=True, catalog=catalog)
        facts = FrozenDict({"granted": True})
        begin = partial(self._held.begin, held)
        run = _Run(self._handler, self._directory, self._new_id, self._clock_ns, identity, begin)
        return replace(call, resource=resource, facts=facts), _Desk(self._held, held, run, message, capabilities)


class _Desk:
    """Carries out what a client asks of one task of its own, once policy permits it."""

    def __init__(
        self,
        calls: HeldCalls,
        held: HeldCall,
        run: Run,
        message: Message,
        capabilities: Mapping[str, object],
    ) -> None:
        self._calls = calls
        self._held = held
        self._run = run
        self._message = message
        self._capabilities = capabilities

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """What the call's method says."""
        relay.note("held", self._held.ticket_id)
        match authorized.call.method:
            case "tasks/cancel":
                await self._calls.withdraw(self._held)
                return _ACKNOWLEDGED
            case "tasks/update":
                await self._update()
                return _ACKNOWLEDGED
        followed = await self._calls.follow(self._held, self._run)
        return Result(codec.dumps({"resultType": "complete", **detailed(followed, self._capabilities)}))

    async def _update(self) -> None:
        """Take the answer to our one question; any other is nobody's ("Task Update Requests")."""
        answer = answered(self._message)
        if answer == "accept":
            await self._calls.answered(self._held, answer)
        elif answer in ("decline", "cancel") and not self._held.answer:
            await self._calls.withdraw(self._held)


@dataclass(frozen=True, slots=True)
class _Run:
    """Makes a kept call anew, as a client would that made it again, for nobody who waits."""

    handler: Path
    directory: Directory
    new_id: Callable[[], str]
    clock_ns: Callable[[], int]
    identity: Identity
    begin: Callable[[], Awaitable[None]]

    async def __call__(self, kept: Mapping[str, object], settle: object) -> Outcome:
        """What its client is told. It does not raise."""
        again, nobody = False, QuietExchange(self.identity.principal)
        try:
            result = await self.handler.handle(self._call(kept), self.identity, nobody, before=self.begin)
            if result.outcome == "input_required":
                raise InvalidCall(_ASKS)
            return Outcome(_told_in(reply_of(None, result, {})))
        except InterlockError as error:
            again = isinstance(error, ApprovalPending) or error.http_status == 503
            reply = reply_of_error(None, _CALL.name, error)
        except Exception:
            log.exception("a held call failed")
            reply = reply_of_rpc_error(None, RpcError(INTERNAL_ERROR, "Internal error"))
        return Outcome(_told_in(reply), again)

    def _call(self, kept: Mapping[str, object]) -> Call:
        """On what the name stands for now: if that is another thing than people agreed to, it is held again."""
        resource = self.directory.resolve_tool(str(kept["view"]), str(kept["name"]))
        params, resume = kept["params"], kept.get("resume")
        sent = {**params, "name": resource.name} if isinstance(params, dict) else {}
        return Call(
            id=self.new_id(),
            action=_CALL.action,
            method=_CALL.name,
            resource=resource,
            params=_frozen(sent) or EMPTY,
            protocol_version=str(kept["version"]),
            started_ns=self.clock_ns(),
            resume=_frozen(resume),
        )


def _told_in(reply: Reply) -> Mapping[str, object]:
    """What a response tells, without what belongs to its request. Raises `ValueError` for what is not JSON."""
    told = codec.loads(reply.body)
    return {name: told[name] for name in ("result", "error") if name in told} if isinstance(told, dict) else {}


def detailed(followed: Followed, capabilities: Mapping[str, object]) -> Mapping[str, object]:
    """A task with what its status has with it (`DetailedTask`)."""
    match followed.state:
        case "withdrawn":
            return _task(followed, "cancelled")
        case "waiting" if can_open(capabilities) and not followed.held.answer:
            question = question_of(followed.message, followed.url)
            return {**_task(followed, "input_required"), "inputRequests": {QUESTION: question}}
        case "waiting" | "running":
            return _task(followed, "working")
    return _ended(followed)


def _ended(followed: Followed) -> Mapping[str, object]:
    told = followed.told
    if told is None:
        return {**_task(followed, "completed"), "result": _refusal(followed)}
    if "error" in told:
        error = told["error"]
        words = str(error.get("message")) if isinstance(error, dict) else ""
        return {**_task(followed, "failed"), "statusMessage": words, "error": error}
    return {**_task(followed, "completed"), "result": told["result"]}


def _refusal(followed: Followed) -> object:
    """What the same call would be answered with now."""
    code = followed.fault.code if followed.fault is not None else "internal"
    reason = Reason(code, followed.message, rule="gateway.approvals", public=True)
    body = codec.loads(reply_of_error(None, _CALL.name, PolicyDenied(followed.message, reasons=(reason,))).body)
    return body["result"] if isinstance(body, dict) else {}


def _task(followed: Followed, status: str) -> dict[str, object]:
    held = followed.held
    task: dict[str, object] = {
        "taskId": held.ticket_id,
        "status": status,
        "createdAt": _instant(held.created_ms),
        "lastUpdatedAt": _instant(held.updated_ms),
        "ttlMs": held.expires_ms - held.created_ms,
        "pollIntervalMs": POLL_MS,
    }
    return {**task, "statusMessage": followed.message} if followed.message else task


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _frozen(value: object) -> FrozenDict | None:
    frozen = freeze(value) if value else None
    return frozen if isinstance(frozen, FrozenDict) else None


_: type[HeldTasks] = Tasks
