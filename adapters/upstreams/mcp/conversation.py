"""Carries one authorized call through an MCP server, bridging the eras of the two ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from adapters.upstreams.mcp.answers import reply_to, result_of
from adapters.upstreams.mcp.link import Asked, Link, Object, Request, Told, told_nobody
from adapters.upstreams.mcp.turns import ParkingLot, Question, Turn
from gateway import codec
from gateway.errors import InterlockError, InvalidCall, UpstreamProtocolError
from gateway.ports import Relay
from gateway.types import EMPTY, Authorized, Call, Era, FrozenDict, Result

MAX_ROUNDS: Final = 16
MAX_QUESTIONS: Final = 16
QUESTIONS: Final = frozenset({"elicitation/create", "sampling/createMessage", "roots/list"})
_TASKS: Final = "io.modelcontextprotocol/tasks"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one call: the longest silence (seconds) and the largest answer (bytes)."""

    timeout_s: float
    max_bytes: int


def request_for(call: Call, relay: Relay, limits: Limits) -> Request:
    """The upstream's view of a call."""
    name = call.params.get("uri") if call.resource.type == "mcp_resource" else call.params.get("name")
    return Request(
        method=call.method,
        params=call.params,
        name=name if isinstance(name, str) else "",
        param_headers=call.resource.param_headers,
        traceparent=call.traceparent,
        tracestate=call.tracestate,
        capabilities=_without_tasks(relay.capabilities),
        log_level=relay.log_level,
        timeout_s=limits.timeout_s,
        max_bytes=limits.max_bytes,
    )


def _without_tasks(capabilities: Object) -> Object:
    """Tasks are not carried yet, so no upstream may answer with one."""
    extensions = capabilities.get("extensions")
    if not isinstance(extensions, dict) or _TASKS not in extensions:
        return capabilities
    return {**capabilities, "extensions": {name: v for name, v in extensions.items() if name != _TASKS}}


def told_by(relay: Relay) -> Told:
    """Where the notifications of a call go: to its client, or nowhere when it did not ask for any."""
    return relay.notify if relay.wants_progress or relay.log_level or relay.era is Era.LEGACY else told_nobody


async def converse(link: Link, authorized: Authorized, relay: Relay, limits: Limits, label: str) -> Result:
    """A call on a modern upstream: rounds of `input_required` until it completes."""
    call = authorized.call
    request = request_for(call, relay, limits)
    resume: Mapping[str, object] = call.resume or EMPTY
    state, responses = _state_of(resume), resume.get("responses", EMPTY)
    for _ in range(MAX_ROUNDS):
        if state or responses:
            request = replace(request, params=_round(call.params, state, responses))
        message = await link.request(request, told_by(relay))
        result = message.get("result")
        if not isinstance(result, dict) or result.get("resultType") != "input_required":
            return result_of(call, message, label)
        answered = await _ask(relay, result, label)
        state = {"s": result.get("requestState")}
        if answered is None or (relay.era is Era.MODERN and not answered):
            kept = {key: value for key, value in result.items() if key != "requestState"}
            return Result(codec.dumps(kept), "input_required", state=state)
        responses = answered
    raise UpstreamProtocolError(f"upstream {label!r} asked for input {MAX_ROUNDS} times in one call")


def _state_of(resume: Mapping[str, object]) -> Mapping[str, object]:
    state = resume.get("state")
    return state if isinstance(state, Mapping) else EMPTY


def _round(params: FrozenDict, state: Mapping[str, object], responses: object) -> Object:
    sent = dict(params)
    if isinstance(state.get("s"), str):
        sent["requestState"] = state["s"]
    if responses:
        sent["inputResponses"] = responses
    return sent


