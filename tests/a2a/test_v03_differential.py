"""The conversions between A2A 0.3 and 1.0 say the same as those of a2a-sdk, and crash on nothing."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from a2a.compat.v0_3 import conversions
from a2a.compat.v0_3 import types as old_types
from a2a.types import a2a_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.a2a import v03
from gateway.a2a.operations import OPERATIONS
from gateway.a2a.v03_objects import STATES
from gateway.a2a.v03_rest import rest_event_from_03, rest_event_to_03, rest_request_from_03, rest_result_from_03
from gateway.a2a.v03_rest_errors import rest_error_from_03
from tests.a2a.test_v03_cards import CARD_10, old_card

Object = dict[str, object]

OLD_CARD = old_card()

words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)
leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6) | words
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=5
)
objects = st.dictionaries(words, values, min_size=1, max_size=3)
encoded = st.binary(min_size=1, max_size=9).map(lambda raw: base64.b64encode(raw).decode())
times = st.datetimes().map(lambda moment: moment.isoformat() + "Z").filter(lambda text: text >= "0001")


def made(needed: Object, optional: Object) -> st.SearchStrategy[Object]:
    return st.fixed_dictionaries(needed, optional=optional)  # type: ignore[arg-type]  # strategies, typed as objects


def parts(content: str) -> st.SearchStrategy[Object]:
    """Parts of 0.3 (`old`) or of 1.0 (`new`) that both versions can say."""
    file: Object = {"metadata": objects}
    if content == "new":
        names: Object = {"mediaType": words, "filename": words, "metadata": objects}
        return (
            made({"text": words}, file)
            | made({"raw": encoded}, names)
            | made({"url": words}, names)
            | made({"data": values}, file)
        )
    about: Object = {"mimeType": words, "name": words}
    held = made({"bytes": encoded}, about) | made({"uri": words}, about)
    return (
        made({"kind": st.just("text"), "text": words}, file)
        | made({"kind": st.just("file"), "file": held}, file)
        | made({"kind": st.just("data"), "data": objects}, file)
    )


def messages(version: str) -> st.SearchStrategy[Object]:
    old = version == "old"
    roles = ["user", "agent"] if old else ["ROLE_USER", "ROLE_AGENT"]
    return made(
        {
            **({"kind": st.just("message")} if old else {}),
            "messageId": words,
            "role": st.sampled_from(roles),
            "parts": st.lists(parts(version), min_size=1, max_size=3),
        },
        {
            "contextId": words,
            "taskId": words,
            "referenceTaskIds": st.lists(words, min_size=1, max_size=2),
            "extensions": st.lists(words, min_size=1, max_size=2),
            "metadata": objects,
        },
    )


def statuses(version: str) -> st.SearchStrategy[Object]:
    states = st.sampled_from(list(STATES if version == "old" else STATES.values()))
    return made({"state": states}, {"message": messages(version), "timestamp": times})


def artifacts(version: str) -> st.SearchStrategy[Object]:
    return made(
        {"artifactId": words, "parts": st.lists(parts(version), min_size=1, max_size=2)},
        {"name": words, "description": words, "metadata": objects, "extensions": st.lists(words, min_size=1)},
    )


def tasks(version: str) -> st.SearchStrategy[Object]:
    return made(
        {
            **({"kind": st.just("task")} if version == "old" else {}),
            "id": words,
            "contextId": words,
            "status": statuses(version),
        },
        {
            "history": st.lists(messages(version), min_size=1, max_size=2),
            "artifacts": st.lists(artifacts(version), min_size=1, max_size=2),
            "metadata": objects,
        },
    )


def status_updates(version: str) -> st.SearchStrategy[Object]:
    tag: Object = {"kind": st.just("status-update"), "final": st.booleans()} if version == "old" else {}
    return made({**tag, "taskId": words, "contextId": words, "status": statuses(version)}, {"metadata": objects})


def artifact_updates(version: str) -> st.SearchStrategy[Object]:
    tag: Object = {"kind": st.just("artifact-update")} if version == "old" else {}
    return made(
        {**tag, "taskId": words, "contextId": words, "artifact": artifacts(version)},
        {"append": st.booleans(), "lastChunk": st.booleans(), "metadata": objects},
    )


pushes_10 = made(
    {"url": words, "id": words},
    {"token": words, "authentication": made({"scheme": words}, {"credentials": words})},
)
sends_10 = made(
    {"message": messages("new")},
    {
        "metadata": objects,
        "configuration": made(
            {"returnImmediately": st.booleans()},
            {
                "acceptedOutputModes": st.lists(words, min_size=1, max_size=2),
                "historyLength": st.integers(1, 2**31 - 1),
                "taskPushNotificationConfig": pushes_10,
            },
        ),
    },
)
events_10 = (
    tasks("new").map(lambda task: {"task": task})
    | messages("new").map(lambda message: {"message": message})
    | status_updates("new").map(lambda update: {"statusUpdate": update})
    | artifact_updates("new").map(lambda update: {"artifactUpdate": update})
)
events_03 = tasks("old") | messages("old") | status_updates("old") | artifact_updates("old")
NAMES = re.findall(
    r"\w+",
    """
