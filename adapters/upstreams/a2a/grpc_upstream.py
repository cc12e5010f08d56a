"""Calls an agent over gRPC: protobuf on the wire, the JSON of A2A 1.0 on this side of it.

What protobuf cannot hold is lost on this binding: members that the specification does not know, and whole numbers in
data beyond 2^53, which are refused rather than sent as others than policy has read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import anyio
import grpc.aio
from a2a.types import a2a_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from adapters.upstreams.a2a.answers import kept
from adapters.upstreams.a2a.caller import Ask, Caller, Headers, Heard, Refused, Reply, Terms
from adapters.upstreams.a2a.grpc_errors import failure_of
from gateway import codec
from gateway.a2a.directory import Interface
from gateway.addresses import parsed
from gateway.codec import JsonObject
from gateway.errors import InvalidCall, UpstreamProtocolError, UpstreamTimeout
from gateway.types import Result

Metadata: TypeAlias = "list[tuple[str, str | bytes]]"

SERVICE: Final = "lf.a2a.v1.A2AService"
_METHODS: Final = a2a_pb2.DESCRIPTOR.services_by_name["A2AService"].methods_by_name
_EXACT: Final = 2**53
_KEEP_ALIVE_MS: Final = 60_000
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PLAIN: Final = {"http": True, "grpc": True, "https": False, "grpcs": False}
_UNFIT: Final = (json_format.Error, ValueError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a card says that an agent listens for gRPC."""

    host: str
    port: int
    plain: bool
    """Without TLS."""

    @property
    def target(self) -> str:
        """As the library wants it. The scheme is written out: a name must not be taken for one of its own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"dns:///{host}:{self.port}"


def address_of(url: str) -> Address:
    """Read `host:port`, or a URL with the scheme http, https, grpc or grpcs. Raises `ValueError` for another.

    Without a scheme, TLS is used but for loopback: nothing leaves this machine in the clear unasked.
    """
    parts = urlsplit(url if "://" in url else f"//{url}")
    host = parts.hostname or ""
    if not host or parts.username is not None or parts.scheme not in ("", *_PLAIN):
        raise ValueError(f"{url!r} is not host:port, nor a URL with the scheme https, http, grpcs or grpc")
    plain = _PLAIN.get(parts.scheme, host in _LOOPBACK)
    return Address(host, parts.port or (80 if plain else 443), plain)


def grpc_caller(label: str, interface: Interface, terms: Terms) -> Caller:
    """What calls that interface. Raises `UpstreamProtocolError` for an address that cannot be used."""
    try:
        address = address_of(interface.url)
        home = address_of(terms.home) if terms.home else address
    except ValueError as exc:
        raise UpstreamProtocolError(f"agent {label!r}: the card names an address that cannot be used: {exc}") from exc
    if terms.reach is not None and address.host != home.host and parsed(address.host) and not terms.reach(address.host):
        raise UpstreamProtocolError(f"agent {label!r}: the card names an address that it may not have us connect to")
    # A card must not be able to send the credentials elsewhere, or in the clear.
    at_home = address.host == home.host and (home.plain or not address.plain)
    return GrpcCaller(label, interface, address, terms, terms.headers if at_home else ())


class GrpcCaller:
    """Speaks gRPC (section 10)."""

    def __init__(self, label: str, interface: Interface, address: Address, terms: Terms, credentials: Headers) -> None:
        self._label = label
        self._interface = interface
        self._terms = terms
        self._credentials = credentials
        self._channel = _channel(address, terms)

    async def unary(self, ask: Ask) -> Reply:
        """One request, whatever happens."""
        method: Any = self._channel.unary_unary(_path(ask))
        call = method(self._request(ask), metadata=self._metadata(ask), timeout=self._terms.timeout_s)
        try:
            raw = await call
            headers = _kept(await call.initial_metadata(), await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            return Reply(failure_of(self._label, error), None)
        heard = self._heard(ask, raw)
        return Reply(Result(heard.raw, headers=tuple(headers)), heard.value)

    async def stream(self, ask: Ask) -> AsyncGenerator[Heard, None]:
        """The events of one request."""
        method: Any = self._channel.unary_stream(_path(ask))
        call = method(self._request(ask), metadata=self._metadata(ask))
        try:
            while True:
                raw = await self._next(call)
                if raw is grpc.aio.EOF:
                    return
                yield self._heard(ask, raw)
        except grpc.aio.AioRpcError as error:
            raise Refused(failure_of(self._label, error)) from error
        finally:
            call.cancel()

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Close all connections, once what runs has ended or that many seconds are over."""
        await self._channel.close(grace_s or None)

    async def _next(self, call: Any) -> Any:
        """The next message of a stream, or its end."""
        try:
            with anyio.fail_after(self._terms.stream_idle_s):
                return await call.read()
        except TimeoutError as exc:
            raise UpstreamTimeout(f"agent {self._label!r} was silent for too long on a stream") from exc

    def _request(self, ask: Ask) -> bytes:
        """The request as protobuf, for the tenant that the agent's card names."""
        message = GetMessageClass(_METHODS[ask.operation.name].input_type)()
        _refuse_inexact(ask.params)
        try:
            value = codec.loads(codec.dumps({**ask.params, "tenant": self._interface.tenant}))
            if not isinstance(value, dict):
                raise TypeError("not an object")
            json_format.ParseDict(value, message)
        except _UNFIT as exc:
            raise InvalidCall(f"the request does not fit {ask.operation.message}, which gRPC carries") from exc
        return message.SerializeToString()

    def _metadata(self, ask: Ask) -> Metadata:
        lines = [(b"a2a-version", self._interface.version.encode()), *ask.headers, *self._credentials]
        if ask.extensions:
            lines.append((b"a2a-extensions", ", ".join(ask.extensions).encode("latin-1", "replace")))
        return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in lines]

    def _heard(self, ask: Ask, raw: bytes) -> Heard:
        message: Message = GetMessageClass(_METHODS[ask.operation.name].output_type)()
        listing = ask.operation.name == "ListTasks"  # its members are required even when they are empty
        try:
            message.ParseFromString(raw)
            value = json_format.MessageToDict(message)
            if listing:
                value = {"tasks": [], "nextPageToken": "", "pageSize": 0, "totalSize": 0, **value}
        except (DecodeError, *_UNFIT) as exc:
            words = f"agent {self._label!r} answered {ask.operation.name} with what is not its message"
            raise UpstreamProtocolError(words) from exc
        whole: JsonObject = {name: _whole(member) for name, member in value.items()}
        return Heard(codec.dumps(whole), whole)


