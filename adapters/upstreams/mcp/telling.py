"""Where the notifications of one call go: some to its client, the others to whoever keeps the catalog."""

from __future__ import annotations

from adapters.upstreams.mcp.link import LOG, PROGRESS, News, Object, Told
from gateway.ports import Relay
from gateway.types import Era


def is_for_client(method: str) -> bool:
    """Whether a notification is about the call that it came with. Any other speaks of the upstream as a whole."""
    return method in (PROGRESS, LOG)


def told_by(relay: Relay, news: News) -> Told:
    """Takes the notifications of one call. A client hears of progress and log messages only if it asked for them."""
    logs = bool(relay.log_level) or relay.era is Era.LEGACY
    progress = relay.wants_progress

    async def told(method: str, params: Object) -> None:
        if not is_for_client(method):
            news(method, params)
        elif progress if method == PROGRESS else logs:
            await relay.notify(method, params)

    return told
