"""How JSON-RPC is worded in the two versions: 1.0 keeps the agent's bytes, 0.3 is translated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, cast

from adapters.upstreams.a2a.caller import Heard
from adapters.upstreams.a2a.envelope import Opened, one_line
from gateway import codec
from gateway.a2a import v03
from gateway.a2a.errors import UNSUPPORTED_OPERATION, A2aError
from gateway.a2a.operations import LEGACY_VERSION, Operation
from gateway.codec import JsonObject
from gateway.errors import InvalidCall, UpstreamProtocolError


class Dialect(Protocol):
    """Words requests, and reads what comes back as A2A 1.0. `None` stands for what is no JSON object."""

    def request(self, operation: Operation, params: Mapping[str, object]) -> tuple[str, Mapping[str, object]]: ...

    def result(self, operation: Operation, found: Opened) -> Heard | None: ...

    def event(self, found: Opened) -> Heard | None: ...

    def error(self, found: Opened) -> bytes: ...


class Current:
    """A2A 1.0."""

    def request(self, operation: Operation, params: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
        """The method is the operation."""
        return operation.name, params

    def result(self, operation: Operation, found: Opened) -> Heard | None:
        """The agent's bytes; deleting has nothing to say (section 9.4.7)."""
        if found.value is None and operation.name == "DeleteTaskPushNotificationConfig":
            return Heard(b"{}", {})
        return Heard(found.raw, found.value) if isinstance(found.value, dict) else None

    def event(self, found: Opened) -> Heard | None:
        """The agent's bytes."""
        return Heard(one_line(found.raw), found.value) if isinstance(found.value, dict) else None

    def error(self, found: Opened) -> bytes:
        """The agent's bytes."""
        return found.raw


class Legacy:
    """A2A 0.3."""

    def request(self, operation: Operation, params: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
        """The method that 0.3 had for it. Raises `A2aError` where it had none, and `InvalidCall` for the request."""
        try:
            return v03.request_to_03(operation.name, params)
        except v03.UnknownMethod as exc:
            raise A2aError(UNSUPPORTED_OPERATION, f"the agent speaks A2A 0.3, which has no {operation.name}") from exc
        except v03.NotConvertible as exc:
            raise InvalidCall(f"the agent speaks A2A 0.3, which cannot say that: {exc}") from exc

    def result(self, operation: Operation, found: Opened) -> Heard | None:
        """The result as 1.0 has it."""
        return _read(lambda: v03.result_from_03(operation.name, found.value))

    def event(self, found: Opened) -> Heard | None:
        """The event as 1.0 has it."""
        return _read(lambda: v03.event_from_03(found.value))

    def error(self, found: Opened) -> bytes:
        """The error as 1.0 has it."""
        heard = _read(lambda: v03.error_from_03(found.value))
        return heard.raw if heard is not None else found.raw


def dialect_of(version: str) -> Dialect:
    """The dialect of an interface's version."""
    return Legacy() if version == LEGACY_VERSION else Current()


def _read(converted: Callable[[], object]) -> Heard | None:
    try:
        value = converted()
    except v03.NotConvertible as exc:
        raise UpstreamProtocolError(f"the agent answered with what is not A2A 0.3: {exc}") from exc
    return Heard(codec.dumps(value), cast("JsonObject", value)) if isinstance(value, dict) else None
