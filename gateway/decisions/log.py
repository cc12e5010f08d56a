"""The decision log as the gateway fills it: takes each decision without waiting, and writes it down afterwards.

The path of a call only puts what was decided into a queue, as JSON. Everything else (events, masking, files,
compression) happens in a worker thread. What cannot be kept is lost visibly: it is counted, said once in the gateway's
own log and noted in the decision log itself. A call never waits for it and never fails because of it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio
from anyio import to_thread
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from gateway import codec
from gateway.decisions.event import Event, event_of, said_of, timestamp
from gateway.decisions.files import Segments
from gateway.decisions.masking import LogRules, MaskingFailed, apply, masks_in, nested_in, withhold
from gateway.decisions.upload import UploadBuffer
from gateway.ports import Answer, Decided, DecisionTap

log = logging.getLogger("interlock.decisions")

RulesOf: TypeAlias = Callable[[str], LogRules | None]
"""The rules that the policy of a revision has for its log; `None` when it has none."""

TEND_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much waits, and how long."""

    queue: int = 8_192
    queue_bytes: int = 64 << 20
    batch: int = 512
    batch_s: float = 1.0
    """Rules that mask slowly hold up neither the end of the gateway nor what comes after them."""
    flush_s: float = 0.2
    drain_s: float = 5.0


@dataclass(frozen=True, slots=True)
class _Written:
    """One decision as bytes: what waits as objects costs every collection of garbage until it is written.

    Of the question, `about` has what the event says about it.
    """

    about: Decided
    question: bytes
    result: bytes

    def __len__(self) -> int:
        return len(self.question) + len(self.result)


def _written(decided: Decided) -> _Written | None:
    """`None` for what is not JSON: policy gave no answer to that either."""
    question, answer = decided.question, decided.answer
    try:
        asked, answered = codec.dumps(question), codec.dumps(answer.value if answer is not None else None)
    except (TypeError, ValueError, RecursionError):
        return None
    said = None if answer is None else Answer(None, answer.revision, answer.engine, answer.cached)
    about = Decided(
        decided.decision_id, decided.entrypoint, said_of(question), said, decided.fault, took_ns=decided.took_ns
    )
    return _Written(about, asked, answered)


