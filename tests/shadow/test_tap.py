"""The tap costs the path of a call next to nothing, and the engines behind it can do no harm."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from gateway.app.policy import read_policy
from gateway.app.shadow import MAX_WAITING, Shadow
from gateway.app.taps import Taps
from gateway.config import Settings, load
from gateway.ports import Answer, Decided
from gateway.shadow import read_report
from gateway.telemetry import Metrics
from tests.e2e.eventually import eventually

RULES = "package rules.{team}\n\nimport future.keywords.not\n\ndefault allow := false\n\n{text}\n"
ALLOW = 'allow if input.resource.id != ""'
DENY = f'{ALLOW}\n\ndeny contains {{"code": "closed", "message": "closed", "public": true}} if input.resource.id != ""'
MONITOR = (
    f'{ALLOW}\n\nmonitor contains {{"would": "hold", "code": "big", "message": "big"}} if input.resource.type != ""'
)
QUESTION: Mapping[str, object] = {
    "schema": "interlock.input/1",
    "phase": "request",
    "subject": {"type": "user", "id": "user:ana", "properties": {"tenant": "acme", "roles": []}},
    "action": {"name": "mcp.tools.call", "properties": {}},
    "resource": {"type": "tool", "id": "shop/buy", "properties": {"name": "buy", "truncated": False}},
    "context": {},
}
YES = {"decision": True, "context": {"obligations": [], "labels": []}}


def policy(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "all.rego").write_text(RULES.format(team="all", text=text))
    return folder


def settings(root: Path, *, active: str = ALLOW, candidate: str = "") -> Settings:
    lines = ["[state]", f'dir = "{root}"', "[policy]", f'path = "{policy(root / "active", active)}"']
    if candidate:
        lines.append(f'candidate = "{policy(root / "next", candidate)}"')
    file = root / "interlock.toml"
    file.write_text("\n".join(lines))
    return load(file)


async def decided(found: Settings) -> Decided:
    revision = (await read_policy(found.policy)).revision
    return Decided("d1", "decision", QUESTION, Answer(YES, revision))


@asynccontextmanager
async def shadowing(found: Settings) -> AsyncIterator[Shadow]:
    revision = (await read_policy(found.policy)).revision
    shadow = Shadow(found, active=lambda: revision)
    async with anyio.create_task_group() as group:
        group.start_soon(shadow.run)
        yield shadow
        group.cancel_scope.cancel()


async def test_a_candidate_is_asked_and_what_differs_is_counted_and_kept(tmp_path: Path) -> None:
    found = settings(tmp_path, candidate=DENY)
    decision = await decided(found)
    metrics = Metrics()

    async with shadowing(found) as shadow:
        shadow.register(metrics)

        async def compared() -> int:
            shadow.decided(decision)
            return shadow.report.comparison.compared

        await eventually(compared, within_s=30)
    kept = read_report(tmp_path)

    assert kept is not None
    [(row, count)] = list(kept.comparison.divergences)
    assert row == ("allow->deny", "mcp.tools.call", "shop/buy", "acme")
    assert count.example == "d1"
    assert b'interlock_policy_shadow_divergences_total{interlock_policy_divergence="allow->deny"}' in metrics.render()


async def test_counting_goes_on_after_a_restart(tmp_path: Path) -> None:
    found = settings(tmp_path, candidate=DENY)
    decision = await decided(found)
    counts = [0]

    for _ in range(2):
        async with shadowing(found) as shadow:

            async def more(shadow: Shadow = shadow, before: int = counts[-1]) -> bool:
                shadow.decided(decision)
                return shadow.report.comparison.compared > before

            await eventually(more, within_s=30)
        counts.append(shadow.report.comparison.compared)

    assert counts[2] > counts[1] > 0


async def test_a_decision_of_a_policy_that_decides_no_more_is_not_compared(tmp_path: Path) -> None:
    found = settings(tmp_path, candidate=DENY)
    stale = Decided("d1", "decision", QUESTION, Answer(YES, "sha256:former"))
    current = Decided("d2", "decision", QUESTION, Answer(YES, (await decided(found)).answer.revision))  # type: ignore[union-attr]  # made above

    async with shadowing(found) as shadow:

        async def compared() -> int:
            shadow.decided(stale)
            shadow.decided(current)
            return shadow.report.comparison.compared

        await eventually(compared, within_s=30)

    [(_, count)] = list(shadow.report.comparison.divergences)
    assert count.example == "d2"


async def test_without_candidate_and_monitor_rules_nothing_is_kept(tmp_path: Path) -> None:
    found = settings(tmp_path)

    async with shadowing(found) as shadow:
        shadow.decided(await decided(found))

    assert shadow.report.dropped == 0
    assert not (tmp_path / "shadow.json").exists()


async def test_a_full_queue_drops_the_oldest_and_counts_them(tmp_path: Path) -> None:
    found = settings(tmp_path, candidate=DENY)
    decision = await decided(found)

    async with shadowing(found) as shadow:

        async def ready() -> int:
            shadow.decided(decision)
            return shadow.report.comparison.compared

        await eventually(ready, within_s=30)
        before = shadow.report.dropped
        for _ in range(MAX_WAITING + 100):  # no other task runs meanwhile
            shadow.decided(decision)
        dropped = shadow.report.dropped - before

    assert 100 <= dropped <= 101


async def test_monitor_rules_of_the_active_policy_are_recorded(tmp_path: Path) -> None:
    text = (
        f'{ALLOW}\n\nmonitor contains {{"would": "hold", "code": "big", "message": "big"}} if input.resource.id != ""'
    )
    found = settings(tmp_path, active=text)
    decision = await decided(found)

    async with shadowing(found) as shadow:

        async def asked() -> int:
            shadow.decided(decision)
            return shadow.report.monitoring.asked

        await eventually(asked, within_s=30)

    [(row, count)] = list(shadow.report.monitoring.findings)
    assert row == ("rules.all", "hold", "big", "allow", "mcp.tools.call", "shop/buy", "acme")
    assert count.note == "big"


@pytest.mark.parametrize("text", ["allow if {", "allow if nothing_of_that_name"])
async def test_a_candidate_that_does_not_load_is_told_of(tmp_path: Path, text: str) -> None:
    found = settings(tmp_path, candidate=text)

    async with shadowing(found) as shadow:

        async def told() -> str:
            return shadow.report.fault

        fault = await eventually(told, within_s=30)
        policy(tmp_path / "next", DENY)  # the next try is a better one

        async def taken() -> bool:
            return bool(shadow.report.comparison.candidate)

        await eventually(taken, within_s=30)

    assert "all.rego" in fault


async def test_a_candidate_with_a_name_that_is_no_text_is_told_of_and_ends_nothing(tmp_path: Path) -> None:
    found = settings(tmp_path, candidate=DENY)
    (tmp_path / "next" / os.fsdecode(b"\xff.rego")).write_text("package rules.other\n")

    async with shadowing(found) as shadow:

        async def told() -> str:
            return shadow.report.fault

        fault = await eventually(told, within_s=30)

    assert "has a name that is not UTF-8" in fault


async def test_several_taps_are_all_told() -> None:
    class Heard:
        def __init__(self) -> None:
            self.heard: list[str] = []

        def decided(self, decided: Decided) -> None:
            self.heard.append(decided.decision_id)

    one, other = Heard(), Heard()

    Taps(one, other).decided(Decided("d1", "decision", QUESTION, None, "timeout: too long"))

    assert one.heard == other.heard == ["d1"]
