"""Requests are read strictly, and in one form only."""

from __future__ import annotations

import json
from typing import Any

import pytest
from a2a.types import a2a_pb2
from google.api import field_behavior_pb2  # type: ignore[import-untyped]  # ships no types
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway import codec
from gateway.a2a import scalars
from gateway.a2a.operations import OPERATIONS
from gateway.a2a.shapes import (
    AUTHENTICATION,
    CONFIGURATION,
    MESSAGE,
    PART,
    PUSH_CONFIG,
    REQUESTS,
    ROLES,
    TASK_STATES,
    Shape,
)
from gateway.a2a.strict import Malformed, TaskRefs, canonical_request, parse_json, tasks_named, tenant_in
from gateway.errors import InputTooLarge
from gateway.types import FrozenDict

SEND = OPERATIONS["SendMessage"]
LIST = OPERATIONS["ListTasks"]
CREATE = OPERATIONS["CreateTaskPushNotificationConfig"]


def message(**members: Any) -> dict[str, Any]:
    return {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "hello"}], **members}


def send(**members: Any) -> dict[str, Any]:
    return {"message": message(**members)}


def canonical(params: dict[str, Any], operation: str = "SendMessage") -> dict[str, Any]:
    return dict(canonical_request(OPERATIONS[operation], params))


# JSON


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"nope", b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1e400}', b'{"a":"\\ud800"}',
        b'{"a":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"a":1}', '{"a":1}'.encode("utf-16"), b'{"a":"\xff"}', b"{'a':1}", b'{"a":1,}', b'{"a":01}',
        b'{"a":1}{"b":2}', b'{"a":"\n"}', b'{"a":' + b"9" * 5_000 + b"}", b'{"a":/**/1}',
        b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    ],
)  # fmt: skip
def test_what_is_not_strict_json_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        parse_json(body)

    assert (caught.value.kind, caught.value.rpc_code) == ("parse", -32700)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}', b'{"a":1,"\\u0061":2}', b'{"a":1,"a" :2}', b'{"a":1,"a"\n\t :2}',
        b'{"x":[{"y":{"k":1,"k":1}}]}',
        b'{"u":"http://x","a":null,"a":null}', b'{"t":" : :","a":{"b":{}},"a":{"b":{}}}', b'{"":1,"":2}',
        b'{"a":12345678901234567890123,"a":2}', '{"é":1,"\\u00e9":2}'.encode(), b'{"a" \r:1,"a"\r:1,"t":"\\":"}',
    ],
)  # fmt: skip
def test_a_name_that_stands_twice_is_refused_however_it_is_written(body: bytes) -> None:
    with pytest.raises(Malformed, match="stands twice"):
        parse_json(body)


