"""Sends spans and metrics to a collector, where one is configured."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from gateway.config.secrets import resolve_value
from gateway.config.tree import Telemetry, Upstream
from gateway.telemetry import Leg, Metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import TaskGroup

    from gateway.audit.journal import RecordSink

SERVICE_NAME_VARIABLE: Final = "OTEL_SERVICE_NAME"
"""Where OpenTelemetry has the name of a service."""


async def export_telemetry(
    settings: Telemetry,
    metrics: Metrics,
    sinks: list[RecordSink],
    group: TaskGroup,
    *,
    version: str,
    legs: Mapping[str, Leg],
) -> None:
    """Run the export of spans (a new one of `sinks`) and metrics in `group`; nothing without an endpoint.

    `legs` says where each upstream is; it is read when a span is made.
    """
    if not settings.otlp_endpoint:
        return
    from adapters.telemetry.otlp import OtlpMetrics, OtlpSettings, OtlpSpans  # an SDK of 20 MB, only if configured

    otlp = OtlpSettings(
        settings.otlp_endpoint,
        headers={name: resolve_value(value) for name, value in settings.otlp_headers.items()},
        service_name=os.environ.get(SERVICE_NAME_VARIABLE) or "interlock",
        service_version=version,
        instance_id=os.urandom(8).hex(),
        environment=settings.environment,
    )
    spans = OtlpSpans(otlp, leg_of=lambda name: legs.get(name, Leg()))
    spans.register(metrics)
    sinks.append(spans)
    await group.start(spans.run)
    await group.start(OtlpMetrics(otlp, metrics).run)


def leg_to(spec: Upstream) -> Leg:
    """How an upstream is reached, in the words of the conventions."""
    if not spec.url:
        return Leg("pipe")
    parts = urlsplit(spec.url)
    return Leg("tcp", parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
