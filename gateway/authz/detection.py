"""When detectors look at arguments and results: only where the active policy can read what they find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from anyio import to_thread

from gateway import codec
from gateway.authz.findings import Finding, findings_in, findings_in_json
from gateway.ports import Detector
from gateway.types import Call, Result

LONG_BYTES: Final = 16 << 10
"""From here on the search is done in a thread, so that other calls do not wait for it."""
_WITH_ARGUMENTS: Final = frozenset({"mcp.tools.call", "mcp.prompts.get"})
_WHOLE: Final = frozenset({"mcp", "model"})

Part: TypeAlias = Literal["arguments", "result"]


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in the arguments and in the result; `None` where nobody looked."""

    arguments: Sequence[Finding] | None = None
    result: Sequence[Finding] | None = None

    @property
    def in_context(self) -> Mapping[str, object]:
        """What it adds to `context`."""
        return {} if self.arguments is None else {"findings": self.arguments}


NOT_LOOKED: Final = Found()
LISTED: Final = Found(arguments=())
"""For a list: its calls have no arguments yet."""


class Detection:
    """Looks where `reads(part)` says that the policy would notice. Without detectors all it finds is `unscanned`."""

    def __init__(self, detectors: Sequence[Detector] = (), reads: Callable[[Part], bool] = lambda _: True) -> None:
        self._detectors = tuple(detectors)
        self._reads = reads
        self.kinds: Final = frozenset(detector.kind for detector in self._detectors)
        """What can be found."""

    @property
    def detectors(self) -> Sequence[Detector]:
        return self._detectors

    def in_list(self) -> Found:
        """What a question about a list says."""
        return LISTED if self._reads("arguments") else NOT_LOOKED

    async def in_call(self, call: Call) -> Found:
        """What is in the arguments; of an action without any, and of models, in all of its parameters."""
        read = call.arguments if call.action in _WITH_ARGUMENTS or call.protocol not in _WHOLE else call.params
        return Found(arguments=await self.in_arguments(read))

    async def in_arguments(self, read: Mapping[str, object]) -> Sequence[Finding] | None:
        """What is in these; `None` where the policy would not notice."""
        if not self._reads("arguments"):
            return None
        if len(codec.dumps(read)) < LONG_BYTES:
            return findings_in(read, self._detectors)
        return await to_thread.run_sync(findings_in, read, self._detectors)

    async def in_result(self, call: Call, result: Result) -> Found:
        """What is in a result or an event of one, and in the arguments, which the same rules are asked about."""
        arguments = (await self.in_call(call)).arguments
        if not self._reads("result"):
            return Found(arguments)
        if len(result.payload) < LONG_BYTES:
            return Found(arguments, findings_in_json(result.payload, self._detectors))
        return Found(arguments, await to_thread.run_sync(findings_in_json, result.payload, self._detectors))
