"""The doors of one agent behind a gateway as a client finds them: each gives the whole answer to an operation."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import grpc.aio
import httpx2
from a2a.types import a2a_pb2, a2a_pb2_grpc
from google.protobuf import json_format

from gateway.a2a.operations import OPERATIONS
from gateway.a2a.v03 import request_to_03
from tests.conformance.talking import Json

Binding: TypeAlias = Literal["JSONRPC", "HTTP+JSON", "GRPC", "JSONRPC 0.3"]

BINDINGS: Final[tuple[Binding, ...]] = ("JSONRPC", "HTTP+JSON", "GRPC", "JSONRPC 0.3")
TIMEOUT_S: Final = 20.0
_OF_ONE_ANSWER: Final = frozenset({"date", "content-length"})


@dataclass(frozen=True, slots=True)
class Answer:
    """All that a caller can tell one answer from another by."""

    status: object
    headers: tuple[tuple[str, str], ...]
    body: str

    def naming(self, **names: str) -> Answer:
        """The same with other words for these: `x=y` writes y for each x."""
        body = self.body
        for word, other in names.items():
            body = body.replace(other, f"<{word}>")
        return Answer(self.status, self.headers, body)

    @property
    def value(self) -> Json:
        """The result, where it came over JSON-RPC."""
        told: Json = json.loads(self.body)
        return told


def message(**more: object) -> Json:
    """The parameters of a message of a user, in 1.0."""
    return {"message": {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "hello"}], **more}}


@dataclass(frozen=True, slots=True)
class Doors:
    """One agent's doors, for whoever has that key."""

    url: str
    name: str
    key: str
    http: httpx2.AsyncClient
    channel: grpc.aio.Channel

    async def ask(self, binding: Binding, operation: str, params: Mapping[str, Any]) -> Answer:
        """The whole answer to an operation with parameters in the form of 1.0; a stream is read to its end."""
        if binding == "GRPC":
            return await self._over_grpc(operation, params)
        if binding == "HTTP+JSON":
            return await self._over_http(operation, dict(params))
        method, sent = (operation, params) if binding == "JSONRPC" else request_to_03(operation, params)
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": sent}
        version = "1.0" if binding == "JSONRPC" else "0.3"
        return await self._sent("POST", "", body, version)

    async def result(self, operation: str, params: Mapping[str, Any]) -> Json:
        """What JSON-RPC has in `result`."""
        told = (await self.ask("JSONRPC", operation, params)).value
        assert "result" in told, told
        found: Json = told["result"]
        return found

    async def _over_http(self, operation: str, params: dict[str, Any]) -> Answer:
        verb, template = OPERATIONS[operation].routes[0]
        for name in ("taskId", "id"):
            if f"{{{name}}}" in template:
                template = template.replace(f"{{{name}}}", params.pop(name))
        if verb == "POST":
            return await self._sent(verb, template, params)
        query = "&".join(f"{name}={value}" for name, value in params.items())
        return await self._sent(verb, f"{template}?{query}" if query else template, None)

    async def _sent(self, verb: str, path: str, body: Json | None, version: str = "1.0") -> Answer:
        headers = {"authorization": f"Bearer {self.key}", "a2a-version": version}
        response = await self.http.request(verb, f"{self.url}{path}", json=body, headers=headers)
        kept = sorted((name, value) for name, value in response.headers.items() if name not in _OF_ONE_ANSWER)
        return Answer(response.status_code, tuple(kept), response.text)

    async def _over_grpc(self, operation: str, params: Mapping[str, Any]) -> Answer:
        kind = getattr(a2a_pb2, OPERATIONS[operation].message)
        request = json_format.ParseDict({**params, "tenant": self.name}, kind())
        stub: Any = a2a_pb2_grpc.A2AServiceStub(self.channel)  # type: ignore[no-untyped-call]  # generated
        metadata = (("authorization", f"Bearer {self.key}"), ("a2a-version", "1.0"))
        call = getattr(stub, operation)(request, metadata=metadata, timeout=TIMEOUT_S)
        try:
            found = [one async for one in call] if OPERATIONS[operation].streams else [await call]
        except grpc.aio.AioRpcError as error:
            trailing = tuple((str(name), str(value)) for name, value in error.trailing_metadata() or ())
            return Answer(error.code(), trailing, error.details() or "")
        return Answer(grpc.StatusCode.OK, (), "".join(json_format.MessageToJson(one) for one in found))


@asynccontextmanager
async def doors(url: str, name: str, key: str, grpc_port: int) -> AsyncIterator[Doors]:
    """The doors of the agent of that name, for whoever has that key."""
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}")
    async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http, channel:
        yield Doors(f"{url}/agents/{name}", name, key, http, channel)
