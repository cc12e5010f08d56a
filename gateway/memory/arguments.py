"""The arguments of the operations: what may be in them, and what a caller is told who gives something else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import InvalidCall

MAX_TEXT: Final = 16_384
MAX_QUERY: Final = 4_096
MAX_RECALLED: Final = 50
MAX_LISTED: Final = 200
MAX_IMPORTED: Final = 160_000
DEFAULT_NAMESPACE: Final = "default"

NAMESPACE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
KEY: Final = re.compile(r"[A-Za-z0-9._:@/-]{0,200}")
RECORD: Final = re.compile(r"[a-z]{3}-[A-Za-z0-9-]{1,64}")
_NAMESPACE: Final = f"^{NAMESPACE.pattern}$"
_KEY: Final = f"^{KEY.pattern}$"
_ID: Final = f"^{RECORD.pattern}(@[0-9]{{1,9}})?$"
Namespace = Annotated[str, Field(pattern=_NAMESPACE)]
AnyNamespace = Annotated[str, Field(pattern=rf"{_NAMESPACE}|^$")]
Key = Annotated[str, Field(pattern=_KEY)]
Id = Annotated[str, Field(pattern=_ID)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, pattern=r"\S")]
Moment = Annotated[str, Field(max_length=40)]
Short = Annotated[str, Field(max_length=300)]
Label = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.:-]{0,63}$")]
ScopeName = Literal["session", "agent", "team", "org"]
KindName = Literal["scratch", "episodic", "semantic", "procedural"]
SourceName = Literal["user", "tool", "agent", "model"]


class Arguments(BaseModel):
    """What all have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Said(Arguments):
    """Who said it, by the caller's account: it can lower what the record is worth, and never raise it."""

    type: SourceName | None = None
    ref: Short = ""
    model: Short = ""


class _Written(Arguments):
    text: Text
    source: Said = Said()
    labels: Annotated[list[Label], Field(max_length=32)] = []
    subjects: Annotated[list[Short], Field(max_length=32)] = []
    derived_from: Annotated[list[Id], Field(max_length=32)] = []
    valid_from: Moment = ""
    valid_to: Moment = ""


class Remember(_Written):
    """Arguments of `remember`."""

    namespace: Namespace = DEFAULT_NAMESPACE
    key: Key = ""
    scope: ScopeName = "agent"
    team: Short = ""
    kind: KindName = "semantic"
    expires_s: Annotated[int, Field(ge=1, le=10 * 366 * 86_400)] = 0


class Revise(_Written):
    """Arguments of `revise`."""

    id: Id
    expect: Annotated[str, Field(pattern=rf"{_ID}|^$")] = ""


class Recall(Arguments):
    """Arguments of `recall`."""

    query: Annotated[str, Field(min_length=1, max_length=MAX_QUERY, pattern=r"\S")]
    namespace: AnyNamespace = ""
    scope: ScopeName | None = None
    kind: KindName | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_RECALLED)] = 10
    min_trust: Annotated[float | int, Field(ge=0, le=1)] = 0
    as_of: Moment = ""
    as_recorded: Moment = ""


class ListRecords(Arguments):
    """Arguments of `list`."""

    namespace: AnyNamespace = ""
    scope: ScopeName | None = None
    kind: KindName | None = None
    after: Annotated[str, Field(max_length=20)] = ""
    limit: Annotated[int, Field(ge=1, le=MAX_LISTED)] = 50
    as_of: Moment = ""
    as_recorded: Moment = ""


class Get(Arguments):
    """Arguments of `get`: an id, or a namespace with a key."""

    id: Annotated[str, Field(pattern=rf"{_ID}|^$")] = ""
    namespace: AnyNamespace = ""
    key: Key = ""


class Forget(Arguments):
    """Arguments of `forget`."""

    id: Id
    reason: Short = ""
    erase: bool = False


