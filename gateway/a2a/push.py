"""Push notifications go through the gateway: agents get an address of ours, and never the caller's or its credentials.

Which of a call's parameters make a configuration, what the upstream is told instead, and what the caller sees of it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol, cast

from gateway.a2a.push_records import Push, PushRecords, Receiver, digest
from gateway.a2a.sightings import MAX_ID_BYTES, is_id, sighted
from gateway.codec import JsonObject, JsonValue
from gateway.errors import InvalidCall, QuotaExceeded, UnknownResource, UpstreamProtocolError
from gateway.types import Authorized, Call, FrozenDict, Identity

CREATE: Final = "CreateTaskPushNotificationConfig"
GET: Final = "GetTaskPushNotificationConfig"
LIST: Final = "ListTaskPushNotificationConfigs"
DELETE: Final = "DeleteTaskPushNotificationConfig"
SENDS: Final = frozenset({"SendMessage", "SendStreamingMessage"})

MAX_URL: Final = 2_048
MAX_ID: Final = 256
MAX_SECRET: Final = 8_192
MAX_PER_TASK: Final = 16
"""How many configurations one task may have."""
MAX_AWAITED: Final = 10_000
"""How many calls may be in flight that make one."""

_SCHEME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_SECRET: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_MEMBERS: Final = frozenset({"id", "taskId", "url", "token", "authentication", "tenant"})


class AddressCheck(Protocol):
    """Judges where a caller wants notifications to be sent."""

    async def __call__(self, url: str) -> None:
        """Raises `InvalidCall` for what is no address to send to, `PolicyDenied` for one that may not be reached."""


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A configuration that a call in flight makes."""

    relay: str
    task_id: str
    config_id: str


