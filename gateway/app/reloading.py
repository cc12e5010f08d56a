"""Changes of the configuration while the gateway runs: all of one, or nothing of it."""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import Final

from adapters.pdp.activation import Engine
from adapters.pdp.bundle import PolicyRefused
from gateway.a2a.directory import Agents
from gateway.app.boxes import Sandboxing
from gateway.app.bundles import PolicyBundles
from gateway.app.endpoints import Front
from gateway.app.models import Models
from gateway.app.policy import ActivePolicy, open_engine, read_policy
from gateway.config import Policy, Settings, reload, watch
from gateway.config.models import Catalogue, load_models
from gateway.errors import ConfigError, InterlockError
from gateway.events import Change, Event, Events
from gateway.registry import Registry
from gateway.running import Running

log = logging.getLogger("interlock.config")

_FIXED = ("listen", "state", "identity", "sandbox", "audit", "telemetry", "limits", "decisions", "approvals")
"""Sections that take effect at the next start."""

EVERY_LIST: Final[tuple[Change, ...]] = ("tools", "prompts", "resources")


class Reloader:
    """Follows the configuration file and the policies, and applies what holds."""

    def __init__(
        self,
        settings: Settings,
        policy: ActivePolicy,
        registry: Registry,
        running: Running,
        front: Front,
        events: Events,
        sandboxing: Sandboxing,
        agents: Agents,
    ) -> None:
        self._agents = agents
        self._sandboxing = sandboxing
        self._settings = settings
        self._policy = policy
        self._registry = registry
        self._running = running
        self._front = front
        self._events = events
        self._bundles: PolicyBundles | None = None
        self._models = Models()
        self._catalogue = Catalogue()
        self.fault = ""
        """Why the last change was not taken; empty when it was."""

    def servers(self) -> tuple[str, ...]:
        """The MCP servers that are configured now."""
        return self._settings.servers

    def take_models(self, models: Models, catalogue: Catalogue) -> None:
        """Keep the models that can be named: `catalogue` at first, and what its file says from then on."""
        self._models = models
        self._catalogue = catalogue

    def take_bundles(self, bundles: PolicyBundles) -> None:
        """Let `bundles` open policies that come from a server, and follow that one."""
        self._bundles = bundles

    def announce(self) -> None:
        """Tell clients that the policy is another one, so that lists may be too."""
        for change in EVERY_LIST:
            self._events.publish(Event("", change))

    def start(self) -> None:
        """Serve what was configured at the start."""
        self._apply(self._settings)

    async def run(self) -> None:
        """Apply changes until cancelled. Settings that came from no file do not change."""
        source = self._settings.source
        if source is None:
            return
        async with aclosing(watch(source.path, lambda: self._settings.policy.path)) as changes:
            async for _ in changes:
                await self.once()

    async def once(self) -> None:
        """Read everything anew. A fault anywhere keeps the last good configuration, and is told."""
        async with self._policy.changing:
            try:
                settings = reload(self._settings)
                catalogue = load_models(settings)
                engine = await self._new_engine(settings.policy)
            except (ConfigError, PolicyRefused, InterlockError, OSError) as exc:
                self.fault = str(exc)
                log.warning("the change is not taken, the last good configuration stays:\n%s", exc)
                return
            self._take(settings, engine, catalogue)

    async def _new_engine(self, policy: Policy) -> Engine | None:
        """An engine for the policy, or `None` when the one that decides is just that.

        What a server has under unchanged settings is looked at when that server is asked, and not here.
        """
        if policy.from_bundle and policy == self._settings.policy:
            return None
        if policy.from_bundle:
            if self._bundles is None:
                raise ConfigError([("policy.url", "takes effect at the next start")])
            return await self._bundles.open(policy)
        bundle = await read_policy(policy)
        if bundle.revision == self._policy.revision and policy == self._settings.policy:
            return None
        return await open_engine(policy, bundle)

    def _take(self, settings: Settings, engine: Engine | None, catalogue: Catalogue) -> None:
        """No `await` in here: no call sees half of a change."""
        self.fault = ""
        for section in _FIXED:
            if getattr(settings, section) != getattr(self._settings, section):
                log.warning("[%s] changed: this takes effect at the next start", section)
        if engine is not None:
            self._policy.activate(engine)
        self._catalogue = catalogue
        self._apply(settings)
        if engine is not None:
            self.announce()
        log.info("configuration reloaded: %d upstreams, policy %s", len(settings.upstreams), self._policy.revision)

    def _apply(self, settings: Settings) -> None:
        self._settings = settings
        self._models.configure(settings, self._catalogue)
        servers, agents = settings.servers, tuple(settings.agents)
        if self._bundles is not None:
            self._bundles.follow(settings.policy)
        self._sandboxing.follow(settings)
        self._registry.configure((*servers, *agents))
        self._agents.configure((*servers, *agents))
        self._running.apply({**settings.upstreams, **settings.agents})
        self._front.offer(servers, agents)
