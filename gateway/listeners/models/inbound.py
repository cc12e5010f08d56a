"""A request for a model as it came: which API it is of, who may have sent it, and its body as parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway import codec
from gateway.errors import InputTooLarge
from gateway.listeners.guards import Guards, credentials_of
from gateway.listeners.http import BodyTooLarge, Headers, Receive, Scope, headers_of, one, read_body
from gateway.listeners.models.refusals import BadRequest
from gateway.models import Api, check_limits, check_reach
from gateway.types import MAX_MODEL_LEAVES, Credentials, FrozenDict, freeze

PATHS: Final[Mapping[str, Api]] = {
    "/v1/chat/completions": "chat.completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/embeddings": "embeddings",
}
MODELS: Final = "/v1/models"
MAX_KEY: Final = 256
"""Of an `Idempotency-Key`."""


def serves(path: str) -> bool:
    """Whether a path is one of a model API, be it one that is not offered here."""
    return path.startswith("/v1/")


@dataclass(frozen=True, slots=True)
class Inbound:
    """One request, before its body is read."""

    path: str
    verb: str
    headers: Headers
    credentials: Credentials

    @property
    def api(self) -> Api:
        """In whose shape it is answered."""
        if self.path in PATHS:
            return PATHS[self.path]
        return "messages" if b"anthropic-version" in self.headers else "chat.completions"

    @property
    def asks_for_list(self) -> bool:
        """Whether it is about the models that there are."""
        return self.path == MODELS or self.path.startswith(MODELS + "/")

    @property
    def idempotency_key(self) -> str:
        """What its sender knows this request by, and every repetition of it; empty for nothing."""
        values = self.headers.get(b"idempotency-key", [])
        if len(values) > 1 or any(not 0 < len(value) <= MAX_KEY for value in values):
            raise BadRequest(400, f"Idempotency-Key is one header of 1 to {MAX_KEY} characters")
        return values[0].decode("latin-1") if values else ""


def inbound_of(scope: Scope) -> Inbound:
    """The head of a request. Anthropic's `x-api-key` is as good as `Authorization: Bearer`."""
    headers = headers_of(scope)
    return Inbound(str(scope["path"]), str(scope["method"]), headers, _credentials(scope, headers))


def _credentials(scope: Scope, headers: Headers) -> Credentials:
    keys, lines = headers.get(b"x-api-key", []), headers.get(b"authorization", [])
    if not keys:
        return credentials_of(scope, headers)
    bearers = {*(b"Bearer " + key for key in keys), *lines}
    found = credentials_of(scope, {**headers, b"authorization": [b"Bearer " + keys[0]]})
    if len(bearers) > 1:
        return replace(found, bearer="", fault="x-api-key and Authorization came with different keys: send one of both")
    return found


def check(inbound: Inbound, guards: Guards, verb: str) -> None:
    """Raises `BadRequest` for what is not looked at any further."""
    refusal = guards.refusal(inbound.headers)
    if refusal is not None:
        raise BadRequest(*refusal)
    if inbound.path not in PATHS and not inbound.asks_for_list:
        raise BadRequest(404, f"this gateway does not offer {inbound.path[:100]}; it has {', '.join((*PATHS, MODELS))}")
    if inbound.verb != verb:
        raise BadRequest(405, f"send a {verb}", ((b"allow", verb.encode()),))


async def params_of(inbound: Inbound, receive: Receive, max_bytes: int) -> FrozenDict:
    """The body as parameters that do not change. Raises `InvalidCall` for one that cannot be a call's."""
    if one(inbound.headers, b"content-encoding") not in ("", "identity"):
        raise BadRequest(415, "Content-Encoding is not supported; send the body as it is")
    media_type = one(inbound.headers, b"content-type").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise BadRequest(415, "Content-Type must be application/json")
    try:
        value = codec.loads(await read_body(receive, max_bytes))
        params = freeze(value, max_leaves=MAX_MODEL_LEAVES)
    except BodyTooLarge as exc:
        raise BadRequest(413, f"the body is larger than {max_bytes} bytes (listen.max_body_bytes)") from exc
    except InputTooLarge as exc:
        raise BadRequest(413, f"the body is not one that policy can be asked about: {exc}") from exc
    except ValueError as exc:
        raise BadRequest(400, "the body is not JSON") from exc
    if not isinstance(params, FrozenDict):
        raise BadRequest(400, "the body is not a JSON object")
    if not isinstance(params.get("stream"), bool | None):
        raise BadRequest(400, "stream is neither true nor false")
    check_limits(inbound.api, params)
    check_reach(params)
    return params