kind id taskId contextId messageId role parts content text file data metadata status state message task history
artifacts artifact artifactId url name uri bytes pushNotificationConfig authentication schemes statusUpdate
artifactUpdate configs error code configuration capabilities skills security type flows securitySchemes
supportedInterfaces
additionalInterfaces protocolVersion timestamp raw scheme
""",
)
anything = st.recursive(
    leaves | st.integers() | st.sampled_from(["task", "message", "status-update", "data", "text", "working", "user"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(NAMES) | words,
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


def event_of_sdk(value: Any) -> Message:
    response = old_types.SendStreamingMessageSuccessResponse.model_validate(
        {"id": 1, "jsonrpc": "2.0", "result": value}
    )
    return conversions.to_core_stream_response(response)


@settings(max_examples=80, deadline=None)
@given(events_03)
def test_events_go_up_as_in_the_sdk(event: Object) -> None:
    ours = ParseDict(v03.event_from_03(event), a2a_pb2.StreamResponse())  # type: ignore[arg-type]  # JSON, an object

    assert ours == event_of_sdk(event)


@settings(max_examples=80, deadline=None)
@given(events_10)
def test_events_go_down_as_in_the_sdk_but_that_an_interruption_ends_a_stream(event: Object) -> None:
    theirs = conversions.to_compat_stream_response(ParseDict(event, a2a_pb2.StreamResponse()), 1).result

    ours: Any = v03.event_to_03(event)

    if isinstance(theirs, old_types.TaskStatusUpdateEvent):
        interrupted = theirs.status.state in (old_types.TaskState.input_required, old_types.TaskState.auth_required)
        theirs.final = theirs.final or interrupted
    if isinstance(theirs, old_types.TaskArtifactUpdateEvent):
        ours = {"append": False, "lastChunk": False, **ours}
    assert type(theirs).model_validate(ours) == theirs


@settings(max_examples=50, deadline=None)
@given(sends_10)
def test_sent_messages_go_down_as_in_the_sdk(request: Object) -> None:
    core = ParseDict(request, a2a_pb2.SendMessageRequest())
    theirs = conversions.to_compat_send_message_request(core, 1).params

    method, ours = v03.request_to_03("SendMessage", request)

    assert method == "message/send"
    assert old_types.MessageSendParams.model_validate(ours) == theirs


@settings(max_examples=50, deadline=None)
@given(sends_10)
def test_sent_messages_go_up_as_in_the_sdk(request: Object) -> None:
    _, old = v03.request_to_03("SendMessage", request)
    core = conversions.to_core_send_message_request(
        old_types.SendMessageRequest(id=1, params=old_types.MessageSendParams.model_validate(old))
    )

    _, ours = v03.request_from_03("message/send", old)

    assert ParseDict(ours, a2a_pb2.SendMessageRequest()) == core


@settings(max_examples=50, deadline=None)
@given(sends_10)
def test_sent_messages_of_1_0_are_the_same_after_0_3(request: Object) -> None:
    method, old = v03.request_to_03("SendStreamingMessage", request)

    assert v03.request_from_03(method, old) == ("SendStreamingMessage", request)


@settings(max_examples=50, deadline=None)
@given(events_10)
def test_events_of_1_0_are_the_same_after_0_3_and_after_its_other_dialect(event: Object) -> None:
    assert v03.event_from_03(v03.event_to_03(event)) == event
    assert without_references(rest_event_from_03(rest_event_to_03(event))) == without_references(event)


def without_references(value: object) -> object:
    """What the messages of HTTP+JSON 0.3 cannot say is left out."""
    if isinstance(value, dict):
        return {name: without_references(item) for name, item in value.items() if name != "referenceTaskIds"}
    return [without_references(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=50, deadline=None)
@given(pushes_10, words)
def test_push_configurations_are_those_of_the_sdk(push: Object, task_id: str) -> None:
    config = {**push, "taskId": task_id}
    core = ParseDict(config, a2a_pb2.TaskPushNotificationConfig())
    theirs = conversions.to_compat_task_push_notification_config(core)

    ours = v03.result_to_03("GetTaskPushNotificationConfig", config)

    assert old_types.TaskPushNotificationConfig.model_validate(ours) == theirs
    assert v03.result_from_03("GetTaskPushNotificationConfig", ours) == config


@settings(max_examples=150, deadline=None)
@given(anything, st.sampled_from([*OPERATIONS, "NoSuchOperation"]))
def test_any_json_is_converted_or_refused(value: Any, name: str) -> None:
    readers: tuple[Callable[[], object], ...] = (
        lambda: v03.result_from_03(name, value),
        lambda: v03.result_to_03(name, value),
        lambda: rest_result_from_03(name, value),
        lambda: v03.event_from_03(value),
        lambda: v03.event_to_03(value),
        lambda: rest_event_from_03(value),
        lambda: v03.error_from_03(value),
        lambda: v03.error_to_03(value),
        lambda: rest_error_from_03(500, value),
        lambda: v03.card_from_03(value),
        lambda: v03.card_to_dual(value),
        lambda: v03.request_to_03(name, value),
        lambda: [v03.request_from_03(method, value) for method in v03.METHODS],
        lambda: rest_request_from_03("message/send", {}, {}, value),
        lambda: rest_request_from_03("tasks/pushNotificationConfig/set", {"id": "t"}, {}, value),
    )
    for reader in readers:
        with suppress(v03.NotConvertible):
            reader()


def mutations(valid: Object) -> st.SearchStrategy[Object]:
    """A valid object with one member, at any level, replaced by anything."""
    return st.tuples(st.sampled_from(paths_of(valid)), anything).map(lambda change: replaced(valid, *change))


def paths_of(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in members for found in paths_of(item, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], by: object) -> Any:
    if not path:
        return by
    members = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    changed = {key: replaced(item, path[1:], by) if key == path[0] else item for key, item in members}
    return changed if isinstance(value, dict) else list(changed.values())


@settings(max_examples=80, deadline=None)
@given(events_03.flatmap(mutations))
def test_a_damaged_event_of_0_3_is_converted_or_refused(event: Object) -> None:
    try:
        converted = v03.event_from_03(event)
    except v03.NotConvertible:
        return

    assert isinstance(converted, dict)
    assert len(converted) == 1


@settings(max_examples=150, deadline=None)
@given(mutations(CARD_10), mutations(OLD_CARD))
def test_a_damaged_card_is_converted_or_refused(new: Object, old: Object) -> None:
    with suppress(v03.NotConvertible):
        v03.card_to_dual(new)
    with suppress(v03.NotConvertible):
        v03.card_from_03(old)


@pytest.mark.parametrize("depth", [10_000])
def test_depth_is_of_no_concern_because_only_known_members_are_walked(depth: int) -> None:
    deep: object = 1
    for _ in range(depth):
        deep = [deep]

    task = v03.result_from_03("GetTask", {"kind": "task", "id": "t", "status": {"state": "working"}, "x": deep})

    assert isinstance(task, dict)
    assert task["x"] is deep
