"""From a client's request to the call that travels the pipeline: what it acts on, and with which parameters."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from gateway import codec
from gateway.errors import InvalidCall
from gateway.listeners.mcp.envelope import META_PREFIX, Message
from gateway.listeners.mcp.holds import HELD
from gateway.listeners.mcp.methods import Method
from gateway.listeners.mcp.wire import INVALID_PARAMS, RpcError
from gateway.types import Call, FrozenDict, Identity, Resource, freeze

MERGED: Final = "*"
"""The view of all upstreams together, as policy and the record name it."""

_OURS_IN_META: Final = frozenset({"progressToken", "traceparent", "tracestate", "baggage"})


class Directory(Protocol):
    """Finds what a name stands for in one view; an unknown name gives a resource that is not `known`."""

    def resolve_tool(self, view: str | None, name: str) -> Resource: ...

    def resolve_prompt(self, view: str | None, name: str) -> Resource: ...

    def resolve_uri(self, view: str | None, uri: str) -> Resource: ...

    def resolve_server(self, view: str | None) -> Resource: ...


class Seal(Protocol):
    """Seals small state that travels through a client."""

    def seal(self, purpose: str, value: Mapping[str, object], *, principal: str, ttl_s: int, now_s: int) -> str: ...

    def open(self, purpose: str, token: str, *, principal: str, now_s: int) -> object: ...


@dataclass(frozen=True, slots=True)
class Tracing:
    """The W3C context of one call: ours, as a child of what the client sent."""

    traceparent: str = ""
    tracestate: str = ""


@dataclass(frozen=True, slots=True)
class CallMaker:
    """Makes calls for one view (all upstreams, or one)."""

    view: str
    directory: Directory
    sealer: Seal
    new_id: Callable[[], str]
    clock_ns: Callable[[], int] = time.time_ns

    def make(self, message: Message, method: Method, tracing: Tracing, *, version: str, session: str = "") -> Call:
        """The call that a request stands for. Raises `RpcError` or `InvalidCall` when it is not a proper one."""
        resource = self._resource(message, method)
        params = self._params(message, method, resource)
        return Call(
            id=self.new_id(),
            action=method.action,
            method=method.name,
            resource=resource,
            params=params,
            protocol_version=version,
            session_id=session,
            traceparent=tracing.traceparent,
            tracestate=tracing.tracestate,
            started_ns=self.clock_ns(),
        )

    def _resource(self, message: Message, method: Method) -> Resource:
        params = message.params
        if method.target == "tool":
            return self.directory.resolve_tool(self.view, _text(params, "name"))
        if method.target == "prompt":
            return self.directory.resolve_prompt(self.view, _text(params, "name"))
        if method.target == "uri":
            return self.directory.resolve_uri(self.view, _text(params, "uri"))
        if method.target == "ref":
            return self._referenced(params)
        if method.target == "task":  # until it is known whose it is, there is none
            task_id = _text(params, "taskId")
            return Resource("mcp_task", task_id, name=task_id, known=False)
        return self.directory.resolve_server(self.view)

    def _referenced(self, params: Mapping[str, object]) -> Resource:
        ref = params.get("ref")
        if isinstance(ref, dict) and ref.get("type") == "ref/prompt":
            return self.directory.resolve_prompt(self.view, _text(ref, "name"))
        if isinstance(ref, dict) and ref.get("type") == "ref/resource":
            return self.directory.resolve_uri(self.view, _text(ref, "uri"))
        raise RpcError(INVALID_PARAMS, "params.ref must be a ref/prompt with a name or a ref/resource with a uri")

    def _params(self, message: Message, method: Method, resource: Resource) -> FrozenDict:
        """The parameters under the upstream's own names, less what belongs to this hop."""
        sent = {k: v for k, v in message.params.items() if k not in ("requestState", "inputResponses", "_meta")}
        if method.target in ("tool", "prompt"):
            sent["name"] = resource.name
        if method.target == "ref" and resource.type == "prompt":
            sent["ref"] = {**_object(sent, "ref"), "name": resource.name}
        if not isinstance(sent.get("arguments", {}), dict):
            raise RpcError(INVALID_PARAMS, "params.arguments must be an object")
        meta = message.params.get("_meta")
        if isinstance(meta, dict):
            kept = {k: v for k, v in meta.items() if k not in _OURS_IN_META and not k.startswith(META_PREFIX)}
            if kept:
                sent["_meta"] = kept
        frozen = freeze(sent)
        return frozen if isinstance(frozen, FrozenDict) else FrozenDict()

    def resume(self, call: Call, message: Message, identity: Identity) -> Call:
        """The call with what an earlier round left and the client's answers to it, if the request carries any."""
        state, responses = message.params.get("requestState"), message.params.get("inputResponses")
        if state is None and responses is None:
            return call
        if not isinstance(responses, dict | None) or not isinstance(state, str | None):
            raise RpcError(INVALID_PARAMS, "params.inputResponses must be an object and params.requestState a string")
        opened = self._open_state(call, state, identity) if state is not None else {}
        if HELD in opened:  # the round was ours: its upstream takes up where it was before
            return replace(call, resume=_round(opened[HELD]))
        resume = freeze({"state": opened, "responses": responses or {}})
        return replace(call, resume=resume if isinstance(resume, FrozenDict) else None)

    def _open_state(self, call: Call, state: str, identity: Identity) -> Mapping[str, object]:
        now_s = self.clock_ns() // 1_000_000_000
        opened = self.sealer.open("mrtr", state, principal=identity.principal, now_s=now_s)
        if not isinstance(opened, dict) or opened.get("for") != binding(call):
            raise InvalidCall("requestState belongs to another request; start the call again without it")
        inner = opened.get("state")
        return inner if isinstance(inner, dict) else {}

    def seal_state(self, call: Call, state: Mapping[str, object], identity: Identity, ttl_s: int) -> str:
        """`requestState` for the next round of this call: bound to its principal, method, resource and arguments."""
        value = {"for": binding(call), "state": state}
        now_s = self.clock_ns() // 1_000_000_000
        return self.sealer.seal("mrtr", value, principal=identity.principal, ttl_s=ttl_s, now_s=now_s)


def binding(call: Call) -> str:
    """Identifies a call over its rounds (2026-07-28, patterns/mrtr, server requirement 5)."""
    head = f"{call.method}\x00{call.resource.id}\x00{call.resource.upstream}\x00"
    return hashlib.sha256(head.encode() + codec.canonical(call.params.get("arguments"))).hexdigest()


def _round(held: object) -> Mapping[str, object] | None:
    resume = freeze(held)
    return resume if isinstance(resume, FrozenDict) and resume else None


def _text(params: Mapping[str, object], key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str):
        raise RpcError(INVALID_PARAMS, f"params.{key} must be a string")
    return value


def _object(params: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = params.get(key)
    return value if isinstance(value, dict) else {}
