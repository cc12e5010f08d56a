"""One call's stream at the agent: how it is opened, taken up again, and looked at."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from adapters.upstreams.a2a.caller import Ask, Caller, Heard, Refused
from adapters.upstreams.a2a.feed import Line
from gateway.a2a.operations import OPERATIONS
from gateway.codec import JsonObject

_SUBSCRIBE: Final = OPERATIONS["SubscribeToTask"]
_GET: Final = OPERATIONS["GetTask"]


@dataclass(frozen=True, slots=True)
class CallLine:
    """The stream of `ask`. `caller` gives whoever reaches the agent now; `learned` keeps what is heard."""

    caller: Callable[[], Caller]
    ask: Ask
    learned: Callable[[Heard], Awaitable[Heard]]

    def open(self) -> AsyncGenerator[Heard, None]:
        """The stream that was asked for."""
        return self.caller().stream(self.ask)

    def again(self, task_id: str) -> AsyncGenerator[Heard, None]:
        """A stream of the same task: the message that began it is not sent twice."""
        return self.caller().stream(replace(self.ask, operation=_SUBSCRIBE, params={"id": task_id}))

    async def look(self, task_id: str) -> JsonObject:
        """The task as it is now. Raises `Refused` when the agent does not tell."""
        reply = await self.caller().unary(replace(self.ask, operation=_GET, params={"id": task_id}))
        if reply.value is None:
            raise Refused(reply.result)
        return reply.value

    async def learn(self, heard: Heard) -> Heard:
        """Keep whose task it is and how it stands."""
        return await self.learned(heard)


_: type[Line] = CallLine
