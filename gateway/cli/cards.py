"""The cards of agents as the command line sees them: asked for by itself, within a deadline, and nothing kept."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from adapters.identity.jwks import HttpKeySource
from adapters.upstreams.a2a.card_source import CardFacts, CardSource, NotModified
from adapters.upstreams.a2a.choosing import chosen
from adapters.upstreams.wire.http import HttpPool, Origin
from gateway.a2a.directory import AgentEntry
from gateway.app.a2a import has_grpc
from gateway.cli.findings import Finding, good, wrong
from gateway.cli.main import CANNOT, CommandFailed
from gateway.config.secrets import resolve_value
from gateway.config.tree import Agent, Settings
from gateway.errors import ConfigError, InterlockError, UpstreamTimeout, UpstreamUnavailable

FETCH_S: Final = 10.0
MAX_AT_ONCE: Final = 8


async def _unjudged(entry: AgentEntry) -> AgentEntry:
    return entry


async def fetched(
    name: str, spec: Agent, judge: Callable[[AgentEntry], Awaitable[AgentEntry]] = _unjudged
) -> AgentEntry:
    """The agent as its card describes it now.

    Raises `InterlockError` when there is none that can be used, and `ConfigError` for a secret that is not there.
    """
    headers = [(key.lower().encode(), resolve_value(value).encode()) for key, value in spec.headers.items()]
    timeout_s = min(FETCH_S, spec.timeout_s)
    async with HttpPool(Origin.parse(spec.card_url), label=name) as pool, HttpKeySource() as keys:
        source = CardSource(spec.card_url, pool, keys, tuple(headers), timeout_s=timeout_s)
        card = await source.fetch()
        if isinstance(card, NotModified):
            raise CommandFailed(f"{spec.card_url} answers that a card was not modified, which was not asked", CANNOT)
        facts = CardFacts(name, spec.labels, spec.risk, spec.skills)
        return await source.described(card, facts, judge, now_s=int(time.time()))


def remedy_for(fault: InterlockError | ConfigError, card_url: str) -> str:
    """What to do about a card that did not come, or is none."""
    if isinstance(fault, ConfigError):
        return "see `interlock check --secrets`"
    if isinstance(fault, UpstreamUnavailable | UpstreamTimeout):
        return f"start it, or correct its card_url, {ascii(card_url)[1:-1]}"
    return f"correct its card_url, {ascii(card_url)[1:-1]}, or have its owner mend the card"


async def findings(settings: Settings) -> list[Finding]:
    """How each agent is, as far as its card tells."""
    found: dict[str, Finding] = {}
    limiter = anyio.CapacityLimiter(MAX_AT_ONCE)

    async def ask(name: str, spec: Agent) -> None:
        async with limiter:
            found[name] = await _asked(name, spec)

    async with anyio.create_task_group() as group:
        for name, spec in settings.agents.items():
            group.start_soon(ask, name, spec)
    return [found[name] for name in settings.agents]


async def _asked(name: str, spec: Agent) -> Finding:
    subject = f"agent {name}"
    try:
        with anyio.fail_after(2 * FETCH_S):
            entry = await fetched(name, spec)
        used = chosen(entry, grpc=has_grpc())
    except TimeoutError:
        return wrong(subject, "its card did not come in time", f"start it, or correct its card_url, {spec.card_url}")
    except (InterlockError, ConfigError) as exc:
        return wrong(subject, str(exc), remedy_for(exc, spec.card_url))
    signed = f"signed by {ascii(entry.signed_by)[1:-1]}" if entry.signed_by else "not signed"
    return good(subject, f"its card is there, {signed}; {used.binding} {used.version} (the agent itself was not asked)")