@pytest.mark.parametrize(
    "value",
    [
        {}, {"a": {"b": {}}, "b": [{"a": 1}, {"a": 1}]}, {"u": 'x": y', "v": " : ", "w": "\t:\n:\r:", "x": '":":":'},
        {"a:": ":", "b": ["k:v", {"c": ":"}], "": "", 'q":': 1}, {"big": 2**53 + 1, "bigger": 10**30,
        "less": -(10**30)},
        {"f": [0.1, 1e300, -0.5, 1.7976931348623157e308]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("indent", [None, 2])
def test_proper_json_is_read_exactly(value: dict[str, Any], indent: int | None) -> None:
    body = json.dumps(value, indent=indent, separators=(" , ", " : ") if indent else None).encode()

    assert parse_json(body) == value
    assert json.loads(codec.dumps(parse_json(body))) == value


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"', b'[{"jsonrpc":"2.0"}]'])
def test_a_body_that_is_no_object_is_no_request(body: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        parse_json(body)

    assert (caught.value.kind, caught.value.rpc_code) == ("request", -32600)


def test_a_body_may_be_as_deep_as_the_limit_and_no_deeper() -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' * levels + b"1" + b"}" * levels

    assert parse_json(nested(9), max_depth=9)
    with pytest.raises(Malformed, match="deeper than 9"):
        parse_json(nested(10), max_depth=9)


# Tables


def json_name(field: FieldDescriptor) -> str:
    return str(field.json_name)


def check_table(shape: Shape, descriptor: Descriptor, also_required: frozenset[str] = frozenset()) -> None:
    """The table says what the SDK's protobuf says: names, needed members, presence, kinds."""
    fields = {json_name(field): field for field in descriptor.fields}
    required = {
        name
        for name, field in fields.items()
        if field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    }
    readers: dict[int, set[object]] = {
        FieldDescriptor.TYPE_STRING: {scalars.text, scalars.identifier},
        FieldDescriptor.TYPE_BYTES: {scalars.base64},
        FieldDescriptor.TYPE_BOOL: {scalars.boolean},
    }
    messages = {"Struct": scalars.free_object, "Value": scalars.any_value, "Timestamp": scalars.timestamp}
    assert set(shape.fields) == set(fields)
    assert set(shape.required) == required | also_required
    for name, known in shape.fields.items():
        field = fields[name]
        if not known.omitted and not known.required:
            assert known.explicit == field.has_presence, name
        if not field.is_repeated and field.type in readers:
            assert known.read in readers[field.type], name
        if field.message_type is not None and field.message_type.name in messages:
            assert known.read is messages[field.message_type.name], name
    assert {frozenset(map(json_name, group.fields)) for group in descriptor.oneofs if len(group.fields) > 1} == (
        {shape.exactly_one} if shape.exactly_one else set()
    )


def test_the_tables_are_those_of_the_specification() -> None:
    by_name = a2a_pb2.DESCRIPTOR.message_types_by_name

    check_table(MESSAGE, by_name["Message"])
    check_table(PART, by_name["Part"])
    check_table(CONFIGURATION, by_name["SendMessageConfiguration"])
    check_table(AUTHENTICATION, by_name["AuthenticationInfo"])
    check_table(PUSH_CONFIG, by_name["TaskPushNotificationConfig"])
    for name, shape in REQUESTS.items():
        check_table(shape, by_name[name], frozenset({"taskId"} if name == "TaskPushNotificationConfig" else ()))
    assert {operation.message for operation in OPERATIONS.values()} == set(REQUESTS)
    assert tuple(a2a_pb2.Role.keys()) == ROLES
    assert tuple(a2a_pb2.TaskState.keys()) == TASK_STATES


# Requests


def test_a_full_request_survives_as_it_was_written() -> None:
    params = {
        "message": message(
            contextId="c-1",
            taskId="t-1",
            referenceTaskIds=["t-0"],
            extensions=["https://example.com/x"],
            metadata={"https://example.com/x": {"snake_case": [1, None, 2**53 + 1, 0.1]}},
            parts=[
                {"text": ""},
                {"raw": "aGk=", "mediaType": "image/png", "filename": "a.png"},
                {"url": "https://example.com/a", "metadata": {}},
                {"data": {"task_id": 10**30, "x": None}},
                {"data": None},
            ],
        ),
        "configuration": {
            "acceptedOutputModes": ["text/plain"],
            "historyLength": 0,
            "returnImmediately": True,
            "taskPushNotificationConfig": {
                "id": "p", "url": "https://example.com/hook", "token": "s",
                "authentication": {"scheme": "Bearer", "credentials": "secret"},
            },
        },
        "metadata": {"a": {"b": None}},
    }  # fmt: skip

    request = canonical_request(SEND, params)

    assert isinstance(request, FrozenDict)
    assert json.loads(codec.dumps(request)) == params


def test_absent_members_are_absent_in_each_of_their_spellings() -> None:
    absent: dict[str, Any] = {
        "message": message(contextId="", taskId=None, referenceTaskIds=[], extensions=None, metadata=None),
        "configuration": {"acceptedOutputModes": [], "returnImmediately": False, "historyLength": None},
        "metadata": None,
        "tenant": "",
    }

    assert canonical(absent) == {**send(), "message": FrozenDict(message(parts=(FrozenDict({"text": "hello"}),))),
                                 "configuration": {}}  # fmt: skip


def test_the_name_in_the_protocol_buffer_becomes_the_one_in_json() -> None:
    push = {"url": "https://example.com/", "authentication": {"scheme": "Bearer"}}
    written = {
        "message": {"message_id": "m-1", "role": "ROLE_USER", "task_id": "t", "parts": [{"text": "hello"}]},
        "configuration": {"task_push_notification_config": push, "return_immediately": True},
    }

    request = canonical(written)

    assert request == {
        "message": {"messageId": "m-1", "role": "ROLE_USER", "taskId": "t", "parts": ({"text": "hello"},)},
        "configuration": {"taskPushNotificationConfig": push, "returnImmediately": True},
    }
    assert tasks_named(SEND, request) == TaskRefs("t")


def test_tenant_is_found_under_either_name_of_what_it_stands_in() -> None:
    push = {"url": "https://example.com/", "tenant": "other"}

    with pytest.raises(Malformed, match="must be the request's own tenant"):
        canonical({**send(), "configuration": {"task_push_notification_config": push}})


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"task_id": "t", "taskId": "t"}, "message.task_id: write it taskId"),
        ({"TaskId": "t"}, "message.TaskId: write it taskId"),
        ({"contextId": "c", "context_id": None}, "message.context_id: write it contextId"),
        ({"Context_id": None}, "message.Context_id: write it contextId"),
        ({"reference-task-ids": []}, "message.reference-task-ids: write it referenceTaskIds"),
        ({"parts": [{"text": "a"}, {"media_Type": "x", "text": "y"}]},
         "message.parts[1].media_Type: write it mediaType"),
        ({"parts": [{"Text": "y"}]}, "message.parts[0].Text: write it text"),
    ],
)  # fmt: skip
def test_a_known_member_in_another_spelling_is_refused_with_its_path(members: dict[str, Any], said: str) -> None:
    with pytest.raises(Malformed) as caught:
        canonical(send(**members))

    assert str(caught.value) == said
    assert caught.value.rpc_code == -32602


