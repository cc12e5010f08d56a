"""HTTP+JSON of A2A 0.3, held against the protobuf messages of a2a-sdk."""

from __future__ import annotations

from typing import Any

import pytest
from a2a.compat.v0_3 import a2a_v0_3_pb2, conversions, proto_utils
from a2a.compat.v0_3 import types as old_types
from a2a.types import a2a_pb2
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import given, settings

from gateway.a2a.v03 import NotConvertible
from gateway.a2a.v03_requests import METHODS
from gateway.a2a.v03_rest import (
    RestCall,
    rest_event_to_03,
    rest_request_from_03,
    rest_request_to_03,
    rest_result_from_03,
    rest_result_to_03,
    route_of_03,
    verbs_of_03,
)
from gateway.a2a.v03_rest_errors import rest_error_from_03, rest_error_to_03
from tests.a2a.test_v03_differential import Object, events_10, sends_10, without_references

CONFIG = {"taskId": "t", "id": "c", "url": "https://me.example/h", "token": "x"}
CONFIG_03 = {
    "name": "tasks/t/pushNotificationConfigs/c",
    "pushNotificationConfig": {"id": "c", "url": "https://me.example/h", "token": "x"},
}


@pytest.mark.parametrize(
    ("verb", "path", "method", "ids"),
    [
        ("POST", "/v1/message:send", "message/send", {}),
        ("POST", "/v1/message:stream", "message/stream", {}),
        ("GET", "/v1/tasks/t%201", "tasks/get", {"id": "t 1"}),
        ("POST", "/v1/tasks/t:cancel", "tasks/cancel", {"id": "t"}),
        ("GET", "/v1/tasks/t:subscribe", "tasks/resubscribe", {"id": "t"}),
        ("POST", "/v1/tasks/t:subscribe", "tasks/resubscribe", {"id": "t"}),
        ("POST", "/v1/tasks/t/pushNotificationConfigs", "tasks/pushNotificationConfig/set", {"id": "t"}),
        ("GET", "/v1/tasks/t/pushNotificationConfigs", "tasks/pushNotificationConfig/list", {"id": "t"}),
        (
            "GET",
            "/v1/tasks/t/pushNotificationConfigs/c",
            "tasks/pushNotificationConfig/get",
            {"id": "t", "pushNotificationConfigId": "c"},
        ),
        (
            "DELETE",
            "/v1/tasks/t/pushNotificationConfigs/c",
            "tasks/pushNotificationConfig/delete",
            {"id": "t", "pushNotificationConfigId": "c"},
        ),
        ("GET", "/v1/card", "agent/getAuthenticatedExtendedCard", {}),
    ],
)
def test_each_route_of_0_3_is_a_method(verb: str, path: str, method: str, ids: dict[str, str]) -> None:
    assert route_of_03(verb, path) == (method, ids)
    assert verb in verbs_of_03(path)
    assert method in METHODS


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/v1/tasks"),
        ("GET", "/v1/message:send"),
        ("POST", "/message:send"),
        ("GET", "/v1/tasks/"),
        ("GET", "/v1/tasks/t:cancel"),
        ("GET", "/v1/tasks/t%3Acancel"),
        ("GET", "/v1/tasks/a%2Fb"),
        ("GET", "/v1/tasks/%zz"),
        ("GET", "/v1/tasks/%ff"),
        ("GET", "/v1/tasks/é"),
        ("PUT", "/v1/card"),
        ("GET", "/v1/card/"),
        ("GET", "//v1/card"),
    ],
)
def test_nothing_else_is_a_route_of_0_3(verb: str, path: str) -> None:
    assert route_of_03(verb, path) is None


@settings(max_examples=40, deadline=None)
@given(sends_10)
def test_bodies_that_the_sdk_sends_are_read_in_both_spellings(request: Object) -> None:
    core = ParseDict(without_references(request), a2a_pb2.SendMessageRequest())  # type: ignore[arg-type]  # an object
    params = conversions.to_compat_send_message_request(core, 1).params
    proto = a2a_v0_3_pb2.SendMessageRequest(
        request=proto_utils.ToProto.message(params.message),
        configuration=proto_utils.ToProto.message_send_configuration(params.configuration)
        if params.configuration
        else None,
        metadata=proto_utils.ToProto.metadata(params.metadata),
    )

    for snake in (True, False):
        body = MessageToDict(proto, preserving_proto_field_name=snake)
        name, ours = rest_request_from_03("message/send", {}, {}, body)

        assert name == "SendMessage"
        assert ParseDict(ours, a2a_pb2.SendMessageRequest()) == core


