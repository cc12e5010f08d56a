"""The decision log as the configuration describes it."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from gateway.app.decisions import open_decisions
from gateway.config import loads
from gateway.errors import ConfigError
from gateway.ports import Answer, Decided
from gateway.telemetry import Metrics
from tests.decisions.test_upload import Received, collector
from tests.decisions.traffic import bundle_from, events_in

DECIDED = Decided("d1", "decision", {"subject": {"id": "key:dev"}}, Answer({"decision": True}, "r1", "regorus"))


async def test_decisions_are_written_and_sent_with_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR", "t0ken")
    received, metrics = Received(), Metrics()
    with collector(received) as url, anyio.fail_after(30):
        text = f'decisions = {{upload_url = "{url}", upload_token = "env:COLLECTOR"}}\ntelemetry.environment = "stage"'
        async with open_decisions(loads(text, tmp_path), metrics, "1.0") as decisions:
            decisions.use(bundle_from())
            assert decisions.tap is not None
            decisions.tap.decided(DECIDED)

    (written,) = events_in(tmp_path / ".interlock" / "decisions")
    labels = written["labels"]
    assert isinstance(labels, dict)
    assert labels == {"id": labels["id"], "version": "1.0", "environment": "stage"}
    assert received.events == [written]
    assert received.requests[0][1]["Authorization"] == "Bearer t0ken"


async def test_nothing_is_kept_when_it_is_switched_off(tmp_path: Path) -> None:
    async with open_decisions(loads("decisions.retention_days = 0", tmp_path), Metrics(), "1.0") as decisions:
        decisions.use(bundle_from())

    assert decisions.tap is None
    assert not (tmp_path / ".interlock").exists()


async def test_missing_token_is_said_at_the_start(tmp_path: Path) -> None:
    text = 'decisions = {upload_url = "http://127.0.0.1:9", upload_token = "env:NOT_THERE"}'

    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_decisions(loads(text, tmp_path), Metrics(), "1.0"):
            pass

    assert caught.group_contains(ConfigError)
