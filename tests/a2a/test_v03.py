"""Requests, results and events of A2A 0.3 as those of 1.0, and back."""

from __future__ import annotations

import pytest

from gateway import codec
from gateway.a2a import v03
from gateway.a2a.operations import OPERATIONS
from gateway.a2a.strict import canonical_request
from gateway.types import freeze

MESSAGE_03: dict[str, object] = {
    "kind": "message",
    "messageId": "m1",
    "role": "user",
    "taskId": "t1",
    "contextId": "c1",
    "referenceTaskIds": ["t0"],
    "metadata": {"free": {"snake_case": 9007199254740993}},
    "parts": [
        {"kind": "text", "text": "hello"},
        {"kind": "file", "file": {"bytes": "aGk=", "mimeType": "text/plain", "name": "hi.txt"}},
        {"kind": "file", "file": {"uri": "https://x.example/f"}, "metadata": {"a": 1}},
        {"kind": "data", "data": {"big": 9007199254740993, "n": 42}},
    ],
}
MESSAGE_10: dict[str, object] = {
    "messageId": "m1",
    "role": "ROLE_USER",
    "taskId": "t1",
    "contextId": "c1",
    "referenceTaskIds": ["t0"],
    "metadata": {"free": {"snake_case": 9007199254740993}},
    "parts": [
        {"text": "hello"},
        {"raw": "aGk=", "mediaType": "text/plain", "filename": "hi.txt"},
        {"url": "https://x.example/f", "metadata": {"a": 1}},
        {"data": {"big": 9007199254740993, "n": 42}},
    ],
}
TASK_03: dict[str, object] = {
    "kind": "task",
    "id": "t1",
    "contextId": "c1",
    "status": {"state": "input-required", "timestamp": "2026-01-02T03:04:05Z"},
}
TASK_10: dict[str, object] = {
    "id": "t1",
    "contextId": "c1",
    "status": {"state": "TASK_STATE_INPUT_REQUIRED", "timestamp": "2026-01-02T03:04:05Z"},
}
PUSH_03 = {
    "url": "https://me.example/hook",
    "id": "p1",
    "token": "tok",
    "authentication": {"schemes": ["Bearer"], "credentials": "c"},
}
PUSH_10 = {
    "url": "https://me.example/hook",
    "id": "p1",
    "token": "tok",
    "authentication": {"scheme": "Bearer", "credentials": "c"},
}

REQUESTS = [
    (
        "message/send",
        {
            "message": MESSAGE_03,
            "configuration": {
                "blocking": False,
                "historyLength": 3,
                "acceptedOutputModes": ["text/plain"],
                "pushNotificationConfig": PUSH_03,
            },
        },
        "SendMessage",
        {
            "message": MESSAGE_10,
            "configuration": {
                "returnImmediately": True,
                "historyLength": 3,
                "acceptedOutputModes": ["text/plain"],
                "taskPushNotificationConfig": PUSH_10,
            },
        },
    ),
    ("message/stream", {"message": MESSAGE_03}, "SendStreamingMessage", {"message": MESSAGE_10}),
    ("tasks/get", {"id": "t1", "historyLength": 2}, "GetTask", {"id": "t1", "historyLength": 2}),
    ("tasks/cancel", {"id": "t1", "metadata": {"a": 1}}, "CancelTask", {"id": "t1", "metadata": {"a": 1}}),
    ("tasks/resubscribe", {"id": "t1"}, "SubscribeToTask", {"id": "t1"}),
    (
        "tasks/pushNotificationConfig/set",
        {"taskId": "t1", "pushNotificationConfig": PUSH_03},
        "CreateTaskPushNotificationConfig",
        {"taskId": "t1", **PUSH_10},
    ),
    (
        "tasks/pushNotificationConfig/get",
        {"id": "t1", "pushNotificationConfigId": "p1"},
        "GetTaskPushNotificationConfig",
        {"taskId": "t1", "id": "p1"},
    ),
    ("tasks/pushNotificationConfig/list", {"id": "t1"}, "ListTaskPushNotificationConfigs", {"taskId": "t1"}),
    (
        "tasks/pushNotificationConfig/delete",
        {"id": "t1", "pushNotificationConfigId": "p1"},
        "DeleteTaskPushNotificationConfig",
        {"taskId": "t1", "id": "p1"},
    ),
    ("agent/getAuthenticatedExtendedCard", {}, "GetExtendedAgentCard", {}),
]