class DecisionLog:
    """The `DecisionTap` of the gateway. Used on one event loop; `run` must be started in the app's task group."""

    def __init__(
        self,
        segments: Segments,
        *,
        labels: Mapping[str, str],
        rules_of: RulesOf,
        clock_ns: Callable[[], int],
        upload: UploadBuffer | None = None,
        limits: LogLimits | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._segments, self._labels, self._rules_of = segments, dict(labels), rules_of
        self._clock_ns, self._upload, self._limits = clock_ns, upload, limits or LogLimits()
        self._monotonic_s = monotonic_s
        self._queue: deque[_Written] = deque()
        self._waiting_bytes = 0
        self._some: anyio.Event | None = None
        self._refused = 0
        self._noted = _Losses()
        self._failing = ""
        self.written = self.dropped = self.withheld = 0

    @property
    def lost(self) -> int:
        """How many decisions were not kept."""
        return self._refused + self._noted.failed

    def decided(self, decided: Decided) -> None:
        """As the port says."""
        if len(self._queue) >= self._limits.queue:
            self._refused += 1
            return
        written = _written(decided)
        if written is None or self._waiting_bytes + len(written) > self._limits.queue_bytes:
            self._refused += 1
            return
        self._queue.append(written)
        self._waiting_bytes += len(written)
        if self._some is not None:
            self._some.set()
            self._some = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled; then write what is left, and end the files."""
        task_status.started()
        try:
            while True:
                await self._due()
                await self._flush()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(self._limits.drain_s):
                while self._queue:
                    await self._flush()
            self._refused += len(self._queue)  # there is no more time for them
            self._queue.clear()
            self._waiting_bytes = 0
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(self._close)

    async def _due(self) -> None:
        if not self._queue:
            self._some = some = anyio.Event()
            with anyio.move_on_after(TEND_S):
                await some.wait()
        if len(self._queue) < self._limits.batch:
            await anyio.sleep(self._limits.flush_s)

    async def _flush(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(self._limits.batch, len(self._queue)))]
        with anyio.CancelScope(shield=True):  # what has left the queue is written, or goes back
            taken = await to_thread.run_sync(self._write, batch, self._refused)
        self._queue.extendleft(reversed(batch[taken:]))
        self._waiting_bytes -= sum(map(len, batch[:taken]))
        await checkpoint()  # there may be no other that a cancellation, or the end of the time there is, can reach

    def _write(self, batch: Sequence[_Written], refused: int) -> int:
        """In a worker thread. How many of them are dealt with; the rest would have taken too long."""
        worded = list(self._worded(batch))
        lines = [line for line in worded if line is not None]
        self._put_down(lines, refused)
        return len(worded)

    def _worded(self, batch: Sequence[_Written]) -> Iterator[bytes | None]:
        until = self._monotonic_s() + self._limits.batch_s
        for written in batch:
            yield self._line(written)
            if self._monotonic_s() >= until:
                return

    def _put_down(self, lines: Sequence[bytes], refused: int) -> None:
        everything = [*self._note(refused), *lines]
        try:
            if everything:
                self._segments.append(everything)
            else:
                self._segments.tend()
        except OSError as exc:
            self._noted.failed += len(lines)
            self._complain(f"{self._segments.directory}: {exc.strerror or exc}")
            return
        self._recovered(refused)
        self.written += len(lines)
        if self._upload is not None:
            self._upload.put(lines)

    def _line(self, written: _Written) -> bytes | None:
        """The event as it may be written; `None` when policy drops it."""
        decided = written.about
        event = event_of(decided, self._labels, self._clock_ns())
        event["input"] = codec.encoded(written.question)
        if decided.answer is not None:
            event["result"] = codec.encoded(written.result)
        encoded = codec.dumps(event)
        rules = self._rules_of(decided.answer.revision if decided.answer is not None else "")
        return encoded if rules is None else self._judged(rules, encoded)

    def _judged(self, rules: LogRules, encoded: bytes) -> bytes | None:
        copy = codec.loads(encoded)
        event: Event = dict(copy) if isinstance(copy, dict) else {}
        try:
            said = rules.about(encoded)
            if said.get("drop") is True:
                self.dropped += 1
                return None
            apply(event, (*masks_in(said.get("mask", ())), *nested_in(event)))
        except MaskingFailed as exc:
            self.withheld += 1
            withhold(event, str(exc))
        return codec.dumps(event)

    def _note(self, refused: int) -> list[bytes]:
        """The line that says what was lost before this one."""
        lost = refused + self._noted.failed - self._noted.written
        if not lost:
            return []
        why = self._failing or "more decisions than could be written"
        return [codec.dumps({"lost": lost, "timestamp": timestamp(self._clock_ns()), "reason": why})]

    def _recovered(self, refused: int) -> None:
        lost = refused + self._noted.failed - self._noted.written
        if lost:
            log.warning("decisions: %d were lost (%s)", lost, self._failing or "the queue was full")
        self._noted.written, self._failing = refused + self._noted.failed, ""

    def _complain(self, why: str) -> None:
        if not self._failing:
            log.error("decisions: %s; decisions are not kept until this is mended", why)
        self._failing = why

    def _close(self) -> None:
        try:
            if self.lost > self._noted.written:
                self._put_down([], self._refused)
            self._segments.close()
        except OSError as exc:
            self._complain(f"{self._segments.directory}: {exc.strerror or exc}")


@dataclass(slots=True)
class _Losses:
    """Decisions that left the queue and were not written (`failed`), and how many losses the log tells of."""

    failed: int = 0
    written: int = 0


_: type[DecisionTap] = DecisionLog
