"""`interlock policy bench`: what one decision of a policy costs on this machine."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from adapters.pdp.bundle import Bundle, PolicyRefused
from adapters.pdp.cost import isolation_for
from adapters.pdp.isolated import IsolatedPdp
from adapters.pdp.regorus import RegorusPdp
from gateway.cli.main import OK, CommandFailed
from gateway.cli.policy_files import Verbs, add_json, add_path, entrypoint_for, print_json, read_question, usable
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import PolicyDecisionPoint

Mode: TypeAlias = Literal["inline", "process"]
MODES: Final[tuple[Mode, ...]] = ("inline", "process")
COUNT: Final = 2_000
WARM_UP: Final = 200
TIMEOUT_S: Final = 10.0
"""Far above the gateway's own limit: a policy that is too slow is to be measured, not ended."""
_DESCRIPTION: Final = (
    "Ask the embedded engine one question again and again, one after another: in this process (inline) and in a worker"
    " process, as the gateway does with policies whose cost a caller could drive up. Times are of the decision alone,"
    " without the gateway round it."
)


def add_verb(verbs: Verbs) -> None:
    """Mount `bench`."""
    verb = verbs.add_parser("bench", help="measure how long one decision takes", description=_DESCRIPTION)
    verb.add_argument("--input", required=True, metavar="FILE", help="an interlock.input/1 question; - is stdin")
    verb.add_argument("--count", type=_positive, default=COUNT, metavar="N", help=f"how often (default: {COUNT})")
    verb.add_argument(
        "--warm-up",
        type=_positive,
        default=WARM_UP,
        metavar="N",
        help=f"asked before, not measured (default: {WARM_UP})",
    )
    add_json(verb)
    add_path(verb)
    verb.set_defaults(func=bench)


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured of one mode; times in milliseconds."""

    mode: Mode
    count: int
    warm_up: int
    per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    def plain(self) -> dict[str, object]:
        """For JSON."""
        rounded = {"per_s": round(self.per_s, 1), "p50_ms": round(self.p50_ms, 4), "p99_ms": round(self.p99_ms, 4)}
        return {"n": self.count, "warm_up": self.warm_up, **rounded, "max_ms": round(self.max_ms, 4)}


def bench(arguments: argparse.Namespace) -> int:
    """Exit code 0 if it could be measured, whatever came out."""
    bundle, program = usable(arguments.path)
    question = read_question(arguments.input)
    used = isolation_for("auto", program, bundle)
    try:
        timings = asyncio.run(_measured(bundle, question, arguments.count, arguments.warm_up))
    except PolicyEngineUnavailable as exc:
        raise CommandFailed(f"the question was not answered ({exc.reason}): {exc}") from exc
    except PolicyRefused as exc:
        raise CommandFailed(f"the policy cannot be evaluated: {exc}") from exc
    if arguments.json:
        modes = {timing.mode: timing.plain() for timing in timings}
        print_json({"revision": bundle.revision, "used": used, "modes": modes})
    else:
        _print(timings, used)
    return OK


async def _measured(bundle: Bundle, question: Mapping[str, object], count: int, warm_up: int) -> list[Timing]:
    inline = RegorusPdp(bundle)
    isolated = IsolatedPdp(bundle, timeout_s=TIMEOUT_S)
    try:
        await isolated.start()
        return [
            await _timing("inline", inline, question, count, warm_up),
            await _timing("process", isolated, question, count, warm_up),
        ]
    finally:
        inline.close()
        isolated.close()


async def _timing(
    mode: Mode, pdp: PolicyDecisionPoint, question: Mapping[str, object], count: int, warm_up: int
) -> Timing:
    entrypoint = entrypoint_for(question)
    for _ in range(warm_up):
        await pdp.evaluate(entrypoint, question)
    took_ns: list[int] = []
    for _ in range(count):
        began = time.perf_counter_ns()
        await pdp.evaluate(entrypoint, question)
        took_ns.append(time.perf_counter_ns() - began)
    took_ms = sorted(took / 1e6 for took in took_ns)
    per_s = count / (sum(took_ms) / 1e3)
    return Timing(mode, count, warm_up, per_s, _quantile(took_ms, 0.5), _quantile(took_ms, 0.99), took_ms[-1])


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _print(timings: Sequence[Timing], used: str) -> None:
    print(f"{'embedded':10}{'per s':>10}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}{'n':>8}{'warm-up':>10}")
    for timing in timings:
        times = f"{timing.p50_ms:>10.3f}{timing.p99_ms:>10.3f}{timing.max_ms:>10.3f}"
        print(f"{timing.mode:10}{timing.per_s:>10.0f}{times}{timing.count:>8}{timing.warm_up:>10}")
    print(f'with `isolation = "auto"` the gateway evaluates this policy in mode {used}')


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= 10_000_000:
        raise argparse.ArgumentTypeError(f"{text!r}: name a whole number from 1 to 10000000")
    return value
