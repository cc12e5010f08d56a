"""The gRPC door of A2A: `lf.a2a.v1.A2AService` on a port of its own, every method a call on the governed path.

A call names its agent by `tenant`, as the agent's card tells clients to (section 8.3.2); where a single agent is
served, it may leave that out. The library does not show the host that a call is addressed to, so that names none.

The service's own name says that its messages are those of 1.0 (0.3 is another service), so a call without
`a2a-version` is taken for one of 1.0, unlike in the other bindings, where nothing else would say it (section 3.6.2).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar
from urllib.parse import unquote

import anyio
import grpc.aio

from adapters.doors.protojson import RPCS, SERVICE, Rpc
from adapters.doors.statuses import Refusal, metadata_of, status_of
from gateway.a2a.errors import VERSION_NOT_SUPPORTED, A2aError
from gateway.a2a.malformed import Malformed
from gateway.a2a.operations import VERSION, Operation
from gateway.errors import InvalidCall, UnknownResource
from gateway.types import Result

log = logging.getLogger("interlock.a2a")

Headers: TypeAlias = dict[bytes, list[bytes]]
Context: TypeAlias = Any  # grpc.aio.ServicerContext; the library has no types
P = TypeVar("P")
T = TypeVar("T")
P_contra = TypeVar("P_contra", contravariant=True)

KEEP_ALIVE_S: Final = 15
_MAX_METADATA: Final = 32_768
_VERSION_KEY: Final = b"a2a-version"


class Sink(Protocol):
    """Where the events of a streamed answer go."""

    async def emit(self, event: bytes) -> None: ...


class Calls(Protocol[P_contra]):
    """Makes the calls of one agent's clients and takes them down the governed path."""

    async def carry_out(
        self, operation: Operation, params: Mapping[str, object], peer: P_contra, sink: Sink | None = None
    ) -> Result: ...