@pytest.mark.parametrize(("method", "old", "name", "new"), REQUESTS)
def test_each_request_of_0_3_is_one_of_1_0_and_back(method: str, old: object, name: str, new: object) -> None:
    up = v03.request_from_03(method, old)
    down = v03.request_to_03(name, new)

    assert up == (name, new)
    assert down == (method, old)


@pytest.mark.parametrize(("method", "old", "name", "new"), REQUESTS)
def test_what_goes_up_is_in_canonical_form_and_goes_down_from_the_frozen_one(
    method: str, old: object, name: str, new: dict[str, object]
) -> None:
    canonical = canonical_request(OPERATIONS[name], new)

    assert canonical == freeze(new)
    assert codec.loads(codec.canonical(v03.request_to_03(name, canonical)[1])) == old


def test_every_operation_that_0_3_has_is_converted() -> None:
    assert set(v03.METHODS.values()) == {name for _, _, name, _ in REQUESTS}
    assert set(v03.METHODS.values()) == OPERATIONS.keys() - {"ListTasks"}


@pytest.mark.parametrize("method", ["tasks/list", "SendMessage", "", "message/Send"])
def test_a_method_that_0_3_does_not_have_is_unknown(method: str) -> None:
    with pytest.raises(v03.UnknownMethod):
        v03.request_from_03(method, {})


def test_an_operation_that_0_3_does_not_have_cannot_go_down() -> None:
    with pytest.raises(v03.UnknownMethod):
        v03.request_to_03("ListTasks", {})


def test_what_0_3_says_beside_the_request_is_left_out_where_1_0_has_no_place() -> None:
    assert v03.request_from_03("tasks/get", {"id": "t", "metadata": {"a": 1}}) == ("GetTask", {"id": "t"})


def test_zero_history_is_no_limit_in_0_3() -> None:
    assert v03.request_from_03("tasks/get", {"id": "t", "historyLength": 0}) == ("GetTask", {"id": "t"})


def test_the_configuration_of_a_task_that_is_not_named_has_the_id_of_the_task() -> None:
    _, made = v03.request_from_03(
        "tasks/pushNotificationConfig/set", {"taskId": "t", "pushNotificationConfig": {"url": "https://me.example"}}
    )
    _, asked = v03.request_from_03("tasks/pushNotificationConfig/get", {"id": "t"})

    assert made == {"taskId": "t", "id": "t", "url": "https://me.example"}
    assert asked == {"taskId": "t", "id": "t"}


def test_a_blocking_call_is_said_to_be_one_because_the_defaults_differ() -> None:
    _, params = v03.request_to_03("SendMessage", {"message": MESSAGE_10, "configuration": {}})

    assert params["configuration"] == {"blocking": True}


def _sent(**parts_of_message: object) -> object:
    return {"message": {**MESSAGE_03, **parts_of_message}}


