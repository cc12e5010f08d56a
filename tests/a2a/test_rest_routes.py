"""Paths, verbs and queries of the HTTP+JSON binding lead to operations, and to nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.a2a.facts import facts_of, host_of
from gateway.a2a.operations import OPERATIONS
from gateway.a2a.rest import Route, allowed_verbs, rest_params, route_of
from gateway.a2a.strict import Malformed, canonical_request


def route(verb: str, path: str) -> Route:
    found = route_of(verb, path)
    assert found is not None, path
    return found


def listed(query: bytes) -> dict[str, object]:
    found = route("GET", "/tasks")
    return dict(canonical_request(found.operation, rest_params(found, query, None)))


@pytest.mark.parametrize("prefix", ["", "/acme"])
@pytest.mark.parametrize(
    ("verb", "path", "name", "ids"),
    [
        ("POST", "/message:send", "SendMessage", {}),
        ("POST", "/message:stream", "SendStreamingMessage", {}),
        ("GET", "/tasks", "ListTasks", {}),
        ("GET", "/tasks/t-1", "GetTask", {"id": "t-1"}),
        ("GET", "/tasks/urn:a:b", "GetTask", {"id": "urn:a:b"}),
        ("GET", "/tasks/a%20b%253A", "GetTask", {"id": "a b%3A"}),
        ("GET", "/tasks/%C3%A9", "GetTask", {"id": "é"}),
        ("POST", "/tasks/t-1:cancel", "CancelTask", {"id": "t-1"}),
        ("POST", "/tasks/a:b:cancel", "CancelTask", {"id": "a:b"}),
        ("GET", "/tasks/t-1:subscribe", "SubscribeToTask", {"id": "t-1"}),
        ("POST", "/tasks/t-1:subscribe", "SubscribeToTask", {"id": "t-1"}),
        ("POST", "/tasks/t/pushNotificationConfigs", "CreateTaskPushNotificationConfig", {"taskId": "t"}),
        ("GET", "/tasks/t/pushNotificationConfigs", "ListTaskPushNotificationConfigs", {"taskId": "t"}),
        ("GET", "/tasks/t/pushNotificationConfigs/p", "GetTaskPushNotificationConfig", {"taskId": "t", "id": "p"}),
        ("DELETE", "/tasks/t/pushNotificationConfigs/p", "DeleteTaskPushNotificationConfig",
         {"taskId": "t", "id": "p"}),
        ("GET", "/extendedAgentCard", "GetExtendedAgentCard", {}),
    ],
)  # fmt: skip
def test_each_route_leads_to_its_operation(prefix: str, verb: str, path: str, name: str, ids: dict[str, str]) -> None:
    found = route(verb, prefix + path)

    assert (found.operation.name, dict(found.ids), found.tenant) == (name, ids, prefix[1:])
    assert verb in allowed_verbs(prefix + path)


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "message:send", "/message", "/message:send/", "/tasks/", "/tasks//", "//tasks", "/tasks/a/b",
        "/tasks/a%2Fb", "/tasks/a%2fpushNotificationConfigs", "/tasks/%", "/tasks/%zz", "/tasks/%ff", "/tasks/%00",
        "/tasks/..", "/tasks/%2e%2e", "/tasks/t/pushNotificationConfigs/..", "/tasks/t/pushNotificationConfigs/",
        "/tasks/:cancel", "/tasks/a:cancel:cancel", "/tasks/a%3Acancel", "/tasks/é", "/a/b/tasks", "/a%2Fb/tasks",
        "/Tasks", "/TASKS/t", "/card", "/.well-known/agent-card.json", "/v1/message:send/x", "/tasks/t\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_other_paths_lead_nowhere(verb: str, path: str) -> None:
    assert route_of(verb, path) is None
    assert allowed_verbs(path) == ()


@pytest.mark.parametrize(
    ("path", "verbs"),
    [
        ("/message:send", ("POST",)), ("/tasks", ("GET",)), ("/tasks/t", ("GET",)), ("/tasks/t:cancel", ("POST",)),
        ("/tasks/t:subscribe", ("GET", "POST")), ("/tasks/t/pushNotificationConfigs", ("GET", "POST")),
        ("/tasks/t/pushNotificationConfigs/p", ("DELETE", "GET")), ("/acme/tasks/t:cancel", ("POST",)),
        ("/tasks/message:send", ("GET",)),
    ],
)  # fmt: skip
def test_a_path_tells_which_verbs_it_takes(path: str, verbs: tuple[str, ...]) -> None:
    assert allowed_verbs(path) == verbs
    for verb in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "get"} - set(verbs):
        assert route_of(verb, path) is None


def test_a_query_is_read_with_the_types_of_the_message() -> None:
    query = (
        b"contextId=a%20b+c&status=TASK_STATE_WORKING&pageSize=10&includeArtifacts=true&A2A-Version=1.0&historyLength=0"
    )

    assert listed(query + b"&statusTimestampAfter=2026-01-01T00:00:00Z&other=1&other=2") == {
        "contextId": "a b c", "status": "TASK_STATE_WORKING", "pageSize": 10, "includeArtifacts": True,
        "historyLength": 0, "statusTimestampAfter": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    assert listed(b"") == {}


@pytest.mark.parametrize(
    "query",
    [
        b"page_size=1", b"PageSize=1", b"context%5Fid=c", b"pageSize=1&pageSize=2", b"pageSize=1&p%61geSize=1",
        b"pageSize=",
        b"pageSize=0", b"pageSize=1.5", b"includeArtifacts=True", b"includeArtifacts=1", b"includeArtifacts",
        b"contextId=%zz",
        b"contextId=%ff", b"contextId=\xc3\xa9", b"historyLength=-1", b"status=working",
    ],
)  # fmt: skip
def test_a_query_that_could_be_read_in_two_ways_is_refused(query: bytes) -> None:
    with pytest.raises(Malformed):
        listed(query)


def test_path_and_body_make_one_request() -> None:
    found = route("POST", "/acme/tasks/t/pushNotificationConfigs")

    params = rest_params(found, b"A2A-Version=1.0", {"url": "https://example.com", "taskId": "t", "tenant": "acme"})

    assert params == {"url": "https://example.com", "taskId": "t", "tenant": "acme"}


@pytest.mark.parametrize(
    ("verb", "path", "query", "body"),
    [
        ("POST", "/tasks/t/pushNotificationConfigs", b"", {"url": "u", "taskId": "other"}),
        ("POST", "/tasks/t/pushNotificationConfigs", b"", {"url": "u", "taskId": 7}),
        ("POST", "/acme/tasks/t:cancel", b"", {"tenant": "other"}),
        ("POST", "/tasks/t:cancel", b"", {"id": "other"}),
        ("POST", "/tasks/t:cancel", b"id=t", None),
        ("GET", "/tasks/t", b"id=other", None),
        ("GET", "/acme/tasks/t", b"tenant=other", None),
        ("GET", "/tasks/t", b"", {"historyLength": 1}),
        ("DELETE", "/tasks/t/pushNotificationConfigs/p", b"taskId=other", None),
    ],
)
def test_what_contradicts_the_path_is_refused(verb: str, path: str, query: bytes, body: dict[str, Any] | None) -> None:
    with pytest.raises(Malformed):
        rest_params(route(verb, path), query, body)


def test_an_alias_beside_the_id_of_the_path_is_refused() -> None:
    found = route("POST", "/tasks/t/pushNotificationConfigs")
    params = rest_params(found, b"", {"url": "https://example.com", "task_id": "other"})

    with pytest.raises(Malformed, match="task_id: write it taskId"):
        canonical_request(found.operation, params)


# Facts


def test_policy_learns_what_a_message_carries() -> None:
    parts = [
        {"text": "héllo"}, {"raw": "aGk=", "mediaType": "Image/PNG; q=1"}, {"data": {"a": 1}}, {"raw": "aGkh"},
        {"url": "https://Files.Example.com./a"}, {"url": "https://user@evil.example\\@good.example/"},
    ]  # fmt: skip
    push = {"url": "http://[::1]:80/x"}
    request = canonical_request(
        OPERATIONS["SendMessage"],
        {
            "message": {"messageId": "m", "role": "ROLE_USER", "parts": parts, "taskId": "t"},
            "configuration": {"taskPushNotificationConfig": push, "acceptedOutputModes": ["text/plain"]},
        },
    )

    assert facts_of("SendMessage", request) == {
        "role": "ROLE_USER", "parts": 6, "part_kinds": ["data", "raw", "text", "url"],
        "media_types": ["application/json", "application/octet-stream", "image/png", "text/plain"],
        "bytes": 6 + 2 + 7 + 3, "has_url_parts": True, "url_hosts": ["", "files.example.com"],
        "task_id": "t", "context_id": "", "reference_task_ids": [], "accepted_output_modes": ["text/plain"],
        "return_immediately": False, "history_length": -1, "push": True, "push_scheme": "http", "push_host": "::1",
    }  # fmt: skip


def test_policy_learns_the_task_and_where_notifications_go() -> None:
    assert facts_of("CreateTaskPushNotificationConfig", {"taskId": "t", "url": "https://h.example:8443/x"}) == {
        "task_id": "t", "push": True, "push_scheme": "https", "push_host": "h.example",
    }  # fmt: skip
    assert facts_of("GetTask", {"id": "t", "historyLength": 3})["task_id"] == "t"
    assert facts_of("GetTaskPushNotificationConfig", {"taskId": "t", "id": "p"})["task_id"] == "t"
    assert facts_of("ListTasks", {"contextId": "c"}) == {"task_id": "", "context_id": "c", "history_length": -1}


@pytest.mark.parametrize(
    "url",
    [None, 1, "", "x", "https://", "https:///a", "http://a b/", "http://a\tb/", "http://[::1/", "http://%61/",
    "http://é/",
     "http://a\\b/", "data:text/plain,hi", "http://./"],
)  # fmt: skip
def test_an_address_whose_host_parsers_might_dispute_has_none(url: object) -> None:
    assert host_of(url) == ("", "")