@dataclass(frozen=True, slots=True)
class Wiring(Generic[P]):
    """What the door shares with the other bindings, so that a call is judged and told alike in all of them."""

    calls: Callable[[], Mapping[str, Calls[P]]]
    """The agents that are served now, by name."""
    peer_of: Callable[[str, Headers], P]
    """Who calls, by address and metadata (as HTTP headers, `a2a-version` filled in)."""
    refusal_of: Callable[[Exception], Refusal | None]
    """What a client is told of an error; `None` for one that nobody foresaw."""
    refusal_of_upstream: Callable[[bytes, tuple[tuple[bytes, bytes], ...]], Refusal]
    """The same for an agent's own error (JSON) with the headers that came with it."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate chain and key of the door, PEM."""

    chain: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take."""

    request_bytes: int = 4_194_304
    concurrent_calls: int = 1_000
    stop_s: float = 5.0
    """How long calls may take to end when the door closes."""


@dataclass(frozen=True, slots=True)
class _Told:
    message: str
    grpc: str
    details: Sequence[Mapping[str, object]] = ()
    headers: Sequence[tuple[bytes, bytes]] = ()


@asynccontextmanager
async def serve_grpc(
    wiring: Wiring[P], *, host: str, port: int, tls: Tls | None = None, limits: Limits | None = None
) -> AsyncIterator[int]:
    """Serve until the block ends; gives the port (the one that was free, for 0). Raises `OSError` when it is taken."""
    limits = limits or Limits()
    server = grpc.aio.server(options=_options(limits), maximum_concurrent_rpcs=limits.concurrent_calls)
    door = _Door(wiring)
    handlers = {name: door.handler(rpc) for name, rpc in RPCS.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    bound = _bind(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", tls)
    await server.start()
    try:
        yield bound
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop(limits.stop_s)


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # a second gateway on the same port is a mistake, and is told so
        ("grpc.max_receive_message_length", limits.request_bytes),
        ("grpc.max_send_message_length", -1),  # answers have a limit where they come from
        ("grpc.max_metadata_size", _MAX_METADATA),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA),
        ("grpc.max_concurrent_streams", 100),
        ("grpc.keepalive_time_ms", KEEP_ALIVE_S * 1_000),
        ("grpc.keepalive_timeout_ms", KEEP_ALIVE_S * 1_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _bind(server: Context, address: str, tls: Tls | None) -> int:
    try:
        if tls is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, grpc.ssl_server_credentials([(tls.key, tls.chain)])))
    except RuntimeError as exc:
        raise OSError(f"the gRPC door cannot listen on {address}; is the port in use?") from exc


class _AgentRefused(Exception):
    """The agent answered with an error of its own."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class _Door(Generic[P]):
    """The service's methods, over bytes: protobuf is read and written here, where its faults can be told."""

    def __init__(self, wiring: Wiring[P]) -> None:
        self._wiring = wiring

    def handler(self, rpc: Rpc) -> Any:  # the library's own kind
        """What the library calls for one method."""
        kind = grpc.unary_stream_rpc_method_handler if rpc.operation.streams else grpc.unary_unary_rpc_method_handler
        return kind(self._streaming(rpc) if rpc.operation.streams else self._unary(rpc))

    def _unary(self, rpc: Rpc) -> Callable[[bytes, Context], Awaitable[bytes | None]]:
        async def answer(request: bytes, context: Context) -> bytes | None:
            return await self._guarded(context, self._answered(rpc, request, context))

        return answer

    async def _answered(self, rpc: Rpc, request: bytes, context: Context) -> bytes:
        result = await self._carried_out(rpc, request, context, None)
        encoded = rpc.encoded(result.payload)
        await context.send_initial_metadata(_sent(result))
        return encoded

    def _streaming(self, rpc: Rpc) -> Callable[[bytes, Context], Awaitable[None]]:
        async def answer(request: bytes, context: Context) -> None:
            await self._guarded(context, self._streamed(rpc, request, context))

        return answer

    async def _streamed(self, rpc: Rpc, request: bytes, context: Context) -> None:
        result = await self._carried_out(rpc, request, context, _Writer(rpc, context))
        context.set_trailing_metadata(_sent(result))

    async def _carried_out(self, rpc: Rpc, request: bytes, context: Context, sink: Sink | None) -> Result:
        params = rpc.params(request)
        peer = self._wiring.peer_of(_address(context), _headers(context))
        result = await self._calls_for(params).carry_out(rpc.operation, params, peer, sink)
        if result.outcome == "rpc_error":
            raise _AgentRefused(self._wiring.refusal_of_upstream(result.payload, result.headers))
        return result

    async def _guarded(self, context: Context, work: Coroutine[None, None, T]) -> T | None:
        """What comes of the work; whatever stands in its way ends the call with a status."""
        try:
            return await work
        except Exception as error:  # noqa: BLE001  # the edge of a listener: whatever it is, the client is told
            status = status_of(self._told(error))
        await context.abort(status.code, status.message, status.trailers)
        return None  # abort raises

    def _told(self, error: Exception) -> Refusal:
        if isinstance(error, _AgentRefused):
            return error.refusal
        if isinstance(error, Malformed):
            return _Told(str(error), "INVALID_ARGUMENT")
        refusal = self._wiring.refusal_of(error)
        if refusal is None:
            log.error("a gRPC call failed in the gateway", exc_info=error)
            return _Told("Internal error", "INTERNAL")
        return refusal

    def _calls_for(self, params: Mapping[str, object]) -> Calls[P]:
        served = self._wiring.calls()
        named = params.get("tenant")
        if not named:
            if len(served) == 1:
                return next(iter(served.values()))
            raise InvalidCall("tenant: must name the agent, as its card's interface for GRPC does")
        calls = served.get(str(named))
        if calls is None:
            raise UnknownResource("tenant: there is no agent of that name, or it is not visible to you")
        return calls


class _Writer:
    """Writes events as messages, each once the client takes it."""

    def __init__(self, rpc: Rpc, context: Context) -> None:
        self._rpc = rpc
        self._context = context

    async def emit(self, event: bytes) -> None:
        await self._context.write(self._rpc.encoded(event))


def _headers(context: Context) -> Headers:
    """The metadata as HTTP headers, with the version that the call is taken to be of. Raises `A2aError` for another."""
    headers: Headers = {}
    for key, value in context.invocation_metadata() or ():
        headers.setdefault(key.lower().encode(), []).append(value if isinstance(value, bytes) else value.encode())
    named = [value.strip() for value in headers.get(_VERSION_KEY, [])]
    if any(value not in (b"", VERSION.encode()) for value in named):
        words = f"this service speaks A2A {VERSION}; leave a2a-version out or set it to {VERSION}"
        raise A2aError(VERSION_NOT_SUPPORTED, words, {"supportedVersions": VERSION})
    return {**headers, _VERSION_KEY: [VERSION.encode()]}


def _address(context: Context) -> str:
    """The client's IP address: `ipv4:192.0.2.7:4711`, `ipv6:%5B::1%5D:4711`; empty for anything else."""
    kind, _, rest = unquote(context.peer()).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""


def _sent(result: Result) -> tuple[tuple[str, str | bytes], ...]:
    return ((_VERSION_KEY.decode(), VERSION), *metadata_of(result.headers))