@pytest.mark.parametrize(
    ("params", "path"),
    [
        (None, "message"),
        ([], "the value"),
        ({"message": None}, "message"),
        ({"message": MESSAGE_03, "tenant": "x"}, "tenant"),
        ({"message": MESSAGE_03, "task_id": "x"}, "task_id"),
        (_sent(task_id="x"), "message.task_id"),
        (_sent(kind="task"), "message.kind"),
        (_sent(role="ROLE_USER"), "message.role"),
        (_sent(parts="x"), "message.parts"),
        (_sent(parts=[1]), "message.parts[0]"),
        (_sent(parts=[{"kind": "text", "text": 1}]), "message.parts[0].text"),
        (_sent(parts=[{"kind": "text", "text": "a", "raw": "aGk="}]), "message.parts[0].raw"),
        (_sent(parts=[{"kind": "text", "text": "a", "mediaType": "x"}]), "message.parts[0].mediaType"),
        (_sent(parts=[{"kind": "data", "text": "a"}]), "message.parts[0].kind"),
        (_sent(parts=[{"kind": "text", "text": "a", "data": {}}]), "message.parts[0]"),
        (_sent(parts=[{"kind": "data", "data": [1]}]), "message.parts[0].data"),
        (_sent(parts=[{"kind": "file", "file": {"uri": "u", "bytes": "aGk="}}]), "message.parts[0].file"),
        (_sent(parts=[{"kind": "file", "file": {"bytes": "a b"}}]), "message.parts[0].file.bytes"),
        (_sent(parts=[{"kind": "file", "file": {"uri": "u", "url": "v"}}]), "message.parts[0].file.url"),
        (_sent(extensions=[1]), "message.extensions[0]"),
        (_sent(metadata=[]), "message.metadata"),
        ({"message": MESSAGE_03, "configuration": {"returnImmediately": True}}, "configuration.returnImmediately"),
        ({"message": MESSAGE_03, "configuration": {"blocking": "yes"}}, "configuration.blocking"),
        ({"message": MESSAGE_03, "configuration": {"historyLength": 5.0}}, "configuration.historyLength"),
        ({"message": MESSAGE_03, "configuration": {"historyLength": True}}, "configuration.historyLength"),
        ({"message": MESSAGE_03, "configuration": {"historyLength": -1}}, "configuration.historyLength"),
        (
            {"message": MESSAGE_03, "configuration": {"taskPushNotificationConfig": PUSH_10}},
            "configuration.taskPushNotificationConfig",
        ),
        (
            {"message": MESSAGE_03, "configuration": {"pushNotificationConfig": {"url": 1}}},
            "configuration.pushNotificationConfig.url",
        ),
    ],
)
def test_a_request_that_is_not_exactly_one_of_0_3_is_refused_by_its_path(params: object, path: str) -> None:
    with pytest.raises(v03.NotConvertible) as refused:
        v03.request_from_03("message/send", params)

    assert str(refused.value).startswith(path + ":")


def test_a_refusal_shows_a_strange_name_short_and_plain_and_never_a_value() -> None:
    with pytest.raises(v03.NotConvertible) as refused:
        v03.request_from_03("tasks/get", {"id": "t", "\ud800\n" + "x" * 1_000: "secret"})

    assert str(refused.value).isascii()
    assert len(str(refused.value)) < 200
    assert "secret" not in str(refused.value)


RESULTS = [
    ("SendMessage", {"task": TASK_10}, TASK_03),
    ("SendMessage", {"message": MESSAGE_10}, MESSAGE_03),
    ("GetTask", TASK_10, TASK_03),
    ("CancelTask", TASK_10, TASK_03),
    (
        "CreateTaskPushNotificationConfig",
        {"taskId": "t1", **PUSH_10},
        {"taskId": "t1", "pushNotificationConfig": PUSH_03},
    ),
    (
        "GetTaskPushNotificationConfig",
        {"taskId": "t1", **PUSH_10},
        {"taskId": "t1", "pushNotificationConfig": PUSH_03},
    ),
    (
        "ListTaskPushNotificationConfigs",
        {"configs": [{"taskId": "t1", **PUSH_10}]},
        [{"taskId": "t1", "pushNotificationConfig": PUSH_03}],
    ),
    ("DeleteTaskPushNotificationConfig", {}, None),
]


@pytest.mark.parametrize(("name", "new", "old"), RESULTS)
def test_each_result_of_1_0_is_one_of_0_3_and_back(name: str, new: object, old: object) -> None:
    assert v03.result_to_03(name, new) == old
    assert v03.result_from_03(name, old) == new