def test_members_that_the_specification_does_not_know_go_no_further() -> None:
    params = {**send(tckUnknownField=1, kind="message"), "later": {"a": 1}, "configuration": {"blocking": True}}
    params["message"]["parts"] = [{"kind": "text", "text": "hello"}]

    request = canonical(params)

    assert json.loads(codec.dumps(request)) == {**send(), "configuration": {}}


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({}, "message"), ({"message": None}, "message"), ({"message": []}, "message"), ({"message": "x"}, "message"),
        (send(messageId=""), "message.messageId"), (send(messageId=1), "message.messageId"),
        (send(role="ROLE_UNSPECIFIED"), "message.role"), (send(role="user"), "message.role"),
        (send(role=1), "message.role"),
        (send(parts=[]), "message.parts"), (send(parts={}), "message.parts"), (send(parts=[None]), "message.parts[0]"),
        (send(parts=[{}]), "message.parts[0]"), (send(parts=[{"text": "a", "url": "b"}]), "message.parts[0]"),
        (send(parts=[{"text": "a", "data": None}]), "message.parts[0]"),
        (send(parts=[{"text": None}]), "message.parts[0]"),
        (send(parts=[{"text": 1}]), "message.parts[0].text"), (send(parts=[{"raw": "a b="}]), "message.parts[0].raw"),
        (send(parts=[{"raw": "aGk=="}]), "message.parts[0].raw"), (send(parts=[{"raw": "a"}]), "message.parts[0].raw"),
        (send(parts=[{"raw": "é"}]), "message.parts[0].raw"), (send(parts=[{"raw": "+-aa"}]), "message.parts[0].raw"),
        (send(parts=[{"raw": "===="}]), "message.parts[0].raw"), (send(metadata=[]), "message.metadata"),
        (send(extensions=["a", None]), "message.extensions[1]"), (send(extensions="a"), "message.extensions"),
        (send(referenceTaskIds=[""]), "message.referenceTaskIds[0]"), (send(taskId="a\x00"), "message.taskId"),
        (send(taskId=".."), "message.taskId"), (send(contextId="x" * 513), "message.contextId"),
        (send(taskId="t:cancel"), "message.taskId"),
        ({**send(), "configuration": {"historyLength": -1}}, "configuration.historyLength"),
        ({**send(), "configuration": {"historyLength": 2**31}}, "configuration.historyLength"),
        ({**send(), "configuration": {"historyLength": True}}, "configuration.historyLength"),
        ({**send(), "configuration": {"historyLength": 1.5}}, "configuration.historyLength"),
        ({**send(), "configuration": {"historyLength": "1_0"}}, "configuration.historyLength"),
        ({**send(), "configuration": {"returnImmediately": "true"}}, "configuration.returnImmediately"),
        ({**send(), "configuration": {"taskPushNotificationConfig": {}}},
         "configuration.taskPushNotificationConfig.url"),
        (
            {**send(), "configuration": {"taskPushNotificationConfig": {"url": "x", "authentication": {}}}},
            "configuration.taskPushNotificationConfig.authentication.scheme",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(params: dict[str, Any], path: str) -> None:
    with pytest.raises(Malformed) as caught:
        canonical(params)

    assert str(caught.value).startswith(path + ": ")
    assert caught.value.kind == "invalid"


@pytest.mark.parametrize("operation", [item for item in OPERATIONS.values() if item.task_id_member])
def test_every_operation_on_a_task_has_to_name_one(operation: Any) -> None:
    params: dict[str, Any] = dict.fromkeys(REQUESTS[operation.message].required, "x")

    assert tasks_named(operation, canonical_request(operation, params)).task_id == "x"
    del params[operation.task_id_member]
    with pytest.raises(Malformed, match=f"^{operation.task_id_member}: is required"):
        canonical_request(operation, params)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"pageSize": "100", "historyLength": 5.0}, {"pageSize": 100, "historyLength": 5}),
        ({"status": "TASK_STATE_UNSPECIFIED", "includeArtifacts": False}, {"includeArtifacts": False}),
        ({"statusTimestampAfter": "2026-01-01T00:30:00.5+01:00"}, {"statusTimestampAfter": "2025-12-31T23:30:00.5Z"}),
        ({"statusTimestampAfter": "0001-01-01T00:00:00Z"}, {"statusTimestampAfter": "0001-01-01T00:00:00Z"}),
        ({"contextId": "c", "pageToken": "a/b+c="}, {"contextId": "c", "pageToken": "a/b+c="}),
    ],
)
def test_what_may_be_written_in_several_ways_has_one_form(written: dict[str, Any], read: dict[str, Any]) -> None:
    request = canonical(written, "ListTasks")

    assert request == read
    assert list(map(type, request.values())) == list(map(type, read.values()))


