"""Asks a candidate policy, and the `monitor` rules of the active one, what they would have said: after the fact.

The path of a call only puts its decision on a bounded queue. One task takes from it, asks engines in processes of
their own, and writes down what differs. An engine that has to be ended is left alone for a while, so that a policy
which never comes to an end takes no more than a small part of one processor.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final, cast

import anyio
from anyio import to_thread

from adapters.pdp.bundle import Bundle, PolicyRefused
from adapters.pdp.isolated import IsolatedPdp
from gateway import codec
from gateway.app.policy import ActivePolicy, read_policy
from gateway.app.shadow_engines import MONITORED, Contender, candidate_revision, open_contender, open_monitor
from gateway.app.shadow_findings import About, differences, findings_in, is_milestone, judged
from gateway.config import Policy, Settings, reload, watch
from gateway.errors import ConfigError, InterlockError, PolicyEngineUnavailable
from gateway.ports import Answer, Decided, DecisionTap
from gateway.shadow import Comparison, Monitoring, Report, read_report, verdict_of, write_report
from gateway.telemetry import Metrics, names

log = logging.getLogger("interlock.shadow")

MAX_WAITING: Final = 256
"""Decisions that may wait: a question can be 256 KiB. Of more, the oldest are dropped and counted."""
FOLLOW_S: Final = 1.0
"""How often the active revision is looked at, and findings are written down."""
REST_S: Final = 5.0
"""How long an engine that had to be ended is not asked: starting one takes a tenth of that."""
READY_S: Final = 0.05
READY_LOOKS: Final = 100
"""An engine that is being started is looked at so often, that long apart."""


class Shadow:
    """A `DecisionTap`; `run` does the work. `active()` is the revision that decides, `read` its rules."""

    def __init__(
        self,
        settings: Settings,
        *,
        active: Callable[[], str],
        read: Callable[[Policy], Awaitable[Bundle]] = read_policy,
        clock_s: Callable[[], float] = time.time,
        rest_s: float = REST_S,
    ) -> None:
        self._settings = settings
        self._active = active
        self._read = read
        self._clock_s = clock_s
        self._rest_s = rest_s
        self._queue: deque[Decided] = deque(maxlen=MAX_WAITING)
        self._more = anyio.Event()
        self._contender: Contender | None = None
        self._taken = settings.policy
        self._monitor: IsolatedPdp | None = None
        self._monitored = ""
        self._resting: dict[int, float] = {}
        self._kept = read_report(settings.state.dir)
        self._changed = self._kept is not None
        self.report = Report()

    def decided(self, decided: Decided) -> None:
        """Take a decision to be looked at later; nothing where nobody would look."""
        if self._contender is None and self._monitor is None:
            return
        if len(self._queue) == MAX_WAITING:
            self.report.dropped += 1
        self._queue.append(decided)
        self._more.set()

    def register(self, metrics: Metrics) -> None:
        """Show the counts beside those of the gateway."""
        report = self.report
        metrics.add_counter(
            names.POLICY_SHADOW_COMPARED, "Decisions compared.", lambda: report.comparison.compared, unit="{decision}"
        )
        metrics.add_counter(
            names.POLICY_SHADOW_DIVERGENCES,
            "Decisions that the candidate policy makes differently.",
            lambda: report.comparison.divergences.totals("kind"),
            label=names.POLICY_DIVERGENCE,
        )
        metrics.add_counter(
            names.POLICY_SHADOW_DROPPED, "Decisions that were not looked at.", lambda: report.dropped, unit="{decision}"
        )
        metrics.add_counter(
            names.POLICY_MONITORED,
            "Findings of monitor rules.",
            lambda: report.monitoring.findings.totals("code"),
            label=names.POLICY_REASON,
        )

    async def run(self) -> None:
        """Follow the configuration and ask the engines, until cancelled."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._follow_candidate)
                group.start_soon(self._follow_active)
                group.start_soon(self._work)
        finally:
            self._close(self._contender.pdp if self._contender is not None else None)
            self._close(self._monitor)
            with anyio.CancelScope(shield=True):
                await self._keep()

    async def _follow_candidate(self) -> None:
        await self._take(self._settings.policy)
        source = self._settings.source
        if source is None:
            return
        async with aclosing(watch(source.path, lambda: self._settings.policy.candidate or source.path)) as changes:
            async for _ in changes:
                try:
                    self._settings = reload(self._settings)
                except ConfigError:
                    continue  # whoever reloads the gateway says so
                await self._take(self._settings.policy)

    async def _take(self, policy: Policy) -> None:
        """Ask the candidate that the configuration names from now on: the one on disk, or none."""
        candidate, fault, contender = policy.candidate, "", None
        if candidate is not None:
            try:
                if await self._is_taken(policy, candidate):
                    return
                contender = await open_contender(policy, candidate)
            except (PolicyRefused, InterlockError, OSError) as exc:
                fault = str(exc)
                log.warning("the candidate policy in %s is not asked:\n%s", candidate, exc)
            else:
                log.info("the candidate policy %s is asked beside the active one", contender.revision)
        before, self._contender, self._taken = self._contender, contender, policy
        self._close(before.pdp if before is not None else None)
        self.report.path, self.report.fault = str(candidate or ""), fault
        self._align()
        self._changed = self._changed or candidate is not None

    async def _is_taken(self, policy: Policy, candidate: Path) -> bool:
        """Whether just these rules are asked already."""
        if self._contender is None or policy != self._taken:
            return False
        return await to_thread.run_sync(candidate_revision, policy, candidate) == self._contender.revision

    async def _follow_active(self) -> None:
        while True:
            revision = self._active()
            if revision != self._monitored:
                await self._take_monitor(revision)
            self._align()
            await self._keep()
            await anyio.sleep(FOLLOW_S)

    async def _take_monitor(self, revision: str) -> None:
        """Ask the `monitor` rules of the policy that decides now, once its rules are those that can be read."""
        policy, fault, monitor = self._settings.policy, "", None
        if policy.engine != "authzen":
            try:
                bundle = await self._read(policy)
                if bundle.revision != revision:
                    return
                monitor = await open_monitor(policy, bundle)
            except (PolicyRefused, InterlockError, OSError) as exc:
                fault = str(exc)
                log.warning("the monitor rules are not asked:\n%s", exc)
        before, self._monitor, self._monitored = self._monitor, monitor, revision
        self._close(before)
        self._changed = self._changed or monitor is not None or fault != self.report.monitor_fault
        self.report.monitor_fault = fault

    def _align(self) -> None:
        """Begin to count anew where other policies stand beside each other; go on where a restart interrupted it."""
        report, kept = self.report, self._kept or Report()
        active, candidate = self._active(), self._contender.revision if self._contender is not None else ""
        if (report.comparison.active, report.comparison.candidate) != (active, candidate):
            same = candidate and (kept.comparison.active, kept.comparison.candidate) == (active, candidate)
            report.comparison = kept.comparison if same else Comparison(active, candidate)
            self._changed = self._changed or bool(candidate)
        if report.monitoring.revision != self._monitored:
            same = self._monitored and kept.monitoring.revision == self._monitored
            report.monitoring = kept.monitoring if same else Monitoring(self._monitored)

    async def _work(self) -> None:
        while True:
            if not self._queue:
                self._more = anyio.Event()
                await self._more.wait()
            await self._look_at(self._queue.popleft())

    async def _look_at(self, decided: Decided) -> None:
        revision = decided.answer.revision if decided.answer is not None else ""
        if revision and revision != self._active():
            return  # of a policy that decides no more
        self._align()
        self._changed = True
        if self._contender is not None:
            await self._compare(decided, self._contender)
        if self._monitor is not None and decided.entrypoint == "decision":
            await self._watch(decided, self._monitor)

    async def _compare(self, decided: Decided, contender: Contender) -> None:
        comparison = self.report.comparison
        if not await self._ready(contender.pdp):
            comparison.unasked += 1
            return
        answer: Answer | None = None
        try:
            answer = await contender.pdp.evaluate(decided.entrypoint, decided.question)
        except PolicyEngineUnavailable as exc:
            self._rest(contender.pdp, exc)
        if contender is not self._contender or comparison is not self.report.comparison:
            return  # another pair of policies by now
        comparison.compared += 1
        about = About.of(decided.question)
        for kind, resource in differences(decided, answer):
            row = (kind, about.action, resource, about.tenant)
            if is_milestone(comparison.divergences.add(row, decided.decision_id)):
                log.warning("candidate %s: %s for %r of %r", contender.revision, kind, about.action, resource)

    async def _watch(self, decided: Decided, monitor: IsolatedPdp) -> None:
        monitoring = self.report.monitoring
        if not await self._ready(monitor):
            monitoring.unasked += 1
            return
        try:
            value = await monitor.value_of(MONITORED, decided.question)
        except PolicyEngineUnavailable as exc:
            self._rest(monitor, exc)
            monitoring.unasked += 1
            return
        monitoring.asked += 1
        about, verdict = About.of(decided.question), verdict_of(judged(decided.decision_id, decided.answer))
        for finding, message in findings_in(value).items():
            row = (*finding, verdict, about.action, about.resource, about.tenant)
            if is_milestone(monitoring.findings.add(row, decided.decision_id, message)):
                log.info("monitored: %s would %s (%s) %r of %r", *finding, about.action, about.resource)

    async def _ready(self, pdp: IsolatedPdp) -> bool:
        """Whether it can be asked now; one that is just being started is waited for, one that rests is not."""
        if anyio.current_time() < self._resting.get(id(pdp), 0.0):
            return False
        for _ in range(READY_LOOKS):
            if pdp.ready:
                return True
            await anyio.sleep(READY_S)
        return False

    def _rest(self, pdp: IsolatedPdp, failure: PolicyEngineUnavailable) -> None:
        """Leave an engine alone that had to be ended, or went away."""
        if failure.reason == "timeout" or not pdp.pid:
            self._resting[id(pdp)] = anyio.current_time() + self._rest_s

    def _close(self, pdp: IsolatedPdp | None) -> None:
        if pdp is not None:
            self._resting.pop(id(pdp), None)
            pdp.close()

    async def _keep(self) -> None:
        if not self._changed:
            return
        self._changed = False
        self.report.written_s = int(self._clock_s())
        content = codec.dumps(cast("Mapping[str, object]", self.report.plain()))
        try:
            await to_thread.run_sync(write_report, self._settings.state.dir, content)
        except OSError as exc:
            self._changed = True
            log.warning("what the candidate policy would do cannot be written down: %s", exc)


def open_shadow(settings: Settings, metrics: Metrics, policy: ActivePolicy) -> Shadow:
    """What assembly needs: the tap for `Authz`, whose `run` goes into the task group of the gateway."""

    async def read(named: Policy) -> Bundle:
        engine = policy.engine
        return engine.bundle if engine is not None and engine.bundle is not None else await read_policy(named)

    shadow = Shadow(settings, active=lambda: policy.revision, read=read)
    shadow.register(metrics)
    return shadow


_: type[DecisionTap] = Shadow
