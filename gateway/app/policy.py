"""The policy in force: loaded, checked, asked, and replaced as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol, cast, runtime_checkable

import anyio
from anyio import to_thread

from adapters.pdp.activation import ActivePdp, Engine, EngineSpec, build_engine
from adapters.pdp.bundle import Bundle, load_bundle
from adapters.pdp.cached import MAX_ENTRIES
from adapters.pdp.checks import ENTRYPOINTS
from adapters.pdp.projection import Path
from gateway.authz.detection import Part
from gateway.config.decisions import Policy
from gateway.config.fields import policy_library
from gateway.config.secrets import resolve_secret
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import Answer, Entrypoint

_ONLY_IN_RESPONSES: Final = (("phase",), ("resource", "properties", "result"))
_FINDINGS: Final[Mapping[Part, Path]] = {
    "arguments": ("context", "findings"),
    "result": ("resource", "properties", "result", "findings"),
}
_BUDGET: Final[Path] = ("context", "budget")
_DIFFERS_BY_CALL: Final = ("context",)
UPKEEP_S: Final = 1.0
EXCHANGE_S: Final = 5.0
"""How long a question waits while a policy server is given another policy."""


@runtime_checkable
class Kept(Protocol):
    """Something of an engine's that has to be looked after while the engine decides."""

    async def upkeep(self) -> None: ...


class ActivePolicy(ActivePdp):
    """The engine that answers now, and what follows from what its policy can read (worked out once per policy)."""

    def __init__(self) -> None:
        super().__init__()
        self._response_differs = True
        self._reads_findings = dict.fromkeys(_FINDINGS, True)
        self._reads_budget = True
        self._list_epoch: str | None = None
        self.before: list[Callable[[Bundle], None]] = []
        """Told of the rules that are going to decide, before they do."""
        self.changing = anyio.Lock()
        """Held while the policy is exchanged, so that upkeep of the old one does not undo it."""

    def activate(self, engine: Engine) -> None:
        """Let `engine` decide from now on."""
        for told in self.before if engine.bundle is not None else ():
            told(cast("Bundle", engine.bundle))
        self._response_differs = any(engine.may_read(path) for path in _ONLY_IN_RESPONSES)
        self._reads_findings = {part: _reads(engine, path) for part, path in _FINDINGS.items()}
        self._reads_budget = _reads(engine, _BUDGET)
        keepable = engine.isolation != "remote" and not engine.may_read(_DIFFERS_BY_CALL, "visible")
        self._list_epoch = engine.revision if keepable else None
        super().activate(engine)

    def response_differs(self) -> bool:
        """Whether the answer about a result can be another than that about its request."""
        return self._response_differs

    def reads_findings(self, part: Part) -> bool:
        """Whether what detectors find in arguments or in results can change an answer."""
        return self._reads_findings[part]

    def reads_budget(self) -> bool:
        """Whether what was spent can change an answer."""
        return self._reads_budget

    def list_epoch(self) -> str | None:
        """The revision, when what a subject may see depends on nothing that changes from call to call.

        Never for a server of its own: its data is not ours alone.
        """
        return self._list_epoch

    async def evaluate(self, entrypoint: Entrypoint, question: Mapping[str, object]) -> Answer:
        """As the port says. A server that is just being given a policy has none: then it is asked once more after."""
        try:
            return await super().evaluate(entrypoint, question)
        except PolicyEngineUnavailable as exc:
            if exc.reason != "undefined" or not self.changing.locked():
                raise
        with anyio.move_on_after(EXCHANGE_S):
            async with self.changing:
                pass  # the exchange is over
        return await super().evaluate(entrypoint, question)

    async def keep(self) -> None:
        """Look after the engine that decides, until cancelled."""
        while True:
            await anyio.sleep(UPKEEP_S)
            async with self.changing:
                resource: object = self.engine.resource if self.engine is not None else None
                if isinstance(resource, Kept):
                    await resource.upkeep()


def _reads(engine: Engine, path: Path) -> bool:
    """Whether a rule names it; that the policy reads the clock as well, say, is no reason to work this out."""
    projections = [engine.projections.get(entrypoint) for entrypoint in ENTRYPOINTS]
    return any(projection is None or projection.may_read(path) for projection in projections)


async def read_policy(policy: Policy) -> Bundle:
    """The rules that the configuration names, unchecked. Raises `PolicyRefused` for what cannot be read."""
    return await to_thread.run_sync(load_bundle, [policy_library(), policy.path])


async def open_engine(policy: Policy, bundle: Bundle) -> Engine:
    """An engine for these rules that has passed its checks. Raises `PolicyRefused` with every fault."""
    timeout_s = policy.timeout_ms / 1000
    if policy.engine == "embedded":
        entries = MAX_ENTRIES if policy.cache else 0
        return await build_engine(EngineSpec(policy.isolation, timeout_s, entries), bundle)
    if policy.engine == "authzen":
        from gateway.app.authzen_policy import open_authzen  # its HTTP client is imported only where it is configured

        token = resolve_secret(policy.token) if policy.token else ""
        return await open_authzen(policy.url, token, timeout_s)
    return await _remote(policy, bundle, timeout_s)


async def _remote(policy: Policy, bundle: Bundle, timeout_s: float) -> Engine:
    from gateway.app.remote_policy import open_remote  # the OPA client is imported only where OPA is configured

    token = resolve_secret(policy.token) if policy.token else ""
    return await open_remote(policy.url, token, bundle, timeout_s)