@settings(max_examples=40, deadline=None)
@given(sends_10)
def test_bodies_for_agents_of_0_3_are_read_by_the_sdk_as_they_were_meant(request: Object) -> None:
    core = ParseDict(without_references(request), a2a_pb2.SendMessageRequest())  # type: ignore[arg-type]  # an object

    call = rest_request_to_03("SendMessage", request)

    params = proto_utils.FromProto.message_send_params(ParseDict(call.body, a2a_v0_3_pb2.SendMessageRequest()))  # type: ignore[arg-type]  # there is one
    assert (call.verb, call.path) == ("POST", "/v1/message:send")
    assert conversions.to_core_send_message_request(old_types.SendMessageRequest(id=1, params=params)) == core


@settings(max_examples=40, deadline=None)
@given(events_10)
def test_events_for_clients_of_0_3_are_read_by_the_sdk_as_they_were_meant(event: Object) -> None:
    plain: Any = without_references(event)
    body: Any = rest_event_to_03(plain)

    read = proto_utils.FromProto.stream_response(ParseDict(body, a2a_v0_3_pb2.StreamResponse()))

    theirs = conversions.to_core_stream_response(old_types.SendStreamingMessageSuccessResponse(id=1, result=read))
    assert theirs == ParseDict(plain, a2a_pb2.StreamResponse())


@pytest.mark.parametrize(
    ("name", "params", "call"),
    [
        (
            "GetTask",
            {"id": "a b", "historyLength": 3},
            RestCall("GET", "/v1/tasks/a%20b", {"historyLength": "3"}, None),
        ),
        ("CancelTask", {"id": "t"}, RestCall("POST", "/v1/tasks/t:cancel", {}, None)),
        ("SubscribeToTask", {"id": "t"}, RestCall("POST", "/v1/tasks/t:subscribe", {}, None)),
        (
            "GetTaskPushNotificationConfig",
            {"taskId": "t", "id": "c"},
            RestCall("GET", "/v1/tasks/t/pushNotificationConfigs/c", {}, None),
        ),
        (
            "ListTaskPushNotificationConfigs",
            {"taskId": "t"},
            RestCall("GET", "/v1/tasks/t/pushNotificationConfigs", {}, None),
        ),
        (
            "DeleteTaskPushNotificationConfig",
            {"taskId": "t", "id": "c"},
            RestCall("DELETE", "/v1/tasks/t/pushNotificationConfigs/c", {}, None),
        ),
        (
            "CreateTaskPushNotificationConfig",
            CONFIG,
            RestCall(
                "POST",
                "/v1/tasks/t/pushNotificationConfigs",
                {},
                {"parent": "tasks/t", "configId": "c", "config": CONFIG_03},
            ),
        ),
        ("GetExtendedAgentCard", {}, RestCall("GET", "/v1/card", {}, None)),
    ],
)
def test_each_request_of_1_0_has_its_route_and_is_read_back(name: str, params: Object, call: RestCall) -> None:
    assert rest_request_to_03(name, params) == call

    method, ids = route_of_03(call.verb, call.path) or ("", {})
    assert rest_request_from_03(method, ids, call.query, call.body) == (name, params)


@pytest.mark.parametrize("task_id", [".", "..", ""])
def test_an_id_never_becomes_a_step_in_a_path(task_id: str) -> None:
    with pytest.raises(NotConvertible):
        rest_request_to_03("GetTask", {"id": task_id})


@pytest.mark.parametrize("body", [CONFIG_03, {"name": "", "push_notification_config": {"url": "https://me.example/h"}}])
def test_a_configuration_may_be_sent_without_the_request_around_it(body: Object) -> None:
    name, request = rest_request_from_03("tasks/pushNotificationConfig/set", {"id": "t"}, {}, body)

    assert name == "CreateTaskPushNotificationConfig"
    assert (request["taskId"], request["url"]) == ("t", "https://me.example/h")


