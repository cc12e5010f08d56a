"""Carries one authorized call through an MCP server, bridging the eras of the two ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from adapters.upstreams.mcp.answers import reply_to, result_of
from adapters.upstreams.mcp.link import METHOD_NOT_FOUND, Asked, Link, News, Object, Reply, Request
from adapters.upstreams.mcp.telling import told_by
from adapters.upstreams.mcp.turns import QUESTIONS, ParkingLot, Turn
from gateway import codec
from gateway.boxes import Hold
from gateway.errors import InterlockError, InvalidCall, UpstreamProtocolError
from gateway.ports import Relay
from gateway.types import EMPTY, Authorized, Call, Era, FrozenDict, Result

MAX_ROUNDS: Final = 16
MAX_QUESTIONS: Final = 16
MAY_ASK: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
"""Methods whose answer may be `input_required` (2026-07-28, patterns/mrtr, "Supported Requests")."""
_TASKS: Final = "io.modelcontextprotocol/tasks"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one call: the longest silence (seconds) and the largest answer (bytes)."""

    timeout_s: float
    max_bytes: int


def request_for(call: Call, relay: Relay, limits: Limits) -> Request:
    """The upstream's view of a call."""
    params, resource = call.params, call.resource
    name = params.get("uri") if resource.type == "mcp_resource" else params.get("name")
    return Request(
        call.method,
        params,
        name if isinstance(name, str) else "",
        resource.param_headers,
        call.traceparent,
        call.tracestate,
        _without_tasks(relay.capabilities),
        relay.log_level,
        relay.wants_progress,
        limits.timeout_s,
        limits.max_bytes,
    )


def _without_tasks(capabilities: Object) -> Object:
    """Tasks are not carried yet, so no upstream may answer with one."""
    extensions = capabilities.get("extensions")
    if not isinstance(extensions, dict) or _TASKS not in extensions:
        return capabilities
    return {**capabilities, "extensions": {name: v for name, v in extensions.items() if name != _TASKS}}


async def converse(
    link: Link, call: Call, relay: Relay, limits: Limits, news: News, label: str
) -> tuple[Result, Reply]:
    """A call on a modern upstream: rounds of `input_required` until it completes. Gives the last reply as well."""
    request = request_for(call, relay, limits)
    told = told_by(relay, news)
    resume: Mapping[str, object] = call.resume or EMPTY
    state, responses = _state_of(resume), resume.get("responses", EMPTY)
    for _ in range(MAX_ROUNDS):
        if state or responses:
            request = replace(request, params=_round(call.params, state, responses))
        reply = await link.request(request, told)
        result = reply.result
        if result.get("resultType") != "input_required" or call.method not in MAY_ASK:
            return result_of(call, reply, label), reply
        answered = await _ask(relay, result, label)
        state = {"s": result.get("requestState")}
        if answered is None or (relay.era is Era.MODERN and not answered):
            kept = {key: value for key, value in result.items() if key != "requestState"}
            return Result(codec.dumps(kept), "input_required", state=state), reply
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
        if method not in QUESTIONS:
            return {"error": {"code": METHOD_NOT_FOUND, "message": "Method not found"}}
        try:
            return reply_to(await relay.ask(method, params))
        except InterlockError as error:
            return {"error": {"code": error.rpc_code, "message": str(error)}}

    return asked


class RoundsOnLegacy:
    """A modern client's call on a legacy upstream: the upstream's live questions become rounds."""

    def __init__(self, lot: ParkingLot, news: News, label: str, hold: Hold) -> None:
        self._lot = lot
        self._hold = hold
        self._news = news
        self._label = label

    async def begin(self, link: Link, authorized: Authorized, relay: Relay, limits: Limits) -> tuple[Result, Reply]:
        """Start the upstream's request and go to its first question or its answer."""
        turn = Turn(link, request_for(authorized.call, relay, limits), self._news)
        turn.relay = relay
        with self._hold(link.box, authorized, relay):
            self._lot.group.start_soon(turn.run)
            return await self._advance(turn, authorized.call, relay)

    async def resume(self, authorized: Authorized, relay: Relay) -> tuple[Result, Reply]:
        """Take a parked call up with the client's answers. What is still unanswered is asked again."""
        call = authorized.call
        resume: Mapping[str, object] = call.resume or EMPTY
        turn = self._lot.take(str(_state_of(resume).get("p")), relay.owner, call.digest)
        turn.relay = relay
        responses = resume.get("responses")
        try:
            with self._hold(turn.box, authorized, relay):
                for key, answer in (responses if isinstance(responses, Mapping) else {}).items():
                    if key in turn.screened:  # what was never shown cannot have been answered
                        turn.answer(key, {"result": answer})
                return await self._advance(turn, call, relay)
        except InterlockError:
            turn.cancel()
            raise

    async def _advance(self, turn: Turn, call: Call, relay: Relay) -> tuple[Result, Reply]:
        kept = False
        try:
            while True:
                reply = await turn.step()
                if reply is not None:
                    return result_of(call, reply, self._label), reply
                await self._screen(turn, relay)
                if turn.open_questions:  # questions that were answered in the client's place end no round
                    break
            result = self._park(turn, call, relay)
            kept = True
            return result, Reply()
        finally:
            if not kept:
                turn.cancel()  # a client that left, a question that policy forbids: the upstream stops working

    async def _screen(self, turn: Turn, relay: Relay) -> None:
        """Every open question passes policy before any of them is shown to the client, or answered in its place."""
        while waiting := [question for key, question in turn.open_questions.items() if key not in turn.screened]:
            if len(turn.open_questions) > MAX_QUESTIONS:
                raise UpstreamProtocolError(f"upstream {self._label!r} asked too many questions at once")
            for question in waiting:
                answer = await relay.ask(question.method, question.params)
                if answer.outcome != "ok" or not turn.answer(question.key, reply_to(answer)):
                    turn.screened.add(question.key)

    def _park(self, turn: Turn, call: Call, relay: Relay) -> Result:
        shown = [question for key, question in turn.open_questions.items() if key in turn.screened]
        requests = {question.key: {"method": question.method, "params": question.params} for question in shown}
        parked = self._lot.park(turn, relay.owner, call.digest)
        payload = codec.dumps({"resultType": "input_required", "inputRequests": requests})
        return Result(payload, "input_required", state={"p": parked})
