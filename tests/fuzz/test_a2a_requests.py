"""What policy reads of an A2A request is what the SDK's parser reads of it, however the request is written."""

from __future__ import annotations

import json
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import pytest
from a2a.types import a2a_pb2
from a2a.utils.proto_utils import parse_params
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from gateway import codec
from gateway.a2a.facts import facts_of
from gateway.a2a.operations import OPERATIONS, Operation
from gateway.a2a.rest import allowed_verbs, rest_params, route_of
from gateway.a2a.strict import Malformed, canonical_request, parse_json, tasks_named, tenant_in
from gateway.errors import InputTooLarge
from gateway.types import FrozenDict

Members: TypeAlias = "list[tuple[str, Any]]"
"""An object as its members in order, so that one may stand twice."""


class Tree:
    """A JSON object whose members are damaged before it is written."""

    def __init__(self, members: Members) -> None:
        self.members = members


SECRET: Final = "s3cret"
TEXTS: Final = st.sampled_from(["", SECRET, f"{SECRET}\x00", "é " + SECRET, "x:y", ' ":', "null", "5", "\U0001f600"])
NUMBERS: Final = st.sampled_from(
    [0, 1, -1, 5, 2**31 - 1, 2**31, 2**53 + 1, 2**64, 10**30, -(10**30), 0.1, 1.0, -0.0, 1e22, 1e300, 2.5]
)
KEYS: Final = st.sampled_from(["", "task_id", "contextId", "a:", '":', "é", "url"])
JSON: Final = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
FREE: Final = st.dictionaries(KEYS, JSON, max_size=2)
IDS: Final = st.sampled_from(["t-1", "a:b", "x/y", "é", "%2F", "c d"])
TENANTS: Final = st.sampled_from(["", "acme", "other"])
BYTES: Final = st.sampled_from(["", "aGk=", "aGk", "-_-_", "+/+/", "aGl=", "AAAA", "a-b_", "QQ"])
TIMES: Final = st.sampled_from(
    ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456789Z", "0001-01-01T00:00:00Z", "2026-01-01T01:00:00+01:30",
     "9999-12-31T23:59:59.9Z", "2026-06-30T23:59:59-23:59"]
)  # fmt: skip


def members(needed: dict[str, st.SearchStrategy[Any]], others: dict[str, st.SearchStrategy[Any]]) -> Any:
    return st.fixed_dictionaries(needed, optional=others)


