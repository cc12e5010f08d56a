"""How a refusal or a failure is told to a client of one model API, before its answer has begun."""

from __future__ import annotations

from typing import Final

from gateway import codec
from gateway.errors import ApprovalPending, InterlockError, InvalidCall
from gateway.listeners.http import JSON, Header, Reply
from gateway.models import Api, error_answer, error_body

HELD_STATUS: Final = 409
"""For a call that waits for people: clients of these APIs take any 2xx for an answer of the model."""
AGAIN_S: Final = 5


class BadRequest(InvalidCall):
    """A request that is no call, with the status that says why."""

    def __init__(self, status: int, message: str, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def reply_to(api: Api, error: InterlockError) -> Reply:
    """The whole response to a call that was refused or failed."""
    if isinstance(error, BadRequest):
        return Reply(error.status, codec.dumps(error_body(api, error, error.status)), (JSON, *error.headers))
    if isinstance(error, ApprovalPending):
        # Nobody agrees within the moments that clients wait before they try again by themselves.
        wait = str(error.retry_after_s or AGAIN_S).encode()
        headers = ((b"retry-after", wait), (b"x-should-retry", b"false"))
        return Reply(HELD_STATUS, codec.dumps(error_body(api, error, HELD_STATUS)), (JSON, *headers))
    told = error_answer(api, error)
    lines = tuple([(name.encode(), value.encode("latin-1", "replace")) for name, value in told.headers])
    return Reply(told.status, codec.dumps(told.body), (JSON, *lines))


class Internal(InterlockError):
    """A fault of the gateway's own; its words are in the log."""

    def __init__(self) -> None:
        super().__init__("the gateway failed; its operator finds the cause in its log")
