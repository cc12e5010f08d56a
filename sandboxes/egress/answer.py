"""What the box is told when it gets no connection: a status, and one line that says which and what would help."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import anyio

from gateway.errors import InterlockError, UpstreamTimeout, UpstreamUnavailable
from sandboxes.egress import pump
from sandboxes.egress.gate import Destination, Traffic
from sandboxes.egress.sockets import CHUNK, end_sending, receive, send

_MAX_REASON: Final = 500
_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_UNREAD: Final = 16
"""How many pieces of a refused client's request are read and thrown away, so that it gets to reading the answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A refusal."""

    status: int
    reason: str
    headers: tuple[str, ...] = field(default=())

    def write(self) -> bytes:
        """As HTTP, whatever the reason holds."""
        text = _UNFIT.sub(" ", self.reason)[:_MAX_REASON].encode("utf-8", "replace") + b"\n"
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(text)}",
            *self.headers,
            "Connection: close",
        ]
        return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + text


def refused(destination: Destination, error: InterlockError) -> Answer:
    """Policy does not permit it, or could not be asked."""
    return Answer(403, f"{destination.authority} is not permitted: {error}")


def failed(error: InterlockError) -> Answer:
    """Policy permits it, but it came to nothing."""
    match error:
        case UpstreamTimeout():
            return Answer(504, str(error))
        case UpstreamUnavailable():
            return Answer(502, str(error))
        case _:
            return Answer(403, str(error))


def unanswered(destination: Destination, traffic: Traffic) -> Answer:
    """It was connected and said nothing."""
    match traffic.ended:
        case pump.CLOSED | pump.RESET:
            return Answer(502, f"{destination.authority} closed the connection without an answer")
        case pump.IDLE | pump.TOO_LONG:
            return Answer(504, f"{destination.authority} did not answer in time")
        case pump.TOO_MUCH:
            return Answer(413, f"{destination.authority}: the request is larger than the permit allows")
        case "cancelled":
            return Answer(403, f"{destination.authority}: the permit ended")
        case _:
            return Answer(400, f"the request holds {traffic.ended}")


async def give(client: socket.socket, answer: Answer, linger_s: float) -> None:
    """Send it, and let the client read it before the connection is gone."""
    with anyio.move_on_after(linger_s):
        try:
            await send(client, answer.write())
            end_sending(client)
            for _ in range(_UNREAD):
                if not await receive(client, CHUNK):
                    return
        except OSError:  # it did not wait for the answer
            return
