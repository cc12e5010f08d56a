"""A client that leaves stops the work at the server, in both eras, over both transports; so does silence."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from gateway.errors import UpstreamTimeout
from gateway.types import Era
from tests.fakes import FakeRelay
from tests.servers.launch import Started, noted
from tests.upstreams.harness import MakeServer, at, process_of, running, text_of

ASKABLE: dict[str, object] = {"elicitation": {"form": {}}}


@pytest.fixture(params=["legacy-http", "legacy-stdio", "modern-http", "modern-stdio"])
def place(
    request: pytest.FixtureRequest, legacy_site: Started, modern_site: Started, tmp_path: Path
) -> tuple[MakeServer, Path]:
    era, _, transport = request.param.partition("-")
    if transport == "http":
        site = legacy_site if era == "legacy" else modern_site
        return at(site.url), site.record
    return process_of(f"{era}_asker", tmp_path)


def count(record: Path, event: str) -> int:
    return record.read_text().count(f'"event": "{event}"') if record.exists() else 0


@pytest.mark.parametrize(
    "relay",
    [
        FakeRelay(),
        FakeRelay(capabilities=ASKABLE),
        FakeRelay(era=Era.MODERN),
        FakeRelay(era=Era.MODERN, capabilities=ASKABLE),
    ],
    ids=["legacy", "legacy-askable", "modern", "modern-askable"],
)
async def test_client_that_leaves_cancels_its_call(place: tuple[MakeServer, Path], relay: FakeRelay) -> None:
    make, record = place
    waiting, cancelled = count(record, "waiting"), count(record, "cancelled")

    async with running(make) as up:
        async with anyio.create_task_group() as group:
            group.start_soon(up.call, "slow", relay)
            await noted(record, "waiting", after=waiting)
            group.cancel_scope.cancel()
        entry = await noted(record, "cancelled", after=cancelled)
        after = await up.call("echo", relay, text="others are not affected")

    assert entry["name"] == "slow"
    assert text_of(after) == "others are not affected"


async def test_silence_beyond_its_time_cancels_the_call(place: tuple[MakeServer, Path]) -> None:
    make, record = place
    cancelled = count(record, "cancelled")

    async with running(make, timeout_s=1.5) as up:
        with pytest.raises(UpstreamTimeout):
            await up.call("slow")
        entry = await noted(record, "cancelled", after=cancelled)

    assert entry["name"] == "slow"
