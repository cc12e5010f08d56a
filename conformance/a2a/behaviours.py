"""What the agent under test does with a message: the prefix of its id says it (scenarios of the official test kit).

Who cannot choose the id of a message, as what calls a tool cannot, begins the text with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

import anyio
from a2a.helpers.proto_helpers import new_task_from_user_message
from a2a.server.agent_execution.agent_executor import AgentExecutor
from a2a.server.agent_execution.context import RequestContext
from a2a.server.events.event_queue import EventQueue
from a2a.server.tasks.task_updater import TaskUpdater
from a2a.types import Part
from a2a.utils.errors import InvalidParamsError
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

Behaviour: TypeAlias = Callable[[TaskUpdater], Awaitable[None]]

DIRECT_REPLY: Final = "tck-message-response"
"""The one prefix that is answered with a message instead of a task."""
LONG_TASK_S: Final = 4.0
"""Twice the time that the test kit waits for the end of a stream."""


def _text(text: str) -> Part:
    return Part(text=text)


def _file() -> Part:
    return Part(raw=b"tck", media_type="text/plain", filename="output.txt")


def _file_url() -> Part:
    return Part(url="https://example.com/output.txt", media_type="text/plain", filename="output.txt")


def _data() -> Part:
    return Part(data=json_format.Parse('{"key": "value", "count": 42}', Value()))


def _artifact(part: Callable[[], Part]) -> Behaviour:
    async def behave(updater: TaskUpdater) -> None:
        await updater.add_artifact([part()])
        await updater.complete()

    return behave


def _streamed(part: Callable[[], Part]) -> Behaviour:
    async def behave(updater: TaskUpdater) -> None:
        await updater.start_work()
        await updater.add_artifact([part()])
        await updater.complete()

    return behave


async def _chunked(updater: TaskUpdater) -> None:
    await updater.start_work()
    await updater.add_artifact([_text("chunk-1 ")], artifact_id="chunked")
    await updater.add_artifact([_text("chunk-2")], artifact_id="chunked", append=True, last_chunk=True)
    await updater.complete()


async def _long(updater: TaskUpdater) -> None:
    await updater.start_work()
    await anyio.sleep(LONG_TASK_S)
    await updater.complete()


async def completing(updater: TaskUpdater) -> None:
    """Say hello, and be done."""
    await updater.complete(updater.new_agent_message([_text("Hello from TCK")]))


async def conversing(updater: TaskUpdater) -> None:
    """Say hello, and wait for more: the tests of 0.3 have no prefixes, and go on with any task, or cancel it."""
    await updater.start_work()
    await updater.requires_input(updater.new_agent_message([_text("Hello from TCK")]))


BEHAVIOURS: Final[Mapping[str, Behaviour]] = {
    "tck-stream-artifact-chunked": _chunked,
    "test-resubscribe-message-id": _long,
    "tck-stream-artifact-text": _streamed(lambda: _text("Streamed text content")),
    "tck-stream-artifact-file": _streamed(_file),
    "tck-stream-ordering-001": _streamed(lambda: _text("Ordered output")),
    "tck-artifact-file-url": _artifact(_file_url),
    "tck-input-required": TaskUpdater.requires_input,
    "tck-complete-task": completing,
    "tck-artifact-text": _artifact(lambda: _text("Generated text content")),
    "tck-artifact-file": _artifact(_file),
    "tck-artifact-data": _artifact(_data),
    "tck-reject-task": TaskUpdater.reject,
    "tck-stream-001": _streamed(lambda: _text("Stream hello from TCK")),
    "tck-stream-002": TaskUpdater.complete,
    "tck-stream-003": _streamed(lambda: _text("Stream task lifecycle")),
}
"""By prefix of the message id; a longer prefix stands before those that it begins with."""


class Executor(AgentExecutor):
    """Carries out what the message's id asks for, and `usual` where it asks for nothing."""

    def __init__(self, usual: Behaviour = completing) -> None:
        self._usual = usual

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        message = context.message
        if message is None or context.task_id is None or context.context_id is None:
            raise InvalidParamsError("a message is needed")
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        if message.message_id.startswith(DIRECT_REPLY):
            await event_queue.enqueue_event(updater.new_agent_message([_text("Direct message response")]))
            return
        if context.current_task is None:
            await event_queue.enqueue_event(new_task_from_user_message(message))
        wanted = behaviour_of(message.message_id) or behaviour_of(context.get_user_input())
        await (wanted or self._usual)(updater)

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        if context.task_id is not None and context.context_id is not None:
            await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def behaviour_of(words: str) -> Behaviour | None:
    """What the id or the text of a message asks for."""
    for prefix, behaviour in BEHAVIOURS.items():
        if words.startswith(prefix):
            return behaviour
    return None
