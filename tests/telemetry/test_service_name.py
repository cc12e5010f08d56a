"""Who the gateway says that it is, where the environment may say it as OpenTelemetry has it."""

from __future__ import annotations

import anyio
import pytest
from anyio import to_thread

from gateway.app.telemetry import export_telemetry
from gateway.config import Telemetry
from gateway.telemetry import Metrics, names
from tests.telemetry.sink import otlp_sink


@pytest.mark.parametrize(("said", "expected"), [("gate-7", "gate-7"), ("", "interlock"), (None, "interlock")])
async def test_service_is_named_by_the_environment(
    said: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    if said is not None:
        monkeypatch.setenv("OTEL_SERVICE_NAME", said)
    with otlp_sink() as sink:
        async with anyio.create_task_group() as group:
            settings, metrics = Telemetry(otlp_endpoint=sink.url), Metrics()
            await export_telemetry(settings, metrics, [metrics], group, version="1.0", legs={})
            group.cancel_scope.cancel()  # what is left is sent at the end
        request = await to_thread.run_sync(lambda: sink.metrics.get(timeout=5))

    told = {pair.key: pair.value.string_value for pair in request.resource_metrics[0].resource.attributes}
    assert told[names.SERVICE_NAME] == expected
