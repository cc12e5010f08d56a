"""The AuthZEN endpoints of a gateway, put together: who may ask, by which policy it is answered, where it is served."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from starlette.routing import BaseRoute, Route

from gateway import codec
from gateway.a2a.directory import Agents
from gateway.app.authzen_answers import answer_of, failed_closed, refused
from gateway.app.authzen_wording import Facts, arguments_of, call_of, place_of, question_of, supported_by
from gateway.app.tracing import trace_of
from gateway.authz.answer import judge
from gateway.authz.detection import Detection
from gateway.authz.findings import Finding
from gateway.errors import InputTooLarge, PolicyEngineUnavailable, Unauthenticated
from gateway.identity.metadata import challenge, metadata_url
from gateway.listeners.authzen.endpoint import (
    ACTION,
    EVALUATION,
    EVALUATIONS,
    METADATA,
    PROTOCOL,
    AuthzenEndpoint,
    MetadataEndpoint,
)
from gateway.listeners.authzen.shapes import Asked, asked_in
from gateway.listeners.guards import Guards
from gateway.listeners.mcp.quiet import Handler
from gateway.ports import Answer, Decided, DecisionTap, PolicyDecisionPoint, Relay, Switches, Upstream
from gateway.registry import Registry
from gateway.types import Authorized, Call, Reason, Resource, Result, Ruling

_NOBODY: Final = frozenset({"none", "anonymous"})


@dataclass(frozen=True, slots=True)
class DeskParts:
    """What an answer stands on. `policy` answers the question that was asked."""

    policy: PolicyDecisionPoint
    registry: Registry
    env: str
    new_id: Callable[[], str]
    agents: Agents | None = None
    switches: Switches | None = None
    tap: DecisionTap | None = None
    detection: Detection | None = None
    """Looks at the arguments for an asker who does not say what is in them."""


def authzen_routes(handler: Handler, guards: Guards, url: str, new_id: Callable[[], str]) -> list[BaseRoute]:
    """What to serve beside the gateway's other routes. `handler` is the pipeline: asking is a call."""
    challenged = partial(_challenged, metadata_url(url))

    def endpoint(kind: Literal["evaluation", "evaluations"]) -> AuthzenEndpoint:
        return AuthzenEndpoint(
            kind, handler=handler, guards=guards, new_id=new_id, trace=trace_of, challenge=challenged
        )

    return [
        Route(EVALUATION, endpoint("evaluation")),
        Route(EVALUATIONS, endpoint("evaluations")),
        Route(METADATA, MetadataEndpoint(url, guards)),
    ]


def _challenged(metadata: str, error: Unauthenticated) -> Unauthenticated:
    return Unauthenticated(str(error), challenge=challenge(error, resource_metadata_url=metadata))


class EvaluationDesk:
    """Carries out `authzen.evaluate`: puts the question to the policy in force and words its answer.

    Nothing is done to what is asked about: no session counts it, no rate is charged, no ticket is opened.
    """

    def __init__(self, parts: DeskParts, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._parts = parts
        self._clock_ns = clock_ns

    def desk_for(self, call: Call) -> Upstream | None:
        """Itself, for what it carries out."""
        return self if call.action == ACTION and call.protocol == PROTOCOL else None

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """The AuthZEN response. Raises `Unauthenticated` for a caller who showed no credential, whatever policy says,
        and `InvalidCall` for properties of ours with a wrong type."""
        if authorized.identity.method in _NOBODY:
            raise Unauthenticated("asking for decisions needs an API key or a token")
        call = authorized.call
        asked = asked_in(call.params)
        known = self._known(asked)
        found = await self._found(asked)
        facts = Facts(call.id, call.traceparent[3:35], self._clock_ns(), self._parts.env, known, found)
        return Result(codec.dumps(await self._answered(asked, facts)))

    async def _found(self, asked: Asked) -> Sequence[Finding] | None:
        if "findings" in asked.context or self._parts.detection is None:
            return None
        return await self._parts.detection.in_arguments(arguments_of(asked))

    async def _answered(self, asked: Asked, facts: Facts) -> Mapping[str, object]:
        decision_id = self._parts.new_id()
        try:
            question = question_of(asked, facts)
        except InputTooLarge:
            return failed_closed("input_too_large", decision_id)
        blocked = self._blocked(asked, facts)
        if blocked is not None:
            return refused(blocked, decision_id)
        try:
            answer = await self._decided(question, decision_id)
            ruling = Ruling(decision_id, answer.revision, answer.engine, answer.cached)
            decision = judge(answer.value, call_digest="", ruling=ruling)
        except PolicyEngineUnavailable as exc:
            return failed_closed(exc.reason, decision_id)
        said = answer.value if isinstance(answer.value, Mapping) else {}
        return answer_of(decision, said, supported_by(asked))

    def _blocked(self, asked: Asked, facts: Facts) -> Reason | None:
        """What keeps such a call from being carried out here, whatever policy says."""
        if facts.resource is not None and facts.resource.quarantine:
            return Reason("quarantined", "its definition changed and nobody accepted it yet", "interlock", public=True)
        if self._parts.switches is None:
            return None
        return self._parts.switches.refusal(*call_of(asked, facts))

    async def _decided(self, question: Mapping[str, object], decision_id: str) -> Answer:
        started = time.monotonic_ns()
        answer: Answer | None = None
        fault = ""
        try:
            answer = await self._parts.policy.evaluate("decision", question)
        except PolicyEngineUnavailable as exc:
            fault = f"{exc.reason}: {exc}"
            raise
        finally:
            if self._parts.tap is not None and (answer is not None or fault):
                took_ns = time.monotonic_ns() - started
                self._parts.tap.decided(Decided(decision_id, "decision", question, answer, fault, took_ns))
        return answer

    def _known(self, asked: Asked) -> Resource | None:
        """The resource as this gateway knows it; `None` when it does not."""
        (upstream, name), identifier = place_of(asked), str(asked.resource["id"])
        match asked.resource["type"]:
            case "tool":
                found = self._parts.registry.resolve_tool(upstream, name)
            case "prompt":
                found = self._parts.registry.resolve_prompt(upstream, name)
            case "mcp_server":
                found = self._parts.registry.resolve_server(identifier)
            case "agent" if self._parts.agents is not None and self._parts.agents.get(identifier) is not None:
                found = self._parts.agents.resource(identifier)
            case _:
                return None
        return found if found.known and found.id == identifier else None  # by one name only, as rules write it


_: type[Upstream] = EvaluationDesk