@pytest.mark.parametrize(
    ("method", "query", "body"),
    [
        ("tasks/get", {"historyLength": "-1"}, None),
        ("tasks/get", {"historyLength": "5.0"}, None),
        ("tasks/get", {"historyLength": "99999999999"}, None),
        ("tasks/get", {"historyLength": "1", "history_length": "2"}, None),
        ("tasks/get", {"id": "other"}, None),
        ("tasks/cancel", {"historyLength": "1"}, None),
        ("tasks/cancel", {}, {"name": "tasks/other"}),
        ("tasks/cancel", {}, {"id": "t"}),
        ("tasks/cancel", {}, []),
        ("message/send", {}, None),
        ("message/send", {}, {"message": {"messageId": "m", "role": "ROLE_USER"}, "tenant": "x"}),
        ("message/send", {}, {"message": {"messageId": "m", "message_id": "n", "role": "ROLE_USER"}}),
        ("message/send", {}, {"message": {"messageId": "m", "role": "ROLE_USER"}, "request": {}}),
        ("message/send", {}, {"message": {"messageId": "m", "role": "user"}}),
        ("message/send", {}, {"message": {"messageId": "m", "role": "ROLE_USER", "parts": []}}),
        (
            "message/send",
            {},
            {"message": {"messageId": "m", "role": "ROLE_USER", "content": [{"file": {"fileWithBytes": "aGkK"}}]}},
        ),
        ("tasks/pushNotificationConfig/set", {}, {"config": {}}),
        ("tasks/pushNotificationConfig/set", {}, {**CONFIG_03, "name": "tasks/other/pushNotificationConfigs/c"}),
        ("tasks/pushNotificationConfig/set", {}, {**CONFIG_03, "config": CONFIG_03}),
        ("tasks/pushNotificationConfig/set", {}, {"parent": "tasks/other", "config": CONFIG_03}),
        ("tasks/pushNotificationConfig/set", {}, {"configId": "other", "config": CONFIG_03}),
        (
            "tasks/pushNotificationConfig/set",
            {},
            {"config": {**CONFIG_03, "name": "tasks/other/pushNotificationConfigs/c"}},
        ),
    ],
)
def test_a_request_that_is_ambiguous_or_not_of_0_3_is_refused(method: str, query: dict[str, str], body: object) -> None:
    with pytest.raises(NotConvertible):
        rest_request_from_03(method, {"id": "t"}, query, body)


def test_results_are_wrapped_and_named_as_0_3_has_them() -> None:
    task = {"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_CANCELED"}}
    old = {"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_CANCELLED"}}

    for name, new, body in (
        ("SendMessage", {"task": task}, {"task": old}),
        ("CancelTask", task, old),
        ("GetTaskPushNotificationConfig", CONFIG, CONFIG_03),
        ("ListTaskPushNotificationConfigs", {"configs": [CONFIG]}, {"configs": [CONFIG_03]}),
        ("DeleteTaskPushNotificationConfig", {}, {}),
    ):
        assert rest_result_to_03(name, new) == body
        assert rest_result_from_03(name, body) == new


def test_a_configuration_that_is_named_as_another_is_refused() -> None:
    with pytest.raises(NotConvertible, match=r"^name:"):
        rest_result_from_03("GetTaskPushNotificationConfig", {**CONFIG_03, "name": "tasks/t/pushNotificationConfigs/d"})


@pytest.mark.parametrize(
    ("code", "kind", "told"),
    [
        (-32001, "TaskNotFoundError", -32001),
        (-32009, "InvalidRequestError", -32600),
        (-32050, "InternalError", -32050),
        (-32602, "InvalidParamsError", -32602),
    ],
)
def test_an_error_is_told_by_its_type_and_by_its_code(code: int, kind: str, told: int) -> None:
    assert rest_error_to_03({"code": code, "message": "m"}) == {"type": kind, "code": told, "message": "m"}


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (404, {"type": "TaskNotFoundError", "message": "m"}, -32001),
        (400, {"code": -32002, "message": "m"}, -32002),
        (500, {"code": True, "message": "m"}, -32603),
        (400, {"error": {"message": "m", "details": [{"@type": "x", "reason": "TASK_NOT_CANCELABLE"}]}}, -32002),
        (404, {"message": "m"}, -32601),
        (400, "nonsense", -32600),
        (503, None, -32603),
    ],
)
def test_an_error_of_an_agent_is_understood_whatever_its_body(status: int, body: object, code: int) -> None:
    assert rest_error_from_03(status, body)["code"] == code


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("GetTaskPushNotificationConfig", {**CONFIG_03, "name": "projects/t"}),
        ("SendMessage", {}),
        ("SendMessage", {"task": {"id": "t"}, "message": {"messageId": "m", "role": "ROLE_AGENT"}}),
        ("ListTasks", {}),
    ],
)
def test_a_body_that_is_no_result_of_0_3_is_refused(name: str, body: object) -> None:
    with pytest.raises(NotConvertible):
        rest_result_from_03(name, body)


def test_a_configuration_without_an_id_has_no_name_in_0_3() -> None:
    with pytest.raises(NotConvertible, match=r"^id:"):
        rest_result_to_03("GetTaskPushNotificationConfig", {"taskId": "t", "url": "https://me.example"})
