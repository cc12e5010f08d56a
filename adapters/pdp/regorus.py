"""The embedded engine as the gateway's decision point, evaluated on the thread that asks.

An evaluation here cannot be interrupted, so this is for policies whose cost is known (`cost.unbounded`); any other
is asked in a process of its own (`isolated.IsolatedPdp`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final

import orjson

from adapters.pdp.bundle import Bundle, Fault, PolicyRefused
from adapters.pdp.engine import EngineFailure, RegoEngine
from adapters.pdp.spelled_out import spelled_out
from gateway import codec
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import Answer, Entrypoint, PolicyDecisionPoint

ENGINE: Final = "regorus"
RULES: Final[Mapping[Entrypoint, str]] = {
    "decision": "data.interlock.decision",
    "visible": "data.interlock.visible",
}


class RegorusPdp:
    """`PolicyDecisionPoint` in this process: one engine for each thread that asks. Raises `PolicyRefused` at birth."""

    def __init__(self, bundle: Bundle, *, new_engine: Callable[[Bundle], RegoEngine] | None = None) -> None:
        self.bundle = bundle
        self.revision = bundle.revision
        self._new_engine = new_engine or engine_of
        self._per_thread = threading.local()
        try:
            self._engine()
        except EngineFailure as exc:
            raise PolicyRefused([Fault(exc.file or "policy", exc.line, exc.col, exc.text or exc.kind)]) from exc

    async def evaluate(self, entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
        """As the port says."""
        text = question_text(question)
        try:
            value = self._engine().evaluate(RULES[entrypoint], text)
        except EngineFailure as failure:
            if failure.kind == "panic":  # nothing is known of its state, so it is never asked again
                self._per_thread.engine = None
            raise unavailable(failure) from failure
        return Answer(orjson.loads(value), self.revision, ENGINE)

    def close(self) -> None:
        """Let the engine of this thread go."""
        self._per_thread.engine = None

    def _engine(self) -> RegoEngine:
        engine: RegoEngine | None = getattr(self._per_thread, "engine", None)
        if engine is None:
            engine = self._per_thread.engine = self._new_engine(self.bundle)
        return engine


def engine_of(bundle: Bundle) -> RegoEngine:
    """An engine for the thread that calls this."""
    return RegoEngine(spelled_out(bundle), bundle.data)


def question_text(question: Mapping[str, object]) -> bytes:
    """The question as the engines read it. Raises `PolicyEngineUnavailable` for what is not JSON."""
    try:
        return codec.dumps(question)
    except (TypeError, ValueError) as exc:
        raise PolicyEngineUnavailable("the question to policy is not JSON") from exc


def unavailable(failure: EngineFailure) -> PolicyEngineUnavailable:
    """What the port raises for a failure; the engine's own words stay behind, for they quote the input."""
    match failure.kind:
        case "undefined":
            return PolicyEngineUnavailable("policy gave no answer", reason="undefined")
        case "panic":
            return PolicyEngineUnavailable("the policy engine panicked", reason="engine_panic")
        case "failed":
            at = f" at {failure.where}" if failure.where else ""
            return PolicyEngineUnavailable(f"policy could not be evaluated{at}; see `interlock policy eval`")


_: type[PolicyDecisionPoint] = RegorusPdp