def _channel(address: Address, terms: Terms) -> grpc.aio.Channel:
    options = [
        ("grpc.max_receive_message_length", terms.max_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", 0),  # what may be asked twice is not the transport's to know
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.keepalive_time_ms", _KEEP_ALIVE_MS),
    ]
    if address.plain:
        return grpc.aio.insecure_channel(address.target, options=options)
    return grpc.aio.secure_channel(address.target, grpc.ssl_channel_credentials(), options=options)


def _path(ask: Ask) -> str:
    return f"/{SERVICE}/{ask.operation.name}"


def _kept(*sent: Any) -> Headers:
    """The metadata of an answer that goes on to the client."""
    pairs = [pair for metadata in sent for pair in metadata or ()]
    return kept({name.encode(): value.encode() for name, value in pairs if isinstance(value, str)})


def _refuse_inexact(params: Mapping[str, object]) -> None:
    """Raise `InvalidCall` for a number that would arrive as another one (protobuf's JSON holds doubles only)."""
    level: list[object] = [params]
    while level:
        item = level.pop()
        if isinstance(item, Mapping):
            level.extend(item.values())
        elif isinstance(item, list | tuple):
            level.extend(item)
        elif isinstance(item, int) and abs(item) > _EXACT:
            raise InvalidCall("the agent is called over gRPC, which cannot carry whole numbers beyond 2^53 in data")


def _whole(value: Any) -> Any:
    """The value with whole numbers as integers, as JSON has them."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _EXACT else value
    if isinstance(value, dict):
        return {name: _whole(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_whole(member) for member in value]
    return value


_: type[Caller] = GrpcCaller