EVENTS: list[tuple[dict[str, object], dict[str, object]]] = [
    ({"task": TASK_10}, TASK_03),
    ({"message": MESSAGE_10}, MESSAGE_03),
    (
        {"statusUpdate": {"taskId": "t1", "contextId": "c1", "status": {"state": "TASK_STATE_WORKING"}}},
        {"kind": "status-update", "taskId": "t1", "contextId": "c1", "status": {"state": "working"}, "final": False},
    ),
    (
        {
            "artifactUpdate": {
                "taskId": "t1",
                "contextId": "c1",
                "append": True,
                "lastChunk": False,
                "artifact": {"artifactId": "a", "name": "n", "parts": [{"text": "x"}]},
            }
        },
        {
            "kind": "artifact-update",
            "taskId": "t1",
            "contextId": "c1",
            "append": True,
            "lastChunk": False,
            "artifact": {"artifactId": "a", "name": "n", "parts": [{"kind": "text", "text": "x"}]},
        },
    ),
]


@pytest.mark.parametrize(("new", "old"), EVENTS)
def test_each_event_of_1_0_is_one_of_0_3_and_back(new: object, old: object) -> None:
    assert v03.event_to_03(new) == old
    assert v03.event_from_03(old) == new


@pytest.mark.parametrize(
    ("state", "old", "final"),
    [
        ("TASK_STATE_SUBMITTED", "submitted", False),
        ("TASK_STATE_WORKING", "working", False),
        ("TASK_STATE_INPUT_REQUIRED", "input-required", True),
        ("TASK_STATE_AUTH_REQUIRED", "auth-required", True),
        ("TASK_STATE_COMPLETED", "completed", True),
        ("TASK_STATE_CANCELED", "canceled", True),
        ("TASK_STATE_FAILED", "failed", True),
        ("TASK_STATE_REJECTED", "rejected", True),
        ("TASK_STATE_UNSPECIFIED", "unknown", False),
        ("TASK_STATE_OF_1_9", "unknown", False),
    ],
)
def test_an_update_is_final_where_the_state_is_terminal_or_interrupted(state: str, old: str, final: bool) -> None:
    update = v03.event_to_03({"statusUpdate": {"taskId": "t", "contextId": "c", "status": {"state": state}}})

    assert update == {
        "kind": "status-update",
        "taskId": "t",
        "contextId": "c",
        "status": {"state": old},
        "final": final,
    }


def test_what_1_0_leaves_out_as_empty_is_there_for_0_3() -> None:
    assert v03.result_to_03("GetTask", {"id": "t", "status": {}}) == {
        "kind": "task",
        "id": "t",
        "contextId": "",
        "status": {"state": "unknown"},
    }


def test_an_early_server_of_0_3_may_leave_out_what_kind_a_result_is() -> None:
    bare = {name: value for name, value in TASK_03.items() if name != "kind"}

    assert v03.result_from_03("SendMessage", bare) == {"task": TASK_10}


