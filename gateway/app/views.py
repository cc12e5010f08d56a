"""What the admin endpoints show of a running gateway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.app.policy import ActivePolicy
from gateway.audit.journal import Journal
from gateway.identity.metadata import protected_resource
from gateway.listeners.admin import Views
from gateway.registry import Registry
from gateway.running import Running
from gateway.telemetry import Metrics, resident_bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """The parts of a gateway that can be looked at."""

    url: str
    issuers: tuple[str, ...]
    registry: Registry
    running: Running
    journal: Journal
    metrics: Metrics
    policy: ActivePolicy


def views_of(seen: Seen) -> Views:
    """The answers of the admin endpoints."""
    _add_gauges(seen)
    return Views(
        readiness=lambda: {"audit": seen.journal.status.error},
        metrics=seen.metrics.render,
        resource_metadata=lambda path: protected_resource(seen.url + path, issuers=seen.issuers, name="Interlock"),
        upstreams=lambda: [_described(seen, state.name) for state in seen.registry.snapshot.upstreams],
    )


def _described(seen: Seen, name: str) -> Mapping[str, object]:
    state = seen.registry.snapshot.upstream(name)
    catalog = state.catalog if state is not None else None
    upstream = seen.running.get(name)
    return {
        "name": name,
        "down": state.down if state is not None else "not configured",
        "tools": len(catalog.items["tool"]) if catalog is not None else 0,
        "quarantined": [item.name for item in catalog.all_items() if item.quarantine] if catalog is not None else [],
        "rejected": [{"name": item.name, "reason": item.reason} for item in catalog.rejected] if catalog else [],
        **(upstream.report() if upstream is not None else {}),
    }


def _add_gauges(seen: Seen) -> None:
    metrics = seen.metrics
    metrics.add_gauge("interlock.audit.queue", "Records that wait to be written.", lambda: seen.journal.status.queued)
    metrics.add_gauge(
        "interlock.audit.healthy", "1 while the audit log can be written.", lambda: int(seen.journal.status.healthy)
    )
    metrics.add_counter("interlock.audit.entries", "Entries in the audit log.", lambda: seen.journal.status.size)
    metrics.add_gauge("process.memory.usage", "Resident memory.", resident_bytes, unit="By")
    metrics.add_gauge(
        "interlock.upstream.up",
        "1 for an upstream that is connected.",
        lambda: {state.name: int(not state.down) for state in seen.registry.snapshot.upstreams},
    )
