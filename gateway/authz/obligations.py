"""The obligations that this gateway can carry out, as types; whatever else policy asks for is a refusal.

Several obligations of one type merge to the strictest (policy contract, "Answer").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar

from gateway.authz.caching import Cache, merge_caches, read_cache
from gateway.authz.egress import Egress, merge_egress, read_egress
from gateway.authz.findings import KINDS
from gateway.authz.isolation import Sandbox, merge_sandboxes, read_sandbox
from gateway.authz.modelling import Model, merge_models, read_model
from gateway.authz.narrowing import Narrowing, merge_narrowings, narrowing_of
from gateway.authz.paths import JsonPath, parse_path
from gateway.authz.patterns import PATTERNS
from gateway.authz.reading import UnsupportedObligation, fields_of, flag, texts_of, whole_number
from gateway.authz.spending import merge_budgets, merge_costs, read_budget, read_cost
from gateway.spending import Budget, Cost
from gateway.types import EMPTY, Obligation

MAX_OBLIGATIONS: Final = 64
MAX_LABELS: Final = 32
MAX_LABEL: Final = 64
MAX_LIMIT: Final = 30_000
MAX_WINDOW_S: Final = 86_400
MAX_KEY: Final = 256

MAX_CAP: Final = 1 << 30

T = TypeVar("T")
Mode: TypeAlias = Literal["mask", "remove"]


@dataclass(frozen=True, slots=True)
class Redact(Obligation):
    """Replace parts of the result: what `paths` reach, what looks like one of `patterns`, what `detectors` find.

    `mode` is about the last: `mask` leaves a mark in its place, `remove` nothing.
    """

    paths: tuple[JsonPath, ...] = ()
    patterns: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()
    mode: Mode = "mask"


@dataclass(frozen=True, slots=True)
class Transform(Obligation):
    """Narrow arguments before the call."""

    narrowings: tuple[Narrowing, ...] = ()


@dataclass(frozen=True, slots=True)
class Rate(Obligation):
    """At most `limit` calls in `window_s` seconds, counted per `key` (empty: per caller) and resource."""

    limit: int = 0
    window_s: int = 1
    key: str = ""


@dataclass(frozen=True, slots=True)
class Audit(Obligation):
    """How the call is recorded: on disk before its effect (`durable`), with its arguments (`arguments`)."""

    durable: bool = False
    arguments: bool = False


@dataclass(frozen=True, slots=True)
class Label(Obligation):
    """Put labels on the result; the session remembers them."""

    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cap(Obligation):
    """Hand out at most so many bytes of the result; of a streamed one, of all its events together."""

    max_bytes: int = 1


Supported: TypeAlias = (
    Redact | Transform | Rate | Audit | Label | Cap | Sandbox | Egress | Budget | Cost | Model | Cache
)

REDACT_FIELDS: Final = frozenset({"paths", "patterns", "pattern", "detectors", "mode"})
CAP_FIELDS: Final = frozenset({"max_bytes"})
RATE_FIELDS: Final = frozenset({"limit", "window_s", "key"})
AUDIT_FIELDS: Final = frozenset({"durable", "arguments"})
LABEL_FIELDS: Final = frozenset({"labels"})


def obligations_in(entries: object) -> tuple[Supported, ...]:
    """Read and merge what policy asks for. Raises `UnsupportedObligation`: then there is no permit."""
    if not isinstance(entries, Sequence) or isinstance(entries, str) or len(entries) > MAX_OBLIGATIONS:
        raise UnsupportedObligation(f"obligations must be a list of at most {MAX_OBLIGATIONS}")
    return merge_obligations([_read(entry) for entry in entries])


def _read(entry: object) -> Supported:
    if not isinstance(entry, Mapping) or not entry.keys() <= {"type", "properties", "id"}:
        raise UnsupportedObligation("an obligation is an object with type and properties")
    kind = entry.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise UnsupportedObligation(f"only {', '.join(sorted(_READERS))} can be carried out")
    return reader(entry.get("properties", EMPTY))


def _redact(properties: object) -> Redact:
    fields = fields_of(properties, REDACT_FIELDS, "redact")
    paths = texts_of(fields.get("paths"), "redact: paths")
    patterns = texts_of(fields.get("patterns"), "redact: patterns") + texts_of(fields.get("pattern"), "redact: pattern")
    detectors = texts_of(fields.get("detectors"), "redact: detectors")
    if not paths and not patterns and not detectors:
        raise UnsupportedObligation("redact: give paths, patterns or detectors")
    if not PATTERNS.keys() >= set(patterns):
        raise UnsupportedObligation(f"redact: the patterns are {', '.join(sorted(PATTERNS))}")
    if not KINDS.issuperset(detectors):
        raise UnsupportedObligation(f"redact: the detectors are {', '.join(sorted(KINDS))}")
    try:
        parsed = tuple([parse_path(path) for path in paths])
    except ValueError as exc:
        raise UnsupportedObligation(f"redact: {exc}") from exc
    return _redaction(parsed, patterns, detectors, _mode(fields, detectors))


def _mode(fields: Mapping[str, object], detectors: Sequence[str]) -> Mode:
    mode = fields.get("mode", "mask")
    if mode not in ("mask", "remove") or ("mode" in fields and not detectors):
        raise UnsupportedObligation("redact: mode is mask or remove, and belongs to detectors")
    return "remove" if mode == "remove" else "mask"


def _redaction(paths: Iterable[JsonPath], patterns: Iterable[str], detectors: Iterable[str], mode: Mode) -> Redact:
    every = tuple(dict.fromkeys(paths))
    names = tuple(dict.fromkeys(patterns))
    kinds = tuple(dict.fromkeys(detectors))
    properties: dict[str, object] = {"paths": [path.text for path in every], "patterns": list(names)}
    if kinds:
        properties |= {"detectors": list(kinds), "mode": mode}
    return Redact("redact", properties, every, names, kinds, mode)


def merge_redactions(redacts: Sequence[Redact]) -> Redact:
    """One for several: all that any of them takes out; what one removes without a trace is not marked by another."""
    return _redaction(
        _flat(item.paths for item in redacts),
        _flat(item.patterns for item in redacts),
        _flat(item.detectors for item in redacts),
        "remove" if any(item.mode == "remove" for item in redacts) else "mask",
    )


def _transform(properties: object) -> Transform:
    return Transform("transform", EMPTY, (narrowing_of(properties),))


def _rate(properties: object) -> Rate:
    fields = fields_of(properties, RATE_FIELDS, "rate")
    limit = whole_number(fields.get("limit"), MAX_LIMIT, "rate: limit")
    window_s = whole_number(fields.get("window_s"), MAX_WINDOW_S, "rate: window_s")
    key = fields.get("key", "")
    if not isinstance(key, str) or len(key) > MAX_KEY:
        raise UnsupportedObligation(f"rate: key must be a text of at most {MAX_KEY} characters")
    return Rate("rate", {"limit": limit, "window_s": window_s, "key": key}, limit, window_s, key)


def _audit(properties: object) -> Audit:
    fields = fields_of(properties, AUDIT_FIELDS, "audit")
    return _auditing(
        durable=flag(fields.get("durable"), "audit: durable"),
        arguments=flag(fields.get("arguments"), "audit: arguments"),
    )


def _auditing(*, durable: bool, arguments: bool) -> Audit:
    return Audit("audit", {"durable": durable, "arguments": arguments}, durable, arguments)


def _label(properties: object) -> Label:
    labels = labels_in(fields_of(properties, LABEL_FIELDS, "label").get("labels"))
    if not labels:
        raise UnsupportedObligation("label: give labels")
    return Label("label", {"labels": list(labels)}, labels)


def _cap(properties: object) -> Cap:
    return _capping(whole_number(fields_of(properties, CAP_FIELDS, "cap").get("max_bytes"), MAX_CAP, "cap: max_bytes"))


def _capping(max_bytes: int) -> Cap:
    return Cap("cap", {"max_bytes": max_bytes}, max_bytes)


def labels_in(value: object) -> tuple[str, ...]:
    """A list of labels without doubles. Raises `UnsupportedObligation`."""
    labels = tuple(dict.fromkeys(texts_of(value, "labels")))
    if len(labels) > MAX_LABELS or any(len(label) > MAX_LABEL for label in labels):
        raise UnsupportedObligation(f"at most {MAX_LABELS} labels of at most {MAX_LABEL} characters")
    return labels


_READERS: Final[Mapping[str, Callable[[object], Supported]]] = {
    "audit": _audit,
    "budget": read_budget,
    "cache": read_cache,
    "cap": _cap,
    "cost": read_cost,
    "egress": read_egress,
    "label": _label,
    "model": read_model,
    "rate": _rate,
    "redact": _redact,
    "sandbox": read_sandbox,
    "transform": _transform,
}

SUPPORTED_OBLIGATIONS: Final = tuple(sorted(_READERS))
"""What policy is told that it may ask for (`context.supported_obligations`)."""


def merge_obligations(obligations: Iterable[Supported]) -> tuple[Supported, ...]:
    """At most one of each type, but one `rate` per key and window, and one `budget` per account.

    Raises `UnsupportedObligation` on contradiction.
    """
    every = tuple(obligations)
    if len(every) < 2:
        return every
    redacts = [item for item in every if isinstance(item, Redact)]
    transforms = [item for item in every if isinstance(item, Transform)]
    audits = [item for item in every if isinstance(item, Audit)]
    labels = [item for item in every if isinstance(item, Label)]
    caps = [item.max_bytes for item in every if isinstance(item, Cap)]
    sandboxes = [item for item in every if isinstance(item, Sandbox)]
    grants = [item for item in every if isinstance(item, Egress)]
    costs = [item for item in every if isinstance(item, Cost)]
    merged: list[Supported] = list(_strictest_rates([item for item in every if isinstance(item, Rate)]))
    if redacts:
        merged.append(merge_redactions(redacts))
    if transforms:
        merged.append(Transform("transform", EMPTY, merge_narrowings(_flat(item.narrowings for item in transforms))))
    if audits:
        durable = any(item.durable for item in audits)
        merged.append(_auditing(durable=durable, arguments=any(item.arguments for item in audits)))
    if labels:
        merged.append(_label({"labels": list(dict.fromkeys(_flat(item.labels for item in labels)))}))
    if caps:
        merged.append(_capping(min(caps)))
    if sandboxes:
        merged.append(merge_sandboxes(sandboxes))
    if grants:
        merged.append(merge_egress(grants))
    merged += merge_budgets([item for item in every if isinstance(item, Budget)])
    if costs:
        merged.append(merge_costs(costs))
    merged += merge_models([item for item in every if isinstance(item, Model)])
    merged += merge_caches([item for item in every if isinstance(item, Cache)])
    return tuple(merged)


def _flat(groups: Iterable[Iterable[T]]) -> list[T]:
    return [item for group in groups for item in group]


def _strictest_rates(rates: Iterable[Rate]) -> Iterable[Rate]:
    strictest: dict[tuple[str, int], Rate] = {}
    for rate in rates:
        known = strictest.get((rate.key, rate.window_s))
        if known is None or rate.limit < known.limit:
            strictest[rate.key, rate.window_s] = rate
    return strictest.values()