async def _ask(relay: Relay, result: Object, label: str) -> dict[str, object] | None:
    """The client's answers by key, or `None` when the questions are to travel in the answer."""
    requests = result.get("inputRequests", {})
    if not isinstance(requests, Mapping) or len(requests) > MAX_QUESTIONS:
        raise UpstreamProtocolError(f"upstream {label!r} asked for input in a form that is not MCP")
    answers: dict[str, object] = {}
    deferred = False
    for key, question in requests.items():
        method, params = _question(question, label)
        answer = await relay.ask(method, params)
        if answer.outcome == "rpc_error":
            raise InvalidCall(f"the client could not answer {method}, so the call cannot go on")
        deferred = deferred or answer.outcome == "input_required"
        answers[str(key)] = codec.loads(answer.payload)
    return None if deferred else answers


def _question(question: object, label: str) -> tuple[str, Object]:
    method = question.get("method") if isinstance(question, Mapping) else None
    if not isinstance(question, Mapping) or method not in QUESTIONS:
        raise UpstreamProtocolError(f"upstream {label!r} asked its client for something that is not in MCP")
    params = question.get("params")
    return str(method), params if isinstance(params, Mapping) else EMPTY


def asked_by(relay: Relay) -> Asked:
    """Puts a legacy upstream's live question to a legacy client, by way of policy."""

    async def asked(method: str, params: Object) -> Object:
        if method == "ping":
            return {"result": {}}
        if method not in QUESTIONS:
            return {"error": {"code": -32601, "message": "Method not found"}}
        try:
            return reply_to(await relay.ask(method, params))
        except InterlockError as error:
            return {"error": {"code": error.rpc_code, "message": str(error)}}

    return asked


class RoundsOnLegacy:
    """A modern client's call on a legacy upstream: the upstream's live questions become rounds."""

    def __init__(self, lot: ParkingLot, label: str) -> None:
        self._lot = lot
        self._label = label

    async def begin(self, link: Link, authorized: Authorized, relay: Relay, limits: Limits) -> Result:
        """Start the upstream's request and go to its first question or its answer."""
        turn = Turn(link, request_for(authorized.call, relay, limits))
        self._lot.group.start_soon(turn.run)
        return await self._advance(turn, authorized, relay)

    async def resume(self, authorized: Authorized, relay: Relay) -> Result:
        """Take a parked call up with the client's answers. What is still unanswered is asked again."""
        call = authorized.call
        resume: Mapping[str, object] = call.resume or EMPTY
        turn = self._lot.take(str(_state_of(resume).get("p")), relay.owner, call.digest)
        responses = resume.get("responses")
        for key, answer in (responses if isinstance(responses, Mapping) else {}).items():
            turn.answer(key, {"result": answer})
        return await self._advance(turn, authorized, relay)

    async def _advance(self, turn: Turn, authorized: Authorized, relay: Relay) -> Result:
        turn.relay = relay
        kept = False
        try:
            response = None if turn.open_questions else await self._until_asked(turn)
            if response is not None:
                return result_of(authorized.call, response, self._label)
            await self._screen(turn, relay)
            result = self._park(turn, authorized.call, relay)
            kept = True
            return result
        finally:
            if not kept:
                turn.cancel()  # a client that left, a question that policy forbids: the upstream stops working

    async def _until_asked(self, turn: Turn) -> Object | None:
        """The response, or `None` at the first question that is still open."""
        while True:
            step = await turn.step()
            if not isinstance(step, Question):
                return step
            if step.key in turn.open_questions:
                return None

    async def _screen(self, turn: Turn, relay: Relay) -> None:
        """Every open question passes policy before any of them is shown to the client."""
        for question in turn.open_questions.values():
            if question.key in turn.screened:
                continue
            if question.method not in QUESTIONS:
                words = f"upstream {self._label!r} asked its client for something that is not in MCP"
                raise UpstreamProtocolError(words)
            await relay.ask(question.method, question.params)
            turn.screened.add(question.key)

    def _park(self, turn: Turn, call: Call, relay: Relay) -> Result:
        requests = {key: {"method": q.method, "params": q.params} for key, q in turn.open_questions.items()}
        parked = self._lot.park(turn, relay.owner, call.digest)
        payload = codec.dumps({"resultType": "input_required", "inputRequests": requests})
        return Result(payload, "input_required", state={"p": parked})
