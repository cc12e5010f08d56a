"""What the admin endpoints show of a running gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.app.policy import ActivePolicy
from gateway.audit.journal import Journal
from gateway.identity.metadata import protected_resource
from gateway.listeners.admin import Views
from gateway.registry import Registry, UpstreamState
from gateway.running import Running
from gateway.telemetry import Metrics, names, resident_bytes


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


def views_of(seen: Seen, jwks: Callable[[], Mapping[str, object]]) -> Views:
    """The answers of the admin endpoints."""
    _add_gauges(seen)
    return Views(
        readiness=lambda: {"audit": seen.journal.status.error},
        metrics=seen.metrics.render,
        resource_metadata=lambda path: protected_resource(seen.url + path, issuers=seen.issuers, name="Interlock"),
        jwks=jwks,
        upstreams=lambda: [_described(seen, state.name) for state in seen.registry.snapshot.upstreams],
    )


def _described(seen: Seen, name: str) -> Mapping[str, object]:
    state = seen.registry.snapshot.upstream(name)
    catalog = state.catalog if state is not None else None
    upstream = seen.running.get(name)
    report = dict(upstream.report()) if upstream is not None else {}
    report["stderr"] = str(report.get("stderr", "")).splitlines()
    return {
        "name": name,
        "down": state.down if state is not None else "not configured",
        "tools": len(catalog.items["tool"]) if catalog is not None else 0,
        "quarantined": [item.name for item in catalog.all_items() if item.quarantine] if catalog is not None else [],
        "rejected": [{"name": item.name, "reason": item.reason} for item in catalog.rejected] if catalog else [],
        **report,
    }


def _add_gauges(seen: Seen) -> None:
    metrics, journal = seen.metrics, seen.journal
    metrics.add_gauge(names.AUDIT_QUEUED, "Records that wait to be written.", lambda: journal.status.queued)
    metrics.add_gauge(names.AUDIT_HEALTHY, "1 while the audit log can be written.", lambda: int(journal.status.healthy))
    metrics.add_counter(names.AUDIT_REFUSED, "Calls whose record is not safe.", lambda: journal.status.refused)
    metrics.add_gauge(names.PROCESS_MEMORY, "Resident memory.", resident_bytes, unit="By")
    metrics.add_gauge(names.UPSTREAM_UP, "1 for an upstream that is connected.", lambda: _by_upstream(seen, _is_up))
    metrics.add_counter(
        names.UPSTREAM_RESTARTS, "Times that an upstream was connected again.", lambda: _by_upstream(seen, _restarts)
    )


def _by_upstream(seen: Seen, read: Callable[[Seen, UpstreamState], int]) -> Mapping[str, int]:
    return {state.name: read(seen, state) for state in seen.registry.snapshot.upstreams}


def _is_up(_: Seen, state: UpstreamState) -> int:
    return int(not state.down)


def _restarts(seen: Seen, state: UpstreamState) -> int:
    upstream = seen.running.get(state.name)
    connects = upstream.report().get("connects") if upstream is not None else 0
    return max(0, connects - 1) if isinstance(connects, int) else 0
