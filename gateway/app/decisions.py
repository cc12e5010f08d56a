"""Keeps the decisions that are made, masked as the policy in force says, and sends them where a collector is named."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Final, cast

import anyio

from adapters.pdp.bundle import Bundle
from adapters.pdp.engine import EngineFailure
from adapters.pdp.trial import TrialEngine
from gateway import codec
from gateway.config.secrets import resolve_secret
from gateway.config.tree import Settings
from gateway.decisions.files import DAY_S, SegmentLimits, Segments
from gateway.decisions.log import DecisionLog
from gateway.decisions.masking import LogRules, MaskingFailed
from gateway.decisions.upload import UploadBuffer, Uploader, UploadLimits

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus

    from gateway.telemetry import Metrics

log = logging.getLogger("interlock.decisions")

DIRECTORY: Final = "decisions"
MASK_DEADLINE_S: Final = 2.0
MASK_PAUSE_S: Final = 5.0
"""How long after a failure of the masking engine everything is withheld before it is tried again."""
_QUERY: Final = "data.system.log"
_PACKAGE: Final = re.compile(r"\bpackage(?:\s|#[^\n]*\n)+system\b")
_KEPT: Final = 2


class PolicyLogRules:
    """`data.system.log` of one bundle, evaluated in a process of its own: it can neither stall nor end the gateway.

    Used from one thread at a time.
    """

    def __init__(self, bundle: Bundle, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._bundle = replace(bundle, tests=(), cases=())
        self._monotonic_s = monotonic_s
        self._engine: TrialEngine | None = None
        self._asleep_until = 0.0

    def about(self, event: bytes) -> Mapping[str, object]:
        """As the port says."""
        try:
            return _log_of(self._running().query(_QUERY, event))
        except EngineFailure as failure:
            self.close()
            self._asleep_until = self._monotonic_s() + MASK_PAUSE_S
            where = failure.where or "policy"
            log.error("decisions: system.log failed at %s; inputs and results are withheld", where)  # noqa: TRY400
            raise MaskingFailed(f"{where} could not be evaluated") from failure

    def close(self) -> None:
        """End the process."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _running(self) -> TrialEngine:
        if self._engine is None:
            if self._monotonic_s() < self._asleep_until:
                raise MaskingFailed("system.log failed a moment ago")
            self._engine = TrialEngine(self._bundle, deadline_s=MASK_DEADLINE_S)
        return self._engine


def _log_of(reply: bytes) -> Mapping[str, object]:
    """The value in the engine's reply to a query; nothing where it is undefined."""
    document = cast("Mapping[str, list[Mapping[str, list[Mapping[str, object]]]]]", codec.loads(reply))
    results = document.get("result") or []
    value = results[0]["expressions"][0].get("value") if results else {}
    if not isinstance(value, Mapping):
        raise MaskingFailed("data.system.log is not a package")
    return value


class MaskingByRevision:
    """The rules for the log of the policies that were in force lately: a decision is masked by the one that made it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[str, PolicyLogRules | None] = {}
        self._newest = ""

    def use(self, bundle: Bundle) -> None:
        """Know this policy, before it decides. What has no rules for the log costs nothing."""
        with self._lock:
            if bundle.revision not in self._known:
                self._known[bundle.revision] = PolicyLogRules(bundle) if _has_log_rules(bundle) else None
            self._newest = bundle.revision
            while len(self._known) > _KEPT:
                gone = self._known.pop(next(name for name in self._known if name != self._newest))
                if gone is not None:
                    gone.close()

    def of(self, revision: str) -> LogRules | None:
        """The rules of that revision; of one that is not known, those in force."""
        with self._lock:
            return self._known.get(revision if revision in self._known else self._newest)

    def close(self) -> None:
        """End what runs."""
        with self._lock:
            for rules in self._known.values():
                if rules is not None:
                    rules.close()
            self._known.clear()


def _has_log_rules(bundle: Bundle) -> bool:
    """Whether the policy might have rules for the log; where a file only looks so, it is asked for nothing."""
    data = json.loads(bundle.data)
    return "system" in data or any(_PACKAGE.search(source.text) for source in bundle.files)


class Decisions:
    """What assembly needs: `tap` for `Authz`, `use` for each policy before it is activated."""

    def __init__(self, tap: DecisionLog | None, masking: MaskingByRevision) -> None:
        self.tap = tap
        self.use = masking.use


@asynccontextmanager
async def open_decisions(settings: Settings, metrics: Metrics, version: str) -> AsyncIterator[Decisions]:
    """The decision log of a gateway; leaving the block writes and sends what is left, for a bounded time.

    Raises `OSError` when its directory cannot be made, and `ConfigError` when the token for uploads is not there.
    """
    masking = MaskingByRevision()
    if not settings.decisions.retention_days:
        yield Decisions(None, masking)
        return
    upload = UploadBuffer(UploadLimits()) if settings.decisions.upload_url else None
    segments = await anyio.to_thread.run_sync(_open_segments, settings)
    labels = {"id": os.urandom(8).hex(), "version": version, "environment": settings.telemetry.environment}
    tap = DecisionLog(segments, labels=labels, rules_of=masking.of, clock_ns=time.time_ns, upload=upload)
    _register(metrics, tap)
    async with _ended() as outer:
        if upload is not None:
            await outer.start(_upload, settings, upload, metrics)
        try:
            async with _ended() as inner:  # ended first: what is written last is still to be sent
                await inner.start(tap.run)
                yield Decisions(tap, masking)
        finally:
            masking.close()


@asynccontextmanager
async def _ended() -> AsyncIterator[TaskGroup]:
    async with anyio.create_task_group() as group:
        try:
            yield group
        finally:
            group.cancel_scope.cancel()


def _open_segments(settings: Settings) -> Segments:
    limits = SegmentLimits(settings.decisions.retention_days * DAY_S)
    return Segments.open(settings.state.dir / DIRECTORY, limits, time.time_ns)


async def _upload(
    settings: Settings,
    buffer: UploadBuffer,
    metrics: Metrics,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    from adapters.decisions.collector import HttpCollector  # the HTTP client is imported only where there is one

    wanted = settings.decisions
    token = resolve_secret(wanted.upload_token) if wanted.upload_token else ""
    async with HttpCollector(wanted.upload_url, token=token) as collector:
        uploader = Uploader(buffer, collector, UploadLimits())
        gone = "Decisions that the collector never got."
        metrics.add_counter("interlock.decisions.upload_dropped", gone, lambda: buffer.dropped + uploader.refused)
        failed = "Uploads of decisions that failed, and were tried again."
        metrics.add_counter("interlock.decisions.upload_failed", failed, lambda: uploader.failed)
        await uploader.run(task_status=task_status)


def _register(metrics: Metrics, tap: DecisionLog) -> None:
    metrics.add_counter("interlock.decisions.written", "Decisions that were written down.", lambda: tap.written)
    metrics.add_counter("interlock.decisions.lost", "Decisions that could not be kept.", lambda: tap.lost)
    withheld = "Decisions without input and result, because they could not be masked."
    metrics.add_counter("interlock.decisions.withheld", withheld, lambda: tap.withheld)
