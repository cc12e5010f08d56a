"""The single questions beside the comparison: a long list, ten upstreams, one huge answer, very many calls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import meters
from tests.bench.comparison import echo
from tests.bench.load import fire, shot, swallow
from tests.bench.targets import UPSTREAM, Target, gateway, upstream

LIST_TOOLS: Final = 200
LIST_CALLS: Final = 2_000
FLOOD_MIB: Final = 500
LONG_CALLS: Final = 100_000
LONG_S: Final = 900
MAX_RESULT_BYTES: Final = 16 * 1024 * 1024
"""The default of `upstreams.NAME.max_result_bytes`."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure, beside the most it may be."""

    name: str
    value: float
    unit: str
    limit: float

    @property
    def ok(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "TOO MUCH"
        return f"  {self.name:<58}{self.value:>10.3f} {self.unit:<7}(at most {self.limit:g})  {verdict}"


async def long_list(place: Path, command: str = "") -> list[Finding]:
    """CPU of the gateway for one list of 200 tools."""
    with (
        upstream(place, tools=LIST_TOOLS) as behind,
        gateway(place / "list", {UPSTREAM: {"url": behind.url}}, name="list", command=command) as (target, _),
    ):
        ask = shot(target.url, "tools/list", {}, expect=b"tool_197", token=target.token)
        await fire(ask, connections=2, calls=50)
        behind.forget()
        before = meters.cpu_s(target.pid)
        await fire(ask, connections=8, calls=LIST_CALLS)
        used_ms = (meters.cpu_s(target.pid) - before) / LIST_CALLS * 1000
        asked = sum(behind.counted().methods.values())
    return [
        Finding(f"list of {LIST_TOOLS} tools, CPU", used_ms, "ms", 0.1),
        Finding("list: requests to the upstream per list", asked / LIST_CALLS, "", 0.01),
    ]


async def ten_upstreams(place: Path, command: str = "") -> list[Finding]:
    """Memory of the gateway with ten upstreams, each of which was called."""
    with upstream(place) as behind:
        tables = {f"{UPSTREAM}{number}": {"url": behind.url} for number in range(10)}
        with gateway(place / "ten", tables, name="ten", command=command) as (target, server):
            for name in tables:
                each = Target(name, server.endpoint(name), target.pid, target.token)
                await fire(echo(each), connections=1, calls=20)
            return [Finding("ten upstreams, memory (PSS)", meters.pss_mib(target.pid), "MiB", 100)]


async def huge_answers(place: Path, command: str = "", mib: int = FLOOD_MIB) -> list[Finding]:
    """How far one call of 500 MB, as a stream and as one result, raises the gateway's memory."""
    findings: list[Finding] = []
    with (
        upstream(place) as behind,
        gateway(place / "flood", {UPSTREAM: {"url": behind.url}}, name="flood", command=command) as (target, _),
    ):
        await fire(echo(target), connections=2, calls=50)
        for shape in ("stream", "result"):
            params = {"name": "flood", "arguments": {"mib": mib, "shape": shape}, "_meta": {"progressToken": "p"}}
            ask = shot(target.url, "tools/call", params, expect=b'"text":"done"', token=target.token, last=True)
            meters.forget_peak(target.pid)
            before = meters.rss_mib(target.pid)
            received, whole = await swallow(ask)
            grown = meters.peak_mib(target.pid) - before
            outcome = "passed" if whole else "refused"
            name = f"{mib} MiB as one {shape} ({outcome} after {received / 2**20:.0f} MiB), memory"
            # A result is held once as it comes in and once more while it is looked at.
            findings.append(Finding(name, grown, "MiB", 3 * MAX_RESULT_BYTES / 2**20))
        await fire(echo(target), connections=2, calls=50)
    return findings


async def many_calls(place: Path, command: str = "", calls: int = LONG_CALLS) -> list[Finding]:
    """How far memory grows between the first tenth and the last of very many calls."""
    with (
        upstream(place) as behind,
        gateway(place / "long", {UPSTREAM: {"url": behind.url}}, name="long", command=command) as (target, _),
    ):
        await fire(echo(target), connections=8, seconds=LONG_S, calls=calls // 10)
        early = meters.rss_mib(target.pid)
        rest = await fire(echo(target), connections=8, seconds=LONG_S, calls=calls - calls // 10)
        grown = meters.rss_mib(target.pid) - early
    reason = rest.error.rpartition("\n")[2][:120]
    return [
        Finding(f"{calls} calls, growth of memory (RSS) after the first tenth", grown, "MiB", 5),
        Finding(f"{calls} calls, of which failed {reason}", rest.errors, "", 0),
    ]