PARTS: Final = st.one_of(
    *(
        members({name: content}, {"metadata": FREE, "filename": TEXTS, "mediaType": TEXTS})
        for name, content in {"text": TEXTS, "raw": BYTES, "url": TEXTS, "data": JSON}.items()
    )
)
PUSH: Final = members(
    {"url": st.sampled_from(["https://example.com/hook", "http://[::1]/"])},
    {
        "id": IDS, "token": TEXTS, "tenant": TENANTS,
        "authentication": members({"scheme": st.just("Bearer")}, {"credentials": TEXTS}),
    },
)  # fmt: skip
COUNTS: Final = st.sampled_from([0, 1, 2**31 - 1, "7", 3.0])
SENDS: Final = members(
    {
        "message": members(
            {"messageId": IDS, "role": st.sampled_from(["ROLE_USER", "ROLE_AGENT"]), "parts": st.lists(PARTS,
             min_size=1, max_size=3)},
            {
                "contextId": IDS, "taskId": IDS, "metadata": FREE, "extensions": st.lists(TEXTS, max_size=2),
                "referenceTaskIds": st.lists(IDS, max_size=2),
            },
        )
    },
    {
        "tenant": TENANTS, "metadata": FREE,
        "configuration": members(
            {},
            {
                "acceptedOutputModes": st.lists(TEXTS, max_size=2), "historyLength": COUNTS,
                "returnImmediately": st.booleans(), "taskPushNotificationConfig": PUSH,
            },
        ),
    },
)  # fmt: skip
LISTS: Final = members(
    {},
    {
        "contextId": IDS, "status": st.sampled_from(["TASK_STATE_WORKING", "TASK_STATE_UNSPECIFIED"]),
        "pageSize": st.sampled_from([1, 100, "50"]), "pageToken": TEXTS, "historyLength": COUNTS,
        "statusTimestampAfter": TIMES, "includeArtifacts": st.booleans(), "tenant": TENANTS,
    },
)  # fmt: skip
TASK: Final = {"id": IDS}
CONFIG: Final = {"taskId": IDS, "id": IDS}
VALID: Final[dict[str, st.SearchStrategy[Any]]] = {
    "SendMessage": SENDS,
    "SendStreamingMessage": SENDS,
    "GetTask": members(TASK, {"historyLength": COUNTS, "tenant": TENANTS}),
    "ListTasks": LISTS,
    "CancelTask": members(TASK, {"metadata": FREE, "tenant": TENANTS}),
    "SubscribeToTask": members(TASK, {"tenant": TENANTS}),
    "CreateTaskPushNotificationConfig": PUSH.flatmap(lambda push: IDS.map(lambda task: {**push, "taskId": task})),
    "GetTaskPushNotificationConfig": members(CONFIG, {"tenant": TENANTS}),
    "ListTaskPushNotificationConfigs": members(
        {"taskId": IDS}, {"pageSize": COUNTS, "pageToken": TEXTS, "tenant": TENANTS}
    ),
    "DeleteTaskPushNotificationConfig": members(CONFIG, {"tenant": TENANTS}),
    "GetExtendedAgentCard": members({}, {"tenant": TENANTS}),
}
NAMES: Final = st.sampled_from(
    ["taskId", "task_id", "TaskId", "taskid", "contextId", "context_id", "message_id", "id", "url", "text", "raw",
     "data", "tenant",
     "Tenant", "task_push_notification_config", "taskPushNotificationConfig", "history_length", "configuration",
     "kind",
     "reference_task_ids", "tckUnknownField", "authentication", "parts", "role", "status", "", "page_size", "metadata"]
)  # fmt: skip


def tree_of(value: Any) -> Any:
    if isinstance(value, dict):
        return Tree([(name, tree_of(item)) for name, item in value.items()])
    return [tree_of(item) for item in value] if isinstance(value, list) else value


def objects_in(value: Any) -> list[Tree]:
    inner = [item for _, item in value.members] if isinstance(value, Tree) else value if isinstance(value, list) else []
    return ([value] if isinstance(value, Tree) else []) + [found for item in inner for found in objects_in(item)]


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def damage(draw: st.DrawFn, tree: Tree) -> None:
    """One change to one object of the request."""
    victim = draw(st.sampled_from(objects_in(tree))).members
    at = draw(st.integers(0, max(len(victim) - 1, 0)))
    what = draw(st.sampled_from(["rename", "again", "twist", "value", "add", "drop", "deep"]))
    if what == "add" or not victim:
        victim.insert(at, (draw(NAMES), tree_of(draw(JSON | IDS))))
        return
    name, value = victim[at]
    if what == "rename":
        victim[at] = (draw(st.sampled_from([snake(name), name.title(), name.lower(), name + "_"])), value)
    elif what == "again":
        victim.append((name, tree_of(draw(JSON | IDS))))
    elif what == "twist":
        victim.append((snake(name), tree_of(draw(JSON | IDS))))
    elif what == "value":
        victim[at] = (name, tree_of(draw(JSON | IDS | TIMES | BYTES)))
    elif what == "drop":
        del victim[at]
    else:
        deep: Any = value
        for _ in range(draw(st.sampled_from([1, 5, 40, 90]))):
            deep = draw(st.sampled_from([[deep], Tree([("a", deep)])]))
        victim[at] = (name, deep)


def written(draw: st.DrawFn, value: Any) -> str:
    """JSON text in one of the many ways there are to write it."""
    space = draw(st.sampled_from(["", "", "", " ", "\n\t "]))
    if isinstance(value, Tree):
        inner = [f"{name_of(draw, name)}{space}:{space}{written(draw, item)}" for name, item in value.members]
        return "{" + space + f"{space},".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(draw, item) for item in value) + space + "]"
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


