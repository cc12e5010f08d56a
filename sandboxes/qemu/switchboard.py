"""Carries many byte streams over one wire, so that a slow reader of one holds up nobody else.

Both ends of a machine's wire run this: the agent in the guest and the relay beside QEMU, with the standard library
alone. Each end connects streams to files or sockets of its own; each direction of a stream has a window, so neither end
ever holds more than that of what nobody reads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from sandboxes.qemu import frames
from sandboxes.qemu.frames import DATA, END, GONE, GRANT, OPEN, TELL, BadFrame, Frame, Unpacker, packed

WINDOW = 256 * 1024
"""How many bytes of a stream may be under way."""
_PIECE = 32 * 1024
_BUSY = 512 * 1024
"""Above this much unsent, nothing more is read for the wire."""
_LATER = (errno.EAGAIN, errno.EINTR)


class Stream:
    """One stream as this end sees it: bytes read from `source` go out, bytes that come in go to `sink`."""

    def __init__(self, source: int, sink: int, line: socket.socket | None = None) -> None:
        self.source = source
        self.sink = sink
        self.line = line
        self.credit = WINDOW
        self.owed = 0
        self.held = bytearray()
        self.ended = False
        """Nothing more comes in; `sink` closes once `held` is written."""

    def close_source(self) -> None:
        self.source = self._closed(self.source, self.sink)

    def close_sink(self) -> None:
        if self.line is not None and self.source >= 0:
            with contextlib.suppress(OSError):  # gone already
                self.line.shutdown(socket.SHUT_WR)
        self.sink = self._closed(self.sink, self.source)
        self.held.clear()

    def _closed(self, fd: int, other: int) -> int:
        if self.line is None and fd >= 0:
            os.close(fd)
        elif self.line is not None and other < 0:
            self.line.close()
        return -1

    @property
    def over(self) -> bool:
        return self.source < 0 and self.sink < 0


class Switchboard:
    """The streams of one wire, and a loop that serves them."""

    def __init__(self, wire: int, *, most_bytes: int) -> None:
        self.wire = wire
        self.streams: dict[int, Stream] = {}
        self.done = False
        """Set by whoever wants `run` to return once everything is written."""
        self.paused = False
        """Only the wire is served."""
        self.lost = False
        """The other end is gone."""
        self._most = most_bytes
        self._unpacker = Unpacker(most_bytes)
        self._unsent = bytearray()
        self._watched: dict[int, Callable[[], None]] = {}
        self.on_message: Callable[[dict[str, Any]], None] = lambda _: None
        self.on_open: Callable[[int], None] = self._unasked
        self.on_turn: Callable[[], None] = lambda: None
        os.set_blocking(wire, False)

    def connect(self, number: int, *, source: int = -1, sink: int = -1) -> Stream:
        """Have files carried as a stream. They are ours to close from now on."""
        for fd in (source, sink):
            if fd >= 0:
                os.set_blocking(fd, False)
        stream = self.streams[number] = Stream(source, sink)
        return stream

    def connect_socket(self, number: int, line: socket.socket) -> Stream:
        """Have a socket carried as a stream, both ways."""
        line.setblocking(False)
        stream = self.streams[number] = Stream(line.fileno(), line.fileno(), line)
        return stream

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """Call this whenever there is something to read."""
        self._watched[fd] = call

    def unwatch(self, fd: int) -> None:
        """Do not any more."""
        self._watched.pop(fd, None)

    def tell(self, message: dict[str, Any]) -> None:
        """Say something to the other end."""
        self._unsent += frames.told(message)

    def announce(self, number: int) -> None:
        """Say that a stream begins."""
        self._unsent += packed(OPEN, number)

    def drop(self, number: int) -> None:
        """Forget a stream, here and there. Raises `BadFrame` when the other end has us say so without end."""
        stream = self.streams.pop(number, None)
        if stream is not None:
            stream.close_source()
            stream.close_sink()
        self._unsent += packed(GONE, number) + packed(END, number)
        if len(self._unsent) > self._most + 2 * _BUSY:
            raise BadFrame("the other end does not read the answers to what it asks")

    def forget_under_way(self) -> None:
        """The other end was replaced: whatever was owed or granted is void."""
        for stream in self.streams.values():
            stream.credit, stream.owed = WINDOW, 0

    @property
    def idle(self) -> bool:
        """Nothing is waiting to be written, on the wire or to a sink."""
        return not self._unsent and not any(stream.held for stream in self.streams.values())

    @property
    def sent(self) -> bool:
        """Nothing is waiting to go over the wire."""
        return not self._unsent

    def run(self) -> None:
        """Serve until `done` and everything written, or until the other end is gone. Raises `BadFrame`."""
        while not self.lost and not (self.done and self.idle):
            self.turn(None)

    def turn(self, timeout_ms: int | None) -> None:
        """Wait for something to happen and do what it needs. Raises `BadFrame`."""
        poll = select.poll()
        for fd, events in self._interests().items():
            poll.register(fd, events)
        ready = dict(poll.poll(timeout_ms))
        self._serve_wire(ready.pop(self.wire, 0))
        if not self.paused and not self.lost:
            self._serve_files(ready)
        self.on_turn()

    def _interests(self) -> dict[int, int]:
        wanted = {self.wire: select.POLLIN | (select.POLLOUT if self._unsent else 0)}
        if self.paused:
            return wanted
        wanted |= dict.fromkeys(self._watched, select.POLLIN)
        room = len(self._unsent) < _BUSY
        for stream in self.streams.values():
            if stream.source >= 0 and stream.credit > 0 and room:
                wanted[stream.source] = wanted.get(stream.source, 0) | select.POLLIN
            if stream.sink >= 0 and stream.held:
                wanted[stream.sink] = wanted.get(stream.sink, 0) | select.POLLOUT
        return wanted

    def _serve_wire(self, events: int) -> None:
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            data = _read(self.wire, 2 * _PIECE)
            if data == b"":
                self.lost = True
            for frame in self._unpacker.feed(data or b""):
                self._heard(frame)
        self._send()

    def _send(self) -> None:
        if self._unsent and not self.lost:
            count = _write(self.wire, self._unsent)
            if count < 0:
                self.lost = True
            del self._unsent[: max(count, 0)]

    def _serve_files(self, ready: dict[int, int]) -> None:
        for fd in ready.keys() & self._watched.keys():
            self._watched[fd]()
        for number, stream in list(self.streams.items()):
            events = ready.get(stream.source, 0)
            if stream.source >= 0 and stream.credit > 0 and events & ~select.POLLOUT:
                self._carry(number, stream)
            if stream.sink >= 0 and stream.held and ready.get(stream.sink, 0) & ~select.POLLIN:
                self._pour(number, stream)
        self._send()

    def _carry(self, number: int, stream: Stream) -> None:
        """From a file of ours to the wire."""
        data = _read(stream.source, min(stream.credit, _PIECE))
        if data is None:
            return
        if data:
            stream.credit -= len(data)
            self._unsent += packed(DATA, number, data)
            return
        self._unsent += packed(END, number)
        stream.close_source()
        self._tidy(number, stream)

    def _pour(self, number: int, stream: Stream) -> None:
        """From the wire to a file of ours."""
        count = _write(stream.sink, stream.held)
        if count < 0:
            self._unsent += packed(GONE, number)
            stream.close_sink()
        else:
            del stream.held[:count]
            stream.owed += count
            if stream.owed >= WINDOW // 4:
                self._unsent += frames.granted(number, stream.owed)
                stream.owed = 0
            if stream.ended and not stream.held:
                stream.close_sink()
        self._tidy(number, stream)

    def _tidy(self, number: int, stream: Stream) -> None:
        if stream.over:
            self.streams.pop(number, None)

    def _heard(self, frame: Frame) -> None:
        if frame.kind == TELL:
            self.on_message(frames.message_in(frame))
        elif frame.kind == OPEN:
            self.on_open(frame.stream)
        elif (stream := self.streams.get(frame.stream)) is not None:  # else it ended here, which the other end learns
            self._heard_of(frame, stream)

    def _heard_of(self, frame: Frame, stream: Stream) -> None:
        if frame.kind == DATA and stream.sink >= 0 and not stream.ended:
            if len(stream.held) + len(frame.data) > 2 * WINDOW:
                raise BadFrame(f"stream {frame.stream} does not keep to its window")
            stream.held += frame.data
            self._pour(frame.stream, stream)
        elif frame.kind == GRANT:
            stream.credit = min(stream.credit + frames.count_in(frame), WINDOW)
        elif frame.kind == END:
            stream.ended = True
            if stream.sink >= 0 and not stream.held:
                stream.close_sink()
        elif frame.kind == GONE and stream.source >= 0:
            stream.close_source()
        self._tidy(frame.stream, stream)

    def _unasked(self, number: int) -> None:
        raise BadFrame(f"stream {number} was not asked for")


def _read(fd: int, most: int) -> bytes | None:
    """Bytes; none at the end; `None` when there is nothing yet."""
    try:
        return os.read(fd, most)
    except OSError as exc:
        return None if exc.errno in _LATER else b""


def _write(fd: int, data: bytearray) -> int:
    """How many bytes were written, -1 when nobody reads."""
    try:
        return os.write(fd, memoryview(data)[: 2 * _PIECE])
    except OSError as exc:
        return 0 if exc.errno in _LATER else -1
