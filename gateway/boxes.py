"""How strongly code of others is kept apart, as an ordered level, and what runs behind it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias

from gateway.ports import Relay
from gateway.types import Authorized, Call, FrozenDict


class Level(StrEnum):
    """What has to be broken to get out, weakest first.

    `vm-emulated` is a virtual machine without hardware support, inside a box of level `process`: QEMU promises nothing
    for it, so it counts for little more than the box around it, and only configuration can choose it.
    """

    NONE = "none"
    PROCESS = "process"
    VM_EMULATED = "vm-emulated"
    GVISOR = "gvisor"
    VM = "vm"

    @property
    def rank(self) -> int:
        """Compare with this, never the names."""
        return _RANKS[self]

    def holds(self, needed: Level) -> bool:
        """Whether this level is enough where `needed` is asked for."""
        return self.rank >= needed.rank


_RANKS: Final[Mapping[Level, int]] = {level: rank for rank, level in enumerate(Level)}


@dataclass(frozen=True, slots=True)
class BoxFacts:
    """What of a box stands in the record of each call that runs in it."""

    id: str
    driver: str
    version: str
    level: Level
    environment: str = ""
    """Digest of the environment it was started from."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """What it may use up, by the names that obligations use: `memory_mb`, `cpus`, `processes`, ..."""

    def note(self) -> Mapping[str, object]:
        """The facts as JSON."""
        return {
            "id": self.id,
            "driver": self.driver,
            "version": self.version,
            "level": self.level.value,
            "environment": self.environment,
        }


HOST: Final = BoxFacts("", "none", "", Level.NONE)
"""A process outside of any box."""


class Program(Protocol):
    """A running program that is spoken to over its standard streams. Leave it through `stop` or as a context manager.

    `send` raises `UpstreamTimeout` (nothing written) and `UpstreamUnavailable`; `receive` gives nothing at the end.
    """

    @property
    def facts(self) -> BoxFacts: ...

    @property
    def exit_status(self) -> int | None:
        """128 + n when signal n ended it, `None` while it runs."""

    @property
    def stderr(self) -> str:
        """The last of what it wrote to standard error, secrets struck out."""

    def obituary(self) -> str:
        """What is known about its end, in words."""

    async def send(self, data: bytes, *, deadline_s: float) -> None: ...

    async def receive(self) -> bytes: ...

    async def wait(self) -> int:
        """Wait for the end of everything in it; the exit status."""

    async def stop(self) -> int:
        """End it in good order, then by force. Cancelled meanwhile, by force at once."""

    def kill(self) -> None:
        """Have everything in it killed, without waiting."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Hold(Protocol):
    """Ties a call to the box that carries it out, for as long as the block runs: what the permit asks of the box holds,
    and what it grants ends with the call.

    Raises `IsolationUnavailable` or `PolicyDenied` on entry when the box is not what the permit asks for. `box` is
    `None` for a server that is not ours to put into one.
    """

    def __call__(
        self, box: BoxFacts | None, authorized: Authorized, relay: Relay
    ) -> AbstractContextManager[object]: ...


def caller_of(call: Call) -> FrozenDict:
    """What policy is told of a call when it is asked about something that the call causes, as `caller`."""
    return FrozenDict(
        {
            "action": call.action,
            "type": call.resource.type,
            "id": call.resource.id,
            "upstream": call.resource.upstream,
            "name": call.resource.name,
            "catalog": call.resource.catalog,
            "call": call.id,
            "arguments_digest": call.arguments_digest,
        }
    )


StartProgram: TypeAlias = Callable[[], Awaitable[Program]]
"""Starts one more of the same program. Raises the `Upstream*` errors or `SandboxFailure`."""


def steers_the_launcher(variable: str) -> bool:
    """Whether a variable acts on what builds the box too, before there are all its walls: it must not be given."""
    return bool(_STEERING.fullmatch(variable))


_STEERING: Final = re.compile(r"LD_.*|GLIBC_TUNABLES|GCONV_PATH|PERL5?(?:OPT|LIB|DB).*|INTERLOCK_.*")
"""The dynamic linker and the C library of bwrap and the like, and Perl, which sets up the second wall in the box."""