def name_of(draw: st.DrawFn, name: str) -> str:
    if name and draw(st.integers(0, 9)) == 0:
        return '"' + "".join(f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else letter for letter in name) + '"'
    return json.dumps(name)


@st.composite
def requests(draw: st.DrawFn, damages: int) -> tuple[Operation, bytes]:
    name = draw(st.sampled_from([*VALID, *["SendMessage"] * 8]))
    tree = tree_of(draw(VALID[name]))
    for _ in range(draw(st.integers(0, damages))):
        damage(draw, tree)
    return OPERATIONS[name], written(draw, tree).encode()


def read_by_sdk(operation: Operation, raw: bytes) -> Message:
    message: Message = getattr(a2a_pb2, operation.message)()
    json_format.Parse(raw, message, ignore_unknown_fields=True)
    return message


def without_tenant(message: Any) -> Any:
    message.tenant = ""
    if isinstance(message, a2a_pb2.SendMessageRequest) and message.configuration.HasField(
        "task_push_notification_config"
    ):
        message.configuration.task_push_notification_config.tenant = ""
    return message


def thawed(value: object) -> Any:
    return json.loads(codec.dumps(value))


def accepted(operation: Operation, raw: bytes) -> FrozenDict | None:
    """The request as it would go on; `None` for a refusal, which shows no value."""
    try:
        return canonical_request(operation, parse_json(raw))
    except InputTooLarge:
        return None
    except Malformed as exc:
        refusal = str(exc)
    assert SECRET not in refusal
    return None


def check_what_policy_sees(operation: Operation, request: FrozenDict, sdk: Any) -> None:
    """The tasks and addresses that the SDK would act on are those that were asked about."""
    refs, facts = tasks_named(operation, request), facts_of(operation.name, request)
    message = sdk.message if isinstance(sdk, a2a_pb2.SendMessageRequest) else sdk
    task_id = getattr(message, "task_id", "") or ("" if operation.target == "tasks" else getattr(sdk, "id", ""))
    push = sdk.configuration.task_push_notification_config if message is not sdk else sdk
    assert refs.task_id == facts.get("task_id", "") == task_id
    assert refs.context_id == getattr(message, "context_id", "")
    assert list(refs.reference_task_ids) == list(getattr(message, "reference_task_ids", []))
    assert facts.get("push", False) == bool(getattr(push, "url", ""))
    if message is not sdk:
        assert facts["parts"] == len(message.parts)
        assert facts["part_kinds"] == sorted({part.WhichOneof("content") for part in message.parts})
        assert facts["return_immediately"] == sdk.configuration.return_immediately
        raws = [part for part in message.parts if part.WhichOneof("content") in {"raw", "text"}]
        size = facts["bytes"]
        assert isinstance(size, int)
        assert size >= sum(len(part.raw) + len(part.text.encode()) for part in raws)


@settings(max_examples=400, deadline=None)
@given(requests(damages=3))
def test_whatever_is_accepted_means_the_same_to_the_sdk(case: tuple[Operation, bytes]) -> None:
    operation, raw = case
    request = accepted(operation, raw)
    if request is None:
        return

    sent = codec.dumps(request)
    seen, understood = read_by_sdk(operation, sent), without_tenant(sdk := read_by_sdk(operation, raw))

    assert seen == understood
    assert json_format.MessageToDict(seen) == json_format.MessageToDict(understood)
    assert json.loads(raw).get("tenant") in {None, "", tenant_in(parse_json(raw))}
    check_what_policy_sees(operation, request, sdk)
    assert canonical_request(operation, parse_json(sent)) == request
    if "metadata" in request:
        assert thawed(request["metadata"]) == json.loads(raw)["metadata"]