class PushRelay:
    """The push notification part of a call, on its way to the upstream and of its result on the way back.

    A caller of `outgoing` calls `incoming` with each result or event, or `failed` when the upstream refused the call;
    and `over` in the end.
    """

    def __init__(
        self,
        records: PushRecords,
        *,
        webhook_url: Callable[[str, str], str],
        check: AddressCheck,
        new_secret: Callable[[], str],
    ) -> None:
        self._records = records
        self._webhook_url = webhook_url
        self._check = check
        self._new_secret = new_secret
        self._awaited: OrderedDict[str, _Awaited] = OrderedDict()
        self._guarded: set[str] = set()

    @contextmanager
    def guarding(self, call_id: str) -> Iterator[None]:
        """What is made by that call meanwhile was permitted under a redaction: its receiver gets states only."""
        self._guarded.add(call_id)
        try:
            yield
        finally:
            self._guarded.discard(call_id)

    async def outgoing(self, authorized: Authorized, params: Mapping[str, object]) -> Mapping[str, object]:
        """The parameters as the upstream is to see them. Raises `InvalidCall`, `PolicyDenied` and `UnknownResource`."""
        call = authorized.call
        if call.method in (GET, DELETE):
            await self._refuse_foreign(call, authorized.identity)
            return params
        config = config_in(call.method, params)
        if config is None:
            return params
        relayed = await self._relayed(authorized, config, _task_named(call.method, params, config))
        if call.method == CREATE:
            return FrozenDict(relayed)
        configuration = cast("Mapping[str, object]", params["configuration"])
        return FrozenDict(
            {**params, "configuration": FrozenDict({**configuration, "taskPushNotificationConfig": relayed})}
        )

    async def incoming(self, authorized: Authorized, value: JsonValue) -> JsonValue:
        """A result or an event as the caller is to see it; the same object where nothing of it changes."""
        call = authorized.call
        match call.method:
            case "CreateTaskPushNotificationConfig":
                return await self._created(call, value)
            case "GetTaskPushNotificationConfig":
                return await self._seen(call, authorized.identity, value)
            case "ListTaskPushNotificationConfigs":
                return await self._listed(call, authorized.identity, value)
            case "DeleteTaskPushNotificationConfig":
                await self._deleted(call, authorized.identity)
            case _ if call.id in self._awaited:
                await self._named(call, value)
        return value

    async def failed(self, authorized: Authorized) -> None:
        """The upstream refused the call: nothing will come of the configuration that it was to make."""
        awaited = self._awaited.pop(authorized.call.id, None)
        push = None if awaited is None else await self._records.of_digest(awaited.relay)
        if push is not None and push.pending:
            await self._records.drop(push)

    def over(self, authorized: Authorized) -> None:
        """The call ended, however it did. A configuration that it made stays: notifications may still name its task."""
        self._awaited.pop(authorized.call.id, None)

    # To the upstream

    async def _relayed(self, authorized: Authorized, config: Mapping[str, object], task_id: str) -> FrozenDict:
        call, receiver, config_id = authorized.call, receiver_in(config), _text(config, "id", MAX_ID)
        await self._check(receiver.url)
        await self._refuse_too_many(call, task_id, config_id)
        if call.method in SENDS:
            config_id = config_id or self._new_secret()  # nothing in the answer would tell which id it was given
        relay_id, token = self._new_secret(), self._new_secret()
        push = _push(authorized, receiver, digest(relay_id), digest(token), task_id, config_id)
        await self._records.add(replace(push, guarded=push.guarded or call.id in self._guarded))
        self._await(call.id, _Awaited(digest(relay_id), task_id, config_id))
        url = self._webhook_url(call.resource.upstream, relay_id)
        own = {"url": url, "token": token, "authentication": FrozenDict(scheme="Bearer", credentials=token)}
        named = {"id": config_id, "taskId": task_id if call.method == CREATE else ""}
        return FrozenDict({**{name: text for name, text in named.items() if text}, **own})

    def _await(self, call_id: str, awaited: _Awaited) -> None:
        self._awaited[call_id] = awaited
        if len(self._awaited) > MAX_AWAITED:
            self._awaited.popitem(last=False)

    async def _refuse_too_many(self, call: Call, task_id: str, config_id: str) -> None:
        kept = await self._records.of_task(call.resource.upstream, task_id) if task_id else ()
        if len(kept) >= MAX_PER_TASK and all(push.config_id != config_id for push in kept):
            raise QuotaExceeded(f"a task has at most {MAX_PER_TASK} push notification configurations; delete one first")

    async def _refuse_foreign(self, call: Call, identity: Identity) -> None:
        push = await self._find(call)
        if push is not None and push.owner != identity.principal:
            raise _unknown(call)

    # From the upstream

    async def _created(self, call: Call, value: JsonValue) -> JsonValue:
        awaited = self._awaited.pop(call.id, None)
        if awaited is None or not isinstance(value, dict):
            raise UpstreamProtocolError("the agent did not answer with a push notification configuration")
        config_id = value.get("id") or awaited.config_id
        if (
            not isinstance(config_id, str)
            or not is_id(config_id)
            or value.get("taskId", awaited.task_id) != awaited.task_id
        ):
            raise UpstreamProtocolError("the agent answered with the push notification configuration of another task")
        push = await self._records.complete(awaited.relay, awaited.task_id, config_id)
        if push is None:
            raise UnknownResource("the push notification configuration is gone again")
        return _shown(push)

    async def _named(self, call: Call, value: JsonValue) -> None:
        """The first result or event says which task an inline configuration is for."""
        awaited = self._awaited.pop(call.id)
        task_id = sighted(value).task_id if isinstance(value, dict) else ""
        if task_id and awaited.task_id in ("", task_id):
            await self._records.complete(awaited.relay, task_id, awaited.config_id)
            return
        push = await self._records.of_digest(awaited.relay)
        if push is not None and push.pending:  # answered with a message: there is no task to be told of
            await self._records.drop(push)

    async def _seen(self, call: Call, identity: Identity, value: JsonValue) -> JsonValue:
        if not isinstance(value, dict):
            raise UpstreamProtocolError("the agent did not answer with a push notification configuration")
        push = await self._find(call)
        if push is None or push.owner != identity.principal:
            raise _unknown(call)
        return _shown(push)

    async def _listed(self, call: Call, identity: Identity, value: JsonValue) -> JsonValue:
        configs = value.get("configs", []) if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(configs, list):
            raise UpstreamProtocolError("the agent did not answer with a list of push notification configurations")
        kept = await self._records.of_task(call.resource.upstream, _param(call, "taskId"))
        own = {push.config_id: push for push in kept if push.owner == identity.principal}
        ids = [config.get("id") for config in configs if isinstance(config, dict)]
        shown: list[JsonValue] = [_shown(own[name]) for name in ids if isinstance(name, str) and name in own]
        token = value.get("nextPageToken")
        return {"configs": shown, "nextPageToken": token} if isinstance(token, str) and token else {"configs": shown}

    async def _deleted(self, call: Call, identity: Identity) -> None:
        push = await self._find(call)
        if push is not None and push.owner == identity.principal:
            await self._records.drop(push)

    async def _find(self, call: Call) -> Push | None:
        kept = await self._records.of_task(call.resource.upstream, _param(call, "taskId"))
        wanted = _param(call, "id")
        return next((push for push in kept if push.config_id == wanted), None)


