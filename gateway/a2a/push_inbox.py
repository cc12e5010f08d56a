"""What agents send to our webhook: believed only with the token, and about the task, that they were given for it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeAlias

from gateway import codec
from gateway.a2a.malformed import Malformed
from gateway.a2a.operations import LEGACY_VERSION
from gateway.a2a.push_outbox import Letter, Slip
from gateway.a2a.push_records import Push, PushRecords
from gateway.a2a.sightings import sighted
from gateway.a2a.strict import parse_json
from gateway.a2a.v03_shapes import NotConvertible
from gateway.codec import JsonObject
from gateway.errors import InvalidCall, PolicyDenied, UpstreamProtocolError
from gateway.telemetry.context import begin

Headers: TypeAlias = Mapping[bytes, Sequence[bytes]]
"""Names in lower case."""
Learn: TypeAlias = Callable[[Push, JsonObject], Awaitable[None]]
"""Takes in a notification before it goes on. Raises `UpstreamProtocolError` when its task is somebody else's, and
`PolicyDenied` when it may not be handed out. `Push.task_id` is empty where it is the first word of a new task."""
Translate: TypeAlias = Callable[[JsonObject], object]
"""Raises `NotConvertible`."""

MAX_BODY: Final = 1_048_576

_RELAY_ID: Final = re.compile(r"[A-Za-z0-9_-]{22,128}")
_KINDS: Final = ("task", "message", "statusUpdate", "artifactUpdate")
_TYPES: Final = (b"application/a2a+json", b"application/json")
_TYPE_1_0: Final = b"application/a2a+json"
_TYPE_0_3: Final = b"application/json"


class PushInbox:
    """Our side of every webhook that agents were told of.

    `from_03` and `to_03` translate an event where the agent and the receiver speak different versions. Where they
    speak the same, the receiver gets the agent's bytes.

    Nobody is there to ask policy for when a notification comes, so what policy may take out of a result is not sent at
    all: where its permit redacts, or `results_judged` says that policy reads results, receivers get states only. With
    `GetTask` they learn the rest, as far as they may.
    """

    def __init__(
        self,
        records: PushRecords,
        *,
        learn: Learn,
        post: Callable[[Slip], bool],
        from_03: Translate,
        to_03: Translate,
        results_judged: Callable[[], bool],
        max_bytes: int = MAX_BODY,
    ) -> None:
        self._records = records
        self._learn = learn
        self._post = post
        self._from_03 = from_03
        self._to_03 = to_03
        self._results_judged = results_judged
        self._max_bytes = max_bytes

    async def received(self, agent: str, relay_id: str, headers: Headers, body: bytes) -> int:
        """The HTTP status to answer an agent with. Nothing of the body counts before the agent proved itself."""
        push = await self._records.of_relay(agent, relay_id) if _RELAY_ID.fullmatch(relay_id) else None
        if push is None:
            return 404
        if not any(map(push.proven_by, _tokens(headers))):
            return 401
        if len(body) > self._max_bytes:
            return 413
        try:
            return await self._believed(push, headers, body)
        except (Malformed, NotConvertible, InvalidCall):
            return 400
        except (UpstreamProtocolError, PolicyDenied):
            return 403

    async def addressed(self, slip: Slip) -> Letter | None:
        """The letter that a waiting notification is to be sent as, unless its configuration is gone."""
        push = await self._records.of_digest(slip.relay)
        if push is None:
            return None
        receiver = push.receiver
        headers = [(b"content-type", slip.content_type)]
        if receiver.token:
            headers.append((b"x-a2a-notification-token", receiver.token.encode("ascii")))
        if receiver.scheme and receiver.credentials:
            headers.append((b"authorization", f"{receiver.scheme} {receiver.credentials}".encode("ascii")))
        headers.append((b"traceparent", slip.traceparent.encode("ascii")))
        if slip.tracestate:
            headers.append((b"tracestate", slip.tracestate.encode("ascii")))
        return Letter(receiver.url, tuple(headers), slip.body)

    async def _believed(self, push: Push, headers: Headers, body: bytes) -> int:
        sent = parse_json(body)
        legacy = not any(kind in sent for kind in _KINDS)
        event = _event(self._from_03(sent) if legacy else sent)
        task_id = sighted(event).task_id
        if task_id != push.task_id and (push.task_id or not task_id):
            raise UpstreamProtocolError("the notification is not about the task of its configuration")
        await self._learn(push, event)
        if not push.task_id:
            await self._claim(push, task_id)
        if push.guarded or self._results_judged():
            told = _state_in(event)
            if told is None:
                return 200
            body, event = (b"", told)
        slip = self._slip(push, task_id, headers, legacy=legacy, body=body, event=event)
        return 200 if self._post(slip) else 503

    async def _claim(self, push: Push, task_id: str) -> None:
        """The first notification of a new task was faster than the answer to the request that made it."""
        if await self._records.complete(push.relay, task_id, push.config_id) is None:
            raise UpstreamProtocolError("the configuration is for another task, or gone")

    def _slip(
        self, push: Push, task_id: str, headers: Headers, *, legacy: bool, body: bytes, event: JsonObject
    ) -> Slip:
        to_legacy = push.version == LEGACY_VERSION
        content_type = _first(headers, b"content-type").partition(b";")[0].strip().lower()
        if legacy != to_legacy or not body:
            body = codec.dumps(self._to_03(event) if to_legacy else event)
            content_type = _TYPE_0_3 if to_legacy else _TYPE_1_0
        elif content_type not in _TYPES:
            content_type = _TYPE_0_3 if to_legacy else _TYPE_1_0
        context = begin(_text(headers, b"traceparent"), _text(headers, b"tracestate"), {})
        return Slip(
            push.agent,
            push.owner,
            task_id,
            push.config_id,
            push.relay,
            body,
            content_type,
            context.traceparent,
            context.tracestate,
        )


def _event(value: object) -> JsonObject:
    """A `StreamResponse` (section 4.3.3): exactly one of its members, which `sighted` looks into."""
    if not isinstance(value, dict) or sum(value.get(kind) is not None for kind in _KINDS) != 1:
        raise InvalidCall("a notification holds exactly one of task, message, statusUpdate and artifactUpdate")
    return value


def _state_in(event: JsonObject) -> JsonObject | None:
    """What an event says of its task's state, and nothing else; `None` when that is nothing."""
    seen = sighted(event)
    if not seen.state:
        return None
    return {"statusUpdate": {"taskId": seen.task_id, "contextId": seen.context_id, "status": {"state": seen.state}}}


def _tokens(headers: Headers) -> list[str]:
    """What was shown as the token that we gave: agents send it in one of two headers, or in both."""
    scheme, _, credentials = _text(headers, b"authorization").partition(" ")
    shown = [_text(headers, b"x-a2a-notification-token")]
    return [*shown, credentials.strip()] if scheme.lower() == "bearer" else shown


def _first(headers: Headers, name: bytes) -> bytes:
    """The value of a header that stands once."""
    values = headers.get(name, ())
    return values[0] if len(values) == 1 else b""


def _text(headers: Headers, name: bytes) -> str:
    return _first(headers, name).decode("latin-1")