@settings(max_examples=150, deadline=None)
@given(requests(damages=0))
def test_requests_without_damage_are_accepted(case: tuple[Operation, bytes]) -> None:
    operation, raw = case
    params: Any = parse_json(raw)
    push = params.get("configuration", {}).get("taskPushNotificationConfig", {})
    if push.get("tenant", "") not in ("", params.get("tenant")):
        return

    request = canonical_request(operation, params)

    assert request.keys() <= params.keys()


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_bytes_that_are_no_request_are_refused_or_read_as_others_read_them(data: st.DataObject) -> None:
    raw = bytearray(data.draw(requests(damages=1))[1])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        piece = data.draw(st.sampled_from(
            [b"", b"\x00", b'"', b"\\", b":", b",", b"{", b"}", b" ", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"NaN",
             b"1e999", b'"a":1,']
        ))  # fmt: skip
        raw[at : at + data.draw(st.integers(0, 2))] = piece

    try:
        value = parse_json(bytes(raw))
    except Malformed:
        return

    assert json.loads(raw, object_pairs_hook=json_format._DuplicateChecker) == value  # type: ignore[attr-defined]


@settings(max_examples=1_000, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "DELETE", "PUT"]),
    st.lists(
        st.sampled_from(
            ["tasks", "message:send", "message:stream", "extendedAgentCard", "pushNotificationConfigs", "t-1", "a:b",
             ":cancel",
             "t:cancel", "t:subscribe", "%2F", "%2e%2e", "..", "%3Acancel", "%", "%zz", "%C3%A9", "%ff", "acme", "",
             "é", "a b"]
        ),
        max_size=6,
    ).map(lambda segments: "/" + "/".join(segments)),
)  # fmt: skip
def test_a_path_leads_to_one_operation_on_ids_that_lead_back_to_it(verb: str, path: str) -> None:
    route = route_of(verb, path)

    assert (route is not None) == (verb in allowed_verbs(path))
    if route is None:
        return
    template = next(template for known, template in route.operation.routes if known == verb)
    rebuilt = template.format(**{name: quote(item, safe="") for name, item in route.ids.items()})
    assert all(item and "/" not in item and item.strip(".") for item in route.ids.values())
    assert route_of(verb, rebuilt if not route.tenant else f"/{quote(route.tenant, safe='')}{rebuilt}") == route


QUERY_NAMES: Final = st.sampled_from(
    ["contextId", "context_id", "status", "pageSize", "page_size", "pageToken", "historyLength", "statusTimestampAfter",
     "includeArtifacts", "tenant", "A2A-Version", "p%61geSize", "PageSize", "other", ""]
)  # fmt: skip
QUERY_VALUES: Final = st.sampled_from(
    ["", "1", "50", "101", "-1", "true", "false", "True", "TASK_STATE_WORKING", "2026-01-01T00:00:00Z", "a+b", "%41",
     "%ff", "%",
     "2026-01-01T00%3A00%3A00%2B01:00", "c", "1e1", "%C3%A9", "1=1"]
)  # fmt: skip


@settings(max_examples=1_000, deadline=None)
@given(st.lists(st.tuples(QUERY_NAMES, QUERY_VALUES), max_size=4))
def test_a_query_that_is_accepted_means_the_same_to_the_sdk(pairs: list[tuple[str, str]]) -> None:
    query = "&".join(f"{name}={value}" for name, value in pairs)
    route = route_of("GET", "/tasks")
    assert route is not None
    try:
        request = canonical_request(route.operation, rest_params(route, query.encode(), None))
    except Malformed:
        return
    understood = a2a_pb2.ListTasksRequest()

    parse_params(QueryParams(query), understood)

    assert read_by_sdk(route.operation, codec.dumps(request)) == without_tenant(understood)


@pytest.mark.parametrize("levels", [30, 31, 33, 62, 65, 500, 1_023, 1_025, 20_000])
@pytest.mark.parametrize(("opened", "closed"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"b":[', b"]}]")])
def test_nesting_has_an_end(levels: int, opened: bytes, closed: bytes) -> None:
    raw = b'{"id":"t","metadata":{"deep":' + opened * levels + b"1" + closed * levels + b"}}"
    operation = OPERATIONS["CancelTask"]

    try:
        request = canonical_request(operation, parse_json(raw))
    except (Malformed, InputTooLarge):
        assert levels * opened.count(b"[") + levels * opened.count(b"{") > 29
        return

    assert levels == 30
    assert thawed(request) == json.loads(raw)