@pytest.mark.parametrize(
    "params",
    [
        {"pageSize": 0}, {"pageSize": 101}, {"pageSize": "1e1"}, {"status": "TASK_STATE_RUNNING"}, {"status": 3},
        {"statusTimestampAfter": "yesterday"}, {"statusTimestampAfter": "2026-02-30T00:00:00Z"},
        {"statusTimestampAfter": "2026-01-01T24:00:00Z"}, {"statusTimestampAfter": "2026-01-01"},
        {"statusTimestampAfter": "0000-01-01T00:00:00Z"}, {"statusTimestampAfter": "0001-01-01T00:00:00+01:00"},
        {"includeArtifacts": 1},
    ],
)  # fmt: skip
def test_a_list_is_asked_for_in_the_terms_of_the_specification(params: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match=f"^{next(iter(params))}: must be"):
        canonical_request(LIST, params)


@pytest.mark.parametrize(("written", "read"), [("aGk", "aGk="), ("-_-_", "+/+/"), ("-_8=", "+/8="), ("aGl=", "aGk=")])
def test_bytes_are_written_in_the_standard_alphabet(written: str, read: str) -> None:
    request = canonical(send(parts=[{"raw": written}]))

    assert json.loads(codec.dumps(request))["message"]["parts"] == [{"raw": read}]


def test_what_policy_cannot_be_asked_about_is_too_large() -> None:
    with pytest.raises(InputTooLarge):
        canonical(send(metadata={"a": list(range(2_001))}))


# Tenants and tasks


def test_the_tenant_is_told_and_not_handed_on() -> None:
    push = {"url": "https://example.com", "tenant": "acme"}
    params = {**send(), "tenant": "acme", "configuration": {"taskPushNotificationConfig": push}}

    request = canonical(params)

    assert tenant_in(params) == "acme"
    assert b"acme" not in codec.dumps(request)


@pytest.mark.parametrize("outer", [{}, {"tenant": ""}, {"tenant": "acme"}, {"tenant": None}])
def test_two_tenants_in_one_request_are_a_contradiction(outer: dict[str, Any]) -> None:
    push = {"url": "https://example.com", "tenant": "other"}
    params = {**send(), **outer, "configuration": {"taskPushNotificationConfig": push}}

    with pytest.raises(Malformed, match="tenant: must be the request's own"):
        tenant_in(params)
    with pytest.raises(Malformed, match="tenant: must be the request's own"):
        canonical(params)


@pytest.mark.parametrize("tenant", [1, [], {}, True])
def test_a_tenant_is_a_string(tenant: object) -> None:
    with pytest.raises(Malformed, match="tenant: must be a string"):
        tenant_in({"tenant": tenant})


def test_an_inline_push_configuration_cannot_name_another_task() -> None:
    push = {"url": "https://example.com", "taskId": "foreign"}
    params = {**send(taskId="mine"), "configuration": {"taskPushNotificationConfig": push}}

    with pytest.raises(Malformed, match="taskId: leave it out"):
        canonical(params)


def test_every_task_that_a_message_names_is_told() -> None:
    request = canonical_request(SEND, send(taskId="t", contextId="c", referenceTaskIds=["a", "b"]))

    assert tasks_named(SEND, request) == TaskRefs("t", "c", ("a", "b"))
    assert tasks_named(SEND, canonical_request(SEND, send())) == TaskRefs()
    assert tasks_named(LIST, canonical_request(LIST, {"contextId": "c"})) == TaskRefs(context_id="c")
    assert tasks_named(CREATE, {"taskId": "t", "id": "p", "url": "u"}) == TaskRefs("t")
    assert tasks_named(OPERATIONS["GetExtendedAgentCard"], {}) == TaskRefs()