def config_in(method: str, params: Mapping[str, object]) -> Mapping[str, object] | None:
    """The push notification configuration that a call would make, if any."""
    if method == CREATE:
        return params
    if method not in SENDS:
        return None
    configuration = params.get("configuration")
    if not isinstance(configuration, Mapping):
        return None
    config = configuration.get("taskPushNotificationConfig")
    if config is not None and not isinstance(config, Mapping):
        raise InvalidCall("configuration.taskPushNotificationConfig is an object")
    return config


def creates(method: str, params: Mapping[str, object]) -> FrozenDict | None:
    """For a message that makes a configuration on the side: the parameters of `a2a.push.create` to ask policy about.

    They hold no secret. `None` for every other call, that of `CreateTaskPushNotificationConfig` included.
    """
    config = config_in(method, params) if method in SENDS else None
    if config is None:
        return None
    receiver = receiver_in(config)
    asked: dict[str, object] = {"url": receiver.url}
    names = {"id": _text(config, "id", MAX_ID), "taskId": _task_named(method, params, config)}
    asked |= {name: text for name, text in names.items() if text}
    if receiver.scheme:
        asked["authentication"] = FrozenDict(scheme=receiver.scheme)
    return FrozenDict(asked)


def receiver_in(config: Mapping[str, object]) -> Receiver:
    """Where a configuration wants notifications. Raises `InvalidCall` for what cannot stand in an HTTP request."""
    unknown = set(config) - _MEMBERS
    if unknown:
        raise InvalidCall("the push notification configuration holds a member that is not known here; leave it out")
    url = _text(config, "url", MAX_URL)
    if not url:
        raise InvalidCall("the push notification configuration has no url")
    token = _text(config, "token", MAX_SECRET)
    authentication = config.get("authentication")
    if authentication is None:
        return Receiver(url, _sendable(token, "token"))
    if not isinstance(authentication, Mapping) or set(authentication) - {"scheme", "credentials"}:
        raise InvalidCall("authentication of a push notification configuration holds scheme and credentials")
    scheme = _text(authentication, "scheme", MAX_SECRET)
    if not _SCHEME.fullmatch(scheme):
        raise InvalidCall("authentication.scheme is the name of an HTTP authentication scheme, such as Bearer")
    credentials = _sendable(_text(authentication, "credentials", MAX_SECRET), "authentication.credentials")
    return Receiver(url, _sendable(token, "token"), scheme, credentials)


def _push(  # what a record is made of
    authorized: Authorized, receiver: Receiver, relay: str, proof: str, task_id: str, config_id: str
) -> Push:
    call, identity = authorized.call, authorized.identity
    return Push(
        call.resource.upstream,
        identity.principal,
        relay,
        receiver,
        proof,
        task_id,
        config_id,
        version=call.protocol_version or "1.0",
        subject=identity.subject.id,
        tenant=identity.tenant,
        parent_id=call.id,
        chain=identity.delegation,
        guarded=any(obligation.type == "redact" for obligation in authorized.permit.obligations),
    )


def _task_named(method: str, params: Mapping[str, object], config: Mapping[str, object]) -> str:
    """The task that the configuration is for, if it exists already."""
    named = _text(config, "taskId", MAX_ID_BYTES)
    if method == CREATE:
        if not named:
            raise InvalidCall("the push notification configuration has no taskId")
        return named
    message = params.get("message")
    task_id = _text(message, "taskId", MAX_ID_BYTES) if isinstance(message, Mapping) else ""
    if named and named != task_id:
        raise InvalidCall("configuration.taskPushNotificationConfig.taskId: leave it out, the message names the task")
    return task_id


def _shown(push: Push) -> JsonObject:
    """A configuration as its owner sees it: as it was made, but for the credentials, which are never given out."""
    receiver = push.receiver
    shown: JsonObject = {"id": push.config_id, "taskId": push.task_id, "url": receiver.url}
    if receiver.token:
        shown["token"] = receiver.token
    if receiver.scheme:
        shown["authentication"] = {"scheme": receiver.scheme}
    return shown


def _text(value: Mapping[str, object], name: str, most: int) -> str:
    text = value.get(name, "")
    if not isinstance(text, str) or len(text) > most:
        raise InvalidCall(f"{name} of the push notification configuration is a text of at most {most} characters")
    if text and not text.isprintable():
        raise InvalidCall(f"{name} of the push notification configuration holds a control character")
    return text


def _sendable(text: str, name: str) -> str:
    if text and not _SECRET.fullmatch(text):
        raise InvalidCall(f"{name} of the push notification configuration cannot stand in an HTTP header")
    return text


def _param(call: Call, name: str) -> str:
    value = call.params.get(name)
    return value if isinstance(value, str) else ""


def _unknown(call: Call) -> UnknownResource:
    return UnknownResource(f"task {_param(call, 'taskId')!r} has no such push notification configuration")
