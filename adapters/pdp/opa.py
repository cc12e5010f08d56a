"""A real OPA server as the decision point, asked over its data API with a deadline and a breaker.

Builtin errors are made errors (a default server would make them undefined, and a `deny` could vanish). An HTTP
status is an answer and is never asked for again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

import orjson

from adapters.pdp.breaker import Breaker
from adapters.pdp.opa_http import NotHttp, OpaHttp, OpaUnreachable, Reply
from adapters.pdp.regorus import question_text
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import Answer, Entrypoint, PolicyDecisionPoint

ENGINE: Final = "opa"
TIMEOUT_S: Final = 0.15
_QUERY: Final = "?strict-builtin-errors=true&provenance=true"
_OVERLOADED: Final = frozenset({429, 502, 503, 504})


class OpaPdp:
    """`PolicyDecisionPoint` over `http`. `revision` is what answers carry when the server does not name its bundles."""

    def __init__(
        self,
        http: OpaHttp,
        *,
        timeout_s: float = TIMEOUT_S,
        revision: str = "",
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.revision = revision
        self.breaker = Breaker(now_s)
        self._http = http
        self._timeout_s = timeout_s

    async def evaluate(self, entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
        """As the port says."""
        body = b'{"input":' + question_text(question) + b"}"
        if not self.breaker.may_ask():
            raise PolicyEngineUnavailable("OPA did not answer lately, so it is not asked for a moment")
        reply = await self._ask(f"/v1/data/interlock/{entrypoint}{_QUERY}", body)
        return self._answer(reply)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    async def _ask(self, target: str, body: bytes) -> Reply:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._http.post(target, body)
        except TimeoutError as exc:
            self.breaker.failed()
            raise PolicyEngineUnavailable(f"OPA gave no answer within {self._timeout_s:g} s", reason="timeout") from exc
        except OpaUnreachable as exc:
            self.breaker.failed()
            raise PolicyEngineUnavailable(str(exc)) from exc
        except NotHttp as exc:
            self.breaker.failed()
            raise PolicyEngineUnavailable(str(exc), reason="policy_output_invalid") from exc

    def _answer(self, reply: Reply) -> Answer:
        if reply.status in _OVERLOADED:
            self.breaker.failed()
            raise PolicyEngineUnavailable(f"OPA answered HTTP {reply.status}")
        document = _document(reply)
        if document is None:
            self.breaker.failed()
            text = f"OPA's answer (HTTP {reply.status}) is not one of its data API"
            raise PolicyEngineUnavailable(
                text, reason="policy_output_invalid" if reply.status == 200 else "pdp_unavailable"
            )
        self.breaker.succeeded()  # a status with OPA's own error is an answer: the policy is at fault, not the server
        if reply.status != 200:
            code = document.get("code")
            text = f"OPA answered HTTP {reply.status} ({code if isinstance(code, str) else 'no code'})"
            raise PolicyEngineUnavailable(text)
        if "result" not in document:
            raise PolicyEngineUnavailable("policy gave no answer", reason="undefined")
        return Answer(document["result"], _revision_in(document) or self.revision, ENGINE)


def _document(reply: Reply) -> dict[str, object] | None:
    try:
        document = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _revision_in(document: Mapping[str, object]) -> str:
    provenance = document.get("provenance")
    bundles = provenance.get("bundles") if isinstance(provenance, dict) else None
    if not isinstance(bundles, dict):
        return ""
    revisions = (f"{name}={entry.get('revision', '')}" for name, entry in bundles.items() if isinstance(entry, dict))
    return ",".join(sorted(revisions))


_: type[PolicyDecisionPoint] = OpaPdp
