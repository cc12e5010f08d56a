"""The endpoints of the AuthZEN Authorization API 1.0: evaluation, evaluations, and where they are.

Asking is an action of its own: each question is a call `authzen.evaluate` on a `policy`, which travels the governed
path before the question in it is put.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, cast

from gateway import codec
from gateway.errors import (
    ApprovalPending,
    InputTooLarge,
    InterlockError,
    InvalidCall,
    QuotaExceeded,
    Unauthenticated,
)
from gateway.listeners.authzen.shapes import Asked, Batch, asked_in, batch_in, members_of
from gateway.listeners.guards import Guards, credentials_of
from gateway.listeners.http import (
    JSON,
    BodyTooLarge,
    ClientLeft,
    Header,
    Headers,
    Receive,
    Reply,
    Scope,
    Send,
    headers_of,
    one,
    read_body,
    respond_json,
)
from gateway.listeners.mcp.calls import Tracing
from gateway.listeners.mcp.quiet import Handler, QuietExchange
from gateway.types import Call, Credentials, Resource

EVALUATION: Final = "/access/v1/evaluation"
EVALUATIONS: Final = "/access/v1/evaluations"
METADATA: Final = "/.well-known/authzen-configuration"
ACTION: Final = "authzen.evaluate"
METHOD: Final = "access/evaluation"
PROTOCOL: Final = "authzen"
VERSION: Final = "1.0"
MAX_BODY_BYTES: Final = 1 << 20

_REQUEST_ID: Final = b"x-request-id"
_ENDS_WITH: Final[Mapping[str, bool | None]] = {
    "execute_all": None,
    "deny_on_first_deny": False,
    "permit_on_first_permit": True,
}


class BadRequest(Exception):
    """A request that is not looked at any further, with the status that says why."""

    def __init__(self, status: int, message: str, headers: tuple[Header, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class AuthzenEndpoint:
    """Serves one of the two endpoints. What carries `ACTION` out puts the question, once asking is permitted."""

    def __init__(
        self,
        kind: Literal["evaluation", "evaluations"],
        *,
        handler: Handler,
        guards: Guards,
        new_id: Callable[[], str],
        trace: Callable[[str, str], Tracing],
        challenge: Callable[[Unauthenticated], Unauthenticated],
    ) -> None:
        self._several = kind == "evaluations"
        self._handler = handler
        self._guards = guards
        self._max_bytes = min(guards.max_body_bytes, MAX_BODY_BYTES)
        self._new_id = new_id
        self._trace = trace
        self._challenge = challenge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        headers = headers_of(scope)
        try:
            reply = await self._reply(scope, receive, headers)
        except ClientLeft:
            return
        except BadRequest as exc:
            reply = Reply(exc.status, codec.dumps({"error": str(exc)}), exc.headers)
        except InterlockError as exc:
            reply = self._refusal(exc)
        echoed = tuple((_REQUEST_ID, value) for value in headers.get(_REQUEST_ID, ())[:1])
        await respond_json(send, Reply(reply.status, reply.body, (*reply.headers, *echoed)))

    async def _reply(self, scope: Scope, receive: Receive, headers: Headers) -> Reply:
        self._check(scope, headers)
        try:
            members = members_of(await read_body(receive, self._max_bytes))
        except BodyTooLarge as exc:
            words = f"the body is larger than {self._max_bytes} bytes; ask fewer questions at once"
            raise BadRequest(413, words) from exc
        credentials = credentials_of(scope, headers)
        tracing = self._trace(one(headers, b"traceparent"), one(headers, b"tracestate"))
        batch = batch_in(members) if self._several else None
        if batch is None:
            payload = await self._put(asked_in(members), credentials, tracing)
        else:
            payload = codec.dumps({"evaluations": await self._put_all(batch, credentials, tracing)})
        return Reply(200, payload)

    def _check(self, scope: Scope, headers: Headers) -> None:
        refusal = self._guards.refusal(headers)
        if refusal is not None:
            raise BadRequest(*refusal)
        if scope["method"] != "POST":
            raise BadRequest(405, "send a POST", ((b"allow", b"POST"),))
        if one(headers, b"content-encoding") not in ("", "identity"):
            raise BadRequest(415, "Content-Encoding is not supported; send the body as it is")
        media_type = one(headers, b"content-type").partition(";")[0].strip().lower()
        if (
            media_type != JSON[1].decode()
        ):  # 400 and not 415: certification scenario of AuthZEN 1.0, "Invalid content type"
            raise BadRequest(400, "Content-Type must be application/json")

    async def _put_all(self, batch: Batch, credentials: Credentials, tracing: Tracing) -> list[object]:
        """The answers in order, up to the one that the semantic ends with. Raises `Unauthenticated` for all."""
        answers: list[object] = []
        for members in batch.items:
            answer = await self._answer(members, credentials, tracing)
            answers.append(answer)
            if answer["decision"] is _ENDS_WITH[batch.semantic]:
                break
        return answers

    async def _answer(
        self, members: Mapping[str, object], credentials: Credentials, tracing: Tracing
    ) -> Mapping[str, object]:
        try:
            answer = codec.loads(await self._put(asked_in(members), credentials, tracing))
        except Unauthenticated:
            raise
        except InterlockError as exc:
            return faulty(_status_of(exc), str(exc))
        if isinstance(answer, dict) and isinstance(answer.get("decision"), bool):
            return cast("Mapping[str, object]", answer)
        return faulty(500, "what came of the question is no decision")  # policy redacted it

    async def _put(self, asked: Asked, credentials: Credentials, tracing: Tracing) -> bytes:
        about = f"{asked.resource['type']}:{asked.resource['id']}"  # never an id that rules write for a call itself
        call = Call(
            self._new_id(),
            ACTION,
            METHOD,
            Resource("policy", about, name=about),
            asked.params,
            protocol=PROTOCOL,
            protocol_version=VERSION,
            traceparent=tracing.traceparent,
            tracestate=tracing.tracestate,
        )
        result = await self._handler.handle(call, credentials, QuietExchange(""))
        return result.payload

    def _refusal(self, error: InterlockError) -> Reply:
        told = self._challenge(error) if isinstance(error, Unauthenticated) else error
        headers: tuple[Header, ...] = ()
        if isinstance(told, Unauthenticated) and told.challenge:
            headers = ((b"www-authenticate", told.challenge.encode("latin-1", "replace")),)
        elif isinstance(told, QuotaExceeded):
            headers = ((b"retry-after", str(told.retry_after_s).encode()),)
        return Reply(_status_of(told), codec.dumps({"error": str(told), "code": told.code}), headers)


def faulty(status: int, message: str) -> dict[str, object]:
    """The answer to one question of several that could not be put (AuthZEN 1.0, section 7.2.1)."""
    return {"decision": False, "context": {"error": {"status": status, "message": message}}}


def _status_of(error: InterlockError) -> int:
    """The HTTP status; never one that could be taken for a decision."""
    if isinstance(error, InputTooLarge):
        return 413
    if isinstance(error, InvalidCall):
        return 400
    return 403 if isinstance(error, ApprovalPending) else error.http_status


def metadata_of(url: str) -> dict[str, object]:
    """The document at `METADATA` of the gateway at `url` (AuthZEN 1.0, section 9)."""
    return {
        "policy_decision_point": url,
        "access_evaluation_endpoint": url + EVALUATION,
        "access_evaluations_endpoint": url + EVALUATIONS,
    }


class MetadataEndpoint:
    """Serves the metadata, to everybody: it holds addresses only."""

    def __init__(self, url: str, guards: Guards) -> None:
        self._body = codec.dumps(metadata_of(url))
        self._guards = guards

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        headers = headers_of(scope)
        refusal = self._guards.refusal(headers)
        if refusal is not None:
            reply = Reply(refusal[0], codec.dumps({"error": refusal[1]}))
        elif scope["method"] not in ("GET", "HEAD"):
            reply = Reply(405, codec.dumps({"error": "send a GET"}), ((b"allow", b"GET, HEAD"),))
        else:
            reply = Reply(200, self._body, ((b"cache-control", b"public, max-age=3600"),))
        await respond_json(send, reply)
