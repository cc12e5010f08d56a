"""Reading: the forms that browsers send, and the JSON of the API that the pages are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from gateway import codec
from gateway.errors import InvalidCall
from gateway.listeners.approvals.requests import MAX_REASON, TooLarge
from gateway.listeners.http import BodyTooLarge, ClientLeft, read_body
from gateway.types import Result

MAX_FORM_BYTES: Final = 2 * 1024 * 1024
"""A body of this API, with each byte of its longest arguments written as three."""
_STANDING: Final = ("uses", "expires_s", "idle_s")


async def read_form(request: Request) -> Mapping[str, str]:
    """The fields of a form, each at most once. Raises `InvalidCall`."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise InvalidCall("this takes a form (application/x-www-form-urlencoded)")
    try:
        raw = await read_body(request.receive, MAX_FORM_BYTES)
        fields = parse_qsl(
            raw.decode(), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=20
        )
    except BodyTooLarge as exc:
        raise TooLarge(f"the form is longer than {MAX_FORM_BYTES} bytes") from exc
    except ClientLeft as exc:
        raise InvalidCall("the browser left before its form was complete") from exc
    except ValueError as exc:
        raise InvalidCall("the form cannot be read") from exc
    form = dict(fields)
    if len(form) != len(fields):
        raise InvalidCall("a field of the form came twice")
    return form


def vote_in(form: Mapping[str, str]) -> tuple[bool, dict[str, object]]:
    """Whether it is a yes, and the parameters of the vote as the API takes them. Raises `InvalidCall`."""
    reason = form.get("reason", "").replace("\r\n", "\n").strip()
    if len(reason) > MAX_REASON:
        raise InvalidCall(f"the reason is a text of at most {MAX_REASON} characters")
    params: dict[str, object] = {"seen": form.get("seen", "")}
    if reason:
        params["reason"] = reason
    match form.get("choice"):
        case "deny" if not reason:
            raise InvalidCall("say why not: whoever asks is told")
        case "deny":
            return False, params
        case "approve":
            return True, params
        case "approve-as-made":
            return True, {**params, "arguments": None, "standing": None}
        case "approve-edited":
            return True, {**params, "arguments": _arguments(form.get("arguments", "")), "standing": None}
        case "approve-standing":
            return True, {**params, "arguments": None, "standing": _standing(form)}
    raise InvalidCall("the form says neither yes nor no")


def answer_of(result: Result) -> Mapping[str, object]:
    """The JSON object of an answer of this API."""
    return members(codec.loads(result.payload))


def members(value: object) -> Mapping[str, object]:
    """The value where it is an object; an empty one otherwise."""
    return value if isinstance(value, Mapping) else {}


def objects(value: object) -> Sequence[Mapping[str, object]]:
    """The objects of a list."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def texts(value: object) -> Sequence[str]:
    """The texts of a list."""
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def text(value: object) -> str:
    """The value where it is a text; an empty one otherwise."""
    return value if isinstance(value, str) else ""


def number(value: object) -> int:
    """The value where it is a whole number; 0 otherwise."""
    return value if type(value) is int else 0


def _arguments(said: str) -> object:
    try:
        value = codec.loads(said.encode())
        json.loads(said, object_pairs_hook=_once)
    except (ValueError, RecursionError) as exc:
        raise InvalidCall(f"the arguments are not JSON: {exc}"[:300]) from exc
    if not isinstance(value, dict):
        raise InvalidCall("the arguments are to be a JSON object: {...}")
    return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Each name at most once: which of two would count is nothing that an approver sees."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _standing(form: Mapping[str, str]) -> Mapping[str, object]:
    numbers: dict[str, object] = {}
    for name in _STANDING:
        said = form.get(name, "").strip()
        if said and not (said.isascii() and said.isdigit() and len(said) < 16):
            raise InvalidCall(f"`{name}` of the standing grant is a whole number")
        if said:
            numbers[name] = int(said)
    return {**numbers, "any_arguments": form.get("any_arguments") == "yes"}