class Export(Arguments):
    """Arguments of `export`."""

    namespace: AnyNamespace = ""
    format: Literal["jsonl", "markdown"] = "jsonl"
    whole: bool = False


class Import(Arguments):
    """Arguments of `import`: lines of an export."""

    lines: Annotated[str, Field(min_length=1, max_length=MAX_IMPORTED)]


class Why(Arguments):
    """Arguments of `why` and `history`."""

    id: Id
    whole: bool = False


class Review(Arguments):
    """Arguments of `review`."""

    namespace: AnyNamespace = ""
    after: Annotated[str, Field(max_length=20)] = ""
    limit: Annotated[int, Field(ge=1, le=MAX_LISTED)] = 50


class Verdict(Arguments):
    """Arguments of `approve` and `reject`."""

    id: Id
    reason: Short = ""
    expect: Annotated[str, Field(pattern=rf"{_ID}|^$")] = ""


class Rollback(Arguments):
    """Arguments of `rollback`: everything that such a source wrote since a moment."""

    since: Annotated[str, Field(min_length=1, max_length=40)]
    type: SourceName | Literal["import", "system"] | None = None
    ref: Short = ""
    agent: Short = ""
    subject: Short = ""
    session: Short = ""
    call: Short = ""
    model: Short = ""


class Erase(Arguments):
    """Arguments of `erase`."""

    subject: Annotated[str, Field(min_length=1, max_length=300)]


class Holds(Arguments):
    """Arguments of `holds`."""


class SetHold(Arguments):
    """Arguments of `hold`: a record, or a namespace with `/` after it."""

    target: Annotated[str, Field(pattern=f"{_ID}|^{NAMESPACE.pattern}/$")]
    reason: Annotated[str, Field(min_length=1, max_length=300)]


class LiftHold(Arguments):
    """Arguments of `lift`."""

    target: Annotated[str, Field(min_length=1, max_length=100)]


_Daily: TypeAlias = Remember | Revise | Recall | ListRecords | Get | Forget | Export
_Kept: TypeAlias = Import | Why | Review | Verdict | Rollback | Erase | Holds | SetHold | LiftHold
Given: TypeAlias = _Daily | _Kept

T = TypeVar("T", bound=Arguments)

KINDS: Final[Mapping[str, type[Given]]] = {
    "remember": Remember,
    "recall": Recall,
    "revise": Revise,
    "forget": Forget,
    "list": ListRecords,
    "export": Export,
    "get": Get,
    "why": Why,
    "history": Why,
    "review": Review,
    "approve": Verdict,
    "reject": Verdict,
    "rollback": Rollback,
    "erase": Erase,
    "import": Import,
    "holds": Holds,
    "hold": SetHold,
    "lift": LiftHold,
}
TOOLS: Final = ("remember", "recall", "revise", "forget", "list", "export")


def read(operation: str, given: Mapping[str, object]) -> Given:
    """The arguments of an operation. Raises `InvalidCall`, which names what to change and quotes no value."""
    kind = KINDS.get(operation)
    if kind is None:
        raise InvalidCall(f"the memory cannot {operation[:40]!r}; it can: {', '.join(KINDS)}")
    try:
        return kind.model_validate(_plain(given))
    except ValidationError as exc:
        faults = exc.errors(include_url=False, include_input=False, include_context=False)
    words = sorted({_what(fault["loc"], fault["type"], fault["msg"], kind) for fault in faults})
    raise InvalidCall(f"{operation}: {'; '.join(words)}")


def _plain(value: object) -> object:
    """A frozen value as strict validation wants it."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _what(place: tuple[int | str, ...], fault: str, message: str, kind: type[Given]) -> str:
    name = ".".join(str(part) for part in place)[:60]
    if fault == "extra_forbidden":
        return f"{name!r} is not an argument; there are: {', '.join(kind.model_fields)}"
    if fault == "missing":
        return f"{name} is missing"
    return f"{name}: {message[:1].lower()}{message[1:]}"