@pytest.mark.parametrize(
    ("time", "utc"),
    [
        ("2026-01-02T03:04:05.123456+00:00", "2026-01-02T03:04:05.123456Z"),
        ("2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:05.123456789Z"),
        ("2026-01-02T05:04:05+02:00", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05", "2026-01-02T03:04:05Z"),
    ],
)
def test_times_of_0_3_become_utc(time: str, utc: str) -> None:
    task = v03.result_from_03("GetTask", {**TASK_03, "status": {"state": "working", "timestamp": time}})

    assert task == {**TASK_10, "status": {"state": "TASK_STATE_WORKING", "timestamp": utc}}


def test_unknown_members_of_results_stay() -> None:
    old = v03.result_to_03("GetTask", {**TASK_10, "vendor": {"a": [1]}})
    new = v03.result_from_03("GetTask", {**TASK_03, "vendor": {"a": [1]}})

    assert old == {**TASK_03, "vendor": {"a": [1]}}
    assert new == {**TASK_10, "vendor": {"a": [1]}}


def test_an_unknown_member_cannot_pass_for_one_that_the_other_version_knows() -> None:
    task = v03.result_from_03("GetTask", {**TASK_03, "context_id": "someone-else"})
    update = v03.event_to_03({"statusUpdate": {"taskId": "t", "status": {}, "final": True, "kind": "task"}})
    part = v03.result_from_03("SendMessage", {**MESSAGE_03, "parts": [{"kind": "text", "text": "a", "raw": "aGk="}]})

    assert task == TASK_10
    assert update == {
        "kind": "status-update",
        "taskId": "t",
        "contextId": "",
        "status": {"state": "unknown"},
        "final": False,
    }
    assert part == {"message": {**MESSAGE_10, "parts": [{"text": "a"}]}}


def test_data_that_is_no_object_is_wrapped_for_0_3_and_unwrapped_again() -> None:
    message = {**MESSAGE_10, "parts": [{"data": [1, None]}, {"data": None}, {"data": 7, "metadata": {"a": 1}}]}

    old = v03.result_to_03("SendMessage", {"message": message})

    assert isinstance(old, dict)
    assert old["parts"][0] == {"kind": "data", "data": {"value": [1, None]}, "metadata": {"data_part_compat": True}}
    assert v03.result_from_03("SendMessage", old) == {"message": message}


@pytest.mark.parametrize("time", ["yesterday", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+14:00", 5])
def test_a_time_that_is_none_is_refused(time: object) -> None:
    with pytest.raises(v03.NotConvertible, match=r"^status\.timestamp:"):
        v03.result_from_03("GetTask", {**TASK_03, "status": {"state": "working", "timestamp": time}})


@pytest.mark.parametrize("name", ["SendMessage", "GetTask", "ListTaskPushNotificationConfigs", "ListTasks", "x"])
@pytest.mark.parametrize("result", [None, 1, "x", {"kind": "y"}, {"task": None}, {"configs": 1}])
def test_a_result_that_is_none_is_refused(name: str, result: object) -> None:
    if (name, result) == ("ListTaskPushNotificationConfigs", {"task": None}):
        result = {"configs": [None]}
    if name != "ListTaskPushNotificationConfigs" or result != {"kind": "y"}:
        with pytest.raises(v03.NotConvertible):
            v03.result_to_03(name, result)
    with pytest.raises(v03.NotConvertible):
        v03.result_from_03(name, result)


def test_a_list_without_configurations_is_empty() -> None:
    assert v03.result_to_03("ListTaskPushNotificationConfigs", {}) == []


def test_only_the_first_page_of_configurations_can_be_asked_of_an_agent_of_0_3() -> None:
    asked = {"taskId": "t", "pageSize": 5, "pageToken": ""}

    assert v03.request_to_03("ListTaskPushNotificationConfigs", asked)[1] == {"id": "t"}
    with pytest.raises(v03.NotConvertible, match="pageToken"):
        v03.request_to_03("ListTaskPushNotificationConfigs", {**asked, "pageToken": "next"})


def test_metadata_that_would_change_the_meaning_of_data_in_0_3_is_refused() -> None:
    part = {"data": {"value": "shown", "decoy": 1}, "metadata": {"data_part_compat": True}}

    with pytest.raises(v03.NotConvertible, match="data_part_compat"):
        v03.request_to_03("SendMessage", {"message": {**MESSAGE_10, "parts": [part]}})


def test_wrapped_data_may_hold_nothing_beside_the_value() -> None:
    part = {"kind": "data", "data": {"value": 1, "decoy": 2}, "metadata": {"data_part_compat": True}}

    with pytest.raises(v03.NotConvertible, match=r"parts\[0\]\.data"):
        v03.request_from_03("message/send", _sent(parts=[part]))


def test_no_scheme_of_authentication_is_left_for_the_check_of_the_canonical_form() -> None:
    push = {"url": "https://me.example", "id": "p", "authentication": {"schemes": []}}

    _, request = v03.request_from_03(
        "tasks/pushNotificationConfig/set", {"taskId": "t", "pushNotificationConfig": push}
    )

    assert request["authentication"] == {}


def test_the_extended_card_is_read_by_clients_of_both_versions() -> None:
    legacy = {"url": "https://gw.example/a", "protocolBinding": "JSONRPC", "protocolVersion": "0.3"}
    card = {"name": "n", "capabilities": {}, "supportedInterfaces": [legacy]}

    old = v03.result_to_03("GetExtendedAgentCard", card)

    assert isinstance(old, dict)
    assert (old["url"], old["preferredTransport"], old["skills"]) == ("https://gw.example/a", "JSONRPC", [])
    assert v03.is_legacy("0.3.0")
    assert not v03.is_legacy("0.30")
