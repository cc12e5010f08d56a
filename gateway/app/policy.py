"""The policy in force: loaded, checked, asked, and replaced as a whole."""

from __future__ import annotations

from typing import Final

from anyio import to_thread

from adapters.pdp.activation import ActivePdp, Engine, EngineSpec, build_engine
from adapters.pdp.bundle import Bundle, load_bundle
from adapters.pdp.cached import MAX_ENTRIES
from gateway.config.secrets import resolve_secret
from gateway.config.tree import Policy, policy_library

_ONLY_IN_RESPONSES: Final = (("phase",), ("resource", "properties", "result"))
_DIFFERS_BY_CALL: Final = ("context",)


class ActivePolicy(ActivePdp):
    """The engine that answers now, and what follows from what its policy can read (worked out once per policy)."""

    def __init__(self) -> None:
        super().__init__()
        self._response_differs = True
        self._list_epoch: str | None = None

    def activate(self, engine: Engine) -> None:
        """Let `engine` decide from now on."""
        self._response_differs = any(engine.may_read(path) for path in _ONLY_IN_RESPONSES)
        self._list_epoch = None if engine.may_read(_DIFFERS_BY_CALL, "visible") else engine.revision
        super().activate(engine)

    def response_differs(self) -> bool:
        """Whether the answer about a result can be another than that about its request."""
        return self._response_differs

    def list_epoch(self) -> str | None:
        """The revision, when what a subject may see depends on nothing that changes from call to call."""
        return self._list_epoch


async def open_engine(policy: Policy) -> Engine:
    """An engine for the configured policy that has passed its checks. Raises `PolicyRefused` with every fault."""
    bundle = await to_thread.run_sync(load_bundle, [policy_library(), policy.path])
    timeout_s = policy.timeout_ms / 1000
    if policy.engine == "embedded":
        entries = MAX_ENTRIES if policy.cache else 0
        return await build_engine(EngineSpec(policy.isolation, timeout_s, entries), bundle)
    return await _remote(policy, bundle, timeout_s)


async def _remote(policy: Policy, bundle: Bundle, timeout_s: float) -> Engine:
    from gateway.app.remote_policy import open_remote  # the OPA client is imported only where OPA is configured

    token = resolve_secret(policy.token) if policy.token else ""
    return await open_remote(policy.url, token, bundle, timeout_s)
