"""Any OpenID AuthZEN decision point as the one that decides: our question is an AuthZEN one, with more in it.

An AuthZEN answer may be about things that this gateway does not know. What it does not know narrows nothing and
widens nothing: on a no it is left out, on a yes that it might restrict, the yes is worth nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import anyio
import orjson

from adapters.pdp.authzen_answer import answer_in, shows
from adapters.pdp.breaker import Breaker
from adapters.pdp.opa_http import NotHttp, OpaHttp, OpaUnreachable, Reply
from adapters.pdp.regorus import question_text
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import Answer, Entrypoint, PolicyDecisionPoint

ENGINE: Final = "authzen"
TIMEOUT_S: Final = 0.15
AT_ONCE: Final = 8
"""How many candidates of a list are asked about at the same time, where there is no endpoint for several."""
_OVERLOADED: Final = frozenset({429, 502, 503, 504})
_REFUSING: Final = {401: "does not accept policy.token", 403: "does not let this gateway ask", 404: "is not there"}

_STANDS_FOR: Final[Mapping[str, tuple[str, str]]] = {
    "agent": ("a2a.message.send", "SendMessage"),
    "mcp_resource": ("mcp.resources.read", "resources/read"),
    "mcp_server": ("mcp.initialize", "initialize"),
    "model": ("model.call", "model/call"),
    "prompt": ("mcp.prompts.get", "prompts/get"),
    "tool": ("mcp.tools.call", "tools/call"),
}
"""The call that a listed thing is there for, as in `policies/lib/interlock.rego`; anything else is not shown."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The paths of the endpoints; `evaluations` is empty where the decision point has none for several questions."""

    evaluation: str
    evaluations: str = ""


class AuthzenPdp:
    """`PolicyDecisionPoint` over `http`. `revision` is what answers carry: AuthZEN names none."""

    def __init__(
        self,
        http: OpaHttp,
        targets: Targets,
        *,
        timeout_s: float = TIMEOUT_S,
        revision: str = ENGINE,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.revision = revision
        self.breaker = Breaker(now_s)
        self._http = http
        self._targets = targets
        self._timeout_s = timeout_s

    async def evaluate(self, entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
        """As the port says."""
        if entrypoint == "visible":
            return Answer(await self._visible(question), self.revision, ENGINE)
        document = await self._ask(self._targets.evaluation, _worded(question))
        return Answer(answer_in(document), self.revision, ENGINE)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    async def _visible(self, question: Mapping[str, object]) -> list[int]:
        candidates = _candidates(question)
        asked = {index: each for index, item in enumerate(candidates) if (each := _about(question, item)) is not None}
        if not asked:
            return []
        answers = await (self._several if self._targets.evaluations else self._one_by_one)(list(asked.values()))
        return [index for index, answer in zip(asked, answers, strict=True) if shows(answer)]

    async def _several(self, questions: Sequence[Mapping[str, object]]) -> list[object]:
        shared = {name: questions[0][name] for name in ("subject", "context")}
        items = [{name: each[name] for name in ("action", "resource")} for each in questions]
        document = await self._ask(self._targets.evaluations, {**shared, "evaluations": items})
        answers = document.get("evaluations")
        if not isinstance(answers, list) or len(answers) != len(questions):
            raise _invalid("it does not answer each evaluation")
        return [answer_in(each) for each in answers]

    async def _one_by_one(self, questions: Sequence[Mapping[str, object]]) -> list[object]:
        answers: list[object] = [None] * len(questions)
        failures: list[PolicyEngineUnavailable] = []
        limit = anyio.Semaphore(AT_ONCE)

        async def ask(index: int) -> None:
            async with limit:
                try:
                    if not failures:
                        answers[index] = answer_in(await self._ask(self._targets.evaluation, questions[index]))
                except PolicyEngineUnavailable as exc:
                    failures.append(exc)

        async with anyio.create_task_group() as group:
            for index in range(len(questions)):
                group.start_soon(ask, index)
        if failures:
            raise failures[0]
        return answers

    async def _ask(self, target: str, body: Mapping[str, object]) -> Mapping[str, object]:
        text = question_text(body)
        if not self.breaker.may_ask():
            raise PolicyEngineUnavailable("the decision point did not answer lately, so it is not asked for a moment")
        return self._document(await self._reply(target, text))

    async def _reply(self, target: str, body: bytes) -> Reply:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._http.post(target, body)
        except TimeoutError as exc:
            self.breaker.failed()
            words = f"the decision point gave no answer within {self._timeout_s:g} s"
            raise PolicyEngineUnavailable(words, reason="timeout") from exc
        except OpaUnreachable as exc:
            self.breaker.failed()
            raise PolicyEngineUnavailable("the decision point cannot be reached, or broke off") from exc
        except NotHttp as exc:
            self.breaker.failed()
            raise _invalid("it is not HTTP, or too large") from exc

    def _document(self, reply: Reply) -> Mapping[str, object]:
        if reply.status in _OVERLOADED:
            self.breaker.failed()
            raise PolicyEngineUnavailable(f"the decision point answered HTTP {reply.status}")
        if reply.status != 200:  # an answer, and never asked for again
            self.breaker.succeeded()
            why = _REFUSING.get(reply.status, "could not answer")
            raise PolicyEngineUnavailable(f"the decision point {why} (HTTP {reply.status})")
        document = _object(reply.body)
        if document is None:
            self.breaker.failed()
            raise _invalid("it is not a JSON object")
        self.breaker.succeeded()
        return document


def _worded(question: Mapping[str, object]) -> dict[str, object]:
    """The question as AuthZEN has it: what ours has beside the four goes into the context."""
    parts = {name: question.get(name) for name in ("subject", "action", "resource")}
    if not all(isinstance(part, Mapping) for part in parts.values()):
        raise PolicyEngineUnavailable("the question has no subject, action and resource", reason="undefined")
    more = {name: question[name] for name in ("schema", "phase") if name in question}
    return {**parts, "context": {**_object_at(question, "context"), **more}}


def _candidates(question: Mapping[str, object]) -> Sequence[object]:
    found = _object_at(_object_at(question, "resource"), "properties").get("candidates")
    return found if isinstance(found, list | tuple) else ()


def _about(question: Mapping[str, object], candidate: object) -> dict[str, object] | None:
    kind = candidate.get("type") if isinstance(candidate, Mapping) else None
    stands_for = _STANDS_FOR.get(kind) if isinstance(kind, str) else None
    if stands_for is None:
        return None
    properties = {**_object_at(_object_at(question, "action"), "properties"), "method": stands_for[1]}
    return _worded({**question, "action": {"name": stands_for[0], "properties": properties}, "resource": candidate})


def _object_at(value: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _object(body: bytes) -> Mapping[str, object] | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return cast("Mapping[str, object]", document) if isinstance(document, dict) else None


def _invalid(what: str) -> PolicyEngineUnavailable:
    return PolicyEngineUnavailable(f"the decision point's answer is invalid: {what}", reason="policy_output_invalid")


_: type[PolicyDecisionPoint] = AuthzenPdp
