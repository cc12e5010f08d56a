"""The same call against every target, in interleaved rounds: a tool that echoes, if no other is named.

Medians over the rounds, except CPU per call: that is of the best round, because what other machines on the same host
take away only ever adds to it (a core here runs a third slower from one second to the next).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from tests.bench import meters
from tests.bench.load import Sample, Shot, fire, shot
from tests.bench.targets import Target, Upstream

TEXT: Final = "the quick brown fox jumps over the lazy dog"
WARM_UP_CALLS: Final = 300


@dataclass(frozen=True, slots=True)
class Measured:
    """One target at one concurrency, in one round."""

    target: str
    connections: int
    calls: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU of the target's process tree per call; of the upstream itself for the upstream."""
    extra_requests: int
    upstream_connections: int
    rss_mib: float
    pss_mib: float
    errors: int
    error: str


def echo(target: Target) -> Shot:
    """The call that is measured."""
    params = {"name": "echo", "arguments": {"text": TEXT}}
    return shot(target.url, "tools/call", params, expect=TEXT.encode(), token=target.token)


async def compare(
    behind: Upstream,
    targets: Sequence[Target],
    *,
    connections: Sequence[int],
    rounds: int,
    seconds: float,
    what: Callable[[Target], Shot] = echo,
    warm_up: int = WARM_UP_CALLS,
) -> list[Measured]:
    """Measure every target at every concurrency, every second round in reverse order. Raises `LoadFailed`."""
    for target in targets:
        await fire(what(target), connections=4, calls=warm_up)
    results: list[Measured] = []
    for number in range(rounds):
        for count in connections:
            for target in targets if number % 2 == 0 else reversed(targets):
                results.append(await _one(behind, target, what(target), count, seconds))
    return [_summary(group) for group in _grouped(results)]


async def _one(behind: Upstream, target: Target, ask: Shot, connections: int, seconds: float) -> Measured:
    behind.forget()
    before = meters.cpu_s(target.pid)
    sample: Sample = await fire(ask, connections=connections, seconds=seconds)
    used = meters.cpu_s(target.pid) - before
    counted = behind.counted()
    return Measured(
        target.name,
        connections,
        sample.calls,
        sample.per_second,
        sample.quantile_ms(0.5),
        sample.quantile_ms(0.99),
        used / sample.calls * 1e6,
        counted.extra(sample.calls - sample.errors),
        counted.connections,
        meters.rss_mib(target.pid),
        meters.pss_mib(target.pid),
        sample.errors,
        sample.error,
    )


def _grouped(results: Iterable[Measured]) -> list[list[Measured]]:
    groups: dict[tuple[int, str], list[Measured]] = {}
    for result in results:
        groups.setdefault((result.connections, result.target), []).append(result)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def _summary(group: Sequence[Measured]) -> Measured:
    rows = [asdict(result) for result in group]
    middle = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key not in _TEXTS}
    whole = {key: int(middle[key]) for key in ("connections", "calls", "upstream_connections")}
    best = {"cpu_us": min(row["cpu_us"] for row in rows)}
    worst = {key: max(row[key] for row in rows) for key in ("extra_requests", "errors")}
    texts = {"target": group[0].target, "error": next((row.error for row in group if row.error), "")}
    return Measured(**{**middle, **whole, **best, **worst, **texts})


_TEXTS: Final = frozenset({"target", "error"})


def as_text(rows: Sequence[Measured]) -> str:
    """A table per concurrency; `added` and the ratios compare with the upstream and with nginx."""
    lines: list[str] = []
    for count in dict.fromkeys(row.connections for row in rows):
        group = [row for row in rows if row.connections == count]
        lines += [f"{count} at a time", _HEAD, *(_line(row, group) for row in group), ""]
    return "\n".join(lines)


_HEAD: Final = (
    f"  {'target':<12}{'calls/s':>9}{'of direct':>10}{'p50 ms':>9}{'added':>8}{'p99 ms':>9}"
    f"{'CPU us':>8}{'x direct':>9}{'x nginx':>8}{'extra':>7}{'conns':>7}{'RSS MiB':>9}{'PSS MiB':>9}"
)


def _line(row: Measured, group: Sequence[Measured]) -> str:
    direct = next(other for other in group if other.target == "upstream")
    plain = next((other for other in group if other.target == "nginx"), None)
    ratio = f"{row.cpu_us / plain.cpu_us:.1f}" if plain and plain.cpu_us and row is not direct else "-"
    times = f"{row.cpu_us / direct.cpu_us:.1f}" if direct.cpu_us and row is not direct else "-"
    added = f"{row.p50_ms - direct.p50_ms:.3f}" if row is not direct else "-"
    share = row.per_second / direct.per_second
    return (
        f"  {row.target:<12}{row.per_second:>9.0f}{share:>9.0%} {row.p50_ms:>9.3f}{added:>8}"
        f"{row.p99_ms:>9.2f}{row.cpu_us:>8.0f}{times:>9}{ratio:>8}{row.extra_requests:>7}{row.upstream_connections:>7}"
        f"{row.rss_mib:>9.1f}{row.pss_mib:>9.1f}"
    )
