"""From an operation and its parameters to the call that travels the pipeline, whatever binding carried it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn, Protocol

from gateway import codec
from gateway.a2a.directory import Agents
from gateway.a2a.errors import (
    EXTENSION_SUPPORT_REQUIRED,
    PUSH_NOT_SUPPORTED,
    TASK_NOT_FOUND,
    UNSUPPORTED_OPERATION,
    A2aError,
)
from gateway.a2a.facts import facts_of
from gateway.a2a.operations import CARD_READ, LEGACY_VERSION, VERSION, Operation
from gateway.a2a.strict import canonical_request, tasks_named, tenant_in
from gateway.a2a.tasks import TaskIndex, facts
from gateway.a2a.versions import missing_required
from gateway.errors import ApprovalPending, InvalidCall, Unauthenticated, UnknownResource, UpstreamProtocolError
from gateway.listeners.a2a.holds import SENDS, HeldMessages, Named, Renamed, on_real, renamed
from gateway.listeners.a2a.refusals import invalid_params
from gateway.listeners.mcp.calls import Tracing
from gateway.listeners.mcp.quiet import Handler
from gateway.ports import Identifier, TaskRecord
from gateway.types import EMPTY, Call, Credentials, Era, FrozenDict, Identity, Resource, Result

_CARD_ACTION: Final = "a2a.card.read"
_EXTENDED: Final = "GetExtendedAgentCard"


class Sink(Protocol):
    """Where the events of a streamed answer go."""

    async def emit(self, event: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Peer:
    """What a request says of its client: who it may be, which version it speaks, which extensions it knows."""

    credentials: Credentials
    version: str = VERSION
    extensions: tuple[str, ...] = ()
    tracing: Tracing = field(default_factory=Tracing)


class A2aExchange:
    """An A2A client during one call: it takes events, if it asked for them, and no questions."""

    era = Era.MODERN
    log_level = ""
    wants_progress = False

    def __init__(self, owner: str, extensions: tuple[str, ...], sink: Sink | None) -> None:
        self.owner = owner
        self.capabilities: Mapping[str, object] = FrozenDict({"extensions": extensions})
        self._sink = sink

    async def notify(self, method: str, params: Mapping[str, object]) -> None:
        return

    async def emit(self, event: bytes) -> None:
        if self._sink is None:
            raise UpstreamProtocolError("the agent streams the answer to an operation that has one result")
        await self._sink.emit(event)

    async def ask(self, call: Call) -> Result:
        raise InvalidCall(f"an A2A client cannot be asked: nobody answers {call.method}")


class AgentCalls:
    """Makes the calls of one agent's clients and takes them down the governed path.

    `extended` makes the card that is served of the one that the agent gives to callers it knows.
    """

    def __init__(
        self,
        *,
        name: str,
        agents: Agents,
        tasks: TaskIndex,
        handler: Handler,
        identifier: Identifier,
        extended: Callable[[Result], Result],
        new_id: Callable[[], str],
        holds: HeldMessages | None = None,
    ) -> None:
        self._holds = holds
        self._name = name
        self._agents = agents
        self._tasks = tasks
        self._handler = handler
        self._identifier = identifier
        self._extended = extended
        self._new_id = new_id

    async def carry_out(
        self, operation: Operation, params: Mapping[str, object], peer: Peer, sink: Sink | None = None
    ) -> Result:
        """The result of an operation with parameters in the form of 1.0, which are checked here.

        Raises `A2aError`, `Refused` and the `InterlockError`s. A task or context that is not the caller's is not
        found: it is not known whether there is one.
        """
        canonical = canonical_request(operation, params)
        self._check_tenant(tenant_in(params))
        call = self._call(operation.name, operation.action, canonical, peer)
        identity = await self._identified(call, peer)
        if not call.resource.known or self._holds is None:
            return await self._made(operation, call, identity, peer, sink)
        named = await self._holds.named(operation, call, identity)
        if named is None:
            return await self._made(operation, call, identity, peer, sink)
        if not named.real_id:
            return await self._asked_after(named, operation, call, identity, peer, sink)
        renaming = Renamed(sink.emit, named.real_id, named.id) if sink is not None else None
        result = await self._made(operation, on_real(named, operation, call), identity, peer, renaming)
        if result.outcome == "ok":
            return replace(result, payload=renamed(result.payload, named.real_id, named.id))
        return result

    async def _made(
        self, operation: Operation, call: Call, identity: Identity, peer: Peer, sink: Sink | None
    ) -> Result:
        """The result of a call on the agent, or on a task of the agent's."""
        if call.resource.known:
            # Not before it is known who asks: the answers tell what the agent can do.
            self._check_capability(operation)
            self._check_extensions(peer)
            call = await self._owned(operation, call, identity)
            call = replace(call, facts=FrozenDict(facts_of(operation.name, call.params)))
        exchange = A2aExchange(identity.principal, peer.extensions, sink)
        try:
            result = await self._handler.handle(call, peer.credentials, exchange)
        except UnknownResource as exc:
            _not_found(call, exc)
        except ApprovalPending as pending:
            held = await self._holds.created(pending, call, identity, peer.extensions) if self._holds else None
            if held is None:
                raise
            return await _answered(held, operation, exchange)
        if operation.name == _EXTENDED and result.outcome == "ok":
            return self._extended(result)
        return result

    async def _asked_after(
        self, named: Named, operation: Operation, call: Call, identity: Identity, peer: Peer, sink: Sink | None
    ) -> Result:
        """What is told of a message that is held, or that no task came of."""
        if self._holds is None:
            raise UnknownResource("there is no such task")
        self._check_capability(operation)
        exchange = A2aExchange(identity.principal, peer.extensions, sink)
        result = await self._holds.asked(named, call, identity, peer.credentials, exchange)
        if operation.name not in SENDS or result.outcome != "ok":
            return result
        return await _answered(codec.loads(result.payload), operation, exchange)

    async def read_card(self, peer: Peer, host_url: str) -> Result:
        """The public card for a caller who may read it: with the addresses below `host_url`, if the agent has that."""
        params = FrozenDict({"host_url": host_url}) if host_url else EMPTY
        call = self._call(CARD_READ, _CARD_ACTION, params, peer)
        identity = await self._identified(call, peer)
        exchange = A2aExchange(identity.principal, peer.extensions, None)
        return await self._handler.handle(call, peer.credentials, exchange)

    def _call(self, method: str, action: str, params: FrozenDict, peer: Peer) -> Call:
        return Call(
            id=self._new_id(),
            action=action,
            method=method,
            resource=self._agents.resource(self._name),
            params=params,
            protocol="a2a",
            protocol_version=peer.version,
            traceparent=peer.tracing.traceparent,
            tracestate=peer.tracing.tracestate,
            started_ns=time.time_ns(),
        )

    async def _identified(self, call: Call, peer: Peer) -> Identity:
        """Who calls. A call of nobody is still a call: it goes down the pipeline to be refused on record."""
        try:
            return await self._identifier.identify(peer.credentials)
        except Unauthenticated:
            await self._handler.handle(call, peer.credentials, A2aExchange("", peer.extensions, None))
            raise

    def _check_tenant(self, tenant: str) -> None:
        if tenant not in ("", self._name):
            words = f"this interface is of the agent {self._name!r} and has no other tenant"
            of_03 = f"; paths with /v1 are of A2A {LEGACY_VERSION}: leave it out, or send A2A-Version: {LEGACY_VERSION}"
            raise invalid_params("tenant", words + (of_03 if tenant == "v1" else ""))

    def _check_capability(self, operation: Operation) -> None:
        """What the card does not declare is answered with its error (section 3.3.4), by whatever agent."""
        entry = self._agents.get(self._name)
        if entry is None or not entry.card:
            return
        if operation.push and not entry.has("pushNotifications"):
            raise A2aError(PUSH_NOT_SUPPORTED, "The agent has no push notifications")
        if operation.streams and not entry.has("streaming"):
            raise A2aError(UNSUPPORTED_OPERATION, "The agent does not stream")
        if operation.name == _EXTENDED and not entry.has("extendedAgentCard"):
            raise A2aError(UNSUPPORTED_OPERATION, "The agent has no extended card")

    def _check_extensions(self, peer: Peer) -> None:
        entry = self._agents.get(self._name)
        missing = missing_required(entry.card, peer.extensions) if entry is not None else ()
        if missing:
            words = f"The agent requires extensions that A2A-Extensions does not name: {', '.join(missing)}"
            raise A2aError(EXTENSION_SUPPORT_REQUIRED, words)

    async def _owned(self, operation: Operation, call: Call, identity: Identity) -> Call:
        """The call with its task, if that is the caller's; otherwise with one that is not known."""
        if operation.target == "tasks":
            resource = replace(call.resource, type="a2a_task", id="*", name="*")
            return replace(call, resource=resource)
        if operation.target == "task":
            task_id = str(call.params.get(operation.task_id_member, ""))
            record = await self._tasks.find(self._name, task_id, identity)
            return replace(call, resource=self._task(task_id, record))
        return await self._continued(operation, call, identity)

    async def _continued(self, operation: Operation, call: Call, identity: Identity) -> Call:
        """A message that names tasks or a context: all must be the caller's, and the context that of the task."""
        refs = tasks_named(operation, call.params)
        if refs.task_id:
            record = await self._tasks.find(self._name, refs.task_id, identity)
            if record is None:
                return replace(call, resource=self._task(refs.task_id, None))
            call = _in_context(call, refs.context_id, record.context_id)
        if (refs.context_id or refs.reference_task_ids) and not await self._tasks.admits(self._name, refs, identity):
            named = refs.task_id or (*refs.reference_task_ids, refs.context_id)[0]
            return replace(call, resource=self._task(named, None))
        return call

    def _task(self, task_id: str, record: TaskRecord | None) -> Resource:
        return self._agents.task_resource(self._name, task_id, facts(record) if record is not None else None)


async def _answered(task: object, operation: Operation, exchange: A2aExchange) -> Result:
    """The answer to a message that is a task of ours: the only event, where it is a stream."""
    answer = codec.dumps({"task": task})
    if not operation.streams:
        return Result(answer)
    await exchange.emit(answer)
    return Result(b"{}")


def _in_context(call: Call, named: str, of_task: str) -> Call:
    """The message in the context of its task: agents are to infer it (section 3.4.3), and not all of them can."""
    if not of_task or named == of_task:
        return call
    if named:
        raise invalid_params("message.contextId", "is not the context of the task that message.taskId names")
    message = call.params.get("message")
    if not isinstance(message, FrozenDict):
        return call
    filled = FrozenDict({**message, "contextId": of_task})
    return replace(call, params=FrozenDict({**call.params, "message": filled}))


def _not_found(call: Call, error: UnknownResource) -> NoReturn:
    if call.resource.type != "a2a_task":
        raise error
    raise A2aError(TASK_NOT_FOUND, "Task not found") from error
