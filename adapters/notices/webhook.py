"""Posts notices to one receiver, signed as Standard Webhooks says (`webhook-id`, `-timestamp`, `-signature`).

What is sent names the call and says where to decide on it; its arguments are for those who may read the ticket.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

import aiohttp

from gateway import codec
from gateway.approvals.notices import Fate, Messenger, Notice

TIMEOUT_S: Final = 15.0
_LATER: Final = frozenset({408, 425, 429})


class Webhook:
    """One connection pool to `url`; an asynchronous context manager. No redirect is followed."""

    def __init__(
        self,
        url: str,
        key: bytes,
        *,
        url_of: Callable[[str], str],
        clock_s: Callable[[], float] = time.time,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._url = url
        self._key = key
        self._url_of = url_of
        self._clock_s = clock_s
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_s), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(self, notice: Notice) -> Fate:
        """As the port says."""
        body = codec.dumps(payload_of(notice, self._url_of(notice.ticket.id)))
        sent_s = int(self._clock_s())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": notice.id,
            "webhook-timestamp": str(sent_s),
            "webhook-signature": signature(self._key, notice.id, sent_s, body),
        }
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return "unreachable"
        if 200 <= status < 300:
            return "taken"
        return "unreachable" if status >= 500 or status in _LATER else "refused"


def signature(key: bytes, message_id: str, sent_s: int, body: bytes) -> str:
    """`v1,` and the HMAC-SHA256 over id, time and body, in base64."""
    signed = b".".join((message_id.encode(), str(sent_s).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def payload_of(notice: Notice, url: str) -> dict[str, object]:
    """What a receiver is told."""
    ticket = notice.ticket
    denial = next((vote for vote in ticket.votes if vote.verdict == "deny"), None)
    return {
        "type": notice.event,
        "timestamp": datetime.fromtimestamp(notice.at_ms / 1000, UTC).isoformat(),
        "data": {
            "id": ticket.id,
            "title": ticket.title,
            "url": url,
            "state": "expired" if notice.event == "approval.expired" else ticket.state,
            "requester": ticket.subjects[0] if ticket.subjects else "",
            "subjects": ticket.subjects,
            "action": ticket.shown.get("action"),
            "resource": ticket.shown.get("resource"),
            "arguments_digest": ticket.shown.get("arguments_digest"),
            "stages": [{"approvers": stage.approvers, "quorum": stage.quorum} for stage in ticket.stages],
            "stage": ticket.stage,
            "approved_by": [vote.approver for vote in ticket.votes if vote.verdict == "approve"],
            "denied_by": denial.approver if denial is not None else None,
            "reason": denial.reason if denial is not None else None,
            "created_ms": ticket.created_ms,
            "expires_ms": ticket.expires_ms,
        },
    }


_: type[Messenger] = Webhook
